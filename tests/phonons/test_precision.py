import numpy as np
import pytest
import torch

from nemp_sim.phonons.force_constants import build_phonopy, force_constants
from nemp_sim.phonons.precision import float32_error, in_float32, predicted_force_error


def test_float32_error_is_that_of_a_float32_run(random_potential, tilted):
    exact = random_potential("smooth")
    constants = force_constants(exact, tilted, build_phonopy(tilted, (2, 1, 1), "P"), 0.01)
    q = np.array([[0.5, 0, 0], [0, 0, 0.5]])
    found = float32_error(exact, tilted, constants, 0.01, q)
    rough = random_potential("smooth", dtype=torch.float32)
    again = force_constants(rough, tilted, build_phonopy(tilted, (2, 1, 1), "P"), 0.01)
    difference = again.phonon.force_constants - constants.phonon.force_constants
    assert found.constants_eV_per_A2 == pytest.approx(np.abs(difference).max(), rel=0.2)
    assert 0 < found.constants_eV_per_A2 < 0.01 and found.frequency_THz < 0.1


def test_the_potential_itself_stays_in_float64(random_potential):
    exact = random_potential("smooth")
    assert in_float32(exact).dtype == torch.float32 and exact.dtype == torch.float64
    assert in_float32(exact).head == exact.head


def test_predicted_errors(random_potential, tilted):
    assert predicted_force_error(random_potential("smooth"), tilted) is None
    potential = random_potential("smooth", n_members=4)
    want = potential.evaluate([tilted], uncertainty=True).forces_std[0].max()
    assert predicted_force_error(potential, tilted) == pytest.approx(want)
