from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.md.verlet import VelocityVerlet

from nemp_sim.errors import EvaluationError, InputError
from nemp_sim.phonons.anharmonic import effective_constants, velocity_spectrum
from nemp_sim.phonons.force_constants import build_phonopy, force_constants, to_ase
from nemp_sim.phonons.md import Dynamics, _State, run_replicas, timestep_for
from nemp_sim.phonons.spectra import spectra
from tests.engines import EMTEngine


class Harmonic:
    """Forces −Φ u of full force constants (N, N, 3, 3)."""

    def __init__(self, constants, positions):
        self.constants, self.positions = constants, positions

    def evaluate(self, structures):
        moved = np.array([a.positions for a in structures]) - self.positions
        forces = -np.einsum("ijab,rjb->ria", self.constants, moved)
        energy = -0.5 * (forces * moved).sum(axis=(1, 2))
        return SimpleNamespace(energy=energy, forces=list(forces))


@pytest.fixture(scope="module")
def copper():
    """27 atoms of fcc Cu: force constants, the crystal made of them alone, its trajectory."""
    atoms = bulk("Cu", a=3.5901)
    base = force_constants(EMTEngine(), atoms, build_phonopy(atoms, (3, 3, 3)), full=True)
    cell = to_ase(base.phonon.supercell)
    engine = Harmonic(base.phonon.force_constants, cell.positions)
    return base, cell, run_replicas(engine, cell, 300.0, 6.0, 12.0, replicas=6, seed=1)


def test_dynamics_are_those_of_ase():
    cell = bulk("Cu", a=3.5901, cubic=True)
    cell.rattle(0.05, seed=1)
    state = _State(EMTEngine(), cell, 2, 4 * units.fs)
    state.draw_velocities(300.0, np.random.default_rng(2))
    reference = cell.copy()
    reference.calc = EMT()
    reference.set_velocities(state.velocities[1])
    VelocityVerlet(reference, 4 * units.fs).run(20)
    for _ in range(20):
        state.verlet()
    np.testing.assert_allclose(state.images[1].positions, reference.positions, atol=1e-9)
    np.testing.assert_allclose(state.velocities[1], reference.get_velocities(), atol=1e-9)
    total = reference.get_total_energy()
    other = state.images[0].get_potential_energy() + 0.5 * (
        (state.masses * state.velocities[0] ** 2).sum()
    )
    assert state.total_energy() == pytest.approx((total + other) / 2)
    np.testing.assert_allclose((state.masses * state.velocities).sum(axis=1), 0, atol=1e-9)


def test_temperature_and_energy(copper):
    _, _, dynamics = copper
    assert dynamics.temperature_K == pytest.approx(300.0, rel=0.1)
    assert abs(dynamics.drift_meV_per_atom) < 0.05
    assert dynamics.model_calls == 1 + 2500 and dynamics.velocities.shape == (2000, 6, 27, 3)


def test_spectrum_of_a_harmonic_crystal_has_its_modes(copper):
    """Peaks at the frequencies of the wave vectors that fit; moments of the density of states."""
    base, cell, dynamics = copper
    found = velocity_spectrum(dynamics, len(cell))
    nu, density = found.frequencies_THz, found.total
    assert np.trapezoid(density, nu) == pytest.approx(3)
    np.testing.assert_allclose(found.projected["Cu"], density)
    grid = np.stack(np.meshgrid(*[np.arange(3) / 3] * 3), axis=-1).reshape(-1, 3)
    modes = base.phonon.run_qpoints(grid).frequencies.ravel()
    modes = modes[modes > 0.1]
    mean = np.trapezoid(nu * density, nu) / 3
    square = np.trapezoid(nu**2 * density, nu) / 3
    assert mean == pytest.approx(modes.mean(), rel=0.03)
    assert square == pytest.approx((modes**2).mean(), rel=0.04)
    sharp = np.abs(nu[density > 0.2 * density.max()][:, None] - modes).min(axis=1)
    assert sharp.max() < found.resolution_THz
    assert found.resolution_THz == pytest.approx(0.25, rel=0.05)


def test_forces_of_a_harmonic_crystal_give_its_constants_back(copper):
    base, _, dynamics = copper
    found = effective_constants(base, dynamics)
    compact = base.phonon.force_constants[base.phonon.primitive.p2s_map]
    np.testing.assert_allclose(found.constants.phonon.force_constants, compact, atol=1e-5)
    assert found.residual < 1e-5 and found.n_frames == len(dynamics.forces)


def test_a_quartic_well_is_hardened():
    """Effective frequency of a strongly anharmonic crystal rises with the temperature."""
    atoms = bulk("Cu", "sc", a=2.4)
    sites = to_ase(build_phonopy(atoms, (2, 2, 2)).supercell).positions

    class Quartic:
        def evaluate(self, structures):
            moved = np.array([a.positions for a in structures]) - sites
            square = (moved**2).sum(axis=2, keepdims=True)
            energy = (0.5 * square + 5 * square**2).sum(axis=(1, 2))
            return SimpleNamespace(energy=energy, forces=list(-(1 + 20 * square) * moved))

    base = force_constants(Quartic(), atoms, build_phonopy(atoms, (2, 2, 2)))
    cell = to_ase(base.phonon.supercell)
    means = []
    for kelvin in (20.0, 600.0):
        dynamics = run_replicas(Quartic(), cell, kelvin, 5.0, 3.0, replicas=4, seed=3)
        effective = effective_constants(base, dynamics).constants.phonon.run_qpoints(
            [[0.5, 0.5, 0.5]]
        )
        nu = velocity_spectrum(dynamics, 8)
        means.append(
            (
                effective.frequencies[0].mean(),
                np.trapezoid(nu.frequencies_THz * nu.total, nu.frequencies_THz) / 3,
            )
        )
    at_zero = 15.6333 / np.sqrt(atoms.get_masses()[0])  # of the well alone, 1 eV/Å²
    assert means[0][0] == pytest.approx(at_zero, rel=0.1)
    assert means[1][0] > 1.25 * at_zero and means[1][1] > 1.25 * at_zero


def test_density_of_states_of_emt_at_low_temperature():
    atoms = bulk("Cu", a=3.5901)
    base = force_constants(EMTEngine(), atoms, build_phonopy(atoms, (2, 2, 2)))
    cell = to_ase(base.phonon.supercell)
    dynamics = run_replicas(EMTEngine(), cell, 10.0, 8.0, 2.5, replicas=2)
    effective = effective_constants(base, dynamics).constants
    want = spectra(base, (4, 4, 4)).bands.points
    for got, point in zip(spectra(effective, (4, 4, 4)).bands.points, want, strict=True):
        np.testing.assert_allclose(got.frequencies_THz, point.frequencies_THz, atol=0.05)


def test_timestep():
    assert timestep_for(7.0) == 3.0 and timestep_for(100.0) == pytest.approx(0.4)


# --- refusals


def test_a_crystal_that_falls_apart_is_refused():
    class Nothing:
        def evaluate(self, structures):
            forces = [np.zeros((len(a), 3)) for a in structures]
            return SimpleNamespace(energy=np.zeros(len(structures)), forces=forces)

    with pytest.raises(EvaluationError, match="left its site by .* Lower the temperature"):
        run_replicas(Nothing(), bulk("Cu", cubic=True), 1000.0, 5.0, 10.0)


def test_too_few_frames_are_refused():
    """Noise on a slab without symmetry."""
    slab = fcc111("Cu", (2, 2, 2), a=3.59, vacuum=6.0)
    slab.rattle(0.05, seed=1)
    base = force_constants(EMTEngine(), slab, build_phonopy(slab, (1, 1, 1)))
    rng = np.random.default_rng(1)
    moved = rng.normal(size=(8, 8, 3))
    dynamics = Dynamics(slab, 1.0, moved, moved, rng.normal(size=moved.shape), 0.0, 0.0, 0)
    with pytest.raises(EvaluationError, match=r"8 frames are too few .* --md-ps"):
        effective_constants(base, dynamics)
    short = replace(dynamics, displacements=moved[:3], forces=moved[:3])
    with pytest.raises(InputError, match="frames is 3, but must be 4 or more"):
        effective_constants(base, short)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature_K": 0.0}, "md temperature is 0.0"),
        ({"replicas": 0}, "md_replicas is 0"),
        ({"production_ps": 0.01}, "md_ps is 0.01, but must be 64 steps of 1.00 fs or more"),
    ],
)
def test_bad_values_are_refused(changes, message):
    values = {"temperature_K": 300.0, "timestep_fs": 1.0, "production_ps": 1.0} | changes
    with pytest.raises(InputError, match=message):
        run_replicas(EMTEngine(), Atoms("Cu"), **values)
