"""Figures of the workflows: one style, drawn through matplotlib's objects, written as PNG.

Nothing here touches pyplot or rcParams, so figures of several threads do not meet.
"""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nemp_sim.files import replacing

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
