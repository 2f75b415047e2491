"""Triton kernels of the first derivatives, as those of ``triton_forward.py``: atom by atom.

Each kernel adds its share to the gradient of the edge vectors, and puts the gradients of the
outputs of an MLP in the place of the outputs. The gradients of the neighbour's orbitals are left
per edge (``U`` = V² ∂s, ``M`` = M^a) and summed by ``neighbour_back`` over the edges that point to
an atom, in their order in ``by_neighbour``.
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
from nemp_sim.kernels.triton_forward import add_sums, atoms_of, edge_block, edge_range, zero_sums


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


@triton.jit(do_not_specialize=["first", "n_rows"])
def radial_back(
    vector_ptr, pair_ptr, neighbour_ptr, centre_ptr, row_start, grid_ptr, table_ptr, first, n_rows,
    cutoff_ptr, zbl_ptr, grad_sums, grad_count, grad_state, grad_ptr,
    ZBL: tl.constexpr, EPSILON: tl.constexpr, P: tl.constexpr, K: tl.constexpr,
    STATE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of ``radial_forward``: grad_sums (N, rows, K), grad_count (N, 2), grad_state (E, STATE)."""
    S: tl.constexpr = (P + 1) * (P + 1)
    k = tl.arange(0, K)[None, :]
    i, last = atoms_of(centre_ptr, first, n_rows)
    while i < last:
        start, end = edge_range(row_start, i, first, n_rows)
        g_ptr = grad_sums + i.to(tl.int64) * (S + 1) * K + k
        g_count = tl.load(grad_count + 2 * i)
        g_energy = tl.load(grad_count + 2 * i + 1)
        edge = start
        while edge < end:
            e, mask = edge_block(edge, end, BLOCK)
            x, y, z, d = edge_vector(vector_ptr, e, mask)
            pair = tl.load(pair_ptr + e, mask=mask, other=0)
            row, t, inverse_h = locate(grid_ptr, pair, d, ROWS)
            weights = basis(t)
            slopes = basis_slope(t, inverse_h)
            y_lm = harmonics(x, y, z, P, EPSILON)
            slope = interpolate(table_ptr, row, slopes, (3 + P) * K + k, COLUMNS)
            along = tl.load(g_ptr + S * K) * slope
            for q in tl.static_range(2):
                place = grad_state + e[:, None] * STATE + q * K + k
                g = tl.load(place, mask=mask[:, None], other=0.0)
                along += g * interpolate(table_ptr, row, slopes, q * K + k, COLUMNS)
            g_lm = ()
            for l in tl.static_range(P + 1):
                radial, slope = interpolate_both(
                    table_ptr, row, weights, slopes, (2 + l) * K + k, COLUMNS
                )
                for m in tl.static_range(2 * l + 1):
                    g = tl.load(g_ptr + (l * l + m) * K)
                    g_lm = g_lm + (tl.sum(radial * g, 1),)
                    along += slope * g * y_lm[l * l + m][:, None]
            gd = tl.sum(along, 1) + g_count * interpolate_one(cutoff_ptr, row, slopes)
            if ZBL:
                _, slope_zbl = repulsion(zbl_ptr, pair, d)
                gd += g_energy * slope_zbl
            add_vector_grad(grad_ptr, e, mask, x, y, z, d, g_lm, gd, P, EPSILON, True)
            edge += BLOCK
        i += tl.num_programs(0)


@triton.jit(do_not_specialize=["first", "n_rows"])
def message_back(
    vector_ptr, pair_ptr, neighbour_ptr, centre_ptr, row_start, grid_ptr, table_ptr, first, n_rows,
    mixed_ptr, message_ptr, grad_sums, left_ptr, grad_ptr,
    EPSILON: tl.constexpr, P: tl.constexpr, L: tl.constexpr, K: tl.constexpr,
    STATE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of ``message_forward``: grad_sums (N, N and G rows, K); leaves M^a of the edges."""
    S: tl.constexpr = (P + 1) * (P + 1)
    S_G: tl.constexpr = (L + 1) * (L + 1)
    k = tl.arange(0, K)[None, :]
    i, last = atoms_of(centre_ptr, first, n_rows)
    while i < last:
        start, end = edge_range(row_start, i, first, n_rows)
        g_ptr = grad_sums + i.to(tl.int64) * (S + S_G) * K + k
        edge = start
        while edge < end:
            e, mask = edge_block(edge, end, BLOCK)
            edge_mask = mask[:, None]
            x, y, z, d = edge_vector(vector_ptr, e, mask)
            y_lm = harmonics(x, y, z, L, EPSILON)
            j = tl.load(neighbour_ptr + e, mask=mask, other=0).to(tl.int64)[:, None]
            place = message_ptr + (e - first)[:, None] * (P + L + 2) * K + k
            left = left_ptr + e[:, None] * (P + 1) * K + k
            for l in tl.static_range(P + 1):
                message = tl.load(place + l * K, mask=edge_mask, other=0.0)
                tl.store(left + l * K, message, mask=edge_mask)
                grad = tl.zeros([BLOCK, K], x.dtype)
                for m in tl.static_range(2 * l + 1):
                    mixed = tl.load(mixed_ptr + (j * S + l * l + m) * K + k)
                    grad += mixed * tl.load(g_ptr + (l * l + m) * K)
                tl.store(place + l * K, grad, mask=edge_mask)
            g_lm = ()
            for l in tl.static_range(L + 1):
                message = tl.load(place + (P + 1 + l) * K, mask=edge_mask, other=0.0)
                grad = tl.zeros([BLOCK, K], x.dtype)
                for m in tl.static_range(2 * l + 1):
                    g = tl.load(g_ptr + (S + l * l + m) * K)
                    grad += y_lm[l * l + m][:, None] * g
                    g_lm = g_lm + (tl.sum(message * g, 1),)
                tl.store(place + (P + 1 + l) * K, grad, mask=edge_mask)
            gd = tl.zeros_like(d)
            add_vector_grad(grad_ptr, e, mask, x, y, z, d, g_lm, gd, L, EPSILON, True)
            edge += BLOCK
        i += tl.num_programs(0)


@triton.jit(do_not_specialize=["first", "n_rows"])
def scalar_back(
    vector_ptr, pair_ptr, neighbour_ptr, centre_ptr, row_start, grid_ptr, table_ptr, first, n_rows,
    c_ptr, v_ptr, grad_rho, grad_state, left_ptr, grad_c, grad_ptr,
    T: tl.constexpr, EPSILON: tl.constexpr, P: tl.constexpr, K: tl.constexpr,
    STATE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of ``scalar_forward``: grad_rho (N, K), whole gradient of s^T; leaves U = V² ∂s."""
    S: tl.constexpr = (P + 1) * (P + 1)
    k = tl.arange(0, K)[None, :]
    i, last = atoms_of(centre_ptr, first, n_rows)
    while i < last:
        start, end = edge_range(row_start, i, first, n_rows)
        c_i = c_ptr + i.to(tl.int64) * S * K + k
        g_rho = tl.load(grad_rho + i.to(tl.int64) * K + k)
        sums = zero_sums(S, BLOCK, K, vector_ptr.dtype.element_ty)
        edge = start
        while edge < end:
            e, mask = edge_block(edge, end, BLOCK)
            edge_mask = mask[:, None]
            x, y, z, d = edge_vector(vector_ptr, e, mask)
            y_lm = harmonics(x, y, z, P, EPSILON)
            j = tl.load(neighbour_ptr + e, mask=mask, other=0).to(tl.int64)[:, None]
            if T == 0:
                pair = tl.load(pair_ptr + e, mask=mask, other=0)
                row, t, inverse_h = locate(grid_ptr, pair, d, ROWS)
                weights = basis(t)
                slopes = basis_slope(t, inverse_h)
            place = grad_state + e[:, None] * STATE + (2 + T) * K + k
            gs = tl.load(place, mask=edge_mask, other=0.0)
            left = left_ptr + e[:, None] * (P + 1) * K + k
            along = tl.zeros([BLOCK, K], x.dtype)
            g_lm = ()
            new = ()
            for l in tl.static_range(P + 1):
                own = tl.zeros([BLOCK, K], x.dtype)
                other = tl.zeros([BLOCK, K], x.dtype)
                for m in tl.static_range(2 * l + 1):
                    own += y_lm[l * l + m][:, None] * tl.load(c_i + (l * l + m) * K)
                    other += y_lm[l * l + m][:, None] * tl.load(c_ptr + (j * S + l * l + m) * K + k)
                if T == 0:
                    place = (4 + P + l) * K + k
                    v1, s1 = interpolate_both(table_ptr, row, weights, slopes, place, COLUMNS)
                    place += (P + 1) * K
                    v2, s2 = interpolate_both(table_ptr, row, weights, slopes, place, COLUMNS)
                    place += (P + 1) * K
                    v3, s3 = interpolate_both(table_ptr, row, weights, slopes, place, COLUMNS)
                    along += gs * (own * s1 + other * s2) + g_rho * own * s3
                else:
                    v = v_ptr + ((e - first)[:, None] * (3 * P + 3) + l) * K + k
                    v1 = tl.load(v, mask=edge_mask, other=0.0)
                    v2 = tl.load(v + (P + 1) * K, mask=edge_mask, other=0.0)
                    v3 = tl.load(v + (2 * P + 2) * K, mask=edge_mask, other=0.0)
                    tl.store(v, gs * own, mask=edge_mask)
                    tl.store(v + (P + 1) * K, gs * other, mask=edge_mask)
                    tl.store(v + (2 * P + 2) * K, g_rho * own, mask=edge_mask)
                g_own = v1 * gs + v3 * g_rho
                g_other = v2 * gs
                tl.store(left + l * K, g_other, mask=edge_mask)
                for m in tl.static_range(2 * l + 1):
                    new = new + (sums[l * l + m] + g_own * y_lm[l * l + m][:, None],)
                    g = g_own * tl.load(c_i + (l * l + m) * K)
                    g += g_other * tl.load(c_ptr + (j * S + l * l + m) * K + k)
                    g_lm = g_lm + (tl.sum(g, 1),)
            sums = new
            gd = tl.sum(along, 1)
            add_vector_grad(grad_ptr, e, mask, x, y, z, d, g_lm, gd, P, EPSILON, True)
            edge += BLOCK
        add_sums(grad_c + i.to(tl.int64) * S * K, sums, S, K)
        i += tl.num_programs(0)


@triton.jit(do_not_specialize=["first", "n_rows"])
def final_back(
    vector_ptr, pair_ptr, neighbour_ptr, centre_ptr, row_start, grid_ptr, table_ptr, first, n_rows,
    c_ptr, v_ptr, grad_rho, grad_c, grad_ptr,
    EPSILON: tl.constexpr, P: tl.constexpr, K: tl.constexpr,
    STATE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of ``final_forward``: the first backward kernel, it sets the vectors' gradient."""
    S: tl.constexpr = (P + 1) * (P + 1)
    k = tl.arange(0, K)[None, :]
    i, last = atoms_of(centre_ptr, first, n_rows)
    while i < last:
        start, end = edge_range(row_start, i, first, n_rows)
        c_i = c_ptr + i.to(tl.int64) * S * K + k
        g_rho = tl.load(grad_rho + i.to(tl.int64) * K + k)
        sums = zero_sums(S, BLOCK, K, vector_ptr.dtype.element_ty)
        edge = start
        while edge < end:
            e, mask = edge_block(edge, end, BLOCK)
            x, y, z, d = edge_vector(vector_ptr, e, mask)
            y_lm = harmonics(x, y, z, P, EPSILON)
            place = v_ptr + (e - first)[:, None] * (P + 1) * K + k
            g_lm = ()
            new = ()
            for l in tl.static_range(P + 1):
                own = tl.zeros([BLOCK, K], x.dtype)
                g_own = tl.load(place + l * K, mask=mask[:, None], other=0.0) * g_rho
                for m in tl.static_range(2 * l + 1):
                    c = tl.load(c_i + (l * l + m) * K)
                    own += y_lm[l * l + m][:, None] * c
                    new = new + (sums[l * l + m] + g_own * y_lm[l * l + m][:, None],)
                    g_lm = g_lm + (tl.sum(g_own * c, 1),)
                tl.store(place + l * K, g_rho * own, mask=mask[:, None])
            sums = new
            gd = tl.zeros_like(d)
            add_vector_grad(grad_ptr, e, mask, x, y, z, d, g_lm, gd, P, EPSILON, False)
            edge += BLOCK
        add_sums(grad_c + i.to(tl.int64) * S * K, sums, S, K)
        i += tl.num_programs(0)


@triton.jit(do_not_specialize=["n_atoms"])
def neighbour_back(
    vector_ptr, centre_ptr, row_start, by_neighbour, left_ptr, grad_sums, out_ptr, n_atoms,
    HARMONIC: tl.constexpr, EPSILON: tl.constexpr, P: tl.constexpr, SUMS: tl.constexpr,
    K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradient of C_j, Σ U_l Y_lm (HARMONIC), or of C_j W⁰, Σ M_l ∂N_i,lm, over the edges to j."""
    S: tl.constexpr = (P + 1) * (P + 1)
    k = tl.arange(0, K)[None, :]
    j = tl.program_id(0)
    while j < n_atoms:
        start = tl.load(row_start + j)
        end = tl.load(row_start + j + 1)
        sums = zero_sums(S, BLOCK, K, vector_ptr.dtype.element_ty)
        edge = start
        while edge < end:
            place, mask = edge_block(edge, end, BLOCK)
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
        add_sums(out_ptr + j.to(tl.int64) * S * K, sums, S, K)
        j += tl.num_programs(0)
