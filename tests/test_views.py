"""Structures are drawn where their atoms are."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from matplotlib.patches import Circle, PathPatch

from nemp_sim.plots import new_figure, save_figure
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import fcc_slab
from nemp_sim.views import ABOVE, SIDE, draw_structure, in_the_middle, two_views


@pytest.fixture
def hop():
    slab = fcc_slab()
    return [place(slab, "H", site) for site in ("fcc", "bridge", "hcp")]


def circles(axes):
    """Centres of the atoms that are drawn, in order of the atoms."""
    return np.array([p.center for p in axes.patches if isinstance(p, Circle)])


def test_the_mover_lies_in_the_middle_and_nothing_else_changes(hop):
    hop[2].positions[-1] += hop[2].cell[0] * 0.4
    shown = in_the_middle(hop)
    middle = np.mean([s.cell.scaled_positions(s.positions[-1:])[0] for s in shown], axis=0)
    assert middle[:2] == pytest.approx([0.5, 0.5])
    for before, after in zip(hop, shown, strict=True):
        np.testing.assert_allclose(
            before.get_all_distances(mic=True), after.get_all_distances(mic=True), atol=1e-9
        )
        np.testing.assert_allclose(after.positions[:, 2], before.positions[:, 2], atol=1e-9)
        assert not after.constraints and before.constraints
    moves = shown[2].positions - shown[0].positions
    np.testing.assert_allclose(moves, hop[2].positions - hop[0].positions, atol=1e-9)


@pytest.mark.parametrize(("rotation", "across"), [(ABOVE, (0, 1)), (SIDE, (0, 2))])
def test_atoms_are_drawn_at_their_places(rotation, across):
    atoms = molecule("CH3OH")
    axes = new_figure()[1]
    left, low, right, top = draw_structure(axes, atoms, rotation)
    drawn = circles(axes)
    assert len(drawn) == len(atoms)
    wanted = atoms.positions[:, across]
    if rotation == SIDE:  # 80 degrees about x
        y, z = atoms.positions[:, 1], atoms.positions[:, 2]
        wanted = np.column_stack(
            [atoms.positions[:, 0], y * np.cos(np.radians(80)) + z * np.sin(np.radians(80))]
        )
    order = lambda rows: rows[np.lexsort(rows.round(4).T)]  # noqa: E731
    np.testing.assert_allclose(order(drawn + [left, low]), order(wanted), atol=1e-6)
    assert axes.get_xlim() == pytest.approx((0, right - left))
    assert axes.get_ylim() == pytest.approx((0, top - low))


def test_three_states_from_two_sides(hop, tmp_path):
    figure = two_views(hop, ("fcc", "bridge", "hcp"))
    assert [a.get_title() for a in figure.axes[:3]] == ["fcc", "bridge", "hcp"]
    above, side = figure.axes[:3], figure.axes[3:]
    for row in (above, side):  # one scale
        assert len({(a.get_xlim(), a.get_ylim()) for a in row}) == 1
    hydrogens = [
        circles(axes)[np.argmin([p.radius for p in axes.patches if isinstance(p, Circle)])]
        for axes in above
    ]
    way = np.array(hydrogens)[:, :2]
    expected = np.array([h.positions[-1, :2] for h in hop])
    np.testing.assert_allclose(way - way[0], expected - expected[0], atol=1e-6)
    assert any(isinstance(p, PathPatch) for p in above[0].patches)  # the cell
    png, pdf = save_figure(figure, tmp_path / "views.png")
    assert png.stat().st_size > 1e4 and pdf.read_bytes().startswith(b"%PDF")


def test_one_atom_is_drawn(tmp_path):
    assert len(two_views([Atoms("H")], ("alone",)).axes) == 2
