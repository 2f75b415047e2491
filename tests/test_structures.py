import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111, molecule

from nemp_sim.structures import gathered, in_vacuum, vacuum_gaps


def test_vacuum_gaps():
    slab = fcc111("Cu", (2, 2, 3), vacuum=5.5, periodic=True)
    slab.positions[:, 2] += 7.0  # the slab goes through the boundary
    slab.wrap()
    gaps = vacuum_gaps(slab)
    assert gaps[2] == pytest.approx(11.0) and (gaps[:2] < 3.0).all()
    slab.pbc = [True, True, False]
    assert vacuum_gaps(slab)[2] == np.inf
    assert (vacuum_gaps(molecule("CO")) == np.inf).all()
    tilted = Atoms("Cu", cell=[[4, 0, 0], [3, 4, 0], [0, 0, 9]], pbc=True)
    np.testing.assert_allclose(vacuum_gaps(tilted), [3.2, 4.0, 9.0])  # heights, not lengths


@pytest.mark.parametrize("pbc", [True, (True, False, False), False])
def test_a_molecule_through_the_boundary_is_gathered(pbc, rng):
    atoms = molecule("CH3OH", cell=[[11, 0, 0], [3, 12, 0], [-2, 1, 10]], pbc=pbc)
    distances = atoms.get_all_distances()
    for _ in range(5):
        atoms.positions += rng.uniform(-20, 20, size=3)
        atoms.wrap()
        copy = Atoms(atoms.symbols, gathered(atoms))
        np.testing.assert_allclose(copy.get_all_distances(), distances, atol=1e-9)


def test_what_has_no_vacuum_is_not_gathered():
    slab = fcc111("Cu", (2, 2, 3), vacuum=5.5)
    assert gathered(slab) is None
    assert gathered(molecule("CH3OH", cell=[11, 4, 11], pbc=True)) is None


def test_lone_atoms_and_dimers_in_vacuum():
    assert in_vacuum(Atoms("H")) and in_vacuum(Atoms("H"), most=1)
    assert in_vacuum(Atoms("H2")) and not in_vacuum(Atoms("H2"), most=1)
    assert in_vacuum(Atoms("H", cell=[8, 8, 8], pbc=True), most=1)
    assert not in_vacuum(Atoms("Pd", cell=[2.8, 2.8, 2.8], pbc=True), most=1)
    assert in_vacuum(Atoms("Pd", cell=[2.8, 9, 9], pbc=(False, True, True)))
