"""AtomGraph: gathers and sums, against plain indexing and ``index_add``."""

import pytest
import torch
from ase import Atoms

N_FEATURES = 3


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def graph(request, graph_of, random_potential, methanol, tilted):
    """Methanol and a lone atom; few edges, so that the numerical derivatives stay cheap."""
    potential = random_potential("smooth", cutoff_angstrom=1.6)
    small = [methanol, Atoms("H", [[0, 0, 0]])]
    return graph_of(potential, small).to(torch.device(request.param))


def random_like(graph, n_rows, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n_rows, N_FEATURES, generator=generator, dtype=torch.float64)
    return values.to(graph.centre.device)


def random_nodes(graph, seed=1):
    return random_like(graph, len(graph.species), seed)


def random_edges(graph, seed=2):
    return random_like(graph, len(graph.centre), seed)


def test_graph_has_edges_to_test(graph):
    assert len(graph.centre) == 10  # five bonds of methanol, in both directions


@pytest.mark.parametrize("side", ["centre", "neighbour"])
def test_gather_is_indexing(graph, side):
    nodes = random_nodes(graph)
    got = getattr(graph, f"at_{side}")(nodes)
    assert torch.equal(got, nodes[getattr(graph, side)])


def test_sum_edges_is_index_add(graph):
    edges = random_edges(graph)
    want = torch.zeros_like(random_nodes(graph)).index_add(0, graph.centre, edges)
    torch.testing.assert_close(graph.sum_edges(edges), want, rtol=1e-14, atol=1e-14)


def test_at_atoms_is_indexing(graph):
    values = random_like(graph, graph.n_structures, 3).requires_grad_()
    got = graph.at_atoms(values)
    assert torch.equal(got, values[graph.structure])
    (back,) = torch.autograd.grad(got, values, torch.ones_like(got))
    assert back[:, 0].tolist() == [6, 1]  # the number of atoms of each


def test_sum_atoms_keeps_structures_apart(graph):
    values = random_nodes(graph)[:, 0]
    want = torch.stack([values[:-1].sum(), values[-1]])
    torch.testing.assert_close(graph.sum_atoms(values), want, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("side", ["centre", "neighbour"])
def test_derivative_of_a_gather_is_its_adjoint(graph, side):
    nodes = random_nodes(graph).requires_grad_()
    edges = random_edges(graph)
    gathered = getattr(graph, f"at_{side}")(nodes)
    (back,) = torch.autograd.grad(gathered, nodes, edges)
    want = torch.zeros_like(back).index_add(0, getattr(graph, side), edges)
    torch.testing.assert_close(back, want, rtol=1e-14, atol=1e-14)
    # <A n, e> = <n, A^T e>
    torch.testing.assert_close((gathered * edges).sum(), (nodes * back).sum())


@pytest.mark.parametrize("name", ["at_centre", "at_neighbour", "sum_edges"])
def test_gathers_and_sums_differentiate_twice(graph, name):
    values = random_edges(graph) if name == "sum_edges" else random_nodes(graph)
    values.requires_grad_()

    def curved(x):
        return getattr(graph, name)(x**3)  # a linear map alone has no second derivative

    assert torch.autograd.gradcheck(curved, values)
    assert torch.autograd.gradgradcheck(curved, values)


def test_edge_vectors_differentiate_twice(graph, graph_of, random_potential, tilted):
    bulk = graph_of(random_potential("smooth", cutoff_angstrom=2.5), [tilted, tilted])
    bulk = bulk.to(graph.centre.device)
    strain = torch.zeros_like(bulk.cells).requires_grad_()

    def lengths(strain):
        return bulk.strained(strain).edge_vectors().square().sum(1).sqrt()

    assert torch.autograd.gradcheck(lengths, strain)
    assert torch.autograd.gradgradcheck(lengths, strain)


@pytest.mark.parametrize("scales", [[1.0], [1.0, 1.1, 0.9]])
def test_edge_vectors_equal_the_definition(graph_of, random_potential, tilted, scales):
    batch = []
    for scale in scales:
        batch.append(tilted.copy())
        batch[-1].set_cell(tilted.cell * scale, scale_atoms=True)
    graph = graph_of(random_potential("smooth"), batch)
    cells = graph.cells[graph.structure[graph.centre]]
    want = graph.positions[graph.neighbour] - graph.positions[graph.centre]
    want = want + torch.einsum("es,esx->ex", graph.shifts, cells)
    torch.testing.assert_close(graph.edge_vectors(), want, rtol=1e-13, atol=1e-13)
    assert graph.edge_vectors().norm(dim=1).max() < 4.0


def test_edges_are_sorted_and_in_both_directions(graph_of, random_potential, structures):
    graph = graph_of(random_potential("smooth"), list(structures.values()))
    n_atoms = len(graph.species)
    assert (graph.centre.diff() >= 0).all()
    assert (graph.neighbour[graph.by_neighbour].diff() >= 0).all()
    counts = graph.row_start.diff()
    assert torch.equal(counts, torch.bincount(graph.centre, minlength=n_atoms))
    assert torch.equal(counts, torch.bincount(graph.neighbour, minlength=n_atoms))
    assert torch.equal(graph.structure[graph.centre], graph.structure[graph.neighbour])
