"""The ASE calculator: ASE's conventions, caching, and no trace left in torch."""

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.calculators.calculator import (
    CalculationFailed,
    PropertyNotImplementedError,
    all_properties,
)
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.constraints import FixAtoms
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from nemp_sim import NEMP
from nemp_sim.checkpoint import save_potential
from nemp_sim.errors import EvaluationError, InputError, PotentialFileError, UnknownElementError
from nemp_sim.potential import PotentialMetadata

FINITE_DIFFERENCE = {"rtol": 0, "atol": 1e-6}  # eV/Å and eV/Å³
ROUNDING = {"rtol": 1e-13, "atol": 1e-13}  # another order of the edges
PROPERTIES = ["energy", "free_energy", "forces", "stress", "energies"]


@pytest.fixture
def count_evaluations(monkeypatch):
    """Function that makes a calculator count its evaluations; returns the list that grows."""

    def watch(calculator):
        calls = []
        original = calculator.potential.evaluate

        def counted(*args, **options):
            calls.append(options)
            return original(*args, **options)

        monkeypatch.setattr(calculator.potential, "evaluate", counted)
        return calls

    return watch


def test_implemented_properties():
    assert sorted(NEMP.implemented_properties) == sorted(PROPERTIES)
    assert set(PROPERTIES) <= set(all_properties)


def test_results_equal_the_potential(potential, periodic):
    want = potential.evaluate([periodic], stress=True)
    periodic.calc = NEMP(potential)
    got = [periodic.get_potential_energy(), periodic.get_potential_energy(force_consistent=True)]
    np.testing.assert_allclose(got, want.energy[0], **ROUNDING)
    np.testing.assert_allclose(periodic.get_forces(), want.forces[0], **ROUNDING)
    np.testing.assert_allclose(periodic.get_potential_energies(), want.energies[0], **ROUNDING)
    np.testing.assert_allclose(periodic.get_stress(), want.stress[0], **ROUNDING)


def test_types_and_shapes(potential, slab):
    slab.calc = NEMP(potential)
    properties = slab.calc.get_property
    assert type(properties("energy", slab)) is float
    assert type(properties("free_energy", slab)) is float
    assert properties("forces", slab).shape == (13, 3)
    assert properties("energies", slab).shape == (13,)
    assert properties("stress", slab).shape == (6,)
    assert {properties(name, slab).dtype for name in ("forces", "stress")} == {np.dtype(float)}


@pytest.mark.parametrize("name", ["forces", "energies", "stress"])
def test_arrays_are_copies(potential, slab, name):
    slab.calc = NEMP(potential)
    first = slab.calc.get_property(name, slab)
    want = first.copy()
    first += 1.0
    np.testing.assert_array_equal(slab.calc.get_property(name, slab), want)


def test_numerical_forces_and_stress(potential, periodic):
    periodic.calc = NEMP(potential)
    stress = calculate_numerical_stress(periodic, eps=1e-5, force_consistent=False)
    np.testing.assert_allclose(periodic.get_stress(), stress, **FINITE_DIFFERENCE)
    forces = calculate_numerical_forces(periodic, eps=1e-4, iatoms=[0, len(periodic) - 1])
    np.testing.assert_allclose(periodic.get_forces()[[0, -1]], forces, **FINITE_DIFFERENCE)


@pytest.mark.parametrize("cell", [None, [9, 9, 9]])
def test_stress_of_a_molecule_is_not_implemented(potential, methanol, cell):
    methanol.cell = cell
    methanol.calc = NEMP(potential)
    with pytest.raises(PropertyNotImplementedError, match="periodic axis"):
        methanol.get_stress()
    assert np.isfinite(methanol.get_potential_energy())


def test_export_of_all_properties(potential, slab):
    """ASE checks names and shapes here; i-PI's driver relies on it."""
    slab.calc = NEMP(potential)
    slab.get_stress()
    assert set(slab.calc.export_properties()) >= set(PROPERTIES)


# --- caching


def test_energy_then_forces_is_one_evaluation(potential, methanol, count_evaluations):
    methanol.calc = NEMP(potential)
    calls = count_evaluations(methanol.calc)
    methanol.get_potential_energy()
    methanol.get_forces()
    methanol.get_potential_energies()
    assert len(calls) == 1


CHANGES = {
    "positions": lambda a: a.positions.__iadd__([[0.01, 0, 0]] + [[0, 0, 0]] * 12),
    "numbers": lambda a: a.symbols.__setitem__(0, "H"),
    "cell": lambda a: a.set_cell(a.cell * 1.01),
    "pbc": lambda a: a.set_pbc([True, False, False]),
    "fewer atoms": lambda a: a.__delitem__(3),
    "more atoms": lambda a: a.append("H"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_atoms_are_evaluated_anew(potential, slab, change):
    slab.calc = NEMP(potential)
    before = slab.get_potential_energy()
    CHANGES[change](slab)
    after = slab.get_potential_energy()
    assert after != before
    np.testing.assert_allclose(after, potential.evaluate([slab]).energy[0], rtol=1e-13)


def test_one_calculator_serves_several_structures(potential, structures):
    calculator = NEMP(potential)
    for _ in range(2):
        for name in ("slab", "methanol", "water", "lone_atom", "tilted"):
            atoms = structures[name]
            atoms.calc = calculator
            want = potential.evaluate([atoms])
            np.testing.assert_allclose(atoms.get_potential_energy(), want.energy[0], rtol=1e-13)
            np.testing.assert_allclose(atoms.get_forces(), want.forces[0], rtol=0, atol=1e-12)


def test_neighbour_list_is_kept_between_small_steps(potential, water):
    water.calc = NEMP(potential, skin_angstrom=1.0)
    for _ in range(5):
        water.positions[0] += 0.01
        water.get_forces()
    assert water.calc.neighbors.n_builds == 1


def test_failed_evaluation_leaves_no_old_results(potential, methanol, monkeypatch):
    methanol.calc = NEMP(potential)
    methanol.get_potential_energy()

    def fail(*args, **options):
        raise EvaluationError("out of memory")

    monkeypatch.setattr(methanol.calc.potential, "evaluate", fail)
    methanol.positions += 0.1 * np.eye(6, 3)
    for _ in range(2):
        with pytest.raises(CalculationFailed, match="out of memory"):
            methanol.get_potential_energy()


# --- several calculators, and torch left alone


def test_calculators_of_both_dtypes_side_by_side(random_potential, water):
    calculators = {
        (form, dtype): NEMP(random_potential(form, dtype=dtype))
        for form in ("smooth", "published")
        for dtype in (torch.float32, torch.float64)
    }
    energies = {}
    for _ in range(2):
        for key, calculator in calculators.items():
            water.calc = calculator
            energies.setdefault(key, set()).add(water.get_potential_energy())
    assert all(len(values) == 1 for values in energies.values())
    assert len(set.union(*energies.values())) == 4


def test_torch_is_left_alone(random_potential, tmp_path, slab):
    path = save_potential(random_potential("smooth").model, PotentialMetadata(), tmp_path / "p.pt")
    torch.manual_seed(5)
    before = torch_state()
    slab.calc = NEMP(path, device="cpu", dtype="float64")
    slab.get_stress()
    assert torch_state() == before


def torch_state():
    return (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.get_num_interop_threads(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_rng_state().numpy().tobytes(),
        torch.get_float32_matmul_precision(),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_results_ignore_the_default_dtype(random_potential, tmp_path, slab, dtype):
    path = save_potential(random_potential("smooth").model, PotentialMetadata(), tmp_path / "p.pt")
    want = random_potential("smooth").evaluate([slab]).energy[0]
    torch.set_default_dtype(dtype)
    try:
        slab.calc = NEMP(path, device="cpu")
        np.testing.assert_allclose(slab.get_potential_energy(), want, rtol=1e-13)
        assert slab.calc.potential.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


# --- errors


def test_unknown_element(potential):
    atoms = Atoms("Au", calculator=NEMP(potential))
    with pytest.raises(UnknownElementError, match="Au"):
        atoms.get_potential_energy()


def test_positions_that_are_not_finite(potential, methanol):
    methanol.calc = NEMP(potential)
    methanol.positions[2, 1] = np.nan
    with pytest.raises(InputError, match=r"positions\[2\]"):
        methanol.get_forces()


def test_missing_potential():
    with pytest.raises(PotentialFileError, match="nowhere.pt"):
        NEMP("nowhere.pt")


@pytest.mark.parametrize("options", [{"device": "cpu"}, {"dtype": "float32"}])
def test_options_of_the_file_with_a_loaded_potential(potential, options):
    with pytest.raises(InputError, match="load_potential"):
        NEMP(potential, **options)


@pytest.mark.parametrize("skin", [-1.0, float("nan")])
def test_bad_skin(potential, skin):
    with pytest.raises(InputError, match="skin_angstrom"):
        NEMP(potential, skin_angstrom=skin)


def test_no_atoms(potential):
    atoms = Atoms(calculator=NEMP(potential))
    assert atoms.get_potential_energy() == 0
    assert atoms.get_forces().shape == (0, 3)


# --- ASE's drivers


def test_molecular_dynamics(random_potential, water):
    water.calc = NEMP(random_potential("smooth"))
    width = np.sqrt(water.get_masses() * units.kB * 300)
    water.set_momenta(np.random.default_rng(1).normal(size=(24, 3)) * width[:, None])
    kinetic = water.get_kinetic_energy()
    start = water.get_total_energy()
    with VelocityVerlet(water, timestep=0.25 * units.fs) as dynamics:
        dynamics.run(20)
    assert abs(water.get_total_energy() - start) < 2e-4 * len(water)
    assert abs(water.get_kinetic_energy() - kinetic) > 1e-3


def test_relaxation_with_fixed_atoms(random_potential, slab):
    slab.calc = NEMP(random_potential("smooth"))
    slab.set_constraint(FixAtoms(mask=slab.symbols == "Pd"))
    fixed = slab.positions[:-1].copy()
    energy = slab.get_potential_energy()
    with BFGS(slab, logfile=None) as optimizer:
        assert optimizer.run(fmax=1e-3, steps=100)
    assert slab.get_potential_energy() < energy
    assert np.linalg.norm(slab.get_forces(), axis=1).max() < 1e-3
    np.testing.assert_array_equal(slab.positions[:-1], fixed)
