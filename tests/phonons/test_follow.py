import numpy as np
import pytest
from ase.build import bulk, make_supercell
from ase.spacegroup.symmetrize import check_symmetry

from nemp_sim.errors import EvaluationError
from nemp_sim.minimum import check_minimum, relax_crystal
from nemp_sim.phonons.follow import along_softest, frozen_mode, softest_mode
from nemp_sim.phonons.force_constants import build_phonopy, choose_supercell, force_constants
from nemp_sim.phonons.imaginary import ImaginaryMode
from nemp_sim.phonons.minimum import symmetrised
from tests.engines import EMTEngine, StressEMT

RADIUS = 4.5


def constants_of(atoms, **keywords):
    phonon = build_phonopy(atoms, **{"radius_angstrom": RADIUS} | keywords)
    return force_constants(EMTEngine(), atoms, phonon)


@pytest.fixture(scope="module")
def bcc():
    """Bcc Cu, which EMT makes unstable."""
    return bulk("Cu", "bcc", a=2.86)


def test_bcc_goes_down_to_a_close_packed_crystal(bcc):
    """By Burgers' path: transverse N phonon and shear give hcp."""
    engine = EMTEngine()
    followed = along_softest(engine, bcc, constants_of(bcc))
    assert engine.batches == [21]
    assert "0.5 0 0, band 0: 1.1" in str(followed) and followed.repeats == (2, 1, 1)
    relaxed = relax_crystal(StressEMT(), followed.atoms)
    atoms = symmetrised(relaxed.atoms, 0.02)
    assert check_symmetry(atoms, 1e-4).international == "P6_3/mmc"
    check_minimum(StressEMT(), atoms, 1e-3, 0.02)
    fcc = relax_crystal(StressEMT(), bulk("Cu", a=3.6)).atoms.get_potential_energy()
    assert atoms.get_potential_energy() / len(atoms) == pytest.approx(fcc, abs=0.005)
    constants = constants_of(atoms)
    assert softest_mode(constants) is None
    assert along_softest(EMTEngine(), atoms, constants) is None


@pytest.mark.parametrize("q", [[0.25, 0, 0], [0.25, 0.25, -0.25], [0.5, 0.25, 0.25], [0, 0, 0.5]])
def test_a_frozen_mode_has_the_curvature_of_its_frequency(q):
    """½ Σ m |u|² ω² a² for displacements along the pattern, of a stable crystal."""
    atoms = bulk("Cu", a=3.59)
    constants = constants_of(atoms, supercell=(4, 4, 4))
    found = constants.phonon.run_qpoints([q], with_eigenvectors=True)
    vector = found.eigenvectors[0][:, 2].reshape(-1, 3) * np.exp(0.7j)
    frequency = found.frequencies[0, 2]
    mode = ImaginaryMode(np.array(q), "", 2, frequency, vector, False)
    cell, pattern = frozen_mode(constants.phonon, mode, atoms.pbc)
    assert np.linalg.norm(pattern, axis=1).max() == pytest.approx(1)
    scan = []
    for step in (-0.01, 0.0, 0.01):
        moved = cell.copy()
        moved.positions += step * pattern
        scan.append(moved)
    energies = EMTEngine().evaluate(scan).energy
    curvature = (energies[0] - 2 * energies[1] + energies[2]) / 0.01**2
    mass = (cell.get_masses()[:, None] * pattern**2).sum()
    assert 15.6333 * np.sqrt(curvature / mass) == pytest.approx(frequency, rel=2e-3)


def test_a_mode_without_a_lower_energy_is_refused(bcc):
    class Flat(EMTEngine):
        def evaluate(self, structures):
            result = super().evaluate(structures)
            result.energy[1:] = result.energy[0]
            return result

    with pytest.raises(EvaluationError, match="the energy does not fall along it between 0.02"):
        along_softest(Flat(), bcc, constants_of(bcc))


def test_wave_vectors_that_fit_nowhere_are_refused(bcc):
    mode = ImaginaryMode(np.array([0.3141, 0, 0]), "", 0, -1.0, np.ones((1, 3)), False)
    with pytest.raises(EvaluationError, match="fits into no repeat of 12"):
        frozen_mode(constants_of(bcc).phonon, mode, bcc.pbc)


def test_a_chosen_supercell_keeps_symmetry_that_the_cell_hides():
    """Hcp in an orthorhombic cell: no diagonal supercell is hexagonal."""
    hcp = bulk("Cu", "hcp", a=2.55, c=4.16)
    hidden = make_supercell(hcp, [[1, 0, 0], [1, 2, 0], [0, 0, 1]])
    constants = constants_of(hidden)
    assert not np.array_equal(constants.phonon.supercell_matrix, choose_supercell(hidden, RADIUS))
    assert constants.reach_angstrom >= RADIUS and len(constants.phonon.primitive) == 2
    want = constants_of(hcp, supercell=(4, 4, 4)).phonon.run_qpoints([[0, 0, 0.5]]).frequencies
    got = constants.phonon.run_qpoints([[0, 0, 0.5]]).frequencies
    np.testing.assert_allclose(got, want, atol=1e-4)
