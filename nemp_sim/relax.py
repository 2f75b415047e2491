"""Several structures relaxed side by side; every optimiser step is one batched model call."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.optimize import FIRE, LBFGS
from ase.optimize.optimize import Optimizer

from nemp_sim.config import require
from nemp_sim.errors import EvaluationError
from nemp_sim.evaluation import Evaluation
from nemp_sim.files import write_structures
from nemp_sim.neighbors import NeighborLists
from nemp_sim.potential import Potential
from nemp_sim.structures import bare

SKIN_ANGSTROM = 0.5
KEPT_EVERY_S = 30.0  # between two bands that a run writes on its way
OPTIMIZERS = {
    "lbfgs": partial(LBFGS, alpha=30.0),
    "fire": FIRE,
}


class Engine(Protocol):
    """What evaluates structures: a Potential, or anything with this method."""

    def evaluate(self, structures: Sequence[Atoms]) -> Evaluation:
        """Energies (B,) in eV and B arrays of forces (N, 3) in eV/Å of B structures."""


def identity(engine: Engine) -> list[str]:
    """What tells one engine from another: its weights, head and dtype."""
    return [str(getattr(engine, name, "")) for name in ("sha256", "head", "dtype")]


@dataclass(frozen=True)
class Step:
    """Where a run stands after one optimiser step.

    Attributes:
        stage: "relaxation", "band" or "climbing".
        number: optimiser steps so far; the two stages of the band count together.
        fmax_eV_per_A: largest force on an atom.
        barrier_eV: highest image minus the first; None for a relaxation.
        images: copies of all structures with their energies and forces.
    """

    stage: str
    number: int
    fmax_eV_per_A: float
    barrier_eV: float | None
    images: tuple[Atoms, ...]

    def __str__(self) -> str:
        """One line for the terminal."""
        barrier = "" if self.barrier_eV is None else f", barrier {self.barrier_eV:.3f} eV"
        force = f"largest force {self.fmax_eV_per_A:.3f} eV/Å"
        return f"{self.stage}: step {self.number}, {force}{barrier}"


@dataclass
class KeptStep:
    """The last complete step, for the files of a run that breaks off.

    Attributes:
        show: what each step is handed on to.
        path: where bands are written now and then, for a run that is killed; None: nowhere.
        step: the last one; None before the first.
    """

    show: Callable[[Step], None]
    path: Path | None = None
    step: Step | None = field(default=None)
    _written_at: float = field(default_factory=time.monotonic)

    def __call__(self, step: Step) -> None:
        """Keep ``step`` and hand it on."""
        self.step = step
        late = time.monotonic() - self._written_at > KEPT_EVERY_S
        if self.path is not None and step.barrier_eV is not None and late:
            write_structures(self.path, step.images)
            self._written_at = time.monotonic()
        self.show(step)


@dataclass(frozen=True)
class Relaxation:
    """Structures relaxed together.

    Attributes:
        structures: with energy and forces attached, in the order given.
        fmax_each_eV_per_A: (B,) largest force on a free atom of each.
        fmax_eV_per_A: largest force on a free atom of any of them.
        converged: whether that is below the wanted one.
        optimizer_steps: steps of the optimiser.
        model_calls: engine calls, each for all structures that had not converged.
    """

    structures: tuple[Atoms, ...]
    fmax_each_eV_per_A: np.ndarray
    fmax_eV_per_A: float
    converged: bool
    optimizer_steps: int
    model_calls: int


class CountedCalls:
    """Calls of an engine, counted; a Potential keeps its neighbour lists from call to call.

    Attributes:
        count: calls so far.
    """

    def __init__(self, engine: Engine) -> None:
        """Start at zero."""
        self.count = 0
        self._evaluate = engine.evaluate
        self._keywords = {}
        if isinstance(engine, Potential):
            lists = NeighborLists(engine.cutoff_angstrom, SKIN_ANGSTROM)
            self._keywords = {"neighbors": lists}

    def evaluate(self, structures: Sequence[Atoms], stress: bool = False) -> Evaluation:
        """Energies, forces and, where asked for, stresses of all structures, by one call.

        Raises:
            EvaluationError: results that are not finite.
        """
        wanted = self._keywords | ({"stress": True} if stress else {})
        result = self._evaluate(list(structures), **wanted)
        self.count += 1
        for index, atoms in enumerate(structures):
            for name in ("energy", "forces", *["stress"] * stress):
                if not np.isfinite(getattr(result, name)[index]).all():
                    raise EvaluationError(
                        f"structure {index} ({atoms.get_chemical_formula()}): {name} not finite. "
                        "Check for overlapping atoms or a wrong length unit."
                    )
        return result

    def fill(self, structures: Sequence[Atoms], stress: bool = False) -> None:
        """Attach energy, forces and, where asked for, stress to all structures, by one call.

        Raises:
            EvaluationError: results that are not finite.
        """
        result = self.evaluate(structures, stress)
        for index, atoms in enumerate(structures):
            values: dict[str, Any] = {"energy": float(result.energy[index])}
            values["forces"] = result.forces[index]
            if stress:
                values["stress"] = result.stress[index]
            atoms.calc = SinglePointCalculator(atoms, **values)


def lockstep(
    optimizers: Sequence[Optimizer],
    structures: Sequence[Atoms],
    fill: Callable[[Sequence[Atoms]], None],
    is_done: Callable[[int], bool],
    steps: int,
    on_step: Callable[[int], None] | None = None,
) -> int:
    """Drive one ASE optimiser for each structure side by side; the steps that were taken.

    Args:
        optimizers: one for each structure, each moving its own.
        structures: changed in place.
        fill: attaches results to the structures that are still moved, by one engine call.
        is_done: whether the structure of this index, with its results, leaves the batch.
        steps: most steps.
        on_step: called with the number of steps, first with 0.
    """
    moving, step = list(range(len(structures))), 0
    while True:
        fill([structures[i] for i in moving])
        moving = [i for i in moving if not is_done(i)]
        if on_step:
            on_step(step)
        if not moving or step == steps:
            return step
        for i in moving:
            optimizers[i].step()
        step += 1


def relax(  # noqa: PLR0913 (what a relaxation is fixed by)
    engine: Engine,
    structures: Sequence[Atoms],
    fmax_eV_per_A: float,
    steps: int,
    on_step: Callable[[Step], None] | None = None,
    optimizer: str = "lbfgs",
) -> Relaxation:
    """Relax independent structures side by side, constraints respected, one call for each step.

    Each structure has an optimiser of ASE of its own, so it takes the very steps that it would take
    alone, and leaves the batch when it has converged.

    Args:
        engine: evaluates all structures at once.
        structures: of any sizes; left as they are, the result holds copies.
        fmax_eV_per_A: largest force left on a free atom.
        steps: most optimiser steps.
        on_step: called after each optimiser step.
        optimizer: "lbfgs" (from a curvature of 30 eV/Å²: ASE's 70 took a third more calls on
            H/Pd(111), and BFGS took as many) or "fire" (slower, for rough surfaces).

    Raises:
        InputError: no such optimiser.
        EvaluationError: energies or forces that are not finite.
    """
    require(optimizer in OPTIMIZERS, "optimizer", optimizer, f"one of {', '.join(OPTIMIZERS)}")
    calls = CountedCalls(engine)
    moved = [bare(atoms) for atoms in structures]

    def fmax_of(index: int) -> float:
        return largest_force(moved[index].get_forces())

    def show(step: int) -> None:
        largest = max(map(fmax_of, range(len(moved))))
        on_step(Step("relaxation", step, largest, None, snapshot(moved)))

    taken = lockstep(
        [OPTIMIZERS[optimizer](atoms, logfile=None) for atoms in moved],
        moved,
        calls.fill,
        lambda index: fmax_of(index) <= fmax_eV_per_A,
        steps,
        show if on_step else None,
    )
    each = np.array([fmax_of(index) for index in range(len(moved))])
    return Relaxation(
        structures=tuple(moved),
        fmax_each_eV_per_A=each,
        fmax_eV_per_A=float(each.max(initial=0.0)),
        converged=bool((each <= fmax_eV_per_A).all()),
        optimizer_steps=taken,
        model_calls=calls.count,
    )


def largest_force(forces: np.ndarray) -> float:
    """Largest norm of the rows of forces (n, 3), eV/Å."""
    return float(np.linalg.norm(forces, axis=1).max())


def snapshot(structures: Sequence[Atoms]) -> tuple[Atoms, ...]:
    """Copies that keep the energies and forces of ``structures``."""
    copies = tuple(atoms.copy() for atoms in structures)
    for copy, atoms in zip(copies, structures, strict=True):
        copy.calc = SinglePointCalculator(copy, **atoms.calc.results)
    return copies
