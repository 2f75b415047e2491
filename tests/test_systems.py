import numpy as np
import pytest
from ase.build import bulk
from ase.io import write
from ase.spacegroup.symmetrize import check_symmetry

from nemp_sim.errors import InputError
from nemp_sim.phonons.force_constants import periodic_axes
from nemp_sim.systems import SYSTEMS, choose_potential, read_system, systems_of, water_box

PERIODIC = {"molecule": 0, "slab": 2, "crystal": 3, "liquid": 3}


@pytest.mark.parametrize("name", SYSTEMS)
def test_built_in_structures(name):
    atoms = read_system(name)
    assert periodic_axes(atoms).sum() == PERIODIC[SYSTEMS[name].kind]
    repeats = np.where(atoms.pbc & (len(atoms) < 50), 3, 1)
    distances = atoms.repeat(repeats).get_all_distances(mic=True)
    nearest = np.where(distances == 0, np.inf, distances).min(axis=1)
    assert 0.9 < nearest.min() and nearest.max() < 3.0
    assert not atoms.constraints


def test_ice_obeys_the_rules():
    """Two H near each O, one H in each hydrogen bond, four O around each O; space group Cmc2₁."""
    ice = read_system("ice-Ih")
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
    assert read_system("PdD").get_masses() == pytest.approx([106.42, 2.0141], abs=1e-3)


def test_files(tmp_path):
    write(tmp_path / "cu.vasp", bulk("Cu"))
    assert len(read_system(str(tmp_path / "cu.vasp"))) == 1
    (tmp_path / "bad.xyz").write_text("no structure")
    with pytest.raises(InputError, match="ASE cannot read"):
        read_system(str(tmp_path / "bad.xyz"))
    with pytest.raises(InputError, match="neither built in .*PdD.* nor a file"):
        read_system("Xy")
    with pytest.raises(InputError, match="structure is 'Pd', but that is neither built in"):
        read_system("Pd", systems_of("slab", "liquid"), "structure")


def test_adsorbates_and_held_layers():
    co = read_system("co-pd111")
    assert co.get_distance(12, 13) == pytest.approx(1.18) and co.symbols[12] == "C"
    assert read_system("h-pd111", fixed_layers=2).constraints[0].index.tolist() == [*range(8)]


def test_water_box():
    water = water_box(4, 12.44)
    assert len(water) == 192 and water.pbc.all()
    distances = water.get_all_distances(mic=True)
    assert distances[np.triu_indices(192, 1)].min() > 0.8


def test_potentials():
    assert choose_potential("AgPd", None, None) == ("agpd.pt", "liquid")
    assert choose_potential("AgPd", None, "solid") == ("agpd.pt", "solid")
    assert choose_potential("AgPd", "my.pt", None) == ("my.pt", None)
    assert choose_potential("co-pd111", None, None) == ("pdco.pt", "pw450")
    for name in ("H2O", "my.xyz"):
        with pytest.raises(InputError, match="potential is not given, but only Pd.*have a shipped"):
            choose_potential(name, None, None)
