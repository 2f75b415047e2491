"""Triton kernels of the energy: sums over the edges of an atom, one atom after the other.

A program takes the atoms pid, pid + number of programs, … whose edges lie in first … first +
n_rows, and of each the edges by BLOCK. Every sum has a fixed order. Where an atom's edges lie in
two ranges, the second run adds to the first: all sums start at zero.

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
from nemp_sim.kernels.triton_state import store_state


@triton.jit
def atoms_of(centre_ptr, first, n_rows):
    """First atom of this program, and the end of the atoms with edges in the range."""
    start = tl.load(centre_ptr + first)
    return start + tl.program_id(0), tl.load(centre_ptr + first + n_rows - 1) + 1


@triton.jit
def edge_range(row_start, i, first, n_rows):
    """First edge of atom i in the range, and the end."""
    start = tl.maximum(tl.load(row_start + i), first)
    return start, tl.minimum(tl.load(row_start + i + 1), first + n_rows)


@triton.jit
def edge_block(start, end, BLOCK: tl.constexpr):
    """Edges of a block, and which of them exist."""
    e = start + tl.arange(0, BLOCK)
    return e.to(tl.int64), e < end


@triton.jit
def index_of(index_ptr, start, end, BLOCK: tl.constexpr):
    """Numbers ``index_ptr`` of a block of edges, as rows.

    A kernel asks for those of the next block before it works on one: what they point to is then
    loaded without waiting for them.
    """
    e, mask = edge_block(start, end, BLOCK)
    return tl.load(index_ptr + e, mask=mask, other=0).to(tl.int64)[:, None]


@triton.jit
def zero_sums(N: tl.constexpr, BLOCK: tl.constexpr, K: tl.constexpr, DTYPE: tl.constexpr):
    """N tiles of zeros (BLOCK, K)."""
    out = ()
    for _ in tl.static_range(N):
        out = out + (tl.zeros([BLOCK, K], DTYPE),)
    return out


@triton.jit
def add_sums(out, sums, N: tl.constexpr, K: tl.constexpr):
    """Add the sums over the edges of N tiles to N rows of K numbers."""
    k = tl.arange(0, K)
    for q in tl.static_range(N):
        place = out + q * K + k
        tl.store(place, tl.load(place) + tl.sum(sums[q], 0))


@triton.jit(do_not_specialize=["first", "n_rows"])
def radial_forward(
    vector_ptr, pair_ptr, neighbour_ptr, centre_ptr, row_start, grid_ptr, table_ptr, first, n_rows,
    cutoff_ptr, zbl_ptr, sums_ptr, count_ptr,
    ZBL: tl.constexpr, EPSILON: tl.constexpr, P: tl.constexpr, K: tl.constexpr,
    STATE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Σ_j R_l Y_lm (rows lm), Σ_j R_ρ (last row); Σ_j f_c and the repulsion."""
    S: tl.constexpr = (P + 1) * (P + 1)
    k = tl.arange(0, K)[None, :]
    i, last = atoms_of(centre_ptr, first, n_rows)
    while i < last:
        start, end = edge_range(row_start, i, first, n_rows)
        sums = zero_sums(S + 1, BLOCK, K, vector_ptr.dtype.element_ty)
        count = tl.zeros([BLOCK], vector_ptr.dtype.element_ty)
        energy = count
        edge = start
        while edge < end:
            e, mask = edge_block(edge, end, BLOCK)
            x, y, z, d = edge_vector(vector_ptr, e, mask)
            pair = tl.load(pair_ptr + e, mask=mask, other=0)
            row, t, _ = locate(grid_ptr, pair, d, ROWS)
            weights = basis(t)
            y_lm = harmonics(x, y, z, P, EPSILON)
            new = ()
            for l in tl.static_range(P + 1):
                radial = interpolate(table_ptr, row, weights, (2 + l) * K + k, COLUMNS)
                for m in tl.static_range(2 * l + 1):
                    new = new + (sums[l * l + m] + radial * y_lm[l * l + m][:, None],)
            rho = interpolate(table_ptr, row, weights, (3 + P) * K + k, COLUMNS)
            sums = new + (sums[S] + rho,)
            count += interpolate_one(cutoff_ptr, row, weights)
            if ZBL:
                value, _ = repulsion(zbl_ptr, pair, d)
                energy += value
            edge += BLOCK
        add_sums(sums_ptr + i.to(tl.int64) * (S + 1) * K, sums, S + 1, K)
        tl.store(count_ptr + 2 * i, tl.sum(count, 0))
        tl.store(count_ptr + 2 * i + 1, tl.sum(energy, 0))
        i += tl.num_programs(0)


@triton.jit(do_not_specialize=["first", "n_rows"])
def scalar_forward(
    vector_ptr, pair_ptr, neighbour_ptr, centre_ptr, row_start, grid_ptr, table_ptr, first, n_rows,
    c_ptr, v_ptr, state_ptr, scale_ptr, rho_ptr,
    T: tl.constexpr, EPSILON: tl.constexpr, P: tl.constexpr, K: tl.constexpr,
    STATE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Steps 1 and 2 of message passing step T: s^T of the edges, ρ^{T+1} of the centre.

    ``v_ptr``: (n_rows, 3(P+1), K) V¹, V², V³; those of the first step are in the table.
    """
    S: tl.constexpr = (P + 1) * (P + 1)
    k = tl.arange(0, K)[None, :]
    i, last = atoms_of(centre_ptr, first, n_rows)
    while i < last:
        start, end = edge_range(row_start, i, first, n_rows)
        c_i = c_ptr + i.to(tl.int64) * S * K + k
        rho = zero_sums(1, BLOCK, K, vector_ptr.dtype.element_ty)
        edge = start
        next_j = index_of(neighbour_ptr, edge, end, BLOCK)
        while edge < end:
            e, mask = edge_block(edge, end, BLOCK)
            j = next_j
            next_j = index_of(neighbour_ptr, edge + BLOCK, end, BLOCK)
            x, y, z, d = edge_vector(vector_ptr, e, mask)
            y_lm = harmonics(x, y, z, P, EPSILON)
            if T == 0:
                pair = tl.load(pair_ptr + e, mask=mask, other=0)
                row, t, _ = locate(grid_ptr, pair, d, ROWS)
                weights = basis(t)
            s = tl.zeros([BLOCK, K], x.dtype)
            total = rho[0]
            for l in tl.static_range(P + 1):
                own = tl.zeros([BLOCK, K], x.dtype)  # Σ_m Y_lm C_i,lm
                other = tl.zeros([BLOCK, K], x.dtype)
                for m in tl.static_range(2 * l + 1):
                    own += y_lm[l * l + m][:, None] * tl.load(c_i + (l * l + m) * K)
                    other += y_lm[l * l + m][:, None] * tl.load(c_ptr + (j * S + l * l + m) * K + k)
                if T == 0:
                    v1 = interpolate(table_ptr, row, weights, (4 + P + l) * K + k, COLUMNS)
                    v2 = interpolate(table_ptr, row, weights, (5 + 2 * P + l) * K + k, COLUMNS)
                    v3 = interpolate(table_ptr, row, weights, (6 + 3 * P + l) * K + k, COLUMNS)
                else:
                    v = v_ptr + ((e - first)[:, None] * (3 * P + 3) + l) * K + k
                    v1 = tl.load(v, mask=mask[:, None], other=0.0)
                    v2 = tl.load(v + (P + 1) * K, mask=mask[:, None], other=0.0)
                    v3 = tl.load(v + (2 * P + 2) * K, mask=mask[:, None], other=0.0)
                s += v1 * own + v2 * other
                total += v3 * own
            rho = (total,)
            store_state(state_ptr, scale_ptr, e, mask, T, s, STATE, K)
            edge += BLOCK
        add_sums(rho_ptr + i.to(tl.int64) * K, rho, 1, K)
        i += tl.num_programs(0)


@triton.jit(do_not_specialize=["first", "n_rows"])
def message_forward(
    vector_ptr, pair_ptr, neighbour_ptr, centre_ptr, row_start, grid_ptr, table_ptr, first, n_rows,
    mixed_ptr, message_ptr, sums_ptr,
    EPSILON: tl.constexpr, P: tl.constexpr, L: tl.constexpr, K: tl.constexpr,
    STATE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Steps 3 and 4: the sums N (rows lm) and G (rows S + lm) of the centre."""
    S: tl.constexpr = (P + 1) * (P + 1)
    S_G: tl.constexpr = (L + 1) * (L + 1)
    k = tl.arange(0, K)[None, :]
    i, last = atoms_of(centre_ptr, first, n_rows)
    while i < last:
        start, end = edge_range(row_start, i, first, n_rows)
        sums = zero_sums(S + S_G, BLOCK, K, vector_ptr.dtype.element_ty)
        edge = start
        next_j = index_of(neighbour_ptr, edge, end, BLOCK)
        while edge < end:
            e, mask = edge_block(edge, end, BLOCK)
            j = next_j
            next_j = index_of(neighbour_ptr, edge + BLOCK, end, BLOCK)
            x, y, z, _ = edge_vector(vector_ptr, e, mask)
            y_lm = harmonics(x, y, z, L, EPSILON)
            place = message_ptr + (e - first)[:, None] * (P + L + 2) * K + k
            new = ()
            for l in tl.static_range(P + 1):
                message = tl.load(place + l * K, mask=mask[:, None], other=0.0)
                for m in tl.static_range(2 * l + 1):
                    mixed = tl.load(mixed_ptr + (j * S + l * l + m) * K + k)
                    new = new + (sums[l * l + m] + message * mixed,)
            for l in tl.static_range(L + 1):
                message = tl.load(place + (P + 1 + l) * K, mask=mask[:, None], other=0.0)
                for m in tl.static_range(2 * l + 1):
                    new = new + (sums[S + l * l + m] + message * y_lm[l * l + m][:, None],)
            sums = new
            edge += BLOCK
        add_sums(sums_ptr + i.to(tl.int64) * (S + S_G) * K, sums, S + S_G, K)
        i += tl.num_programs(0)


@triton.jit(do_not_specialize=["first", "n_rows"])
def final_forward(
    vector_ptr, pair_ptr, neighbour_ptr, centre_ptr, row_start, grid_ptr, table_ptr, first, n_rows,
    c_ptr, v_ptr, sums_ptr, rho_ptr,
    EPSILON: tl.constexpr, P: tl.constexpr, K: tl.constexpr,
    STATE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Last read-out: the sums F_lm = Σ_j (V¹+V²+V³)_l Y_lm (N, S, K), and ρ = Σ_lm F_lm C_i,lm.

    The gradient of C from that of ρ is ∂ρ F: no kernel of the derivatives needs the outputs for it.
    """
    S: tl.constexpr = (P + 1) * (P + 1)
    k = tl.arange(0, K)[None, :]
    i, last = atoms_of(centre_ptr, first, n_rows)
    while i < last:
        start, end = edge_range(row_start, i, first, n_rows)
        sums = zero_sums(S, BLOCK, K, vector_ptr.dtype.element_ty)
        edge = start
        while edge < end:
            e, mask = edge_block(edge, end, BLOCK)
            x, y, z, _ = edge_vector(vector_ptr, e, mask)
            y_lm = harmonics(x, y, z, P, EPSILON)
            place = v_ptr + (e - first)[:, None] * (P + 1) * K + k
            new = ()
            for l in tl.static_range(P + 1):
                v = tl.load(place + l * K, mask=mask[:, None], other=0.0)
                for m in tl.static_range(2 * l + 1):
                    new = new + (sums[l * l + m] + v * y_lm[l * l + m][:, None],)
            sums = new
            edge += BLOCK
        own = i.to(tl.int64) * S * K
        place = rho_ptr + i.to(tl.int64) * K + tl.arange(0, K)
        rho = tl.load(place)
        for q in tl.static_range(S):
            rho += tl.sum(sums[q], 0) * tl.load(c_ptr + own + q * K + tl.arange(0, K))
        tl.store(place, rho)
        add_sums(sums_ptr + own, sums, S, K)
        i += tl.num_programs(0)
