"""What every potential must satisfy, for both forms of the network, in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import make_supercell, molecule

from nemp_sim.derivatives import differentiate
from nemp_sim.validation.derivatives import STENCIL, WEIGHTS, force_errors, stress_errors
from nemp_sim.validation.invariance import (
    fragments,
    permuted,
    repeated,
    shifted_by_lattice,
    translated,
    turned,
)

ROUNDING = 1e-10  # eV and eV/Å: the same physics in another frame
FINITE_DIFFERENCE = 1e-6  # eV/Å and eV/Å³
STEP = 1e-3  # Å or strain, of the five-point formula
HESSIAN = 1e-10  # eV/Å²
CONTACT_ORDER = 3.0  # value, slope and curvature vanish at the cutoff


def energy_forces(potential, atoms):
    result = potential.evaluate([atoms])
    return result.energy[0], result.forces[0]


def assert_equal_results(potential, atoms, energy, forces):
    got_energy, got_forces = energy_forces(potential, atoms)
    np.testing.assert_allclose(got_energy, energy, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(got_forces, forces, rtol=0, atol=ROUNDING)


# --- frames


def test_translation(potential, structure, rng):
    shift = rng.uniform(-20, 20, 3)
    print(f"shift {shift!r}")
    assert translated(potential, structure, shift).largest < ROUNDING


def test_rotation_and_inversion(potential, structure, rotation):
    assert turned(potential, structure, rotation).largest < ROUNDING


def test_stress_turns_with_the_frame(potential, periodic, rotation):
    before = full_stress(potential, periodic)
    periodic.positions = periodic.positions @ rotation.T
    periodic.cell = periodic.cell.array @ rotation.T
    after = full_stress(potential, periodic)
    np.testing.assert_allclose(after, rotation @ before @ rotation.T, rtol=0, atol=ROUNDING)


def full_stress(potential, atoms):
    xx, yy, zz, yz, xz, xy = potential.evaluate([atoms], stress=True).stress[0]
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


def test_permutation(potential, structure, rng):
    assert permuted(potential, structure, rng.permutation(len(structure))).largest < ROUNDING


def test_lattice_shift_of_single_atoms(potential, periodic, rng):
    jumps = rng.integers(-3, 4, (len(periodic), 3))
    print(f"jumps {jumps!r}")
    assert shifted_by_lattice(potential, periodic, jumps).largest < ROUNDING
    energy, forces = energy_forces(potential, periodic)
    periodic.wrap()
    assert_equal_results(potential, periodic, energy, forces)


def test_another_basis_of_the_same_lattice(potential, tilted):
    """Unimodular changes of the cell vectors: the crystal is the same."""
    energy, forces = energy_forces(potential, tilted)
    tilted.set_cell(np.array([[1, 1, 0], [0, 1, 0], [2, 0, 1]]) @ tilted.cell.array)
    assert_equal_results(potential, tilted, energy, forces)


@pytest.mark.parametrize("repeats", [(2, 1, 1), (1, 2, 1), (2, 2, 1)])
def test_supercell(potential, periodic, repeats):
    assert repeated(potential, periodic, repeats).largest < ROUNDING


def test_skewed_supercell(potential, tilted):
    energy, _ = energy_forces(potential, tilted)
    matrix = [[2, 1, 0], [0, 1, -1], [0, 0, 2]]
    got, _ = energy_forces(potential, make_supercell(tilted, matrix))
    np.testing.assert_allclose(got, 4 * energy, rtol=0, atol=ROUNDING)


def test_stress_of_a_supercell_is_the_same(potential, tilted):
    stress = potential.evaluate([tilted, tilted * (2, 1, 2)], stress=True).stress
    np.testing.assert_allclose(stress[1], stress[0], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("vacuum", [None, 4.1, 40.0])
def test_slab_equals_a_periodic_slab_with_vacuum(potential, slab, vacuum):
    energy, forces = energy_forces(potential, slab)
    if vacuum is not None:
        slab.center(vacuum=vacuum / 2, axis=2)
    slab.pbc = True
    assert_equal_results(potential, slab, energy, forces)


def test_slab_ignores_its_third_cell_vector(potential, slab):
    energy, forces = energy_forces(potential, slab)
    slab.set_cell([*slab.cell[:2], [1.0, 0.3, 0.5]])
    assert_equal_results(potential, slab, energy, forces)


# --- fragments


def test_separated_fragments_add_up(potential, methanol):
    apart = potential.cutoff_angstrom + 0.01
    assert fragments(potential, methanol, molecule("H2O"), apart).largest < ROUNDING


@pytest.mark.parametrize("symbol", ["H", "C", "O", "Pd"])
def test_lone_atom_has_its_reference_energy(random_potential, symbol):
    potential = random_potential("smooth")
    reference = potential.readout.reference_energies[potential.elements.index(symbol)]
    assert abs(potential.readout.energy_shift).min() > 1e-3  # must not show in the energy
    energy, forces = energy_forces(potential, Atoms(symbol))
    assert energy == reference.item()
    assert (forces == 0).all()


def test_lone_atom_of_the_published_form(random_potential):
    potential = random_potential("published")
    readout = potential.readout
    energy, _ = energy_forces(potential, Atoms("O"))
    want = (readout.reference_energies[2] + readout.energy_shift[2]).item()
    np.testing.assert_allclose(energy, want, rtol=1e-14)


def test_no_edges(potential):
    symbols = "HCOPd"
    atoms = Atoms(symbols, [[8.1 * k, 0, 0] for k in range(4)])
    lone = potential.evaluate([Atoms([symbol]) for symbol in atoms.symbols]).energy.sum()
    energy, forces = energy_forces(potential, atoms)
    np.testing.assert_allclose(energy, lone, rtol=1e-14)
    assert (forces == 0).all()


# --- the cutoff


def two_dimers(gap):
    """H–O and C–H on a line, O and C ``gap`` apart: the only pair near the cutoff."""
    return Atoms("HOCH", [[-1.0, 0, 0], [0, 0, 0], [gap, 0, 0], [gap + 1.1, 0, 0]])


def test_interaction_vanishes_smoothly_at_the_cutoff(potential):
    """|E(r) − E(∞)| falls at least like (r_c − r)³, so value, slope and curvature are zero."""
    cutoff = potential.cutoff_angstrom
    far = potential.evaluate([two_dimers(cutoff)]).energy[0]
    gaps = cutoff * (1 - np.array([0.02, 0.03, 0.04]))
    near = potential.evaluate([two_dimers(gap) for gap in gaps]).energy
    interaction = np.abs(near - far)
    print(f"interaction {interaction!r}")
    assert interaction.min() > 1e-11
    orders = np.diff(np.log(interaction)) / np.diff(np.log(cutoff - gaps))
    assert orders.min() > CONTACT_ORDER


@pytest.mark.parametrize("beyond", [0.0, 1e-9, 0.3])
def test_nothing_interacts_beyond_the_cutoff(potential, beyond):
    gap = potential.cutoff_angstrom + beyond
    far, want = potential.evaluate([two_dimers(gap), two_dimers(30.0)]).forces
    np.testing.assert_allclose(far, want, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("name", ["slab", "water"])
def test_forces_are_continuous_as_an_atom_crosses_the_cutoff(potential, structures, name):
    """Along a straight path, steps of the force stay in proportion to the step length."""
    atoms = structures[name]
    jumps = {}
    for n_steps in (40, 80):
        path = [atoms.copy() for _ in range(n_steps + 1)]
        for k, image in enumerate(path):
            image.positions[-1] += np.array([0.1, 0.2, 0.4]) * k / n_steps
        forces = np.array(potential.evaluate(path).forces)
        jumps[n_steps] = np.abs(np.diff(forces, axis=0)).max()
    assert jumps[80] < 0.6 * jumps[40]  # one half for a smooth function, one with a jump


# --- derivatives


def chosen_atoms(atoms):
    return sorted({0, len(atoms) // 2, len(atoms) - 1})


def test_forces_are_central_differences(potential, structure):
    errors = force_errors(potential, structure, chosen_atoms(structure), STEP)
    assert np.abs(errors).max() < FINITE_DIFFERENCE, errors


def test_stress_is_a_central_difference(potential, periodic):
    errors = stress_errors(potential, periodic, STEP)
    assert np.abs(errors).max() < FINITE_DIFFERENCE, errors


def hessian(potential, graph):
    """∂²E/∂r∂r by differentiating twice, (3N, 3N)."""
    positions = graph.positions.clone().requires_grad_()
    moved = replace(graph, positions=positions)
    result = differentiate(potential.model, moved, forces=True, stress=False, create_graph=True)
    gradient = -result.forces
    rows = [torch.autograd.grad(g, positions, retain_graph=True)[0] for g in gradient.ravel()]
    return torch.stack([row.ravel() for row in rows]).numpy()


@pytest.mark.parametrize("name", ["methanol", "tilted"])
def test_hessian_is_symmetric_and_a_difference_of_forces(potential, structures, graph_of, name):
    atoms = structures[name]
    matrix = hessian(potential, graph_of(potential, [atoms]))
    assert np.abs(matrix).max() > 1e-2
    np.testing.assert_allclose(matrix, matrix.T, rtol=0, atol=HESSIAN)
    moved = [atoms.copy() for _ in STENCIL]
    for image, k in zip(moved, STENCIL, strict=True):
        image.positions[1, 2] += k * STEP
    forces = np.array(potential.evaluate(moved).forces)
    want = -np.einsum("knx,k->nx", forces, WEIGHTS) / STEP
    np.testing.assert_allclose(matrix[5], want.ravel(), rtol=0, atol=FINITE_DIFFERENCE)
    translations = matrix.reshape(-1, len(atoms), 3).sum(axis=1)
    np.testing.assert_allclose(translations, 0, atol=1e-9)
