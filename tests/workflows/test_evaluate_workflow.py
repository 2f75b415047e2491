import json
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from nemp_sim.errors import InputError
from nemp_sim.workflows.evaluate import Settings, run


@pytest.fixture
def frames():
    """Rattled Cu cells of two sizes."""
    made = []
    for seed in range(5):
        atoms = bulk("Cu", cubic=True) * (1, 1, 1 + seed % 2)
        atoms.rattle(0.05, seed=seed)
        made.append(atoms)
    return made


class Off:
    """An engine that is off by known errors."""

    def __init__(self, engine):
        self.engine = engine

    def evaluate(self, structures):
        exact = self.engine.evaluate(structures)
        sizes = np.array([len(atoms) for atoms in structures])
        forces = tuple(f + 0.02 * (-1) ** np.arange(f.size).reshape(f.shape) for f in exact.forces)
        return SimpleNamespace(energy=exact.energy + 5e-3 * sizes, forces=forces)


@pytest.mark.parametrize("own", [True, False])
def test_errors_against_labels_are_those_that_were_made(own, frames, emt, tmp_path):
    exact = emt.evaluate(frames)
    for atoms, energy, forces in zip(frames[:4], exact.energy, exact.forces, strict=False):
        if own:
            atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        else:
            atoms.info["REF_energy"], atoms.arrays["REF_forces"] = energy, forces
    write(tmp_path / "frames.extxyz", frames)
    said = []
    result = run(Settings(tmp_path / "frames.extxyz", out=tmp_path), Off(emt), said.append)
    assert said == ["evaluated 5 of 5 frames, 0 s left"]
    assert result.directory.name == "evaluate-frames"
    assert {p.name for p in result.directory.iterdir()} == set(result.report.files)
    values = json.loads((result.directory / "report.json").read_text(encoding="utf-8"))
    assert (values["n_frames"], values["n_labelled"]) == (5, 4)
    assert values["energy_rmse_meV_per_atom"] == pytest.approx(5.0, rel=1e-4)
    assert values["energy_shift_meV_per_atom"] == pytest.approx(5.0, rel=1e-4)
    assert values["energy_rmse_about_shift_meV_per_atom"] == pytest.approx(0.0, abs=1e-3)
    assert values["force_rmse_meV_per_A"] == pytest.approx(20.0, rel=1e-4)
    assert values["error_over_std"] is None
    written = read(result.directory / "evaluated.extxyz", ":")
    assert written[4].info["nemp_energy"] == pytest.approx(exact.energy[4] + 0.02)
    assert "REF_energy" not in written[4].info and "REF_forces" in written[3].arrays


def test_frames_without_labels(frames, emt, tmp_path):
    write(tmp_path / "bare.xyz", frames)
    result = run(Settings(tmp_path / "bare.xyz", out=tmp_path), emt)
    assert result.check is None and "none has labels" in result.report.verdict
    assert "parity.png" not in result.report.files
    energies = [atoms.info["nemp_energy"] for atoms in result.structures]
    assert energies == pytest.approx(emt.evaluate(read(tmp_path / "bare.xyz", ":")).energy)


def test_uncertainties_and_domain_of_a_potential(pdh, tmp_path):
    near = Atoms("H2", [[0, 0, 0], [0, 0, 0.75]])
    far = Atoms("Pd2", [[0, 0, 0], [0, 0, 1.2]])
    write(tmp_path / "two.xyz", [near, far])
    settings = Settings(tmp_path / "two.xyz", str(pdh), device="cpu", out=tmp_path)
    with pytest.warns(UserWarning, match="outside"):
        result = run(settings)
    inside, outside = result.structures
    assert "nemp_outside" not in inside.info and "Pd" in outside.info["nemp_outside"]
    assert inside.arrays["nemp_forces_std"].shape == (2, 3) and inside.info["nemp_energy_std"] > 0
    assert result.report.verdict.startswith("OUTSIDE")


def test_unusable_settings_are_refused(tmp_path, emt):
    with pytest.raises(InputError, match="Give --structures FILE"):
        Settings()
    with pytest.raises(InputError, match="there is no such file"):
        run(Settings(tmp_path / "none.xyz", out=tmp_path / "results"), emt)
    assert not (tmp_path / "results").exists()
