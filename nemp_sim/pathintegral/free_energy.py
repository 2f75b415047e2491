"""Free energy along a line from umbrella windows, by umbrella integration."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.units import fs, kB

from nemp_sim.blocking import Average, block_average
from nemp_sim.config import require

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
        well_A: s of the first minimum.
        top_A: s of the highest point between the minima.
        gap: largest distance of neighbouring windows over the spread of their samples.
        resolved: whether the error bars of all windows are.
    """

    path_A: np.ndarray
    free_energy_eV: np.ndarray
    barrier_eV: Average
    reaction_eV: Average
    well_A: float
    top_A: float
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
        path_A=path,
        free_energy_eV=energy - energy[first],
        barrier_eV=between(first, top),
        reaction_eV=between(first, last),
        well_A=float(path[first]),
        top_A=float(path[top]),
        gap=gap,
        resolved=resolved,
    )


def tst_rate(profile: Profile, mass_amu: float, temperature_K: float) -> float:
    """Rate of transition-state theory from the first well over the top, 1/s.

        k = (k_B T / 2π m)^(1/2) exp(−β A(s‡)) / ∫ exp(−β A(s)) ds,   s in the first well

    With A of the centroid it is the centroid-density rate of quantum TST. What of the well lies
    before the first sample is taken to be the mirror image of what lies as far behind its minimum.

    Args:
        profile: of umbrella integration.
        mass_amu: of what moves along s.
        temperature_K: of the profile.

    Source: G. A. Voth, D. Chandler and W. H. Miller, J. Chem. Phys. 91, 7749 (1989),
    10.1063/1.457242.
    """
    s, thermal = profile.path_A, kB * temperature_K
    weight = np.exp(-profile.free_energy_eV / thermal)
    inside = s <= profile.top_A
    mirrored = inside & (s >= 2 * profile.well_A - s[0])
    well = sum(np.trapezoid(weight[part], s[part]) for part in (inside, mirrored))
    velocity = np.sqrt(thermal / (2 * np.pi * mass_amu)) * fs * 1e15  # Å/s
    return float(velocity * np.exp(-profile.barrier_eV.mean / thermal) / well)
