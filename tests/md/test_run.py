"""Dynamics against ASE's own scripts, analytic averages, and the order of the integrator."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixCartesian
from ase.io import read
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet

from nemp_sim.errors import InputError
from nemp_sim.md import run as md_run
from nemp_sim.md.averages import averages, read_log
from nemp_sim.md.run import Dynamics, simulate
from tests.engines import EMTEngine, StressEMT

SPRING = 4.0  # eV/Å²


class Wells:
    """Each atom in a harmonic well of its own at the origin, or free, without any stress."""

    def __init__(self, spring=SPRING):
        self.spring = spring

    def evaluate(self, structures, stress=False):
        energy = [0.5 * self.spring * (a.positions**2).sum() for a in structures]
        forces = tuple(-self.spring * a.positions for a in structures)
        found = SimpleNamespace(energy=np.array(energy), forces=forces)
        if stress:
            found.stress = np.zeros((len(structures), 6))
        return found


class Forces:
    """``Wells`` without stress: an engine that knows energies and forces alone."""

    def __init__(self, spring=SPRING):
        self._wells = Wells(spring)

    def evaluate(self, structures):
        return self._wells.evaluate(structures)


def copper():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    return atoms


def slab():
    atoms = fcc111("Al", (1, 2, 3), vacuum=6.0)
    held = [FixAtoms([0, 1]), FixCartesian(2, (True, False, True))]
    atoms.set_constraint(held)
    return atoms


def moved(path, engine, atoms, n_steps, **how):
    path.mkdir(parents=True, exist_ok=True)
    return simulate(engine, atoms, Dynamics(**how), n_steps, path)


# --- the same as ASE alone


@pytest.mark.parametrize("build", [copper, slab])
@pytest.mark.parametrize("ensemble", ["nve", "nvt"])
def test_one_replica_is_what_a_plain_script_of_ase_gives(ensemble, build, tmp_path):
    atoms, rng = build(), np.random.default_rng(7)
    how = {"timestep_fs": 2.0, "seed": 7, "every": 5, "frames_every": 5}
    start = build()
    if ensemble == "nve":
        thermalize_momenta(start, temperature_K=400, rng=np.random.default_rng(3))
        atoms.set_momenta(start.get_momenta())
        dynamics = VelocityVerlet(atoms, 2.0 * units.fs)
    else:
        thermalize_momenta(atoms, temperature_K=400, rng=rng)
        friction = 5.0 / (1000 * units.fs)
        dynamics = Langevin(
            atoms, 2.0 * units.fs, temperature_K=400, friction=friction, rng=rng, fixcm=False
        )
    atoms.calc = EMT()
    dynamics.run(40)
    (end,) = moved(
        tmp_path, EMTEngine(), start, 40, temperatures_K=(400.0,), ensemble=ensemble, **how
    )
    np.testing.assert_allclose(end.positions, atoms.positions, rtol=0, atol=1e-12)
    np.testing.assert_allclose(end.get_momenta(), atoms.get_momenta(), rtol=0, atol=1e-12)
    assert end.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
    assert len(end.constraints) == len(start.constraints)
    log = read_log(tmp_path)
    assert log.total_eV[-1, 0] == pytest.approx(atoms.get_total_energy(), abs=1e-8)
    last = read(tmp_path / "trajectory.extxyz")
    np.testing.assert_allclose(last.get_momenta(), atoms.get_momenta(), atol=1e-7)
    np.testing.assert_allclose(last.get_forces(), atoms.get_forces(), atol=1e-7)
    assert (last.info["step"], last.info["time_ps"]) == (40, 0.08)


def test_replicas_move_as_each_would_alone(tmp_path):
    """One engine call a step for all; each keeps its own energy."""
    engine = EMTEngine()
    how = {"timestep_fs": 2.0, "ensemble": "nve"}
    three = moved(tmp_path / "a", engine, copper(), 20, temperatures_K=(300.0, 300.0, 900.0), **how)
    assert set(engine.batches) == {3} and len(engine.batches) == 21
    first = read(tmp_path / "a" / "trajectory-900K-0.extxyz", 0)
    assert not np.allclose(three[0].positions, three[1].positions)
    alone = copper()
    alone.set_momenta(first.get_momenta())
    (single,) = moved(tmp_path / "b", EMTEngine(), alone, 20, temperatures_K=(900.0,), **how)
    np.testing.assert_allclose(single.positions, three[2].positions, rtol=0, atol=1e-6)


def test_held_coordinates_stay(tmp_path):
    start = slab()
    (end,) = moved(tmp_path, EMTEngine(), start, 30, temperatures_K=(900.0,), timestep_fs=2.0)
    np.testing.assert_array_equal(end.positions[:2], start.positions[:2])
    np.testing.assert_array_equal(end.positions[2, [0, 2]], start.positions[2, [0, 2]])
    assert abs(end.positions[2, 1] - start.positions[2, 1]) > 1e-3
    assert not end.get_momenta()[:2].any()


# --- analytic


def test_langevin_has_the_temperature_of_each_bath_within_its_error(tmp_path):
    """⟨K⟩ = 3/2 N kT and ⟨U⟩ = 3/2 N kT of harmonic wells, at two temperatures in one batch."""
    temperatures = (200.0,) * 2 + (500.0,) * 2
    start = Atoms("H20", np.zeros((20, 3)))
    how = {"temperatures_K": temperatures, "timestep_fs": 0.5, "friction_per_ps": 50.0}
    moved(tmp_path, Forces(), start, 5000, **how, every=5, frames_every=5000, seed=2)
    log = read_log(tmp_path)
    for temperature, mine in ((200.0, (0, 1)), (500.0, (2, 3))):
        found = averages(log.of(mine, 0.2), temperature, 20)
        assert found.n_replicas == 2 and found.pressure_MPa is None
        exact = 1.5 * 20 * units.kB * temperature
        for value, wanted in ((found.kinetic_K, temperature), (found.potential_eV, exact)):
            assert value.error < 0.03 * wanted and value.resolved
            assert abs(value.mean - wanted) < 4 * value.error


def test_the_error_bar_is_the_scatter_of_replicas(tmp_path):
    start, count = Atoms("H2", np.zeros((2, 3))), 30
    how = {"temperatures_K": (300.0,) * count, "timestep_fs": 1.0, "friction_per_ps": 80.0}
    moved(tmp_path, Forces(), start, 1200, **how, every=6, frames_every=1200)
    log = read_log(tmp_path)
    found = averages(log.of(range(count), 0.0), 300.0, 2)
    scatter = log.temperature_K.mean(axis=0).std(ddof=1) / np.sqrt(count)
    assert 0.6 < found.kinetic_K.error / scatter < 1.6


def test_verlet_is_of_second_order_in_the_time_step(tmp_path):
    """The excursion of the total energy falls by four with half the step; there is no drift."""
    excursions = []
    for step in (4.0, 2.0):
        how = {"ensemble": "nve", "timestep_fs": step, "every": round(4 / step), "seed": 3}
        path = tmp_path / f"{step}"
        moved(path, EMTEngine(), copper(), round(400 / step), temperatures_K=(600.0,), **how)
        found = averages(read_log(path), 600.0, 4)
        excursions.append(found.excursion_meV)
        assert abs(found.drift_meV_per_ps.mean) < found.excursion_meV  # over 0.4 ps
    assert excursions[0] / excursions[1] == pytest.approx(4.0, rel=0.15)


def test_the_frequency_of_a_well_is_in_the_trajectory(tmp_path):
    """√(k/m), with Verlet's own shift: cos ω'Δt = 1 − (ωΔt)²/2."""
    start, step = Atoms("H", [[0.1, 0, 0]]), 0.5 * units.fs
    how = {"ensemble": "nve", "velocities": "zero", "every": 1, "frames_every": 1}
    moved(tmp_path, Forces(), start, 400, temperatures_K=(300.0,), timestep_fs=0.5, **how)
    track = np.array([a.positions[0, 0] for a in read(tmp_path / "trajectory.extxyz", ":")])
    omega = np.sqrt(SPRING / start.get_masses()[0])
    shifted = np.arccos(1 - 0.5 * (omega * step) ** 2) / step
    assert shifted / omega > 1.0003
    np.testing.assert_allclose(track, 0.1 * np.cos(shifted * step * np.arange(401)), atol=2e-6)


def test_volume_of_an_ideal_gas_at_constant_pressure(tmp_path):
    """⟨V⟩ = (N + 1) kT / P, and the pressure of its momenta is P."""
    count, temperature, pressure = 30, 500.0, 50.0
    gas = Atoms(f"He{count}", cell=[25.0] * 3, pbc=True)
    gas.positions = np.random.default_rng(0).uniform(0, 25.0, (count, 3))
    how = {"temperatures_K": (temperature,), "timestep_fs": 4.0, "friction_per_ps": 20.0}
    how |= {"ensemble": "npt", "pressure_MPa": pressure, "barostat_fs": 300.0, "every": 10}
    moved(tmp_path, Wells(0.0), gas, 10000, **how, frames_every=10000, seed=1)
    found = averages(read_log(tmp_path).of((0,), 4.0), temperature, count)
    exact = (count + 1) * units.kB * temperature / (pressure * 1e-3 * units.GPa)
    assert found.volume_A3.error < 0.05 * exact
    assert abs(found.volume_A3.mean - exact) < 4 * found.volume_A3.error
    assert abs(found.pressure_MPa.mean - pressure) < 4 * found.pressure_MPa.error


def test_pressure_is_that_of_ase(tmp_path):
    how = {"temperatures_K": (700.0,), "ensemble": "nve", "timestep_fs": 2.0, "every": 5}
    (end,) = moved(tmp_path, StressEMT(), copper(), 20, **how)
    end.calc = EMT()
    ase_MPa = -end.get_stress(include_ideal_gas=True)[:3].mean() / units.GPa * 1e3
    assert read_log(tmp_path).pressure_MPa[-1, 0] == pytest.approx(ase_MPa, abs=1e-3)


# --- stopped and refused


class Stopped(Exception):
    pass


@pytest.mark.parametrize("ensemble", ["nve", "nvt", "npt"])
def test_a_stopped_run_goes_on_to_the_same_bits(ensemble, tmp_path, monkeypatch):
    monkeypatch.setattr(md_run, "SAVED_EVERY", 20)
    count = 1 if ensemble == "npt" else 2
    how = Dynamics((300.0,) * count, ensemble, 2.0, every=5, frames_every=10)
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = simulate(StressEMT(), copper(), how, 110, tmp_path / "whole")
    for stop in (35, 75):

        def stopped(step, first, stop=stop):
            if step == stop:
                raise Stopped

        with pytest.raises(Stopped):
            simulate(StressEMT(), copper(), how, 110, tmp_path / "parts", stopped)
    again = simulate(StressEMT(), copper(), how, 110, tmp_path / "parts")
    for one, other in zip(whole, again, strict=True):
        np.testing.assert_array_equal(one.positions, other.positions)
        np.testing.assert_array_equal(one.get_momenta(), other.get_momenta())
    for path in (tmp_path / "whole").iterdir():
        if path.suffix != ".npz":
            assert path.read_bytes() == (tmp_path / "parts" / path.name).read_bytes()


def test_a_longer_run_begins_as_the_shorter_one(tmp_path):
    engine, how = EMTEngine(), Dynamics((300.0,), "nvt", 2.0, every=5, frames_every=10)
    simulate(engine, copper(), how, 30, tmp_path)
    before = (tmp_path / "log.csv").read_text()
    simulate(engine, copper(), how, 60, tmp_path)
    assert (tmp_path / "log.csv").read_text().startswith(before)
    assert len(engine.batches) == 61
    simulate(engine, copper(), how, 60, tmp_path)
    assert len(engine.batches) == 61  # nothing is left to do
    with pytest.raises(InputError, match="holds a run of 0.12 ps, longer"):
        simulate(engine, copper(), how, 30, tmp_path)
    with pytest.raises(InputError, match="state of a run with other settings"):
        simulate(engine, copper(), Dynamics((301.0,), "nvt", 2.0), 90, tmp_path)
    (tmp_path / "log.csv").write_text(before)
    with pytest.raises(InputError, match="the file was changed or lost. Give --fresh"):
        simulate(engine, copper(), how, 90, tmp_path)


@pytest.mark.parametrize(
    ("how", "atoms", "engine", "message"),
    [
        ({"ensemble": "nph"}, copper, EMTEngine, "ensemble is 'nph'"),
        ({"velocities": "cold"}, copper, EMTEngine, "velocities is 'cold'"),
        ({"timestep_fs": -1.0}, copper, EMTEngine, "timestep is -1.0"),
        ({"friction_per_ps": 0.0}, copper, EMTEngine, "friction is 0.0"),
        ({"temperatures_K": (-3.0,)}, copper, EMTEngine, "temperature is -3.0"),
        ({"velocities": "file"}, copper, EMTEngine, "the structure has no momenta"),
        ({"ensemble": "npt"}, copper, EMTEngine, "EMTEngine records no error of stresses"),
        ({"ensemble": "npt"}, slab, StressEMT, "has a surface or held atoms"),
        ({"ensemble": "npt", "temperatures_K": (1.0, 2.0)}, copper, StressEMT, "replicas is 2"),
    ],
)
def test_what_cannot_be_is_refused(how, atoms, engine, message, tmp_path):
    with pytest.raises(InputError, match=message):
        moved(tmp_path, engine(), atoms(), 10, **how)


def test_potentials_without_stress_labels_are_not_asked_for_pressure(random_potential):
    engine = random_potential("smooth")
    assert not md_run.records_stress(engine)
    row = {"head": engine.head, "stress_rmse_meV_per_A3": 1.0}
    rows = itertools.chain.from_iterable([[row]])
    engine.metadata.errors["validation"] = list(rows)
    try:
        assert md_run.records_stress(engine)
    finally:
        engine.metadata.errors.clear()
