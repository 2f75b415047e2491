"""Which atom of one end of a path becomes which atom of the other."""

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.geometry import find_mic
from scipy.optimize import linear_sum_assignment

from nemp_sim.structures import fixed_coordinates

CLEARLY_SHORTER = 0.9  # of the way of the given order, to deserve a remark


@dataclass(frozen=True)
class Matching:
    """An order of the atoms of the final state.

    Attributes:
        order: (N,) atom of the final state that stands in the place of each atom.
        way_A: root of the summed squares of all displacements, with this order.
        given_way_A: the same with the order of the file.
    """

    order: np.ndarray
    way_A: float
    given_way_A: float

    @property
    def is_shorter(self) -> bool:
        """Whether this order makes the way clearly shorter than the given one."""
        return self.way_A < CLEARLY_SHORTER * self.given_way_A

    def applied(self, final: Atoms) -> Atoms:
        """A copy of the final state with its atoms in this order, constraints where they were."""
        ordered = final[self.order]
        ordered.set_constraint(final.constraints)
        return ordered


def match_atoms(initial: Atoms, final: Atoms) -> Matching:
    """The order of the final state that moves the atoms least (Hungarian method, minimum image).

    Only free atoms of one element are exchanged.

    Args:
        initial: initial state.
        final: final state: the same elements in the same order.
    """
    count = len(initial)
    held = fixed_coordinates(initial).any(axis=1) | fixed_coordinates(final).any(axis=1)
    order = np.arange(count)
    squares = np.zeros((count, count))
    for i in range(count):
        apart = find_mic(final.positions - initial.positions[i], initial.cell, initial.pbc)[1]
        squares[i] = apart**2
    for number in set(initial.numbers.tolist()):
        group = np.flatnonzero((initial.numbers == number) & ~held)
        _, columns = linear_sum_assignment(squares[np.ix_(group, group)])
        order[group] = group[columns]
    rows = np.arange(count)
    ways = [float(np.sqrt(squares[rows, columns].sum())) for columns in (order, rows)]
    return Matching(order, *ways)
