"""Fixtures of the workflow tests."""

from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT

from nemp_sim.checkpoint import save_potential, shipped_directory


class EMTEngine:
    """ASE's effective-medium theory as an engine."""

    def evaluate(self, structures):
        energy, forces = [], []
        for atoms in structures:
            free = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
            free.calc = EMT()
            energy.append(free.get_potential_energy())
            forces.append(free.get_forces())
        return SimpleNamespace(energy=np.array(energy), forces=tuple(forces))


@pytest.fixture
def emt():
    """An engine that knows Pd and H and needs no potential file."""
    return EMTEngine()


@pytest.fixture(scope="session")
def random_file(random_potential, tmp_path_factory):
    """A potential file with random weights for H, C, O and Pd."""
    path = tmp_path_factory.mktemp("potentials") / "random.pt"
    return save_potential(random_potential("smooth"), path)


@pytest.fixture
def pdh():
    """The shipped Pd–H potential; a visible skip where it is not there yet."""
    path = shipped_directory() / "pdh.pt"
    if not path.is_file():
        pytest.skip(f"the shipped potential {path} does not exist yet")
    return path
