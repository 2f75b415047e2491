"""Padded steps equal plain ones: on a CPU run as they are, on a GPU replayed as CUDA graphs."""

import copy
import importlib.util

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from nemp_sim import replay
from nemp_sim.calculator import NEMP
from nemp_sim.kernels.sizes import interpreted
from nemp_sim.neighbors import NeighborLists
from nemp_sim.padding import ladder, padded
from nemp_sim.potential import Potential
from nemp_sim.replay import Replays

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
# The kernels' edges fall into other blocks with padding, so float32 sums round otherwise.
CLOSE = {"rtol": 0, "atol": 2e-5 if CUDA else 1e-10}


def pair(random_potential, form="smooth", **shape):
    """The same network twice: with replays and without."""
    made = random_potential(form, **shape).model
    dtype = torch.float32 if CUDA else torch.float64
    plain, replayed = (
        Potential(copy.deepcopy(made).cast(dtype), device=DEVICE, kernel="auto") for _ in range(2)
    )
    plain._replays = None
    replayed._replays = Replays(
        replayed.cutoff_angstrom, replayed.species_of_number, replayed.device
    )
    return plain, replayed


def batch():
    """A crystal, a molecule with a cell, one without; none is empty."""
    crystal = bulk("Pd", "fcc", a=3.9, cubic=True)
    water = molecule("H2O", cell=[5.0, 6.0, 7.0], pbc=True)
    return [crystal, water, crystal * (2, 1, 1)]


def assert_equal_steps(plain, replayed, structures, lists, **options):
    got = replayed.evaluate(structures, neighbors=lists, on_extrapolation="ignore", **options)
    want = plain.evaluate(structures, on_extrapolation="ignore", **options)
    for name, mine in vars(got).items():
        theirs = getattr(want, name)
        if name == "outside":
            kinds = [[(f.kind, f.atoms) for f in each] for each in (*mine, *theirs)]
            assert kinds[: len(mine)] == kinds[len(mine) :]
        elif isinstance(mine, tuple):
            for a, b in zip(mine, theirs, strict=True):
                np.testing.assert_allclose(a, b, **CLOSE)
        elif mine is not None:
            np.testing.assert_allclose(mine, theirs, **CLOSE)


@pytest.mark.parametrize("n", [1, 7, 1024, 1025, 5000, 2**18 - 1])
def test_ladder(n):
    size, below = ladder(n)
    assert below < n <= size or size == 128
    assert size - below <= max(128, size / 8)
    assert ladder(size)[0] == size


@pytest.mark.parametrize("form", ["smooth", "published"])
@pytest.mark.parametrize("skin", [0.0, 0.4])
def test_padding_changes_nothing(random_potential, form, skin):
    plain, replayed = pair(random_potential, form, elements=("H", "O", "Pd"))
    lists = NeighborLists(plain.cutoff_angstrom, skin)
    structures = batch()
    for _ in range(3):
        assert_equal_steps(plain, replayed, structures, lists, stress=True)
    assert replayed._replays.n_recorded == 1


def test_uncertainties_are_replayed(random_potential):
    plain, replayed = pair(random_potential, n_members=3, zbl=True, elements=("H", "O", "Pd"))
    lists = NeighborLists(plain.cutoff_angstrom, 0.4)
    for _ in range(2):
        assert_equal_steps(plain, replayed, batch()[:2], lists, uncertainty=True)
        assert_equal_steps(plain, replayed, batch()[:2], lists)
    assert replayed._replays.n_recorded == 2


def test_atoms_that_move_far_change_cell_and_elements(random_potential, rng):
    """Lists are made anew; their number of edges changes, the recording stays or grows."""
    plain, replayed = pair(random_potential, elements=("H", "O", "Pd"))
    lists = NeighborLists(plain.cutoff_angstrom, 0.4)
    atoms = bulk("Pd", "fcc", a=3.9, cubic=True) * (2, 2, 2)
    counts = set()
    for step in range(8):
        atoms.positions += rng.normal(size=(len(atoms), 3)) * 0.1
        if step == 3:
            atoms.set_cell(atoms.cell.array * 1.02, scale_atoms=True)
        if step == 5:
            atoms.numbers[:4] = 1
        if step == 6:
            atoms.pbc = (True, True, False)
        assert_equal_steps(plain, replayed, [atoms], lists)
        counts.add(len(lists.kept(atoms, 0).centre))
    assert len(counts) > 3
    assert 1 <= replayed._replays.n_recorded <= 3


def test_two_series_of_equal_sizes_share_a_recording(random_potential):
    """Two calculators on one potential: each call finds its own atoms in place."""
    plain, replayed = pair(random_potential, elements=("H", "O", "Pd"))
    systems = []
    for numbers in ([46] * 4, [46, 46, 46, 1]):
        atoms = bulk("Pd", "fcc", a=3.9, cubic=True)
        atoms.numbers = numbers
        systems.append((atoms, NeighborLists(plain.cutoff_angstrom, 0.4)))
    for _ in range(3):
        for atoms, lists in systems:
            assert_equal_steps(plain, replayed, [atoms], lists)
    assert replayed._replays.n_recorded == 1


def test_recordings_are_few(random_potential, monkeypatch):
    monkeypatch.setattr(replay, "MOST_GRAPHS", 2)
    _, replayed = pair(random_potential, elements=("H", "O", "Pd"))
    for count in (1, 2, 3, 4):
        for _ in range(2):
            replayed.evaluate([molecule("H2O")] * count, on_extrapolation="ignore")
    assert replayed._replays.n_recorded == 4
    assert len(replayed._replays._recordings) == 2


def test_without_edges_or_with_too_many_nothing_is_recorded(random_potential, monkeypatch):
    plain, replayed = pair(random_potential, elements=("H", "O", "Pd"))
    lists = NeighborLists(plain.cutoff_angstrom)
    for structures in ([Atoms("H")], [], [molecule("H2O"), Atoms()]):
        for _ in range(2):
            assert_equal_steps(plain, replayed, structures, lists)
    monkeypatch.setattr(replay, "MOST_EDGES", 5)
    for _ in range(2):
        assert_equal_steps(plain, replayed, [molecule("H2O")], lists)
    assert replayed._replays.n_recorded == 0


@pytest.mark.parametrize("recorded", [True, False])
def test_edges_of_the_skin_are_left_out_of_large_systems(random_potential, monkeypatch, recorded):
    monkeypatch.setattr(replay, "SKIN_EDGES", 10)
    if not recorded:
        monkeypatch.setattr(replay, "MOST_EDGES", 10)
    plain, replayed = pair(random_potential, elements=("H", "O", "Pd"))
    lists = NeighborLists(plain.cutoff_angstrom, 0.4)
    structures = batch()
    for step in range(3):
        for atoms in structures:
            atoms.rattle(0.02, seed=step)
        assert_equal_steps(plain, replayed, structures, lists, stress=True)
    assert bool(replayed._replays.n_recorded) == recorded
    assert lists.n_builds == len(structures)


def test_edges_within_a_cutoff(random_potential, graph_of):
    potential = random_potential("smooth", elements=("H", "O", "Pd"), cutoff_angstrom=5.0)
    short = random_potential("smooth", elements=("H", "O", "Pd"), cutoff_angstrom=3.5)
    got, want = graph_of(potential, batch()).within(3.5), graph_of(short, batch())
    assert torch.equal(got.row_start, want.row_start)
    assert torch.equal(got.centre, want.centre)
    for graph in (got, want):
        assert torch.equal(graph.neighbour[graph.by_neighbour], graph.neighbour.sort().values)
    lengths = [
        torch.stack([g.centre, g.neighbour, g.edge_vectors().norm(dim=1)]).T for g in (got, want)
    ]
    same = [np.array(sorted(map(tuple, rows.tolist()))) for rows in lengths]
    np.testing.assert_allclose(*same, rtol=0, atol=1e-12)


@pytest.mark.parametrize("spare", [-3, 0, 40, 4000])
@pytest.mark.parametrize("kernels", [False, True])
def test_packed_edges(random_potential, graph_of, spare, kernels):
    """Edges within the cutoff and padding, in the order of the graph made for that cutoff."""
    if kernels and not (importlib.util.find_spec("triton") and (CUDA or interpreted())):
        pytest.skip("needs triton, and a CUDA device or TRITON_INTERPRET=1")
    potential = random_potential("smooth", elements=("H", "O", "Pd"), cutoff_angstrom=5.0)
    whole = graph_of(potential, batch()).to(torch.device(DEVICE if kernels else "cpu"))
    want, n = whole.within(3.5), len(whole.species)
    n_edges = len(want.centre)
    if kernels:
        from nemp_sim.kernels.pack import pack as packed
    else:
        from nemp_sim.padding import packed
    got, count = packed(padded(whole), 3.5, n_edges + spare, n)
    assert int(count) == n_edges
    if spare < 0:
        return
    for name in ("centre", "neighbour", "shifts", "by_neighbour"):
        assert torch.equal(getattr(got, name)[:n_edges], getattr(want, name))
    assert torch.equal(got.row_start[: n + 1], want.row_start)
    assert got.row_start[-1] == n_edges + spare
    assert (got.centre[n_edges:] >= n).all() and (got.edge_vectors()[n_edges:, 0] == 1000).all()
    for rows in (got.centre, got.neighbour[got.by_neighbour]):
        assert torch.equal(torch.bincount(rows, minlength=len(got.species)), got.row_start.diff())


def test_more_edges_than_there_is_room_for(random_potential, monkeypatch):
    """Atoms that come closer within the skin: the step is done again, with room."""
    monkeypatch.setattr(replay, "SKIN_EDGES", 10)
    monkeypatch.setattr(replay, "SPARE", 0.5)
    plain, replayed = pair(random_potential, elements=("H", "O", "Pd"))
    lists = NeighborLists(plain.cutoff_angstrom, 0.4)
    crystal = bulk("Pd", "fcc", a=3.9, cubic=True) * (3, 3, 2)
    for _ in range(4):
        assert_equal_steps(plain, replayed, [crystal], lists)
    assert replayed._replays.n_recorded >= 1


def test_a_failed_recording_is_said_once(random_potential, monkeypatch, recwarn):
    plain, replayed = pair(random_potential, elements=("H", "O", "Pd"))

    def fail(*args):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(replay, "Replay", fail)
    lists = NeighborLists(plain.cutoff_angstrom, 0.4)
    for _ in range(4):
        assert_equal_steps(plain, replayed, batch(), lists)
    said = [str(w.message) for w in recwarn if "CUDA graphs" in str(w.message)]
    assert len(said) == 1
    assert "operation not permitted when stream is capturing" in said[0]


def test_memory_that_runs_out_is_given_back(random_potential, monkeypatch):
    plain, replayed = pair(random_potential, elements=("H", "O", "Pd"))
    lists = NeighborLists(plain.cutoff_angstrom, 0.4)
    for _ in range(2):
        assert_equal_steps(plain, replayed, batch(), lists)
    assert replayed._replays._recordings

    def fail(*args):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(replayed._replays, "step", fail)
    assert_equal_steps(plain, replayed, batch(), lists)
    assert not replayed._replays._recordings


def test_calculator_replays(random_potential):
    plain, replayed = pair(random_potential, elements=("H", "O", "Pd"))
    atoms = bulk("Pd", "fcc", a=3.9, cubic=True)
    atoms.rattle(0.1, seed=0)
    atoms.calc = NEMP(replayed, on_extrapolation="ignore")
    for _ in range(3):
        atoms.positions[0, 0] += 0.01
        want = plain.evaluate([atoms], on_extrapolation="ignore").forces[0]
        np.testing.assert_allclose(atoms.get_forces(), want, **CLOSE)
    assert replayed._replays.n_recorded == 1
