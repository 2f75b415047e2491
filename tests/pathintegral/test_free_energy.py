"""Umbrella integration against free energies known analytically, and the umbrella inside i-PI."""

import numpy as np
import pytest
from ase import Atoms
from ase.units import Bohr, Hartree, kB

from nemp_sim.errors import InputError
from nemp_sim.pathintegral.files import read_properties
from nemp_sim.pathintegral.free_energy import Window, tst_rate, umbrella_integration
from nemp_sim.pathintegral.input import Dynamics, Umbrella, prepare_start
from nemp_sim.pathintegral.run import simulate
from tests.ipi_server import SPRING, HarmonicEngine

pytest.importorskip("ipi", reason="i-PI is not installed")
KAPPA, BARRIER, WIDTH = 6.0, 0.2, 0.8  # eV/Å², eV, Å


def double_well(s):
    """Minima at 0 and 2 WIDTH, the barrier between them; tilted by 0.05 eV."""
    u = (s - WIDTH) / WIDTH
    return BARRIER * (u**2 - 1) ** 2 + 0.025 * u


def sampled(rng, centre, temperature=300.0, count=20000):
    """Independent samples of exp(−β (A + w)) by inversion on a fine grid."""
    s = np.linspace(centre - 1.5, centre + 1.5, 20001)
    log = -(double_well(s) + 0.5 * KAPPA * (s - centre) ** 2) / (kB * temperature)
    weights = np.exp(log - log.max())
    cumulated = np.cumsum(weights) / weights.sum()
    return Window(centre, KAPPA, np.interp(rng.random(count), cumulated, s))


def test_profile_of_a_double_well(rng):
    windows = [sampled(rng, s) for s in np.linspace(-0.2, 1.8, 17)]
    profile = umbrella_integration(list(rng.permutation(np.array(windows, dtype=object))), 300.0)
    s = np.linspace(-0.2, 1.8, 2001)
    low, high = double_well(s[s < WIDTH]).min(), double_well(s[s > WIDTH]).min()
    top = double_well(s[(s > 0.3) & (s < 1.3)]).max()
    assert abs(profile.barrier_eV.mean - (top - low)) < 4 * profile.barrier_eV.error + 2e-3
    assert abs(profile.reaction_eV.mean - (high - low)) < 4 * profile.reaction_eV.error + 2e-3
    assert profile.barrier_eV.error < 5e-3 and profile.resolved and profile.gap < 2
    exact = double_well(profile.path_A) - low
    assert np.abs(profile.free_energy_eV - exact).max() < 6e-3


def test_rate_of_a_double_well(rng):
    """Against the integral over the exact well, which begins before the first window."""
    windows = [sampled(rng, s) for s in np.linspace(-0.1, 1.7, 17)]
    profile = umbrella_integration(windows, 300.0)
    s = np.linspace(-1.0, 1.0, 40001)
    top = s[double_well(s) == double_well(s[s > 0.3]).max()]
    inside, thermal = s <= top, kB * 300
    well = np.trapezoid(np.exp(-double_well(s[inside]) / thermal), s[inside])
    speed = np.sqrt(300 * 1.380649e-23 / (2 * np.pi * 2.0 * 1.66053907e-27)) * 1e10  # Å/s
    exact = speed * np.exp(-double_well(top)[0] / thermal) / well
    error = profile.barrier_eV.error / thermal
    assert tst_rate(profile, 2.0, 300.0) == pytest.approx(exact, rel=4 * error + 0.03)
    assert 4 * error < 0.3


def test_windows_far_apart_show_in_the_gap(rng):
    windows = [sampled(rng, s, count=500) for s in (-0.2, 0.8, 1.8)]
    assert umbrella_integration(windows, 300.0).gap > 4
    with pytest.raises(InputError, match="windows is 2"):
        umbrella_integration(windows[:2], 300.0)
    with pytest.raises(InputError, match="at is .0.5., but must be two different ones or more"):
        umbrella_integration([*windows, Window(0.5, 4.0, np.array([0.5]))], 300.0)


def test_umbrella_acts_on_the_centroid(tmp_path):
    """⟨s̄⟩ = κ s₀/(κ + k) and variance k_B T/(κ + k) in a harmonic well, whatever P."""
    direction = np.array([3.0, 4.0, 0.0]) / 5
    umbrella = Umbrella(1, tuple(direction.tolist()), 0.5, 40.0)
    dynamics = Dynamics(
        beads=4, steps=500, timestep_fs=1.0, tau_fs=10, every=2, fix_com=False,
        batch_size=4, umbrella=umbrella,
    )  # fmt: skip
    simulate(HarmonicEngine(), prepare_start(Atoms("H2", np.zeros((2, 3)))), dynamics, tmp_path)
    rows = read_properties(tmp_path / "run.out")
    s = rows["atom_x(1)"][100:] @ direction
    well = SPRING * Hartree / Bohr**2
    window = Window(0.5, 40.0, s)
    assert abs(window.mean_A.mean - 20 / (40 + well)) < 4 * window.mean_A.error < 0.03
    assert s.var() == pytest.approx(kB * 300 / (40 + well), rel=0.6)
    across = rows["atom_x(1)"][100:] @ [-0.8, 0.6, 0]
    assert abs(across.mean()) < 0.15 and across.var() > 3 * s.var()
