"""Figures of reactions: energy along a band, Arrhenius plot, and the isotope effect."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nemp_sim.plots import BLACK, BLUE, FONT_POINTS, GREY, VERMILLION, new_figure, style_axes
from nemp_sim.reactions.kinetics import Rates
from nemp_sim.reactions.neb import NEBResult
from nemp_sim.reactions.path_std import PathStd
from nemp_sim.report import plus_minus

GREEN = "#009E73"
STYLE = {"linewidth": 1.3, "marker": "o", "markersize": 2.5}  # points: computed, lines: guides
LINES = {
    "classical": ("classical", GREY),
    "quantum": ("quantum, no tunnelling", BLUE),
    "wigner": ("Wigner", GREEN),
    "eckart": ("Eckart", VERMILLION),
}


def neb_profile(
    result: NEBResult,
    ends: tuple[str, str] = ("initial", "final"),
    std: PathStd | None = None,
) -> Figure:
    """Energy above the initial state (eV) along the path (Å), with the barrier marked.

    Args:
        result: the band; a band that is not converged says so in the figure.
        ends: names of the initial and the final state.
        std: predicted standard deviations; drawn as a band about the spline, and printed.
    """
    figure, axes = new_figure()
    path, energy = result.path_length_A, result.energies_eV - result.energies_eV[0]
    top = result.saddle_index
    dashes: dict[str, Any] = {
        "color": GREY,
        "linewidth": 0.8,
        "linestyle": (0, (4, 3)),
        "zorder": 1,
    }
    axes.plot([path[0], path[top]], [0, 0], **dashes)
    axes.plot(result.spline_path_A, result.spline_energies_eV, color=BLUE, linewidth=1.6, zorder=2)
    images = np.arange(len(path)) != top
    dots: dict[str, Any] = {"s": 30, "edgecolors": "white", "linewidths": 0.8}
    axes.scatter(path[images], energy[images], color=BLUE, zorder=3, **dots)
    axes.scatter(path[top], energy[top], color=VERMILLION, zorder=4, **dots | {"s": 42})
    low, high = result.spline_energies_eV.min(), result.spline_energies_eV.max()
    if std is not None:
        wide = np.interp(result.spline_path_A, path, std.energies_eV)
        edges = result.spline_energies_eV - wide, result.spline_energies_eV + wide
        band: dict[str, Any] = {
            "color": BLUE,
            "alpha": 0.15,
            "linewidth": 0,
            "label": "± 1 predicted standard deviation",
        }
        axes.fill_between(result.spline_path_A, *edges, **band)
        axes.legend(fontsize=FONT_POINTS - 1.5, frameon=False, loc="lower center")
        low, high = edges[0].min(), edges[1].max()
    span = max(high - low, 1e-3)
    axes.set_xlim(path[0] - 0.04 * path[-1], 1.04 * path[-1])
    axes.set_ylim(low - 0.15 * span, high + 0.19 * span)
    _mark_barrier(axes, path[top], energy[top], path[-1], std.forward_eV if std else None)
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


def _mark_barrier(axes: Axes, x: float, height: float, length: float, std_eV: float | None) -> None:
    """A double arrow from zero to ``height`` (eV) at ``x`` (Å), with its label above the band."""
    if height <= 0:
        return
    arrow = {"arrowstyle": "<->", "color": VERMILLION, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 4}
    axes.annotate("", xy=(x, height), xytext=(x, 0), arrowprops=arrow, zorder=2)
    side = "left" if x < 0.15 * length else "right" if x > 0.85 * length else "center"
    axes.annotate(
        f"$\\Delta E^\\ddagger$ = {plus_minus(height, std_eV)} eV",
        (x, height + (std_eV or 0.0)),
        xytext=(0, 8),
        textcoords="offset points",
        ha=side,
        va="bottom",
        color=VERMILLION,
        fontsize=FONT_POINTS,
    )


def arrhenius_figure(light: Rates, heavy: Rates | None, title: str) -> Figure:
    """Rate constants (1/s) against 1000/T, and k(H)/k(D) where there is one.

    Wigner's line ends where the approximation is no longer quoted; the crossover temperature is
    marked.

    Args:
        light: rates with the masses of the structures.
        heavy: rates with D for H, drawn dashed; None: none.
        title: what reacts.
    """
    figure = Figure(figsize=(4.6, 5.6) if heavy else (4.6, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    ratios = [2, 1] if heavy else [1]
    rows = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    for axes in rows:
        style_axes(axes)
    x = 1000 / light.temperature_K
    for found, dashes in ((light, "-"), (heavy, (0, (4, 2)))):
        if found is None:
            continue
        for name, (label, colour) in LINES.items():
            y, shown = found.rate_per_s[name], _quoted(found, name)
            line = STYLE | {"color": colour, "linestyle": dashes}
            named = {"label": label} if found is light else {}
            rows[0].plot(x[shown], y[shown], **named, **line)
    rows[0].set_yscale("log")
    rows[0].set_ylabel("Rate constant (1/s)", fontsize=FONT_POINTS)
    rows[0].set_title(title, fontsize=FONT_POINTS)
    _mark_crossover(rows[0], light, x)
    if heavy:
        rows[0].plot([], [], color=BLACK, linestyle=(0, (4, 2)), linewidth=1.2, label="D for H")
        for name, (_, colour) in LINES.items():
            shown = _quoted(light, name)
            ratio = light.rate_per_s[name] / heavy.rate_per_s[name]
            rows[1].plot(x[shown], ratio[shown], color=colour, **STYLE)
        rows[1].set_ylabel("$k$(H) / $k$(D)", fontsize=FONT_POINTS)
        rows[1].axhline(1, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)))
        _mark_crossover(rows[1], light, x, text=False)
    rows[0].legend(fontsize=FONT_POINTS - 1.5, frameon=False, loc="best")
    rows[-1].set_xlabel("1000 K / $T$", fontsize=FONT_POINTS)
    return figure


def _quoted(found: Rates, name: str) -> np.ndarray:
    """Mask (n,) of the temperatures at which an approximation is shown."""
    if name != "wigner":
        return np.ones(len(found.temperature_K), dtype=bool)
    return np.array([found.headline(t) == "wigner" for t in found.temperature_K])


def _mark_crossover(axes: Axes, found: Rates, x: np.ndarray, text: bool = True) -> None:
    at = 1000 / found.crossover_K
    if not x.min() < at < x.max():
        return
    axes.axvline(at, color=BLACK, linewidth=0.8, linestyle=(0, (1, 2)))
    if text:
        axes.text(
            at,
            0.03,
            f" $T_c$ = {found.crossover_K:.0f} K",
            transform=axes.get_xaxis_transform(),
            fontsize=FONT_POINTS - 1.5,
        )
