"""Neighbour lists against ASE's and matscipy's, and the rules of the Verlet skin."""

import itertools

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.geometry import complete_cell
from ase.neighborlist import primitive_neighbor_list
from matscipy.neighbours import neighbour_list

from nemp_sim.errors import InputError
from nemp_sim.neighbors import EdgeList, NeighborLists, edge_list
from nemp_sim.structures import check_structure

CUTOFF = 3.3
SKIN = 0.6
PBC_SUBSETS = list(itertools.product([False, True], repeat=3))
ORACLES = ["ase", "matscipy"]


def rows(centre, neighbour, shifts):
    """Edges as a sorted array (E, 5): equal for equal multisets of edges."""
    table = np.column_stack([centre, neighbour, shifts]).astype(int)
    return table[np.lexsort(table.T)]


def rows_of(edges: EdgeList):
    return rows(edges.centre, edges.neighbour, edges.shifts)


def oracle_rows(oracle, atoms, cutoff):
    cell, pbc, positions = complete_cell(atoms.cell.array), atoms.pbc, atoms.positions
    if oracle == "ase":
        return rows(*primitive_neighbor_list("ijS", pbc, cell, positions, cutoff))
    return rows(*neighbour_list("ijS", cutoff=cutoff, positions=positions, cell=cell, pbc=pbc))


def random_structure(rng, kind, pbc):
    """Random atoms in a random cell: "wide", "tilted", "tiny" (many images) or "outside" it."""
    size = {"tiny": 1.6, "wide": 7.0}.get(kind, 4.0)
    cell = np.diag(size * rng.uniform(0.8, 1.3, 3))
    if kind != "wide":
        cell += size * rng.uniform(-0.6, 0.6, (3, 3)) * np.tri(3, k=-1)
    if rng.random() < 0.5:
        cell = cell[::-1].copy()  # a left-handed cell
    n_atoms = {"tiny": 2, "wide": 25, "outside": 20}.get(kind, 8)
    span = (-1.0, 2.0) if kind == "outside" else (0.0, 1.0)
    positions = rng.uniform(*span, (n_atoms, 3)) @ cell
    return Atoms("H" * n_atoms, positions, cell=cell, pbc=pbc)


@pytest.mark.parametrize("oracle", ORACLES)
@pytest.mark.parametrize("kind", ["wide", "tilted", "tiny", "outside"])
@pytest.mark.parametrize("pbc", PBC_SUBSETS, ids=lambda pbc: "".join("FT"[p] for p in pbc))
def test_edges_equal_the_oracle(pbc, kind, oracle, rng):
    atoms = random_structure(rng, kind, pbc)
    print(f"cell {atoms.cell.array!r}\npositions {atoms.positions!r}")
    want = oracle_rows(oracle, atoms, CUTOFF)
    assert len(want) > 0
    np.testing.assert_array_equal(rows_of(edge_list(atoms, CUTOFF)), want)


@pytest.mark.parametrize("oracle", ORACLES)
def test_edges_of_the_test_structures(structure, oracle):
    got = rows_of(edge_list(structure, CUTOFF))
    np.testing.assert_array_equal(got, oracle_rows(oracle, structure, CUTOFF))


def test_edges_are_sorted_by_centre(water):
    edges = edge_list(water, CUTOFF)
    assert len(edges.centre) > 100
    assert (np.diff(edges.centre) >= 0).all()


def test_tiny_cell_has_several_images_of_one_neighbour(tilted):
    edges = edge_list(tilted, CUTOFF)
    pairs = np.column_stack([edges.centre, edges.neighbour])
    assert len(np.unique(pairs, axis=0)) < len(pairs)
    assert (edges.centre == edges.neighbour).any()  # an atom and its own image


@pytest.mark.parametrize("offset", [0.0, 5.0, -37.7, 1000.0])
def test_edges_of_a_molecule_do_not_depend_on_its_place(methanol, offset):
    want = rows_of(edge_list(methanol, CUTOFF))
    methanol.positions += [offset, -offset, offset / 3]
    np.testing.assert_array_equal(rows_of(edge_list(methanol, CUTOFF)), want)


@pytest.mark.parametrize("pbc", [False, (True, True, False)])
@pytest.mark.parametrize("height", [0.0, 1e-3, 2.0])
def test_cell_vector_of_a_free_axis_is_ignored(height, pbc):
    atoms = Atoms("H3", [[0, 0, 0], [0, 0, 2.5], [0, 0, -9.0]], cell=[9, 9, height], pbc=pbc)
    edges = edge_list(atoms, CUTOFF)
    np.testing.assert_array_equal(rows_of(edges), [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0]])


@pytest.mark.parametrize("skin", [0.0, SKIN])
@pytest.mark.parametrize("shell", [1.0, 2**0.5, 2.0])
@pytest.mark.parametrize("cell", ["cubic", "primitive"])
def test_pairs_at_the_cutoff_stand_in_both_directions(cell, shell, skin, rng):
    """Rounding may keep or drop such a pair, but never one direction of it alone."""
    crystal = bulk("Pd", a=3.94, cubic=cell == "cubic") * (2, 2, 2)
    for _ in range(10):
        crystal.positions += rng.uniform(-3, 3, 3)
        lists = NeighborLists(shell * 3.94 / 2**0.5, skin)
        edges = lists.edges(crystal, 0)
        reverse = rows(edges.neighbour, edges.centre, -edges.shifts)
        np.testing.assert_array_equal(rows_of(edges), reverse)


def test_empty_structure_has_no_edges():
    edges = edge_list(Atoms(), CUTOFF)
    assert edges.centre.shape == edges.neighbour.shape == (0,)
    assert edges.shifts.shape == (0, 3)


@pytest.mark.parametrize("name", ["slab", "water", "tilted", "methanol"])
def test_skin_list_equals_a_fresh_list_along_a_walk(name, structures, rng):
    atoms, n_steps = structures[name], 40
    lists = NeighborLists(CUTOFF, SKIN)
    drift = rng.normal(scale=0.02, size=atoms.positions.shape)
    for _ in range(n_steps):
        atoms.positions += drift + rng.normal(scale=0.01, size=atoms.positions.shape)
        fresh = edge_list(atoms, CUTOFF)
        np.testing.assert_array_equal(rows_of(lists.edges(atoms, 0)), rows_of(fresh))
    assert 1 < lists.n_builds < n_steps / 3


def test_skin_list_gives_the_same_results(random_potential, water, rng):
    potential = random_potential("smooth")
    lists = NeighborLists(potential.cutoff_angstrom, SKIN)
    for _ in range(4):
        water.positions += rng.normal(scale=0.05, size=water.positions.shape)
        kept = potential.evaluate([water], stress=True, neighbors=lists)
        fresh = potential.evaluate([water], stress=True)
        np.testing.assert_allclose(kept.energy, fresh.energy, rtol=1e-13)
        np.testing.assert_allclose(kept.forces[0], fresh.forces[0], rtol=0, atol=1e-12)
        np.testing.assert_allclose(kept.stress, fresh.stress, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("fraction", "builds"), [(0.0, 1), (0.49, 1), (0.51, 2), (3.0, 2)])
def test_rebuild_when_half_the_skin_is_exceeded(water, fraction, builds):
    lists = NeighborLists(CUTOFF, SKIN)
    lists.edges(water, 0)
    water.positions[3, 1] += fraction * SKIN
    lists.edges(water, 0)
    assert lists.n_builds == builds


def add_atom(atoms):
    atoms += Atoms("H", [[1.0, 2.0, 3.0]])


CHANGES = {
    "cell": lambda atoms: atoms.set_cell(atoms.cell * 1.001),
    "pbc": lambda atoms: atoms.set_pbc([True, False, True]),
    "species": lambda atoms: atoms.symbols.__setitem__(0, "H"),
    "more atoms": add_atom,
    "fewer atoms": lambda atoms: atoms.__delitem__(5),
}


@pytest.mark.parametrize("change", CHANGES)
def test_rebuild_when_the_structure_changes(water, change):
    lists = NeighborLists(CUTOFF, SKIN)
    lists.edges(water, 0)
    CHANGES[change](water)
    edges = lists.edges(water, 0)
    assert lists.n_builds == 2
    np.testing.assert_array_equal(rows_of(edges), rows_of(edge_list(water, CUTOFF)))


def test_slots_are_kept_apart(water, slab):
    lists = NeighborLists(CUTOFF, SKIN)
    for _ in range(3):
        for slot, atoms in enumerate([water, slab]):
            got = rows_of(lists.edges(atoms, slot))
            np.testing.assert_array_equal(got, rows_of(edge_list(atoms, CUTOFF)))
    assert lists.n_builds == 2


def test_list_keeps_no_hold_on_the_callers_atoms(water):
    lists = NeighborLists(CUTOFF, SKIN)
    lists.edges(water, 0)
    water.positions += 0.4 * SKIN  # in place: a shared array would never look moved
    water.positions[0] += 0.4 * SKIN
    lists.edges(water, 0)
    assert lists.n_builds == 2


def test_without_a_skin_every_call_builds(water):
    lists = NeighborLists(CUTOFF)
    lists.edges(water, 0)
    lists.edges(water, 0)
    assert lists.n_builds == 2


@pytest.mark.parametrize("skin", [-0.1, np.nan])
def test_bad_skin_is_refused(skin):
    with pytest.raises(InputError, match="skin_angstrom"):
        NeighborLists(CUTOFF, skin)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_positions_that_are_not_finite_are_refused(water, value):
    water.positions[4, 2] = value
    with pytest.raises(InputError, match=rf"structure 7 \(H16O8\): positions\[4\].*{value}"):
        check_structure(water, 7)


def test_cell_that_is_not_finite_is_refused(water):
    cell = water.cell.array.copy()
    cell[1, 1] = np.nan
    water.cell = cell
    with pytest.raises(InputError, match=r"structure 0 .*cell\[1\]"):
        check_structure(water, 0)


@pytest.mark.parametrize(
    ("cell", "pbc"),
    [
        ([0, 0, 0], True),
        ([5, 5, 0], True),
        ([5, 0, 5], (True, True, False)),
        ([[5, 0, 0], [10, 0, 0], [0, 0, 5]], (True, True, False)),
        ([[5, 0, 0], [0, 5, 0], [5, 5, 0]], True),
    ],
)
def test_periodic_axis_without_volume_is_refused(cell, pbc):
    with pytest.raises(InputError, match=r"structure 2 \(H\): pbc is .*cell is"):
        check_structure(Atoms("H", cell=cell, pbc=pbc), 2)


@pytest.mark.parametrize("pbc", [False, (True, True, False)])
def test_runaway_atom_is_refused(pbc):
    """Vesin dies of a floating point exception where the box is 1e5 cutoffs long."""
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 1e6]], cell=[5, 5, 5], pbc=pbc)
    with pytest.raises(InputError, match=r"structure 0 \(H2\): positions"):
        check_structure(atoms, 0)
