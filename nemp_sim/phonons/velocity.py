"""Group velocities v = ∂ω/∂q: speeds of sound along the path, and the speed of every mode.

By phonopy, from the derivative of the dynamical matrix; modes of equal frequency are told apart by
the derivative itself. As Γ is approached, v becomes the speed of sound, which elasticity gives as
√(C/ρ) with an elastic constant C for the direction and the density ρ.
"""

from dataclasses import dataclass

import numpy as np

from nemp_sim.phonons.force_constants import ForceConstants
from nemp_sim.phonons.imaginary import ZERO_THZ
from nemp_sim.phonons.spectra import Spectra

KM_PER_S = 0.1  # of 1 THz Å
NEAR_GAMMA = 0.01  # part of the way from Γ to the edge of the zone


@dataclass(frozen=True)
class SpeedsOfSound:
    """The three acoustic branches along one direction.

    Attributes:
        label: end of the direction that starts at Γ.
        q: (3,) that end, in the reciprocal vectors of the primitive cell.
        km_per_s: (3,) ascending: along axes of symmetry the highest is longitudinal. Not a number
            (last) for a branch that is imaginary next to Γ.
    """

    label: str
    q: np.ndarray
    km_per_s: np.ndarray

    def __str__(self) -> str:
        """For reports."""
        words = ["imaginary" if np.isnan(v) else f"{v:.2f}" for v in self.km_per_s]
        return f"Γ–{self.label} " + " ".join(words)


def speeds_of_sound(constants: ForceConstants, found: Spectra) -> tuple[SpeedsOfSound, ...]:
    """Speeds of sound along every piece of the path that touches Γ; none for slabs.

    The flexural branch of a slab is quadratic in q and has no speed of sound.
    """
    if not constants.periodic.all():
        return ()
    named = [point for point in found.bands.points if point.label != "Γ"]
    reached: dict[str, SpeedsOfSound] = {}
    for segment in found.raw.bands.qpoints:
        for start, end in ((segment[0], segment[-1]), (segment[-1], segment[0])):
            fitting = [point for point in named if np.allclose(point.q, end)]
            if np.abs(start).max() > 1e-9 or not fitting:
                continue
            point = fitting[0]
            result = constants.phonon.run_qpoints(
                [(NEAR_GAMMA * np.asarray(end)).tolist()], with_group_velocities=True
            )
            acoustic = np.linalg.norm(result.group_velocities[0][:3], axis=1) * KM_PER_S
            acoustic[result.frequencies[0][:3] <= 0] = np.nan
            speeds = SpeedsOfSound(point.label, point.q, np.sort(acoustic))
            reached.setdefault(point.label, speeds)
    return tuple(reached.values())


def speeds_of_modes(found: Spectra) -> tuple[np.ndarray, np.ndarray]:
    """Frequency (THz) and |v| (km/s) of every real mode on the irreducible mesh, (n,) each."""
    mesh = found.raw.mesh
    speeds = np.linalg.norm(mesh.group_velocities, axis=2) * KM_PER_S
    real = mesh.frequencies > ZERO_THZ
    return mesh.frequencies[real], speeds[real]
