"""Free energy along a line from umbrella windows, by umbrella integration."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.units import kB

from nemp_sim.config import require
from nemp_sim.pathintegral.blocking import Average, block_average

POINTS = 401


@dataclass(frozen=True)
class Window:
    """Samples of one umbrella ½ κ (s − s₀)².

    Attributes:
        centre_A: s₀.
        spring_eV_per_A2: κ.
        samples_A: (n,) s in time.
    """

    centre_A: float
    spring_eV_per_A2: float
    samples_A: np.ndarray

    @property
    def mean_A(self) -> Average:
        """⟨s⟩ in the window."""
        return block_average(self.samples_A)


@dataclass(frozen=True)
class Profile:
    """Free energy along s.

    Attributes:
        path_A: (R,) s.
        free_energy_eV: (R,) A(s), zero at its lowest point in the first half.
        barrier_eV: highest point between the minima of the two halves, less the first minimum, with
            its error.
        reaction_eV: second minimum less the first.
        gap: largest distance of neighbouring windows over the spread of their samples.
        resolved: whether the error bars of all windows are.
    """

    path_A: np.ndarray
    free_energy_eV: np.ndarray
    barrier_eV: Average
    reaction_eV: Average
    gap: float
    resolved: bool


def umbrella_integration(windows: Sequence[Window], temperature_K: float) -> Profile:
    """A(s) from the mean forces of all windows.

        dA/ds = Σ_w p_w(s) [k_B T (s − ⟨s⟩_w)/σ_w² − κ_w (s − s₀_w)] / Σ_w p_w(s)

    p_w is the Gaussian of mean ⟨s⟩_w and variance σ_w² of the samples of window w. The errors are
    those of the forces κ (⟨s⟩ − s₀), times the stretch of path of each window.

    Raises:
        InputError: fewer than three windows, or one without two different samples.

    Source: J. Kästner and W. Thiel, J. Chem. Phys. 123, 144104 (2005), 10.1063/1.2052648.
    """
    require(len(windows) >= 3, "windows", len(windows), "3 or more")
    still = [w.centre_A for w in windows if not np.ptp(w.samples_A) > 0]
    require(not still, "samples of the windows at", still, "two different ones or more: more steps")
    means = [window.mean_A for window in windows]
    order = np.argsort([m.mean for m in means])
    windows, means = [windows[i] for i in order], [means[i] for i in order]
    middle = np.array([m.mean for m in means])
    variance = np.array([w.samples_A.var() for w in windows])
    centre = np.array([w.centre_A for w in windows])
    spring = np.array([w.spring_eV_per_A2 for w in windows])
    path = np.linspace(middle[0], middle[-1], POINTS)
    away = path[:, None] - middle
    logs = -0.5 * away**2 / variance - 0.5 * np.log(variance)
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    slopes = kB * temperature_K * away / variance - spring * (path[:, None] - centre)
    slope = (weights * slopes).sum(axis=1)
    step = path[1] - path[0]
    energy = np.concatenate([[0.0], np.cumsum(0.5 * step * (slope[1:] + slope[:-1]))])
    half = POINTS // 2
    first, last = int(energy[:half].argmin()), half + int(energy[half:].argmin())
    top = first + int(energy[first : last + 1].argmax())
    stretch = spring * np.array([m.error for m in means])

    def between(low: int, high: int) -> Average:
        share = step * weights[low:high].sum(axis=0)  # path that each window accounts for
        error = float(np.sqrt(((stretch * share) ** 2).sum()))
        return Average(float(energy[high] - energy[low]), error, 1.0, True)

    gap = float((np.diff(middle) / np.sqrt(variance[1:] + variance[:-1])).max())
    resolved = all(m.resolved for m in means)
    return Profile(
        path, energy - energy[first], between(first, top), between(first, last), gap, resolved
    )
