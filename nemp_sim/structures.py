"""What calculations ask of a structure: sane numbers, bare copies, held coordinates, masses."""

from copy import deepcopy

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from nemp_sim.errors import InputError

LARGEST_NUMBER = 1e8  # Å; beyond, rounding of positions is 1e-8 Å and more
LARGEST_EXTENT = 1e4  # Å along axes that are not periodic; the search takes seconds beyond
FEW_ATOMS = 2  # so many in vacuum may have fewer neighbours than any atom of a larger structure
GAP_ANGSTROM = 5.0  # a periodic axis with a wider gap between atoms is no bulk direction
BOX_ANGSTROM = 7.0  # shortest periodic cell vector of what counts as vacuum


def bare(atoms: Atoms) -> Atoms:
    """Geometry, masses, tags and constraints, without labels or results of another calculation."""
    plain = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    for name in ("tags", "masses"):
        if atoms.has(name):
            plain.set_array(name, atoms.arrays[name])
    plain.set_constraint(deepcopy(atoms.constraints))
    return plain


def in_vacuum(atoms: Atoms, most: int = FEW_ATOMS) -> bool:
    """Whether it is a lone atom or a dimer (``most``: 1, a lone atom) without close images."""
    if len(atoms) > most:  # first: every evaluation asks for every structure
        return False
    return bool(atoms.cell.lengths()[atoms.pbc].min(initial=np.inf) > BOX_ANGSTROM)


def cell_heights(cells: np.ndarray) -> np.ndarray:
    """Distances (…, 3) in Å between the opposite faces of cells (…, 3, 3)."""
    return 1.0 / np.linalg.norm(np.linalg.inv(cells), axis=-2)


def vacuum_gaps(atoms: Atoms) -> np.ndarray:
    """Widest layer free of atoms normal to each cell face, (3,) Å; inf on axes not periodic."""
    gaps = np.full(3, np.inf)
    if atoms.cell.rank < 3 or not len(atoms):
        return gaps
    places = np.sort(atoms.get_scaled_positions(wrap=False) % 1.0, axis=0)
    widest = np.diff(places, axis=0, append=places[:1] + 1.0).max(axis=0)
    return np.where(atoms.pbc, widest * cell_heights(atoms.cell.array), gaps)


def gathered(atoms: Atoms) -> np.ndarray | None:
    """Positions (N, 3) of a molecule in one piece; None where a periodic axis has no vacuum.

    Periodic axes are cut in their widest gap.
    """
    if not atoms.pbc.any():
        return atoms.positions.copy()
    if atoms.cell.rank < 3 or not (vacuum_gaps(atoms) > GAP_ANGSTROM).all():
        return None
    scaled = atoms.get_scaled_positions(wrap=False)
    for axis in np.flatnonzero(atoms.pbc):
        places = np.sort(scaled[:, axis] % 1.0)
        widest = int(np.diff(places, append=places[0] + 1.0).argmax())
        first = places[(widest + 1) % len(places)]
        scaled[:, axis] = (scaled[:, axis] - first + 1e-9) % 1.0 + first
    return scaled @ atoms.cell.array


def require_fixed_alone(atoms: Atoms, what: str) -> None:
    """Refuse constraints that ``what`` would pass over: all but FixAtoms and FixCartesian.

    Raises:
        InputError: the structure holds another constraint.
    """
    from ase.constraints import FixAtoms, FixCartesian

    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms | FixCartesian):
            raise InputError(
                f"the structure holds a {type(constraint).__name__}, but {what} can hold whole "
                "atoms or Cartesian coordinates only, and would let these go. Use FixAtoms or "
                "FixCartesian, or remove it."
            )


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
        InputError: no Atoms, or arrays of another shape or kind; positions or cell not finite, a
            periodic axis without a cell vector, or periodic cell vectors that span no volume, or
            atoms spread over more than 10⁴ Å along an axis that is not periodic.
    """
    _check_arrays(atoms, index)

    def where() -> str:  # a formula takes longer than all the checks
        return f"structure {index} ({atoms.get_chemical_formula()})"

    for name, values in (("positions", atoms.positions), ("cell", atoms.cell.array)):
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
            raise InputError(
                f"{where()}: {name}[{row}] is {values[row]}, but must be finite numbers in Å. "
                "Check the file or the step that produced it."
            )
        if np.abs(values).max(initial=0.0) > LARGEST_NUMBER:
            row = int(np.abs(values).max(axis=1).argmax())
            raise InputError(
                f"{where()}: {name}[{row}] is {values[row]}, but must be within "
                f"{LARGEST_NUMBER:.0e} Å. Check the file and the length unit."
            )
    vectors = atoms.cell.array[atoms.pbc]
    if len(vectors) and np.linalg.matrix_rank(vectors, tol=1e-6) < len(vectors):
        raise InputError(
            f"{where()}: pbc is {atoms.pbc.tolist()} but the cell is {atoms.cell.array.tolist()} "
            "Å: a periodic axis needs a cell vector, and periodic cell vectors must be "
            "independent. "
            "Set atoms.cell, or atoms.pbc = False for a molecule."
        )
    longest = np.abs(vectors).max(initial=0.0)
    if longest > LARGEST_EXTENT:  # a neighbour search of so many bins ends the process
        raise InputError(
            f"{where()}: a periodic cell vector reaches {longest:.3g} Å, but must be within "
            f"{LARGEST_EXTENT:.0e} Å. Check the unit, or set atoms.pbc = False along vacuum."
        )
    if len(atoms) and not atoms.pbc.all():
        free = atoms.positions @ _off_the_periodic_axes(vectors)
        extent = np.ptp(free, axis=0).max()
        if extent > LARGEST_EXTENT:
            row = int(np.abs(free - np.median(free, axis=0)).max(axis=1).argmax())
            raise InputError(
                f"{where()}: positions[{row}] is {atoms.positions[row]}, {extent:.3g} Å from other "
                f"atoms, but must be within {LARGEST_EXTENT:.0e} Å. The atom escaped: check the "
                "trajectory, its time step and the length unit."
            )


def _check_arrays(atoms: Atoms, index: int) -> None:
    """Refuse what ASE lets be written into an Atoms, and readers leave there."""
    if not isinstance(atoms, Atoms):
        raise InputError(f"structure {index} is a {type(atoms).__name__}, but must be ase.Atoms.")
    numbers, positions = atoms.numbers, atoms.positions
    whole = np.issubdtype(numbers.dtype, np.integer)
    wrong = ~np.isin(numbers, np.arange(len(chemical_symbols)))
    if not whole or wrong.any():
        got = numbers[wrong][0] if wrong.any() else numbers.dtype
        raise InputError(
            f"structure {index} ({len(numbers)} atoms): an atomic number is {got}, but must be a "
            f"whole number from 0 to {len(chemical_symbols) - 1}. Is the file damaged?"
        )
    if positions.shape != (len(numbers), 3) or positions.dtype != np.dtype(np.float64):
        raise InputError(
            f"structure {index} ({len(numbers)} atoms): positions have shape {positions.shape} "
            f"and type {positions.dtype}, but must have ({len(numbers)}, 3) and float64. Set "
            "atoms.positions, not atoms.arrays."
        )


def _off_the_periodic_axes(vectors: np.ndarray) -> np.ndarray:
    """Projector (3, 3) onto the directions normal to the periodic cell vectors."""
    return np.eye(3) - np.linalg.pinv(vectors) @ vectors if len(vectors) else np.eye(3)
