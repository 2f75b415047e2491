import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, fcc100
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixBondLength, FixCartesian
from ase.mep import NEB
from ase.optimize import FIRE
from matplotlib.image import imread
from scipy.optimize import root

from nemp_sim.errors import EvaluationError, InputError
from nemp_sim.plots import save_figure
from nemp_sim.reactions.ends import check_ends, first_path
from nemp_sim.reactions.neb import BandSettings, remarks, run_neb
from nemp_sim.reactions.neb_report import band_report
from nemp_sim.reactions.plots import neb_profile
from nemp_sim.relax import Relaxation, relax
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import fcc_slab
from tests.engines import EMTEngine


class MuellerBrown:
    """The surface of Müller and Brown (Theor. Chim. Acta 53, 75 (1979)) × 0.01 eV, for one atom."""

    A = np.array([-200.0, -100.0, -170.0, 15.0]) * 0.01
    a, b, c = np.array([[-1, -1, -6.5, 0.7], [0, 0, 11, 0.6], [-10, -10, -6.5, 0.7]])
    x0, y0 = np.array([[1, 0, -0.5, -1], [0, 0.5, 1.5, 1]])

    def energy(self, x, y):
        dx, dy = x - self.x0, y - self.y0
        return (self.A * np.exp(self.a * dx**2 + self.b * dx * dy + self.c * dy**2)).sum()

    def gradient(self, xy):
        dx, dy = xy[0] - self.x0, xy[1] - self.y0
        terms = self.A * np.exp(self.a * dx**2 + self.b * dx * dy + self.c * dy**2)
        along_x = (terms * (2 * self.a * dx + self.b * dy)).sum()
        return np.array([along_x, (terms * (self.b * dx + 2 * self.c * dy)).sum()])

    def evaluate(self, structures):
        points = [atoms.positions[0] for atoms in structures]
        energy = [self.energy(x, y) + 0.5 * z**2 for x, y, z in points]
        forces = [-np.array([[*self.gradient(p[:2]), p[2]]]) for p in points]
        return SimpleNamespace(energy=np.array(energy), forces=tuple(forces))

    def stationary(self, x, y):
        """The stationary point near (x, y), by scipy."""
        return root(self.gradient, [x, y], tol=1e-12).x


class Failing(EMTEngine):
    """Not-a-number forces in the last structure from a given call on."""

    def __init__(self, good_calls):
        super().__init__()
        self.good_calls = good_calls

    def evaluate(self, structures):
        result = super().evaluate(structures)
        if len(self.batches) > self.good_calls:
            result.forces[-1][0] = np.nan
        return result


def gold_on_aluminium():
    """Au between two hollow sites of Al(100), one layer held."""
    slab = fcc100("Al", (2, 2, 3), vacuum=8.0)
    slab.set_constraint(FixAtoms(mask=slab.get_tags() == 3))
    add_adsorbate(slab, "Au", 1.7, "hollow")
    final = slab.copy()
    final.positions[-1] += slab.cell[0] / 2
    return slab, final


@pytest.fixture(scope="module")
def ends():
    """H on Pd(111), fcc and hcp, relaxed with EMT."""
    slab = fcc_slab()
    start = [place(slab, "H", "fcc"), place(slab, "H", "hcp")]
    return relax(EMTEngine(), start, 0.01, 200).structures


def atom_at(x, y):
    return Atoms("H", [[x, y, 0.0]])


@pytest.mark.parametrize("job", ["gold", "hydrogen"])
def test_same_barrier_as_ase_one_image_at_a_time(job, ends):
    if job == "gold":
        ends = relax(EMTEngine(), gold_on_aluminium(), 0.01, 200).structures
    ours = run_neb(EMTEngine(), *ends, BandSettings(5, fmax_eV_per_A=0.01))
    images = [ends[0].copy() for _ in range(6)] + [ends[1].copy()]
    for image in images:
        image.calc = EMT()
    serial = NEB(images, method="improvedtangent", climb=True)
    serial.interpolate("idpp", mic=True, apply_constraint=True)
    FIRE(serial, logfile=None).run(fmax=0.01, steps=500)
    energies = [image.get_potential_energy() for image in images]
    assert ours.converged
    assert ours.barrier_forward_eV == pytest.approx(max(energies) - energies[0], abs=1e-3)
    assert ours.barrier_reverse_eV == pytest.approx(max(energies) - energies[-1], abs=1e-3)


def test_barrier_of_an_analytic_surface():
    surface = MuellerBrown()
    a, b = surface.stationary(-0.56, 1.44), surface.stationary(-0.05, 0.47)
    exact = surface.energy(*surface.stationary(-0.82, 0.62)) - surface.energy(*a)
    assert exact == pytest.approx(1.06035, abs=1e-4)  # published: −146.700 and −40.665
    result = run_neb(surface, atom_at(*a), atom_at(*b), BandSettings(7, fmax_eV_per_A=0.005))
    assert result.converged and result.climbing
    assert result.barrier_forward_eV == pytest.approx(exact, abs=1e-3)
    assert result.reaction_energy_eV == pytest.approx(surface.energy(*b) - surface.energy(*a))
    saddle = result.images[result.saddle_index].positions[0, :2]
    np.testing.assert_allclose(saddle, surface.stationary(-0.82, 0.62), atol=5e-3)
    assert result.spline_barrier_eV == pytest.approx(exact, abs=1e-3)


def test_a_minimum_on_the_way_is_named():
    surface = MuellerBrown()
    a, b = surface.stationary(-0.56, 1.44), surface.stationary(0.62, 0.03)
    result = run_neb(surface, atom_at(*a), atom_at(*b), BandSettings(11, 0.02))
    assert any("is a minimum" in remark for remark in remarks(result))


def test_images_are_added_where_the_barrier_is():
    surface = MuellerBrown()
    a, b = surface.stationary(-0.56, 1.44), surface.stationary(-0.05, 0.47)
    exact = surface.energy(*surface.stationary(-0.82, 0.62)) - surface.energy(*a)
    few = BandSettings(2, fmax_eV_per_A=0.02, max_images=9)
    result = run_neb(surface, atom_at(*a), atom_at(*b), few)
    assert result.converged and 3 <= len(result.images) - 2 <= 9
    assert result.barrier_forward_eV == pytest.approx(exact, abs=1e-3)
    assert (np.diff(result.path_length_A) > 0).all()
    plain = run_neb(surface, atom_at(*a), atom_at(*b), BandSettings(2, fmax_eV_per_A=0.02))
    assert len(plain.images) == 4


def test_restart_goes_on_where_the_band_was(ends):
    loose = run_neb(EMTEngine(), *ends, BandSettings(5, fmax_eV_per_A=0.1, climb=False))
    settings = BandSettings(7, fmax_eV_per_A=0.02)
    path = [image.copy() for image in loose.images[1:-1]]
    for image in path:  # as a file may hold them
        image.wrap()
    again = run_neb(EMTEngine(), *ends, settings, path=path)
    fresh = run_neb(EMTEngine(), *ends, BandSettings(5, fmax_eV_per_A=0.02))
    assert again.converged and len(again.images) == 7
    assert again.model_calls < fresh.model_calls
    assert again.barrier_forward_eV == pytest.approx(fresh.barrier_forward_eV, abs=1e-3)
    with pytest.raises(InputError, match="path: image 1 holds Pd12"):
        run_neb(EMTEngine(), *ends, settings, path=[path[0][:12]])


def test_a_path_without_saddle_is_named():
    surface = MuellerBrown()
    low, high = surface.stationary(-0.56, 1.44), (-0.9, 1.0)
    result = run_neb(surface, atom_at(*low), atom_at(*high), BandSettings(3, 0.05))
    assert result.saddle_index == 4 and "final state is the highest" in remarks(result)[0]
    assert result.barrier_reverse_eV == 0.0 and not result.has_saddle
    ends = Relaxation((), np.zeros(0), 0.0, True, 0, 0)
    report = band_report("", [], 0.05, ends, replace(result, converged=True), None, 0.1)
    assert report.verdict.startswith("NO SADDLE between the ends: the final state is the highest")


@pytest.mark.parametrize("climb", [True, False])
def test_one_engine_call_for_each_step(climb, ends):
    engine, steps = EMTEngine(), []
    result = run_neb(engine, *ends, BandSettings(5, climb=climb), steps.append)
    assert engine.batches == [2] + [5] * (1 + result.optimizer_steps)
    assert result.model_calls == len(engine.batches)
    assert steps[-1].number == result.optimizer_steps
    assert {step.stage for step in steps} == ({"band", "climbing"} if climb else {"band"})
    assert steps[-1].fmax_eV_per_A == result.fmax_eV_per_A < 0.02
    assert len(steps[-1].images) == 7


def test_ends_stay_as_they_are(ends):
    before = [(atoms.positions.copy(), atoms.calc) for atoms in ends]
    result = run_neb(EMTEngine(), *ends, BandSettings(3))
    for atoms, image, (positions, calc) in zip(ends, result.images[::4], before, strict=True):
        assert (atoms.positions == positions).all() and atoms.calc is calc
        np.testing.assert_allclose(image.positions, positions, atol=1e-12)
        assert image.get_potential_energy() == pytest.approx(calc.results["energy"], abs=1e-9)


def test_held_atoms_do_not_move_and_count_for_nothing(ends):
    result = run_neb(EMTEngine(), *ends, BandSettings(5))
    for image in result.images:
        assert (image.positions[:4] == ends[0].positions[:4]).all()
        assert image.constraints[0].index.tolist() == [0, 1, 2, 3]
        assert (image.get_forces()[:4] == 0).all()
        assert np.abs(image.get_forces(apply_constraint=False)[:4]).max() > 1e-6


def test_ends_apart_by_lattice_vectors_give_the_same_path(ends, rng):
    plain = run_neb(EMTEngine(), *ends, BandSettings(3))
    moved = ends[1].copy()
    shifts = rng.integers(-2, 3, size=(len(moved), 3)) * [1, 1, 0]
    moved.set_positions(moved.positions + shifts @ moved.cell.array, apply_constraint=False)
    wrapped = run_neb(EMTEngine(), ends[0], moved, BandSettings(3))
    assert wrapped.path_length_A[-1] == pytest.approx(plain.path_length_A[-1], abs=1e-6)
    assert wrapped.barrier_forward_eV == pytest.approx(plain.barrier_forward_eV, abs=1e-6)
    for one, next_one in zip(wrapped.images, wrapped.images[1:], strict=False):
        assert np.abs(next_one.positions - one.positions).max() < 1.0


def test_result_is_consistent(ends):
    result = run_neb(EMTEngine(), *ends, BandSettings(5))
    energies = [image.get_potential_energy() for image in result.images]
    np.testing.assert_allclose(result.energies_eV, energies)
    assert result.path_length_A[0] == 0 and (np.diff(result.path_length_A) > 0).all()
    steps = np.diff([image.positions for image in result.images], axis=0)
    lengths = np.sqrt((steps**2).sum(axis=(1, 2)))
    np.testing.assert_allclose(np.diff(result.path_length_A), lengths, rtol=1e-9)
    assert result.saddle_index == np.argmax(energies)
    difference = result.barrier_forward_eV - result.barrier_reverse_eV
    assert difference == pytest.approx(result.reaction_energy_eV)
    at_images = np.interp(result.path_length_A, result.spline_path_A, result.spline_energies_eV)
    np.testing.assert_allclose(at_images, result.energies_eV - result.energies_eV[0], atol=1e-9)


def test_labels_of_the_ends_are_not_handed_on(ends):
    labelled = ends[0].copy()
    labelled.info["REF_energy"] = 1.0
    labelled.arrays["REF_forces"] = np.ones((13, 3))
    masses = labelled.get_masses()
    masses[-1] = 2.014
    labelled.set_masses(masses)
    image = first_path(labelled, ends[1], 1)[1]
    assert not image.info and "REF_forces" not in image.arrays
    assert image.get_masses()[-1] == 2.014


def test_a_potential_keeps_its_neighbour_lists(random_potential):
    potential = random_potential("smooth")
    slab = fcc_slab()
    pair = place(slab, "H", "fcc"), place(slab, "H", "hcp")
    result = run_neb(potential, *pair, BandSettings(3, fmax_eV_per_A=1e-6, steps=4))
    assert not result.converged and result.model_calls == 6
    fresh = potential.evaluate(result.images)
    np.testing.assert_allclose(result.energies_eV, fresh.energy, atol=1e-9)
    for image, forces in zip(result.images, fresh.forces, strict=True):
        np.testing.assert_allclose(image.get_forces(apply_constraint=False), forces, atol=1e-9)


def test_too_few_steps_are_not_convergence(ends):
    result = run_neb(EMTEngine(), *ends, BandSettings(5, fmax_eV_per_A=1e-4, steps=2))
    assert not result.converged and not result.climbing
    assert result.optimizer_steps == 2 and result.fmax_eV_per_A > 1e-4


def test_not_a_number_stops_the_band_and_keeps_the_last_step(ends):
    steps = []
    with pytest.raises(EvaluationError, match="structure 2.*not finite"):
        run_neb(Failing(4), *ends, BandSettings(3, fmax_eV_per_A=1e-4), steps.append)
    assert steps[-1].number == 2
    assert np.isfinite([image.get_potential_energy() for image in steps[-1].images]).all()
    assert isinstance(steps[-1].images[1].calc, SinglePointCalculator)


def swapped(final):
    final.positions[[0, 12]] = final.positions[[12, 0]]
    return final[[12, *range(1, 12), 0]]


def shorter(final):
    del final[-1]
    return final


def changed(**attributes):
    def change(final):
        for name, value in attributes.items():
            setattr(final, name, value)
        return final

    return change


def shifted_fixed_atom(final):
    final.set_constraint()
    final.positions[2] += [0, 0, 0.05]
    final.set_constraint(FixAtoms([0, 1, 2, 3]))
    return final


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shorter, "atoms differ: HPd12 .13 atoms. and Pd12 .12 atoms."),
        (swapped, "order of the atoms differs: atom 0 is Pd in initial and H in final"),
        (lambda f: f.set_cell(f.cell.array * 1.01) or f, "cells differ by up to 0.2"),
        (changed(pbc=True), "pbc is .True, True, False. and .True, True, True."),
        (changed(constraints=[]), r"atom 0 \(Pd\) is held in initial only \(4 atoms"),
        (changed(constraints=FixAtoms(range(6))), r"atom 4 \(Pd\) is held in final only"),
        (changed(constraints=FixCartesian([0, 1, 2, 3], [0, 0, 1])), "held in initial only"),
        (
            changed(constraints=[FixAtoms(range(4)), FixBondLength(11, 12)]),
            "constraints differ: none and .*FixBondLength",
        ),
        (shifted_fixed_atom, r"atom 2 \(Pd\) is fixed, but lies 0.050 Å apart"),
    ],
)
def test_ends_that_do_not_belong_together_are_refused(change, message, ends):
    engine = EMTEngine()
    final = change(ends[1].copy())
    with pytest.raises(InputError, match=message):
        run_neb(engine, ends[0], final)
    assert not engine.batches


def test_equal_ends_are_refused_also_through_the_boundary(ends):
    same = ends[0].copy()
    same.set_positions(same.positions + same.cell[1], apply_constraint=False)
    for final in (ends[0], same):
        with pytest.raises(InputError, match="they are one structure"):
            check_ends(ends[0], final)
    with pytest.raises(InputError, match="no atoms"):
        check_ends(Atoms(), Atoms())


def test_atoms_that_meet_on_the_way_are_refused():
    initial = Atoms("H2", [[0, 0, 0], [0, 0, 2.0]])
    final = Atoms("H2", [[0, 0, 2.0], [0, 0, 0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=r"atoms \[0, 1\] meet another atom"):
            first_path(initial, final, 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_images": 0}, "images is 0, but must be 1 or more"),
        ({"fmax_eV_per_A": 0.0}, "fmax is 0.0"),
        ({"steps": 0}, "steps is 0"),
        ({"spring_eV_per_A2": -0.1}, "spring is -0.1"),
        ({"max_images": 3}, "max_images is 3, but must be at least images .7."),
        ({"fmax_eV_per_A": float("nan")}, "fmax is nan"),
    ],
)
def test_unusable_settings_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        BandSettings(**values)
    with pytest.raises(InputError, match="images is 0"):
        first_path(atom_at(0, 0), atom_at(1, 0), 0)


def test_one_image_is_enough(ends):
    result = run_neb(EMTEngine(), *ends, BandSettings(1))
    assert result.converged and result.saddle_index == 1


def test_figure_shows_the_barrier(ends, tmp_path):
    result = run_neb(EMTEngine(), *ends, BandSettings(5))
    figure = neb_profile(result, ("fcc", "hcp"))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert any(f"{result.barrier_forward_eV:.3f} eV" in text for text in texts)
    assert {"fcc", "hcp"} <= set(texts)
    assert "Å" in figure.axes[0].get_xlabel() and "eV" in figure.axes[0].get_ylabel()
    path, vector = save_figure(figure, tmp_path / "neb.png")
    assert vector.read_bytes().startswith(b"%PDF") and b"/Type3" not in vector.read_bytes()
    assert path.read_bytes().startswith(b"\x89PNG")
    pixels = imread(path)
    assert pixels.shape[:2] == (620, 840)
    assert 0.6 < pixels[..., :3].mean() < 0.99  # neither empty nor full
    assert sorted(f.name for f in tmp_path.iterdir()) == ["neb.pdf", "neb.png"]


def test_figure_of_an_unconverged_band_says_so(ends):
    result = run_neb(EMTEngine(), *ends, BandSettings(3, fmax_eV_per_A=1e-4, steps=1))
    assert neb_profile(result).axes[0].get_title() == "not converged"
