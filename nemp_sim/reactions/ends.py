"""The two ends of a path: pairs that are refused, and the first path between the others."""

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian
from ase.geometry import find_mic
from ase.mep import NEB

from nemp_sim.config import require
from nemp_sim.errors import InputError
from nemp_sim.structures import bare, fixed_coordinates

SAME_CELL_ANGSTROM = 1e-4  # rounding of a structure file
SAME_FIXED_ATOM_ANGSTROM = 1e-3
SAME_STRUCTURE_ANGSTROM = 0.1  # ends whose atoms all lie closer than this are one structure


def first_path(initial: Atoms, final: Atoms, n_images: int) -> list[Atoms]:
    """IDPP path of n_images + 2 structures along the minimum-image displacement of every atom.

    The last structure is ``final`` with its atoms moved by whole lattice vectors next to their
    places in ``initial``; fixed atoms do not move.

    Raises:
        InputError: no moving image, or atoms that meet on the straight line between the ends.
    """
    require(n_images >= 1, "images", n_images, "1 or more moving images")
    images = [bare(initial) for _ in range(n_images + 2)]
    images[-1].set_positions(
        initial.positions + _displacement(initial, final), apply_constraint=False
    )
    band = NEB(images, method="improvedtangent")
    with np.errstate(divide="ignore", invalid="ignore"):
        method = "idpp" if len(initial) > 1 else "linear"  # a lone atom has no distances
        band.interpolate(method, mic=bool(initial.pbc.any()), apply_constraint=True)
    for index, image in enumerate(images):
        lost = np.flatnonzero(~np.isfinite(image.positions).all(axis=1))
        if len(lost):
            raise InputError(
                f"initial and final: atoms {lost.tolist()} meet another atom on the straight line "
                f"between the ends (image {index}). Check the order of the atoms, or move one end "
                "a little off the line."
            )
    return images


def follow(images: list[Atoms], path: Sequence[Atoms]) -> None:
    """Put the moving images where those of ``path`` are, next to the image before.

    Raises:
        InputError: a path of other atoms or another number of images.
    """
    for index, (image, given) in enumerate(zip(images[1:-1], path, strict=True)):
        if (given.numbers.tolist()) != image.numbers.tolist():
            raise InputError(
                f"path: image {index + 1} holds {given.get_chemical_formula()}, but the ends hold "
                f"{image.get_chemical_formula()}. Restart only a band of the same two ends."
            )
        before = images[index]
        image.set_positions(
            before.positions + _displacement(before, given) * ~fixed_coordinates(image)
        )


def check_ends(initial: Atoms, final: Atoms) -> None:
    """Refuse two structures between which no path is defined.

    Raises:
        InputError: other atoms, order, cell, pbc or constraints; fixed atoms that differ; ends
            that are one structure.
    """
    _check_atoms(initial, final)
    if (initial.pbc != final.pbc).any():
        _refuse(f"pbc is {initial.pbc.tolist()} and {final.pbc.tolist()}", "Use one pbc for both")
    strain = np.abs(initial.cell.array - final.cell.array).max()
    if strain > SAME_CELL_ANGSTROM:
        _refuse(
            f"the cells differ by up to {strain:.4g} Å ({initial.cell.cellpar().round(4)} and "
            f"{final.cell.cellpar().round(4)})",
            "Relax both ends in one cell",
        )
    _check_constraints(initial, final)
    moved = np.linalg.norm(_displacement(initial, final), axis=1)
    if moved.max() < SAME_STRUCTURE_ANGSTROM:
        _refuse(
            f"they are one structure (no atom differs by more than {moved.max():.3f} Å)",
            "Give two different minima; after relaxation, both may have fallen into the same one",
        )


def _check_atoms(initial: Atoms, final: Atoms) -> None:
    formulas = [atoms.get_chemical_formula() for atoms in (initial, final)]
    if formulas[0] != formulas[1]:
        _refuse(
            f"the atoms differ: {formulas[0]} ({len(initial)} atoms) and {formulas[1]} "
            f"({len(final)} atoms)",
            "Both ends need the same atoms",
        )
    if len(initial) == 0:
        _refuse("they hold no atoms", "Check the files")
    other = np.flatnonzero(initial.numbers != final.numbers)
    if len(other):
        i = int(other[0])
        _refuse(
            f"the order of the atoms differs: atom {i} is {initial.symbols[i]} in initial and "
            f"{final.symbols[i]} in final ({len(other)} atoms differ)",
            "Sort both files alike, so that each atom keeps its number",
        )


def _check_constraints(initial: Atoms, final: Atoms) -> None:
    fixed, others = zip(*(_constraints(atoms) for atoms in (initial, final)), strict=True)
    unlike = np.flatnonzero((fixed[0] != fixed[1]).any(axis=1))
    if len(unlike):
        i = int(unlike[0])
        where = "initial" if fixed[0][i].sum() > fixed[1][i].sum() else "final"
        _refuse(
            f"the constraints differ: atom {i} ({initial.symbols[i]}) is held in {where} only "
            f"({len(unlike)} atoms differ)",
            "Fix the same atoms in both ends",
        )
    if others[0] != others[1]:
        _refuse(
            f"the constraints differ: {others[0] or 'none'} and {others[1] or 'none'}",
            "Set the same constraints on both ends",
        )
    away = np.linalg.norm(_displacement(initial, final) * fixed[0], axis=1)
    if away.max() > SAME_FIXED_ATOM_ANGSTROM:
        i = int(away.argmax())
        _refuse(
            f"atom {i} ({initial.symbols[i]}) is fixed, but lies {away[i]:.3f} Å apart in the two",
            "Relax both ends with the same atoms fixed at the same places, or fix fewer layers",
        )


def _refuse(reason: str, cure: str) -> None:
    raise InputError(f"initial and final: {reason}. {cure}.")


def _constraints(atoms: Atoms) -> tuple[np.ndarray, list[str]]:
    """Mask (N, 3) of the fixed coordinates, and all other constraints as text."""
    others = [c for c in atoms.constraints if not isinstance(c, FixAtoms | FixCartesian)]
    return fixed_coordinates(atoms), [str(constraint.todict()) for constraint in others]


def _displacement(initial: Atoms, final: Atoms) -> np.ndarray:
    """Minimum-image vectors from initial to final, (N, 3), Å."""
    return find_mic(final.positions - initial.positions, initial.cell, initial.pbc)[0]
