import json

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.optimize import BFGS

from nemp_sim.errors import EvaluationError, InputError
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import fcc_slab
from nemp_sim.workflows.relax import Settings, run
from tests.engines import StressEMT


@pytest.fixture
def hollows(tmp_path):
    """A file of two frames, the lowest layer held, and the settings that relax it."""
    slab = fcc_slab(fixed_layers=1)
    write(tmp_path / "hollows.traj", [place(slab, "H", site) for site in ("fcc", "hcp")])
    return Settings(str(tmp_path / "hollows.traj"), potential="emt", out=tmp_path / "results")


def test_energies_are_those_of_ase_one_by_one(hollows, emt):
    seen = []
    result = run(hollows, emt, seen.append)
    assert result.trusted and result.directory.name == "relax-hollows"
    assert {p.name for p in result.directory.iterdir()} == set(result.report.files)
    for before, after in zip(read(hollows.structures, ":"), result.structures, strict=True):
        before.calc = EMT()
        BFGS(before, logfile=None).run(fmax=hollows.fmax)
        wanted = before.get_potential_energy()
        assert after.get_potential_energy() == pytest.approx(wanted, abs=1e-3)
        np.testing.assert_array_equal(after.positions[:4], before.positions[:4])
    report = json.loads((result.directory / "report.json").read_text(encoding="utf-8"))
    assert [row["converged"] for row in report["structures"]] == [True, True]
    assert report["structures"][0]["volume_A3"] is None
    assert report["optimizer_steps"] == seen[-1].number
    written = read(result.directory / "relaxed.extxyz", ":")
    energies = [atoms.get_potential_energy() for atoms in written]
    assert energies == pytest.approx([a.get_potential_energy() for a in result.structures])


def test_cells_are_those_of_ase(tmp_path):
    atoms = bulk("Cu", cubic=True, a=3.4)
    atoms.rattle(0.05, seed=1)
    write(tmp_path / "cu.vasp", atoms)
    result = run(
        Settings(str(tmp_path / "cu.vasp"), cell=True, fmax=1e-3, potential="emt", out=tmp_path),
        StressEMT(),
    )
    atoms = read(tmp_path / "cu.vasp")
    atoms.calc = EMT()
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-4)
    assert result.structures[0].get_volume() == pytest.approx(atoms.get_volume(), rel=1e-3)
    assert result.trusted and result.report.data["structures"][0]["volume_A3"] > 40


def test_not_converged_is_said(hollows, emt):
    short = Settings(hollows.structures, steps=1, potential="emt", out=hollows.out)
    result = run(short, emt)
    assert not result.trusted and result.report.verdict.startswith("NOT CONVERGED: structure 0, 1")


def test_a_run_that_breaks_off_keeps_its_last_step(hollows, emt):
    class Failing:
        calls = 0

        def evaluate(self, structures):
            result = emt.evaluate(structures)
            self.calls += 1
            if self.calls > 2:
                result.forces[0][0] = np.nan
            return result

    with pytest.raises(EvaluationError):
        run(hollows, Failing())
    assert len(read(hollows.directory / "broken-off.extxyz", ":")) == 2
    run(hollows, emt)
    assert not (hollows.directory / "broken-off.extxyz").exists()


def test_layers_are_held(tmp_path, emt):
    result = run(Settings(fixed_layers=2, out=tmp_path), emt)
    assert result.structures[0].constraints[0].index.tolist() == list(range(8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fmax": 0.0}, "fmax is 0.0"),
        ({"smax": -1.0}, "smax is -1.0"),
        ({"steps": 0}, "steps is 0"),
        ({"optimizer": "cg"}, "optimizer is 'cg'"),
        ({"fixed_layers": -1}, "fixed_layers is -1"),
        ({"name": "a/b"}, "name is 'a/b'"),
        ({"structures": "none.xyz"}, "potential is not given"),
        ({"structures": "none.xyz", "potential": "p.pt"}, "neither built in"),
        ({"cell": True}, "cell is wanted, but structure 0 .HPd12."),
        ({"fixed_layers": 4}, "fixed_layers is 4"),
    ],
)
def test_unusable_settings_are_refused(changes, message, tmp_path, emt):
    with pytest.raises(InputError, match=message):
        run(Settings(**changes, out=tmp_path / "results"), emt)
    assert not (tmp_path / "results").exists()
