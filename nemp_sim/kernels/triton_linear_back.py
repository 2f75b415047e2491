"""Triton kernels of the first derivatives of ``triton_linear.py``."""

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
from nemp_sim.kernels.triton_linear import block_of, put_sums, zeros_of


@triton.jit
def add_vector_grad(
    grad_ptr, e, mask, x, y, z, d, g_lm, gd, old, L: tl.constexpr, EPSILON: tl.constexpr
):
    """Gradient of the edge vectors: ``old``, and what those of Y_lm and the length give."""
    gx, gy, gz = harmonics_back(x, y, z, g_lm, L, EPSILON)
    gx, gy, gz = vector_grad(x, y, z, d, gx, gy, gz, gd)
    place = grad_ptr + 3 * e
    tl.store(place, gx + old[0], mask=mask)
    tl.store(place + 1, gy + old[1], mask=mask)
    tl.store(place + 2, gz + old[2], mask=mask)


@triton.jit
def old_vector(ptr, e, mask):
    """The three components of the vectors (E, 3) of edges e."""
    x = tl.load(ptr + 3 * e, mask=mask, other=0.0)
    y = tl.load(ptr + 3 * e + 1, mask=mask, other=0.0)
    return x, y, tl.load(ptr + 3 * e + 2, mask=mask, other=0.0)


@triton.jit(do_not_specialize=["n_atoms"])
def messages_back(
    vector_ptr, pair_ptr, neighbour_ptr, row_start, grid_ptr, table_ptr, mixed_ptr, message_ptr,
    grad_sums, left_ptr, grad_ptr, n_atoms,
    SUMS: tl.constexpr, P: tl.constexpr, K: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of ``messages_forward``: leaves M^a of the edges, puts its gradient in place of its part.

    The first backward kernel: it sets the gradient of the edge vectors.
    """
    S: tl.constexpr = (P + 1) * (P + 1)
    k = tl.arange(0, K)[None, :]
    i = tl.program_id(0)
    while i < n_atoms:
        edge = tl.load(row_start + i)
        end = tl.load(row_start + i + 1)
        g_ptr = grad_sums + i.to(tl.int64) * SUMS * K + k
        while edge < end:
            e, mask = block_of(edge, end, BLOCK)
            x, y, z, d = edge_vector(vector_ptr, e, mask)
            j = tl.load(neighbour_ptr + e, mask=mask, other=0).to(tl.int64)[:, None]
            pair = tl.load(pair_ptr + e, mask=mask, other=0)
            row, t, inverse_h = locate(grid_ptr, pair, d, ROWS)
            weights = basis(t)
            slopes = basis_slope(t, inverse_h)
            place = message_ptr + e[:, None] * (P + 1) * K + k
            parts = ()
            for l in tl.static_range(P + 1):
                parts = parts + (tl.load(place + l * K, mask=mask[:, None], other=0.0),)
            mixed = ()
            for q in tl.static_range(S):
                mixed = mixed + (tl.load(mixed_ptr + (j * S + q) * K + k),)
            along = tl.zeros([BLOCK, K], x.dtype)
            left = ()
            grads = ()
            for l in tl.static_range(P + 1):
                at = (6 + 3 * P + l) * K + k
                a, slope = interpolate_both(table_ptr, row, weights, slopes, at, COLUMNS)
                left = left + (parts[l] + a,)
                grad = tl.zeros([BLOCK, K], x.dtype)
                for m in tl.static_range(2 * l + 1):
                    grad += mixed[l * l + m] * tl.load(g_ptr + (l * l + m) * K)
                grads = grads + (grad,)
                along += grad * slope
            gd = tl.sum(along, 1)
            to = grad_ptr + 3 * e
            tl.store(to, gd * x, mask=mask)
            tl.store(to + 1, gd * y, mask=mask)
            tl.store(to + 2, gd * z, mask=mask)
            for l in tl.static_range(P + 1):
                tl.store(place + l * K, grads[l], mask=mask[:, None])
                at = left_ptr + (e[:, None] * (P + 1) + l) * K + k
                tl.store(at, left[l], mask=mask[:, None])
            edge += BLOCK
        i += tl.num_programs(0)


@triton.jit(do_not_specialize=["n_atoms"])
def scalars_back(
    vector_ptr, pair_ptr, neighbour_ptr, row_start, grid_ptr, table_ptr, c_ptr, s_ptr, grad_s,
    grad_hs, left_ptr, grad_c, grad_ptr, n_atoms,
    EPSILON: tl.constexpr, P: tl.constexpr, L: tl.constexpr, K: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of ``scalars_forward``: adds to ``grad_c`` (N, S, K); leaves U_l = V²_l ∂s of the edges."""
    S: tl.constexpr = (P + 1) * (P + 1)
    S_G: tl.constexpr = (L + 1) * (L + 1)
    k = tl.arange(0, K)[None, :]
    i = tl.program_id(0)
    while i < n_atoms:
        edge = tl.load(row_start + i)
        end = tl.load(row_start + i + 1)
        c_i = c_ptr + i.to(tl.int64) * S * K + k
        g_ptr = grad_hs + (i.to(tl.int64) * (3 * S_G) + 2) * K + k
        sums = zeros_of(S, BLOCK, K, vector_ptr.dtype.element_ty)
        while edge < end:
            e, mask = block_of(edge, end, BLOCK)
            x, y, z, d = edge_vector(vector_ptr, e, mask)
            j = tl.load(neighbour_ptr + e, mask=mask, other=0).to(tl.int64)[:, None]
            pair = tl.load(pair_ptr + e, mask=mask, other=0)
            row, t, inverse_h = locate(grid_ptr, pair, d, ROWS)
            weights = basis(t)
            slopes = basis_slope(t, inverse_h)
            c_j = ()
            for q in tl.static_range(S):
                c_j = c_j + (tl.load(c_ptr + (j * S + q) * K + k),)
            gs = tl.load(grad_s + e[:, None] * K + k, mask=mask[:, None], other=0.0)
            s = tl.load(s_ptr + e[:, None] * K + k, mask=mask[:, None], other=0.0)
            old = old_vector(grad_ptr, e, mask)
            y_lm = harmonics(x, y, z, L, EPSILON)
            for q in tl.static_range(S_G):
                gs += y_lm[q][:, None] * tl.load(g_ptr + q * 3 * K)
            along = tl.zeros([BLOCK, K], x.dtype)
            g_lm = ()
            new = ()
            left = ()
            for l in tl.static_range(P + 1):
                own = tl.zeros([BLOCK, K], x.dtype)
                other = tl.zeros([BLOCK, K], x.dtype)
                for m in tl.static_range(2 * l + 1):
                    own += y_lm[l * l + m][:, None] * tl.load(c_i + (l * l + m) * K)
                    other += y_lm[l * l + m][:, None] * c_j[l * l + m]
                at = (4 + P + l) * K + k
                v1, s1 = interpolate_both(table_ptr, row, weights, slopes, at, COLUMNS)
                at += (P + 1) * K
                v2, s2 = interpolate_both(table_ptr, row, weights, slopes, at, COLUMNS)
                along += gs * (own * s1 + other * s2)
                g_own = v1 * gs
                g_other = v2 * gs
                left = left + (g_other,)
                for m in tl.static_range(2 * l + 1):
                    new = new + (sums[l * l + m] + g_own * y_lm[l * l + m][:, None],)
                    g = g_own * tl.load(c_i + (l * l + m) * K) + g_other * c_j[l * l + m]
                    g += s * tl.load(g_ptr + (l * l + m) * 3 * K)
                    g_lm = g_lm + (tl.sum(g, 1),)
            for q in tl.static_range(S, S_G):
                g_lm = g_lm + (tl.sum(s * tl.load(g_ptr + q * 3 * K), 1),)
            sums = new
            gd = tl.sum(along, 1)
            add_vector_grad(grad_ptr, e, mask, x, y, z, d, g_lm, gd, old, L, EPSILON)
            for l in tl.static_range(P + 1):
                at = left_ptr + (e[:, None] * (P + 1) + l) * K + k
                tl.store(at, left[l], mask=mask[:, None])
            edge += BLOCK
        place = grad_c + i.to(tl.int64) * S * K + tl.arange(0, K)
        for q in tl.static_range(S):
            tl.store(place + q * K, tl.load(place + q * K) + tl.sum(sums[q], 0))
        i += tl.num_programs(0)


@triton.jit(do_not_specialize=["n_atoms"])
def pairs_back(
    vector_ptr, pair_ptr, row_start, grid_ptr, table_ptr, cutoff_ptr, zbl_ptr, grad_sums, grad_hs,
    grad_count, grad_ptr, n_atoms,
    ZBL: tl.constexpr, EPSILON: tl.constexpr, P: tl.constexpr, L: tl.constexpr, K: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of ``pairs_forward``: grad_sums (N, S+1, K), grad_hs, grad_count (N, 2)."""
    S: tl.constexpr = (P + 1) * (P + 1)
    S_G: tl.constexpr = (L + 1) * (L + 1)
    k = tl.arange(0, K)[None, :]
    i = tl.program_id(0)
    while i < n_atoms:
        edge = tl.load(row_start + i)
        end = tl.load(row_start + i + 1)
        g_ptr = grad_sums + i.to(tl.int64) * (S + 1) * K + k
        h_ptr = grad_hs + i.to(tl.int64) * (3 * S_G) * K + k
        g_count = tl.load(grad_count + 2 * i)
        g_energy = tl.load(grad_count + 2 * i + 1)
        while edge < end:
            e, mask = block_of(edge, end, BLOCK)
            x, y, z, d = edge_vector(vector_ptr, e, mask)
            old = old_vector(grad_ptr, e, mask)
            pair = tl.load(pair_ptr + e, mask=mask, other=0)
            row, t, inverse_h = locate(grid_ptr, pair, d, ROWS)
            weights = basis(t)
            slopes = basis_slope(t, inverse_h)
            y_lm = harmonics(x, y, z, L, EPSILON)
            slope = interpolate(table_ptr, row, slopes, (3 + P) * K + k, COLUMNS)
            along = tl.load(g_ptr + S * K) * slope
            h1, s1 = interpolate_both(table_ptr, row, weights, slopes, k, COLUMNS)
            h2, s2 = interpolate_both(table_ptr, row, weights, slopes, K + k, COLUMNS)
            g_lm = ()
            for l in tl.static_range(L + 1):
                if l <= P:
                    radial, slope = interpolate_both(
                        table_ptr, row, weights, slopes, (2 + l) * K + k, COLUMNS
                    )
                for m in tl.static_range(2 * l + 1):
                    g1 = tl.load(h_ptr + (l * l + m) * 3 * K)
                    g2 = tl.load(h_ptr + ((l * l + m) * 3 + 1) * K)
                    y_one = y_lm[l * l + m][:, None]
                    total = h1 * g1 + h2 * g2
                    along += (s1 * g1 + s2 * g2) * y_one
                    if l <= P:
                        g = tl.load(g_ptr + (l * l + m) * K)
                        total += radial * g
                        along += slope * g * y_one
                    g_lm = g_lm + (tl.sum(total, 1),)
            gd = tl.sum(along, 1) + g_count * interpolate_one(cutoff_ptr, row, slopes)
            if ZBL:
                _, slope_zbl = repulsion(zbl_ptr, pair, d)
                gd += g_energy * slope_zbl
            add_vector_grad(grad_ptr, e, mask, x, y, z, d, g_lm, gd, old, L, EPSILON)
            edge += BLOCK
        i += tl.num_programs(0)


@triton.jit(do_not_specialize=["n_atoms"])
def pull_back(
    vector_ptr, centre_ptr, row_start, by_neighbour, left_ptr, grad_sums, out_ptr, n_atoms,
    HARMONIC: tl.constexpr, EPSILON: tl.constexpr, P: tl.constexpr, SUMS: tl.constexpr,
    K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradient of C_j, Σ U_l Y_lm (HARMONIC), or of C_j W⁰, Σ M_l ∂N_i,lm, over the edges to j."""
    S: tl.constexpr = (P + 1) * (P + 1)
    k = tl.arange(0, K)[None, :]
    j = tl.program_id(0)
    while j < n_atoms:
        edge = tl.load(row_start + j)
        end = tl.load(row_start + j + 1)
        sums = zeros_of(S, BLOCK, K, vector_ptr.dtype.element_ty)
        while edge < end:
            place, mask = block_of(edge, end, BLOCK)
            e = tl.load(by_neighbour + place, mask=mask, other=0).to(tl.int64)
            if HARMONIC:
                x, y, z, _ = edge_vector(vector_ptr, e, mask)
                y_lm = harmonics(x, y, z, P, EPSILON)
            else:
                i = tl.load(centre_ptr + e, mask=mask, other=0).to(tl.int64)[:, None]
                g_ptr = grad_sums + i * SUMS * K + k
            new = ()
            for l in tl.static_range(P + 1):
                at = left_ptr + (e[:, None] * (P + 1) + l) * K + k
                left = tl.load(at, mask=mask[:, None], other=0.0)
                for m in tl.static_range(2 * l + 1):
                    if HARMONIC:
                        new = new + (sums[l * l + m] + left * y_lm[l * l + m][:, None],)
                    else:
                        new = new + (sums[l * l + m] + left * tl.load(g_ptr + (l * l + m) * K),)
            sums = new
            edge += BLOCK
        put_sums(out_ptr + j.to(tl.int64) * S * K, sums, 1, S, K)
        j += tl.num_programs(0)
