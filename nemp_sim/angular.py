"""Real spherical harmonics and their coupling coefficients. The convention is stated here, once.

Convention: for a unit vector with polar angle θ (from z) and azimuth φ,

    Y_lm = N_lm P_l^|m|(cos θ) · {√2 sin(|m|φ), m < 0;  1, m = 0;  √2 cos(mφ), m > 0},

m = −l … l, so that l = 1 is (y, z, x), without the Condon–Shortley phase, and with "component"
normalisation Σ_m Y_lm² = 2l + 1. A set of orders 0 … L is stored as one axis of length (L+1)²,
l ascending, m ascending within l.

The coupling tensor of three orders with l1 + l2 + l even is their Gaunt tensor scaled to unit
Frobenius norm, C[m1, m2, m] ∝ ∫ Y_{l1 m1} Y_{l2 m2} Y_{lm} dΩ. It is the real Clebsch–Gordan
(Wigner 3j) tensor, with the positive sign for every path.
"""

import math
from functools import cache

import numpy as np
import torch
from numpy.polynomial.legendre import leggauss
from scipy.special import assoc_legendre_p, factorial
from torch import Tensor, nn

from nemp_sim.torch_state import is_traced


def real_spherical_harmonics(l: int, unit_vectors: np.ndarray) -> np.ndarray:
    """Y_lm of unit vectors (n, 3) by the closed formula above, shape (2l+1, n), NumPy float64."""
    x, y, z = np.asarray(unit_vectors, dtype=float).T
    azimuth = np.arctan2(y, x)
    rows = []
    for m in range(-l, l + 1):
        k = abs(m)
        norm = np.sqrt((2 * l + 1) * factorial(l - k) / factorial(l + k)) * (-1) ** k
        trig = np.sin(k * azimuth) if m < 0 else np.cos(k * azimuth)
        root2 = 1.0 if m == 0 else np.sqrt(2.0)
        rows.append(norm * root2 * assoc_legendre_p(l, k, z)[0] * trig)
    return np.array(rows)


@cache
def coupling(l1: int, l2: int, l: int) -> np.ndarray:
    """Coupling tensor C[m1, m2, m] of orders with even l1 + l2 + l, unit Frobenius norm.

    The integral of the three harmonics is taken by a product quadrature that is exact for
    polynomials of degree l1 + l2 + l.
    """
    degree = l1 + l2 + l
    cos_theta, weight = leggauss(degree // 2 + 1)
    azimuth = np.arange(degree + 1) * 2 * np.pi / (degree + 1)
    z, phi = (grid.ravel() for grid in np.meshgrid(cos_theta, azimuth, indexing="ij"))
    s = np.sqrt(1 - z**2)
    points = np.stack([s * np.cos(phi), s * np.sin(phi), z], axis=1)
    weights = np.repeat(weight, degree + 1)
    y1, y2, y = (real_spherical_harmonics(order, points) for order in (l1, l2, l))
    gaunt = np.einsum("aq,bq,cq,q->abc", y1, y2, y, weights)
    gaunt[np.abs(gaunt) < 1e-13 * np.abs(gaunt).max()] = 0.0
    return gaunt / np.linalg.norm(gaunt)


def coupling_paths(max_l: int, pmax_l: int) -> list[tuple[int, int, int]]:
    """Paths (l, l1, l2) of the tensor product, in the order in which their weights are stored.

    l ≤ pmax_l, l1 ≤ max_l, l2 ≤ pmax_l, triangle rule, l + l1 + l2 even; l outermost, l2 innermost.
    """
    return [
        (l, l1, l2)
        for l in range(pmax_l + 1)
        for l1 in range(max_l + 1)
        for l2 in range(abs(l1 - l), min(pmax_l, l1 + l) + 1)
        if (l + l1 + l2) % 2 == 0
    ]


def order_of_component(max_l: int) -> Tensor:
    """The order l of each of the (max_l+1)² stored components, int64."""
    return torch.repeat_interleave(
        torch.arange(max_l + 1), torch.tensor([2 * l + 1 for l in range(max_l + 1)])
    )


def spread_orders(values: Tensor, order: Tensor) -> Tensor:
    """Values of each order (…, L+1, K) at each of its components: (…, (L+1)², K).

    ``order`` is ``order_of_component(L)``. The derivative sums each block in a fixed order.
    """
    if is_traced():
        return values.index_select(-2, order)
    return _SpreadOrders.apply(values, order)


class _SpreadOrders(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, order):  # noqa: ANN001, ANN205 (torch's signature)
        ctx.save_for_backward(order)
        return values.index_select(-2, order)

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001, ANN205
        return _SumOrders.apply(grad, *ctx.saved_tensors), None


class _SumOrders(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, order):  # noqa: ANN001, ANN205
        ctx.save_for_backward(order)
        blocks = values.split([2 * l + 1 for l in range(math.isqrt(order.shape[0]))], dim=-2)
        return torch.stack([block.sum(-2) for block in blocks], dim=-2)

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001, ANN205
        return _SpreadOrders.apply(grad, *ctx.saved_tensors), None


class SphericalHarmonics(nn.Module):
    """Y_lm of unit vectors for l = 0 … max_l, built by the stretched product of orders.

    Y_l = c_l Σ C[l−1, 1, l] Y_{l−1} Y_1: one small matrix product for each order, differentiable
    to any order.
    """

    def __init__(self, max_l: int) -> None:
        """Tabulate the products up to ``max_l``."""
        super().__init__()
        self.max_l = max_l
        pole = np.array([[0.0, 0.0, 1.0]])
        for l in range(2, max_l + 1):
            lower, first = (real_spherical_harmonics(k, pole)[:, 0] for k in (l - 1, 1))
            table = coupling(l - 1, 1, l)
            scale = np.sqrt(2 * l + 1) / np.einsum("a,b,abc->c", lower, first, table)[l]
            matrix = torch.from_numpy(scale * table.reshape(-1, 2 * l + 1))
            self.register_buffer(f"product_{l}", matrix, persistent=False)

    def forward(self, unit_vectors: Tensor) -> Tensor:
        """Y of unit vectors (E, 3): (E, (max_l+1)²)."""
        first = unit_vectors.roll(-1, dims=1) * 3**0.5  # (E, 3): y, z, x
        blocks = [torch.ones_like(unit_vectors[:, :1]), first][: self.max_l + 1]
        for l in range(2, self.max_l + 1):
            outer = (blocks[-1][:, :, None] * first[:, None, :]).flatten(1)  # (E, (2l−1)·3)
            blocks.append(outer @ getattr(self, f"product_{l}"))  # (E, 2l+1)
        return torch.cat(blocks, dim=1)


class TensorProduct(nn.Module):
    """D_lm = Σ_paths λ_path (G_{l1} ⊗ N_{l2})_{lm} / √c_l, channel by channel.

    c_l is the number of paths into l. The products of all pairs of components are formed once and
    contracted with the tabulated coupling tensors of all paths in one matrix product.
    """

    table: Tensor
    path_index: Tensor
    collect: Tensor

    def __init__(self, max_l: int, pmax_l: int) -> None:
        """Tabulate all paths for edge order ``max_l`` and node order ``pmax_l``."""
        super().__init__()
        self.paths = coupling_paths(max_l, pmax_l)
        n_edge, n_node = (max_l + 1) ** 2, (pmax_l + 1) ** 2
        columns: list[np.ndarray] = []
        path_of_column: list[int] = []
        order_m: list[int] = []
        for index, (l, l1, l2) in enumerate(self.paths):
            share = sum(1 for path in self.paths if path[0] == l)
            block = np.zeros((n_edge, n_node, 2 * l + 1))
            block[l1**2 : (l1 + 1) ** 2, l2**2 : (l2 + 1) ** 2] = coupling(l1, l2, l)
            columns.append(block.reshape(n_edge * n_node, -1) / np.sqrt(share))
            path_of_column += [index] * (2 * l + 1)
            order_m += range(l**2, (l + 1) ** 2)
        table = np.concatenate(columns, axis=1)  # (pairs, Q)
        collect = np.eye(n_node)[order_m]  # (Q, (P+1)²)
        self.register_buffer("table", torch.from_numpy(table.T.copy()), persistent=False)
        self.register_buffer("path_index", torch.tensor(path_of_column), persistent=False)
        self.register_buffer("collect", torch.from_numpy(collect.T.copy()), persistent=False)

    def forward(self, edge_sum: Tensor, neighbour_sum: Tensor, weights: Tensor) -> Tensor:
        """Couple G (N, (L+1)², K) with N (N, (P+1)², K); weights λ (N, paths, K)."""
        pairs = (edge_sum[:, :, None] * neighbour_sum[:, None]).flatten(1, 2)  # (N, pairs, K)
        coupled = torch.matmul(self.table, pairs)  # (N, Q, K)
        weighted = coupled * weights.index_select(1, self.path_index)
        return torch.matmul(self.collect, weighted)  # (N, (P+1)², K)
