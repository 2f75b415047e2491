"""Path integrals through i-PI against analytic ring polymers: harmonic wells, a free particle."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111, molecule
from ase.constraints import FixAtoms, FixBondLength
from ase.units import kB

from nemp_sim.blocking import Average
from nemp_sim.errors import EvaluationError, InputError
from nemp_sim.pathintegral.averages import isotope_free_energy, isotope_masses, thermodynamics
from nemp_sim.pathintegral.dynamics import centroid_dynamics, diffusion_constant, velocity_spectrum
from nemp_sim.pathintegral.files import Frames, read_properties
from nemp_sim.pathintegral.input import ISOTOPES, Dynamics, input_xml, prepare_start
from nemp_sim.pathintegral.plots import bead_convergence
from nemp_sim.pathintegral.restart import steps_done
from nemp_sim.pathintegral.run import simulate
from nemp_sim.pathintegral.structure import structure_averages
from nemp_sim.structures import with_mass
from tests.ipi_server import HarmonicEngine
from tests.pathintegral.ring_polymer import (
    HBAR2_PER_AMU,
    KT,
    frequencies,
    gyration,
    kinetic,
)

pytest.importorskip("ipi", reason="i-PI is not installed")
SKIP = 200


@pytest.fixture(scope="module")
def wells(tmp_path_factory):
    """Six beads: 30 H, 12 D and a held Pd atom, each in a well of its own about the origin."""
    atoms = Atoms("H42Pd", np.zeros((43, 3)))
    masses = atoms.get_masses()
    masses[:30], masses[30:42] = ISOTOPES["H"], ISOTOPES["D"]
    atoms.set_masses(masses)
    atoms.set_constraint(FixAtoms([42]))
    start = prepare_start(atoms)
    dynamics = Dynamics(
        beads=6, steps=600, timestep_fs=1.0, tau_fs=15, heat_capacity=True, batch_size=6,
        every=4, frames_every=4,
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("wells")
    seen = []
    engine = HarmonicEngine()
    assert simulate(engine, start, dynamics, directory, show=seen.append) == 600
    return directory, start, dynamics, seen, engine


def test_energies_of_harmonic_wells_are_those_of_the_ring_polymer(wells):
    directory, start, dynamics, *_ = wells
    found = thermodynamics(directory, start, dynamics, SKIP)
    assert start.species() == ("H", "D")
    for label, mass in (("H", ISOTOPES["H"]), ("D", ISOTOPES["D"])):
        exact = kinetic(6, mass)
        for average in (found.kinetic_cv_eV[label], found.kinetic_td_eV[label]):
            assert abs(average.mean - exact) < 4 * average.error < 0.3 * exact
        assert found.kinetic_cv_eV[label].error < 0.5 * found.kinetic_td_eV[label].error
    exact = 30 * kinetic(6, ISOTOPES["H"]) + 12 * kinetic(6, ISOTOPES["D"])
    assert abs(found.potential_eV.mean - exact) < 4 * found.potential_eV.error < 0.15 * exact
    assert abs(found.energy_eV.mean - 2 * exact) < 4 * found.energy_eV.error
    assert exact > 1.5 * 42 * 1.5 * KT  # far from the classical value
    assert "classical" in [t.get_text() for t in bead_convergence([found]).axes[0].texts]
    temperature = found.kinetic_temperature_K
    assert abs(temperature.mean - 300) < 4 * temperature.error < 16
    assert abs(found.conserved_meV_per_ps) < 1.0
    assert found.n_samples == 100 and found.length_ps == pytest.approx(0.4, abs=5e-3)


def test_heat_capacity_is_the_derivative_of_the_energy(wells):
    directory, start, dynamics, *_ = wells
    capacity = thermodynamics(directory, start, dynamics, SKIP).heat_capacity_kB

    def energy(temperature, mass):
        well, _ = frequencies(6, mass)
        ring = 2 * 6 * kB * temperature * np.sin(np.arange(6) * np.pi / 6)
        return 3 * kB * temperature * (well**2 / (well**2 + ring**2)).sum()

    exact = sum(
        n * (energy(301, ISOTOPES[s]) - energy(299, ISOTOPES[s])) / 2 / kB
        for n, s in ((30, "H"), (12, "D"))
    )
    assert abs(capacity.mean - exact) < 4 * capacity.error < 2 * exact


def test_remarks_name_what_is_not_to_be_trusted(wells, tmp_path):
    directory, start, dynamics, *_ = wells
    lines = (directory / "run.out").read_text().splitlines(keepends=True)
    short = [line for line in lines if line.startswith("#")] + lines[-12:]
    rows = [line.split() for line in short[-12:]]
    for row in rows[5:]:
        row[2] = str(float(row[2]) - 10.1)  # the conserved quantity
    for row in rows:
        row[3] = str(float(row[3]) - 90)  # the temperature
    (tmp_path / "run.out").write_text("".join(short[:-12] + [" ".join(r) + "\n" for r in rows]))
    remarks = thermodynamics(tmp_path, start, dynamics).remarks()
    text = " ".join(remarks)
    assert "jumps by -10.1" in text and f"before step {int(float(rows[5][0]))}" in text
    assert "shorter --timestep" in text and "lower bounds" in text and "instead of 300 K" in text
    with pytest.raises(InputError, match="equilibration is 600, but the last step is 600"):
        thermodynamics(directory, start, dynamics, 600)
    with pytest.raises(InputError, match="no frame was written after step 600"):
        structure_averages(directory, start, 600)


def test_beads_spread_as_the_ring_polymer_does(wells):
    directory, start, *_ = wells
    found = structure_averages(directory, start, SKIP)
    for label in ("H", "D"):
        average = found.gyration_A[label]
        exact = gyration(6, ISOTOPES[label])
        assert abs(average.mean - exact) < 4 * average.error < 0.15 * exact
    assert found.last_beads.shape == (6, 43, 3) and not found.surface
    assert np.abs(found.last_beads[:, 42]).max() == 0.0  # the held atom


def test_all_beads_are_one_request_and_progress_is_told(wells):
    *_, seen, engine = wells
    assert max(engine.batches) == 6 and engine.batches.count(6) > 550
    assert seen[-1].step > 0 and seen[-1].steps == 600 and abs(seen[-1].conserved_eV) < 0.5
    assert [p.step for p in seen] == sorted(p.step for p in seen)


def test_a_continued_run_is_the_uninterrupted_one(tmp_path):
    """Also where files hold more than the restart file, as after a kill."""
    start = prepare_start(Atoms("H2", [[0.1, 0, 0], [0, 0.2, 0]]))
    dynamics = Dynamics(beads=3, steps=20, every=1, frames_every=2, batch_size=3, fix_com=False)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    simulate(HarmonicEngine(), start, dynamics, whole)
    simulate(HarmonicEngine(), start, replace(dynamics, steps=8), parts)
    with (parts / "run.out").open("a") as handle:
        handle.write("  9.0 1.0\n  10.0 2.")
    with (parts / "run.pos_1.xyz").open("a") as handle:
        handle.write("2\n# CELL")
    assert simulate(HarmonicEngine(), start, dynamics, parts) == 12
    expected, got = (read_properties(d / "run.out") for d in (whole, parts))
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-6, atol=1e-7, err_msg=name)
    for one, other in zip(Frames(whole, "run"), Frames(parts, "run"), strict=True):
        assert one[0] == other[0]
        np.testing.assert_allclose(one[2], other[2], atol=1e-5)
    assert steps_done(parts) == 20
    assert simulate(HarmonicEngine(), start, dynamics, parts) == 0  # nothing is left to do
    with pytest.raises(InputError, match="another simulation .beads 3 → 4.. Choose another --name"):
        simulate(HarmonicEngine(), start, replace(dynamics, beads=4), parts)
    with pytest.raises(InputError, match="another structure"):
        simulate(HarmonicEngine(), prepare_start(Atoms("H")), dynamics, parts)


class Fails(HarmonicEngine):
    """Forces that become not-a-number."""

    def evaluate(self, structures, **options):
        result = super().evaluate(structures, **options)
        if len(self.batches) > 5:
            result.forces[0][0] = np.nan
        return result


def test_errors_of_client_and_server_are_told(tmp_path):
    start = prepare_start(Atoms("H2", [[0.1, 0, 0], [0, 0.2, 0]]))
    dynamics = Dynamics(beads=2, steps=50, batch_size=2)
    before = time.monotonic()
    with pytest.raises(EvaluationError, match="not finite .atom 0."):
        simulate(Fails(), start, dynamics, tmp_path / "nan")
    assert time.monotonic() - before < 15
    gle = tmp_path / "gle.xml"
    gle.write_text("<A shape='(3, 3)'> [1, 2] </A>")
    bad = replace(dynamics, thermostat="gle", gle_file=gle)
    with pytest.raises(InputError, match="i-PI failed .exit code 1.*i-pi.log"):
        simulate(HarmonicEngine(), start, bad, tmp_path / "bad")
    assert threading.active_count() < 10


def test_high_order_ring_is_that_of_suzuki_and_chin(tmp_path):
    """⟨V⟩ of four beads against the covariance of their ring, far nearer the limit than Trotter's.

    Even beads feel 2/3 V, odd ones 4/3 V + (βħ/P)²/9m |V'|²; only the even ones are averaged.
    """
    beads, n_atoms, mass = 4, 60, ISOTOPES["H"]
    start = prepare_start(with_mass(Atoms(f"H{n_atoms}", np.zeros((n_atoms, 3))), "H", mass))
    dynamics = Dynamics(
        beads=beads, steps=600, timestep_fs=1.0, ensemble="sc", tau_fs=15, fix_com=False,
        batch_size=beads,
    )  # fmt: skip
    simulate(HarmonicEngine(), start, dynamics, tmp_path)
    found = thermodynamics(tmp_path, start, dynamics, 100)
    well, _ = frequencies(beads, mass)
    stiff = well**2 * mass / HBAR2_PER_AMU  # eV/Å²
    odd = 4 / 3 * stiff + 2 / 9 * HBAR2_PER_AMU / mass * (stiff / (beads * KT)) ** 2
    spring = mass / HBAR2_PER_AMU * (beads * KT) ** 2
    one = np.eye(beads)
    ring = spring * (2 * one - np.roll(one, 1, 0) - np.roll(one, -1, 0))
    ring += np.diag([2 / 3 * stiff, odd] * (beads // 2))
    high_order = 1.5 * stiff * beads * KT * np.linalg.inv(ring)[0, 0]
    limit = 3 * well / 4 / np.tanh(well / 2 / KT)
    assert high_order == pytest.approx(limit, rel=0.01) and kinetic(beads, mass) < 0.93 * limit
    for average in (found.potential_eV.scaled(1 / n_atoms), found.kinetic_cv_eV["H"]):
        assert abs(average.mean - high_order) < 4 * average.error < 0.06 * limit


def test_ring_polymer_dynamics_finds_the_frequency(tmp_path):
    """Centroids of a harmonic well oscillate at ω, whatever the number of beads."""
    start = prepare_start(with_mass(Atoms("H10", np.zeros((10, 3))), "H", ISOTOPES["H"]))
    dynamics = Dynamics(
        beads=4, steps=400, timestep_fs=1.0, ensemble="nve", every=4, fix_com=False, batch_size=4
    )
    simulate(HarmonicEngine(), start, dynamics, tmp_path)
    found = centroid_dynamics(tmp_path, start, dynamics)
    density = found.density_cm["H"]
    well, _ = frequencies(4, ISOTOPES["H"])
    step = found.wavenumber_per_cm[1]
    peak = found.wavenumber_per_cm[density.argmax()]
    assert abs(peak - well * 8065.544) < 1.5 * step
    assert density.sum() * step == pytest.approx(3.0, rel=1e-3)
    assert found.diffusion_A2_per_ps["H"].mean < 20
    conserved = read_properties(tmp_path / "run.out")["conserved"]
    assert np.ptp(conserved) < 8e-3 * conserved.mean()


def test_diffusion_of_a_random_walk(rng):
    walk = np.cumsum(rng.normal(scale=0.1, size=(8000, 20, 3)), axis=0)
    average = diffusion_constant(walk, interval_fs=2.0)  # σ²/2Δt
    assert abs(average.mean - 0.01 / 2 / 2e-3) < 4 * average.error < 2.0
    wave = np.sin(2 * np.pi * 3e-3 * np.arange(4000))[:, None, None] * np.ones((1, 2, 3))
    wavenumber, density = velocity_spectrum(wave, interval_fs=1.0)  # 3 THz = 100.07 cm⁻¹
    assert wavenumber[density.argmax()] == pytest.approx(100.07, abs=wavenumber[1])


@pytest.mark.parametrize("beads", [1, 2, 16])
def test_isotope_free_energy_of_a_ring_polymer(beads):
    """Against −k_B T ln of the ratio of partition functions, ∏_k m^½ /√(ω² + ω_k²) each."""
    masses = isotope_masses(1.00794, 2.0141)
    exact = [Average(kinetic(beads, m), 1e-3, 1.0, True) for m in masses]
    result = isotope_free_energy(masses, exact)

    def free_energy(mass):  # per atom; the springs contribute m^(P/2) to the normalisation
        well, ring = frequencies(beads, mass)
        modes = 0.5 * np.log(well**2 + ring**2).sum()
        return 3 * KT * modes

    change = free_energy(masses[-1]) - free_energy(masses[0])
    assert result.mean == pytest.approx(change, rel=2e-3)
    assert 0 < result.error < 1e-3
    with pytest.raises(InputError, match="evenly spaced"):
        isotope_free_energy([1.0, 1.5, 2.0], exact)
    with pytest.raises(InputError, match="odd number"):
        isotope_free_energy(masses[:2], exact[:2])


def test_structure_is_turned_and_turned_back():
    slab = fcc111("Pd", (2, 2, 3), a=3.9, vacuum=8.0)
    slab.rotate(40, (1, 2, 3), rotate_cell=True)
    slab.set_constraint(FixAtoms([0, 1]))
    start = prepare_start(slab)
    h = start.atoms.cell.array
    assert np.allclose([h[0, 1], h[0, 2], h[1, 2]], 0)
    np.testing.assert_allclose(start.atoms.positions @ start.rotation, slab.positions, atol=1e-9)
    np.testing.assert_allclose(h @ start.rotation, slab.cell.array, atol=1e-9)
    assert start.fixed == (0, 1) and start.species() == ("Pd",)
    np.testing.assert_allclose(
        start.atoms.get_all_distances(mic=True), slab.get_all_distances(mic=True), atol=1e-9
    )


def test_a_molecule_gets_a_box_and_masses_their_labels():
    water = molecule("H2O")
    masses = water.get_masses()
    masses[1] = 2.014
    water.set_masses(masses)
    start = prepare_start(water)
    assert start.atoms.cell.rank == 3 and start.atoms.cell.lengths().min() >= 20
    assert start.labels == ("O", "D", "H") and start.species() == ("H", "D", "O")
    root = input_xml(start, Dynamics())
    assert root.get("threading") == "False"  # i-PI's transforms are not safe in threads
    written = root.find("system/initialize/masses")
    assert written.get("units") == "dalton" and " 2.01400000" in written.text
    assert root.find("system/motion/fixcom").text.strip() == "True"
    for node in root.iter():
        if node.tag in ("tau", "timestep", "temperature", "velocities", "masses", "pressure"):
            assert node.get("units"), node.tag
    water.set_cell([8, 8, 8])
    with pytest.raises(InputError, match="'npt', but pbc is .False, False, False."):
        input_xml(prepare_start(water), Dynamics(ensemble="npt"))
    water.pbc = True
    npt = input_xml(prepare_start(water), Dynamics(ensemble="npt"))
    assert npt.find(".//barostat/thermostat") is not None
    assert npt.find(".//pressure").get("units") == "megapascal"
    gentle = input_xml(start, Dynamics(ensemble="trpmd")).find(".//thermostat")
    assert gentle.find("pile_lambda").text.strip() == "0.5"


def test_unusable_structures_and_settings_are_refused(tmp_path):
    water = molecule("H2O")
    water.set_constraint(FixBondLength(0, 1))
    with pytest.raises(InputError, match="FixBondLengths, but i-PI can only hold whole atoms"):
        prepare_start(water)
    water.set_constraint(FixAtoms([0, 1, 2]))
    with pytest.raises(InputError, match="nothing can move"):
        prepare_start(water)
    with pytest.raises(InputError, match="empty"):
        prepare_start(Atoms())
    with pytest.raises(InputError, match="right-handed"):
        prepare_start(Atoms("H", cell=[[0, 3, 0], [3, 0, 0], [0, 0, 3]], pbc=True))
    with pytest.raises(InputError, match="periodic axis needs a cell vector"):
        prepare_start(Atoms("H", pbc=True))
    for values, message in (
        ({"beads": 0}, "beads is 0"),
        ({"temperature_K": -1.0}, "temperature is -1.0"),
        ({"ensemble": "nvT"}, "ensemble is 'nvT'"),
        ({"thermostat": "nm_gle"}, "gle_file is None, but must be the XML file of its matrices"),
        ({"gle_file": tmp_path}, "left out"),
        ({"ensemble": "sc", "beads": 3}, "even"),
    ):
        with pytest.raises(InputError, match=message):
            Dynamics(**values)
    gle = Dynamics(thermostat="nm_gle", gle_file=tmp_path / "gle.xml")
    with pytest.raises(InputError, match="no such file"):
        input_xml(prepare_start(Atoms("H")), gle)
    (tmp_path / "gle.xml").write_text("<C> [1] </C>")
    with pytest.raises(InputError, match="holds no <A> matrix"):
        input_xml(prepare_start(Atoms("H")), gle)
    (tmp_path / "gle.xml").write_text("# comment <A> [1] </A> <C> [1] </C>")
    thermostat = input_xml(prepare_start(Atoms("H")), gle).find(".//thermostat")
    assert [node.tag for node in thermostat] == ["A", "C"]


def test_files_of_nothing(tmp_path):
    with pytest.raises(InputError, match="i-PI has not run there"):
        read_properties(tmp_path / "run.out")
    with pytest.raises(InputError, match="holds no run.pos"):
        Frames(tmp_path, "run")
    assert steps_done(tmp_path) == 0
    (tmp_path / "RESTART").write_text("<simulation> <st")
    assert steps_done(tmp_path) == 0
    (tmp_path / "run.checkpoint").write_text("<simulation><step>7</step></simulation>")
    assert steps_done(tmp_path) == 7
