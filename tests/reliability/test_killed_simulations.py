"""kill −9 of phonons, path integrals, umbrellas: the same command ends with the same numbers."""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

from nemp_sim.errors import InputError
from nemp_sim.pathintegral import processes
from nemp_sim.pathintegral.files import last_row
from nemp_sim.pathintegral.processes import sole_log
from nemp_sim.workflows import phonons, pimd, umbrella
from tests.engines import StressEMT
from tests.workflows.test_pimd_workflow import BeadEMT
from tests.workflows.test_umbrella_workflow import DoubleWell

LONG_S = 60


def begun(work, *arguments):
    """A new process that does ``work``: a fork would lack the threads of phonopy."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    return process


def wait_until(true):
    end = time.monotonic() + LONG_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


# --- phonons

SAME = (
    *("total_dos.dat", "projected_dos.dat", "thermal_properties.yaml", "band.yaml"),
    *("mesh.yaml", "FORCE_SETS"),
)


class Dies(StressEMT):
    """Kills its process at the displaced supercells."""

    def evaluate(self, structures, forces=True, stress=False):
        if len(structures[0]) > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().evaluate(structures, forces, stress)


def dies_computing(settings):
    phonons.run(settings, Dies())


def dies_writing(settings, file):
    """Killed before it moves the file of a name to the results."""
    replace = os.replace

    def move(source, target):
        if os.path.basename(target) == file:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = move  # in a process of its own
    phonons.run(settings, StressEMT())


def was_killed(process):
    process.join(LONG_S)
    return process.exitcode == -signal.SIGKILL


def test_phonons_that_are_killed(tmp_path):
    """While the model computes, and between two files of the results."""
    write(tmp_path / "cu.vasp", bulk("Cu", cubic=True, a=3.55))
    common = {"structure": tmp_path / "cu.vasp", "potential": "emt", "mesh": (4, 4, 4)}
    common |= {"supercell": (2, 2, 2), "t_step": 100.0, "out": tmp_path}
    whole = phonons.run(phonons.Settings(**common, name="whole"), StressEMT()).directory
    settings = phonons.Settings(**common, name="killed")
    directory = settings.directory
    phonons.run(replace(settings, displacement=0.05), StressEMT())
    assert was_killed(begun(dies_computing, settings))
    values = json.loads((directory / "report.json").read_text("utf-8"))
    assert values["settings"]["displacement"] == 0.05  # the older results are whole
    assert was_killed(begun(dies_writing, settings, "total_dos.dat"))
    assert not (directory / "report.json").exists()
    phonons.run(settings, StressEMT())
    assert {p.name for p in directory.iterdir()} == {p.name for p in whole.iterdir()}
    for name in SAME:
        assert (directory / name).read_bytes() == (whole / name).read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"cu.vasp", "phonons-whole", "phonons-killed"}


# --- path integrals


def test_second_simulation_in_a_directory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "LOCK_S", 0.2)
    refused = pytest.raises(InputError, match="another process simulates in")
    with sole_log(tmp_path), refused, sole_log(tmp_path):
        pass
    with sole_log(tmp_path):
        pass


def windows(settings):
    umbrella.run(settings, DoubleWell())


def test_umbrella_that_is_killed(tmp_path):
    """All windows at once: each goes on from its own restart file to the same profile."""
    pytest.importorskip("ipi", reason="i-PI is not installed")
    for name, x in (("left", -0.55), ("right", 0.62)):
        write(tmp_path / f"{name}.extxyz", Atoms("H", [[x, 0.1, 0]]))
    given = {"initial": tmp_path / "left.extxyz", "final": tmp_path / "right.extxyz"}
    given |= {"out": tmp_path, "beads": (2,), "windows": 3, "margin": 0.0, "spring": 10.0}
    given |= {"steps": 60, "equilibration": 10, "timestep": 1.0, "tau": 15.0}
    whole = umbrella.run(umbrella.Settings(**given, name="whole"), DoubleWell())
    settings = umbrella.Settings(**given, name="killed")
    process = begun(windows, settings)
    rows = settings.directory / "beads-2" / "window-01" / "run.out"
    wait_until(lambda: (last_row(rows) or [0])[0] >= 30)
    process.kill()
    assert was_killed(process)
    engine = CountedWell()
    again = umbrella.run(settings, engine)
    assert engine.structures < 3 * 2 * (60 - 30 + 5)  # what was done is not done again
    got, want = again.profiles[2], whole.profiles[2]
    np.testing.assert_allclose(got.path_A, want.path_A, rtol=0, atol=1e-7)
    np.testing.assert_allclose(got.free_energy_eV, want.free_energy_eV, rtol=0, atol=1e-7)
    found = {p.name for p in again.directory.iterdir()}
    assert found == {p.name for p in whole.directory.iterdir()}


class CountedWell(DoubleWell):
    structures = 0

    def evaluate(self, structures, **options):
        self.structures += len(structures)
        return super().evaluate(structures, **options)


def samples(settings):
    pimd.run(settings, BeadEMT())


def test_path_integral_that_is_killed(tmp_path):
    """The server notices, writes its restart file and leaves; nothing is done twice or lost."""
    pytest.importorskip("ipi", reason="i-PI is not installed")
    options = {"beads": (2,), "steps": 160, "equilibration": 4, "every": 1, "frames_every": 2}
    whole = pimd.run(pimd.Settings(**options, out=tmp_path, name="whole"), BeadEMT())
    settings = pimd.Settings(**options, out=tmp_path, name="killed")
    directory = settings.directory / "beads-2"
    process = begun(samples, settings)
    wait_until(lambda: (last_row(directory / "run.out") or [0])[0] >= 20)
    process.kill()
    assert was_killed(process)
    with sole_log(directory):  # waits for the server that was left behind
        assert (directory / "RESTART").exists()
    engine = BeadEMT()
    again = pimd.run(settings, engine)
    assert len(engine.batches) <= 160 - 20 + 2  # what was done is not done again
    for name in ("kinetic_cv_eV", "kinetic_td_eV"):
        want, got = (getattr(r.findings.runs[0], name) for r in (whole, again))
        for species, average in want.items():
            assert got[species].mean == pytest.approx(average.mean, rel=1e-6)
    values, expected = (
        json.loads((r.directory / "report.json").read_text("utf-8")) for r in (again, whole)
    )
    for key in ("energy_eV", "gyration_H_A", "height_H_A", "n_samples", "n_frames"):
        np.testing.assert_allclose(values[key], expected[key], rtol=1e-6, err_msg=key)
