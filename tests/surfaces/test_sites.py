import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read, write
from scipy.spatial.distance import cdist

from nemp_sim.errors import InputError
from nemp_sim.surfaces.sites import all_sites, distinct_sites, nearest_site
from nemp_sim.surfaces.slabs import fcc_slab

A = 3.95


def metal_distances(slab, position):
    """Distances to all metal atoms of a 3 × 3 supercell, ascending, straight from coordinates."""
    shifts = [i * slab.cell[0] + j * slab.cell[1] for i in (-1, 0, 1) for j in (-1, 0, 1)]
    atoms = np.concatenate([slab.positions + shift for shift in shifts])
    return np.sort(cdist([position], atoms)[0])


@pytest.mark.parametrize(
    ("facet", "per_cell"),
    [
        ("111", {"top": 1, "bridge": 3, "fcc": 1, "hcp": 1, "sub_oct": 1, "sub_tet": 2}),
        ("100", {"top": 1, "bridge": 2, "hollow": 1, "sub_oct": 1, "sub_tet": 2}),
        (
            "110",
            {"top": 1, "shortbridge": 1, "longbridge": 1, "hollow": 1, "sub_oct": 1, "sub_tet": 2},
        ),
    ],
)
def test_sites_have_the_metal_neighbours_of_their_kind(facet, per_cell):
    slab = fcc_slab("Pd", facet, size=(2, 2, 4))
    sites = all_sites(slab)
    kinds = [site.kind for site in sites]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        kind: 4 * n for kind, n in per_cell.items()
    }
    half = {"top": 0, "bridge": 1 / 8**0.5, "shortbridge": 1 / 8**0.5, "longbridge": 1 / 2}
    half |= {"fcc": 1 / 6**0.5, "hcp": 1 / 6**0.5, "hollow": 1 / 2 if facet == "100" else None}
    half |= {"sub_oct": 1 / 2, "sub_tet": 3**0.5 / 4}
    count = {"top": 1, "bridge": 2, "shortbridge": 2, "longbridge": 2, "fcc": 3, "hcp": 3}
    count |= {"hollow": 4, "sub_oct": 6, "sub_tet": 4}
    for site in sites:
        d = metal_distances(slab, site.position)
        n = count[site.kind]
        if half[site.kind] is not None:
            np.testing.assert_allclose(d[:n], half[site.kind] * A, atol=1e-6)
            below = {("100", "hollow"): 1, ("110", "longbridge"): 2}  # of the second layer, as near
            assert d[n + below.get((facet, site.kind), 0)] > d[0] + 0.3
        assert site.metals == ("Pd" if n == 1 else f"Pd{n}")


def test_fcc_lies_above_the_third_layer_and_hcp_above_the_second():
    slab = fcc_slab("Pd", size=(2, 2, 3))
    for kind, layer in (("fcc", slab.positions[:4]), ("hcp", slab.positions[4:8])):
        for site in all_sites(slab):
            if site.kind == kind:
                beside = metal_distances(
                    Atoms("Pd4", layer * [1, 1, 0], cell=slab.cell), site.position * [1, 1, 0]
                )
                assert beside[0] < 1e-6


@pytest.mark.parametrize("facet", ["111", "100", "110"])
def test_symmetry_leaves_one_site_of_each_kind(facet):
    slab = fcc_slab("Pd", facet, size=(2, 2, 3))
    kinds = [site.kind for site in distinct_sites(slab)]
    expected = {"111": 4, "100": 3, "110": 4}[facet]
    assert len(kinds) == len(set(kinds)) == expected
    below = distinct_sites(slab, ["sub_oct", "sub_tet"])
    assert len(below) == (3 if facet == "111" else 2)  # two tetrahedral holes below (111)


def test_symmetry_survives_a_relaxation_but_not_another_metal():
    slab = fcc_slab("Pd", size=(2, 2, 3))
    assert sum(site.multiplicity for site in distinct_sites(slab)) == 4 * 6
    slab.positions += np.random.default_rng(0).normal(scale=0.002, size=slab.positions.shape)
    assert len(distinct_sites(slab)) == 4
    slab.symbols[8] = "Ag"  # one of the four atoms of the top layer
    assert {"fcc AgPd2", "fcc"} <= {site.label for site in distinct_sites(slab)}
    assert sum(site.multiplicity for site in distinct_sites(slab)) == 4 * 6
    by_kind = {}
    for site in distinct_sites(slab):
        by_kind.setdefault(site.kind, []).append((site.metals, site.multiplicity))
    assert sorted(by_kind["top"]) == [("Ag", 1), ("Pd", 3)]
    assert sorted(by_kind["fcc"]) == [("AgPd2", 3), ("Pd3", 1)]
    assert sorted(by_kind["bridge"]) == [("AgPd", 6), ("Pd2", 3), ("Pd2", 3)]


def test_sites_of_a_file(tmp_path):
    slab = fcc_slab()
    write(tmp_path / "slab.extxyz", slab)
    for ours, theirs in zip(
        all_sites(slab), all_sites(read(tmp_path / "slab.extxyz")), strict=True
    ):
        assert ours.kind == theirs.kind
        np.testing.assert_allclose(ours.position, theirs.position, atol=1e-6)


def test_nearest_site_is_found_again(rng):
    slab = fcc_slab("Pd", size=(2, 2, 4))
    for site in all_sites(slab):
        height = 0 if site.below else rng.uniform(0, 2)
        shift = rng.integers(-2, 3, 2) @ slab.cell[:2]
        point = site.position + [0.1, -0.1, height] + shift
        found, offset = nearest_site(slab, point)
        assert found.kind == site.kind
        assert offset == pytest.approx(0.02**0.5, abs=1e-6)


def test_slabs_without_a_table_and_unknown_sites_are_refused():
    with pytest.raises(InputError, match="no table of sites. Build it with"):
        all_sites(bulk("Pd"))
    with pytest.raises(InputError, match="site is 'hollow', but must be one of top, bridge, fcc"):
        distinct_sites(fcc_slab(), ["hollow"])
