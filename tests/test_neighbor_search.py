"""Pairs found in bins on a device against vesin, structure by structure; series that stay there."""

import importlib.util

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from nemp_sim import neighbor_search, resident
from nemp_sim.errors import InputError
from nemp_sim.graph import AtomGraph
from nemp_sim.kernels.sizes import interpreted
from nemp_sim.neighbors import NeighborLists, build_graph, edge_list
from nemp_sim.resident import Residents, device_graph

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SPECIES = torch.arange(119)


def structures(rng):
    """Crystals, slabs, molecules, atoms far apart, odd cells with any periodic axes."""
    made = [
        *(bulk("Pd"), bulk("Pd", cubic=True) * (3, 2, 1), fcc111("Pd", (2, 2, 3), vacuum=8)),
        *(molecule("CH3OH"), Atoms("H"), molecule("H2O", cell=[4, 5, 6], pbc=True)),
        Atoms("HO", [[0, 0, 0], [0, 0, 2.0]], cell=[0, 0, 9], pbc=(0, 0, 1)),
        Atoms("O2", [[0, 0, 0], [1e3, 0, 0]]),
        Atoms("H40", rng.normal(size=(40, 3)) * 30),
    ]
    for _ in range(12):
        n = rng.integers(1, 30)
        cell = rng.normal(size=(3, 3)) * 2 + np.eye(3) * rng.uniform(5, 12)
        places = rng.uniform(-15, 25, size=(n, 3))
        made.append(Atoms(f"H{n}", places, cell=cell, pbc=rng.integers(0, 2, 3)))
    return made


def edges_of(graph):
    """The edges of a graph as a set, and whether none stands twice."""
    rows = torch.cat([graph.centre[:, None], graph.neighbour[:, None], graph.shifts.long()], dim=1)
    found = set(map(tuple, rows.tolist()))
    assert len(found) == len(graph.centre)
    return found


KERNEL = pytest.param(
    None,
    marks=pytest.mark.skipif(
        importlib.util.find_spec("triton") is None or not (interpreted() or DEVICE.type == "cuda"),
        reason="needs triton, and a CUDA device or TRITON_INTERPRET=1",
    ),
)


@pytest.mark.parametrize("cutoff", [2.6, 5.5])
@pytest.mark.parametrize("looks", [1, 2**20, KERNEL])
def test_pairs_are_those_of_vesin(rng, monkeypatch, cutoff, looks):
    """In bins, for one atom or all at a time; and by the kernel."""
    made = structures(rng)[: {1: 8, None: 12}.get(looks)]
    if looks is not None:
        monkeypatch.setattr(neighbor_search, "LOOKS", looks)
        monkeypatch.setattr(resident, "_search", lambda *_: neighbor_search.pairs)
    got = device_graph(made, cutoff, SPECIES, DEVICE)
    want = build_graph(made, [edge_list(a, cutoff) for a in made], SPECIES, DEVICE)
    assert edges_of(got) == edges_of(want)
    assert torch.equal(got.row_start, want.row_start)
    assert torch.equal(got.neighbour[got.by_neighbour], got.neighbour.sort().values)
    for name in ("positions", "cells", "species", "structure", "head", "first_atom", "centre"):
        assert torch.equal(getattr(got, name), getattr(want, name))


def test_a_cell_that_would_fill_the_memory_is_refused():
    with pytest.raises(InputError, match="Is the cell in another unit"):
        device_graph([bulk("Pd"), Atoms("Pd", cell=[0.2] * 3, pbc=True)], 5.0, SPECIES, DEVICE)


def test_a_series_holds_until_something_changes():
    residents, lists = Residents(SPECIES, DEVICE), NeighborLists(3.0, 0.4)
    made = [bulk("Pd", cubic=True), molecule("H2O")]
    assert residents.again(made, lists) is None
    first = residents.anew(made, lists)
    made[0].positions[1, 2] += 0.19
    assert residents.again(made, lists) is first
    assert float(first.graph.positions[1, 2]) == made[0].positions[1, 2]
    assert residents.again(made, NeighborLists(3.0, 0.4)) is None
    assert residents.again(made[:1], lists) is None
    assert residents.again([made[0], "H2O"], lists) is None

    def changed(change, index=0):
        other = [atoms.copy() for atoms in made]
        change(other[index])
        return residents.again(other, lists) is None

    assert changed(lambda a: a.positions.__setitem__((0, 0), np.nan), 1)
    assert changed(lambda a: a.numbers.__setitem__(0, 1))
    assert changed(lambda a: a.set_cell(a.cell.array * 1.0000001))
    assert changed(lambda a: a.set_pbc((1, 1, 0)))
    assert changed(lambda a: a.pop())
    assert residents.again(made, lists) is first
    assert residents.anew(made, lists) is not first and lists.n_builds == 4


def test_a_series_finds_its_pairs_anew(rng):
    """Where atoms have gone too far and all else is the same; not for positions that are none."""
    made = [bulk("Pd", cubic=True) * (2, 1, 1), molecule("H2O")]
    residents, lists = Residents(SPECIES, DEVICE), NeighborLists(3.0, 0.4)
    first = residents.anew(made, lists)
    before = first.graph
    made[0].positions += rng.normal(size=(8, 3))
    assert residents.again(made, lists) is first and lists.n_builds == 4
    want = device_graph(made, 3.4, SPECIES, DEVICE)
    assert first.graph is not before
    for name, value in vars(want).items():
        assert torch.equal(getattr(first.graph, name), value)
    kept = first.graph
    made[0].positions[0] += 0.1
    assert residents.again(made, lists) is first and first.graph is kept
    for which, bad in ((0, np.nan), (0, 1e9), (1, 2e4)):
        other = [atoms.copy() for atoms in made]
        other[which].positions[0, 0] = bad
        assert residents.again(other, lists) is None


def test_series_leave_with_their_lists():
    residents = Residents(SPECIES, DEVICE)
    lists = NeighborLists(3.0, 0.4)
    residents.anew([molecule("H2O")], lists)
    kept = NeighborLists(3.0, 0.4)
    series = residents.anew([molecule("H2O")], kept)
    del lists
    residents.anew([molecule("H2O")], NeighborLists(3.0, 0.4))
    assert residents.again([molecule("H2O")], kept) is series
    assert len(residents._kept) == 2
    assert isinstance(series.graph, AtomGraph)
