"""Figures of kinetics: Arrhenius plot of every approximation, and the isotope effect."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nemp_sim.kinetics import Rates
from nemp_sim.plots import BLACK, BLUE, FONT_POINTS, GREY, VERMILLION, style_axes

GREEN = "#009E73"
LINES = {
    "classical": ("classical", GREY),
    "quantum": ("quantum, no tunnelling", BLUE),
    "wigner": ("Wigner", GREEN),
    "eckart": ("Eckart", VERMILLION),
}


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
    ratios = {"height_ratios": [2, 1]} if heavy else {}
    rows = figure.subplots(2 if heavy else 1, 1, sharex=True, squeeze=False, **ratios)[:, 0]
    for axes in rows:
        style_axes(axes)
    x = 1000 / light.temperature_K
    for found, dashes in ((light, "-"), (heavy, (0, (4, 2)))):
        if found is None:
            continue
        for name, (label, colour) in LINES.items():
            y, shown = found.rate_per_s[name], _quoted(found, name)
            line = {"color": colour, "linestyle": dashes, "linewidth": 1.5}
            label = label if found is light else None
            rows[0].plot(x[shown], y[shown], label=label, **line)
    rows[0].set_yscale("log")
    rows[0].set_ylabel("Rate constant (1/s)", fontsize=FONT_POINTS)
    rows[0].set_title(title, fontsize=FONT_POINTS)
    _mark_crossover(rows[0], light, x)
    if heavy:
        rows[0].plot([], [], color=BLACK, linestyle=(0, (4, 2)), linewidth=1.2, label="D for H")
        for name, (_, colour) in LINES.items():
            shown = _quoted(light, name)
            ratio = light.rate_per_s[name] / heavy.rate_per_s[name]
            rows[1].plot(x[shown], ratio[shown], color=colour, linewidth=1.5)
        rows[1].set_ylabel("k(H) / k(D)", fontsize=FONT_POINTS)
        rows[1].axhline(1, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)))
        _mark_crossover(rows[1], light, x, text=False)
    rows[0].legend(fontsize=FONT_POINTS - 1.5, frameon=False, loc="best")
    rows[-1].set_xlabel("1000 K / T", fontsize=FONT_POINTS)
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
