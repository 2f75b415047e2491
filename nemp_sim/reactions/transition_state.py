"""Transition states: refined to a stationary point, and proved to join two minima.

Refinement is eigenvector following: uphill along the lowest mode of the Hessian, downhill along
all others,

    Δx = −Σ_i (g_i / |λ_i|) v_i  with the sign of the lowest mode reversed,

from an exact Hessian that Bofill's update carries on from step to step (J. M. Bofill, J. Comput.
Chem. 15, 1 (1994), 10.1002/jcc.540150102). The proof is twofold: exactly one imaginary mode, and
steepest descent from both sides of the saddle that ends in the two given minima.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.geometry import find_mic

from nemp_sim.relax import CountedCalls, Engine, largest_force, relax
from nemp_sim.structures import bare
from nemp_sim.vibrations import Vibrations, check_chosen, partial_hessian

LONGEST_STEP_ANGSTROM = 0.1  # of an atom
SMALLEST_CURVATURE = 1.0  # eV/Å²: softer modes are followed as if they were as stiff as this
HESSIAN_EVERY = 15  # steps after which the Hessian is computed anew
PUSH_ANGSTROM = 0.1  # off the saddle, of the atom that moves most
DESCENT_STEP_ANGSTROM = 0.04
DESCENT_STEPS = 400
VALLEY_FMAX = 0.08  # eV/Å: the optimiser takes over
SAME_END_ANGSTROM = 0.25
SAME_END_EV = 0.02


@dataclass(frozen=True)
class Refinement:
    """A stationary point found from a guess.

    Attributes:
        atoms: with energy and forces.
        fmax_eV_per_A: largest force on a free atom.
        converged: whether that is below the wanted one.
        steps: steps taken.
        moved_A: how far the atom that moved most is from the guess.
    """

    atoms: Atoms
    fmax_eV_per_A: float
    converged: bool
    steps: int
    moved_A: float


@dataclass(frozen=True)
class Proof:
    """What lies on both sides of a saddle.

    Attributes:
        n_imaginary: imaginary modes of the saddle; a transition state has one.
        reached: for each side of the saddle "initial", "final" or "another minimum".
        minima: the two minima, relaxed, with energies.
        distances_A: (2, 2) largest distance of an atom between minimum (row) and end (column).
        path_A: (n,) distance along the descent, negative towards the initial state.
        path_energies_eV: (n,) energy above the saddle.
        holds: exactly one imaginary mode, and the sides reach the two ends.
    """

    n_imaginary: int
    reached: tuple[str, str]
    minima: tuple[Atoms, Atoms]
    distances_A: np.ndarray
    path_A: np.ndarray
    path_energies_eV: np.ndarray
    holds: bool

    def sentence(self) -> str:
        """The verdict in words."""
        modes = f"{self.n_imaginary} imaginary mode" + "s" * (self.n_imaginary != 1)
        return f"{modes}; steepest descent reaches {self.reached[0]} and {self.reached[1]}"


def refine_saddle(
    engine: Engine,
    guess: Atoms,
    fmax_eV_per_A: float = 2e-3,
    steps: int = 100,
    on_step: Callable[[int, float], None] | None = None,
) -> Refinement:
    """The stationary point with one descending mode nearest to ``guess``.

    Args:
        engine: evaluates the structures; a Potential gives analytic Hessians.
        guess: the climbing image; its free atoms move, those of FixAtoms do not.
        fmax_eV_per_A: largest force left.
        steps: most steps.
        on_step: called with the number of each step and its largest force.

    Raises:
        InputError: atoms that are held along some axes only.
        EvaluationError: results that are not finite.
    """
    atoms = bare(guess)
    chosen = check_chosen(atoms, None)
    calls = CountedCalls(engine)
    calls.fill([atoms])
    gradient = -atoms.get_forces()[chosen].ravel()
    taken, fmax = 0, largest_force(gradient.reshape(-1, 3))
    hessian = np.zeros((0, 0))
    while fmax > fmax_eV_per_A and taken < steps:
        if taken % HESSIAN_EVERY == 0:
            hessian, _ = partial_hessian(engine, atoms, chosen)
            hessian = 0.5 * (hessian + hessian.T)
        step = _uphill_step(hessian, gradient)
        atoms.positions[chosen] += step.reshape(-1, 3)
        calls.fill([atoms])
        new = -atoms.get_forces()[chosen].ravel()
        hessian = bofill(hessian, step, new - gradient)
        gradient, taken = new, taken + 1
        fmax = largest_force(gradient.reshape(-1, 3))
        if on_step:
            on_step(taken, fmax)
    moved = np.linalg.norm(atoms.positions - guess.positions, axis=1).max()
    return Refinement(atoms, fmax, fmax <= fmax_eV_per_A, taken, float(moved))


def prove(
    engine: Engine, modes: Vibrations, ends: Sequence[Atoms], fmax_eV_per_A: float = 5e-3
) -> Proof:
    """Follow steepest descent from both sides of a saddle and compare with the two ends.

    Args:
        engine: evaluates both sides in one call.
        modes: vibrations of the saddle.
        ends: relaxed initial and final state, atoms in the order of the saddle.
        fmax_eV_per_A: largest force left on the minima that are reached.

    Raises:
        EvaluationError: results that are not finite.
    """
    saddle = bare(modes.atoms)
    push = modes.modes[0] / np.linalg.norm(modes.modes[0], axis=1).max() * PUSH_ANGSTROM
    sides = []
    for sign in (-1, 1):
        side = saddle.copy()
        side.positions += sign * push
        sides.append(side)
    if _apart(sides[0], ends[0]) > _apart(sides[1], ends[0]):
        sides.reverse()
    paths = _descend(engine, saddle, sides)
    minima = relax(engine, sides, fmax_eV_per_A, DESCENT_STEPS).structures
    distances = np.array([[_apart(minimum, end) for end in ends] for minimum in minima])
    reached = []
    for minimum, row in zip(minima, distances, strict=True):
        near = int(row.argmin())
        energy = minimum.get_potential_energy() - ends[near].get_potential_energy()
        same = row[near] < SAME_END_ANGSTROM and abs(energy) < SAME_END_EV
        reached.append(("initial", "final")[near] if same else "another minimum")
    n_imaginary = modes.n_imaginary
    back, forth = paths
    return Proof(
        n_imaginary=n_imaginary,
        reached=(reached[0], reached[1]),
        minima=(minima[0], minima[1]),
        distances_A=distances,
        path_A=np.concatenate([-back[::-1, 0], [0.0], forth[:, 0]]),
        path_energies_eV=np.concatenate([back[::-1, 1], [0.0], forth[:, 1]]),
        holds=n_imaginary == 1 and reached == ["initial", "final"],
    )


def _uphill_step(hessian: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Step (3n,) up the lowest mode and down all others, no atom farther than the limit, Å."""
    curvatures, modes = np.linalg.eigh(hessian)
    along = modes.T @ gradient
    steps = -along / np.maximum(np.abs(curvatures), SMALLEST_CURVATURE)
    steps[0] *= -1
    step = modes @ steps
    longest = np.linalg.norm(step.reshape(-1, 3), axis=1).max()
    return step * min(1.0, LONGEST_STEP_ANGSTROM / max(longest, 1e-12))


def bofill(hessian: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Hessian after a step: Bofill's mixture of the updates of Murtagh–Sargent and Powell."""
    miss = change - hessian @ step
    along, length, size = miss @ step, step @ step, miss @ miss
    if size < 1e-20 or length < 1e-20:
        return hessian
    share = along**2 / (size * length)
    powell = (np.outer(miss, step) + np.outer(step, miss)) / length
    powell -= along * np.outer(step, step) / length**2
    rank_one = np.outer(miss, miss) / along if abs(along) > 1e-12 else 0.0
    return hessian + share * rank_one + (1 - share) * powell


def _descend(engine: Engine, saddle: Atoms, sides: list[Atoms]) -> list[np.ndarray]:
    """Move both sides down into their valleys; for each, (n, 2) distance (Å) and energy (eV).

    A step that would go up is halved; the valley is reached when the forces, which grow at first,
    have become small again, or the steps have.
    """
    calls = CountedCalls(engine)
    calls.fill([saddle])
    top = saddle.get_potential_energy()
    calls.fill(sides)
    lengths = [float(np.linalg.norm(side.positions - saddle.positions)) for side in sides]
    tracks = [
        [(length, side.get_potential_energy() - top)]
        for length, side in zip(lengths, sides, strict=True)
    ]
    longest = [DESCENT_STEP_ANGSTROM] * 2
    steepest = [0.0, 0.0]

    def is_down(k: int) -> bool:
        force = largest_force(sides[k].get_forces())
        steepest[k] = max(steepest[k], force)
        in_valley = force < min(VALLEY_FMAX, 0.5 * steepest[k])
        return in_valley or longest[k] < 0.1 * DESCENT_STEP_ANGSTROM

    moving = [0, 1]
    for _ in range(DESCENT_STEPS):
        moving = [k for k in moving if not is_down(k)]
        if not moving:
            break
        trials = []
        for k in moving:
            forces = sides[k].get_forces()
            trials.append(bare(sides[k]))
            trials[-1].positions += longest[k] * forces / max(largest_force(forces), 1e-9)
        calls.fill(trials)
        for k, trial in zip(moving, trials, strict=True):
            energy = trial.get_potential_energy() - top
            if energy > tracks[k][-1][1]:
                longest[k] /= 2
                continue
            length = tracks[k][-1][0] + np.linalg.norm(trial.positions - sides[k].positions)
            tracks[k].append((float(length), energy))
            sides[k] = trial
    return [np.array(track) for track in tracks]


def _apart(one: Atoms, other: Atoms) -> float:
    """Largest minimum-image distance of an atom between two structures, Å."""
    return float(find_mic(one.positions - other.positions, one.cell, one.pbc)[1].max())
