"""Error bars against series whose error is known analytically."""

import numpy as np
import pytest

from nemp_sim.blocking import block_average, drift, weighted_average
from nemp_sim.errors import InputError


def autoregressive(rng, rho, count):
    """x(t+1) = ρ x(t) + √(1 − ρ²) ξ: variance 1, error of the mean √((1 + ρ)/(1 − ρ)/n)."""
    noise = rng.normal(size=count) * np.sqrt(1 - rho**2)
    series = np.empty(count)
    series[0] = rng.normal()
    for t in range(1, count):
        series[t] = rho * series[t - 1] + noise[t]
    return series


@pytest.mark.parametrize("rho", [0.0, 0.8, 0.95])
def test_error_of_an_autoregressive_series(rng, rho):
    series = [block_average(autoregressive(rng, rho, 16384)) for _ in range(8)]
    ideal = np.sqrt((1 + rho) / (1 - rho) / 16384)
    assert all(s.resolved for s in series)
    assert np.mean([s.error for s in series]) == pytest.approx(ideal, rel=0.12)
    assert np.mean([s.inefficiency for s in series]) == pytest.approx(
        (1 + rho) / (1 - rho), rel=0.3
    )
    assert np.sqrt(np.mean([(s.mean / s.error) ** 2 for s in series])) < 2.0


def test_a_short_series_says_that_its_error_is_a_lower_bound(rng):
    average = block_average(autoregressive(rng, 0.99, 100))
    assert not average.resolved
    assert block_average(np.array([3.0])).mean == 3.0
    assert np.isnan(block_average(np.array([3.0])).error)
    constant = block_average(np.full(50, 2.0))
    assert constant.error == 0.0 and constant.resolved


def test_scaled_and_refused():
    average = block_average(np.array([1.0, 2.0, 3.0])).scaled(-2.0, 1.0)
    assert average.mean == -3.0 and average.error > 0
    with pytest.raises(InputError, match="values is"):
        block_average(np.zeros(0))


def test_weights_move_a_gaussian(rng):
    """Under weights exp(a x) a unit Gaussian has the mean a."""
    x = rng.normal(size=20000)
    average = weighted_average(x, 0.5 * x + 700.0)  # exp(700) alone would overflow with more
    assert abs(average.mean - 0.5) < 4 * average.error < 0.06


def test_drift_finds_a_beginning_that_is_not_equilibrium(rng):
    noise = autoregressive(rng, 0.5, 4096)
    assert drift(noise) < 4
    assert drift(noise + np.linspace(0, 1, 4096)) > 5
