"""kill −9 at random moments of workflows: the same command ends with the same numbers.

Each run is a fork of this process; it is killed after a random part of the time that it needs.
What it left is then read: every file is whole, or it is not there.
"""

import json
import os
import random
import signal
import time
import tomllib
import warnings
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

import nemp_sim.relax
from nemp_sim.command import workflow_app
from nemp_sim.console import terminated_like_interrupted
from nemp_sim.errors import InputError
from nemp_sim.md import run as md_module
from nemp_sim.reactions import diffusion as langevin_module
from nemp_sim.reactions.diffusion import langevin
from nemp_sim.report import with_run_files
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import fcc_slab
from nemp_sim.workflows import adsorption, diffusion, evaluate, md, neb, relax, vibrations
from tests.engines import EMTEngine

KILLS = 3
READ = {
    ".extxyz": lambda path: ase.io.read(path, ":"),
    ".json": lambda path: json.loads(path.read_text("utf-8")),
    ".png": imread,
    ".npz": lambda path: np.load(path)["positions"],
    ".csv": lambda path: path.read_text("utf-8").index("\n"),
    ".traj": lambda path: ase.io.read(path, ":"),
    ".jmol": lambda path: path.read_text("utf-8"),
    ".xyz": lambda path: ase.io.read(path, ":"),
    ".md": lambda path: path.read_text("utf-8"),
    ".log": lambda path: path.read_text("utf-8"),
    ".toml": lambda path: tomllib.loads(path.read_text("utf-8")),
    ".pdf": lambda path: path.read_bytes().index(b"%%EOF"),
}


def killed(work, after_s=None):
    """Run ``work`` in a fork that is killed, or kills itself; whether it had not ended before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forks of processes with threads
        child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    if after_s is not None:
        time.sleep(after_s)
        os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def killed_again_and_again(run, settings, whole_s, seed):
    """Kill run after run at random moments; each time, all that lies there must be whole."""
    rng, kills = random.Random(seed), 0
    for _ in range(KILLS):
        kills += killed(lambda: run(settings, EMTEngine()), rng.uniform(0.1, 0.9) * whole_s)
        for path in settings.directory.glob("[!.]*"):
            READ[path.suffix](path)
    assert kills  # else nothing is tested


def timed(work):
    started = time.monotonic()
    result = work()
    return result, time.monotonic() - started


def assert_only(directory, *names):
    """The files that a run leaves, and none of those that were killed."""
    assert {path.name for path in directory.iterdir()} == {
        *with_run_files(dict.fromkeys(names, ""))
    }


def test_band_that_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(nemp_sim.relax, "KEPT_EVERY_S", 0.0)
    settings = neb.Settings(images=3, fmax=0.02, out=tmp_path, name="whole")
    whole, seconds = timed(lambda: neb.run(settings, EMTEngine()))
    settings = replace(settings, name="killed")
    killed_again_and_again(neb.run, settings, seconds, seed=1)
    again = neb.run(settings, EMTEngine())
    np.testing.assert_array_equal(again.band.energies_eV, whole.band.energies_eV)
    assert_only(again.directory, "neb.extxyz", "neb.png", "geometry.png")


def test_killed_band_goes_on_from_what_it_had_written(tmp_path, monkeypatch):
    monkeypatch.setattr(nemp_sim.relax, "KEPT_EVERY_S", 0.0)
    settings = neb.Settings(images=3, fmax=0.01, out=tmp_path)
    whole = neb.run(replace(settings, name="whole"), EMTEngine())

    def die_late(step):
        if step.stage == "climbing":
            os.kill(os.getpid(), signal.SIGKILL)

    assert killed(lambda: neb.run(settings, EMTEngine(), die_late))
    on_the_way = settings.directory / "on-the-way.extxyz"
    assert len(ase.io.read(on_the_way, ":")) == 5
    again = neb.run(replace(settings, restart=True), EMTEngine())
    assert again.converged and not on_the_way.exists()
    assert again.band.optimizer_steps < whole.band.optimizer_steps
    assert again.band.barrier_forward_eV == pytest.approx(whole.band.barrier_forward_eV, abs=1e-3)


def test_diffusion_that_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(langevin_module, "SAVED_EVERY", 10)
    ase.io.write(tmp_path / "h.extxyz", place(fcc_slab(size=(1, 1, 2)), "H", "fcc"))
    settings = diffusion.Settings(
        tmp_path / "h.extxyz", picoseconds=0.06, replicas=2, out=tmp_path, name="whole"
    )
    whole, seconds = timed(lambda: diffusion.run(settings, EMTEngine()))
    settings = replace(settings, name="killed")
    killed_again_and_again(diffusion.run, settings, seconds, seed=2)
    engine = EMTEngine()
    again = diffusion.run(settings, engine)
    assert again.found.constant_A2_per_ps == whole.found.constant_A2_per_ps
    np.testing.assert_array_equal(again.found.msd_A2, whole.found.msd_A2)
    assert len(engine.batches) < settings.n_steps  # it went on
    assert_only(again.directory, "final.extxyz", "msd.png", "report.json", "report.md")


def test_molecular_dynamics_that_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(md_module, "SAVED_EVERY", 20)
    monkeypatch.setitem(READ, ".extxyz", Path.read_text)  # grows at its end, which may be cut off
    ase.io.write(tmp_path / "h.extxyz", place(fcc_slab(size=(1, 1, 2)), "H", "fcc"))
    given = {"structure": tmp_path / "h.extxyz", "potential": "emt", "out": tmp_path}
    length = {"picoseconds": 0.2, "equilibration": 0.02, "replicas": 2}
    settings = md.Settings(**given, **length, every=5, frames_every=10, name="whole")
    whole, seconds = timed(lambda: md.run(settings, EMTEngine()))
    settings = replace(settings, name="killed")
    killed_again_and_again(md.run, settings, seconds, seed=5)
    engine = EMTEngine()
    again = md.run(settings, engine)
    assert len(engine.batches) < settings.n_steps  # it went on
    for name in ("log.csv", "trajectory-300K-1.extxyz", "final.extxyz"):
        assert (again.directory / name).read_bytes() == (whole.directory / name).read_bytes()
    assert {p.name for p in again.directory.iterdir()} == {
        p.name for p in whole.directory.iterdir()
    }


def test_adsorption_that_is_killed(tmp_path):
    settings = adsorption.Settings(size=(1, 1, 3), lattice_constant=3.95, out=tmp_path, name="w")
    whole, seconds = timed(lambda: adsorption.run(settings, EMTEngine()))
    settings = replace(settings, name="killed")
    killed_again_and_again(adsorption.run, settings, seconds, seed=3)
    again = adsorption.run(settings, EMTEngine())
    assert [e.adsorption_eV for _, e in again.minima] == [e.adsorption_eV for _, e in whole.minima]


@pytest.mark.parametrize("name", ["relax", "vibrations", "evaluate"])
def test_what_does_not_go_on_begins_again_after_a_kill(tmp_path, name):
    """Older results or whole new files after each kill, and at last those that were wanted."""
    workflow = {"relax": relax, "vibrations": vibrations, "evaluate": evaluate}[name]
    slabs = [place(fcc_slab(size=(1, 1, 3)), "H", "fcc")] * (40 if name == "evaluate" else 1)
    for slab in slabs:
        slab.info = {}
    ase.io.write(tmp_path / "h.extxyz", slabs)
    field = "structure" if name == "vibrations" else "structures"
    given = {field: tmp_path / "h.extxyz", "potential": "emt", "out": tmp_path}
    settings = workflow.Settings(**given, name="whole")
    whole, seconds = timed(lambda: workflow.run(settings, EMTEngine()))
    settings = replace(settings, name="killed")
    killed_again_and_again(workflow.run, settings, seconds, seed=4)
    again = workflow.run(settings, EMTEngine())
    names = {path.name for path in whole.directory.iterdir()}
    assert {path.name for path in again.directory.iterdir()} == names
    for path in whole.directory.glob("*.extxyz"):
        assert (again.directory / path.name).read_bytes() == path.read_bytes()


def replicas():
    return [place(fcc_slab(size=(1, 1, 2)), "H", "fcc")] * 2


@pytest.mark.parametrize("how", ["truncated", "empty", "text", "pickled", "another run"])
def test_state_that_is_damaged_or_of_another_run_is_refused(tmp_path, how, monkeypatch):
    monkeypatch.setattr(langevin_module, "SAVED_EVERY", 10)
    path = tmp_path / "state.npz"
    langevin(EMTEngine(), replicas(), 300, 20, state_file=path)
    content = path.read_bytes()
    temperature = 300
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("state")
    elif how == "pickled":
        np.savez(path, about=np.array([object()], dtype=object), allow_pickle=True)
    else:
        temperature = 301
    with pytest.raises(InputError, match="state of a"):
        langevin(EMTEngine(), replicas(), temperature, 20, state_file=path)


def test_a_continued_run_is_that_of_the_first_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(langevin_module, "SAVED_EVERY", 10)
    path = tmp_path / "state.npz"
    whole = langevin(EMTEngine(), replicas(), 300, 40, every=5)
    langevin(EMTEngine(), replicas(), 300, 25, every=5, state_file=path)
    np.testing.assert_array_equal(
        langevin(EMTEngine(), replicas(), 300, 40, every=5, state_file=path), whole
    )
    assert len(langevin(EMTEngine(), replicas(), 300, 15, every=5, state_file=path)) == 4


def test_sigterm_stops_like_an_interrupt():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), terminated_like_interrupted():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before

    def terminated(settings, show=None):
        os.kill(os.getpid(), signal.SIGTERM)

    app = workflow_app(diffusion.Settings, terminated, goes_on=True)
    assert CliRunner().invoke(app, []).exit_code == 130
    assert signal.getsignal(signal.SIGTERM) == before
