"""Averages of correlated time series, with error bars by block averaging."""

from dataclasses import dataclass

import numpy as np

from nemp_sim.config import require

FEWEST_BLOCKS = 8  # fewer say nothing about the scatter of block averages


@dataclass(frozen=True)
class Average:
    """A time average and how well it is known.

    Attributes:
        mean: of the series, in its unit.
        error: standard error of ``mean``, same unit; not-a-number where it cannot be had.
        inefficiency: values of the series for one independent value (1: uncorrelated).
        resolved: whether the error has become independent of the block length; where not, it is a
            lower bound and the run too short.
    """

    mean: float
    error: float
    inefficiency: float
    resolved: bool

    def scaled(self, factor: float, shift: float = 0.0) -> "Average":
        """The average of factor · x + shift."""
        error = abs(factor) * self.error
        return Average(factor * self.mean + shift, error, self.inefficiency, self.resolved)


def block_average(values: np.ndarray) -> Average:
    """Mean and standard error of a correlated series.

    Neighbouring blocks are joined in pairs, again and again; with n_B blocks of length B, the naive
    error is err_B = σ_B/√(n_B − 1). The shortest blocks with B³ > 2 n (err_B/err_1)⁴ balance what
    is left of the correlation against the scatter of err_B; they are taken if ``FEWEST_BLOCKS`` of
    them are there.

    Args:
        values: (n,) evenly spaced in time.

    Raises:
        InputError: no values.

    Source: H. Flyvbjerg and H. G. Petersen, J. Chem. Phys. 91, 461 (1989), 10.1063/1.457480; the
    choice of B: U. Wolff, Comput. Phys. Commun. 156, 143 (2004); R. M. Lee et al., Phys. Rev. E 83,
    066706 (2011), 10.1103/PhysRevE.83.066706.
    """
    series = np.asarray(values, dtype=np.float64)
    require(series.ndim == 1 and len(series) > 0, "values", series.shape, "a series of numbers")
    mean, count = float(series.mean()), len(series)
    if count < 2 or np.ptp(series) <= 1e-12 * max(abs(mean), 1e-300):
        return Average(mean, 0.0 if count > 1 else float("nan"), 1.0, count > 1)
    first = error = _naive_error(series)
    length, resolved = 1, False
    while not resolved and len(series) >= 2 * FEWEST_BLOCKS:
        even = len(series) // 2 * 2
        series = series[:even].reshape(-1, 2).mean(axis=1)
        length *= 2
        error = max(error, _naive_error(series))
        resolved = length**3 > 2 * count * (error / first) ** 4
    return Average(mean, error, (error / first) ** 2, resolved)


def _naive_error(series: np.ndarray) -> float:
    return float(series.std() / np.sqrt(len(series) - 1))


def weighted_average(values: np.ndarray, log_weights: np.ndarray) -> Average:
    """Σ w x / Σ w of correlated values with weights w = exp(log_weights).

    The error is that of the linearised ratio: of the series w (x − mean)/⟨w⟩.

    Args:
        values: (n,).
        log_weights: (n,) any constant may be added to them.
    """
    weights = np.exp(log_weights - np.max(log_weights))
    weights /= weights.mean()
    mean = float((weights * values).mean())
    scatter = block_average(weights * (np.asarray(values) - mean))
    return Average(mean, scatter.error, scatter.inefficiency, scatter.resolved)


def drift(values: np.ndarray) -> float:
    """Difference of the averages of the two halves of a series over its standard error.

    Beyond about 3 the beginning of the run is not yet equilibrium.
    """
    half = len(values) // 2
    if half < 2:
        return 0.0
    first, second = block_average(values[:half]), block_average(values[half:])
    error = np.hypot(first.error, second.error)
    return float(abs(second.mean - first.mean) / error) if error > 0 else 0.0
