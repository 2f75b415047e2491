"""Triton kernels of the energy: one program for each tile of consecutive edges (tiles.py).

Sums over the edges of a centre go to the rows of ``partial`` that belong to the tile and the
centre; ``sum_tiles`` adds up the rows of a centre, so that every sum has a fixed order.

Columns of the table of pairs, in groups of K: h⁰ (2), R_l (P+1), R_ρ (1), V¹, V², V³ (3(P+1)).
The factors g_l/√(P+1) of Ĉ and 1/√2 of s are folded into the weights and columns of V.
"""

import triton
import triton.language as tl

from nemp_sim.kernels.triton_edge import (
    basis,
    edge_vector,
    harmonics,
    interpolate,
    interpolate_one,
    locate,
    repulsion,
)
from nemp_sim.kernels.triton_mlp import mlp_hidden, mlp_row, mlp_saved


@triton.jit
def tile_edges(centre_ptr, n_edges, TILE: tl.constexpr):
    """Edges of this program, which of them exist, and their centres (−1: none)."""
    e = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    mask = e < n_edges
    return e, mask, tl.load(centre_ptr + e, mask=mask, other=-1)


@triton.jit
def tile_rows(centre_ptr, n_edges, TILE: tl.constexpr):
    """First row of this program's sums, and their number: one for each centre."""
    p = tl.program_id(0).to(tl.int64)
    first = tl.load(centre_ptr + p * TILE)
    last = tl.load(centre_ptr + tl.minimum(p * TILE + TILE, n_edges) - 1)
    return p + first, first, last - first + 1


@triton.jit
def store_sums(out, row_size, values, centre, first, count):
    """Sums over the edges of each centre of the tile, to rows ``row_size`` apart."""
    k = tl.arange(0, values.shape[1])
    c = first * 0
    while c < count:
        mine = centre[:, None] == first + c
        tl.store(out + c * row_size + k, tl.sum(tl.where(mine, values, 0.0), 0))
        c += 1


@triton.jit
def edge_state(
    table_ptr,
    s_ptr,
    n_edges,
    row,
    weights,
    e,
    mask,
    N_S: tl.constexpr,
    K: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Edge state h = [a f_c, R_e, s⁰ …] with N_S scalars: a tuple of tiles (edges, K)."""
    k = tl.arange(0, K)[None, :]
    h = (
        interpolate(table_ptr, row, weights, k, COLUMNS),
        interpolate(table_ptr, row, weights, K + k, COLUMNS),
    )
    for u in tl.static_range(N_S):
        place = s_ptr + (u * n_edges + e)[:, None] * K + k
        h = h + (tl.load(place, mask=mask[:, None], other=0.0),)
    return h


@triton.jit(do_not_specialize=["n_edges"])
def radial_forward(
    vector_ptr, pair_ptr, centre_ptr,
    grid_ptr, table_ptr, cutoff_ptr, zbl_ptr, partial_ptr, count_ptr, n_edges,
    ZBL: tl.constexpr, EPSILON: tl.constexpr, P: tl.constexpr, K: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Σ_j R_l Y_lm (rows lm), Σ_j R_ρ (last row); Σ_j f_c and Σ_j of the repulsion."""
    e, mask, centre = tile_edges(centre_ptr, n_edges, TILE)
    S: tl.constexpr = (P + 1) * (P + 1)
    k = tl.arange(0, K)[None, :]
    x, y, z, d = edge_vector(vector_ptr, e, mask)
    pair = tl.load(pair_ptr + e, mask=mask, other=0)
    row, t, _ = locate(grid_ptr, pair, d, ROWS)
    weights = basis(t)
    y_lm = harmonics(x, y, z, P, EPSILON)
    out_row, first, count = tile_rows(centre_ptr, n_edges, TILE)
    out = partial_ptr + out_row * (S + 1) * K
    for l in tl.static_range(P + 1):
        radial = interpolate(table_ptr, row, weights, (2 + l) * K + k, COLUMNS)
        for m in tl.static_range(2 * l + 1):
            values = radial * y_lm[l * l + m][:, None]
            store_sums(out + (l * l + m) * K, (S + 1) * K, values, centre, first, count)
    rho = interpolate(table_ptr, row, weights, (3 + P) * K + k, COLUMNS)
    store_sums(out + S * K, (S + 1) * K, rho, centre, first, count)
    f_c = interpolate_one(cutoff_ptr, row, weights)[:, None]
    store_sums(count_ptr + 2 * out_row, 2, f_c, centre, first, count)
    if ZBL:
        value, _ = repulsion(zbl_ptr, pair, d)
        store_sums(count_ptr + 2 * out_row + 1, 2, value[:, None], centre, first, count)


@triton.jit(do_not_specialize=["n_edges"])
def scalar_forward(
    vector_ptr, pair_ptr, neighbour_ptr, centre_ptr, grid_ptr, table_ptr,
    c_ptr, s_ptr, v_ptr, v_low, partial_ptr, n_edges,
    T: tl.constexpr, EPSILON: tl.constexpr, P: tl.constexpr, K: tl.constexpr,
    W: tl.constexpr, BLOCKS: tl.constexpr, LAYERS: tl.constexpr, MODE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Steps 1 and 2 of message passing step T: s^T of the edges, ρ^{T+1} of the centre (a row)."""
    e, mask, centre = tile_edges(centre_ptr, n_edges, TILE)
    i = tl.maximum(centre, 0).to(tl.int64)[:, None]
    S: tl.constexpr = (P + 1) * (P + 1)
    k = tl.arange(0, K)[None, :]
    x, y, z, d = edge_vector(vector_ptr, e, mask)
    pair = tl.load(pair_ptr + e, mask=mask, other=0)
    j = tl.load(neighbour_ptr + e, mask=mask, other=0).to(tl.int64)[:, None]
    row, t, _ = locate(grid_ptr, pair, d, ROWS)
    weights = basis(t)
    y_lm = harmonics(x, y, z, P, EPSILON)
    if T > 0:
        h = edge_state(table_ptr, s_ptr, n_edges, row, weights, e, mask, T, K, COLUMNS)
        saved = mlp_saved(h, v_ptr, v_low, 2 + T, K, W, BLOCKS, LAYERS, MODE)
        hidden = mlp_hidden(saved, W, BLOCKS, LAYERS)
    s = tl.zeros([TILE, K], x.dtype)
    rho = tl.zeros([TILE, K], x.dtype)
    for l in tl.static_range(P + 1):
        own = tl.zeros([TILE, K], x.dtype)  # Σ_m Y_lm C_i,lm
        other = tl.zeros([TILE, K], x.dtype)
        for m in tl.static_range(2 * l + 1):
            own += y_lm[l * l + m][:, None] * tl.load(c_ptr + (i * S + l * l + m) * K + k)
            other += y_lm[l * l + m][:, None] * tl.load(c_ptr + (j * S + l * l + m) * K + k)
        if T == 0:
            v1 = interpolate(table_ptr, row, weights, (4 + P + l) * K + k, COLUMNS)
            v2 = interpolate(table_ptr, row, weights, (5 + 2 * P + l) * K + k, COLUMNS)
            v3 = interpolate(table_ptr, row, weights, (6 + 3 * P + l) * K + k, COLUMNS)
        else:
            v1 = mlp_row(hidden, l, v_ptr, v_low, 2 + T, K, W, BLOCKS * LAYERS, MODE)
            v2 = mlp_row(hidden, P + 1 + l, v_ptr, v_low, 2 + T, K, W, BLOCKS * LAYERS, MODE)
            v3 = mlp_row(hidden, 2 * P + 2 + l, v_ptr, v_low, 2 + T, K, W, BLOCKS * LAYERS, MODE)
        s += v1 * own + v2 * other
        rho += v3 * own
    tl.store(s_ptr + (T * n_edges + e)[:, None] * K + k, s, mask=mask[:, None])
    out_row, first, count = tile_rows(centre_ptr, n_edges, TILE)
    store_sums(partial_ptr + out_row * K, K, rho, centre, first, count)


@triton.jit(do_not_specialize=["n_edges"])
def message_forward(
    vector_ptr, pair_ptr, neighbour_ptr, centre_ptr, grid_ptr, table_ptr,
    mixed_ptr, s_ptr, m_ptr, m_low, partial_ptr, n_edges,
    T: tl.constexpr, EPSILON: tl.constexpr, P: tl.constexpr, L: tl.constexpr, K: tl.constexpr,
    W: tl.constexpr, BLOCKS: tl.constexpr, LAYERS: tl.constexpr, MODE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Steps 3 and 4: the sums N (rows lm) and G (rows S + lm) of the centre."""
    e, mask, centre = tile_edges(centre_ptr, n_edges, TILE)
    S: tl.constexpr = (P + 1) * (P + 1)
    S_G: tl.constexpr = (L + 1) * (L + 1)
    k = tl.arange(0, K)[None, :]
    x, y, z, d = edge_vector(vector_ptr, e, mask)
    pair = tl.load(pair_ptr + e, mask=mask, other=0)
    j = tl.load(neighbour_ptr + e, mask=mask, other=0).to(tl.int64)[:, None]
    row, t, _ = locate(grid_ptr, pair, d, ROWS)
    y_lm = harmonics(x, y, z, L, EPSILON)
    h = edge_state(table_ptr, s_ptr, n_edges, row, basis(t), e, mask, T + 1, K, COLUMNS)
    saved = mlp_saved(h, m_ptr, m_low, 3 + T, K, W, BLOCKS, LAYERS, MODE)
    hidden = mlp_hidden(saved, W, BLOCKS, LAYERS)
    out_row, first, count = tile_rows(centre_ptr, n_edges, TILE)
    out = partial_ptr + out_row * (S + S_G) * K
    for l in tl.static_range(P + 1):
        message = mlp_row(hidden, l, m_ptr, m_low, 3 + T, K, W, BLOCKS * LAYERS, MODE)
        for m in tl.static_range(2 * l + 1):
            mixed = tl.load(mixed_ptr + (j * S + l * l + m) * K + k)
            place = out + (l * l + m) * K
            store_sums(place, (S + S_G) * K, message * mixed, centre, first, count)
    for l in tl.static_range(L + 1):
        message = mlp_row(hidden, P + 1 + l, m_ptr, m_low, 3 + T, K, W, BLOCKS * LAYERS, MODE)
        for m in tl.static_range(2 * l + 1):
            values = message * y_lm[l * l + m][:, None]
            store_sums(out + (S + l * l + m) * K, (S + S_G) * K, values, centre, first, count)


@triton.jit(do_not_specialize=["n_edges"])
def final_forward(
    vector_ptr, pair_ptr, centre_ptr, grid_ptr, table_ptr,
    c_ptr, s_ptr, v_ptr, v_low, partial_ptr, n_edges,
    T: tl.constexpr, EPSILON: tl.constexpr, P: tl.constexpr, K: tl.constexpr,
    W: tl.constexpr, BLOCKS: tl.constexpr, LAYERS: tl.constexpr, MODE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Last read-out, Σ_j Σ_l (V¹+V²+V³)_l Σ_m Y_lm C_i,lm: one row, with the sum of the weights."""
    e, mask, centre = tile_edges(centre_ptr, n_edges, TILE)
    i = tl.maximum(centre, 0).to(tl.int64)[:, None]
    S: tl.constexpr = (P + 1) * (P + 1)
    k = tl.arange(0, K)[None, :]
    x, y, z, d = edge_vector(vector_ptr, e, mask)
    pair = tl.load(pair_ptr + e, mask=mask, other=0)
    row, t, _ = locate(grid_ptr, pair, d, ROWS)
    y_lm = harmonics(x, y, z, P, EPSILON)
    h = edge_state(table_ptr, s_ptr, n_edges, row, basis(t), e, mask, T, K, COLUMNS)
    saved = mlp_saved(h, v_ptr, v_low, 2 + T, K, W, BLOCKS, LAYERS, MODE)
    hidden = mlp_hidden(saved, W, BLOCKS, LAYERS)
    rho = tl.zeros([TILE, K], x.dtype)
    for l in tl.static_range(P + 1):
        own = tl.zeros([TILE, K], x.dtype)
        for m in tl.static_range(2 * l + 1):
            own += y_lm[l * l + m][:, None] * tl.load(c_ptr + (i * S + l * l + m) * K + k)
        rho += own * mlp_row(hidden, l, v_ptr, v_low, 2 + T, K, W, BLOCKS * LAYERS, MODE)
    out_row, first, count = tile_rows(centre_ptr, n_edges, TILE)
    store_sums(partial_ptr + out_row * K, K, rho, centre, first, count)
