"""One crystal at several volumes: static energies and force constants, each by one batched call.

What quasi-harmonic sums and Grüneisen parameters start from. The cell is scaled evenly, which keeps
its shape; at each volume the positions are relaxed, all volumes side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from nemp_sim.config import require
from nemp_sim.errors import InputError
from nemp_sim.phonons.force_constants import (
    DISPLACEMENT_ANGSTROM,
    ForceConstants,
    force_constants_together,
    phonopy_like,
)
from nemp_sim.relax import Engine, relax


@dataclass(frozen=True)
class Volumes:
    """A crystal at v volumes, ascending.

    Attributes:
        ratios: (v,) volume over the volume of the crystal that they were made from.
        volumes_A3: (v,) of the primitive cell.
        energies_eV: (v,) static energy of the primitive cell.
        constants: v force constants.
        model_calls: engine calls for all volumes together.
    """

    ratios: np.ndarray
    volumes_A3: np.ndarray
    energies_eV: np.ndarray
    constants: tuple[ForceConstants, ...]
    model_calls: int

    def nearest(self, ratio: float) -> int:
        """Index of the volume that is nearest to ``ratio`` times the first one."""
        return int(np.abs(self.ratios - ratio).argmin())


def at_volumes(
    engine: Engine,
    atoms: Atoms,
    base: ForceConstants,
    ratios: Sequence[float] | np.ndarray,
    displacement_angstrom: float = DISPLACEMENT_ANGSTROM,
    fmax_eV_per_A: float = 1e-3,
    steps: int = 500,
) -> Volumes:
    """Scale the cell, relax positions at every volume, displace, all volumes in each call.

    Args:
        engine: evaluates all structures at once.
        atoms: bulk at its minimum, in the order that ``base`` was built from.
        base: its force constants; its supercell and primitive cell are those of every volume.
        ratios: volumes over that of ``atoms``.
        displacement_angstrom: of the displaced atoms, Å.
        fmax_eV_per_A: largest force left at each volume.
        steps: most optimiser steps.

    Raises:
        InputError: no bulk crystal, a ratio far from one, or volumes that do not relax.
        EvaluationError: energies or forces that are not finite.
    """
    if not base.periodic.all():
        raise InputError(
            f"{atoms.get_chemical_formula()} has vacuum along a cell vector, so its volume means "
            "nothing: thermal expansion and Grüneisen parameters need a bulk crystal."
        )
    wanted = np.unique(np.asarray(ratios, dtype=float))
    good = len(wanted) > 0 and 0.7 <= wanted.min() and wanted.max() <= 1.4
    require(bool(good), "ratios of volumes", list(ratios), "between 0.7 and 1.4")
    scaled = []
    for ratio in wanted:
        copy = atoms.copy()
        copy.set_cell(atoms.cell.array * ratio ** (1 / 3), scale_atoms=True)
        scaled.append(copy)
    relaxed = relax(engine, scaled, fmax_eV_per_A, steps)
    if not relaxed.converged:
        raise InputError(
            f"the volumes do not relax: the largest force after {steps} steps is "
            f"{relaxed.fmax_eV_per_A:.2g} eV/Å, but must be at most {fmax_eV_per_A:.2g} eV/Å. Give "
            "more --steps or volumes nearer to the minimum."
        )
    phonons = [phonopy_like(base.phonon, copy) for copy in relaxed.structures]
    lengths = [displacement_angstrom] * len(phonons)
    constants = force_constants_together(engine, relaxed.structures, phonons, lengths)
    cells = len(atoms) / len(base.phonon.primitive)
    return Volumes(
        ratios=wanted,
        volumes_A3=np.array([phonon.primitive.volume for phonon in phonons]),
        energies_eV=np.array([a.get_potential_energy() for a in relaxed.structures]) / cells,
        constants=constants,
        model_calls=relaxed.model_calls + 1,
    )
