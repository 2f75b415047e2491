"""Triton kernels of the atoms: sums of tiles, channel mixes, the tensor product of the node."""

import triton
import triton.language as tl

from nemp_sim.kernels.triton_mlp import matmul


@triton.jit
def sum_tiles(partial_ptr, first_row, end_row, out_ptr, R: tl.constexpr, BLOCK: tl.constexpr):
    """out[i] = Σ of the rows, each of R numbers, of centre i, in order."""
    i = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < R
    total = tl.zeros([BLOCK], out_ptr.dtype.element_ty)
    p = tl.load(first_row + i).to(tl.int64)
    end = tl.load(end_row + i)
    while p < end:
        total += tl.load(partial_ptr + p * R + column, mask=mask, other=0.0)
        p += 1
    tl.store(out_ptr + i.to(tl.int64) * R + column, total, mask=mask)


@triton.jit(do_not_specialize=["x_stride"])
def mix_channels(
    x_ptr, w_ptr, low_ptr, species_ptr, out_ptr, x_stride,
    ADD: tl.constexpr, TRANSPOSED: tl.constexpr, S: tl.constexpr, S_PAD: tl.constexpr,
    K: tl.constexpr, MODE: tl.constexpr,
):  # fmt: skip
    """out_i (+)= x_i W_{Z_i} for the S rows of each atom; Wᵀ where TRANSPOSED."""
    i = tl.program_id(0).to(tl.int64)
    base = tl.load(species_ptr + i) * K * K
    row = tl.arange(0, S_PAD)[:, None]
    k = tl.arange(0, K)[None, :]
    mask = row < S
    x = tl.load(x_ptr + i * x_stride + row * K + k, mask=mask, other=0.0)
    out = matmul(x, w_ptr, low_ptr, base, K, K, TRANSPOSED, MODE)
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
