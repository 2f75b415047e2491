"""Figures of classical dynamics."""

from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nemp_sim.md.averages import Series
from nemp_sim.plots import ELEMENT_COLOURS, FONT_POINTS, GREY, style_axes

DASHED = (0, (4, 3))
MOST_LABELS = len(ELEMENT_COLOURS)


def time_series(
    series: Series, temperatures_K: Sequence[float], n_atoms: int, conserved: bool, skip_ps: float
) -> Figure:
    """Temperature, and total (``conserved``) or potential energy of an atom, of all replicas.

    Args:
        series: n lines of R replicas.
        temperatures_K: (R,) that were asked for; one colour each.
        n_atoms: atoms of a replica.
        conserved: draw the total energy, which the dynamics should conserve.
        skip_ps: what is left out of the averages, shaded.
    """
    figure = Figure(figsize=(5.4, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True)
    distinct = sorted(set(temperatures_K))
    energy = series.total_eV if conserved else series.potential_eV
    change = 1e3 * (energy - energy[0]) / n_atoms
    width = 1.0 if len(temperatures_K) <= 2 else 0.5
    for number, temperature in enumerate(distinct):
        colour = ELEMENT_COLOURS[number % len(ELEMENT_COLOURS)]
        mine = [k for k, t in enumerate(temperatures_K) if t == temperature]
        lines = upper.plot(series.time_ps, series.temperature_K[:, mine], color=colour, lw=width)
        lines[0].set_label(f"{temperature:g} K")
        lower.plot(series.time_ps, change[:, mine], color=colour, lw=width)
        if not conserved:
            upper.axhline(temperature, color=colour, linewidth=0.8, linestyle=DASHED)
    what = "Total energy" if conserved else "Potential energy"
    upper.set_ylabel("Temperature (K)", fontsize=FONT_POINTS)
    lower.set_ylabel(f"{what} − start\n(meV/atom)", fontsize=FONT_POINTS)
    lower.set_xlabel("Time (ps)", fontsize=FONT_POINTS)
    lower.set_xlim(0.0, series.time_ps[-1])
    upper.set_ylim(bottom=0.0)
    for axes in (upper, lower):
        style_axes(axes)
        if skip_ps > 0:
            axes.axvspan(0.0, skip_ps, color=GREY, alpha=0.12, linewidth=0)
    if 1 < len(distinct) <= MOST_LABELS:
        upper.legend(fontsize=FONT_POINTS - 1.5, frameon=False, ncols=len(distinct), loc="best")
    figure.align_ylabels()
    return figure
