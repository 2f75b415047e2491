"""Triton kernels of a network of one step with linear edge networks: no network for each edge.

What is linear in the edge state h⁰ and in s is summed over the edges first and mixed at the atom
after (``linear.py``). Kernels go through atoms as those of ``triton_forward.py``. Columns of the
table, in groups of K: h⁰ (2), R_l (P+1), R_ρ (1), V¹ and V² (2(P+1)), A_l (P+1), the part of M^a
that depends on the distance. "hs" is (N, (L+1)², 3, K): Σ_j h⁰ Y_lm (2) and Σ_j s Y_lm.
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


@triton.jit
def block_of(start, end, BLOCK: tl.constexpr):
    """Edges of a block, and which of them exist."""
    e = start + tl.arange(0, BLOCK)
    return e.to(tl.int64), e < end


@triton.jit
def zeros_of(N: tl.constexpr, BLOCK: tl.constexpr, K: tl.constexpr, DTYPE: tl.constexpr):
    """N tiles of zeros (BLOCK, K)."""
    out = ()
    for _ in tl.static_range(N):
        out = out + (tl.zeros([BLOCK, K], DTYPE),)
    return out


@triton.jit
def put_sums(out, sums, STEP: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    """Store the sums over the edges of N tiles as rows of K numbers, STEP rows apart."""
    k = tl.arange(0, K)
    for q in tl.static_range(N):
        tl.store(out + q * STEP * K + k, tl.sum(sums[q], 0))


@triton.jit(do_not_specialize=["n_atoms"])
def pairs_forward(
    vector_ptr, pair_ptr, row_start, grid_ptr, table_ptr, cutoff_ptr, zbl_ptr, sums_ptr, hs_ptr,
    count_ptr, n_atoms,
    ZBL: tl.constexpr, EPSILON: tl.constexpr, P: tl.constexpr, L: tl.constexpr, K: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Σ_j R_l Y_lm (rows lm), Σ_j R_ρ (last row); Σ_j h⁰ Y_lm; Σ_j f_c and the repulsion."""
    S: tl.constexpr = (P + 1) * (P + 1)
    S_G: tl.constexpr = (L + 1) * (L + 1)
    k = tl.arange(0, K)[None, :]
    i = tl.program_id(0)
    while i < n_atoms:
        edge = tl.load(row_start + i)
        end = tl.load(row_start + i + 1)
        sums = zeros_of(S + 1, BLOCK, K, vector_ptr.dtype.element_ty)
        first = zeros_of(S_G, BLOCK, K, vector_ptr.dtype.element_ty)
        second = zeros_of(S_G, BLOCK, K, vector_ptr.dtype.element_ty)
        count = tl.zeros([BLOCK], vector_ptr.dtype.element_ty)
        energy = count
        while edge < end:
            e, mask = block_of(edge, end, BLOCK)
            x, y, z, d = edge_vector(vector_ptr, e, mask)
            pair = tl.load(pair_ptr + e, mask=mask, other=0)
            row, t, _ = locate(grid_ptr, pair, d, ROWS)
            weights = basis(t)
            y_lm = harmonics(x, y, z, L, EPSILON)
            new = ()
            for l in tl.static_range(P + 1):
                radial = interpolate(table_ptr, row, weights, (2 + l) * K + k, COLUMNS)
                for m in tl.static_range(2 * l + 1):
                    new = new + (sums[l * l + m] + radial * y_lm[l * l + m][:, None],)
            rho = interpolate(table_ptr, row, weights, (3 + P) * K + k, COLUMNS)
            sums = new + (sums[S] + rho,)
            h = interpolate(table_ptr, row, weights, k, COLUMNS)
            new = ()
            for q in tl.static_range(S_G):
                new = new + (first[q] + h * y_lm[q][:, None],)
            first = new
            h = interpolate(table_ptr, row, weights, K + k, COLUMNS)
            new = ()
            for q in tl.static_range(S_G):
                new = new + (second[q] + h * y_lm[q][:, None],)
            second = new
            count += interpolate_one(cutoff_ptr, row, weights)
            if ZBL:
                value, _ = repulsion(zbl_ptr, pair, d)
                energy += value
            edge += BLOCK
        place = hs_ptr + i.to(tl.int64) * (3 * S_G) * K
        put_sums(sums_ptr + i.to(tl.int64) * (S + 1) * K, sums, 1, S + 1, K)
        put_sums(place, first, 3, S_G, K)
        put_sums(place + K, second, 3, S_G, K)
        tl.store(count_ptr + 2 * i, tl.sum(count, 0))
        tl.store(count_ptr + 2 * i + 1, tl.sum(energy, 0))
        i += tl.num_programs(0)


@triton.jit(do_not_specialize=["n_atoms"])
def scalars_forward(
    vector_ptr, pair_ptr, neighbour_ptr, row_start, grid_ptr, table_ptr, c_ptr, s_ptr, hs_ptr,
    n_atoms,
    EPSILON: tl.constexpr, P: tl.constexpr, L: tl.constexpr, K: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """S of the edges (E, K) and Σ_j s Y_lm of the centres."""
    S: tl.constexpr = (P + 1) * (P + 1)
    S_G: tl.constexpr = (L + 1) * (L + 1)
    k = tl.arange(0, K)[None, :]
    i = tl.program_id(0)
    while i < n_atoms:
        edge = tl.load(row_start + i)
        end = tl.load(row_start + i + 1)
        c_i = c_ptr + i.to(tl.int64) * S * K + k
        sums = zeros_of(S_G, BLOCK, K, vector_ptr.dtype.element_ty)
        while edge < end:
            e, mask = block_of(edge, end, BLOCK)
            x, y, z, d = edge_vector(vector_ptr, e, mask)
            j = tl.load(neighbour_ptr + e, mask=mask, other=0).to(tl.int64)[:, None]
            pair = tl.load(pair_ptr + e, mask=mask, other=0)
            row, t, _ = locate(grid_ptr, pair, d, ROWS)
            weights = basis(t)
            y_lm = harmonics(x, y, z, L, EPSILON)
            s = tl.zeros([BLOCK, K], x.dtype)
            for l in tl.static_range(P + 1):
                own = tl.zeros([BLOCK, K], x.dtype)  # Σ_m Y_lm C_i,lm
                other = tl.zeros([BLOCK, K], x.dtype)
                for m in tl.static_range(2 * l + 1):
                    own += y_lm[l * l + m][:, None] * tl.load(c_i + (l * l + m) * K)
                    other += y_lm[l * l + m][:, None] * tl.load(c_ptr + (j * S + l * l + m) * K + k)
                s += own * interpolate(table_ptr, row, weights, (4 + P + l) * K + k, COLUMNS)
                v = interpolate(table_ptr, row, weights, (5 + 2 * P + l) * K + k, COLUMNS)
                s += other * v
            new = ()
            for q in tl.static_range(S_G):
                new = new + (sums[q] + s * y_lm[q][:, None],)
            sums = new
            tl.store(s_ptr + e[:, None] * K + k, s, mask=mask[:, None])
            edge += BLOCK
        put_sums(hs_ptr + (i.to(tl.int64) * (3 * S_G) + 2) * K, sums, 3, S_G, K)
        i += tl.num_programs(0)


@triton.jit(do_not_specialize=["n_atoms"])
def messages_forward(
    vector_ptr, pair_ptr, neighbour_ptr, row_start, grid_ptr, table_ptr, mixed_ptr, message_ptr,
    sums_ptr, n_atoms,
    SUMS: tl.constexpr, P: tl.constexpr, K: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """N_lm = Σ_j M^a_l (C_j W⁰)_lm; ``message_ptr``: (E, P+1, K) the part of M^a that s gives."""
    S: tl.constexpr = (P + 1) * (P + 1)
    k = tl.arange(0, K)[None, :]
    i = tl.program_id(0)
    while i < n_atoms:
        edge = tl.load(row_start + i)
        end = tl.load(row_start + i + 1)
        sums = zeros_of(S, BLOCK, K, vector_ptr.dtype.element_ty)
        while edge < end:
            e, mask = block_of(edge, end, BLOCK)
            _, _, _, d = edge_vector(vector_ptr, e, mask)
            j = tl.load(neighbour_ptr + e, mask=mask, other=0).to(tl.int64)[:, None]
            pair = tl.load(pair_ptr + e, mask=mask, other=0)
            row, t, _ = locate(grid_ptr, pair, d, ROWS)
            weights = basis(t)
            new = ()
            for l in tl.static_range(P + 1):
                place = message_ptr + (e[:, None] * (P + 1) + l) * K + k
                message = tl.load(place, mask=mask[:, None], other=0.0)
                at = (6 + 3 * P + l) * K + k
                message += interpolate(table_ptr, row, weights, at, COLUMNS)
                for m in tl.static_range(2 * l + 1):
                    mixed = tl.load(mixed_ptr + (j * S + l * l + m) * K + k)
                    new = new + (sums[l * l + m] + message * mixed,)
            sums = new
            edge += BLOCK
        put_sums(sums_ptr + i.to(tl.int64) * SUMS * K, sums, 1, S, K)
        i += tl.num_programs(0)


@triton.jit(do_not_specialize=["n_rows"])
def edge_product(
    x_ptr, high_ptr, low_ptr, out_ptr, n_rows,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr,
    HALVES: tl.constexpr, THREE: tl.constexpr, MODE: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Rows (n_rows, OUTPUTS) of x (n_rows, INPUTS) times a matrix (INPUTS, OUTPUTS).

    With HALVES each row is scaled by a power of two into the range of 16-bit numbers.
    """
    row = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    mask = row[:, None] < n_rows
    a = tl.arange(0, IN)
    b = tl.arange(0, OUT)
    largest = tl.zeros([TILE], x_ptr.dtype.element_ty) + 1e-30
    if HALVES:
        for c in tl.static_range(0, INPUTS, IN):
            x = tl.load(x_ptr + row[:, None] * INPUTS + c + a[None, :], mask=mask, other=0.0)
            largest = tl.maximum(largest, tl.max(tl.abs(x), 1))
    scale = tl.exp2(-tl.floor(tl.log2(largest)))
    for d in tl.static_range(0, OUTPUTS, OUT):
        out = tl.zeros([TILE, OUT], x_ptr.dtype.element_ty)
        for c in tl.static_range(0, INPUTS, IN):
            x = tl.load(x_ptr + row[:, None] * INPUTS + c + a[None, :], mask=mask, other=0.0)
            place = (c + a[:, None]) * OUTPUTS + d + b[None, :]
            w = tl.load(high_ptr + place)
            if HALVES:
                x = x * scale[:, None]
                x_high = x.to(w.dtype)
                if THREE:
                    low = tl.load(low_ptr + place)
                    out = tl.dot((x - x_high.to(x.dtype)).to(w.dtype), w, out)
                    out = tl.dot(x_high, low, out)
                out = tl.dot(x_high, w, out)
            else:
                out = tl.dot(x, w, out, input_precision=MODE, out_dtype=x.dtype)
        if HALVES:
            out = out / scale[:, None]
        tl.store(out_ptr + row[:, None] * OUTPUTS + d + b[None, :], out, mask=mask)
