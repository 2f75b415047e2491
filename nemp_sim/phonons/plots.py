"""Figures of phonons: bands beside the density of states, and thermal properties."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from phonopy.physical_units import get_physical_units

from nemp_sim.phonons.density import DensityOfStates
from nemp_sim.phonons.imaginary import ZERO_THZ
from nemp_sim.phonons.spectra import Bands, Spectra, Thermal
from nemp_sim.plots import (
    BLACK,
    BLUE,
    ELEMENT_COLOURS,
    FONT_POINTS,
    GREY,
    VERMILLION,
    style_axes,
)

MEV_PER_THZ = 1e3 * get_physical_units().THzToEv


def bands_and_right(width: float) -> tuple[Figure, Axes, Axes]:
    """A figure with axes for bands and, beside them, narrower by ``width``, those of densities."""
    figure = Figure(figsize=(7.0, 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1, 2, width_ratios=(width, 1), wspace=0.03)
    left = figure.add_subplot(grid[0])
    right = figure.add_subplot(grid[1], sharey=left)
    for axes in (left, right):
        style_axes(axes)
    return figure, left, right


def bands_and_dos(spectra: Spectra, title: str = "") -> Figure:
    """Frequencies (THz, right: meV) along the path, and the density of states beside them.

    Imaginary frequencies are drawn in red below zero.
    """
    figure, left, right = bands_and_right(3)
    draw_bands(left, spectra.bands)
    _draw_dos(right, spectra.dos)
    lowest = min(f.min() for f in spectra.bands.frequencies_THz)
    lowest = min(lowest, spectra.imaginary[0].frequency_THz if spectra.imaginary else 0.0)
    top = 1.06 * max(spectra.max_THz, ZERO_THZ)
    left.set_ylim(1.15 * lowest if lowest < -ZERO_THZ else 0.0, top)
    factors = (lambda x: x * MEV_PER_THZ, lambda x: x / MEV_PER_THZ)
    energy = right.secondary_yaxis("right", functions=factors)
    energy.tick_params(direction="in", labelsize=FONT_POINTS)
    energy.set_ylabel("Energy (meV)", fontsize=FONT_POINTS)
    if title:
        left.set_title(title, fontsize=FONT_POINTS)
    if spectra.unstable:
        worst = abs(spectra.imaginary[0].frequency_THz)
        right.set_title(f"UNSTABLE: {worst:.2f}i THz", color=VERMILLION, fontsize=FONT_POINTS)
    return figure


def draw_bands(axes: Axes, bands: Bands) -> None:
    """Frequencies (THz) along the path, imaginary ones in red, with the names of the points."""
    for distance, frequencies in zip(bands.distances, bands.frequencies_THz, strict=True):
        axes.plot(distance, frequencies, color=BLUE, linewidth=1.2)
        imaginary = np.where(frequencies < -ZERO_THZ, frequencies, np.nan)
        axes.plot(distance, imaginary, color=VERMILLION, linewidth=1.6)
    for tick in bands.ticks[1:-1]:
        axes.axvline(tick, color=GREY, linewidth=0.6, zorder=0)
    axes.axhline(0, color=GREY, linewidth=0.6, linestyle=(0, (4, 3)), zorder=0)
    axes.set_xlim(bands.ticks[0], bands.ticks[-1])
    axes.set_xticks(bands.ticks, bands.tick_labels)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("Frequency (THz)", fontsize=FONT_POINTS)


def _draw_dos(axes: Axes, dos: DensityOfStates) -> None:
    axes.fill_betweenx(dos.frequencies_THz, dos.total, color=GREY, alpha=0.25, linewidth=0)
    axes.plot(dos.total, dos.frequencies_THz, color=BLACK, linewidth=0.9, label="total")
    if len(dos.projected) > 1:
        for index, (symbol, values) in enumerate(dos.projected.items()):
            colour = ELEMENT_COLOURS[index % len(ELEMENT_COLOURS)]
            axes.plot(values, dos.frequencies_THz, color=colour, linewidth=1.1, label=symbol)
        place: dict[str, Any] = {"loc": "center right", "bbox_to_anchor": (1.0, _widest_gap(dos))}
        place["bbox_transform"] = axes.get_yaxis_transform()
        axes.legend(fontsize=FONT_POINTS - 1.5, frameon=False, **place)
    axes.set_xlim(0, 1.08 * max(dos.total.max(), 1e-12))
    axes.set_xlabel("DOS (1/THz)", fontsize=FONT_POINTS)
    axes.tick_params(axis="y", labelleft=False, right=False)


def _widest_gap(dos: DensityOfStates) -> float:
    """Middle (THz) of the widest range of frequencies without modes, or nearly so."""
    level = 0.3 * dos.total.max()  # what the legend leaves free on its left
    above = np.flatnonzero(dos.total > level)
    widest = int(np.diff(above).argmax()) if len(above) > 1 else 0
    return float(dos.frequencies_THz[above[widest : widest + 2]].mean())


def thermal_properties(thermal: Thermal, n_atoms: int, title: str = "") -> Figure:
    """Free energy (kJ/mol), entropy and heat capacity (J/K/mol) of a mole of primitive cells.

    The limit of Dulong and Petit, 3nR, is dashed.

    Args:
        thermal: the sums.
        n_atoms: atoms in the primitive cell.
        title: heading.
    """
    figure = Figure(figsize=(7.0, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = (figure.add_subplot(1, 2, i) for i in (1, 2))
    kelvin = thermal.temperatures_K
    for axes in (left, right):
        style_axes(axes)
        axes.set_xlabel("Temperature (K)", fontsize=FONT_POINTS)
        axes.set_xlim(kelvin.min(), max(kelvin.max(), kelvin.min() + 1))
    left.plot(kelvin, thermal.free_energy_kJ_per_mol, color=BLUE, linewidth=1.5)
    left.axhline(0, color=GREY, linewidth=0.6, linestyle=(0, (4, 3)))
    left.set_ylabel("Free energy (kJ/mol)", fontsize=FONT_POINTS)
    right.plot(kelvin, thermal.entropy_J_per_K_mol, color=BLUE, linewidth=1.5, label="entropy $S$")
    right.plot(
        kelvin,
        thermal.heat_capacity_J_per_K_mol,
        color=VERMILLION,
        linewidth=1.5,
        label="heat capacity $C_V$",
    )
    units = get_physical_units()
    limit = 3 * n_atoms * units.KB * units.EvTokJmol * 1e3
    dashes: dict[str, Any] = {"color": GREY, "linewidth": 0.9, "linestyle": (0, (4, 3))}
    right.axhline(limit, label=f"$3nR$, $n$ = {n_atoms}", **dashes)
    right.set_ylim(bottom=0)
    right.set_ylabel("J/(K mol)", fontsize=FONT_POINTS)
    right.legend(fontsize=FONT_POINTS - 1, frameon=False, loc="best")
    if title:
        left.set_title(title, fontsize=FONT_POINTS)
    left_out = thermal.n_imaginary + thermal.n_near_zero
    if left_out:
        right.set_title(
            f"{left_out} of {thermal.n_modes} modes left out",
            color=VERMILLION,
            fontsize=FONT_POINTS,
        )
    return figure
