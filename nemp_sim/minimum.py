"""Relaxation of crystals, positions and cell, and the test that a structure is at a minimum."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.filters import FrechetCellFilter
from ase.optimize.cellawarebfgs import CellAwareBFGS
from ase.units import GPa

from nemp_sim.errors import InputError
from nemp_sim.evaluation import Evaluation
from nemp_sim.relax import CountedCalls, Step, largest_force, lockstep, snapshot

FMAX_EV_PER_A = 1e-3
SMAX_GPA = 0.01


class StressEngine(Protocol):
    """What evaluates structures with stress: a Potential, or anything with this method."""

    def evaluate(
        self, structures: Sequence[Atoms], forces: bool = True, stress: bool = False
    ) -> Evaluation:
        """Energies (B,) in eV, B arrays of forces (N, 3) in eV/Å, stresses (B, 6) in eV/Å³."""


@dataclass(frozen=True)
class CellRelaxation:
    """A crystal relaxed in positions and cell.

    Attributes:
        atoms: with energy, forces and stress attached.
        fmax_eV_per_A: largest force on an atom.
        smax_GPa: largest component of the stress.
        converged: whether both are below the wanted ones.
        optimizer_steps: steps of the optimiser.
    """

    atoms: Atoms
    fmax_eV_per_A: float
    smax_GPa: float
    converged: bool
    optimizer_steps: int


def relax_crystals(
    engine: StressEngine,
    structures: Sequence[Atoms],
    fmax_eV_per_A: float = FMAX_EV_PER_A,
    smax_GPa: float = SMAX_GPA,
    steps: int = 500,
    on_step: Callable[[Step], None] | None = None,
) -> tuple[CellRelaxation, ...]:
    """Relax positions and all six strains of crystals side by side, one call for each step.

    By ASE's FrechetCellFilter and CellAwareBFGS with the stress of the engine; converged crystals
    leave the batch.

    Args:
        engine: evaluates energy, forces and stress.
        structures: periodic along three axes; left as they are.
        fmax_eV_per_A: largest force left on an atom.
        smax_GPa: largest component of the stress left.
        steps: most optimiser steps.
        on_step: called after each optimiser step.

    Raises:
        EvaluationError: results that are not finite.
    """
    calls = CountedCalls(engine)
    moved = [atoms.copy() for atoms in structures]
    for atoms in moved:
        atoms.set_constraint()
    taken = np.zeros(len(moved), dtype=int)

    def left(index: int) -> tuple[float, float]:
        atoms = moved[index]
        return largest_force(atoms.get_forces()), float(np.abs(atoms.get_stress()).max() / GPa)

    def is_done(index: int) -> bool:
        fmax, smax = left(index)
        done = fmax <= fmax_eV_per_A and smax <= smax_GPa
        taken[index] += not done
        return done

    filtered: list[Any] = [FrechetCellFilter(atoms, exp_cell_factor=1.0) for atoms in moved]
    optimizers = [CellAwareBFGS(each, logfile=None) for each in filtered]

    def show(step: int) -> None:
        largest = max(left(index)[0] for index in range(len(moved)))
        on_step(Step("relaxation", step, largest, None, snapshot(moved)))

    told = show if on_step else None
    lockstep(optimizers, moved, partial(calls.fill, stress=True), is_done, steps, told)
    found = []
    for index, atoms in enumerate(moved):
        fmax, smax = left(index)
        done = fmax <= fmax_eV_per_A and smax <= smax_GPa
        found.append(CellRelaxation(atoms, fmax, smax, done, min(int(taken[index]), steps)))
    return tuple(found)


def relax_crystal(
    engine: StressEngine,
    atoms: Atoms,
    fmax_eV_per_A: float = FMAX_EV_PER_A,
    smax_GPa: float = SMAX_GPA,
    steps: int = 500,
) -> CellRelaxation:
    """``relax_crystals`` for one crystal."""
    return relax_crystals(engine, [atoms], fmax_eV_per_A, smax_GPa, steps)[0]


def check_minimum(
    engine: StressEngine,
    atoms: Atoms,
    fmax_eV_per_A: float,
    smax_GPa: float | None = None,
) -> tuple[float, float | None]:
    """Largest force (eV/Å) and stress component (GPa) of ``atoms``, refused above the limits.

    Energy, forces and stress are attached to ``atoms``.

    Args:
        engine: evaluates forces, and stress where ``smax_GPa`` is given.
        atoms: the structure.
        fmax_eV_per_A: largest force allowed.
        smax_GPa: largest stress component allowed (infinity: any); None: not looked at (slabs).

    Raises:
        InputError: a force or a stress above its limit.
    """
    wanted = {} if smax_GPa is None else {"stress": True}
    result = engine.evaluate([atoms], **wanted)
    stress = {} if smax_GPa is None else {"stress": result.stress[0]}
    atoms.calc = SinglePointCalculator(
        atoms, energy=float(result.energy[0]), forces=np.asarray(result.forces[0]), **stress
    )
    fmax = largest_force(np.asarray(result.forces[0]))
    if not fmax <= fmax_eV_per_A:
        raise InputError(
            f"structure {atoms.get_chemical_formula()} is not at a minimum: the largest force is "
            f"{fmax:.2g} eV/Å, but must be at most {fmax_eV_per_A:.2g} eV/Å. Relax it first (leave "
            "--relax on, more --steps), or allow a larger --fmax."
        )
    if smax_GPa is None:
        return fmax, None
    smax = float(np.abs(result.stress[0]).max() / GPa)
    if not smax <= smax_GPa:
        raise InputError(
            f"structure {atoms.get_chemical_formula()} is under stress: the largest component is "
            f"{smax:.2g} GPa, but must be at most {smax_GPa:.2g} GPa. Relax its cell (--relax "
            "cell), or say that the volume is given with --relax positions or --relax none."
        )
    return fmax, smax
