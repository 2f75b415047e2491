"""Vibrations as files and words: an animation of each mode, a table, remarks."""

from pathlib import Path

import numpy as np
from ase import Atoms

from nemp_sim.files import write_structures
from nemp_sim.vibrations import SMALL_CM1, Vibrations

FRAMES = 20
AMPLITUDE_ANGSTROM = 0.3


def mode_frames(
    found: Vibrations,
    mode: int,
    n_frames: int = FRAMES,
    amplitude_angstrom: float = AMPLITUDE_ANGSTROM,
) -> list[Atoms]:
    """One period of a mode, for a viewer; the atom that moves most moves by the amplitude."""
    shape = found.modes[mode]
    shape = shape / np.linalg.norm(shape, axis=1).max()
    frames = []
    for k in range(n_frames):
        frame = Atoms(found.atoms.numbers, cell=found.atoms.cell, pbc=found.atoms.pbc)
        swing = amplitude_angstrom * np.sin(2 * np.pi * k / n_frames)
        frame.positions = found.atoms.positions + swing * shape
        frame.arrays["mode"] = shape
        frame.info = {"wavenumber_cm1": round(float(found.wavenumbers_cm1[mode]), 3)}
        frames.append(frame)
    return frames


def write_modes(found: Vibrations, path: Path) -> Path:
    """All modes one after the other as extended XYZ, ``FRAMES`` frames each, lowest mode first.

    ``info["wavenumber_cm1"]`` (negative: imaginary) says which; ``arrays["mode"]`` is its shape.
    """
    frames = [frame for k in range(len(found.modes)) for frame in mode_frames(found, k)]
    write_structures(path, frames)
    return path


def mode_table(found: Vibrations) -> str:
    """Markdown table of the modes: cm⁻¹, meV, and the atoms that move most."""
    lines = ["| mode | cm⁻¹ | meV | moves |", "|---:|---:|---:|---|"]
    for k, (wavenumber, energy) in enumerate(
        zip(found.wavenumbers_cm1, found.energies_eV, strict=True)
    ):
        sign = " i" if energy < 0 else ""
        movers = _movers(found, k)
        row = f"| {k} | {abs(wavenumber):.1f}{sign} | {1e3 * abs(energy):.2f}{sign} | {movers} |"
        lines.append(row)
    return "\n".join(lines) + "\n"


def conditions(found: Vibrations) -> str:
    """How modes were made, for a methods section: approximation, derivatives, atoms held."""
    by = {"analytic": "analytic second derivatives", "differences": "central differences of forces"}
    n_all, chosen = len(found.atoms), found.atoms[found.indices]
    who = f"all {n_all} atoms vibrate"
    if len(chosen) < n_all:
        formula = chosen.get_chemical_formula(mode="hill")
        verb = "vibrates" if len(chosen) == 1 else "vibrate"
        who = f"{len(chosen)} of {n_all} atoms ({formula}) {verb}, the others are held"
    left = {"molecule": "; translations and rotations are left out", "crystal": ""}
    return f"harmonic, {by[found.method]}; {who}{left.get(found.rigid, '')}"


def remarks(found: Vibrations, what: str, saddle: bool = False) -> list[str]:
    """Imaginary modes by name, and real ones that are hardly harmonic.

    Args:
        found: the vibrations.
        what: name of the structure in the sentences.
        saddle: whether one imaginary mode is right.
    """
    notes = []
    imaginary = np.abs(found.wavenumbers_cm1[found.energies_eV < 0])
    if len(imaginary) and not (saddle and len(imaginary) == 1):
        values = ", ".join(f"{value:.0f}i" for value in imaginary)
        small = " (small: tighter --fmax may remove it)" if imaginary.max() < SMALL_CM1 else ""
        wanted = "exactly one is wanted" if saddle else "a minimum has none"
        notes.append(f"{what}: imaginary modes at {values} cm⁻¹{small}; {wanted}.")
    if saddle and not len(imaginary):
        notes.append(f"{what}: no imaginary mode; exactly one is wanted.")
    soft = found.wavenumbers_cm1[(found.energies_eV > 0) & (found.wavenumbers_cm1 < SMALL_CM1)]
    if len(soft):
        notes.append(
            f"{what}: {len(soft)} real modes below {SMALL_CM1:.0f} cm⁻¹ (lowest {soft.min():.0f}) "
            "are hardly harmonic: their entropy is uncertain."
        )
    return notes


def _movers(found: Vibrations, mode: int) -> str:
    """Symbols and numbers of the atoms that carry most of the kinetic energy of a mode."""
    kinetic = found.atoms.get_masses() * (found.modes[mode] ** 2).sum(axis=1)
    share = kinetic / kinetic.sum()
    order = [i for i in np.argsort(-share)[:3] if share[i] > 0.1]
    return ", ".join(f"{found.atoms.symbols[i]}{i} {100 * share[i]:.0f} %" for i in order)
