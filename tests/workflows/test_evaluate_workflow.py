import json
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from nemp_sim.errors import InputError
from nemp_sim.workflows import evaluate
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
    written = read(result.directory / "evaluated.extxyz", ":")
    energies = [atoms.info["nemp_energy"] for atoms in written]
    assert energies == pytest.approx(emt.evaluate(read(tmp_path / "bare.xyz", ":")).energy)


def test_uncertainties_and_domain_of_a_potential(pdh, tmp_path):
    near = Atoms("H2", [[0, 0, 0], [0, 0, 0.75]])
    far = Atoms("Pd2", [[0, 0, 0], [0, 0, 1.2]])
    write(tmp_path / "two.xyz", [near, far])
    settings = Settings(tmp_path / "two.xyz", str(pdh), device="cpu", out=tmp_path)
    with pytest.warns(UserWarning, match="outside"):
        result = run(settings)
    inside, outside = read(result.directory / "evaluated.extxyz", ":")
    assert "nemp_outside" not in inside.info and "Pd" in outside.info["nemp_outside"]
    assert inside.arrays["nemp_forces_std"].shape == (2, 3) and inside.info["nemp_energy_std"] > 0
    assert result.report.verdict.startswith("OUTSIDE")


@pytest.mark.parametrize(
    ("energy", "forces", "said"),
    [
        (1.0, np.zeros(3), "shape"),  # of three atoms: would be broadcast
        (1.0, np.zeros((3, 2)), "shape"),
        (1.0, np.full((3, 3), np.nan), "finite"),
        (np.inf, np.zeros((3, 3)), "finite"),
        ("low", np.zeros((3, 3)), "no number"),
        (True, np.full((3, 3), "a"), "no numbers"),
    ],
)
def test_labels_that_mean_nothing_are_refused_before_anything_is_computed(
    energy, forces, said, emt, tmp_path
):
    good, bad = (Atoms("Cu3", [[0, 0, 0], [2.5, 0, 0], [0, 2.5, 0]]) for _ in range(2))
    good.info["REF_energy"], good.arrays["REF_forces"] = 1.0, np.zeros((3, 3))
    bad.info["REF_energy"], bad.arrays["REF_forces"] = energy, forces
    write(tmp_path / "bad.extxyz", [good, bad])
    with pytest.raises(InputError, match=rf"frame 1 .*{said}"):
        run(Settings(tmp_path / "bad.extxyz", out=tmp_path / "results"), emt)
    assert not (tmp_path / "results").exists()


def test_no_more_frames_are_in_memory_than_are_evaluated_at_once(emt, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "AT_ONCE", 4)
    atoms = bulk("Cu")
    atoms.info["REF_energy"], atoms.arrays["REF_forces"] = 0.0, np.zeros((1, 3))
    write(tmp_path / "many.extxyz", [atoms] * 50)
    seen, alive = [], []

    class Counting:
        def evaluate(self, structures):
            seen.extend(map(weakref.ref, structures))
            alive.append(sum(each() is not None for each in seen))
            return emt.evaluate(structures)

    result = run(Settings(tmp_path / "many.extxyz", out=tmp_path), Counting())
    assert result.check.n_structures == 50 and len(seen) == 51  # and a lone atom
    assert max(alive) <= 2 * 4 + 1


def test_unusable_settings_are_refused(tmp_path, emt):
    with pytest.raises(InputError, match="Give --structures FILE"):
        Settings()
    with pytest.raises(InputError, match="there is no such file"):
        run(Settings(tmp_path / "none.xyz", out=tmp_path / "results"), emt)
    assert not (tmp_path / "results").exists()
