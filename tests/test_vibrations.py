from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, fcc100, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixCartesian
from ase.io import read
from ase.units import _amu, _c, _e
from ase.vibrations import Vibrations as ASEVibrations

from nemp_sim.checkpoint import load_potential
from nemp_sim.errors import EvaluationError, InputError
from nemp_sim.mode_files import mode_frames, mode_table, remarks, write_modes
from nemp_sim.relax import relax
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import fcc_slab
from nemp_sim.vibrations import vibrations
from tests.engines import EMTEngine

HESSIAN = 1e-4  # eV/Å²


class Spring:
    """Harmonic bond of force constant k between the first two atoms; remembers its batches."""

    def __init__(self, k, length):
        self.k, self.length, self.batches = k, length, []

    def evaluate(self, structures):
        self.batches.append(len(structures))
        energy, forces = [], []
        for atoms in structures:
            bond = atoms.positions[1] - atoms.positions[0]
            r = np.linalg.norm(bond)
            pull = self.k * (r - self.length) * bond / r
            energy.append(0.5 * self.k * (r - self.length) ** 2)
            forces.append(np.array([pull, -pull]))
        return SimpleNamespace(energy=np.array(energy), forces=tuple(forces))


@pytest.fixture(scope="module")
def slab():
    """Cu and Al on Cu(100), relaxed with EMT, two layers held."""
    atoms = fcc100("Cu", (2, 2, 3), vacuum=8.0)
    add_adsorbate(atoms, "Al", 1.7, "hollow")
    atoms.set_constraint(FixAtoms(mask=atoms.get_tags() >= 2))
    return relax(EMTEngine(), [atoms], 1e-3, 200).structures[0]


def test_diatomic_has_its_one_frequency():
    k, length = 30.0, 0.75
    engine = Spring(k, length)
    found = vibrations(engine, Atoms("HH", [[0, 0, 0], [0.45, 0.6, 0]], masses=[1.008, 2.014]))
    reduced = 1.008 * 2.014 / 3.022 * _amu
    expected = np.sqrt(k * _e * 1e20 / reduced) / (2 * np.pi * _c * 100)
    assert found.n_projected == 5 and engine.batches == [12]  # one call
    assert found.wavenumbers_cm1 == pytest.approx([expected], rel=1e-4)  # 0.01 Å is not zero
    assert found.zero_point_energy_eV == pytest.approx(found.energies_eV[0] / 2)
    lighter = found.with_masses(np.array([1.008, 1.008]))
    ratio = lighter.energies_eV[0] / found.energies_eV[0]
    assert ratio == pytest.approx(np.sqrt(2 * 2.014 / 3.022), rel=1e-9)


def test_same_modes_as_ase(slab, tmp_path):
    found = vibrations(EMTEngine(), slab, displacement_angstrom=0.01)
    assert found.indices.tolist() == list(range(8, 13)) and found.n_projected == 0
    free = slab.copy()
    free.set_constraint()
    free.calc = EMT()
    theirs = ASEVibrations(free, indices=range(8, 13), name=str(tmp_path / "v"), delta=0.01)
    theirs.run()
    np.testing.assert_allclose(found.energies_eV, theirs.get_energies().real, atol=1e-8)
    assert found.zero_point_energy_eV == pytest.approx(theirs.get_zero_point_energy(), abs=1e-8)
    shape, other = found.modes[-1].ravel(), theirs.get_mode(-1).ravel()
    overlap = abs(shape @ other) / np.linalg.norm(shape) / np.linalg.norm(other)
    assert overlap == pytest.approx(1.0, abs=1e-6)


def test_adsorbate_alone(slab):
    engine = EMTEngine()
    found = vibrations(engine, slab, [12])
    assert engine.batches == [6] and len(found.energies_eV) == 3
    assert np.abs(found.modes[:, :12]).max() == 0
    kinetic = (slab.get_masses() * (found.modes**2).sum(axis=2)).sum(axis=1)
    np.testing.assert_allclose(kinetic, 1.0)


@pytest.mark.parametrize("name", ["slab", "methanol", "tilted"])
def test_analytic_is_the_difference_of_forces(name, potential, structures):
    atoms = structures[name]
    chosen = [len(atoms) - 1, 0]
    exact = vibrations(potential, atoms, chosen, method="analytic", molecule=False)
    small = vibrations(
        potential, atoms, chosen, method="differences", molecule=False, displacement_angstrom=1e-3
    )
    np.testing.assert_allclose(exact.hessian, small.hessian, rtol=0, atol=HESSIAN)
    assert exact.asymmetry_eV_per_A2 < 1e-9 and exact.method == "analytic"


def test_analytic_of_a_shipped_potential():
    potential = load_potential("pdh.pt", device="cpu", dtype="float64")
    start = place(fcc_slab(), "H", "fcc")
    atoms = relax(potential, [start], 1e-3, 200).structures[0]
    exact = vibrations(potential, atoms, [12])
    differences = vibrations(potential, atoms, [12], method="differences")
    # at the default displacement the anharmonic part is some per cent
    np.testing.assert_allclose(exact.hessian, differences.hessian, rtol=0.05, atol=0.02)
    fine = vibrations(potential, atoms, [12], method="differences", displacement_angstrom=2e-4)
    np.testing.assert_allclose(exact.hessian, fine.hessian, rtol=0, atol=HESSIAN)
    assert exact.n_imaginary == 0 and 500 < exact.wavenumbers_cm1.min() < 1200
    deuterium = atoms.get_masses()
    deuterium[12] *= 2
    np.testing.assert_allclose(
        exact.energies_eV / exact.with_masses(deuterium).energies_eV, np.sqrt(2), rtol=1e-9
    )


def test_rows_that_do_not_fit_into_memory_are_taken_in_turn(potential, methanol, monkeypatch):
    whole = potential.hessian(methanol, range(6))
    monkeypatch.setattr("nemp_sim.batches.room", lambda device: 1.0)
    np.testing.assert_allclose(potential.hessian(methanol, range(6)), whole, atol=1e-12)
    assert whole.shape == (6, 3, 6, 3)


def test_molecules_lose_translations_and_rotations(potential):
    for name, left in (("CH3OH", 12), ("CO", 1), ("H2O", 3)):
        found = vibrations(potential, molecule(name))
        assert len(found.energies_eV) == left
    assert len(vibrations(potential, Atoms("H")).energies_eV) == 0
    assert vibrations(potential, Atoms("H")).zero_point_energy_eV == 0
    full = vibrations(potential, molecule("CH3OH"), molecule=False)
    assert len(full.energies_eV) == 18


def test_projection_leaves_the_modes_of_a_minimum_alone():
    """At a minimum, translations and rotations have no energy: projected or not is the same."""
    start = molecule("CH3OH")
    potential = load_potential("methanol.pt", device="cpu", dtype="float64")
    atoms = relax(potential, [start], 1e-4, 300).structures[0]
    projected = vibrations(potential, atoms)
    full = vibrations(potential, atoms, molecule=False)
    inner = np.sort(np.abs(full.wavenumbers_cm1))[6:]
    np.testing.assert_allclose(np.sort(projected.wavenumbers_cm1), inner, atol=1.5)
    assert projected.n_imaginary == 0


def test_a_molecule_in_a_periodic_box_is_a_molecule():
    """Through the boundary too; what was left of its rigid motions gave 1 eV of free energy."""
    potential = load_potential("methanol.pt", device="cpu", dtype="float64")
    free = relax(potential, [molecule("CH3OH")], 1e-3, 300).structures[0]
    box = Atoms(free.symbols, free.positions, cell=[12, 13, 14], pbc=True)
    box.positions += [5.9, -0.3, 13.9]
    box.wrap()
    alone, boxed = vibrations(potential, free), vibrations(potential, box)
    assert alone.rigid == boxed.rigid == "molecule" and boxed.n_projected == 6
    np.testing.assert_allclose(boxed.energies_eV, alone.energies_eV, rtol=1e-6)
    part = vibrations(potential, box, [0, 1])
    assert part.rigid == "nothing" and part.n_projected == 0


def test_a_crystal_loses_its_translations(potential, tilted):
    """Else three modes of rounding noise would each give a free energy of kT ln(kT/0)."""
    whole = vibrations(potential, tilted, molecule=False)
    found = vibrations(potential, tilted)
    assert (found.rigid, found.n_projected) == ("crystal", 3)
    order = np.argsort(np.abs(whole.energies_eV))
    np.testing.assert_allclose(whole.energies_eV[order[:3]], 0.0, atol=1e-6)
    np.testing.assert_allclose(np.sort(whole.energies_eV[order[3:]]), found.energies_eV, rtol=1e-6)
    heavy = found.with_masses(tilted.get_masses() * 4)
    np.testing.assert_allclose(heavy.energies_eV, found.energies_eV / 2, rtol=1e-9)


def test_an_atom_in_an_external_field_keeps_its_modes():
    class Bowl:
        def evaluate(self, structures):
            places = [atoms.positions for atoms in structures]
            energy = np.array([(p**2).sum() for p in places])
            return SimpleNamespace(energy=energy, forces=tuple(-2 * p for p in places))

    found = vibrations(Bowl(), Atoms("H"))
    assert found.rigid == "nothing" and len(found.energies_eV) == 3


def test_imaginary_modes_are_negative_and_named():
    engine = Spring(-30.0, 0.75)
    found = vibrations(engine, Atoms("H2", [[0, 0, 0], [0, 0, 0.75]]))
    assert found.n_imaginary == 1 and found.wavenumbers_cm1[0] < -1000
    assert found.zero_point_energy_eV == 0
    (note,) = remarks(found, "H2")
    assert note.startswith("H2: imaginary modes at ") and "a minimum has none" in note
    assert remarks(found, "H2", saddle=True) == []
    assert f"{abs(found.wavenumbers_cm1[0]):.1f} i" in mode_table(found)
    stable = vibrations(Spring(30.0, 0.75), found.atoms)
    assert "no imaginary mode" in remarks(stable, "TS", saddle=True)[0]
    soft = vibrations(Spring(1e-3, 0.75), found.atoms)
    assert "1 real modes below 50" in remarks(soft, "H2")[0]


def test_animation(slab, tmp_path):
    found = vibrations(EMTEngine(), slab, [12])
    frames = read(write_modes(found, tmp_path / "modes.extxyz"), ":")
    assert len(frames) == 3 * 20
    assert frames[0].info["wavenumber_cm1"] == pytest.approx(found.wavenumbers_cm1[0], abs=1e-3)
    swing = [np.abs(f.positions - slab.positions).max() for f in mode_frames(found, 2)]
    assert max(swing) == pytest.approx(0.3, abs=0.1) and swing[0] == 0
    table = mode_table(found).splitlines()
    assert len(table) == 5 and "Al12 100 %" in table[2]


class NotANumber(EMTEngine):
    def evaluate(self, structures):
        result = super().evaluate(structures)
        result.forces[1][0] = np.nan
        return result


def test_unusable_requests_are_refused(slab, potential):
    engine = EMTEngine()
    with pytest.raises(InputError, match=r"indices is \[99\], but must be different whole numbers"):
        vibrations(engine, slab, [99])
    with pytest.raises(InputError, match=r"indices is \[1, 1\]"):
        vibrations(engine, slab, [1, 1])
    with pytest.raises(InputError, match="EMTEngine has no second derivatives"):
        vibrations(engine, slab, method="analytic")
    with pytest.raises(InputError, match="method is 'fast'"):
        vibrations(engine, slab, method="fast")
    with pytest.raises(InputError, match="displacement is 0"):
        vibrations(engine, slab, displacement_angstrom=0)
    partly = slab.copy()
    partly.set_constraint(FixCartesian([12], [1, 0, 0]))
    with pytest.raises(InputError, match=r"atoms \[12\] are held along some axes only"):
        vibrations(engine, partly, [12])
    with pytest.raises(EvaluationError, match="structure 1 .*not finite"):
        vibrations(NotANumber(), slab)
