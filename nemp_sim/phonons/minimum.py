"""The structure that phonons are of: brought to a minimum, and refused where it is at none."""

from dataclasses import astuple, dataclass

import numpy as np
from ase import Atoms
from ase.spacegroup.symmetrize import check_symmetry, refine_symmetry

from nemp_sim.config import require
from nemp_sim.errors import InputError
from nemp_sim.minimum import FMAX_EV_PER_A, SMAX_GPA, StressEngine, check_minimum, relax_crystal
from nemp_sim.phonons.force_constants import SYMPREC_ANGSTROM, boxed, periodic_axes
from nemp_sim.relax import relax

RELAX = ("auto", "cell", "positions", "none")


@dataclass(frozen=True)
class Limits:
    """What to relax, and how far.

    Attributes:
        relax: "cell" (positions and cell), "positions", "none", or "auto": the cell of bulk, the
            positions of slabs and molecules.
        fmax_eV_per_A: largest force allowed on an atom.
        smax_GPa: largest stress component allowed after a relaxed cell.
        steps: most optimiser steps.
    """

    relax: str = "auto"
    fmax_eV_per_A: float = FMAX_EV_PER_A
    smax_GPa: float = SMAX_GPA
    steps: int = 500


@dataclass(frozen=True)
class Minimum:
    """A structure at a minimum.

    Attributes:
        atoms: in its box, with energy and forces attached.
        notes: what was done to get there.
        optimizer_steps: steps of the optimiser.
    """

    atoms: Atoms
    notes: tuple[str, ...]
    optimizer_steps: int


def to_minimum(engine: StressEngine, start: Atoms, limits: Limits) -> Minimum:
    """Relax as wanted, move crystals and slabs onto their symmetry, and check the result.

    What a relaxation leaves is off by its last step. phonopy, with its default tolerance, would not
    find the symmetry again that the files were made with.

    Args:
        engine: evaluates energy, forces and, for bulk, stress.
        start: bulk, slab or molecule; left as it is.
        limits: what to relax, and how far.

    Raises:
        InputError: not at a minimum afterwards, or a cell that cannot be relaxed.
        EvaluationError: results that are not finite.
    """
    wanted, fmax, smax_allowed, steps = astuple(limits)
    require(wanted in RELAX, "relax", wanted, f"one of {', '.join(RELAX)}")
    atoms = boxed(start)
    is_bulk = bool(periodic_axes(atoms).all())
    if wanted == "auto":
        wanted = "cell" if is_bulk else "positions"
    if wanted == "cell" and not is_bulk:
        raise InputError(
            "relax is 'cell', but the structure has vacuum along a cell vector. Use --relax "
            "positions for slabs and molecules."
        )
    taken = 0
    if wanted == "cell":
        relaxed = relax_crystal(engine, atoms, fmax, smax_allowed, steps)
        atoms, taken = relaxed.atoms, relaxed.optimizer_steps
    elif wanted == "positions":
        together = relax(engine, [atoms], fmax, steps)
        atoms, taken = together.structures[0], together.optimizer_steps
    if periodic_axes(atoms).any():
        atoms = symmetrised(atoms, SYMPREC_ANGSTROM)
    limit = smax_allowed if wanted == "cell" else np.inf if is_bulk else None
    _, smax = check_minimum(engine, atoms, fmax, limit)
    done = {
        "cell": "Positions and cell were relaxed.",
        "positions": "Positions were relaxed in the given cell.",
        "none": "Nothing was relaxed: cell and positions are as given.",
    }
    notes = [done[wanted]]
    if is_bulk and smax > smax_allowed:
        notes.append(f"The cell is under stress: largest component {smax:.2f} GPa.")
    if start.constraints:
        notes.append("Constraints of the file were not used: every atom vibrates.")
    return Minimum(atoms, tuple(notes), taken)


def symmetrised(atoms: Atoms, tolerance_angstrom: float) -> Atoms:
    """A copy moved onto the symmetry that it has within a tolerance."""
    copy = atoms.copy()
    if check_symmetry(copy, symprec=tolerance_angstrom) is not None:
        refine_symmetry(copy, symprec=tolerance_angstrom)
    return copy
