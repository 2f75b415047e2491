"""Triton kernels of the atoms: channel mixes, the tensor product of the node."""

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
