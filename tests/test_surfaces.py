import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.constraints import FixAtoms
from ase.io import read, write

from nemp_sim.errors import InputError
from nemp_sim.surfaces import SITES, adsorb, fcc111_slab, freeze_lowest_layers, layers_from_below


def neighbours(atoms, index):
    """Distances from atom ``index`` to all others, ascending, and their indices."""
    others = [i for i in range(len(atoms)) if i != index]
    distances = atoms.get_distances(index, others, mic=True)
    order = np.argsort(distances)
    return distances[order], np.array(others)[order]


def test_default_slab_is_that_of_the_training_data():
    slab = fcc111_slab()
    assert slab.get_chemical_formula() == "Pd12"
    assert slab.pbc.tolist() == [True, True, False]
    a = 3.95
    np.testing.assert_allclose(slab.cell.lengths()[:2], 2 * a / np.sqrt(2), rtol=1e-12)
    heights = np.unique(slab.positions[:, 2].round(8))
    np.testing.assert_allclose(np.diff(heights), a / np.sqrt(3), atol=1e-7)
    assert slab.cell[2, 2] - np.ptp(heights) >= 11.0
    assert adsorb(slab, "H", "fcc").get_chemical_formula() == "HPd12"


def test_only_the_lowest_layers_are_held():
    for layers in (0, 1, 2):
        slab = fcc111_slab(fixed_layers=layers)
        held = slab.constraints[0].index if layers else []
        assert sorted(held) == list(range(4 * layers))
        assert (
            slab.positions[4 * layers :, 2] > slab.positions[: 4 * layers, 2].max(initial=0)
        ).all()


def test_sites_have_their_neighbours():
    slab = fcc111_slab()
    top, second, third = slab.positions[8:], slab.positions[4:8], slab.positions[:4]

    def lateral(site, layer):
        covered = adsorb(slab, "H", site)
        probe = Atoms("H", [covered.positions[-1] * [1, 1, 0]], cell=slab.cell, pbc=slab.pbc)
        probe += Atoms(f"X{len(layer)}", layer * [1, 1, 0])
        return np.sort(probe.get_distances(0, range(1, len(probe)), mic=True))

    assert lateral("top", top)[0] < 1e-9
    assert lateral("hcp", second)[0] < 1e-9
    assert lateral("fcc", third)[0] < 1e-9
    assert lateral("subsurface", third)[0] < 1e-9
    nearest = lateral("bridge", top)
    np.testing.assert_allclose(nearest[:2], 3.95 / np.sqrt(8), rtol=1e-9)


def test_subsurface_is_the_octahedral_hole():
    distances, _ = neighbours(adsorb(fcc111_slab(), "H", "subsurface"), 12)
    np.testing.assert_allclose(distances[:6], 3.95 / 2, rtol=1e-9)
    assert distances[6] > 3.0


@pytest.mark.parametrize("site", SITES)
def test_adsorbate_is_last_free_and_where_asked(site):
    slab = fcc111_slab()
    before = slab.positions.copy()
    covered = adsorb(slab, "H", site, height_angstrom=1.3)
    assert covered.symbols[-1] == "H"
    assert covered.positions[-1, 2] - slab.positions[:, 2].max() == pytest.approx(1.3)
    assert 12 not in covered.constraints[0].index
    assert len(slab) == 12 and (slab.positions == before).all()


def test_slab_goes_into_a_file_and_back_with_its_sites(tmp_path):
    write(tmp_path / "slab.extxyz", fcc111_slab())
    read_back = adsorb(read(tmp_path / "slab.extxyz"), "H", "hcp")
    np.testing.assert_allclose(
        read_back.positions, adsorb(fcc111_slab(), "H", "hcp").positions, atol=1e-7
    )


def test_molecule_is_placed_by_its_first_atom():
    molecule = Atoms("CO", [[5, 5, 5], [5, 5, 6.15]])
    covered = adsorb(fcc111_slab(), molecule, "top", 1.9)
    assert covered.get_distance(12, 13) == pytest.approx(1.15)
    assert covered.positions[12, 2] < covered.positions[13, 2]
    assert (molecule.positions[0] == 5).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: adsorb(fcc111_slab(), "H", "hollow"), "site is 'hollow'.*one of top, bridge"),
        (lambda: adsorb(bulk("Pd"), "H", "fcc"), "no table of .111. sites"),
        (lambda: fcc111_slab(lattice_constant_angstrom=-1), "lattice_constant_angstrom is -1"),
        (lambda: fcc111_slab(size=(2, 0, 3)), "size is"),
        (lambda: fcc111_slab(vacuum_angstrom=0), "vacuum_angstrom is 0"),
        (lambda: fcc111_slab(fixed_layers=3), "fixed_layers is 3.*3 layers"),
        (lambda: fcc111_slab(fixed_layers=-1), "fixed_layers is -1"),
        (lambda: freeze_lowest_layers(bulk("Pd", cubic=True), 1), "no layer is the lowest"),
        (lambda: layers_from_below(Atoms()), "atoms is 'empty'"),
    ],
)
def test_unusable_values_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_layers_of_a_relaxed_slab_wrapped_through_the_boundary(rng):
    slab = fcc111("Pd", (2, 2, 4), a=3.95, vacuum=7.0, periodic=True)
    expected = [sorted(layer) for layer in layers_from_below(slab)]
    assert expected == [list(range(4 * k, 4 * k + 4)) for k in range(4)]
    slab.positions += rng.normal(scale=0.04, size=slab.positions.shape)
    slab.positions[:, 2] -= slab.positions[0, 2]  # the lowest layer straddles the boundary
    slab.wrap()
    assert [sorted(layer) for layer in layers_from_below(slab)] == expected


def test_layers_follow_the_normal_of_a_tilted_cell():
    slab = fcc111("Pd", (2, 2, 3), a=3.95, vacuum=8.0)
    slab.rotate(70, "x", rotate_cell=True)
    assert sorted(layers_from_below(slab)[0]) == [0, 1, 2, 3]


def test_freezing_replaces_older_constraints_of_the_copy_only():
    slab = fcc111_slab(fixed_layers=1)
    frozen = freeze_lowest_layers(slab, 2)
    assert len(frozen.constraints) == 1 and isinstance(frozen.constraints[0], FixAtoms)
    assert len(frozen.constraints[0].index) == 8
    assert len(slab.constraints[0].index) == 4
