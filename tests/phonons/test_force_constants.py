from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.phonons import Phonons
from ase.units import J as joule
from ase.units import _hplanck

from nemp_sim.derivatives import differentiate
from nemp_sim.errors import EvaluationError, InputError, UnknownElementError
from nemp_sim.phonons.force_constants import (
    boxed,
    build_phonopy,
    choose_supercell,
    force_constants,
    half_shortest_vector,
    periodic_axes,
    supercell_matrix,
    to_ase,
)
from tests.engines import EMTEngine
from tests.phonons.emt import make

EV_PER_THZ = _hplanck * 1e12 * joule
HESSIAN = 1e-4  # eV/Å²
SAME = 1e-9


def slab_of_copper():
    return fcc111("Cu", (1, 1, 4), a=3.59, vacuum=5.0)


# --- force constants


@pytest.mark.parametrize(("symbol", "a"), [("Cu", 3.59), ("Al", 3.995)])
def test_frequencies_are_those_of_ase(symbol, a, tmp_path):
    atoms = bulk(symbol, a=a)
    constants, found = make(atoms, (5, 5, 5))
    serial = Phonons(atoms, EMT(), supercell=(5, 5, 5), delta=0.01, name=str(tmp_path / "phonon"))
    serial.run()
    serial.read(acoustic=True)
    q = np.array([p.q for p in found.bands.points] + [[0.1, 0.23, -0.4]])
    want = np.sort(serial.band_structure(q, verbose=False) / EV_PER_THZ, axis=1)
    got = np.sort(constants.phonon.run_qpoints(q).frequencies, axis=1)
    np.testing.assert_allclose(got[1:], want[1:], rtol=0, atol=3e-3)


@pytest.mark.parametrize("atoms", [bulk("Al", cubic=True, a=3.995), slab_of_copper()])
def test_one_call_gives_the_forces_of_a_serial_run(atoms):
    engine = EMTEngine()
    matrix = (2, 2, 2) if atoms.pbc.all() else (3, 3, 1)
    constants = force_constants(engine, atoms, build_phonopy(atoms, matrix))
    assert engine.batches == [constants.n_displacements] and constants.model_calls == 1
    serial = build_phonopy(atoms, matrix)
    serial.generate_displacements(distance=0.01)
    forces = []
    for cell in serial.supercells_with_displacements:
        moved = to_ase(cell, atoms.pbc)
        moved.calc = EMT()
        forces.append(moved.get_forces())
    serial.forces = forces
    serial.produce_force_constants(calculate_full_force_constants=False)
    serial.symmetrize_force_constants(level=3)
    got = constants.phonon.force_constants
    np.testing.assert_allclose(got, serial.force_constants, rtol=0, atol=SAME)


def hessian(potential, graph):
    """∂²E/∂r∂r by differentiating twice, (N, 3, N, 3)."""
    positions = graph.positions.clone().requires_grad_()
    moved = replace(graph, positions=positions)
    result = differentiate(potential.model, moved, forces=True, stress=False, create_graph=True)
    rows = [
        torch.autograd.grad(-force, positions, retain_graph=True)[0]
        for force in result.forces.ravel()
    ]
    n = len(positions)
    return torch.stack(rows).reshape(n, 3, n, 3).numpy()


@pytest.mark.parametrize("form", ["smooth", "published"])
def test_force_constants_are_the_hessian(form, random_potential, graph_of, tilted):
    potential = random_potential(form)
    phonon = build_phonopy(tilted, (2, 1, 1), "P")
    constants = force_constants(potential, tilted, phonon, 0.003, full=True)
    exact = hessian(potential, graph_of(potential, [to_ase(phonon.supercell)]))
    got = constants.phonon.force_constants.transpose(0, 2, 1, 3)
    assert np.abs(exact).max() > 0.1
    np.testing.assert_allclose(got, exact, rtol=0, atol=HESSIAN)


def test_frequencies_at_gamma_are_those_of_the_hessian(random_potential, graph_of, tilted):
    """Mass-weighted Hessian of the cell itself; imaginary frequencies are negative."""
    potential = random_potential("smooth")
    phonon = build_phonopy(tilted, (1, 1, 1), "P")
    force_constants(potential, tilted, phonon, 0.003)
    matrix = hessian(potential, graph_of(potential, [to_ase(phonon.supercell)])).reshape(6, 6)
    roots = np.repeat(np.sqrt(tilted.get_masses()), 3)
    values = np.linalg.eigvalsh(matrix / np.outer(roots, roots))
    angular = np.sign(values) * np.sqrt(np.abs(values))  # (eV/Å²/amu)^½
    to_thz = 15.6333  # (eV/Å²/amu)^½ / 2π
    got = phonon.run_qpoints([[0, 0, 0]]).frequencies[0]
    np.testing.assert_allclose(np.sort(got), np.sort(angular * to_thz), rtol=1e-3, atol=2e-3)


def test_slab_with_and_without_periodic_vacuum():
    free, periodic = slab_of_copper(), slab_of_copper()
    periodic.pbc = True
    periodic.positions[:, 2] -= 6.0  # across the boundary of the cell
    flat = slab_of_copper()
    flat.set_cell([*flat.cell[:2], [0, 0, 0]])
    results = [make(atoms, (3, 3, 1), (6, 6, 1)) for atoms in (free, periodic, flat)]
    want = results[0][1].bands.points
    for constants, found in results:
        assert constants.periodic.tolist() == [True, True, False]
        assert np.allclose(constants.phonon.primitive_matrix, np.eye(3))
        assert [p.label for p in found.bands.points] == ["Γ", "M", "K"]
        for got, point in zip(found.bands.points, want, strict=True):
            np.testing.assert_allclose(got.frequencies_THz, point.frequencies_THz, atol=1e-5)


# --- cells


def test_chosen_supercell_keeps_the_symmetry():
    assert np.array_equal(choose_supercell(bulk("Pd", a=3.95)), np.diag([4, 4, 4]))
    assert np.array_equal(choose_supercell(bulk("Pd", a=3.95, cubic=True)), np.diag([3, 3, 3]))
    slab = fcc111("Pd", (1, 1, 3), a=3.95, vacuum=6.0)
    assert np.array_equal(choose_supercell(slab), np.diag([4, 4, 1]))
    long = Atoms("Cu", cell=[2.5, 2.5, 5.0], pbc=True)
    assert np.array_equal(choose_supercell(long, 5.0), np.diag([4, 4, 2]))


@pytest.mark.parametrize("radius", [3.0, 5.0, 7.0])
def test_chosen_supercell_reaches_the_radius(radius, tilted):
    matrix = choose_supercell(tilted, radius)
    assert half_shortest_vector(matrix @ tilted.cell.array, tilted.pbc) >= radius


def test_supercell_of_nine_numbers():
    matrix = supercell_matrix([-1, 1, 1, 1, -1, 1, 1, 1, -1])
    assert np.linalg.det(matrix) == pytest.approx(4)
    assert len(build_phonopy(bulk("Cu", a=3.59), matrix).supercell) == 4


def test_primitive_cell_is_found_for_bulk_and_said_for_slabs():
    cubic = bulk("Cu", cubic=True, a=3.59)
    assert len(build_phonopy(cubic, (2, 2, 2)).primitive) == 1
    assert len(build_phonopy(cubic, (2, 2, 2), "P").primitive) == 4
    slab = fcc111("Cu", (2, 2, 3), a=3.59, vacuum=6.0)
    assert len(build_phonopy(slab, (1, 1, 1)).primitive) == 12


def test_vacuum_is_seen():
    assert periodic_axes(bulk("Cu", a=3.59)).all()
    assert periodic_axes(bulk("Cu", a=3.59, cubic=True)).all()
    slab = slab_of_copper()
    slab.pbc = True
    assert periodic_axes(slab).tolist() == [True, True, False]
    assert boxed(slab).positions[:, 2].min() == pytest.approx(6.0)


def test_masses_of_isotopes_are_kept():
    atoms = bulk("Cu", a=3.59)
    atoms.set_masses([4 * atoms.get_masses()[0]])
    _, heavy = make(atoms, (3, 3, 3))
    _, light = make(bulk("Cu", a=3.59), (3, 3, 3))
    assert heavy.max_THz == pytest.approx(light.max_THz / 2)


# --- refusals


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"supercell": (2, 2)}, r"supercell is \[2, 2\], but must be 3 repeats or 9"),
        ({"supercell": (2, 2, 0)}, "positive determinant"),
        ({"supercell": (2, 2.5, 1)}, "whole numbers"),
        ({"supercell": (-2, -2, 1)}, "positive determinant"),
        ({"primitive": "F"}, "primitive is 'F', but must be 'auto' or 'P'"),
        ({"radius_angstrom": 0.0}, "radius_angstrom is 0.0"),
    ],
)
def test_bad_arguments_are_refused(keywords, message):
    with pytest.raises(InputError, match=message):
        build_phonopy(bulk("Cu", a=3.59), **keywords)


def test_vacuum_is_not_repeated():
    with pytest.raises(InputError, match="cell vector 3 holds vacuum and must not be repeated"):
        build_phonopy(slab_of_copper(), (2, 2, 2))


@pytest.mark.parametrize("displacement", [0.0, -0.01, 0.5])
def test_bad_displacements_are_refused(displacement):
    atoms = bulk("Cu", a=3.59)
    with pytest.raises(InputError, match="displacement"):
        force_constants(EMTEngine(), atoms, build_phonopy(atoms, (2, 2, 2)), displacement)


def test_unknown_elements_are_named(random_potential):
    atoms = bulk("Ag", a=4.1)
    with pytest.raises(UnknownElementError, match="contains Ag, but the potential"):
        force_constants(random_potential("smooth"), atoms, build_phonopy(atoms, (2, 2, 2)))


def test_forces_that_are_not_finite_are_refused():
    class Broken:
        def evaluate(self, structures):
            return SimpleNamespace(forces=[np.full((len(a), 3), np.nan) for a in structures])

    atoms = bulk("Cu", a=3.59)
    with pytest.raises(EvaluationError, match="displaced supercell 0 of 1: forces are not finite"):
        force_constants(Broken(), atoms, build_phonopy(atoms, (2, 2, 2)))


def test_supercells_that_break_the_symmetry_are_refused():
    with pytest.raises(InputError, match="16 point symmetries where the primitive cell has 48"):
        build_phonopy(bulk("Cu", a=3.59, cubic=True), (3, 2, 2))


def test_left_handed_cells_are_refused():
    atoms = bulk("Cu")
    atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    with pytest.raises(InputError, match="right-handed"):
        build_phonopy(atoms, (2, 2, 2))
