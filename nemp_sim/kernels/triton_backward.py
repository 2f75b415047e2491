"""Triton kernels of the first derivatives: networks are evaluated anew, nothing is kept.

Each kernel adds its share to the gradient of the edge vectors; the sums over the edges of a
centre go to rows of ``partial`` as in the forward kernels; the gradients of the neighbour's
orbitals are left per edge (``U`` = V² ∂s, ``M`` = M^a) and summed by ``neighbour_back`` over the
edges that point to an atom, in their order in ``by_neighbour``.
"""

import triton
import triton.language as tl

from nemp_sim.kernels.triton_edge import (
    basis,
    basis_slope,
    edge_vector,
    harmonics,
    harmonics_back,
    interpolate,
    interpolate_both,
    interpolate_one,
    locate,
    repulsion,
    vector_grad,
)
from nemp_sim.kernels.triton_forward import edge_state, store_sums, tile_edges, tile_rows
from nemp_sim.kernels.triton_mlp import (
    mlp_back,
    mlp_hidden,
    mlp_row,
    mlp_row_back,
    mlp_saved,
    mlp_zero_grad,
)


@triton.jit
def add_vector_grad(
    grad_ptr,
    e,
    mask,
    x,
    y,
    z,
    d,
    g_lm,
    gd,
    L: tl.constexpr,
    EPSILON: tl.constexpr,
    ADD: tl.constexpr,
):
    """Add to (or set) the gradient of the edge vectors."""
    gx, gy, gz = harmonics_back(x, y, z, g_lm, L, EPSILON)
    gx, gy, gz = vector_grad(x, y, z, d, gx, gy, gz, gd)
    place = grad_ptr + 3 * e
    if ADD:
        gx += tl.load(place, mask=mask, other=0.0)
        gy += tl.load(place + 1, mask=mask, other=0.0)
        gz += tl.load(place + 2, mask=mask, other=0.0)
    tl.store(place, gx, mask=mask)
    tl.store(place + 1, gy, mask=mask)
    tl.store(place + 2, gz, mask=mask)


@triton.jit
def state_slope(g0, g1, table_ptr, row, slopes, K: tl.constexpr, COLUMNS: tl.constexpr):
    """Gradient of the length from those of h⁰ = [a f_c, R_e]."""
    k = tl.arange(0, K)[None, :]
    gd = tl.sum(g0 * interpolate(table_ptr, row, slopes, k, COLUMNS), 1)
    return gd + tl.sum(g1 * interpolate(table_ptr, row, slopes, K + k, COLUMNS), 1)


@triton.jit(do_not_specialize=["n_edges"])
def radial_back(
    vector_ptr, pair_ptr, centre_ptr,
    grid_ptr, table_ptr, cutoff_ptr, zbl_ptr, grad_sums, grad_count, grad_ptr, n_edges,
    ZBL: tl.constexpr, EPSILON: tl.constexpr, P: tl.constexpr, K: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Of ``radial_forward``: grad_sums (N, rows, K), grad_count (N, 2)."""
    e, mask, centre = tile_edges(centre_ptr, n_edges, TILE)
    i = tl.maximum(centre, 0).to(tl.int64)[:, None]
    S: tl.constexpr = (P + 1) * (P + 1)
    k = tl.arange(0, K)[None, :]
    x, y, z, d = edge_vector(vector_ptr, e, mask)
    pair = tl.load(pair_ptr + e, mask=mask, other=0)
    row, t, inverse_h = locate(grid_ptr, pair, d, ROWS)
    weights = basis(t)
    slopes = basis_slope(t, inverse_h)
    y_lm = harmonics(x, y, z, P, EPSILON)
    g_ptr = grad_sums + i * (S + 1) * K + k
    along = tl.load(g_ptr + S * K) * interpolate(table_ptr, row, slopes, (3 + P) * K + k, COLUMNS)
    g_lm = ()
    for l in tl.static_range(P + 1):
        radial, slope = interpolate_both(table_ptr, row, weights, slopes, (2 + l) * K + k, COLUMNS)
        for m in tl.static_range(2 * l + 1):
            g = tl.load(g_ptr + (l * l + m) * K)
            g_lm = g_lm + (tl.sum(radial * g, 1),)
            along += slope * g * y_lm[l * l + m][:, None]
    gd = tl.sum(along, 1)
    i = tl.maximum(centre, 0)
    gd += tl.load(grad_count + 2 * i) * interpolate_one(cutoff_ptr, row, slopes)
    if ZBL:
        _, slope = repulsion(zbl_ptr, pair, d)
        gd += tl.load(grad_count + 2 * i + 1) * slope
    add_vector_grad(grad_ptr, e, mask, x, y, z, d, g_lm, gd, P, EPSILON, True)


@triton.jit
def add_scalar_grads(grad_s, grads, n_edges, e, mask, N_S: tl.constexpr, K: tl.constexpr):
    """Add ``grads[2 + u]`` to the gradient of s^u, u < N_S."""
    k = tl.arange(0, K)[None, :]
    for u in tl.static_range(N_S):
        place = grad_s + (u * n_edges + e)[:, None] * K + k
        g = tl.load(place, mask=mask[:, None], other=0.0) + grads[2 + u]
        tl.store(place, g, mask=mask[:, None])


@triton.jit(do_not_specialize=["n_edges"])
def message_back(
    vector_ptr, pair_ptr, neighbour_ptr, centre_ptr, grid_ptr, table_ptr,
    mixed_ptr, s_ptr, m_ptr, m_low, grad_sums, grad_s, grad_ptr, message_ptr, n_edges,
    T: tl.constexpr, EPSILON: tl.constexpr, P: tl.constexpr, L: tl.constexpr, K: tl.constexpr,
    W: tl.constexpr, BLOCKS: tl.constexpr, LAYERS: tl.constexpr, MODE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Of ``message_forward``: grad_sums (N, N and G rows, K); leaves M^a of the edges."""
    e, mask, centre = tile_edges(centre_ptr, n_edges, TILE)
    i = tl.maximum(centre, 0).to(tl.int64)[:, None]
    S: tl.constexpr = (P + 1) * (P + 1)
    S_G: tl.constexpr = (L + 1) * (L + 1)
    DEPTH: tl.constexpr = BLOCKS * LAYERS
    k = tl.arange(0, K)[None, :]
    x, y, z, d = edge_vector(vector_ptr, e, mask)
    pair = tl.load(pair_ptr + e, mask=mask, other=0)
    j = tl.load(neighbour_ptr + e, mask=mask, other=0).to(tl.int64)[:, None]
    row, t, inverse_h = locate(grid_ptr, pair, d, ROWS)
    y_lm = harmonics(x, y, z, L, EPSILON)
    h = edge_state(table_ptr, s_ptr, n_edges, row, basis(t), e, mask, T + 1, K, COLUMNS)
    saved = mlp_saved(h, m_ptr, m_low, 3 + T, K, W, BLOCKS, LAYERS, MODE)
    hidden = mlp_hidden(saved, W, BLOCKS, LAYERS)
    grad_hidden = mlp_zero_grad(h[0], 3 + T, W)
    g_ptr = grad_sums + i * (S + S_G) * K + k
    for l in tl.static_range(P + 1):
        message = mlp_row(hidden, l, m_ptr, m_low, 3 + T, K, W, DEPTH, MODE)
        tl.store(message_ptr + (e[:, None] * (P + 1) + l) * K + k, message, mask=mask[:, None])
        grad = tl.zeros([TILE, K], x.dtype)
        for m in tl.static_range(2 * l + 1):
            mixed = tl.load(mixed_ptr + (j * S + l * l + m) * K + k)
            grad += mixed * tl.load(g_ptr + (l * l + m) * K)
        grad_hidden = mlp_row_back(grad_hidden, grad, l, m_ptr, m_low, 3 + T, K, W, DEPTH, MODE)
    g_lm = ()
    for l in tl.static_range(L + 1):
        message = mlp_row(hidden, P + 1 + l, m_ptr, m_low, 3 + T, K, W, DEPTH, MODE)
        grad = tl.zeros([TILE, K], x.dtype)
        for m in tl.static_range(2 * l + 1):
            g = tl.load(g_ptr + (S + l * l + m) * K)
            grad += y_lm[l * l + m][:, None] * g
            g_lm = g_lm + (tl.sum(message * g, 1),)
        grad_hidden = mlp_row_back(
            grad_hidden, grad, P + 1 + l, m_ptr, m_low, 3 + T, K, W, DEPTH, MODE
        )
    grad_h = mlp_back(grad_hidden, saved, m_ptr, m_low, 3 + T, K, W, BLOCKS, LAYERS, MODE)
    slopes = basis_slope(t, inverse_h)
    gd = state_slope(grad_h[0], grad_h[1], table_ptr, row, slopes, K, COLUMNS)
    add_scalar_grads(grad_s, grad_h, n_edges, e, mask, T + 1, K)
    add_vector_grad(grad_ptr, e, mask, x, y, z, d, g_lm, gd, L, EPSILON, True)


@triton.jit(do_not_specialize=["n_edges"])
def scalar_back(
    vector_ptr, pair_ptr, neighbour_ptr, centre_ptr, grid_ptr, table_ptr,
    c_ptr, s_ptr, v_ptr, v_low, grad_rho, grad_s, grad_ptr, u_ptr, partial_ptr, n_edges,
    T: tl.constexpr, EPSILON: tl.constexpr, P: tl.constexpr, K: tl.constexpr,
    W: tl.constexpr, BLOCKS: tl.constexpr, LAYERS: tl.constexpr, MODE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Of ``scalar_forward``: grad_rho (N, K), whole gradient of s^T; leaves U = V² ∂s."""
    e, mask, centre = tile_edges(centre_ptr, n_edges, TILE)
    i = tl.maximum(centre, 0).to(tl.int64)[:, None]
    S: tl.constexpr = (P + 1) * (P + 1)
    DEPTH: tl.constexpr = BLOCKS * LAYERS
    k = tl.arange(0, K)[None, :]
    edge_mask = mask[:, None]
    x, y, z, d = edge_vector(vector_ptr, e, mask)
    pair = tl.load(pair_ptr + e, mask=mask, other=0)
    j = tl.load(neighbour_ptr + e, mask=mask, other=0).to(tl.int64)[:, None]
    row, t, inverse_h = locate(grid_ptr, pair, d, ROWS)
    weights = basis(t)
    slopes = basis_slope(t, inverse_h)
    y_lm = harmonics(x, y, z, P, EPSILON)
    gs = tl.load(grad_s + (T * n_edges + e)[:, None] * K + k, mask=edge_mask, other=0.0)
    g_rho = tl.load(grad_rho + i * K + k)
    if T > 0:
        h = edge_state(table_ptr, s_ptr, n_edges, row, weights, e, mask, T, K, COLUMNS)
        saved = mlp_saved(h, v_ptr, v_low, 2 + T, K, W, BLOCKS, LAYERS, MODE)
        hidden = mlp_hidden(saved, W, BLOCKS, LAYERS)
        grad_hidden = mlp_zero_grad(gs, 2 + T, W)
    along = tl.zeros([TILE, K], x.dtype)
    out_row, first, count = tile_rows(centre_ptr, n_edges, TILE)
    out = partial_ptr + out_row * S * K
    g_lm = ()
    for l in tl.static_range(P + 1):
        own = tl.zeros([TILE, K], x.dtype)
        other = tl.zeros([TILE, K], x.dtype)
        for m in tl.static_range(2 * l + 1):
            own += y_lm[l * l + m][:, None] * tl.load(c_ptr + (i * S + l * l + m) * K + k)
            other += y_lm[l * l + m][:, None] * tl.load(c_ptr + (j * S + l * l + m) * K + k)
        if T == 0:
            v1, s1 = interpolate_both(table_ptr, row, weights, slopes, (4 + P + l) * K + k, COLUMNS)
            v2, s2 = interpolate_both(
                table_ptr, row, weights, slopes, (5 + 2 * P + l) * K + k, COLUMNS
            )
            v3, s3 = interpolate_both(
                table_ptr, row, weights, slopes, (6 + 3 * P + l) * K + k, COLUMNS
            )
            along += gs * (own * s1 + other * s2) + g_rho * own * s3
        else:
            v1 = mlp_row(hidden, l, v_ptr, v_low, 2 + T, K, W, DEPTH, MODE)
            v2 = mlp_row(hidden, P + 1 + l, v_ptr, v_low, 2 + T, K, W, DEPTH, MODE)
            v3 = mlp_row(hidden, 2 * P + 2 + l, v_ptr, v_low, 2 + T, K, W, DEPTH, MODE)
            grad_hidden = mlp_row_back(
                grad_hidden, gs * own, l, v_ptr, v_low, 2 + T, K, W, DEPTH, MODE
            )
            grad_hidden = mlp_row_back(
                grad_hidden, gs * other, P + 1 + l, v_ptr, v_low, 2 + T, K, W, DEPTH, MODE
            )
            grad_hidden = mlp_row_back(
                grad_hidden, g_rho * own, 2 * P + 2 + l, v_ptr, v_low, 2 + T, K, W, DEPTH, MODE
            )
        g_own = v1 * gs + v3 * g_rho
        g_other = v2 * gs
        tl.store(u_ptr + (e[:, None] * (P + 1) + l) * K + k, g_other, mask=edge_mask)
        for m in tl.static_range(2 * l + 1):
            values = g_own * y_lm[l * l + m][:, None]
            store_sums(out + (l * l + m) * K, S * K, values, centre, first, count)
            g = g_own * tl.load(c_ptr + (i * S + l * l + m) * K + k)
            g += g_other * tl.load(c_ptr + (j * S + l * l + m) * K + k)
            g_lm = g_lm + (tl.sum(g, 1),)
    if T == 0:
        gd = tl.sum(along, 1)
    else:
        grad_h = mlp_back(grad_hidden, saved, v_ptr, v_low, 2 + T, K, W, BLOCKS, LAYERS, MODE)
        gd = state_slope(grad_h[0], grad_h[1], table_ptr, row, slopes, K, COLUMNS)
        add_scalar_grads(grad_s, grad_h, n_edges, e, mask, T, K)
    add_vector_grad(grad_ptr, e, mask, x, y, z, d, g_lm, gd, P, EPSILON, True)


@triton.jit(do_not_specialize=["n_edges"])
def final_back(
    vector_ptr, pair_ptr, centre_ptr, grid_ptr, table_ptr,
    c_ptr, s_ptr, v_ptr, v_low, grad_rho, grad_s, grad_ptr, partial_ptr, n_edges,
    T: tl.constexpr, EPSILON: tl.constexpr, P: tl.constexpr, K: tl.constexpr,
    W: tl.constexpr, BLOCKS: tl.constexpr, LAYERS: tl.constexpr, MODE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Of ``final_forward``: the first backward kernel, it sets grad_s and the vectors' gradient."""
    e, mask, centre = tile_edges(centre_ptr, n_edges, TILE)
    i = tl.maximum(centre, 0).to(tl.int64)[:, None]
    S: tl.constexpr = (P + 1) * (P + 1)
    DEPTH: tl.constexpr = BLOCKS * LAYERS
    k = tl.arange(0, K)[None, :]
    x, y, z, d = edge_vector(vector_ptr, e, mask)
    pair = tl.load(pair_ptr + e, mask=mask, other=0)
    row, t, inverse_h = locate(grid_ptr, pair, d, ROWS)
    y_lm = harmonics(x, y, z, P, EPSILON)
    h = edge_state(table_ptr, s_ptr, n_edges, row, basis(t), e, mask, T, K, COLUMNS)
    saved = mlp_saved(h, v_ptr, v_low, 2 + T, K, W, BLOCKS, LAYERS, MODE)
    hidden = mlp_hidden(saved, W, BLOCKS, LAYERS)
    grad_hidden = mlp_zero_grad(h[0], 2 + T, W)
    g_rho = tl.load(grad_rho + i * K + k)
    out_row, first, count = tile_rows(centre_ptr, n_edges, TILE)
    out = partial_ptr + out_row * S * K
    g_lm = ()
    for l in tl.static_range(P + 1):
        own = tl.zeros([TILE, K], x.dtype)
        for m in tl.static_range(2 * l + 1):
            own += y_lm[l * l + m][:, None] * tl.load(c_ptr + (i * S + l * l + m) * K + k)
        v = mlp_row(hidden, l, v_ptr, v_low, 2 + T, K, W, DEPTH, MODE)
        grad_hidden = mlp_row_back(
            grad_hidden, g_rho * own, l, v_ptr, v_low, 2 + T, K, W, DEPTH, MODE
        )
        g_own = v * g_rho
        for m in tl.static_range(2 * l + 1):
            values = g_own * y_lm[l * l + m][:, None]
            store_sums(out + (l * l + m) * K, S * K, values, centre, first, count)
            g_lm = g_lm + (tl.sum(g_own * tl.load(c_ptr + (i * S + l * l + m) * K + k), 1),)
    grad_h = mlp_back(grad_hidden, saved, v_ptr, v_low, 2 + T, K, W, BLOCKS, LAYERS, MODE)
    gd = state_slope(grad_h[0], grad_h[1], table_ptr, row, basis_slope(t, inverse_h), K, COLUMNS)
    for u in tl.static_range(T):
        place = grad_s + (u * n_edges + e)[:, None] * K + k
        tl.store(place, grad_h[2 + u], mask=mask[:, None])
    add_vector_grad(grad_ptr, e, mask, x, y, z, d, g_lm, gd, P, EPSILON, False)


@triton.jit(do_not_specialize=["n_edges"])
def neighbour_back(
    vector_ptr, neighbour_ptr, centre_ptr, by_neighbour,
    grad_sums, u_ptr, message_ptr, partial_ptr, n_edges,
    EPSILON: tl.constexpr, P: tl.constexpr, SUMS: tl.constexpr, K: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Gradients of C_j (rows lm) and of C_j W⁰ (rows S + lm): sums over the edges that end at j.

    ``neighbour_ptr``: the neighbours in the order of ``by_neighbour``, whose tiles these are.
    """
    place, mask, j = tile_edges(neighbour_ptr, n_edges, TILE)
    S: tl.constexpr = (P + 1) * (P + 1)
    k = tl.arange(0, K)[None, :]
    e = tl.load(by_neighbour + place, mask=mask, other=0).to(tl.int64)
    x, y, z, d = edge_vector(vector_ptr, e, mask)
    y_lm = harmonics(x, y, z, P, EPSILON)
    i = tl.load(centre_ptr + e, mask=mask, other=0).to(tl.int64)[:, None]
    out_row, first, count = tile_rows(neighbour_ptr, n_edges, TILE)
    out = partial_ptr + out_row * 2 * S * K
    for l in tl.static_range(P + 1):
        place_l = (e[:, None] * (P + 1) + l) * K + k
        u = tl.load(u_ptr + place_l, mask=mask[:, None], other=0.0)
        message = tl.load(message_ptr + place_l, mask=mask[:, None], other=0.0)
        for m in tl.static_range(2 * l + 1):
            values = u * y_lm[l * l + m][:, None]
            store_sums(out + (l * l + m) * K, 2 * S * K, values, j, first, count)
            g = tl.load(grad_sums + (i * SUMS + l * l + m) * K + k)
            store_sums(out + (S + l * l + m) * K, 2 * S * K, message * g, j, first, count)
