"""Figures are drawn, also of extreme values, and say what they show."""

import numpy as np
import pytest
from matplotlib.image import imread

from nemp_sim.plots import save_figure
from nemp_sim.training.accuracy import ErrorPair, Reliability
from nemp_sim.training.plots import learning_curves, parity, reliability_diagram


def judged(rng, n_atoms, n_frames, std=1.0):
    values = [std * 10 ** rng.uniform(-4, 0, n) for n in (n_atoms, n_atoms, n_frames, n_frames)]
    return Reliability(*values)


def is_a_picture(figure, path):
    image = imread(save_figure(figure, path)[0])
    return image.shape[0] > 400 and image.std() > 0.01


@pytest.mark.parametrize(
    ("n_atoms", "n_frames", "std"), [(5000, 300, 1.0), (12, 2, 1.0), (2, 1, 1.0), (40, 9, 0.0)]
)
def test_reliability_diagram_is_drawn(rng, tmp_path, n_atoms, n_frames, std):
    splits = {name: judged(rng, n_atoms, n_frames, std) for name in ("validation", "test")}
    figure = reliability_diagram(splits)
    assert is_a_picture(figure, tmp_path / "reliability.png")
    for axes in figure.axes:
        assert axes.get_xlabel() == "Predicted standard deviation"
        assert [t.get_text().split(":")[0] for t in axes.get_legend().get_texts()] == list(splits)
        assert axes.get_xscale() == axes.get_yscale() == "log"


def test_bins_of_the_diagram_hold_root_mean_squares(rng):
    values = judged(rng, 100, 60)
    axes = reliability_diagram({"test": values}).axes[0]
    x, y = axes.get_lines()[0].get_data()
    order = np.argsort(values.force_std)[:10]  # the lowest of ten bins
    assert len(x) == 10
    assert x[0] == pytest.approx(1e3 * np.sqrt(np.mean(values.force_std[order] ** 2)))
    assert y[0] == pytest.approx(1e3 * np.sqrt(np.mean(values.force_error[order] ** 2)))


def test_learning_curves_hold_the_log(tmp_path):
    """Also of a run with one validation, and of one without validation frames."""
    names = [f"{s}_{k}" for s in ("train", "validation") for k in ("energy_rmse_eV_per_atom",)]
    names += ["train_force_rmse_eV_per_A", "validation_force_rmse_eV_per_A"]
    log = tmp_path / "log.csv"
    log.write_text(f"epoch,{','.join(names)}\n5,0.2,0.1,0.6,0.5\n10,0.1,0.05,0.3,0.25\n")
    figure = learning_curves(log)
    assert is_a_picture(figure, tmp_path / "learning.png")
    lines = figure.axes[1].get_lines()
    np.testing.assert_allclose(lines[1].get_xydata(), [[5, 500], [10, 250]])
    log.write_text(f"epoch,{','.join(names)}\n5,0.2,0.0,0.6,\n")
    assert [len(axes.get_lines()) for axes in learning_curves(log).axes] == [1, 1]


def test_parity_is_drawn(rng, tmp_path):
    pair = ErrorPair(rng.normal(size=30), rng.normal(size=30), "meV/atom")
    figure = parity({"train": (pair, pair), "test": (pair, pair)})
    assert is_a_picture(figure, tmp_path / "parity.png")
    assert f"{pair.rmse_meV:.1f} meV/atom" in figure.axes[0].get_legend().get_texts()[1].get_text()
