"""Vibrations and torsion of CH3OH by the shipped potential against DFT of its level of theory.

The reference was computed with PySCF 2.14: RKS PBE/def2-SVP, grid level 4, no density fitting, each
geometry relaxed to 0.003 eV/Å with forces that contain the response of the grid, analytic Hessian.
"""

import numpy as np
import pytest
from ase.build import molecule

from nemp_sim.checkpoint import load_potential
from nemp_sim.reactions.transition_state import refine_saddle
from nemp_sim.relax import relax
from nemp_sim.vibrations import vibrations

DFT_CM1 = [340.1, 1038.7, 1087.6, 1133.8, 1328.1, 1415.3]
DFT_CM1 += [1423.9, 1446.4, 2887.4, 2937.0, 3042.6, 3717.2]
DFT_BARRIER_EV = 0.0612
CARBON, OXYGEN, PROTON, METHYL = 0, 1, 3, 2  # of ASE's molecule


@pytest.fixture(scope="module")
def potential():
    return load_potential("methanol.pt", device="cpu", dtype="float64")


@pytest.fixture(scope="module")
def minimum(potential):
    return relax(potential, [molecule("CH3OH")], 1e-3, 300).structures[0]


def test_twelve_frequencies_within_three_per_cent(potential, minimum):
    modes = vibrations(potential, minimum)
    np.testing.assert_allclose(modes.wavenumbers_cm1, DFT_CM1, rtol=0.03)
    assert modes.zero_point_energy_eV == pytest.approx(sum(DFT_CM1) / 2 / 8065.544, rel=3e-3)


def test_barrier_of_the_torsion(potential, minimum):
    guess = minimum.copy()
    assert guess.symbols[OXYGEN] == "O" and guess.get_distance(OXYGEN, PROTON) < 1.0
    guess.rotate_dihedral(METHYL, CARBON, OXYGEN, PROTON, 55, indices=[PROTON])
    saddle = refine_saddle(potential, guess).atoms
    modes = vibrations(potential, saddle)
    assert modes.n_imaginary == 1
    barrier = saddle.get_potential_energy() - minimum.get_potential_energy()
    assert barrier == pytest.approx(DFT_BARRIER_EV, abs=4e-3)
