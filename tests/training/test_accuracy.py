"""Error tables against errors worked out by hand; uncertainties against known calibration."""

import numpy as np
import pytest
from ase import Atoms
from scipy.stats import rankdata

from nemp_sim.checkpoint import new_model
from nemp_sim.config import ModelConfig
from nemp_sim.potential import Potential
from nemp_sim.training.accuracy import Predictions, error_rows, predict, reliability
from nemp_sim.training.data import Frame


def test_rows_hold_the_errors_that_were_put_in():
    potential = Potential(new_model(ModelConfig(elements=("H",), n_channels=2)).double())
    pair = Atoms("H2", [[0, 0, 0], [0, 0, 0.8]])
    box = Atoms("H3", [[0, 0, 0], [0, 0, 0.9], [1.1, 0, 0]], cell=[4, 4, 4], pbc=True)
    exact = potential.evaluate([pair, box])
    stress = potential.evaluate([box], stress=True).stress[0]
    full = stress[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
    wrong = np.zeros((2, 3))
    wrong[0, 0] = 0.06  # one of six components
    frames = [
        Frame(pair, exact.energy[0] - 0.004, exact.forces[0] - wrong, None, "gas", "a"),
        Frame(box, exact.energy[1] + 0.003, exact.forces[1], full + 0.002, "box", "b"),
    ]
    everything, box_row, gas_row = error_rows(predict({"default": potential}, frames))
    assert [r.config_type for r in (everything, box_row, gas_row)] == ["all", "box", "gas"]
    assert gas_row.energy_mae_meV_per_atom == pytest.approx(2.0)
    assert box_row.energy_rmse_meV_per_atom == pytest.approx(1.0)
    assert everything.energy_rmse_meV_per_atom == pytest.approx(np.sqrt((4 + 1) / 2))
    assert gas_row.force_rmse_meV_per_A == pytest.approx(60 / np.sqrt(6))
    assert gas_row.force_mae_meV_per_A == pytest.approx(10.0)
    assert everything.force_rmse_meV_per_A == pytest.approx(60 / np.sqrt(15))
    assert box_row.stress_rmse_meV_per_A3 == pytest.approx(2.0)
    assert gas_row.stress_rmse_meV_per_A3 is None


# --- uncertainties beside errors


def predictions_of(rng, n_frames=400, factor=1.0, n_atoms=6):
    """Errors drawn from N(0, (factor σ)²) with σ of each atom from a wide distribution."""
    frames, forces, spreads = [], [], []
    energy, energy_std = np.zeros(n_frames), 10 ** rng.uniform(-3, -1, n_frames)
    for k in range(n_frames):
        labels, std = rng.normal(size=(n_atoms, 3)), 10 ** rng.uniform(-3, 0, (n_atoms, 1))
        std = np.broadcast_to(std, (n_atoms, 3))
        frames.append(Frame(Atoms(f"H{n_atoms}"), float(k), labels, None, "any", str(k)))
        forces.append(labels + factor * std * rng.normal(size=(n_atoms, 3)))
        spreads.append(std)
        energy[k] = k + factor * energy_std[k] * rng.normal()
    return Predictions(frames, energy, np.zeros(n_frames), forces, {}, energy_std, spreads, [])


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_ratio_is_the_factor_by_which_errors_exceed_the_spreads(rng, factor):
    judged = reliability(predictions_of(rng, n_frames=4000, factor=factor))
    assert judged.force_ratio == pytest.approx(factor, rel=0.08)
    assert judged.energy_ratio == pytest.approx(factor, rel=0.12)


def test_rank_correlation_is_that_of_scipy(rng):
    predictions = predictions_of(rng, n_frames=50)
    judged = reliability(predictions)
    labels = np.concatenate([f.forces for f in predictions.frames])
    error = np.sqrt(((np.concatenate(predictions.forces) - labels) ** 2).sum(1))
    std = np.sqrt((np.concatenate(predictions.forces_std) ** 2).sum(1))
    ranks = [rankdata(values) for values in (std, error)]
    assert judged.force_spearman == pytest.approx(np.corrcoef(ranks)[0, 1], rel=1e-12)
    wrong = np.abs(predictions.energy - np.arange(50)) / 6
    ranks = [rankdata(values) for values in (predictions.energy_std / 6, wrong)]
    assert judged.energy_spearman == pytest.approx(np.corrcoef(ranks)[0, 1], rel=1e-12)
    assert judged.force_std.shape == judged.force_error.shape == (300,)
    np.testing.assert_allclose(judged.energy_error, wrong, rtol=1e-12)


def test_what_has_no_spread_is_left_out(rng):
    predictions = predictions_of(rng, n_frames=6)
    predictions.frames[2] = Frame(Atoms("H"), 2.0, np.zeros((1, 3)), None, "any", "2")
    predictions.energy_std[4] = np.nan
    judged = reliability(predictions)
    assert judged.energy_std.shape == (4,) and judged.force_std.shape == (24,)
    predictions.energy_std[:] = np.nan
    assert reliability(predictions) is None


def test_no_correlation_of_too_few_or_equal_values(rng):
    judged = reliability(predictions_of(rng, n_frames=2))
    assert np.isnan(judged.energy_spearman) and np.isfinite(judged.force_spearman)
    predictions = predictions_of(rng, n_frames=5)
    predictions.energy_std[:] = 0.1
    assert np.isnan(reliability(predictions).energy_spearman)


def test_predictions_carry_the_spreads_of_each_head(random_potential, methanol, water):
    sure, unsure = (random_potential("smooth", n_members=m) for m in (0, 3))
    frames = [
        Frame(atoms, 0.0, np.zeros((len(atoms), 3)), stress, "any", "0", head)
        for atoms, head, stress in (
            (methanol, "sure", None),
            (water, "unsure", np.eye(3)),
            (methanol, "unsure", None),
        )
    ]
    values = predict({"sure": sure, "unsure": unsure}, frames)
    want = unsure.evaluate([water, methanol], uncertainty=True)
    np.testing.assert_allclose(values.energy_std, [np.nan, *want.energy_std], atol=1e-10)
    np.testing.assert_allclose(values.forces_std[1], want.forces_std[0], atol=1e-10)
    assert len(values.forces_std[0]) == 0 and list(values.stress) == [1]
    assert [row.head for row in error_rows(values)] == ["sure", "unsure"]
    assert [row.n_frames for row in error_rows(values)] == [1, 2]
    assert len(reliability(values).energy_std) == 2
