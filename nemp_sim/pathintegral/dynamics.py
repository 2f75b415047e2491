"""What follows from the motion of the centroids: vibrational density of states, diffusion.

Centroids of ring-polymer dynamics (nve, trpmd) stand for the real-time correlation functions:
I. R. Craig and D. E. Manolopoulos, J. Chem. Phys. 121, 3368 (2004), 10.1063/1.1777575; M. Rossi
et al., J. Chem. Phys. 140, 234116 (2014), 10.1063/1.4883861.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.units import _c

from nemp_sim.blocking import Average, block_average
from nemp_sim.errors import InputError
from nemp_sim.pathintegral.files import Frames
from nemp_sim.pathintegral.input import PREFIX, Dynamics, Start

HIGHEST_PER_CM = 4500.0
DIFFUSION_BLOCKS = 8
FEWEST_FRAMES = 64


@dataclass(frozen=True)
class CentroidDynamics:
    """Spectrum and diffusion of the centroids.

    Attributes:
        wavenumber_per_cm: (R,) cm⁻¹.
        density_cm: by species, (R,) modes per cm⁻¹ and atom: the integral is 3.
        diffusion_A2_per_ps: by species, slope of the mean square displacement over six.
    """

    wavenumber_per_cm: np.ndarray
    density_cm: Mapping[str, np.ndarray]
    diffusion_A2_per_ps: Mapping[str, Average]


def centroid_dynamics(
    directory: Path, start: Start, dynamics: Dynamics, skip: int = 0
) -> CentroidDynamics:
    """Spectrum and diffusion from the velocities and places of the centroids after step ``skip``.

    Raises:
        InputError: fewer than 64 frames.
    """
    series = {}
    for name in ("vc", "xc"):
        kept = [values[0] for step, _, values in Frames(directory, PREFIX, name) if step > skip]
        if len(kept) < FEWEST_FRAMES:
            raise InputError(
                f"{len(kept)} frames of the centroids were written after step {skip}, but a "
                f"spectrum needs {FEWEST_FRAMES}. Give more --steps."
            )
        series[name] = np.array(kept)
    interval_fs = dynamics.every * dynamics.timestep_fs
    spectra, diffusion = {}, {}
    for species in start.species():
        chosen = [i for i in start.free if start.labels[i] == species]
        wavenumber, spectra[species] = velocity_spectrum(series["vc"][:, chosen], interval_fs)
        diffusion[species] = diffusion_constant(series["xc"][:, chosen], interval_fs)
    return CentroidDynamics(wavenumber, spectra, diffusion)


def velocity_spectrum(velocities: np.ndarray, interval_fs: float) -> tuple[np.ndarray, np.ndarray]:
    """Fourier transform of the velocity autocorrelation function (Wiener and Khinchin).

    Args:
        velocities: (T, n, 3), any unit.
        interval_fs: time between two of them.

    Returns:
        wavenumber: (R,) cm⁻¹, up to 4500.
        density: (R,) modes per cm⁻¹ and atom, normalised to 3 over all wavenumbers.
    """
    window = np.hanning(len(velocities))[:, None, None]
    power = (np.abs(np.fft.rfft(velocities * window, axis=0)) ** 2).sum(axis=(1, 2))
    frequency = np.fft.rfftfreq(len(velocities), interval_fs * 1e-15)  # Hz
    wavenumber = frequency / (100.0 * _c)
    power *= 3.0 / (power.sum() * wavenumber[1])
    shown = wavenumber <= HIGHEST_PER_CM
    return wavenumber[shown], power[shown]


def diffusion_constant(places: np.ndarray, interval_fs: float) -> Average:
    """D = ⟨|r(t) − r(0)|²⟩/6t in Å²/ps, of the second half of each of eight pieces of the run.

    Args:
        places: (T, n, 3) Å, not wrapped into a cell.
        interval_fs: time between two of them.
    """
    pieces = np.array_split(places, DIFFUSION_BLOCKS)
    slopes = []
    for piece in pieces:
        square = ((piece - piece[0]) ** 2).sum(-1).mean(-1)
        time_ps = np.arange(len(piece)) * interval_fs * 1e-3
        half = len(piece) // 2
        slopes.append(np.polyfit(time_ps[half:], square[half:], 1)[0] / 6.0)
    average = block_average(np.array(slopes))
    return Average(average.mean, average.error, average.inefficiency, True)
