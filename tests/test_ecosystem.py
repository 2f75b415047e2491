"""Other programs find and run the potential: ASE's plugins and database, torch-sim, janus-core."""

import importlib
import tomllib
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
import torch

from nemp_sim.calculator import NEMP
from nemp_sim.evaluation import VOIGT

PROJECT = Path(__file__).parent.parent / "pyproject.toml"


def test_ase_plugin():
    entry = tomllib.loads(PROJECT.read_text())["project"]["entry-points"]["ase.plugins"]["nemp"]
    (plugin,) = importlib.import_module(entry).__ase_plugins__
    assert plugin.name == "nemp"
    assert plugin.implementation is NEMP


def test_ase_database_and_extxyz_keep_the_results(random_potential, slab, tmp_path):
    slab.info.clear()
    slab.calc = NEMP(random_potential("smooth"))
    energy, forces = slab.get_potential_energy(), slab.get_forces()
    with ase.db.connect(tmp_path / "results.db") as database:
        database.write(slab, adsorbate="H", site="fcc")
        row = database.get(adsorbate="H")
    assert (row.energy, row.calculator) == (pytest.approx(energy), "nemp")
    np.testing.assert_allclose(row.forces, forces)
    ase.io.write(tmp_path / "slab.extxyz", slab)
    back = ase.io.read(tmp_path / "slab.extxyz")
    assert back.get_potential_energy() == pytest.approx(energy)
    np.testing.assert_allclose(back.get_forces(), forces, atol=1e-7)


def test_torch_sim(random_potential, water, tilted):
    torch_sim = pytest.importorskip("torch_sim")
    from nemp_sim.torch_sim import TorchSimModel

    potential = random_potential("smooth")
    model = TorchSimModel(potential)
    state = torch_sim.io.atoms_to_state([water, tilted], model.device, model.dtype)
    found = model(state)
    expected = potential.evaluate([water, tilted], stress=True)
    np.testing.assert_allclose(found["energy"], expected.energy)
    np.testing.assert_allclose(found["forces"], np.concatenate(expected.forces), atol=1e-10)
    voigt = np.array([[s[a, b] for a, b in VOIGT] for s in found["stress"]])
    np.testing.assert_allclose(voigt, expected.stress, atol=1e-12)


def test_janus_core(random_potential, water, tmp_path):
    pytest.importorskip("janus_core")
    from janus_core.calculations.single_point import SinglePoint

    water.calc = NEMP(random_potential("smooth"))
    expected = water.get_potential_energy()
    found = SinglePoint(struct=water, properties=["energy", "stress"], file_prefix=tmp_path / "w")
    assert found.run()["energy"] == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TorchScript's own
@pytest.mark.parametrize("form", ["smooth", "published"])
def test_metatomic(random_potential, structures, form, tmp_path):
    pytest.importorskip("metatomic_ase")
    from metatensor.torch import Labels
    from metatomic.torch import ModelOutput
    from metatomic_ase import MetatomicCalculator

    from nemp_sim.metatomic import export_metatomic

    potential = random_potential(form)
    calculator = MetatomicCalculator(export_metatomic(potential, tmp_path / "m.pt"), device="cpu")
    for name in ("lone_atom", "water", "tilted", "slab"):
        atoms = structures[name].copy()
        stress = bool(atoms.pbc.all())
        expected = potential.evaluate([atoms], stress=stress)
        atoms.calc = calculator
        assert atoms.get_potential_energy() == pytest.approx(expected.energy[0], abs=1e-9)
        np.testing.assert_allclose(atoms.get_forces(), expected.forces[0], atol=1e-9)
        if stress:
            np.testing.assert_allclose(atoms.get_stress(), expected.stress[0], atol=1e-9)
    both = [structures["water"], structures["tilted"]]
    expected = potential.evaluate(both)
    wanted = {"energy": ModelOutput(unit="eV", sample_kind="system")}
    found = calculator.run_model(both, wanted)["energy"].block()
    np.testing.assert_allclose(found.values[:, 0].detach(), expected.energy, atol=1e-9)
    place = torch.tensor([[0, 1], [1, 0]], dtype=torch.int32)
    wanted = {"energy": ModelOutput(unit="eV", sample_kind="atom")}
    chosen = Labels(["system", "atom"], place)
    found = calculator.run_model(both, wanted, chosen)["energy"].block()
    of_atoms = [expected.energies[0][1], expected.energies[1][0]]
    np.testing.assert_allclose(found.values[:, 0].detach(), of_atoms, atol=1e-9)
