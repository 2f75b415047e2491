"""Figures of adsorption: energies by site, and where the minima lie on the surface."""

from typing import Any

import numpy as np
from ase import Atoms
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nemp_sim.plots import BLUE, FONT_POINTS, GREY, SUBSCRIPTS, VERMILLION, new_figure
from nemp_sim.surfaces.adsorption import Minimum
from nemp_sim.surfaces.report import BOUND, Energies, Found, energy_of
from nemp_sim.views import draw_structure

COLOURS = {"adsorbed": BLUE, "absorbed": VERMILLION}
ONE_PLACE_ANGSTROM = 0.5  # minima closer than this, seen from above, share a mark


def energy_levels(found: Found, title: str) -> Figure:
    """Adsorption energy of each bound minimum (eV), one column for each adsorbate."""
    bound = [(m, e) for m, e in found if m.state in BOUND]
    names = list(dict.fromkeys(m.adsorbate for m, _ in bound))
    figure, axes = new_figure((max(3.4, 1.2 + 2.2 * len(names)), 3.6))
    ends = [e.adsorption_eV + sign * (e.std_eV or 0.0) for _, e in bound for sign in (-1, 1)]
    low, high = min([*ends, 0.0]), max([*ends, 0.0])
    span = max(high - low, 0.2)
    for column, name in enumerate(names):
        ours = sorted((pair for pair in bound if pair[0].adsorbate == name), key=energy_of)
        heights = _apart([energy_of(pair) for pair in ours], 0.055 * span)
        places = column - 0.34 + 0.34 * (np.arange(len(ours)) + 0.5) / max(len(ours), 1)
        for (minimum, energy), height, place in zip(ours, heights, places, strict=True):
            colour = COLOURS[minimum.state]
            y = energy.adsorption_eV
            axes.plot([column - 0.34, column], [y, y], color=colour, linewidth=2.0)
            if energy.std_eV is not None:
                bar: dict[str, Any] = {
                    "yerr": energy.std_eV,
                    "color": GREY,
                    "capsize": 2,
                    "linewidth": 0.8,
                }
                axes.errorbar(place, y, zorder=1, **bar)
            axes.annotate(
                _label(minimum, energy),
                (column, y),
                xytext=(column + 0.05, height),
                va="center",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
                fontsize=FONT_POINTS - 1.5,
                color=colour,
                arrowprops={
                    "arrowstyle": "-",
                    "color": GREY,
                    "linewidth": 0.5,
                    "shrinkA": 0,
                    "relpos": (0, 0.5),  # to the left end of the label, not across it
                },
            )
    for state, colour in COLOURS.items():
        if any(m.state == state for m, _ in bound):
            axes.plot([], [], color=colour, linewidth=2.0, label=state)
    if bound:
        axes.legend(fontsize=FONT_POINTS - 1.5, frameon=False, loc="upper left", ncols=2)
    axes.tick_params(axis="x", length=0)
    axes.axhline(0, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    axes.set_xlim(-0.5, max(len(names), 1) - 0.3)
    axes.set_ylim(low - 0.06 * span, high + 0.14 * span)
    ticks = [name.translate(SUBSCRIPTS) for name in names]
    axes.set_xticks(range(len(names)), ticks, fontsize=FONT_POINTS)
    axes.set_ylabel("Adsorption energy (eV)", fontsize=FONT_POINTS)
    axes.set_title(title, fontsize=FONT_POINTS)
    return figure


def _apart(values: list[float], gap: float) -> list[float]:
    """Ascending values moved up until neighbours lie ``gap`` apart, for labels."""
    placed: list[float] = []
    for value in values:
        placed.append(max(value, placed[-1] + gap) if placed else value)
    return placed


def site_map(slab: Atoms, found: Found) -> Figure:
    """The clean slab from above, a panel for each adsorbate, its bound minima numbered by energy.

    Args:
        slab: the relaxed clean slab; its atoms are the first of each minimum.
        found: all minima.
    """
    bound = [(m, e) for m, e in found if m.state in BOUND]
    names = list(dict.fromkeys(m.adsorbate for m, _ in bound)) or [""]
    figure = Figure(figsize=(5.2, 2.4 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(names), 2, squeeze=False, width_ratios=(3, 2))
    for (axes, beside), name in zip(rows, names, strict=True):
        left, low, *_ = draw_structure(axes, slab)
        ours = sorted((pair for pair in bound if pair[0].adsorbate == name), key=energy_of)
        marks: list[tuple[np.ndarray, str, list[int]]] = []
        for number, (minimum, _) in enumerate(ours, 1):
            place = _place(slab, minimum)
            near = [m for m in marks if np.linalg.norm(m[0] - place) < ONE_PLACE_ANGSTROM]
            if near:
                near[0][2].append(number)
            else:
                marks.append((place, COLOURS[minimum.state], [number]))
        for place, colour, numbers in marks:
            axes.annotate(
                ",".join(map(str, numbers)),
                place - (left, low),
                ha="center",
                va="center",
                color="white",
                fontsize=FONT_POINTS - 3,
                bbox={"boxstyle": "circle,pad=0.25", "facecolor": colour, "edgecolor": "white"},
            )
        lines = [f"{name.translate(SUBSCRIPTS)}, eV"]
        lines += [f"{k}  {_label(m, e)}" for k, (m, e) in enumerate(ours, 1)]
        beside.text(0, 0.5, "\n".join(lines), va="center", fontsize=FONT_POINTS - 1.5)
        beside.set_axis_off()
    return figure


def _label(minimum: Minimum, energies: Energies) -> str:
    """Site and energy as they are printed."""
    site = minimum.site.replace("sub_oct", "subsurface oct.").replace("sub_tet", "subsurface tet.")
    return f"{site}  {energies.adsorption_eV:+.2f}".replace("-", "−")


def _place(slab: Atoms, minimum: Minimum) -> np.ndarray:
    """Centre (2,) of the adsorbate within the cell, Å."""
    adsorbate = minimum.atoms[len(slab) :]
    centre = adsorbate.positions.mean(axis=0)
    scaled = slab.cell.scaled_positions(centre[None])[0]
    return ((scaled - np.floor(scaled + 1e-6) * slab.pbc) @ slab.cell.array)[:2]
