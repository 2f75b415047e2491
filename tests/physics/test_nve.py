"""Energy conservation of molecular dynamics; ``benchmarks/nve_drift.py`` runs it for longer."""

import numpy as np
import pytest

from benchmarks.nve_drift import hydrogen_on_palladium
from nemp_sim import NEMP
from nemp_sim.checkpoint import load_potential, shipped_directory
from nemp_sim.validation.dynamics import conservation, relax

PS = 0.25
TEMPERATURE_K = 300.0
DRIFT = 1e-3  # meV/atom over PS, linear fit, time step 0.5 fs
DEVIATION = 5e-3  # meV/atom
SHIPPED = shipped_directory() / "pdh.pt"
SHIPPED_DRIFT = 5e-3  # meV/atom: H vibrates at 0.1 eV on the fitted surface
SHIPPED_DEVIATION = 0.05  # meV/atom


@pytest.fixture(scope="module")
def relaxed(random_potential):
    """H on Pd(111), relaxed in a random potential; the repulsion keeps atoms apart."""
    atoms = hydrogen_on_palladium()
    atoms.calc = NEMP(random_potential("smooth", zbl=True, energy_scale_eV=2.0))
    relax(atoms)
    return atoms


def run(atoms, timestep_fs, ps=PS):
    copy = atoms.copy()
    copy.calc = NEMP(atoms.calc.potential)
    result = conservation(copy, TEMPERATURE_K, ps, timestep_fs, seed=1)
    print(result)
    moved = np.linalg.norm(copy.positions - atoms.positions, axis=1).max()
    return result, moved, copy.calc.neighbors.n_builds


def test_total_energy_is_conserved(relaxed):
    result, moved, n_builds = run(relaxed, timestep_fs=0.5)
    assert moved > 0.5 and n_builds > 5  # the run passes through rebuilt neighbour lists
    assert 150 < result.temperature_K < 600
    assert abs(result.drift_meV) < DRIFT
    assert result.largest_deviation_meV < DEVIATION


def test_error_is_of_second_order_in_the_time_step(relaxed):
    """What is left is the integrator's error, a quarter for half the step."""
    coarse, _, _ = run(relaxed, timestep_fs=2.0)
    fine, _, _ = run(relaxed, timestep_fs=1.0)
    ratio = coarse.fluctuation_meV / fine.fluctuation_meV
    assert 3.5 < ratio < 4.5


@pytest.mark.skipif(not SHIPPED.is_file(), reason=f"{SHIPPED.name} is not there yet")
def test_shipped_potential_conserves_energy():
    atoms = hydrogen_on_palladium()
    atoms.calc = NEMP(load_potential(SHIPPED, "cpu", "float64"))
    relax(atoms)
    result, _, _ = run(atoms, timestep_fs=0.5, ps=0.1)
    assert abs(result.drift_meV) < SHIPPED_DRIFT
    assert result.largest_deviation_meV < SHIPPED_DEVIATION
