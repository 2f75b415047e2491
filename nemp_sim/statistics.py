"""Sizes of errors, their rank correlation, and how far the members of an ensemble disagree."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's, of fewer than three values or equal ones not-a-number."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)


def rms(values: np.ndarray) -> float:
    """Root mean square, of no values not-a-number."""
    return float(np.sqrt((values**2).mean())) if values.size else float("nan")


class Sample:
    """Rows of a long series: all of them up to ``most``, then every 2nd, 4th … of them.

    Attributes:
        every: which rows are kept: those whose number is a multiple of this.
    """

    def __init__(self, most: int) -> None:
        """Start with none."""
        self.every = 1
        self._most, self._seen = most, 0
        self._kept: list[np.ndarray] = []
        self._count = 0

    def add(self, rows: np.ndarray) -> None:
        """The next rows (n, …) of the series."""
        mine = rows[-self._seen % self.every :: self.every].copy()
        self._seen += len(rows)
        self._kept.append(mine)
        self._count += len(mine)
        while self._count > self._most:
            self._kept = [np.concatenate(self._kept)[::2].copy()]
            self._count = len(self._kept[0])
            self.every *= 2

    def rows(self) -> np.ndarray:
        """Those that were kept."""
        return np.concatenate(self._kept)


def combination_std(members: np.ndarray, coefficients: Sequence[float] | np.ndarray) -> float:
    """Standard deviation of Σ c_b E_b, eV: errors that the structures share cancel.

    Args:
        members: (B, M) eV, ``Evaluation.energy_members`` of B structures.
        coefficients: (B,) for example 1 and −1 for a difference.
    """
    combined = np.asarray(coefficients) @ members
    return float(np.sqrt(np.mean((combined - combined.mean()) ** 2)))
