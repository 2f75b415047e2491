"""Triton kernels of the energy: one program for each tile of edges of one centre.

A tile holds up to TILE consecutive edges of one centre; tile p of centre i begins at edge
row_start[i] + (p − tile_start[i]) · TILE. Its sums over edges go to row p of ``partial``;
``sum_tiles`` adds up the rows of a centre, so that every sum has a fixed order. Programs beyond
the last tile end at once: their number is a bound that needs no word from the device.

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
def tile_edges(row_start, tile_start, tile_centre, n_atoms, TILE: tl.constexpr):
    """Centre of this program's tile (n_atoms: none), its edges and which of them exist."""
    p = tl.program_id(0)
    i = tl.load(tile_centre + p)
    inside = i < n_atoms
    first = tl.load(row_start + i, mask=inside, other=0).to(tl.int64)
    end = tl.load(row_start + i + 1, mask=inside, other=0)
    first += (p - tl.load(tile_start + i, mask=inside, other=0)) * TILE
    e = first + tl.arange(0, TILE)
    return i.to(tl.int64), e, e < end


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


@triton.jit(do_not_specialize=["n_atoms"])
def radial_forward(
    vector_ptr, pair_ptr, row_start, tile_start, tile_centre,
    grid_ptr, table_ptr, cutoff_ptr, zbl_ptr, partial_ptr, count_ptr, n_atoms,
    ZBL: tl.constexpr, EPSILON: tl.constexpr, P: tl.constexpr, K: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Σ_j R_l Y_lm (rows lm), Σ_j R_ρ (last row); Σ_j f_c and Σ_j of the repulsion."""
    i, e, mask = tile_edges(row_start, tile_start, tile_centre, n_atoms, TILE)
    if i >= n_atoms:
        return
    p = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, K)
    x, y, z, d = edge_vector(vector_ptr, e, mask)
    pair = tl.load(pair_ptr + e, mask=mask, other=0)
    row, t, _ = locate(grid_ptr, pair, d, ROWS)
    weights = basis(t)
    y_lm = harmonics(x, y, z, P, EPSILON)
    out = partial_ptr + p * ((P + 1) * (P + 1) + 1) * K + k
    for l in tl.static_range(P + 1):
        radial = interpolate(table_ptr, row, weights, (2 + l) * K + k[None, :], COLUMNS)
        for m in tl.static_range(2 * l + 1):
            tl.store(out + (l * l + m) * K, tl.sum(radial * y_lm[l * l + m][:, None], 0))
    rho = interpolate(table_ptr, row, weights, (3 + P) * K + k[None, :], COLUMNS)
    tl.store(out + (P + 1) * (P + 1) * K, tl.sum(rho, 0))
    tl.store(count_ptr + 2 * p, tl.sum(interpolate_one(cutoff_ptr, row, weights), 0))
    if ZBL:
        value, _ = repulsion(zbl_ptr, pair, d)
        tl.store(count_ptr + 2 * p + 1, tl.sum(value, 0))


@triton.jit(do_not_specialize=["n_atoms", "n_edges"])
def scalar_forward(
    vector_ptr, pair_ptr, neighbour_ptr, row_start, tile_start, tile_centre, grid_ptr, table_ptr,
    c_ptr, s_ptr, v_ptr, v_low, partial_ptr, n_atoms, n_edges,
    T: tl.constexpr, EPSILON: tl.constexpr, P: tl.constexpr, K: tl.constexpr,
    W: tl.constexpr, BLOCKS: tl.constexpr, LAYERS: tl.constexpr, MODE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Steps 1 and 2 of message passing step T: s^T of the edges, ρ^{T+1} of the centre (a row)."""
    i, e, mask = tile_edges(row_start, tile_start, tile_centre, n_atoms, TILE)
    if i >= n_atoms:
        return
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
    out = partial_ptr + tl.program_id(0).to(tl.int64) * K + tl.arange(0, K)
    tl.store(out, tl.sum(rho, 0))


@triton.jit(do_not_specialize=["n_atoms", "n_edges"])
def message_forward(
    vector_ptr, pair_ptr, neighbour_ptr, row_start, tile_start, tile_centre, grid_ptr, table_ptr,
    mixed_ptr, s_ptr, m_ptr, m_low, partial_ptr, n_atoms, n_edges,
    T: tl.constexpr, EPSILON: tl.constexpr, P: tl.constexpr, L: tl.constexpr, K: tl.constexpr,
    W: tl.constexpr, BLOCKS: tl.constexpr, LAYERS: tl.constexpr, MODE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Steps 3 and 4: the sums N (rows lm) and G (rows S + lm) of the centre."""
    i, e, mask = tile_edges(row_start, tile_start, tile_centre, n_atoms, TILE)
    if i >= n_atoms:
        return
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
    out = partial_ptr + tl.program_id(0).to(tl.int64) * (S + S_G) * K + tl.arange(0, K)
    for l in tl.static_range(P + 1):
        message = mlp_row(hidden, l, m_ptr, m_low, 3 + T, K, W, BLOCKS * LAYERS, MODE)
        for m in tl.static_range(2 * l + 1):
            mixed = tl.load(mixed_ptr + (j * S + l * l + m) * K + k)
            tl.store(out + (l * l + m) * K, tl.sum(message * mixed, 0))
    for l in tl.static_range(L + 1):
        message = mlp_row(hidden, P + 1 + l, m_ptr, m_low, 3 + T, K, W, BLOCKS * LAYERS, MODE)
        for m in tl.static_range(2 * l + 1):
            tl.store(out + (S + l * l + m) * K, tl.sum(message * y_lm[l * l + m][:, None], 0))


@triton.jit(do_not_specialize=["n_atoms", "n_edges"])
def final_forward(
    vector_ptr, pair_ptr, row_start, tile_start, tile_centre, grid_ptr, table_ptr,
    c_ptr, s_ptr, v_ptr, v_low, partial_ptr, n_atoms, n_edges,
    T: tl.constexpr, EPSILON: tl.constexpr, P: tl.constexpr, K: tl.constexpr,
    W: tl.constexpr, BLOCKS: tl.constexpr, LAYERS: tl.constexpr, MODE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Last read-out, Σ_j Σ_l (V¹+V²+V³)_l Σ_m Y_lm C_i,lm: one row, with the sum of the weights."""
    i, e, mask = tile_edges(row_start, tile_start, tile_centre, n_atoms, TILE)
    if i >= n_atoms:
        return
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
    out = partial_ptr + tl.program_id(0).to(tl.int64) * K + tl.arange(0, K)
    tl.store(out, tl.sum(rho, 0))
