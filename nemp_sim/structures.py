"""What calculations ask of a structure: its bare copy, the coordinates held, other masses."""

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


def with_mass(atoms: Atoms, symbol: str, mass_amu: float) -> Atoms:
    """A copy whose atoms of one element have another mass: isotopes."""
    copy = atoms.copy()
    masses = copy.get_masses()
    masses[copy.symbols == symbol] = mass_amu
    copy.set_masses(masses)
    return copy
