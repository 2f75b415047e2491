"""Figures of the workflows: one style, drawn through matplotlib's objects, written as PNG.

Nothing here touches pyplot or rcParams, so figures of several threads do not meet.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from nemp_sim.accuracy import ErrorPair, Reliability, rms
from nemp_sim.files import replacing
from nemp_sim.neb import NEBResult

DPI = 200
SINGLE_COLUMN_INCH = (4.2, 3.1)
FONT_POINTS = 9.5
# Okabe and Ito's colours, told apart with every kind of colour vision.
BLACK, BLUE, VERMILLION, GREY = "#000000", "#0072B2", "#D55E00", "#7F7F7F"
ELEMENT_COLOURS = (BLUE, VERMILLION, "#009E73", "#CC79A7", "#E69F00")


def new_figure(size_inch: tuple[float, float] = SINGLE_COLUMN_INCH) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes in the style of the package."""
    figure = Figure(figsize=size_inch, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    style_axes(axes)
    return figure, axes


def style_axes(axes: Axes) -> None:
    """Ticks inwards and thin frames, as in every figure of the package."""
    axes.tick_params(direction="in", top=True, right=True, labelsize=FONT_POINTS)
    for spine in axes.spines.values():
        spine.set_linewidth(0.8)


def save_png(figure: Figure, path: Path) -> Path:
    """Write ``figure`` as PNG; an older file is replaced by a complete one."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png")
    return path


def neb_profile(
    result: NEBResult,
    ends: tuple[str, str] = ("initial", "final"),
    std_eV: np.ndarray | None = None,
) -> Figure:
    """Energy above the initial state (eV) along the path (Å), with the barrier marked.

    Args:
        result: the band; a band that is not converged says so in the figure.
        ends: names of the initial and the final state.
        std_eV: standard deviation of the energy of each image above the first; a band about the
            spline.
    """
    figure, axes = new_figure()
    path, energy = result.path_length_A, result.energies_eV - result.energies_eV[0]
    top = result.saddle_index
    dashes = {"color": GREY, "linewidth": 0.8, "linestyle": (0, (4, 3)), "zorder": 1}
    axes.plot([path[0], path[top]], [0, 0], **dashes)
    axes.plot(result.spline_path_A, result.spline_energies_eV, color=BLUE, linewidth=1.6, zorder=2)
    images = np.arange(len(path)) != top
    dots = {"s": 30, "edgecolors": "white", "linewidths": 0.8}
    axes.scatter(path[images], energy[images], color=BLUE, zorder=3, **dots)
    axes.scatter(path[top], energy[top], color=VERMILLION, zorder=4, **dots | {"s": 42})
    low, high = result.spline_energies_eV.min(), result.spline_energies_eV.max()
    if std_eV is not None:
        wide = np.interp(result.spline_path_A, path, std_eV)
        edges = result.spline_energies_eV - wide, result.spline_energies_eV + wide
        band = {"color": BLUE, "alpha": 0.15, "linewidth": 0, "label": "± 1 standard deviation"}
        axes.fill_between(result.spline_path_A, *edges, **band)
        axes.legend(fontsize=FONT_POINTS - 1.5, frameon=False, loc="lower center")
        low, high = edges[0].min(), edges[1].max()
    span = max(high - low, 1e-3)
    axes.set_xlim(path[0] - 0.04 * path[-1], 1.04 * path[-1])
    axes.set_ylim(low - 0.15 * span, high + 0.19 * span)
    _mark_barrier(axes, path[top], energy[top], path[-1])
    for index, name in zip((0, -1), ends, strict=True):
        axes.annotate(
            name,
            (path[index], energy[index]),
            xytext=(0, -7),
            textcoords="offset points",
            ha="left" if index == 0 else "right",
            va="top",
            fontsize=FONT_POINTS,
        )
    axes.set_xlabel("Distance along the path (Å)", fontsize=FONT_POINTS)
    axes.set_ylabel("Energy above the initial state (eV)", fontsize=FONT_POINTS)
    if not result.converged:
        axes.set_title("not converged", color=VERMILLION, fontsize=FONT_POINTS, weight="bold")
    return figure


def _mark_barrier(axes: Axes, x: float, height: float, length: float) -> None:
    """A double arrow from zero to ``height`` (eV) at ``x`` (Å), with its label on top."""
    if height <= 0:
        return
    arrow = {"arrowstyle": "<->", "color": VERMILLION, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 4}
    axes.annotate("", xy=(x, height), xytext=(x, 0), arrowprops=arrow, zorder=2)
    side = "left" if x < 0.15 * length else "right" if x > 0.85 * length else "center"
    axes.annotate(
        f"$\\Delta E^\\ddagger$ = {height:.3f} eV",
        (x, height),
        xytext=(0, 8),
        textcoords="offset points",
        ha=side,
        va="bottom",
        color=VERMILLION,
        fontsize=FONT_POINTS,
    )


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
        axes = figure.add_subplot(1, 2, column + 1)
        style_axes(axes)
        axes.set_title(title, fontsize=FONT_POINTS)
        ends = [v for pairs in splits.values() for v in (pairs[column].reference,)]
        low, high = min(v.min() for v in ends), max(v.max() for v in ends)
        axes.plot([low, high], [low, high], color=BLACK, linewidth=0.8, zorder=1)
        for order, (name, pairs) in enumerate(splits.items()):
            pair = pairs[column]
            label = f"{name}: RMSE {pair.rmse_meV:.1f} {pair.unit}"
            dots = {"s": 9, "linewidths": 0, "alpha": 0.7, "label": label, "zorder": 2 + order}
            axes.scatter(pair.reference, pair.predicted, color=colours.get(name, BLACK), **dots)
        axes.set_xlabel("reference", fontsize=FONT_POINTS)
        axes.set_ylabel("potential", fontsize=FONT_POINTS)
        axes.legend(fontsize=FONT_POINTS - 1.5, frameon=False, loc="upper left")
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
        axes = figure.add_subplot(1, 2, column + 1)
        style_axes(axes)
        axes.set_title(title, fontsize=FONT_POINTS)
        for name, values in splits.items():
            std = 1e3 * getattr(values, f"{kind}_std")
            error = 1e3 * getattr(values, f"{kind}_error")
            rank = getattr(values, f"{kind}_spearman")
            colour = colours.get(name, BLACK)
            every = max(1, len(std) // 2000)
            cloud = {"s": 4, "color": colour, "alpha": 0.15, "linewidths": 0}
            axes.scatter(std[::every], error[::every], **cloud)
            bins = np.array_split(np.argsort(std), min(10, max(1, len(std) // 5)))
            x, y = ([rms(v[b]) for b in bins] for v in (std, error))
            axes.plot(x, y, "o-", color=colour, ms=5, lw=1.2, label=f"{name}: Spearman {rank:.2f}")
        every_std = 1e3 * np.concatenate([getattr(v, f"{kind}_std") for v in splits.values()])
        every_error = 1e3 * np.concatenate([getattr(v, f"{kind}_error") for v in splits.values()])
        low = max(np.quantile(every_std, 0.02) / 3, 1e-6)  # atoms held by symmetry lie far below
        high = 3 * max(every_std.max(), low)
        lowest = np.clip(np.quantile(every_error, 0.05), 1e-3 * low, low)
        axes.plot([low, high], [low, high], color=BLACK, linewidth=0.8, zorder=1)
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(lowest, high))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("predicted standard deviation", fontsize=FONT_POINTS)
        axes.set_ylabel("true error", fontsize=FONT_POINTS)
        axes.legend(fontsize=FONT_POINTS - 1.5, frameon=False, loc="upper left")
    return figure
