"""A cheap force inside: the exact map of the integrator, and the contracted ring polymer."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms

from nemp_sim.errors import InputError
from nemp_sim.pathintegral.averages import thermodynamics
from nemp_sim.pathintegral.files import Frames, read_properties
from nemp_sim.pathintegral.forces import CheapForce
from nemp_sim.pathintegral.input import ISOTOPES, Dynamics, prepare_start
from nemp_sim.pathintegral.run import simulate
from nemp_sim.structures import with_mass
from tests.ipi_server import SPRING, HarmonicEngine
from tests.pathintegral.ring_polymer import KT, frequencies

pytest.importorskip("ipi", reason="i-PI is not installed")
MASS = ISOTOPES["H"]
CHEAP_SPRING = 0.7 * SPRING
HBAR_EV_FS = 0.6582119569


def hydrogen(count):
    """So many H in one well, a little apart from its bottom."""
    places = np.linspace(0.05, 0.3, 3 * count).reshape(count, 3)
    return prepare_start(with_mass(Atoms(f"H{count}", places), "H", MASS))


def engines():
    return HarmonicEngine(SPRING), HarmonicEngine(CHEAP_SPRING)


def trace(timestep_fs, inner_steps):
    """Of the map of position and velocity in a step: half a kick, cheap steps, half a kick."""
    square = (frequencies(1, MASS)[0] / HBAR_EV_FS) ** 2  # of the full force, 1/fs²

    def kick(fraction, time):
        return np.array([[1.0, 0.0], [-fraction * square * time, 1.0]])

    part, cheap = timestep_fs / inner_steps, CHEAP_SPRING / SPRING
    half = kick(cheap, part / 2)
    inner = half @ np.array([[1.0, part], [0.0, 1.0]]) @ half
    outer = kick(1 - cheap, timestep_fs / 2)
    return np.trace(outer @ np.linalg.matrix_power(inner, inner_steps) @ outer)


def test_steps_are_those_of_the_reversible_integrator(tmp_path):
    """A linear map of determinant one: q(t+Δ) + q(t−Δ) = trace · q(t)."""
    steps, inner, timestep = 40, 4, 6.0
    dynamics = Dynamics(
        beads=1, steps=steps, timestep_fs=timestep, ensemble="nve", every=1, frames_every=1,
        fix_com=False, batch_size=1, cheap=CheapForce(inner),
    )  # fmt: skip
    full, cheap = engines()
    simulate(full, hydrogen(2), dynamics, tmp_path, cheap=cheap)
    q = np.array([beads.ravel() for *_, beads in Frames(tmp_path, "run")])
    found = ((q[2:] + q[:-2]) * q[1:-1]).sum() / (q[1:-1] ** 2).sum()
    assert found == pytest.approx(trace(timestep, inner), abs=2e-5)
    for other in (trace(timestep, 1), trace(timestep, 2), trace(timestep, 8)):
        assert abs(found - other) > 1e-4
    assert len(full.batches) <= steps + 2
    assert inner * steps <= len(cheap.batches) <= inner * steps + 2


def test_energy_is_conserved_better_than_with_the_full_force_alone(tmp_path):
    """The same number of full forces."""
    few = Dynamics(
        beads=4, steps=100, timestep_fs=3.0, ensemble="nve", every=1, fix_com=False, batch_size=4
    )
    several = replace(few, cheap=CheapForce(6))
    full, cheap = engines()
    simulate(full, hydrogen(3), few, tmp_path / "one")
    simulate(full, hydrogen(3), several, tmp_path / "six", cheap=cheap)
    one, six = (
        np.ptp(read_properties(tmp_path / name / "run.out")["conserved"]) for name in ("one", "six")
    )
    assert six < 0.5 * one


def test_contracted_ring_has_its_kinetic_energy(tmp_path):
    """The full well acts on the three lowest modes of eight beads, the cheap one on the others."""
    beads, few = 8, 3
    dynamics = Dynamics(
        beads=beads, steps=450, timestep_fs=1.0, tau_fs=15, every=4, frames_every=100,
        fix_com=False, batch_size=beads, cheap=CheapForce(2, few),
    )  # fmt: skip
    start = hydrogen(40)
    full, cheap = engines()
    simulate(full, start, replace(dynamics, steps=200), tmp_path, cheap=cheap)
    simulate(full, start, dynamics, tmp_path, cheap=cheap)  # and it goes on
    assert max(full.batches) == few and max(cheap.batches) == beads
    found = thermodynamics(tmp_path, start, dynamics, 150)
    well, ring = frequencies(beads, MASS)
    low = np.minimum(np.arange(beads), beads - np.arange(beads)) <= few // 2
    assert low.sum() == few
    squares = well**2 * np.where(low, 1.0, CHEAP_SPRING / SPRING)
    exact = 1.5 * KT * (squares / (squares + ring**2)).sum()
    average = found.kinetic_cv_eV["H"]
    assert abs(average.mean - exact) < 4 * average.error < 0.1 * exact
    temperature = found.kinetic_temperature_K
    assert abs(temperature.mean - 300) < 4 * temperature.error


def test_bad_settings_are_refused(tmp_path):
    for values, message in (
        ({"cheap": CheapForce(0)}, "inner_steps is 0"),
        ({"cheap": CheapForce(2, 20)}, "full_beads is 20.*1 to the number of beads, 16"),
        ({"cheap": CheapForce(2), "ensemble": "sc"}, "ensemble is 'sc'"),
    ):
        with pytest.raises(InputError, match=message):
            Dynamics(**values)
    full, cheap = engines()
    with pytest.raises(InputError, match="cheap engine is given"):
        simulate(full, hydrogen(1), Dynamics(), tmp_path, cheap=cheap)
    with pytest.raises(InputError, match="cheap engine is not given"):
        simulate(full, hydrogen(1), Dynamics(cheap=CheapForce()), tmp_path)
