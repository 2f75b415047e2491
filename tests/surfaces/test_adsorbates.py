import numpy as np
import pytest
from ase import Atoms
from ase.data import covalent_radii

from nemp_sim.errors import InputError
from nemp_sim.surfaces.adsorbates import FORMS, adsorbate, bonds, gas_molecule, place
from nemp_sim.surfaces.sites import distinct_sites
from nemp_sim.surfaces.slabs import fcc_slab


@pytest.mark.parametrize("name", FORMS)
def test_gas_reference_holds_the_atoms_of_the_adsorbate(name):
    atoms = adsorbate(name)
    total = dict.fromkeys("HCO", 0.0)
    for gas, amount in FORMS[name].gas.items():
        for symbol in gas_molecule(gas).symbols:
            total[symbol] += amount
    assert {s: n for s, n in total.items() if n} == atoms.symbols.formula.count()


def direction(atoms, i, j):
    vector = atoms.positions[j] - atoms.positions[i]
    return vector / np.linalg.norm(vector)


def test_orientations():
    co = adsorbate("CO")
    assert co.symbols.tolist() if hasattr(co.symbols, "tolist") else list(co.symbols) == ["C", "O"]
    np.testing.assert_allclose(direction(co, 0, 1), [0, 0, 1], atol=1e-9)
    h2 = adsorbate("H2")
    assert abs(direction(h2, 0, 1)[2]) < 1e-9 and np.allclose(h2.positions.mean(axis=0), 0)
    assert direction(adsorbate("OH"), 0, 1)[2] == pytest.approx(0.5)  # 60° from the normal
    water = adsorbate("H2O")
    heights = water.positions[1:, 2]
    assert np.ptp(heights) < 1e-6 and 0 < heights[0] < 0.2  # flat, H a little higher
    methoxy = adsorbate("CH3O")
    assert list(methoxy.symbols)[0] == "O" and methoxy.positions[:, 2].argmin() == 0
    assert direction(methoxy, 0, 1)[2] == pytest.approx(1.0)
    hydroxymethyl = adsorbate("CH2OH")
    assert list(hydroxymethyl.symbols)[0] == "C"
    assert hydroxymethyl.positions[1:, 2].min() > -0.35
    for name in FORMS:
        atoms = adsorbate(name)
        if FORMS[name].name:
            reference = gas_molecule(FORMS[name].name)
            assert len(bonds(atoms)) == len(bonds(reference))
            assert np.sort(atoms.get_all_distances().ravel()) == pytest.approx(
                np.sort(reference.get_all_distances().ravel())
            )


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("facet", ["111", "100", "110"])
def test_the_adsorbate_touches_the_metal_and_no_more(name, facet):
    slab = fcc_slab("Pd", facet, size=(2, 2, 3))
    for site in distinct_sites(slab):
        covered = place(slab, name, site, azimuth_degree=30)
        n = len(slab)
        assert (covered.positions[:n] == slab.positions).all()
        guest = covered[n:]
        ratios = [
            covered.get_distance(i, j, mic=True)
            / (covalent_radii[covered.numbers[i]] + covalent_radii[46])
            for i in range(n, len(covered))
            for j in range(n)
        ]
        assert min(ratios) == pytest.approx(1.05, abs=1e-6)
        anchor = guest.positions.mean(axis=0) if name == "H2" else guest.positions[0]
        np.testing.assert_allclose(anchor[:2], site.position[:2], atol=1e-9)
        assert not set(range(n, len(covered))) & set(covered.constraints[0].index)


def test_below_the_surface_and_given_heights():
    slab = fcc_slab()
    held = place(slab, "H", "sub_oct")
    d = np.sort(held.get_distances(12, range(12), mic=True))
    np.testing.assert_allclose(d[:6], 3.95 / 2, rtol=1e-6)
    for site in ("top", "bridge", "fcc", "sub_tet"):
        covered = place(slab, "H", site, height_angstrom=1.3)
        assert covered.positions[-1, 2] - slab.positions[:, 2].max() == pytest.approx(1.3)


def test_a_molecule_of_your_own_is_placed_by_its_first_atom():
    molecule = Atoms("CO", [[5, 5, 5], [5, 5, 6.15]])
    covered = place(fcc_slab(), molecule, "top", 1.9)
    assert covered.get_distance(12, 13) == pytest.approx(1.15)
    assert covered.positions[12, 2] < covered.positions[13, 2]
    assert (molecule.positions[0] == 5).all()


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="site is 'hollow', but must be one of top, bridge, fcc"):
        place(fcc_slab(), "H", "hollow")
    with pytest.raises(InputError, match="adsorbate is 'CH4O', but must be an element or H, H2"):
        adsorbate("CH4O")
    with pytest.raises(InputError, match="gas is 'unobtainium'"):
        gas_molecule("unobtainium")
