"""Two H2 do not bind each other: known of any functional, and easily missed.

A network that knew H on a metal and two H alone once bound four H by 2 eV and put a barrier of 2 eV
between two H2 that were 2 Å apart.
"""

import numpy as np
import pytest
from ase import Atoms

from nemp_sim.checkpoint import load_potential

BOND = 0.75  # Å, of H2
FAR = 3.6  # Å: two H2 attract each other by less than 5 meV
H2 = [[-BOND / 2, 0, 0], [BOND / 2, 0, 0]]
DIRECTIONS = {"in line": (1, 0, 0), "across": (0, 1, 0), "aslant": (0.6, 0.64, 0.48)}
PARTNERS = {
    "H2": np.array(H2),
    "H2 turned": np.array([[0, 0, -BOND / 2], [0, 0, BOND / 2]]),
}


@pytest.fixture(scope="module")
def potential():
    return load_potential("pdh", "cpu", "float64")


def energies(potential, partner, direction, distances):
    """Energy of H2 and the partner above the two apart, eV; distances of their middles, Å."""
    other = PARTNERS[partner]
    middles = np.outer(distances, DIRECTIONS[direction])
    clusters = [Atoms(f"H{2 + len(other)}", np.vstack([H2, other + m])) for m in middles]
    apart = [Atoms("H2", H2), Atoms(f"H{len(other)}", other)]
    energy = potential.evaluate([*clusters, *apart], forces=False, on_extrapolation="ignore").energy
    return energy[:-2] - energy[-2:].sum()


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("partner", PARTNERS)
def test_two_h2_repel_each_other_when_near_alone(potential, partner, direction):
    energy = energies(potential, partner, direction, np.arange(1.6, 2.0, 0.1))
    assert energy.min() > 0.1
    far = energies(potential, partner, direction, np.arange(2.0, FAR, 0.1))
    assert far.min() > -0.1
    assert np.abs(far[-3:]).max() < 0.05
