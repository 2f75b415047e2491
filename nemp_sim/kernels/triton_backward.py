"""Triton kernels of the first derivatives, as those of ``triton_forward.py``: atom by atom.

Each kernel adds its share to the gradient of the edge vectors. All loads of a block of edges come
before its stores: the compiler moves none across the other, and would wait for each in turn. The
gradients of the neighbour's orbitals are left per edge (``U`` = V² ∂s, ``M`` = M^a) and summed by
``neighbour_back`` over the edges that point to an atom, in their order in ``by_neighbour``.
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
from nemp_sim.kernels.triton_forward import (
    add_sums,
    atoms_of,
    edge_block,
    edge_range,
    index_of,
    zero_sums,
)
from nemp_sim.kernels.triton_outputs import load_rows, store_rows
from nemp_sim.kernels.triton_state import load_gradient


@triton.jit
def store_vector_grad(
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
def load_vector(ptr, e, mask):
    """The three components of the vectors (E, 3) of edges e."""
    place = ptr + 3 * e
    x = tl.load(place, mask=mask, other=0.0)
    return x, tl.load(place + 1, mask=mask, other=0.0), tl.load(place + 2, mask=mask, other=0.0)


@triton.jit(do_not_specialize=["first", "n_rows"])
def radial_back(
    vector_ptr, pair_ptr, neighbour_ptr, centre_ptr, row_start, grid_ptr, table_ptr, first, n_rows,
    cutoff_ptr, zbl_ptr, grad_sums, grad_count, grad_ptr,
    ZBL: tl.constexpr, EPSILON: tl.constexpr, P: tl.constexpr, K: tl.constexpr,
    STATE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of ``radial_forward``: grad_sums (N, rows, K), grad_count (N, 2)."""
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
            old = load_vector(grad_ptr, e, mask)
            pair = tl.load(pair_ptr + e, mask=mask, other=0)
            row, t, inverse_h = locate(grid_ptr, pair, d, ROWS)
            weights = basis(t)
            slopes = basis_slope(t, inverse_h)
            y_lm = harmonics(x, y, z, P, EPSILON)
            slope = interpolate(table_ptr, row, slopes, (3 + P) * K + k, COLUMNS)
            along = tl.load(g_ptr + S * K) * slope
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
            store_vector_grad(grad_ptr, e, mask, x, y, z, d, g_lm, gd, old, P, EPSILON)
            edge += BLOCK
        i += tl.num_programs(0)


@triton.jit(do_not_specialize=["first", "n_rows", "left_first"])
def message_back(
    vector_ptr, pair_ptr, neighbour_ptr, centre_ptr, row_start, grid_ptr, table_ptr, first, n_rows,
    message_ptr, grad_sums, left_ptr, left_first, grad_ptr,
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
            x, y, z, d = edge_vector(vector_ptr, e, mask)
            place = message_ptr + (e - first)[:, None] * (P + L + 2) * K + k
            message = load_rows(place, mask, P + L + 2, K)
            old = load_vector(grad_ptr, e, mask)
            g_lm = ()
            for l in tl.static_range(L + 1):
                for m in tl.static_range(2 * l + 1):
                    g = tl.load(g_ptr + (S + l * l + m) * K)
                    g_lm = g_lm + (tl.sum(message[P + 1 + l] * g, 1),)
            gd = tl.zeros_like(d)
            store_vector_grad(grad_ptr, e, mask, x, y, z, d, g_lm, gd, old, L, EPSILON)
            place = left_ptr + (e - left_first)[:, None] * (P + 1) * K + k
            store_rows(place, message, mask, P + 1, K)
            edge += BLOCK
        i += tl.num_programs(0)


@triton.jit(do_not_specialize=["first", "n_rows", "left_first"])
def scalar_back(
    vector_ptr, pair_ptr, neighbour_ptr, centre_ptr, row_start, grid_ptr, table_ptr, first, n_rows,
    c_ptr, v_ptr, grad_rho, grad_state, grad_scale, left_ptr, left_first, grad_c, grad_ptr,
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
        next_j = index_of(neighbour_ptr, edge, end, BLOCK)
        while edge < end:
            e, mask = edge_block(edge, end, BLOCK)
            j = next_j
            next_j = index_of(neighbour_ptr, edge + BLOCK, end, BLOCK)
            x, y, z, d = edge_vector(vector_ptr, e, mask)
            place = v_ptr + (e - first)[:, None] * (3 * P + 3) * K + k
            if T == 0:
                pair = tl.load(pair_ptr + e, mask=mask, other=0)
                row, t, inverse_h = locate(grid_ptr, pair, d, ROWS)
                weights = basis(t)
                slopes = basis_slope(t, inverse_h)
            else:
                v = load_rows(place, mask, 3 * P + 3, K)
            c_j = load_rows(c_ptr + j * S * K + k, mask, S, K)
            gs = load_gradient(grad_state, grad_scale, e, first, mask, T, STATE, K)
            old = load_vector(grad_ptr, e, mask)
            y_lm = harmonics(x, y, z, P, EPSILON)
            along = tl.zeros([BLOCK, K], x.dtype)
            g_lm = ()
            new = ()
            left = ()
            for l in tl.static_range(P + 1):
                if T == 0:
                    own = tl.zeros([BLOCK, K], x.dtype)
                    other = tl.zeros([BLOCK, K], x.dtype)
                    for m in tl.static_range(2 * l + 1):
                        own += y_lm[l * l + m][:, None] * tl.load(c_i + (l * l + m) * K)
                        other += y_lm[l * l + m][:, None] * c_j[l * l + m]
                    at = (4 + P + l) * K + k
                    v1, s1 = interpolate_both(table_ptr, row, weights, slopes, at, COLUMNS)
                    at += (P + 1) * K
                    v2, s2 = interpolate_both(table_ptr, row, weights, slopes, at, COLUMNS)
                    at += (P + 1) * K
                    v3, s3 = interpolate_both(table_ptr, row, weights, slopes, at, COLUMNS)
                    along += gs * (own * s1 + other * s2) + g_rho * own * s3
                    g_own = v1 * gs + v3 * g_rho
                    g_other = v2 * gs
                else:
                    g_own = v[l] * gs + v[2 * P + 2 + l] * g_rho
                    g_other = v[P + 1 + l] * gs
                left = left + (g_other,)
                for m in tl.static_range(2 * l + 1):
                    new = new + (sums[l * l + m] + g_own * y_lm[l * l + m][:, None],)
                    g = g_own * tl.load(c_i + (l * l + m) * K) + g_other * c_j[l * l + m]
                    g_lm = g_lm + (tl.sum(g, 1),)
            sums = new
            gd = tl.sum(along, 1)
            store_vector_grad(grad_ptr, e, mask, x, y, z, d, g_lm, gd, old, P, EPSILON)
            place = left_ptr + (e - left_first)[:, None] * (P + 1) * K + k
            store_rows(place, left, mask, P + 1, K)
            edge += BLOCK
        add_sums(grad_c + i.to(tl.int64) * S * K, sums, S, K)
        i += tl.num_programs(0)


@triton.jit(do_not_specialize=["first", "n_rows"])
def final_back(
    vector_ptr, pair_ptr, neighbour_ptr, centre_ptr, row_start, grid_ptr, table_ptr, first, n_rows,
    c_ptr, v_ptr, grad_rho, grad_ptr,
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
        edge = start
        while edge < end:
            e, mask = edge_block(edge, end, BLOCK)
            x, y, z, d = edge_vector(vector_ptr, e, mask)
            place = v_ptr + (e - first)[:, None] * (P + 1) * K + k
            v = load_rows(place, mask, P + 1, K)
            g_lm = ()
            for l in tl.static_range(P + 1):
                g_own = v[l] * g_rho
                for m in tl.static_range(2 * l + 1):
                    g_lm = g_lm + (tl.sum(g_own * tl.load(c_i + (l * l + m) * K), 1),)
            zero = tl.zeros_like(d)
            old = (zero, zero, zero)
            store_vector_grad(grad_ptr, e, mask, x, y, z, d, g_lm, zero, old, P, EPSILON)
            edge += BLOCK
        i += tl.num_programs(0)


@triton.jit(do_not_specialize=["first", "n_rows", "n_atoms"])
def neighbour_back(
    vector_ptr, centre_ptr, row_start, by_neighbour, left_ptr, first, n_rows, grad_sums, out_ptr,
    n_atoms, HARMONIC: tl.constexpr, EPSILON: tl.constexpr, P: tl.constexpr, SUMS: tl.constexpr,
    K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradient of C_j, Σ U_l Y_lm (HARMONIC), or of C_j W⁰, Σ M_l ∂N_i,lm, over the edges to j.

    Of the edges first … first + n_rows alone, whose U and M stand in ``left_ptr``.
    """
    S: tl.constexpr = (P + 1) * (P + 1)
    k = tl.arange(0, K)[None, :]
    j = tl.program_id(0)
    while j < n_atoms:
        start = tl.load(row_start + j)
        end = tl.load(row_start + j + 1)
        sums = zero_sums(S, BLOCK, K, vector_ptr.dtype.element_ty)
        edge = start
        next_e = index_of(by_neighbour, edge, end, BLOCK)
        while edge < end:
            _, mask = edge_block(edge, end, BLOCK)
            e = tl.reshape(next_e, [BLOCK])
            next_e = index_of(by_neighbour, edge + BLOCK, end, BLOCK)
            mask = mask & (e >= first) & (e < first + n_rows)
            if HARMONIC:
                x, y, z, _ = edge_vector(vector_ptr, e, mask)
                y_lm = harmonics(x, y, z, P, EPSILON)
            else:
                i = tl.load(centre_ptr + e, mask=mask, other=0).to(tl.int64)[:, None]
                g_ptr = grad_sums + i * SUMS * K + k
            new = ()
            for l in tl.static_range(P + 1):
                at = left_ptr + ((e - first)[:, None] * (P + 1) + l) * K + k
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
