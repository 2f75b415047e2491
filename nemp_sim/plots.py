"""Figures of the package: one style, drawn through matplotlib's objects, as PNG and PDF.

Nothing here touches pyplot or rcParams, so figures of several threads do not meet.
"""

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nemp_sim.files import replacing

DPI = 200
SINGLE_COLUMN_INCH = (4.2, 3.1)
FONT_POINTS = 9.5
# Okabe and Ito's colours, told apart with every kind of colour vision.
BLACK, BLUE, VERMILLION, GREY = "#000000", "#0072B2", "#D55E00", "#7F7F7F"
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")  # of formulas
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
    axes.tick_params(which="both", direction="in", top=True, right=True, labelsize=FONT_POINTS)
    for spine in axes.spines.values():
        spine.set_linewidth(0.8)


def save_figure(figure: Figure, path: Path) -> tuple[Path, Path]:
    """Write ``figure`` as PNG and, beside it, as PDF with text that stays text.

    Older files are replaced by complete ones; the same figure makes the same files.

    Args:
        figure: the figure.
        path: of the PNG.
    """
    written = path.with_suffix(".png"), path.with_suffix(".pdf")
    for target in written:
        form = target.suffix[1:]
        dates: dict[str, Any] = {"metadata": {"CreationDate": None}} if form == "pdf" else {}
        with replacing(target) as temporary, rc_context({"pdf.fonttype": 42}):
            figure.savefig(temporary, dpi=DPI, format=form, **dates)
    return written


def remove_figure(path: Path) -> None:
    """Remove a figure of an earlier run, given by its PNG."""
    for suffix in (".png", ".pdf"):
        path.with_suffix(suffix).unlink(missing_ok=True)
