"""Figures of a training run: its course, predictions and references, errors and uncertainties."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, NullFormatter

from nemp_sim.plots import BLACK, BLUE, FONT_POINTS, GREY, VERMILLION, style_axes
from nemp_sim.statistics import rms
from nemp_sim.training.accuracy import ErrorPair, Reliability


def parity(splits: Mapping[str, Sequence[ErrorPair]]) -> Figure:
    """Predicted against reference energies and force components of each split.

    Args:
        splits: by split name, the (reference, predicted) pairs of ``accuracy.error_pairs``.
    """
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    colours = {"train": GREY, "validation": BLUE, "test": VERMILLION}
    titles = ("Energy relative to lone atoms (eV/atom)", "Force components (eV/Å)")
    for column, title in enumerate(titles):
        ends = [pairs[column].reference for pairs in splits.values()]
        ends = [v for v in ends if len(v)]
        if not ends:  # energies alone
            continue
        axes = figure.add_subplot(1, 2, column + 1)
        style_axes(axes)
        axes.set_title(title, fontsize=FONT_POINTS)
        low, high = min(v.min() for v in ends), max(v.max() for v in ends)
        axes.plot([low, high], [low, high], color=BLACK, linewidth=0.8, zorder=1)
        for order, (name, pairs) in enumerate(splits.items()):
            pair = pairs[column]
            if not len(pair.reference):
                continue
            label = f"{name}: RMSE {pair.rmse_meV:.1f} {pair.unit}"
            dots: dict[str, Any] = {
                "s": 9,
                "linewidths": 0,
                "alpha": 0.7,
                "label": label,
                "zorder": 2 + order,
            }
            axes.scatter(pair.reference, pair.predicted, color=colours.get(name, BLACK), **dots)
        axes.set_xlabel("Reference", fontsize=FONT_POINTS)
        axes.set_ylabel("Potential", fontsize=FONT_POINTS)
        axes.legend(fontsize=FONT_POINTS - 1.5, frameon=False, loc="upper left")
    return figure


def learning_curves(log: Path) -> Figure:
    """Errors of energies and forces at each validation of a run, from its log.csv.

    The training errors are running means over the batches before; the validation errors are those
    of the averaged weights.
    """
    rows = np.atleast_1d(np.genfromtxt(log, delimiter=",", names=True))
    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = {"energy_rmse_eV_per_atom": "Energy RMSE (meV/atom)"}
    panels["force_rmse_eV_per_A"] = "Force RMSE (meV/Å)"
    for column, (key, title) in enumerate(panels.items()):
        axes = figure.add_subplot(1, 2, column + 1)
        style_axes(axes)
        for split, colour in (("train", GREY), ("validation", BLUE)):
            values = 1e3 * rows[f"{split}_{key}"]
            shown = np.isfinite(values) & (values > 0)
            if shown.any():
                curve = rows["epoch"][shown], values[shown]
                axes.plot(*curve, "o-", color=colour, ms=3, linewidth=1.2, label=split)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.0, 0.5)))
        axes.set_xlabel("Epoch", fontsize=FONT_POINTS)
        axes.set_ylabel(title, fontsize=FONT_POINTS)
        if axes.lines:
            axes.legend(fontsize=FONT_POINTS - 1.5, frameon=False)
    return figure


def reliability_diagram(splits: Mapping[str, Reliability]) -> Figure:
    """True errors of the forces on atoms and of the energies against predicted ones, binned.

    A dot is the root mean square of the true errors in one of the quantiles of the predicted ones;
    dots on the diagonal say that the uncertainties are calibrated.
    """
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    colours = {"train": GREY, "validation": BLUE, "test": VERMILLION}
    panels = (("force", "Force on an atom (meV/Å)"), ("energy", "Energy (meV/atom)"))
    for column, (kind, title) in enumerate(panels):
        judged = {n: v for n, v in splits.items() if len(getattr(v, f"{kind}_std"))}
        if not judged:  # energies alone
            continue
        axes = figure.add_subplot(1, 2, column + 1)
        style_axes(axes)
        axes.set_title(title, fontsize=FONT_POINTS)
        for name, values in judged.items():
            std = 1e3 * getattr(values, f"{kind}_std")
            error = 1e3 * getattr(values, f"{kind}_error")
            rank = getattr(values, f"{kind}_spearman")
            colour = colours.get(name, BLACK)
            every = max(1, len(std) // 2000)
            cloud: dict[str, Any] = {"s": 4, "color": colour, "alpha": 0.15, "linewidths": 0}
            axes.scatter(std[::every], error[::every], **cloud)
            bins = np.array_split(np.argsort(std), min(10, max(1, len(std) // 5)))
            x, y = ([rms(v[b]) for b in bins] for v in (std, error))
            axes.plot(x, y, "o-", color=colour, ms=5, lw=1.2, label=f"{name}: Spearman {rank:.2f}")
        every_std = 1e3 * np.concatenate([getattr(v, f"{kind}_std") for v in judged.values()])
        every_error = 1e3 * np.concatenate([getattr(v, f"{kind}_error") for v in judged.values()])
        low = max(np.quantile(every_std, 0.02) / 3, 1e-6)  # atoms held by symmetry lie far below
        high = 3 * max(every_std.max(), low)
        lowest = np.clip(np.quantile(every_error, 0.05), 1e-3 * low, low)
        axes.plot([low, high], [low, high], color=BLACK, linewidth=0.8, zorder=1)
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(lowest, high))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("Predicted standard deviation", fontsize=FONT_POINTS)
        axes.set_ylabel("True error", fontsize=FONT_POINTS)
        axes.legend(fontsize=FONT_POINTS - 1.5, frameon=False, loc="upper left")
    return figure
