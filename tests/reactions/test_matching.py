import itertools

import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms
from ase.geometry import find_mic

from nemp_sim.reactions.matching import match_atoms


def test_smallest_of_all_orders(rng):
    cell = [6.0, 6.0, 6.0]
    initial = Atoms("H4O2", rng.uniform(0, 6, (6, 3)), cell=cell, pbc=True)
    final = Atoms("H4O2", rng.uniform(0, 6, (6, 3)), cell=cell, pbc=True)
    found = match_atoms(initial, final)
    ways = {}
    for h in itertools.permutations(range(4)):
        for o in itertools.permutations((4, 5)):
            order = [*h, *o]
            moved = final.positions[order] - initial.positions
            ways[tuple(order)] = np.sqrt((find_mic(moved, initial.cell)[1] ** 2).sum())
    best = min(ways, key=ways.get)
    assert tuple(found.order) == best and found.way_A == pytest.approx(ways[best])
    assert found.given_way_A == pytest.approx(ways[tuple(range(6))])


def test_exchanged_atoms_are_put_back_and_held_ones_stay():
    initial = Atoms("Pd4H2", np.arange(18.0).reshape(6, 3))
    final = initial.copy()
    final.positions[[0, 1, 4, 5]] = initial.positions[[1, 0, 5, 4]]
    both = match_atoms(initial, final)
    assert both.order.tolist() == [1, 0, 2, 3, 5, 4] and both.is_shorter
    np.testing.assert_allclose(both.applied(final).positions, initial.positions)
    for atoms in (initial, final):
        atoms.set_constraint(FixAtoms([0, 1]))
    held = match_atoms(initial, final)
    assert held.order.tolist() == [0, 1, 2, 3, 5, 4]
    assert held.applied(final).constraints[0].index.tolist() == [0, 1]
    assert not match_atoms(initial, initial).is_shorter
