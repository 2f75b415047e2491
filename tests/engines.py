"""Engines without a potential file, for the tests of what runs on any engine."""

import zlib
from types import SimpleNamespace

import numpy as np
from ase import Atoms
from ase.calculators.emt import EMT


class EMTEngine:
    """ASE's effective-medium theory as an engine; remembers the size of each batch."""

    def __init__(self):
        self.batches = []

    def evaluate(self, structures):
        self.batches.append(len(structures))
        energy, forces = [], []
        for atoms in structures:
            free = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
            free.calc = EMT()
            energy.append(free.get_potential_energy())
            forces.append(free.get_forces())
        return SimpleNamespace(energy=np.array(energy), forces=tuple(forces))


class StressEMT(EMTEngine):
    """EMT with stress."""

    def evaluate(self, structures, forces=True, stress=False):
        result = super().evaluate(structures)
        if stress:
            values = []
            for atoms in structures:
                copy = atoms.copy()
                copy.calc = EMT()
                values.append(copy.get_stress())
            result.stress = np.array(values)
        return result


class UncertainEMT:
    """EMT with known errors: each structure has its own standard deviation, which it predicts."""

    sha256 = "00e1"

    def evaluate(self, structures, uncertainty):
        assert uncertainty
        exact = EMTEngine().evaluate(structures)
        forces, stds = [], []
        for atoms, true in zip(structures, exact.forces, strict=True):
            rng = np.random.default_rng(zlib.crc32(atoms.positions.round(6).tobytes()))
            std = 10.0 ** rng.uniform(-3.0, -0.5) * np.ones_like(true)
            stds.append(std)
            forces.append(true + rng.normal(scale=std))
        energy_std = np.array([std[0, 0] for std in stds])
        return SimpleNamespace(
            energy=exact.energy, forces=forces, energy_std=energy_std, forces_std=stds
        )


class CommitteeEMT(EMTEngine):
    """EMT with members: an error that all structures share, and one along x of the last atom.

    Attributes:
        slopes: (M,) eV/Å, mean zero, of the second error: a difference of energies over Δx has the
            standard deviation |Δx| of them, whatever the structures share.
    """

    slopes = np.array([-0.2, 0.1, 0.3, -0.2])
    shared = np.array([5.0, -4.0, 1.0, -2.0])

    def evaluate(self, structures):
        result = super().evaluate(structures)
        x = np.array([atoms.positions[-1, 0] for atoms in structures])
        result.energy_members = result.energy[:, None] + self.shared + x[:, None] * self.slopes
        return result
