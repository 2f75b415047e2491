"""What calculations ask of a structure: its bare copy, and the coordinates that are held."""

from copy import deepcopy

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian


def bare(atoms: Atoms) -> Atoms:
    """Geometry, masses, tags and constraints, without labels or results of another calculation."""
    plain = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    for name in ("tags", "masses"):
        if atoms.has(name):
            plain.set_array(name, atoms.arrays[name])
    plain.set_constraint(deepcopy(atoms.constraints))
    return plain


def fixed_coordinates(atoms: Atoms) -> np.ndarray:
    """Mask (N, 3) of the coordinates that FixAtoms and FixCartesian hold."""
    fixed = np.zeros((len(atoms), 3), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            fixed[constraint.index] = True
        elif isinstance(constraint, FixCartesian):
            fixed[constraint.index] |= constraint.mask
    return fixed
