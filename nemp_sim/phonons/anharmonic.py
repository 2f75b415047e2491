"""Vibrations at a temperature: what harmonic phonons lack, from a trajectory of the supercell.

- The density of states as the spectrum of the velocities,
      g(ν) ∝ Σ_i m_i ∫ ⟨v_i(0)·v_i(t)⟩ exp(2πiνt) dt,
  estimated as the averaged periodogram of windowed pieces.
- Effective force constants: the least-squares fit of F_i = −Σ_j Φ_ij u_j to the forces met on
  the way (O. Hellman, I. A. Abrikosov and S. I. Simak, Phys. Rev. B 84, 180301 (2011),
  10.1103/PhysRevB.84.180301), with the symmetry of the crystal, by symfc.

In classical dynamics hydrogen below its frequencies (1000 K for 20 THz) has no zero-point motion.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from phonopy import Phonopy
from scipy.signal import welch

from nemp_sim.config import require
from nemp_sim.errors import EvaluationError
from nemp_sim.phonons.force_constants import ForceConstants, phonopy_like, solved, to_ase
from nemp_sim.phonons.md import Dynamics
from nemp_sim.statistics import rms

RESOLUTION_THZ = 0.25
FEWEST_FRAMES = 4
LARGEST_RESIDUAL = 0.7  # of the forces on unseen frames


@dataclass(frozen=True)
class VelocitySpectrum:
    """Density of states of a trajectory.

    Attributes:
        frequencies_THz: (m,).
        total: (m,) modes per THz and primitive cell.
        projected: (m,) for each element.
        resolution_THz: width that the window gives to a sharp line.
    """

    frequencies_THz: np.ndarray
    total: np.ndarray
    projected: Mapping[str, np.ndarray]
    resolution_THz: float


def velocity_spectrum(
    dynamics: Dynamics, n_cells: float, resolution_THz: float = RESOLUTION_THZ
) -> VelocitySpectrum:
    """Density of states from the velocities.

    Args:
        dynamics: a trajectory.
        n_cells: primitive cells in its supercell.
        resolution_THz: wanted; a short run gives less.
    """
    steps, replicas, n_atoms, _ = dynamics.velocities.shape
    rate = 1e3 / dynamics.timestep_fs  # steps per ps, so frequencies are THz
    length = min(steps, round(1.5 * rate / resolution_THz))  # a Hann window is 1.5 bins wide
    weighted = dynamics.velocities * np.sqrt(dynamics.supercell.get_masses())[:, None]
    frequencies, power = welch(
        weighted, fs=rate, nperseg=length, nfft=4 * length, detrend=False, axis=0
    )
    by_atom = power.sum(axis=(1, 3))  # (m, N)
    modes = 3 * n_atoms / n_cells
    by_atom *= modes / np.trapezoid(by_atom.sum(axis=1), frequencies)
    symbols = np.array(dynamics.supercell.get_chemical_symbols())
    return VelocitySpectrum(
        frequencies_THz=frequencies,
        total=by_atom.sum(axis=1),
        projected={str(s): by_atom[:, symbols == s].sum(axis=1) for s in dict.fromkeys(symbols)},
        resolution_THz=float(1.5 * rate / length),
    )


@dataclass(frozen=True)
class Effective:
    """Force constants fitted to a trajectory.

    Attributes:
        constants: fitted to all frames.
        n_frames: how many.
        residual: root mean square of F + Φu over that of F on the quarter of the frames that a
            first fit did not see: what no harmonic crystal can have, and noise of the fit.
        residual_seen: the same on the frames that it was fitted to.
    """

    constants: ForceConstants
    n_frames: int
    residual: float
    residual_seen: float


def effective_constants(base: ForceConstants, dynamics: Dynamics) -> Effective:
    """Force constants that fit the forces of a trajectory best.

    Args:
        base: harmonic force constants of the same supercell.
        dynamics: frames of the supercell of ``base``; those of path-integral beads do as well.

    Raises:
        InputError: fewer than four frames.
        EvaluationError: a trajectory too short for a fit: unseen frames are described far worse.
    """
    moved, forces = dynamics.displacements, dynamics.forces
    require(len(moved) >= FEWEST_FRAMES, "frames", len(moved), f"{FEWEST_FRAMES} or more: --md-ps")
    seen = 3 * len(moved) // 4
    first = _fitted(base, moved[:seen], forces[:seen])
    left = forces + np.einsum("ijab,fjb->fia", first.force_constants, moved)
    residuals = [rms(left[part]) / rms(forces[part]) for part in (slice(seen), slice(seen, None))]
    if residuals[1] > min(LARGEST_RESIDUAL, 1.5 * residuals[0] + 0.05):
        raise EvaluationError(
            f"{len(moved)} frames are too few to fit force constants to, or no harmonic crystal "
            f"describes them: {residuals[1]:.0%} of the forces on unseen frames are missed, "
            f"{residuals[0]:.0%} on seen ones. Give more --md-ps or --md-replicas."
        )
    atoms = to_ase(base.phonon.unitcell, base.periodic)
    constants = solved(atoms, _fitted(base, moved, forces, full=False))
    return Effective(constants, len(moved), float(residuals[1]), float(residuals[0]))


def _fitted(
    base: ForceConstants, moved: np.ndarray, forces: np.ndarray, full: bool = True
) -> Phonopy:
    phonon = phonopy_like(base.phonon, to_ase(base.phonon.unitcell, base.periodic))
    phonon.dataset = {"displacements": moved, "forces": forces}
    phonon.produce_force_constants(calculate_full_force_constants=full, fc_calculator="symfc")
    return phonon
