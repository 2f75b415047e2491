import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write
from ase.spacegroup.symmetrize import check_symmetry

from nemp_sim.errors import InputError
from nemp_sim.phonons.force_constants import periodic_axes
from nemp_sim.phonons.structures import BUILT_IN, read_structure, with_isotopes

KIND = {"H2O": 0, "CH3OH": 0, "H-Pd111": 2, "CO-Pd111": 2}


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_structures(name):
    atoms = read_structure(name)
    assert periodic_axes(atoms).sum() == KIND.get(name, 3)
    distances = atoms.repeat(np.where(atoms.pbc, 3, 1)).get_all_distances(mic=True)
    nearest = np.where(distances == 0, np.inf, distances).min(axis=1)
    assert 0.9 < nearest.min() and nearest.max() < 3.0
    assert not atoms.constraints


def test_ice_obeys_the_rules():
    """Two H near each O, one H in each hydrogen bond, four O around each O; space group Cmc2₁."""
    ice = read_structure("ice-Ih")
    assert ice.get_chemical_formula() == "H16O8"
    assert check_symmetry(ice, 1e-3).international == "Cmc2_1"
    distances, oxygen = ice.get_all_distances(mic=True), ice.symbols == "O"
    to_hydrogen, to_oxygen = distances[oxygen][:, ~oxygen], distances[oxygen][:, oxygen]
    assert ((to_hydrogen < 1.1).sum(axis=1) == 2).all()
    assert ((to_hydrogen < 1.1).sum(axis=0) == 1).all()
    assert ((to_hydrogen < 1.9).sum(axis=0) == 2).all()
    bonds = ice.repeat(2).get_all_distances(mic=True)[:8][:, ice.repeat(2).symbols == "O"]
    assert ((bonds < 3.0).sum(axis=1)[oxygen[:8]] == 5).all() and to_oxygen.max() > 4.0


def test_deuterium():
    assert read_structure("PdD").get_masses() == pytest.approx([106.42, 2.0141], abs=1e-3)


def test_isotopes():
    atoms = with_isotopes(Atoms("CH4"), "H=2.014, C=13.003")
    np.testing.assert_allclose(atoms.get_masses(), [13.003, *[2.014] * 4])
    for bad in ("D=2.014", "H", "H=heavy", "H=-1", "Pd=105.9"):
        with pytest.raises(InputError, match="with a mass in amu, as in H=2.014"):
            with_isotopes(Atoms("CH4"), bad)


def test_files(tmp_path):
    write(tmp_path / "cu.vasp", bulk("Cu"))
    assert len(read_structure(str(tmp_path / "cu.vasp"))) == 1
    (tmp_path / "bad.xyz").write_text("no structure")
    with pytest.raises(InputError, match="ASE cannot read"):
        read_structure(str(tmp_path / "bad.xyz"))
    with pytest.raises(InputError, match="neither a built-in one .*PdD.* nor a file"):
        read_structure("Xy")
