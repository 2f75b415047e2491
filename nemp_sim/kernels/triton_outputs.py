"""Triton kernels: gradients of the outputs of the edge networks, before the networks' derivatives.

Sums over edges are bilinear in the outputs and the orbitals, so these gradients need no outputs.
``triton_backward.py`` then takes the rest of the derivatives, when the outputs are known again.
"""

import triton
import triton.language as tl

from nemp_sim.kernels.triton_edge import edge_vector, harmonics
from nemp_sim.kernels.triton_forward import atoms_of, edge_block, edge_range, index_of
from nemp_sim.kernels.triton_state import load_gradient


@triton.jit
def load_rows(place, mask, N: tl.constexpr, K: tl.constexpr):
    """N tiles (edges, K), K apart."""
    rows = ()
    for q in tl.static_range(N):
        rows = rows + (tl.load(place + q * K, mask=mask[:, None], other=0.0),)
    return rows


@triton.jit
def store_rows(place, rows, mask, N: tl.constexpr, K: tl.constexpr):
    """As ``load_rows``."""
    for q in tl.static_range(N):
        tl.store(place + q * K, rows[q], mask=mask[:, None])


@triton.jit(do_not_specialize=["first", "n_rows"])
def message_grad(
    vector_ptr, pair_ptr, neighbour_ptr, centre_ptr, row_start, grid_ptr, table_ptr, first, n_rows,
    mixed_ptr, grad_sums, out_ptr,
    EPSILON: tl.constexpr, P: tl.constexpr, L: tl.constexpr, K: tl.constexpr,
    STATE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of the messages, from grad_sums (N, N and G rows, K) of ``message_forward``."""
    S: tl.constexpr = (P + 1) * (P + 1)
    S_G: tl.constexpr = (L + 1) * (L + 1)
    k = tl.arange(0, K)[None, :]
    i, last = atoms_of(centre_ptr, first, n_rows)
    while i < last:
        start, end = edge_range(row_start, i, first, n_rows)
        g_ptr = grad_sums + i.to(tl.int64) * (S + S_G) * K + k
        edge = start
        next_j = index_of(neighbour_ptr, edge, end, BLOCK)
        while edge < end:
            e, mask = edge_block(edge, end, BLOCK)
            j = next_j
            next_j = index_of(neighbour_ptr, edge + BLOCK, end, BLOCK)
            x, y, z, _ = edge_vector(vector_ptr, e, mask)
            mixed = load_rows(mixed_ptr + j * S * K + k, mask, S, K)
            y_lm = harmonics(x, y, z, L, EPSILON)
            grads = ()
            for l in tl.static_range(P + 1):
                grad = tl.zeros([BLOCK, K], x.dtype)
                for m in tl.static_range(2 * l + 1):
                    grad += mixed[l * l + m] * tl.load(g_ptr + (l * l + m) * K)
                grads = grads + (grad,)
            for l in tl.static_range(L + 1):
                grad = tl.zeros([BLOCK, K], x.dtype)
                for m in tl.static_range(2 * l + 1):
                    grad += y_lm[l * l + m][:, None] * tl.load(g_ptr + (S + l * l + m) * K)
                grads = grads + (grad,)
            place = out_ptr + (e - first)[:, None] * (P + L + 2) * K + k
            store_rows(place, grads, mask, P + L + 2, K)
            edge += BLOCK
        i += tl.num_programs(0)


@triton.jit(do_not_specialize=["first", "n_rows"])
def scalar_grad(
    vector_ptr, pair_ptr, neighbour_ptr, centre_ptr, row_start, grid_ptr, table_ptr, first, n_rows,
    c_ptr, grad_rho, grad_state, grad_scale, out_ptr,
    T: tl.constexpr, EPSILON: tl.constexpr, P: tl.constexpr, K: tl.constexpr,
    STATE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of V¹, V², V³ of step T, from grad_rho (N, K) and the whole gradient of s^T."""
    S: tl.constexpr = (P + 1) * (P + 1)
    k = tl.arange(0, K)[None, :]
    i, last = atoms_of(centre_ptr, first, n_rows)
    while i < last:
        start, end = edge_range(row_start, i, first, n_rows)
        c_i = c_ptr + i.to(tl.int64) * S * K + k
        g_rho = tl.load(grad_rho + i.to(tl.int64) * K + k)
        edge = start
        next_j = index_of(neighbour_ptr, edge, end, BLOCK)
        while edge < end:
            e, mask = edge_block(edge, end, BLOCK)
            j = next_j
            next_j = index_of(neighbour_ptr, edge + BLOCK, end, BLOCK)
            x, y, z, _ = edge_vector(vector_ptr, e, mask)
            c_j = load_rows(c_ptr + j * S * K + k, mask, S, K)
            gs = load_gradient(grad_state, grad_scale, e, first, mask, T, STATE, K)
            y_lm = harmonics(x, y, z, P, EPSILON)
            g_1 = ()
            g_2 = ()
            g_3 = ()
            for l in tl.static_range(P + 1):
                own = tl.zeros([BLOCK, K], x.dtype)
                other = tl.zeros([BLOCK, K], x.dtype)
                for m in tl.static_range(2 * l + 1):
                    own += y_lm[l * l + m][:, None] * tl.load(c_i + (l * l + m) * K)
                    other += y_lm[l * l + m][:, None] * c_j[l * l + m]
                g_1 = g_1 + (gs * own,)
                g_2 = g_2 + (gs * other,)
                g_3 = g_3 + (g_rho * own,)
            place = out_ptr + (e - first)[:, None] * (3 * P + 3) * K + k
            store_rows(place, g_1 + g_2 + g_3, mask, 3 * P + 3, K)
            edge += BLOCK
        i += tl.num_programs(0)


@triton.jit(do_not_specialize=["first", "n_rows"])
def final_grad(
    vector_ptr, pair_ptr, neighbour_ptr, centre_ptr, row_start, grid_ptr, table_ptr, first, n_rows,
    c_ptr, grad_rho, out_ptr,
    EPSILON: tl.constexpr, P: tl.constexpr, K: tl.constexpr,
    STATE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of V of the last read-out, from grad_rho (N, K)."""
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
            x, y, z, _ = edge_vector(vector_ptr, e, mask)
            y_lm = harmonics(x, y, z, P, EPSILON)
            grads = ()
            for l in tl.static_range(P + 1):
                own = tl.zeros([BLOCK, K], x.dtype)
                for m in tl.static_range(2 * l + 1):
                    own += y_lm[l * l + m][:, None] * tl.load(c_i + (l * l + m) * K)
                grads = grads + (g_rho * own,)
            place = out_ptr + (e - first)[:, None] * (P + 1) * K + k
            store_rows(place, grads, mask, P + 1, K)
            edge += BLOCK
        i += tl.num_programs(0)
