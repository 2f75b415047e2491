"""Triton kernels of the atoms: channel mixes, the tensor product of the node, the next orbitals."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["x_stride"])
def mix_channels(
    x_ptr, w_ptr, species_ptr, out_ptr, x_stride,
    ADD: tl.constexpr, TRANSPOSED: tl.constexpr, S: tl.constexpr, S_PAD: tl.constexpr,
    K: tl.constexpr,
):  # fmt: skip
    """out_i (+)= x_i W_{Z_i} for the S rows of each atom; Wᵀ where TRANSPOSED. Always float32."""
    i = tl.program_id(0).to(tl.int64)
    row = tl.arange(0, S_PAD)[:, None]
    k = tl.arange(0, K)[None, :]
    w = tl.load(w_ptr + tl.load(species_ptr + i) * K * K + tl.arange(0, K)[:, None] * K + k)
    if TRANSPOSED:
        w = tl.trans(w)
    mask = row < S
    x = tl.load(x_ptr + i * x_stride + row * K + k, mask=mask, other=0.0)
    out = tl.dot(x, w, input_precision="ieee", out_dtype=x.dtype)
    place = out_ptr + (i * S + row) * K + k
    if ADD:
        out += tl.load(place, mask=mask, other=0.0)
    tl.store(place, out, mask=mask)


@triton.jit(do_not_specialize=["n_atoms", "a_stride", "b_stride", "out_stride"])
def couple(
    a_ptr, b_ptr, weight_ptr, species_ptr, start_ptr, index_ptr, value_ptr, out_ptr, n_atoms,
    a_stride, b_stride, out_stride, N_PATHS: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out_o = Σ value λ_path a_x b_y over the entries (x, y, path) of component o, by atoms.

    The tensor product and both of its derivatives, each with its own list of entries.
    """
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]
    o = tl.program_id(1)
    k = tl.arange(0, K)[None, :]
    mask = i < n_atoms
    species = tl.load(species_ptr + i, mask=mask, other=0)
    total = tl.zeros([BLOCK, K], out_ptr.dtype.element_ty)
    entry = tl.load(start_ptr + o)
    end = tl.load(start_ptr + o + 1)
    while entry < end:
        x = tl.load(index_ptr + 3 * entry)
        y = tl.load(index_ptr + 3 * entry + 1)
        path = tl.load(index_ptr + 3 * entry + 2)
        weight = tl.load(weight_ptr + (species * N_PATHS + path) * K + k)
        a = tl.load(a_ptr + i * a_stride + x * K + k, mask=mask, other=0.0)
        b = tl.load(b_ptr + i * b_stride + y * K + k, mask=mask, other=0.0)
        total += tl.load(value_ptr + entry) * weight * a * b
        entry += 1
    tl.store(out_ptr + i * out_stride + o * K + k, total, mask=mask)


@triton.jit
def update(
    c_ptr, d_ptr, m_ptr, keep_ptr, new_ptr, species_ptr, out_ptr, norm_ptr,
    NORM: tl.constexpr, FLOOR: tl.constexpr, COUNT: tl.constexpr, S: tl.constexpr,
    S_PAD: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """The next orbitals C W² + D/m² W¹ of each atom; with their norm, 1/√(Σ C²/COUNT + FLOOR)."""
    i = tl.program_id(0).to(tl.int64)
    row = tl.arange(0, S_PAD)[:, None]
    k = tl.arange(0, K)[None, :]
    place = i * S * K + row * K + k
    matrix = tl.load(species_ptr + i) * K * K + tl.arange(0, K)[:, None] * K + k
    m = tl.load(m_ptr + i)
    c = tl.load(c_ptr + place, mask=row < S, other=0.0)
    d = tl.load(d_ptr + place, mask=row < S, other=0.0) / (m * m)
    x = tl.dot(c, tl.load(keep_ptr + matrix), input_precision="ieee", out_dtype=c.dtype)
    x = tl.dot(d, tl.load(new_ptr + matrix), x, input_precision="ieee", out_dtype=c.dtype)
    if NORM:
        norm = 1.0 / tl.sqrt(tl.sum(tl.sum(x * x, 1), 0) / COUNT + FLOOR)
        tl.store(norm_ptr + i, norm)
        x = x * norm
    tl.store(out_ptr + place, x, mask=row < S)


@triton.jit
def update_back(
    grad_ptr, c_ptr, norm_ptr, d_ptr, m_ptr, keep_ptr, new_ptr, species_ptr, kept_ptr, grad_d_ptr,
    grad_m_ptr,
    NORM: tl.constexpr, COUNT: tl.constexpr, S: tl.constexpr, S_PAD: tl.constexpr,
    K: tl.constexpr,
):  # fmt: skip
    """Of ``update``, whose result is c: gradients of C before it, of D; adds that of m."""
    i = tl.program_id(0).to(tl.int64)
    row = tl.arange(0, S_PAD)[:, None]
    k = tl.arange(0, K)[None, :]
    place = i * S * K + row * K + k
    matrix = tl.load(species_ptr + i) * K * K + tl.arange(0, K)[:, None] * K + k
    m = tl.load(m_ptr + i)
    g = tl.load(grad_ptr + place, mask=row < S, other=0.0)
    if NORM:
        c = tl.load(c_ptr + place, mask=row < S, other=0.0)
        along = tl.sum(tl.sum(g * c, 1), 0) / COUNT
        g = tl.load(norm_ptr + i) * (g - c * along)
    keep = tl.trans(tl.load(keep_ptr + matrix))
    new = tl.trans(tl.load(new_ptr + matrix))
    kept = tl.dot(g, keep, input_precision="ieee", out_dtype=g.dtype)
    tl.store(kept_ptr + place, kept, mask=row < S)
    of_d = tl.dot(g, new, input_precision="ieee", out_dtype=g.dtype) / (m * m)
    tl.store(grad_d_ptr + place, of_d, mask=row < S)
    d = tl.load(d_ptr + place, mask=row < S, other=0.0)
    of_m = tl.load(grad_m_ptr + i) - 2.0 * tl.sum(tl.sum(of_d * d, 1), 0) / m
    tl.store(grad_m_ptr + i, of_m)
