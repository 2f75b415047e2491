"""Frame tables: a padded batch equals its frames; batches deal every frame and fit their shape."""

import dataclasses

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from nemp_sim.derivatives import differentiate
from nemp_sim.training.data import Frame
from nemp_sim.training.tables import Batches, BatchSize, FrameTable, build_table
from tests.conftest import make_methanol, make_slab, make_tilted

EQUAL = {"rtol": 0, "atol": 1e-10}  # eV, eV/Å, float64
CPU = torch.device("cpu")
KINDS = {
    "molecule": make_methanol,
    "slab": make_slab,
    "tilted bulk": make_tilted,
    "bulk": lambda: bulk("Pd", a=3.95, cubic=True),
    "lone atom": lambda: Atoms("O", [[0.3, -0.2, 0.1]]),
    "lone atom in a box": lambda: Atoms("Pd", cell=[9, 9, 9], pbc=True),
}
PADDED = [BatchSize(6, 40, 2100), BatchSize(6, 80, 4000), BatchSize(6, 200, 20000)]


def labelled(atoms, rng, head="default", stress=True):
    """A frame with random labels; stress only where there is a periodic cell."""
    full = rng.normal(size=(3, 3)) if stress and atoms.pbc.any() else None
    full = None if full is None else full + full.T
    forces = rng.normal(size=(len(atoms), 3))
    return Frame(atoms, float(rng.normal()), forces, full, "any", "0", head)


@pytest.fixture
def frames(rng):
    return [labelled(make(), rng) for make in KINDS.values()]


def table_of(frames, potential, heads=("default",)):
    elements = potential.config.elements
    return build_table(frames, elements, potential.cutoff_angstrom, CPU, heads)


# --- a batch is its frames


def test_smallest_shape_has_one_padding_atom(potential, frames):
    table = table_of(frames, potential)
    index = torch.arange(len(frames))
    size = table.size_of(index)
    assert size.frames == len(frames)
    assert size.atoms == sum(len(f.atoms) for f in frames) + 1
    assert size.edges == len(table.centre)
    assert table.size_of(torch.tensor([4])) == BatchSize(1, 2, 1)  # lone atom, one padding edge


@pytest.mark.parametrize("size", [None, *PADDED], ids=["smallest", "small", "large", "huge"])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 3, 0, 4, 2, 1], [4, 5, 4, 5, 0, 0]])
def test_batch_equals_its_frames(potential, frames, order, size):
    table = table_of(frames, potential)
    index = torch.tensor(order)
    smallest = table.size_of(index)
    if size is None or size.atoms < smallest.atoms or size.edges < smallest.edges:
        size = smallest
    graph, labels = table.batch(index, size)
    assert graph.positions.shape == (size.atoms, 3) and graph.centre.shape == (size.edges,)
    result = differentiate(potential.model, graph, forces=True, stress=True)
    for tensor in (result.atomic_energies, result.energy, result.forces, result.virial):
        assert torch.isfinite(tensor).all()
    start = 0
    for place, k in enumerate(order):
        atoms, end = frames[k].atoms, start + len(frames[k].atoms)
        exact = potential.evaluate([atoms], stress=bool(atoms.pbc.any()))
        np.testing.assert_allclose(result.energy[place], exact.energy[0], **EQUAL)
        np.testing.assert_allclose(result.atomic_energies[start:end], exact.energies[0], **EQUAL)
        np.testing.assert_allclose(result.forces[start:end], exact.forces[0], **EQUAL)
        np.testing.assert_array_equal(labels[start:end], frames[k].forces)
        if exact.stress is not None:
            virial = result.virial[place].numpy().ravel()[[0, 4, 8, 5, 2, 1]]
            np.testing.assert_allclose(virial, exact.stress[0] * atoms.get_volume(), **EQUAL)
        start = end
    assert (graph.structure[start:] == len(order)).all()
    assert not result.forces[start:].any()  # nothing pulls at the padding


def test_padding_gets_no_gradient_and_gives_none(potential, frames):
    """The loss of the real atoms has the same weight gradient whatever the padding."""
    table, index = table_of(frames, potential), torch.tensor([1, 4, 0])
    potential.model.requires_grad_(True)
    try:
        gradients = []
        for size in (table.size_of(index), BatchSize(3, 120, 9000)):
            graph, _ = table.batch(index, size)
            result = differentiate(
                potential.model, graph, forces=True, stress=True, create_graph=True
            )
            loss = result.energy[:-1].square().sum() + result.virial[:-1].square().sum()
            loss = loss + result.forces[graph.structure < 3].square().sum()
            parts = torch.autograd.grad(loss, list(potential.model.parameters()))
            gradients.append(torch.cat([p.flatten() for p in parts]))
    finally:
        potential.model.requires_grad_(False)
    assert torch.isfinite(gradients[0]).all() and gradients[0].abs().max() > 1e-3
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-11)


def test_batch_is_a_graph_by_its_own_rules(potential, frames):
    """Sorted by centre, each pair in both directions, permutation and row starts consistent."""
    table = table_of(frames, potential)
    graph, _ = table.batch(torch.tensor([2, 0, 3]), BatchSize(3, 90, 5000))
    n_atoms = len(graph.species)
    assert (graph.centre.diff() >= 0).all() and (graph.structure.diff() >= 0).all()
    assert (graph.neighbour[graph.by_neighbour].diff() >= 0).all()
    assert torch.equal(graph.by_neighbour.sort().values, torch.arange(5000))
    counts = graph.row_start.diff()
    assert torch.equal(counts, torch.bincount(graph.centre, minlength=n_atoms))
    assert torch.equal(counts, torch.bincount(graph.neighbour, minlength=n_atoms))
    assert torch.equal(graph.structure[graph.centre], graph.structure[graph.neighbour])
    for b, first in enumerate(graph.first_atom[:-1]):
        assert (graph.structure[first : graph.first_atom[b + 1]] == b).all()
    padding = graph.structure[graph.centre] == 3
    assert graph.edge_vectors()[padding].norm(dim=1).min() > 100 * potential.cutoff_angstrom
    assert counts[graph.structure == 3].diff().abs().max() <= 1  # spread evenly


def test_a_table_of_lone_atoms_alone(random_potential):
    potential = random_potential("smooth")
    atoms = [Atoms("O"), Atoms("Pd")]
    table = table_of([Frame(a, 0.0, np.zeros((1, 3)), None, "a", "0") for a in atoms], potential)
    graph, _ = table.batch(torch.tensor([1, 0]), table.size_of(torch.tensor([1, 0])))
    result = differentiate(potential.model, graph, forces=True, stress=False)
    want = potential.evaluate(atoms[::-1]).energy
    np.testing.assert_allclose(result.energy[:2], want, **EQUAL)
    assert not result.forces.any()


def test_labels_are_those_of_the_frames(random_potential, frames):
    table = table_of(frames, random_potential("smooth"))
    assert table.energy.tolist() == [f.energy for f in frames]
    assert table.has_stress.tolist() == [float(f.stress is not None) for f in frames]
    assert table.n_atoms.tolist() == [len(f.atoms) for f in frames]
    for k, frame in enumerate(frames):
        want = 0 if frame.stress is None else frame.stress * frame.atoms.get_volume()
        np.testing.assert_allclose(table.virial[k], np.broadcast_to(want, (3, 3)), rtol=1e-14)


def test_each_structure_is_read_out_by_its_head(random_potential, rng):
    heads = ("pbe", "rpbe")
    both = random_potential("smooth", heads=heads)
    network = two_headed(random_potential, heads)
    frames = [labelled(make_methanol(), rng, head) for head in ("rpbe", "pbe", "rpbe")]
    table = table_of(frames, both, heads)
    assert table.head.tolist() == [1, 0, 1]
    graph, _ = table.batch(torch.tensor([0, 1]), BatchSize(2, 20, 400))
    energy = differentiate(network, graph, forces=False, stress=False).energy
    for place, head in enumerate(("rpbe", "pbe")):
        alone = random_potential("smooth", heads=heads, head=head)
        want = alone.evaluate([frames[place].atoms]).energy[0]
        np.testing.assert_allclose(energy[place].item(), want, **EQUAL)
    assert abs(energy[0] - energy[1]) > 1e-3


def two_headed(random_potential, heads):
    """The network of both heads, put together from the potentials of each."""
    from copy import deepcopy

    one, other = (random_potential("smooth", heads=heads, head=h).model for h in heads)
    network = deepcopy(one)
    network.readouts[heads[1]] = deepcopy(other.readouts[heads[1]])
    return network


# --- dealing


def plain_table(atoms, edges):
    """A table of which only the sizes count."""
    fields = {f.name: torch.zeros(0) for f in dataclasses.fields(FrameTable)}
    fields["energy"] = torch.zeros(len(atoms))
    for name, counts in (("first_atom", atoms), ("first_edge", edges)):
        fields[name] = torch.tensor([0, *np.cumsum(counts).tolist()])
    return FrameTable(**fields)


DEALS = [(n, b, p) for p in (1, 2, 3) for n in (1, 2, 5, 17, 40, 101) for b in (1, 2, 3, 6, 12, 30)]
DEALS = [(n, b, p) for n, b, p in DEALS if min(n, b) % p == 0]


@pytest.mark.parametrize(("n_frames", "batch_size", "processes"), DEALS)
def test_every_frame_is_dealt_once_and_every_batch_fits(n_frames, batch_size, processes, rng):
    for spread in (1, 10, 1000):
        atoms = rng.integers(1, 1 + spread, n_frames)
        edges = rng.integers(0, 40, n_frames) * atoms * (rng.random(n_frames) > 0.1)
        most = int(rng.integers(0, 40 * spread))
        batches = Batches(plain_table(atoms, edges), batch_size, 7, processes, most)
        strata, shares = min(batch_size, n_frames), batches.size.shares
        assert batches.count == -(-n_frames // strata)
        assert batches.size.frames * shares == strata and shares % processes == 0
        assert batches.size.edges <= max(most, 1) or batches.size.frames == 1
        for epoch in range(20):
            dealt = list(batches.epoch(epoch))
            assert [len(b) for b in dealt] == [strata] * batches.count
            counts = np.bincount(torch.cat(dealt).numpy(), minlength=n_frames)
            assert counts.min() == 1 and counts.max() <= 2
            assert counts.sum() == n_frames + (-n_frames) % strata
            for batch in dealt:
                for share in range(shares):
                    mine = batch[share::shares].numpy()
                    assert len(mine) == batches.size.frames
                    assert atoms[mine].sum() < batches.size.atoms  # one at least is padding
                    assert edges[mine].sum() <= batches.size.edges


def test_epochs_depend_on_seed_and_epoch_alone(rng):
    table = plain_table(rng.integers(1, 9, 30), rng.integers(0, 90, 30))

    def deal(seed, epoch):
        return torch.stack(list(Batches(table, 4, seed).epoch(epoch)))

    np.random.seed(1)  # noqa: NPY002 (must not matter)
    torch.manual_seed(1)
    first = deal(1, 0)
    batches = Batches(table, 4, 1)
    for epoch in (3, 0):  # out of order
        again = torch.stack(list(batches.epoch(epoch)))
    assert torch.equal(first, again)
    assert not torch.equal(first, deal(1, 1)) and not torch.equal(first, deal(2, 0))
    parts = torch.stack(list(Batches(table, 4, 1, processes=2).epoch(0)))
    assert torch.equal(parts, first)  # the whole batch does not depend on the processes


def test_batches_are_alike(rng):
    """Dealt by size, the shape holds little padding even where sizes differ a hundredfold."""
    edges = rng.integers(20, 2000, 400)
    table = plain_table(1 + edges // 20, edges)
    batches = Batches(table, 8, 0)
    mean = edges.sum() / batches.count
    sums = [edges[b.numpy()].sum() for b in batches.epoch(0)]
    at_random = rng.permutation(edges).reshape(-1, 8).sum(1)
    assert np.std(sums) < 0.25 * at_random.std()
    assert batches.size.edges < 1.25 * mean


def test_a_table_is_split_by_edges(rng):
    edges = rng.integers(0, 50, 40)
    table = plain_table(1 + edges, edges)
    for most in (1, 60, 10**6):
        runs = list(table.split(most))
        assert torch.equal(torch.cat(runs), torch.arange(40))
        sums = [int(edges[run.numpy()].sum()) for run in runs]
        fits = [total <= most or np.count_nonzero(edges[run]) == 1
                for total, run in zip(sums, runs, strict=True)]  # fmt: skip
        assert all(fits)
        assert all(a + edges[run[0]] > most for a, run in zip(sums, runs[1:], strict=False))


def test_mixed_orders_reach_all_partners(rng):
    """Over many epochs two frames of different strata do meet, so batches are not fixed sets."""
    table = plain_table(np.arange(1, 13), np.arange(12) * 10)
    batches = Batches(table, 3, 0)
    met = {tuple(sorted(b.tolist())) for epoch in range(200) for b in batches.epoch(epoch)}
    assert len(met) == 4**3
