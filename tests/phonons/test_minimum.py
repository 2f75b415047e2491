import numpy as np
import phonopy
import pytest
from ase.build import bulk, fcc111, molecule
from ase.spacegroup.symmetrize import check_symmetry

from nemp_sim.errors import InputError
from nemp_sim.phonons.files import write_force_files
from nemp_sim.phonons.force_constants import build_phonopy, force_constants
from nemp_sim.phonons.minimum import Limits, symmetrised, to_minimum
from tests.engines import StressEMT


def rattled(size):
    atoms = bulk("Cu", a=3.59, cubic=True)
    atoms.rattle(size, seed=1)
    return atoms


def test_nearly_symmetric_structures_become_symmetric():
    assert check_symmetry(rattled(1e-3), 1e-4).number < 10
    assert check_symmetry(symmetrised(rattled(1e-3), 0.02), 1e-4).number == 225


def test_phonopy_finds_the_symmetry_of_its_files_again(tmp_path):
    """Its own tolerance is a tenth of ours."""
    minimum = to_minimum(StressEMT(), rattled(1e-5), Limits("none", 0.1))
    assert check_symmetry(minimum.atoms, 1e-8).number == 225
    phonon = build_phonopy(minimum.atoms, (2, 2, 2))
    constants = force_constants(StressEMT(), minimum.atoms, phonon)
    write_force_files(constants, tmp_path)
    loaded = phonopy.load(tmp_path / "phonopy_params.yaml")
    want = phonon.run_qpoints([[0.5, 0, 0.5]]).frequencies
    np.testing.assert_allclose(loaded.run_qpoints([[0.5, 0, 0.5]]).frequencies, want, atol=1e-5)


@pytest.mark.parametrize(
    ("atoms", "note"),
    [
        (bulk("Cu", a=3.5), "Positions and cell were relaxed."),
        (fcc111("Cu", (1, 1, 3), a=3.59, vacuum=6.0), "Positions were relaxed in the given cell."),
        (molecule("CO"), "Positions were relaxed in the given cell."),
    ],
)
def test_what_is_relaxed(atoms, note):
    minimum = to_minimum(StressEMT(), atoms, Limits())
    assert minimum.notes == (note,) and minimum.optimizer_steps > 0
    assert np.abs(minimum.atoms.get_forces()).max() < 1e-3


def test_unknown_ways_are_refused():
    with pytest.raises(InputError, match="relax is 'volume', but must be one of auto, cell"):
        to_minimum(StressEMT(), bulk("Cu"), Limits("volume"))
    with pytest.raises(InputError, match="positions for slabs and molecules"):
        to_minimum(StressEMT(), molecule("CO"), Limits("cell"))
