from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.units import GPa

from nemp_sim.errors import InputError
from nemp_sim.minimum import relax_crystal
from nemp_sim.surfaces.slabs import (
    equation_of_state,
    fcc_slab,
    freeze_lowest_layers,
    layers_from_below,
    slab_words,
    vacuum_words,
)
from tests.engines import EMTEngine, StressEMT


def test_default_slab_is_that_of_the_training_data():
    slab = fcc_slab()
    assert slab.get_chemical_formula() == "Pd12"
    assert slab.pbc.tolist() == [True, True, False]
    a = 3.95
    np.testing.assert_allclose(slab.cell.lengths()[:2], 2 * a / np.sqrt(2), rtol=1e-12)
    heights = np.unique(slab.positions[:, 2].round(8))
    np.testing.assert_allclose(np.diff(heights), a / np.sqrt(3), atol=1e-7)
    assert slab.cell[2, 2] - np.ptp(heights) >= 11.0


def test_only_the_lowest_layers_are_held():
    for layers in (0, 1, 2):
        slab = fcc_slab(fixed_layers=layers)
        held = slab.constraints[0].index if layers else []
        assert sorted(held) == list(range(4 * layers))
        assert (
            slab.positions[4 * layers :, 2] > slab.positions[: 4 * layers, 2].max(initial=0)
        ).all()


def test_alloy_has_the_asked_share_in_random_order():
    slab = fcc_slab("Pd3Ag", size=(4, 4, 4), seed=1)
    assert slab.get_chemical_formula() == "Ag16Pd48"
    same = fcc_slab({"Pd": 0.75, "Ag": 0.25}, size=(4, 4, 4), seed=1)
    assert (same.numbers == slab.numbers).all()
    assert (fcc_slab("Pd3Ag", size=(4, 4, 4), seed=2).numbers != slab.numbers).any()
    assert fcc_slab({"Ag": 1, "Pd": 2}, size=(1, 1, 5)).get_chemical_formula() == "Ag2Pd3"


@pytest.mark.parametrize(
    ("facet", "spacing", "area"), [("100", 1 / 2, 1 / 2), ("110", 1 / 8**0.5, 1 / 2**0.5)]
)
def test_other_facets(facet, spacing, area):
    slab = fcc_slab("Ag", facet, lattice_constant_angstrom=4.0, size=(1, 1, 4), fixed_layers=2)
    np.testing.assert_allclose(np.diff(slab.positions[:, 2]), 4.0 * spacing)
    assert np.linalg.det(slab.cell[:2, :2]) == pytest.approx(16 * area)
    assert slab.constraints[0].index.tolist() == [0, 1]


def test_equation_of_state_against_the_minimum_of_the_stress():
    for composition in ("Cu", "Pd"):
        found = equation_of_state(EMTEngine(), composition)
        relaxed = relax_crystal(StressEMT(), bulk(composition, a=3.7), smax_GPa=1e-4)
        a = (4 * relaxed.atoms.get_volume()) ** (1 / 3)
        assert found.lattice_constant_angstrom == pytest.approx(a, abs=2e-3)
    # −V dP/dV by central differences of the stress at a (1 ± 0.002)
    pressures = []
    for scale in (0.998, 1.002):
        atoms = bulk("Pd", a=a * scale)
        atoms.calc = EMT()
        pressures.append(-atoms.get_stress()[:3].mean() / GPa)
    modulus = (pressures[0] - pressures[1]) / (3 * 0.004)
    assert found.bulk_modulus_GPa == pytest.approx(modulus, rel=0.02)


def test_lattice_constant_of_an_alloy_lies_between_its_metals():
    engine = EMTEngine()
    pd, ag, alloy = (
        equation_of_state(engine, c).lattice_constant_angstrom for c in ("Pd", "Ag", "PdAg")
    )
    assert alloy == pytest.approx((pd + ag) / 2, abs=0.03)


def test_lattice_constant_far_from_the_guess_is_found():
    class Parabola:
        def evaluate(self, structures):
            a = np.array([(4 * atoms.get_volume()) ** (1 / 3) for atoms in structures])
            return SimpleNamespace(energy=5 * (a - 4.6) ** 2 - 3)

    found = equation_of_state(Parabola(), "Pd")
    assert found.lattice_constant_angstrom == pytest.approx(4.6, abs=0.01)


def test_a_metal_that_the_potential_does_not_hold_is_refused():
    class Repulsion:
        def evaluate(self, structures):
            return SimpleNamespace(
                energy=np.array([1 / atoms.get_volume() for atoms in structures])
            )

    with pytest.raises(InputError, match="no minimum near a lattice constant of 5.3"):
        equation_of_state(Repulsion(), "Pd")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fcc_slab(facet="211"), "facet is '211', but must be one of 111, 100, 110"),
        (lambda: fcc_slab("Xx"), "composition is {'Xx': 1}"),
        (lambda: fcc_slab({"Pd": -1.0}), "composition is {'Pd': -1.0}"),
        (lambda: fcc_slab(""), "composition is {}"),
        (lambda: fcc_slab(lattice_constant_angstrom=-1), "lattice_constant_angstrom is -1"),
        (lambda: fcc_slab(size=(2, 0, 3)), "size is"),
        (lambda: fcc_slab(vacuum_angstrom=0), "vacuum_angstrom is 0"),
        (lambda: fcc_slab(fixed_layers=3), "fixed_layers is 3.*3 layers"),
        (lambda: fcc_slab(fixed_layers=-1), "fixed_layers is -1"),
        (lambda: freeze_lowest_layers(bulk("Pd", cubic=True), 1), "no layer is the lowest"),
        (lambda: layers_from_below(Atoms()), "atoms is 'empty'"),
    ],
)
def test_unusable_values_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_layers_of_a_relaxed_slab_wrapped_through_the_boundary(rng):
    slab = fcc111("Pd", (2, 2, 4), a=3.95, vacuum=7.0, periodic=True)
    expected = [sorted(layer) for layer in layers_from_below(slab)]
    assert expected == [list(range(4 * k, 4 * k + 4)) for k in range(4)]
    slab.positions += rng.normal(scale=0.04, size=slab.positions.shape)
    slab.positions[:, 2] -= slab.positions[0, 2]  # the lowest layer straddles the boundary
    slab.wrap()
    assert [sorted(layer) for layer in layers_from_below(slab)] == expected


def test_layers_follow_the_normal_of_a_tilted_cell():
    slab = fcc111("Pd", (2, 2, 3), a=3.95, vacuum=8.0)
    slab.rotate(70, "x", rotate_cell=True)
    assert sorted(layers_from_below(slab)[0]) == [0, 1, 2, 3]


def test_a_slab_in_words_for_a_methods_section():
    slab = fcc_slab(size=(2, 2, 4), fixed_layers=2, vacuum_angstrom=7.0)
    free = "14.0 Å of vacuum and no periodicity along the normal"
    assert slab_words(slab) == f"4 layers, the lowest 2 held (8 of 16 atoms), {free}"
    slab.pbc = True
    slab.positions[:, 2] += 9.0  # over the boundary
    slab.wrap()
    assert slab_words(slab) == "4 layers, the lowest 2 held (8 of 16 atoms), 14.0 Å of vacuum"
    assert slab_words(fcc_slab(fixed_layers=0)).startswith("3 layers, none held, 16.0 Å")
    assert slab_words(fcc_slab()).startswith("3 layers, the lowest held (4 of 12 atoms)")
    assert vacuum_words(bulk("Pd")) == vacuum_words(Atoms("H")) == ""


def test_freezing_replaces_older_constraints_of_the_copy_only():
    slab = fcc_slab(fixed_layers=1)
    frozen = freeze_lowest_layers(slab, 2)
    assert len(frozen.constraints) == 1 and isinstance(frozen.constraints[0], FixAtoms)
    assert len(frozen.constraints[0].index) == 8
    assert len(slab.constraints[0].index) == 4
