import json

import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write
from typer.testing import CliRunner

from nemp_sim.errors import InputError
from nemp_sim.potential import Evaluation
from nemp_sim.workflows.umbrella import Settings, app, run

pytest.importorskip("ipi", reason="i-PI is not installed")
BARRIER, HALF = 0.15, 0.6  # eV, Å


class DoubleWell:
    """BARRIER (u² − 1)² with u = x/HALF of every atom, stiff along y and z."""

    cutoff_angstrom = 3.0

    def evaluate(self, structures, forces=True, stress=False, neighbors=None):
        energy, slopes = [], []
        for atoms in structures:
            u, across = atoms.positions[:, 0] / HALF, atoms.positions[:, 1:]
            energy.append((BARRIER * (u**2 - 1) ** 2).sum() + 1.5 * (across**2).sum())
            slope = 3.0 * atoms.positions
            slope[:, 0] = 4 * BARRIER * u * (u**2 - 1) / HALF
            slopes.append(-slope)
        return Evaluation(np.array(energy), (), tuple(slopes), np.zeros((len(structures), 6)))


@pytest.fixture
def settings(tmp_path):
    """Function that makes settings with changes."""
    for name, x in (("left", -0.55), ("right", 0.62)):
        write(tmp_path / f"{name}.extxyz", Atoms("H", [[x, 0.1, 0]]))
    given = {"initial": tmp_path / "left.extxyz", "final": tmp_path / "right.extxyz"}
    given |= {"out": tmp_path, "beads": (1,), "windows": 3, "margin": 0.0, "spring": 10.0}
    given |= {"steps": 90, "equilibration": 10, "timestep": 1.0, "tau": 15.0}
    return lambda **changes: Settings(**given | changes)


def test_windows_along_a_double_well(settings):
    result = run(settings(), DoubleWell())
    profile = result.profiles[1]
    assert profile.path_A[0] == pytest.approx(0.0, abs=0.25)
    assert profile.barrier_eV.mean > 0.0 and profile.barrier_eV.error > 0
    notes = " ".join(result.report.notes)
    assert "too short for their error bars" in notes and "no data between them" in notes
    assert result.directory.name == "umbrella-left-right"
    names = {p.name for p in result.directory.iterdir()}
    assert names == {"beads-1"} | set(result.report.files) - {"beads-*/window-*/"}
    assert {"profile.png", "profile.pdf", "settings.toml", "run.log"} < names
    values = json.loads((result.directory / "report.json").read_text(encoding="utf-8"))
    assert values["barrier_1_eV"] == pytest.approx(profile.barrier_eV.mean)
    ends = read(result.directory / "ends.extxyz", ":")
    assert [round(a.positions[0, 0], 2) for a in ends] == [-HALF, HALF]
    again = run(settings(), DoubleWell())  # nothing is left to simulate
    np.testing.assert_array_equal(again.profiles[1].free_energy_eV, profile.free_energy_eV)


def test_unusable_settings_are_refused(settings):
    for values, message in (
        ({"final": None}, "both --initial and --final"),
        ({"windows": 2}, "windows is 2"),
        ({"spring": 0.0}, "spring is 0.0"),
        ({"equilibration": 90}, "equilibration is 90"),
        ({"beads": ()}, "beads is"),
        ({"mode": "inet"}, "mode is"),
    ):
        with pytest.raises(InputError, match=message):
            settings(**values)
    with pytest.raises(InputError, match="atom is 3"):
        run(settings(atom=3), DoubleWell())
    result = CliRunner().invoke(app, ["--beads", "x"])
    assert result.exit_code == 2 and "whole numbers" in result.output
