"""The same physics in another frame, order, cell or batch: by how much results differ."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from nemp_sim.potential import Potential


@dataclass(frozen=True)
class Difference:
    """Largest difference of two results that should be equal.

    Attributes:
        energy_eV: of the total energy.
        force_eV_per_A: of a force component.
    """

    energy_eV: float
    force_eV_per_A: float

    @property
    def largest(self) -> float:
        """The larger of both, eV or eV/Å."""
        return max(self.energy_eV, self.force_eV_per_A)


def difference(
    potential: Potential, atoms: Atoms, energy_eV: float, forces_eV_per_A: np.ndarray
) -> Difference:
    """What ``atoms`` gives, less what it should give."""
    result = potential.evaluate([atoms], on_extrapolation="ignore")
    force = np.abs(result.forces[0] - forces_eV_per_A).max(initial=0.0)
    return Difference(float(abs(result.energy[0] - energy_eV)), float(force))


def _expected(potential: Potential, atoms: Atoms) -> tuple[float, np.ndarray]:
    result = potential.evaluate([atoms], on_extrapolation="ignore")
    return float(result.energy[0]), result.forces[0]


def translated(potential: Potential, atoms: Atoms, shift_A: np.ndarray) -> Difference:
    """All atoms moved by ``shift_A`` (3,), Å: energy and forces stay."""
    moved = atoms.copy()
    moved.positions += shift_A
    return difference(potential, moved, *_expected(potential, atoms))


def turned(potential: Potential, atoms: Atoms, matrix: np.ndarray) -> Difference:
    """Positions and cell turned by the orthogonal ``matrix`` (3, 3), r → r Rᵀ: forces turn."""
    energy, forces = _expected(potential, atoms)
    moved = atoms.copy()
    moved.positions = atoms.positions @ matrix.T
    moved.cell = atoms.cell.array @ matrix.T
    return difference(potential, moved, energy, forces @ matrix.T)


def permuted(potential: Potential, atoms: Atoms, order: np.ndarray) -> Difference:
    """Atoms in another order (N,): forces follow them."""
    energy, forces = _expected(potential, atoms)
    return difference(potential, atoms[order], energy, forces[order])


def shifted_by_lattice(potential: Potential, atoms: Atoms, jumps: np.ndarray) -> Difference:
    """Each atom moved by whole cell vectors ``jumps`` (N, 3) along periodic axes."""
    moved = atoms.copy()
    moved.positions += (jumps * atoms.pbc) @ atoms.cell.array
    return difference(potential, moved, *_expected(potential, atoms))


def repeated(potential: Potential, atoms: Atoms, repeats: tuple[int, int, int]) -> Difference:
    """A supercell: energy times its size, the same forces on every copy."""
    energy, forces = _expected(potential, atoms)
    n = int(np.prod(repeats))
    return difference(potential, atoms * repeats, n * energy, np.tile(forces, (n, 1)))


def fragments(potential: Potential, atoms: Atoms, other: Atoms, apart_A: float) -> Difference:
    """Two molecules without cell, ``apart_A`` between them: energies add up, forces stay."""
    energy, forces = _expected(potential, atoms)
    other_energy, other_forces = _expected(potential, other)
    moved = other.copy()
    moved.positions[:, 0] += atoms.positions[:, 0].max() - other.positions[:, 0].min() + apart_A
    both = np.concatenate([forces, other_forces])
    return difference(potential, atoms + moved, energy + other_energy, both)


def batched(potential: Potential, structures: Sequence[Atoms]) -> Difference:
    """A list in one call against its structures one at a time; the largest difference."""
    together = potential.evaluate(structures, on_extrapolation="ignore")
    each = [
        difference(potential, *found)
        for found in zip(structures, together.energy, together.forces, strict=True)
    ]
    return Difference(max(d.energy_eV for d in each), max(d.force_eV_per_A for d in each))


def repeated_run(potential: Potential, atoms: Atoms) -> Difference:
    """The same evaluation twice: the same bits, so zero."""
    return difference(potential, atoms, *_expected(potential, atoms))
