import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.data import atomic_masses
from ase.units import invcm
from ase.vibrations import Vibrations

from nemp_sim.errors import InputError
from nemp_sim.phonons.force_constants import boxed, build_phonopy, force_constants
from nemp_sim.phonons.gamma import choose_atoms, gamma_modes
from nemp_sim.phonons.surface import adsorbate_atoms, groups_of_slab, projected_on
from nemp_sim.relax import relax
from tests.engines import EMTEngine
from tests.phonons.emt import make


def slab_with_oxygen():
    slab = fcc111("Cu", (1, 1, 3), a=3.59, vacuum=6.0)
    add_adsorbate(slab, "O", 1.2, "fcc")
    return relax(EMTEngine(), [slab], 1e-4, 200).structures[0]


@pytest.fixture(scope="module")
def oxygen():
    """O on Cu(111) of EMT, with force constants and spectra."""
    slab = slab_with_oxygen()
    return slab, *make(slab, (2, 2, 1), (4, 4, 1))


def constants_of(atoms):
    atoms = boxed(atoms)
    return force_constants(EMTEngine(), atoms, build_phonopy(atoms), 0.005)


@pytest.mark.parametrize("pbc", [False, True])
@pytest.mark.parametrize("name", ["N2", "H2O"])
def test_molecules_have_the_modes_of_ase(name, pbc, tmp_path):
    atoms = relax(EMTEngine(), [molecule(name)], 1e-5, 500).structures[0]
    if pbc:
        atoms.center(vacuum=7.0)
        atoms.pbc = True
    modes = gamma_modes(constants_of(atoms))
    free = Atoms(atoms.symbols, atoms.positions, calculator=EMT())
    reference = Vibrations(free, name=str(tmp_path / "vib"), delta=0.005)
    reference.run()
    wanted = np.sort(reference.get_energies().real)[-len(modes.frequencies_THz) :]
    assert modes.n_rigid == (5 if name == "N2" else 6)
    assert len(modes.frequencies_THz) + modes.n_rigid == 3 * len(atoms)
    np.testing.assert_allclose(modes.wavenumbers_per_cm * invcm, wanted, rtol=2e-3, atol=1e-4)
    assert modes.rigid_THz < 0.6 < modes.frequencies_THz.min()
    assert modes.zero_point_eV == pytest.approx(wanted.sum() / 2, rel=2e-3)
    assert modes.n_imaginary == 0


def test_diatomic_molecule_is_a_spring():
    atoms = relax(EMTEngine(), [molecule("CO")], 1e-5, 500).structures[0]
    length, energies = atoms.get_distance(0, 1), []
    for step in (-0.005, 0.0, 0.005):
        moved = Atoms("OC", [[0, 0, 0], [0, 0, length + step]], calculator=EMT())
        energies.append(moved.get_potential_energy())
    spring = (energies[0] - 2 * energies[1] + energies[2]) / 0.005**2
    mass = 1 / (1 / atomic_masses[6] + 1 / atomic_masses[8])
    modes = gamma_modes(constants_of(atoms))
    assert modes.frequencies_THz == pytest.approx([15.6333 * np.sqrt(spring / mass)], rel=1e-3)
    assert modes.describe(0).endswith("C 57 %")  # 16 / 28: the lighter atom moves more


def test_translations_and_rotations_do_not_mix_in():
    modes = gamma_modes(constants_of(molecule("CH3OH")))
    flat = modes.eigenvectors.reshape(len(modes.frequencies_THz), -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(len(flat)), atol=1e-9)
    roots = np.sqrt(molecule("CH3OH").get_masses())
    momentum = np.einsum("i,mia->ma", roots, modes.eigenvectors)
    np.testing.assert_allclose(momentum, 0, atol=1e-9)


def test_chosen_atoms_vibrate_on_a_frozen_slab(tmp_path):
    """One cell: the partial Hessian of ASE, whose other atoms are held."""
    slab = slab_with_oxygen().repeat((2, 2, 1))
    slab.calc = EMT()
    chosen = [i for i, symbol in enumerate(slab.symbols) if symbol == "O"]
    phonon = build_phonopy(slab, (1, 1, 1))
    constants = force_constants(EMTEngine(), slab, phonon, 0.005)
    modes = gamma_modes(constants, chosen)
    slab.set_constraint(FixAtoms([i for i in range(len(slab)) if i not in chosen]))
    reference = Vibrations(slab, chosen, name=str(tmp_path / "vib"), delta=0.005)
    reference.run()
    wanted = np.sort(reference.get_energies().real)
    np.testing.assert_allclose(modes.wavenumbers_per_cm * invcm, wanted, rtol=2e-3)
    assert modes.n_rigid == 0 and set(modes.symbols) == {"O"}


def test_all_atoms_have_the_frequencies_of_phonopy(oxygen):
    _, constants, _ = oxygen
    want = constants.phonon.run_qpoints([[0, 0, 0]]).frequencies[0]
    np.testing.assert_allclose(gamma_modes(constants).frequencies_THz, want, atol=1e-5)


def test_imaginary_modes_are_counted():
    atoms = bulk("Cu", "bcc", a=2.86, cubic=True).repeat(2)
    constants = force_constants(EMTEngine(), atoms, build_phonopy(atoms, (1, 1, 1), "P"))
    modes = gamma_modes(constants)
    assert modes.n_imaginary > 0 and "i THz" in modes.describe(0)
    assert gamma_modes(constants, [0]).n_imaginary == 0


# --- adsorbates and layers


def test_groups_of_a_slab(oxygen):
    slab, _, found = oxygen
    adsorbate = adsorbate_atoms(slab)
    groups = groups_of_slab(slab, adsorbate)
    assert groups == {"adsorbate": [3], "layer 1": [2], "layer 2": [1], "layer 3": [0]}
    assert adsorbate_atoms(slab[:3]) == [] and "adsorbate" not in groups_of_slab(slab[:3], [])
    projected = projected_on(found, groups)
    np.testing.assert_allclose(sum(projected.values()), sum(found.dos.projected.values()))
    layers = sum(projected[f"layer {i}"] for i in (1, 2, 3))
    np.testing.assert_allclose(layers, found.dos.projected["Cu"])
    np.testing.assert_allclose(projected["adsorbate"], found.dos.projected["O"])


def test_atoms_are_chosen_by_element_or_index():
    symbols = ["Cu", "Cu", "C", "O"]
    assert choose_atoms(symbols, "C O") == [2, 3]
    assert choose_atoms(symbols, "0,3") == [0, 3]
    with pytest.raises(InputError, match=r"name 'H', which is neither an element .*\(C Cu O\)"):
        choose_atoms(symbols, "H")
    with pytest.raises(InputError, match="an index between 0 and 3"):
        choose_atoms(symbols, "4")
    with pytest.raises(InputError, match="atoms is ' '"):
        choose_atoms(symbols, " ")


@pytest.mark.parametrize("chosen", [[4], [-1], [0, 0], [], [0.5]])
def test_absent_atoms_are_refused(oxygen, chosen):
    with pytest.raises(InputError, match="different indices between 0 and 3"):
        gamma_modes(oxygen[1], chosen)
