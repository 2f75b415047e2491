"""What calculations ask of a structure: sane numbers, bare copies, held coordinates, masses."""

from copy import deepcopy

import numpy as np
from ase import Atoms

from nemp_sim.errors import InputError

LARGEST_NUMBER = 1e8  # Å; beyond, rounding of positions is 1e-8 Å and more
LARGEST_EXTENT = 1e4  # Å along axes that are not periodic; the search takes seconds beyond


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
    from ase.constraints import FixAtoms, FixCartesian  # with scipy, 0.1 s of import time

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


def check_structure(atoms: Atoms, index: int) -> None:
    """Refuse what has no well-defined neighbours.

    Args:
        atoms: the structure.
        index: its place in a list, for the message.

    Raises:
        InputError: positions or cell not finite, a periodic axis without a cell vector, or
            periodic cell vectors that span no volume, or atoms spread over more than 10⁴ Å
            along an axis that is not periodic.
    """
    where = f"structure {index} ({atoms.get_chemical_formula()})"
    for name, values in (("positions", atoms.positions), ("cell", atoms.cell.array)):
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
            raise InputError(
                f"{where}: {name}[{row}] is {values[row]}, but must be finite numbers in Å. "
                "Check the file or the step that produced it."
            )
        if np.abs(values).max(initial=0.0) > LARGEST_NUMBER:
            row = int(np.abs(values).max(axis=1).argmax())
            raise InputError(
                f"{where}: {name}[{row}] is {values[row]}, but must be within "
                f"{LARGEST_NUMBER:.0e} Å. Check the file and the length unit."
            )
    vectors = atoms.cell.array[atoms.pbc]
    if len(vectors) and np.linalg.matrix_rank(vectors, tol=1e-6) < len(vectors):
        raise InputError(
            f"{where}: pbc is {atoms.pbc.tolist()} but the cell is {atoms.cell.array.tolist()} Å: "
            "a periodic axis needs a cell vector, and periodic cell vectors must be independent. "
            "Set atoms.cell, or atoms.pbc = False for a molecule."
        )
    longest = np.abs(vectors).max(initial=0.0)
    if longest > LARGEST_EXTENT:  # a neighbour search of so many bins ends the process
        raise InputError(
            f"{where}: a periodic cell vector reaches {longest:.3g} Å, but must be within "
            f"{LARGEST_EXTENT:.0e} Å. Check the unit, or set atoms.pbc = False along vacuum."
        )
    if len(atoms) and not atoms.pbc.all():
        free = atoms.positions @ _off_the_periodic_axes(vectors)
        extent = np.ptp(free, axis=0).max()
        if extent > LARGEST_EXTENT:
            row = int(np.abs(free - np.median(free, axis=0)).max(axis=1).argmax())
            raise InputError(
                f"{where}: positions[{row}] is {atoms.positions[row]}, {extent:.3g} Å from other "
                f"atoms, but must be within {LARGEST_EXTENT:.0e} Å. The atom escaped: check the "
                "trajectory, its time step and the length unit."
            )


def _off_the_periodic_axes(vectors: np.ndarray) -> np.ndarray:
    """Projector (3, 3) onto the directions normal to the periodic cell vectors."""
    return np.eye(3) - np.linalg.pinv(vectors) @ vectors if len(vectors) else np.eye(3)
