"""Structures drawn by ASE for matplotlib, from above and from the side."""

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.data.colors import jmol_colors
from ase.utils import rotate
from ase.visualize.plot import plot_atoms_raw
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nemp_sim.plots import FONT_POINTS

ABOVE, SIDE = "0x", "-80x"  # ASE's rotations; a little from above, so that hollows are seen
SHARE_OF_RADIUS = {ABOVE: 0.9, SIDE: 0.6}  # of the covalent radius
SMALLEST_RADIUS = 0.35  # Å
FADED = 0.65  # share of white in the colour of the lowest atoms, seen from above
COLUMN_INCH = 2.1
MARGIN_ANGSTROM = 0.2
IMAGES_AROUND = 2  # periodic images on each side: they fill a rectangle about an oblique cell

Box = tuple[float, float, float, float]


def two_views(structures: Sequence[Atoms], names: Sequence[str]) -> Figure:
    """Structures of one set of atoms in columns, seen from above (z) and from the side (along y).

    The atom that moves most lies in the middle of the cell. Lower atoms are paler from above.

    Args:
        structures: of the same atoms, such as initial state, saddle and final state.
        names: heading of each column.
    """
    shown = in_the_middle(structures)
    boxes = {rotation: _box(shown, rotation) for rotation in (ABOVE, SIDE)}
    heights = [
        COLUMN_INCH * (top - low) / (right - left) for left, low, right, top in boxes.values()
    ]
    size = COLUMN_INCH * len(shown), sum(heights) + 0.4
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(shown), squeeze=False, height_ratios=heights)
    for column, atoms, name in zip(grid.T, shown, names, strict=True):
        for axes, (rotation, box) in zip(column, boxes.items(), strict=True):
            draw_structure(axes, atoms, rotation, box)
        column[0].set_title(name, fontsize=FONT_POINTS)
    return figure


def draw_structure(axes: Axes, atoms: Atoms, rotation: str = ABOVE, box: Box | None = None) -> Box:
    """Draw a structure, with its cell where it is seen from above; returns the box that is shown.

    Args:
        axes: one unit is one Å, counted from the lower left corner of the box.
        atoms: the structure.
        rotation: ``ABOVE`` or ``SIDE``.
        box: left, lowest, right and highest place, Å, after rotation; None: that of the atoms.
    """
    colours = jmol_colors[atoms.numbers]
    if rotation == ABOVE:
        heights = atoms.positions[:, 2]
        depth = (heights.max() - heights) / max(np.ptp(heights), 1e-9)
        colours = 1 - (1 - colours) * (1 - FADED * depth[:, None])
    cell = 1 if rotation == ABOVE and atoms.pbc.any() else 0
    box = box or _box([atoms], rotation)
    options = {"rotation": rotation, "radii": _radii(atoms, rotation), "colors": colours}
    plot_atoms_raw(atoms, axes, **options, show_unit_cell=cell, bbox=box)
    for patch in axes.patches:
        patch.set_linewidth(0.7)
    axes.set_axis_off()
    return box


def cell_with_neighbours(atoms: Atoms, margin_angstrom: float) -> tuple[Atoms, Box]:
    """A slab with the periodic images around its cell, and the box about that cell from above.

    Args:
        atoms: periodic along the first two vectors of its cell, or not.
        margin_angstrom: shown around the cell.
    """
    corners = np.array(list(np.ndindex(2, 2, 1))) @ atoms.cell.array
    low = corners[:, :2].min(axis=0) - margin_angstrom
    high = corners[:, :2].max(axis=0) + margin_angstrom
    reach = np.where(atoms.pbc[:2], IMAGES_AROUND, 0)
    tiled = atoms.repeat((*(2 * reach + 1), 1))
    tiled.positions -= reach @ atoms.cell.array[:2]
    radii = _radii(tiled, ABOVE)[:, None]
    places = tiled.positions[:, :2]
    seen = ((places + radii > low) & (places - radii < high)).all(axis=1)
    shown = tiled[seen]
    shown.set_cell(atoms.cell)
    return shown, (*low.tolist(), *high.tolist())


def in_the_middle(structures: Sequence[Atoms]) -> list[Atoms]:
    """Copies without constraints, moved as one so that what moves most lies in mid-cell.

    All copies take the periodic images that suit the first of them, so that none jumps.
    """
    first = structures[0]
    places = np.array([atoms.positions for atoms in structures])
    mover = int(np.linalg.norm(places - places[0], axis=2).max(axis=0).argmax())
    shift = np.zeros_like(first.positions)
    if first.cell.rank == 3:
        scaled = first.cell.scaled_positions(first.positions)
        middle = 0.5 - first.cell.scaled_positions(places[:, mover].mean(axis=0)[None])[0]
        along = first.pbc & (np.arange(3) < 2)  # not along the normal of a slab
        moved = scaled + middle * along
        shift = (moved - np.floor(moved) * along - scaled) @ first.cell.array
    copies = []
    for atoms in structures:
        copy = atoms.copy()
        copy.set_constraint()
        copy.positions = atoms.positions + shift
        copies.append(copy)
    return copies


def _radii(atoms: Atoms, rotation: str) -> np.ndarray:
    return np.maximum(SHARE_OF_RADIUS[rotation] * covalent_radii[atoms.numbers], SMALLEST_RADIUS)


def _box(structures: Sequence[Atoms], rotation: str) -> Box:
    """What holds all atoms of all structures after rotation, and the cell from above, Å."""
    places = np.concatenate([atoms.positions @ rotate(rotation) for atoms in structures])[:, :2]
    radii = np.concatenate([_radii(atoms, rotation) for atoms in structures])[:, None]
    low, high = (places - radii).min(axis=0), (places + radii).max(axis=0)
    if rotation == ABOVE:
        vectors = structures[0].cell.array * structures[0].pbc[:, None]
        corners = np.array(list(np.ndindex(2, 2, 2))) @ vectors[:, :2]
        low, high = np.minimum(low, corners.min(axis=0)), np.maximum(high, corners.max(axis=0))
    low, high = low - MARGIN_ANGSTROM, high + MARGIN_ANGSTROM
    return (*low.tolist(), *high.tolist())
