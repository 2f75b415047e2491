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
    """Root mean square."""
    return float(np.sqrt((values**2).mean()))


def combination_std(members: np.ndarray, coefficients: Sequence[float] | np.ndarray) -> float:
    """Standard deviation of Σ c_b E_b, eV: errors that the structures share cancel.

    Args:
        members: (B, M) eV, ``Evaluation.energy_members`` of B structures.
        coefficients: (B,) for example 1 and −1 for a difference.
    """
    combined = np.asarray(coefficients) @ members
    return float(np.sqrt(np.mean((combined - combined.mean()) ** 2)))
