"""A way down from a saddle: the crystal displaced along its softest mode.

Of the wave vectors q that fit into the supercell, whose frequencies are exact, the most unstable
mode is frozen into the smallest repeat that holds it,

    u_{lκ} = a Re[ e_κ exp(2πi q·x_{lκ} + iφ) ] / √m_κ,

with the phase φ that makes the displacements longest. The energies of many amplitudes a of both
signs are one batched call; the lowest is where a relaxation starts.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod

import numpy as np
from ase import Atoms
from phonopy import Phonopy

from nemp_sim.errors import EvaluationError, InputError
from nemp_sim.minimum import StressEngine
from nemp_sim.phonons.force_constants import (
    ForceConstants,
    build_phonopy,
    fitting_qpoints,
    force_constants,
    to_ase,
)
from nemp_sim.phonons.imaginary import ZERO_THZ, ImaginaryMode
from nemp_sim.phonons.minimum import Limits, symmetrised, to_minimum
from nemp_sim.relax import Engine

AMPLITUDES_ANGSTROM = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7)
EQUAL_THZ = 1e-3  # modes of one star of wave vectors differ by rounding
LARGEST_REPEAT = 12
MOST_ROUNDS = 5
SAME_ANGSTROM = 0.02  # a relaxed structure nearer to a symmetry than this is given it


@dataclass(frozen=True)
class Descent:
    """Where following softest modes again and again ended.

    Attributes:
        atoms: at their minimum.
        constants: their force constants.
        notes: what was done.
    """

    atoms: Atoms
    constants: ForceConstants
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Followed:
    """The lowest point along the softest mode.

    Attributes:
        atoms: repeat of the primitive cell, displaced, not relaxed.
        mode: what it was displaced along.
        repeats: (3,) primitive cells in ``atoms``.
        amplitude_angstrom: largest displacement of an atom.
        gain_meV_per_atom: how far the energy fell.
    """

    atoms: Atoms
    mode: ImaginaryMode
    repeats: tuple[int, int, int]
    amplitude_angstrom: float
    gain_meV_per_atom: float

    def __str__(self) -> str:
        """For reports."""
        repeats = " × ".join(map(str, self.repeats))
        return (
            f"followed {self.mode} by {self.amplitude_angstrom:.2f} Å in {repeats} primitive "
            f"cells, {self.gain_meV_per_atom:.2f} meV/atom down"
        )


def softest_mode(constants: ForceConstants) -> ImaginaryMode | None:
    """The most unstable mode at wave vectors that fit into the supercell; None: all are real.

    Of equal ones that of the smallest cell, and of these the first: so rounding does not choose.
    """
    phonon = constants.phonon
    fitting = fitting_qpoints(phonon)
    found = phonon.run_qpoints(fitting, with_eigenvectors=True)
    lowest = np.argwhere(found.frequencies < found.frequencies.min() + EQUAL_THZ).tolist()
    index, band = min(lowest, key=lambda k: prod(p.denominator for p in _fractions(fitting[k[0]])))
    frequency = float(found.frequencies[index, band])
    if frequency > -ZERO_THZ:
        return None
    return ImaginaryMode(
        q=np.round(fitting[index], 8) + 0.0,
        label="",
        band=int(band),
        frequency_THz=frequency,
        eigenvector=found.eigenvectors[index][:, band].reshape(-1, 3),
        interpolated=False,
    )


def frozen_mode(phonon: Phonopy, mode: ImaginaryMode, pbc: np.ndarray) -> tuple[Atoms, np.ndarray]:
    """The smallest repeat of the primitive cell that holds a mode, and its pattern.

    Returns:
        The repeat, undisplaced, and displacements (N, 3) whose longest is 1 Å.

    Raises:
        EvaluationError: a wave vector that fits into no small repeat.
    """
    parts = _fractions(mode.q)
    if np.abs([float(p) - x for p, x in zip(parts, mode.q, strict=True)]).max() > 1e-5:
        raise EvaluationError(
            f"q = {mode.q.tolist()} fits into no repeat of {LARGEST_REPEAT} primitive cells. Use "
            "a smaller --supercell."
        )
    repeats = tuple(part.denominator for part in parts)
    cell = to_ase(phonon.primitive, pbc)
    places = np.linalg.solve(cell.cell.array.T, cell.repeat(repeats).positions.T).T
    waves = np.exp(2j * np.pi * places @ mode.q)[:, None]
    lengths = np.sqrt(cell.get_masses())[:, None]
    pattern = np.tile(mode.eigenvector / lengths, (int(np.prod(repeats)), 1)) * waves
    phase = -0.5 * np.angle((pattern**2).sum())
    moved = (pattern * np.exp(1j * phase)).real
    return cell.repeat(repeats), moved / np.linalg.norm(moved, axis=1).max()


def along_softest(engine: Engine, atoms: Atoms, constants: ForceConstants) -> Followed | None:
    """Displace along the softest mode to the lowest energy; None where no mode is imaginary.

    Args:
        engine: evaluates all amplitudes at once.
        atoms: what ``constants`` is of; its pbc hold.
        constants: force constants with an imaginary mode.

    Raises:
        EvaluationError: energies that are not finite, or none below that of ``atoms``.
    """
    mode = softest_mode(constants)
    if mode is None:
        return None
    cell, pattern = frozen_mode(constants.phonon, mode, atoms.pbc)
    amplitudes = np.array([0.0, *AMPLITUDES_ANGSTROM, *(-a for a in AMPLITUDES_ANGSTROM)])
    scan = []
    for amplitude in amplitudes:
        copy = cell.copy()
        copy.positions += amplitude * pattern
        scan.append(copy)
    energies = np.asarray(engine.evaluate(scan).energy, dtype=float)
    finite = np.where(np.isfinite(energies), energies, np.inf)
    best = int(finite.argmin())
    if not np.isfinite(energies[0]) or best == 0:
        raise EvaluationError(
            f"{mode}: the energy does not fall along it between {AMPLITUDES_ANGSTROM[0]} and "
            f"{AMPLITUDES_ANGSTROM[-1]} Å. The mode is noise or nearly flat; try float64, another "
            "--displacement, or a larger --supercell."
        )
    return Followed(
        atoms=scan[best],
        mode=mode,
        repeats=_repeats(cell, constants.phonon),
        amplitude_angstrom=float(abs(amplitudes[best])),
        gain_meV_per_atom=float(1e3 * (energies[0] - energies[best]) / len(cell)),
    )


def _fractions(q: np.ndarray) -> list[Fraction]:
    return [Fraction(float(x)).limit_denominator(LARGEST_REPEAT) for x in q]


def _repeats(cell: Atoms, phonon: Phonopy) -> tuple[int, int, int]:
    shares = np.diag(cell.cell.array @ np.linalg.inv(phonon.primitive.cell))
    first, second, third = (int(n) for n in np.rint(shares))
    return first, second, third


def descend(
    engine: StressEngine,
    atoms: Atoms,
    constants: ForceConstants,
    limits: Limits,
    displacement_angstrom: float,
    say: Callable[[str], None] = lambda text: None,
) -> Descent:
    """Follow the softest mode, relax, compute force constants, until no mode is imaginary.

    Supercells reach as far as that of ``constants``.

    Args:
        engine: evaluates structures.
        atoms: crystal or slab at a stationary point.
        constants: its force constants.
        limits: of the relaxations.
        displacement_angstrom: of the displaced atoms.
        say: called with what is being done.

    Raises:
        InputError: a molecule, or a relaxation that does not end.
        EvaluationError: a mode along which the energy does not fall.
    """
    if not constants.periodic.any():
        raise InputError(
            "follow_imaginary is for crystals and slabs, but the structure is a molecule. Leave "
            "--follow-imaginary out."
        )
    notes, reach = [], constants.reach_angstrom - 1e-6
    for number in range(1, MOST_ROUNDS + 1):
        followed = along_softest(engine, atoms, constants)
        if followed is None:
            break
        say(f"round {number}: {followed}")
        before = atoms.get_potential_energy() / len(atoms)
        atoms = _relaxed(engine, followed.atoms, limits)
        after = atoms.get_potential_energy() / len(atoms)
        notes.append(
            f"Round {number}: {followed}; relaxed to {1e3 * (before - after):.2f} meV/atom below."
        )
        phonon = build_phonopy(atoms, radius_angstrom=reach)
        constants = force_constants(engine, atoms, phonon, displacement_angstrom)
    if not notes:
        notes.append("No mode to follow: all are real at the wave vectors that fit.")
    return Descent(atoms, constants, tuple(notes))


def _relaxed(engine: StressEngine, atoms: Atoms, limits: Limits) -> Atoms:
    """Relaxed and, where that leaves it at a minimum, moved onto its symmetry."""
    relaxed = to_minimum(engine, atoms, limits).atoms
    as_it_is = replace(limits, relax="none")
    try:
        return to_minimum(engine, symmetrised(relaxed, SAME_ANGSTROM), as_it_is).atoms
    except InputError:  # the symmetric structure is a saddle beside this minimum
        return relaxed
