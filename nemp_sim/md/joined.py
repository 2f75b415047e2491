"""Replicas as one Atoms object, which ASE's integrators move and one engine call evaluates.

An integrator at constant volume moves every atom by its own force, mass, velocity and random
numbers. So R structures of N atoms may be shown to it as one of R·N atoms: the same equations, the
same rounding, one call for all forces, and no integrator of our own.
"""

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian

from nemp_sim.relax import CountedCalls, Engine
from nemp_sim.structures import bare, fixed_coordinates, require_fixed_alone


class Replicas(Calculator):
    """Calculator of the joined structure: energies and forces of all replicas by one call.

    Attributes:
        atoms_of: the R replicas, moved along.
        energies: (R,) potential energies at the last evaluation, eV.
        stresses: (R, 6) at the last evaluation, eV/Å³; None where it was not asked for.
        with_stress: whether to compute stresses too.
    """

    implemented_properties: list[str] = ["energy", "forces", "stress"]

    def __init__(self, engine: Engine, replicas: Sequence[Atoms]) -> None:
        """Take copies of the replicas, all of one composition.

        Raises:
            InputError: constraints other than FixAtoms and FixCartesian.
        """
        super().__init__()
        for each in replicas:
            require_fixed_alone(each, "dynamics")
        self.atoms_of = [bare(each) for each in replicas]
        self.with_stress = False
        self.energies = np.zeros(len(replicas))
        self.stresses: np.ndarray | None = None
        self._engine = engine
        self.renew_lists()

    def renew_lists(self) -> None:
        """Start with new neighbour lists, as a run does that goes on from a file."""
        self._calls = CountedCalls(self._engine)

    def joined(self) -> Atoms:
        """The replicas as one structure with the cell of the first, constraints and calculator."""
        first = self.atoms_of[0]
        every = {name: np.concatenate(values) for name, values in self._arrays().items()}
        atoms = Atoms(every["numbers"], every["positions"], cell=first.cell, pbc=first.pbc)
        atoms.set_masses(every["masses"])
        atoms.set_constraint(_constraints(every["fixed"]))
        for each in self.atoms_of:
            each.set_constraint()
        atoms.calc = self
        return atoms

    def _arrays(self) -> dict[str, list[np.ndarray]]:
        return {
            "numbers": [a.numbers for a in self.atoms_of],
            "positions": [a.positions for a in self.atoms_of],
            "masses": [a.get_masses() for a in self.atoms_of],
            "fixed": [fixed_coordinates(a) for a in self.atoms_of],
        }

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Evaluate all replicas at the places of the joined structure.

        Raises:
            EvaluationError: results that are not finite.
        """
        super().calculate(atoms, properties, system_changes)
        self._move(self.atoms)
        stress = self.with_stress or "stress" in properties
        found = self._calls.evaluate(self.atoms_of, stress)
        self.energies = np.array(found.energy, dtype=float)
        self.stresses = np.array(found.stress, dtype=float) if stress else None
        self._fill(np.concatenate(found.forces).astype(float))

    def restore(
        self, atoms: Atoms, forces: np.ndarray, energies: np.ndarray, stresses: np.ndarray | None
    ) -> None:
        """Take up results of an earlier process at the places of ``atoms``."""
        self.atoms = atoms.copy()
        self._move(atoms)
        self.energies, self.stresses = energies, stresses
        self._fill(forces)

    def split(self, joined: Atoms, start: Atoms) -> tuple[Atoms, ...]:
        """The replicas with momenta, energies and forces, and with the constraints of ``start``."""
        momenta = np.split(joined.get_momenta(), len(self.atoms_of))
        forces = np.split(self.results["forces"], len(self.atoms_of))
        found = []
        for k, atoms in enumerate(self.atoms_of):
            frame = atoms.copy()
            frame.set_momenta(momenta[k])
            frame.set_constraint(start.constraints)
            results = {"energy": float(self.energies[k]), "forces": forces[k]}
            frame.calc = SinglePointCalculator(frame, **results)
            found.append(frame)
        return tuple(found)

    def _move(self, joined: Atoms) -> None:
        places = np.split(joined.positions, len(self.atoms_of))
        for each, positions in zip(self.atoms_of, places, strict=True):
            each.positions = positions
            if (each.cell.array != joined.cell.array).any():
                each.cell = joined.cell.array

    def _fill(self, forces: np.ndarray) -> None:
        self.results = {"energy": float(self.energies.sum()), "forces": forces}
        if self.stresses is not None and len(self.stresses) == 1:
            self.results["stress"] = self.stresses[0]


def _constraints(fixed: np.ndarray) -> list[FixAtoms | FixCartesian]:
    """Constraints that hold the coordinates of a mask (N, 3)."""
    whole = fixed.all(axis=1)
    found: list[FixAtoms | FixCartesian] = []
    if whole.any():
        found.append(FixAtoms(np.flatnonzero(whole)))
    partly = fixed[fixed.any(axis=1) & ~whole]
    for mask in np.unique(partly, axis=0):
        found.append(FixCartesian(np.flatnonzero((fixed == mask).all(axis=1)), mask))
    return found
