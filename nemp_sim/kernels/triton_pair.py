"""Triton kernels: h⁰ of a range of edges from the table of pairs, and its derivative."""

import triton
import triton.language as tl

from nemp_sim.kernels.triton_edge import (
    basis,
    basis_slope,
    edge_vector,
    interpolate,
    locate,
)


@triton.jit(do_not_specialize=["first", "n_rows"])
def pair_state(
    vector_ptr, pair_ptr, grid_ptr, table_ptr, first, n_rows, out_ptr,
    K: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """h⁰ (rows, 2 K) of the edges from ``first`` on."""
    r = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = r < n_rows
    k = tl.arange(0, K)[None, :]
    _, _, _, d = edge_vector(vector_ptr, first + r, mask)
    pair = tl.load(pair_ptr + first + r, mask=mask, other=0)
    row, t, _ = locate(grid_ptr, pair, d, ROWS)
    weights = basis(t)
    for q in tl.static_range(2):
        h = interpolate(table_ptr, row, weights, q * K + k, COLUMNS)
        tl.store(out_ptr + r[:, None] * (2 * K) + q * K + k, h, mask=mask[:, None])


@triton.jit(do_not_specialize=["first", "n_rows"])
def pair_state_back(
    vector_ptr, pair_ptr, grid_ptr, table_ptr, first, n_rows, grad_out, grad_ptr,
    K: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add to the gradient of the edge vectors what that of h⁰ (rows, 2 K) gives."""
    r = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = r < n_rows
    k = tl.arange(0, K)[None, :]
    x, y, z, d = edge_vector(vector_ptr, first + r, mask)
    pair = tl.load(pair_ptr + first + r, mask=mask, other=0)
    row, t, inverse_h = locate(grid_ptr, pair, d, ROWS)
    slopes = basis_slope(t, inverse_h)
    along = tl.zeros([BLOCK, K], d.dtype)
    for q in tl.static_range(2):
        g = tl.load(grad_out + r[:, None] * (2 * K) + q * K + k, mask=mask[:, None], other=0.0)
        along += g * interpolate(table_ptr, row, slopes, q * K + k, COLUMNS)
    gd = tl.sum(along, 1)
    place = grad_ptr + 3 * (first + r)
    tl.store(place, tl.load(place, mask=mask, other=0.0) + gd * x, mask=mask)
    tl.store(place + 1, tl.load(place + 1, mask=mask, other=0.0) + gd * y, mask=mask)
    tl.store(place + 2, tl.load(place + 2, mask=mask, other=0.0) + gd * z, mask=mask)
