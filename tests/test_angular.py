"""Harmonics and couplings against e3nn, whose polar axis is y: its (x, y, z) is our (y, z, x)."""

import numpy as np
import pytest
import torch
from e3nn import o3

from nemp_sim.angular import (
    SphericalHarmonics,
    TensorProduct,
    coupling,
    coupling_paths,
    order_of_component,
    real_spherical_harmonics,
    spread_orders,
)

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}
MAX_L = 4
TO_E3NN = [1, 2, 0]
EVEN_PATHS = [
    (l1, l2, l)
    for l1 in range(MAX_L + 1)
    for l2 in range(MAX_L + 1)
    for l in range(abs(l1 - l2), min(MAX_L, l1 + l2) + 1)
    if (l1 + l2 + l) % 2 == 0
]


@pytest.fixture
def directions(rng):
    """Random unit vectors, and the six along the axes, where the azimuth is degenerate."""
    vectors = np.concatenate([rng.normal(size=(20, 3)), np.eye(3), -np.eye(3)])
    return torch.from_numpy(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def e3nn_harmonics(max_l, vectors):
    orders = list(range(max_l + 1))
    return o3.spherical_harmonics(orders, vectors[:, TO_E3NN], False, normalization="component")


def wigner_matrix(max_l, rotation):
    """D with Y(R v) = D Y(v), solved from e3nn's harmonics (its own D is only good to 1e-7)."""
    vectors = torch.randn(90, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    vectors /= vectors.norm(dim=1, keepdim=True)
    turned = vectors @ torch.from_numpy(rotation).T
    fit = torch.linalg.lstsq(e3nn_harmonics(max_l, vectors), e3nn_harmonics(max_l, turned))
    return fit.solution.T


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("max_l", range(MAX_L + 1))
def test_harmonics_equal_e3nn(max_l, dtype, directions):
    got = SphericalHarmonics(max_l).to(dtype)(directions.to(dtype))
    assert got.dtype == dtype
    torch.testing.assert_close(
        got.double(), e3nn_harmonics(max_l, directions), rtol=0, atol=TOLERANCE[dtype]
    )


@pytest.mark.parametrize("l", range(MAX_L + 1))
def test_closed_formula_equals_e3nn(l, directions):
    got = real_spherical_harmonics(l, directions.numpy())
    want = e3nn_harmonics(MAX_L, directions)[:, l**2 : (l + 1) ** 2].T
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE[torch.float64])


def test_component_normalisation(directions):
    squares = SphericalHarmonics(MAX_L)(directions) ** 2
    for l in range(MAX_L + 1):
        total = squares[:, order_of_component(MAX_L) == l].sum(1)
        torch.testing.assert_close(
            total, torch.full_like(total, 2 * l + 1), rtol=0, atol=TOLERANCE[torch.float64]
        )


@pytest.mark.parametrize(("l1", "l2", "l"), EVEN_PATHS)
def test_coupling_equals_wigner_3j(l1, l2, l):
    want = o3.wigner_3j(l1, l2, l, dtype=torch.float64)
    np.testing.assert_allclose(coupling(l1, l2, l), want, rtol=0, atol=TOLERANCE[torch.float64])


@pytest.mark.parametrize("max_l", [1, 2, 3, 4])
def test_harmonics_turn_with_the_frame(max_l, rotation, directions):
    harmonics = SphericalHarmonics(max_l)
    turned = harmonics(directions @ torch.from_numpy(rotation).T)
    want = harmonics(directions) @ wigner_matrix(max_l, rotation).T
    torch.testing.assert_close(turned, want, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("max_l", "pmax_l"), [(0, 0), (2, 1), (2, 2), (4, 2), (4, 4)])
def test_tensor_product_turns_with_the_frame(max_l, pmax_l, rotation):
    product = TensorProduct(max_l, pmax_l)
    g, n, weights = random_operands(product, max_l, pmax_l)
    d_edge, d_node = wigner_matrix(max_l, rotation), wigner_matrix(pmax_l, rotation)
    turned = product(d_edge @ g, d_node @ n, weights)
    torch.testing.assert_close(turned, d_node @ product(g, n, weights), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("max_l", "pmax_l"), [(0, 0), (1, 0), (2, 1), (2, 2), (3, 2)])
def test_tensor_product_is_the_weighted_sum_over_paths(max_l, pmax_l):
    product = TensorProduct(max_l, pmax_l)
    g, n, weights = random_operands(product, max_l, pmax_l)
    want = torch.zeros_like(n)
    paths = published_paths(max_l, pmax_l)
    for index, (l, l1, l2) in enumerate(paths):
        left, right = g[:, l1**2 : (l1 + 1) ** 2], n[:, l2**2 : (l2 + 1) ** 2]
        table = o3.wigner_3j(l1, l2, l, dtype=torch.float64)
        term = torch.einsum("abc,nak,nbk,nk->nck", table, left, right, weights[:, index])
        want[:, l**2 : (l + 1) ** 2] += term / sum(path[0] == l for path in paths) ** 0.5
    torch.testing.assert_close(
        product(g, n, weights), want, rtol=0, atol=TOLERANCE[torch.float64] * 10
    )


def random_operands(product, max_l, pmax_l, n_atoms=3, n_channels=2):
    generator = torch.Generator().manual_seed(5)
    sizes = [(max_l + 1) ** 2, (pmax_l + 1) ** 2, len(product.paths)]
    shapes = [(n_atoms, size, n_channels) for size in sizes]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def published_paths(max_l, pmax_l):
    """All allowed (l, l1, l2), filtered from the full cube in the published order."""
    cube = np.ndindex(pmax_l + 1, max_l + 1, pmax_l + 1)
    return [(l, a, b) for l, a, b in cube if abs(l - a) <= b <= l + a and (l + a + b) % 2 == 0]


@pytest.mark.parametrize(
    ("max_l", "pmax_l", "count"), [(0, 0, 1), (1, 1, 4), (2, 1, 5), (2, 2, 11), (4, 0, 1)]
)
def test_paths(max_l, pmax_l, count):
    # 11 and 5 are the counts in the published parameters, tests/data/{methanol,water_pbc}.npz
    paths = coupling_paths(max_l, pmax_l)
    assert len(paths) == count
    assert paths == published_paths(max_l, pmax_l)


def test_harmonics_differentiate_twice():
    vectors = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    vectors.requires_grad_()
    harmonics = SphericalHarmonics(MAX_L)
    assert torch.autograd.gradcheck(harmonics, vectors)
    assert torch.autograd.gradgradcheck(harmonics, vectors)


def test_tensor_product_differentiates_twice():
    product = TensorProduct(2, 1)
    operands = random_operands(product, 2, 1, n_atoms=2, n_channels=1)
    operands = [operand.requires_grad_() for operand in operands]
    assert torch.autograd.gradcheck(product, operands)
    assert torch.autograd.gradgradcheck(product, operands)


@pytest.mark.parametrize("max_l", [0, 1, 3])
def test_spread_orders_repeats_each_order_over_its_components(max_l):
    values = torch.randn(2, max_l + 1, 3, dtype=torch.float64).requires_grad_()
    order = order_of_component(max_l)
    want = torch.cat([values[:, l : l + 1].expand(-1, 2 * l + 1, -1) for l in range(max_l + 1)], 1)
    assert torch.equal(spread_orders(values, order), want)

    def curved(x):
        return spread_orders(x**3, order)

    assert torch.autograd.gradcheck(curved, values)
    assert torch.autograd.gradgradcheck(curved, values)
