"""Figures of adsorption: energies by site, and where the minima lie on the surface."""

from typing import Any

import numpy as np
from ase import Atoms
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nemp_sim.plots import BLUE, FONT_POINTS, GREY, SUBSCRIPTS, VERMILLION, new_figure
from nemp_sim.surfaces.adsorption import Minimum
from nemp_sim.surfaces.energies import BOUND, Energies, Found, bound_of, energy_of
from nemp_sim.views import cell_with_neighbours, draw_structure

COLOURS = {"adsorbed": BLUE, "absorbed": VERMILLION}
ONE_PLACE_ANGSTROM = 0.5  # structures closer than this, seen from above, share a mark
MARGIN_ANGSTROM = 1.0  # around the cell, seen from above
FAR_OF_SPAN = 0.5  # zero is shown if it is nearer to the levels than this share of their range
SADDLE = (0, (2.0, 0.8))  # dashes
BAR: dict[str, Any] = {"fmt": "none", "color": GREY, "capsize": 2, "linewidth": 0.8}


def energy_levels(found: Found, title: str) -> Figure:
    """Adsorption energy of each bound structure (eV), one column for each adsorbate.

    Structures with imaginary modes, which are no minima, are dashed; bars are ± 1 predicted
    standard deviation.
    """
    names = list(dict.fromkeys(m.adsorbate for m, _ in found if m.state in BOUND))
    figure, axes = new_figure((max(3.4, 1.2 + 2.2 * len(names)), 4.0))
    low, high = _limits([e for name in names for _, e in bound_of(found, name)])
    span = high - low
    for column, name in enumerate(names):
        ours = bound_of(found, name)
        heights = _apart([energy_of(pair) for pair in ours], 0.055 * span)
        places = column - 0.34 + 0.34 * (np.arange(len(ours)) + 0.5) / len(ours)
        for pair, height, place in zip(ours, heights, places, strict=True):
            _level(axes, pair, column, height)
            if pair[1].std_eV is not None:
                axes.errorbar(place, energy_of(pair), yerr=pair[1].std_eV, zorder=1, **BAR)
    _legend(figure, axes, found)
    axes.tick_params(axis="x", length=0)
    if low < 0 < high:
        axes.axhline(0, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    axes.set_xlim(-0.5, max(len(names), 1) - 0.3)
    axes.set_ylim(low - 0.06 * span, high + 0.06 * span)
    ticks = [name.translate(SUBSCRIPTS) for name in names]
    axes.set_xticks(range(len(names)), ticks, fontsize=FONT_POINTS)
    axes.set_ylabel("Adsorption energy (eV)", fontsize=FONT_POINTS)
    axes.set_title(title, fontsize=FONT_POINTS)
    return figure


def _limits(shown: list[Energies]) -> tuple[float, float]:
    """Lowest and highest energy with their ±; zero too, where it is not far from them."""
    ends = [e.adsorption_eV + sign * (e.std_eV or 0.0) for e in shown for sign in (-1, 1)] or [0.0]
    low, high = min(ends), max(ends)
    span = max(high - low, 0.2)
    if max(low, -high) < FAR_OF_SPAN * span:
        low, high = min(low, 0.0), max(high, 0.0)
    return low, max(high, low + 0.2)


def _level(axes: Axes, pair: tuple[Minimum, Energies], column: int, label_height: float) -> None:
    """The line of a structure and its label, joined by a thin line."""
    minimum, energy = pair
    colour, y = COLOURS[minimum.state], energy.adsorption_eV
    dashes = SADDLE if energy.n_imaginary else "-"
    axes.plot([column - 0.34, column], [y, y], color=colour, linewidth=2.0, linestyle=dashes)
    axes.annotate(
        _label(minimum, energy),
        (column, y),
        xytext=(column + 0.05, label_height),
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


def _legend(figure: Figure, axes: Axes, found: Found) -> None:
    """Below the axes: what colours, dashes and bars mean, as far as they occur."""
    bound = [(m, e) for m, e in found if m.state in BOUND]
    for state, colour in COLOURS.items():
        if any(m.state == state for m, _ in bound):
            axes.plot([], [], color=colour, linewidth=2.0, label=state)
    if any(e.n_imaginary for _, e in bound):
        axes.plot([], [], color=GREY, linewidth=2.0, linestyle=SADDLE, label="no minimum (saddle)")
    if any(e.std_eV is not None for _, e in bound):
        axes.errorbar([], [], yerr=[], label="± 1 predicted standard deviation", **BAR)
    if bound:
        columns = min(2, len({m.adsorbate for m, _ in bound}))
        place: dict[str, Any] = {"loc": "outside lower center", "ncols": columns}
        figure.legend(fontsize=FONT_POINTS - 1.5, frameon=False, columnspacing=1.2, **place)


def _apart(values: list[float], gap: float) -> list[float]:
    """Ascending values moved up until neighbours lie ``gap`` apart, for labels."""
    placed: list[float] = []
    for value in values:
        placed.append(max(value, placed[-1] + gap) if placed else value)
    return placed


def site_map(slab: Atoms, found: Found) -> Figure:
    """The clean slab from above, a panel for each adsorbate, its bound structures by energy.

    Periodic images are drawn around the cell, so that every mark lies among all of its neighbours.

    Args:
        slab: the relaxed clean slab; its atoms are the first of each structure.
        found: all structures.
    """
    names = list(dict.fromkeys(m.adsorbate for m, _ in found if m.state in BOUND)) or [""]
    around, box = cell_with_neighbours(slab, MARGIN_ANGSTROM)
    figure = Figure(figsize=(5.2, 2.4 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(names), 2, squeeze=False, width_ratios=(3, 2))
    for (axes, beside), name in zip(rows, names, strict=True):
        left, low, *_ = draw_structure(axes, around, box=box)
        ours = bound_of(found, name)
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
