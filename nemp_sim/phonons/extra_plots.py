"""Figures of what goes beyond bands: layers, velocities, volumes, convergence, dynamics."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter, NullLocator

from nemp_sim.phonons.anharmonic import VelocitySpectrum
from nemp_sim.phonons.convergence import Convergence
from nemp_sim.phonons.gruneisen import Gruneisen
from nemp_sim.phonons.plots import bands_and_right, draw_bands
from nemp_sim.phonons.qha import QuasiHarmonic
from nemp_sim.phonons.spectra import Bands, Spectra
from nemp_sim.plots import BLACK, BLUE, FONT_POINTS, GREY, VERMILLION, new_figure, style_axes

SMALL_POINTS = FONT_POINTS - 1.5
DASHES = (0, (4, 3))
UNSEEN = 0.005  # share of the modes of layers that may lie beyond the figure
LAYER_COLOURS = (BLACK, BLUE, "#009E73", "#CC79A7", "#E69F00", GREY)  # Okabe and Ito


def _panels(rows: int, columns: int, size_inch: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=size_inch, layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(rows * columns)]
    for each in axes:
        style_axes(each)
    return figure, axes


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=FONT_POINTS)
    axes.set_ylabel(y, fontsize=FONT_POINTS)


def slab_density(
    found: Spectra, groups: Mapping[str, np.ndarray], title: str = "", symbol: str = ""
) -> Figure:
    """Densities of states of the adsorbate (above, where there is one) and of the layers.

    Args:
        found: its frequencies.
        groups: (m,) of each group, from ``projected_on``.
        title: heading.
        symbol: formula of the adsorbate.
    """
    layers = {name: values for name, values in groups.items() if name != "adsorbate"}
    above = "adsorbate" in groups
    figure, axes = _panels(1 + above, 1, (5.4, 4.2 if above else 2.9))
    frequencies = found.dos.frequencies_THz
    if above:
        values = groups["adsorbate"]
        axes[0].fill_between(frequencies, values, color=VERMILLION, alpha=0.25, linewidth=0)
        axes[0].plot(frequencies, values, color=VERMILLION, linewidth=1.2, label=symbol)
    for index, (name, values) in enumerate(layers.items()):
        place = " (surface)" if index == 0 else ""
        colour = LAYER_COLOURS[index % len(LAYER_COLOURS)]
        axes[-1].plot(frequencies, values, color=colour, linewidth=1.2, label=name + place)
    shown = [np.sum(list(layers.values()), axis=0)]
    if above:
        shown.insert(0, groups["adsorbate"])
    for each, density in zip(axes, shown, strict=True):
        below = np.cumsum(density) / density.sum()
        first, last = np.searchsorted(below, (0.5 * UNSEEN, 1.0 - UNSEEN))
        each.set_xlim(min(0.0, frequencies[first]), 1.04 * frequencies[last])
        each.set_ylim(bottom=0)
        each.legend(fontsize=SMALL_POINTS, frameon=False)
        _label(each, "Frequency (THz)", "DOS (1/THz)")
    axes[0].set_title(title, fontsize=FONT_POINTS)
    return figure


def group_velocities(frequencies: np.ndarray, speeds: np.ndarray, title: str = "") -> Figure:
    """Speed (km/s) of every mode of the mesh against its frequency (THz)."""
    figure, axes = new_figure()
    axes.scatter(frequencies, speeds, s=5, color=BLUE, alpha=0.4, linewidths=0)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    _label(axes, "Frequency (THz)", "Group velocity (km/s)")
    axes.set_title(title, fontsize=FONT_POINTS)
    return figure


def gruneisen_parameters(found: Gruneisen, title: str = "") -> Figure:
    """Mode Grüneisen parameters against frequency, and their mean against temperature."""
    figure, (left, right) = _panels(1, 2, (7.0, 3.1))
    left.scatter(found.frequencies_THz, found.parameters, s=5, color=BLUE, alpha=0.4, linewidths=0)
    left.axhline(0, color=GREY, linewidth=0.6, linestyle=DASHES)
    left.set_xlim(left=0)
    _label(left, "Frequency (THz)", "Grüneisen parameter of a mode")
    left.set_title(title, fontsize=FONT_POINTS)
    kelvin = np.arange(50.0, 1001.0, 10.0)  # below, the mesh holds too few modes
    right.plot(kelvin, [found.mean(t) for t in kelvin], color=BLUE, linewidth=1.5)
    right.set_xlim(0, 1000)
    _label(right, "Temperature (K)", "Mean Grüneisen parameter")
    return figure


def quasi_harmonic(found: QuasiHarmonic, constant_volume: np.ndarray, title: str = "") -> Figure:
    """Volume, linear expansion, bulk modulus and heat capacities against temperature.

    Args:
        found: the results.
        constant_volume: (t,) harmonic C_V at the same temperatures, J/(K mol).
        title: heading.
    """
    figure, axes = _panels(2, 2, (7.0, 5.0))
    kelvin = found.temperatures_K
    axes[0].plot(kelvin, found.volumes_A3, color=BLUE, linewidth=1.5)
    axes[0].axhline(
        found.static_volume_A3, color=GREY, linewidth=0.9, linestyle=DASHES, label="static"
    )
    axes[1].plot(kelvin, found.expansion_per_K / 3 * 1e6, color=BLUE, linewidth=1.5)
    axes[2].plot(kelvin, found.bulk_modulus_GPa, color=BLUE, linewidth=1.5)
    axes[2].axhline(
        found.static_bulk_modulus_GPa, color=GREY, linewidth=0.9, linestyle=DASHES, label="static"
    )
    heat = found.heat_capacity_J_per_K_mol
    axes[3].plot(kelvin, heat, color=BLUE, linewidth=1.5, label="$C_p$")
    axes[3].plot(kelvin, constant_volume, color=VERMILLION, linewidth=1.2, label="$C_V$, harmonic")
    names = (
        "Volume of the primitive cell (Å³)",
        "Linear expansion (10$^{-6}$/K)",
        "Bulk modulus (GPa)",
        "Heat capacity (J/(K mol))",
    )
    for each, name in zip(axes, names, strict=True):
        each.set_xlim(kelvin[0], kelvin[-1])
        _label(each, "Temperature (K)", name)
    for each in (axes[0], axes[2], axes[3]):
        each.legend(fontsize=SMALL_POINTS, frameon=False)
    axes[0].ticklabel_format(axis="y", useOffset=False)
    axes[3].set_ylim(bottom=0)
    figure.suptitle(title, fontsize=FONT_POINTS)
    return figure


def convergence(found: Convergence, title: str = "") -> Figure:
    """Largest change on the path against the size of the supercell, and against the length."""
    figure, (left, right) = _panels(1, 2, (7.0, 3.1))
    sizes = [trial for trial in found.at_reference_length() if trial.change_THz > 0]
    lengths = [trial for trial in found.at_largest_supercell() if trial.change_THz > 0]
    style: dict[str, Any] = {"marker": "o", "ms": 5, "lw": 1.2, "color": BLUE}
    left.plot([t.n_atoms for t in sizes], [t.change_THz for t in sizes], **style)
    right.plot([t.displacement_angstrom for t in lengths], [t.change_THz for t in lengths], **style)
    reference = found.reference
    against = f"{reference.n_atoms} atoms, {reference.displacement_angstrom:g} Å"
    for each, name in ((left, "Atoms in the supercell"), (right, "Displacement (Å)")):
        each.set(xscale="log", yscale="log")
        each.axhline(found.tolerance_THz, color=GREY, linewidth=0.9, linestyle=DASHES)
        _label(each, name, "Largest change (THz)")
    counts = [t.n_atoms for t in sizes]
    left.set_xticks(counts, [str(n) for n in counts])
    ticks = [t.displacement_angstrom for t in lengths]
    right.set_xticks(ticks, [f"{x:g}" for x in ticks])
    for each in (left, right):
        each.xaxis.set_minor_locator(NullLocator())
        low, high = each.get_ylim()
        each.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 300 * low else (1, 2, 5)))
        each.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        each.yaxis.set_minor_formatter(NullFormatter())
    left.set_title(title, fontsize=FONT_POINTS)
    right.set_title(f"against {against}", fontsize=FONT_POINTS)
    return figure


def dynamics(
    found: Spectra, effective: Bands, spectrum: VelocitySpectrum, temperature: float, title: str
) -> Figure:
    """Harmonic bands and density of states beside those of classical dynamics.

    Args:
        found: harmonic.
        effective: bands of the force constants that were fitted to the dynamics.
        spectrum: of the velocities.
        temperature: of the dynamics, K.
        title: heading.
    """
    figure, left, right = bands_and_right(2.2)
    draw_bands(left, found.bands)
    for distance, frequencies in zip(effective.distances, effective.frequencies_THz, strict=True):
        left.plot(distance, frequencies, color=VERMILLION, linewidth=1.0, linestyle=DASHES)
    dos = found.dos
    right.fill_betweenx(dos.frequencies_THz, dos.total, color=BLUE, alpha=0.2, linewidth=0)
    right.plot(dos.total, dos.frequencies_THz, color=BLUE, linewidth=0.9, label="harmonic")
    label = f"dynamics, {temperature:.0f} K"
    right.plot(
        spectrum.total, spectrum.frequencies_THz, color=VERMILLION, linewidth=1.1, label=label
    )
    right.legend(fontsize=SMALL_POINTS, frameon=False)
    weight = np.cumsum(spectrum.total) / spectrum.total.sum()
    highest = spectrum.frequencies_THz[int(np.searchsorted(weight, 0.99))]
    lowest = min(f.min() for f in (*found.bands.frequencies_THz, *effective.frequencies_THz))
    left.set_ylim(min(0.0, 1.1 * lowest), 1.08 * max(highest, found.max_THz))
    right.set_xlim(left=0)
    right.tick_params(axis="y", labelleft=False)
    right.set_xlabel("DOS (1/THz)", fontsize=FONT_POINTS)
    left.set_title(title, fontsize=FONT_POINTS)
    return figure


def modes_of_molecule(wavenumbers: np.ndarray, title: str = "") -> Figure:
    """A line at every wavenumber (1/cm); imaginary ones are red, left of zero."""
    figure, axes = new_figure((4.6, 1.9))
    axes.vlines(wavenumbers, 0, 1, colors=[VERMILLION if w < 0 else BLUE for w in wavenumbers])
    axes.set_ylim(0, 1.15)
    axes.set_xlim(min(0.0, 1.1 * wavenumbers.min()), 1.08 * wavenumbers.max())
    axes.set_yticks([])
    axes.set_xlabel("Wavenumber (cm$^{-1}$)", fontsize=FONT_POINTS)
    axes.set_title(title, fontsize=FONT_POINTS)
    return figure
