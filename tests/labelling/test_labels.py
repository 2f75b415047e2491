import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

from nemp_sim.errors import InputError
from nemp_sim.labelling.labels import compute_label, find_calculator


class Smeared(Calculator):
    """Energy and free energy differ, as with electronic temperature."""

    implemented_properties = ("energy", "free_energy", "forces")

    def calculate(self, atoms=None, properties=(), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": -1.0, "free_energy": -1.5, "forces": np.ones((len(atoms), 3))}


class Plain(Smeared):
    """Gives no free energy."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=(), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        del self.results["free_energy"]


@pytest.fixture
def copper():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.info["config_type"] = "bulk_Cu"
    return atoms


def test_label_is_that_of_the_calculator(copper):
    label = compute_label(copper, lambda atoms: EMT(), stress=True)
    copper.calc = EMT()
    assert label.info["REF_energy"] == copper.get_potential_energy()
    np.testing.assert_array_equal(label.arrays["REF_forces"], copper.get_forces())
    stress = label.info["REF_stress"].reshape(3, 3)
    np.testing.assert_array_equal(stress, copper.get_stress(voigt=False))
    assert label.info["config_type"] == "bulk_Cu" and "REF_energy_T0" not in label.info
    assert label.calc is None


def test_energy_belongs_to_the_forces(copper):
    label = compute_label(copper, lambda atoms: Smeared())
    assert label.info["REF_energy"] == -1.5 and label.info["REF_energy_T0"] == -1.0
    label = compute_label(copper, lambda atoms: Plain())
    assert label.info["REF_energy"] == -1.0 and "REF_energy_T0" not in label.info
    assert "REF_stress" not in label.info


def test_stress_of_bulk_alone():
    for pbc in ([True, True, False], True):
        slab = fcc111("Cu", (1, 1, 3), vacuum=5.0)
        slab.pbc = pbc
        assert "REF_stress" not in compute_label(slab, lambda atoms: EMT(), stress=True).info


class NotFinite(Smeared):
    def calculate(self, atoms=None, properties=(), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results["forces"][0, 0] = np.nan


class Moving(Smeared):
    """Moves the atoms that it was given to."""

    def __init__(self, atoms):
        super().__init__()
        self.mine = atoms

    def calculate(self, atoms=None, properties=(), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.mine.positions[0, 0] += 0.1


@pytest.mark.parametrize(
    ("factory", "message"),
    [(lambda atoms: NotFinite(), "not finite"), (Moving, "changed positions")],
)
def test_wrong_labels_are_refused(factory, message, copper):
    with pytest.raises(ValueError, match=message):
        compute_label(copper, factory)


def test_the_factory_may_prepare_a_copy(copper):
    def factory(atoms):
        atoms.set_initial_magnetic_moments([1.0] * len(atoms))
        atoms.pbc = False
        return EMT()

    label = compute_label(copper, factory)
    assert label.pbc.all() and "initial_magmoms" not in label.arrays


def test_calculators_by_name(tmp_path):
    factory, identity = find_calculator("emt")
    assert isinstance(factory(Atoms("Cu")), EMT) and identity == "ase.calculators.emt:EMT"
    path = tmp_path / "mine.py"
    path.write_text("def make(atoms):\n    return len(atoms)\n")
    factory, identity = find_calculator(f"{path}:make")
    assert factory(Atoms("Cu2")) == 2 and identity.startswith("mine.py:make sha256:")
    path.write_text("def make(atoms):\n    return 10 * len(atoms)\n")
    changed, other = find_calculator(f"{path}:make")
    assert changed(Atoms("Cu2")) == 20 and other != identity


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("etm", "calculator is 'etm', but must be 'emt'.*Did you mean 'emt'"),
        ("missing.py:make", "there is no file missing.py"),
        ("ase.calculators.emt:ETM", "no function ETM. Did you mean 'EMT'"),
        ("no_such_module:make", "importing no_such_module failed .ModuleNotFoundError"),
        (":make", "must be"),
    ],
)
def test_wrong_names_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        find_calculator(name)


def test_a_file_that_fails_is_named(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("import does_not_exist_here\n")
    with pytest.raises(InputError, match="broken.py failed .*does_not_exist_here"):
        find_calculator(f"{path}:make")
