from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms, units
from ase.constraints import FixAtoms

from nemp_sim.errors import InputError
from nemp_sim.reactions.diffusion import diffusion_constant, hollow_diffusion, langevin
from tests.engines import EMTEngine


class Springs:
    """Each atom bound to the origin by k eV/Å²; k = 0: free."""

    def __init__(self, k):
        self.k, self.batches = k, []

    def evaluate(self, structures):
        self.batches.append(len(structures))
        energy = [0.5 * self.k * (atoms.positions**2).sum() for atoms in structures]
        forces = tuple(-self.k * atoms.positions for atoms in structures)
        return SimpleNamespace(energy=np.array(energy), forces=forces)


def test_a_free_particle_diffuses_as_einstein_says():
    """D = kT / mγ."""
    replicas = [Atoms("H40", np.zeros((40, 3))) for _ in range(10)]
    t, gamma = 300.0, 50.0
    tracks = langevin(Springs(0.0), replicas, t, 1200, 2.0, gamma, every=4, seed=3)
    assert tracks.shape == (301, 10, 40, 3)
    found = diffusion_constant(tracks.reshape(301, 400, 3), 8e-3)
    exact = units.kB * t / (replicas[0].get_masses()[0] * gamma / (1e3 * units.fs))
    exact *= 1e3 * units.fs  # Å² per ASE time -> Å²/ps
    assert found.constant_A2_per_ps == pytest.approx(exact, rel=0.05)
    assert abs(found.constant_A2_per_ps - exact) < 4 * found.error_A2_per_ps


def test_positions_have_the_temperature_of_the_bath():
    """⟨x²⟩ = kT / k, which BAOAB gives exactly for a harmonic force."""
    k, t = 5.0, 400.0
    engine = Springs(k)
    replicas = [Atoms("H50", np.zeros((50, 3))) for _ in range(4)]
    tracks = langevin(engine, replicas, t, 600, 1.5, 20.0, every=5, seed=1)
    late = tracks[40:]
    assert (late**2).mean() == pytest.approx(units.kB * t / k, rel=0.05)
    assert engine.batches == [4] * 601


def test_without_friction_the_energy_stays():
    engine = Springs(3.0)
    start = Atoms("H", [[0.1, 0, 0]])
    track = langevin(engine, [start], 300.0, 400, 0.2, 0.0, every=1, seed=5)[:, 0, 0]
    speed = np.gradient(track, 0.2 * units.fs, axis=0)[1:-1]
    energy = 0.5 * 1.008 * (speed**2).sum(axis=1) + 1.5 * (track[1:-1] ** 2).sum(axis=1)
    assert np.ptp(energy) < 0.01 * energy.mean()


def test_held_atoms_stay_and_seeds_repeat():
    slab = Atoms("Al2", [[0, 0, 0], [0, 0, 2.8]])
    slab.set_constraint(FixAtoms([0]))
    runs = [langevin(EMTEngine(), [slab] * 2, 300, 20, seed=s) for s in (1, 1, 2)]
    assert (runs[0][:, :, 0] == 0).all() and np.ptp(runs[0][:, :, 1]) > 0
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0][-1] != runs[2][-1]).any()
    assert (runs[0][-1, 0, 1] != runs[0][-1, 1, 1]).any()  # replicas differ


def test_hops_on_hollows_against_kinetic_monte_carlo():
    rng = np.random.default_rng(7)
    forth, back, nearest = 2e11, 5e11, 2.8
    angles = np.pi / 2 + 2 * np.pi * np.arange(3) / 3
    vectors = nearest / np.sqrt(3) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    walkers, total = 4000, 60e-12
    place, is_fcc = np.zeros((walkers, 2)), np.ones(walkers, dtype=bool)
    time = np.zeros(walkers)
    going = np.arange(walkers)
    while len(going):
        rate = np.where(is_fcc[going], 3 * forth, 3 * back)
        time[going] += rng.exponential(1 / rate)
        going = going[time[going] < total]
        sign = np.where(is_fcc[going], 1, -1)[:, None]
        place[going] += sign * vectors[rng.integers(0, 3, len(going))]
        is_fcc[going] = ~is_fcc[going]
    expected = (place**2).sum(axis=1).mean() / (4 * total * 1e12)
    assert hollow_diffusion(forth, back, nearest) == pytest.approx(expected, rel=0.06)


def test_unusable_values_are_refused():
    atom = Atoms("H")
    with pytest.raises(InputError, match="temperature is 0"):
        langevin(Springs(1.0), [atom], 0, 10)
    with pytest.raises(InputError, match="every is 20, but must be between 1 and n_steps"):
        langevin(Springs(1.0), [atom], 300, 10, every=20)
    with pytest.raises(InputError, match="replicas is 1, but must be 2 or more"):
        diffusion_constant(np.zeros((100, 1, 2)), 0.1)
    with pytest.raises(InputError, match="samples is 5"):
        diffusion_constant(np.zeros((5, 3, 2)), 0.1)
