"""PairTable against the networks themselves in float64, at distances that are no knots."""

import copy
from functools import partial

import pytest
import torch

from nemp_sim import load_potential
from nemp_sim.derivatives import differentiate
from nemp_sim.model import EPSILON
from nemp_sim.tabulation import PairTable, TabulationError, hermite_basis

FLOAT32_ROUNDING = 2.0**-23
SLOPE_ROUNDING = 2.0**-21
FORCE_ERROR = 2e-6  # eV/Å, of a float64 table


@pytest.fixture(scope="module", params=["smooth", "published", "water.pt"])
def tabulated(request, random_potential):
    """A network in float64 and its table."""
    if request.param == "water.pt":  # inner switch, steep at short distances
        model = load_potential("water.pt", "cpu", "float64").model
    else:
        model = random_potential(request.param).model
    return model, PairTable(model, torch.float64)


def random_pairs(model, closest=0.1, n=3000):
    generator = torch.Generator().manual_seed(7)
    d = torch.rand(n, generator=generator, dtype=torch.float64)
    pair = torch.randint(len(model.config.elements) ** 2, (n,), generator=generator)
    return closest + d * (1.02 * model.config.cutoff_angstrom - closest), pair


def test_values_are_those_of_the_network_to_float32_rounding(tabulated):
    model, table = tabulated
    d, pair = random_pairs(model)
    for name, got, want in zip(
        ("cutoff", "state", "radial", "orbitals"),
        table(d, pair),
        model.pair_functions(d, pair),
        strict=True,
    ):
        assert (got - want).abs().max() < FLOAT32_ROUNDING * want.abs().max(), name


def test_slopes_are_those_of_the_network(tabulated):
    model, table = tabulated
    d, pair = random_pairs(model)
    for index in range(4):
        slopes = []
        for functions in (table, model.pair_functions):
            x = d.clone().requires_grad_()
            values = functions(x, pair)[index].reshape(len(d), -1)
            generator = torch.Generator().manual_seed(index)
            weights = torch.randn(values.shape[1], generator=generator, dtype=torch.float64)
            slopes += torch.autograd.grad((values @ weights).sum(), x)
        largest = slopes[1].abs().max()
        assert (slopes[0] - slopes[1]).abs().max() < SLOPE_ROUNDING * largest


def test_nothing_beyond_the_cutoff_and_inside_the_inner_switch(tabulated):
    model, table = tabulated
    _, pair = random_pairs(model, n=64)
    beyond = torch.full((64,), model.config.cutoff_angstrom + 0.3, dtype=torch.float64)
    inside = 0.6 * model.inner_radius[pair] if model.zbl is not None else beyond
    for d in (beyond, inside):
        assert all(torch.equal(f, torch.zeros_like(f)) for f in table(d, pair))


def test_forces_and_virial_through_the_table(tabulated, graph_of, water):
    model, table = tabulated
    water = water[:12]
    graph = graph_of(load_potential("water.pt", "cpu", "float64"), [water])
    if model.config.elements != (1, 8):
        graph = graph.__class__(**vars(graph) | {"species": graph.species * 2})
    describe = partial(model.describe, pair_functions=table)
    got = differentiate(model, graph, forces=True, stress=True, describe=describe)
    want = differentiate(model, graph, forces=True, stress=True)
    torch.testing.assert_close(got.forces, want.forces, rtol=0, atol=FORCE_ERROR)
    torch.testing.assert_close(got.virial, want.virial, rtol=0, atol=10 * FORCE_ERROR)


def test_hermite_basis_reproduces_polynomials_of_degree_five():
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    value, slope = hermite_basis(t)
    for power in range(6):
        knots = [
            [x**power, power * x ** max(power - 1, 0), power * (power - 1) * x ** max(power - 2, 0)]
            for x in (0.0, 1.0)
        ]
        knots = torch.tensor(knots, dtype=torch.float64).flatten()
        torch.testing.assert_close(value @ knots, t**power, rtol=0, atol=1e-14)
        want = power * t ** max(power - 1, 0)
        torch.testing.assert_close(slope @ knots, want, rtol=0, atol=1e-13)


def test_too_rough_functions_are_refused(random_potential):
    model = copy.deepcopy(random_potential("smooth").model)
    with torch.no_grad():
        model.pair_code.frequency *= 3000
    with pytest.raises(TabulationError, match="intervals leave relative errors"):
        PairTable(model)


def test_shortest_length_of_an_edge_is_inside_the_table(tabulated):
    model, table = tabulated
    shortest = torch.full((1,), EPSILON**0.5, dtype=torch.float64)
    values = table(shortest, torch.zeros(1, dtype=torch.long))
    assert all(torch.isfinite(f).all() for f in values)
