"""Runs that are killed go on to the same result; damaged leftovers are named, not read."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import pytest
import torch
from typer.testing import CliRunner

from nemp_sim.checkpoint import load_model
from nemp_sim.cli import app
from nemp_sim.training.train import train
from tests.training.test_data import emt_trajectory

ROOT = Path(__file__).parents[2]
LONG_S = 90
SETTINGS = """
[model]
n_channels = 2
n_radial = 2
message_mlp = [0, 4, 1]
[data]
train = ["frames.xyz"]
check_units = false
[training]
name = "killed"
epochs = 40
validate_every = 1
warmup_steps = 2
dtype = "float64"
device = "cpu"
"""


@pytest.fixture
def job(tmp_path):
    ase.io.write(tmp_path / "frames.xyz", emt_trajectory(3), format="extxyz")
    (tmp_path / "t.toml").write_text(SETTINGS)
    return tmp_path


def start(job, directory):
    command = [sys.executable, "-m", "nemp_sim.cli", "train", "t.toml", "--out", str(directory)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=job, env=environment, **quiet)


def wait_for(path, process):
    end = time.monotonic() + LONG_S
    while time.monotonic() < end and not path.exists() and process.poll() is None:
        time.sleep(0.005)
    assert path.exists()


def weights(directory):
    return load_model(directory / "killed.pt")[0].state_dict()


@pytest.mark.parametrize("how", [signal.SIGKILL], ids=lambda s: s.name)
def test_training_that_is_stopped_goes_on_to_the_same_bits(job, how):
    train(job / "t.toml", job / "whole")
    process = start(job, job / "stopped")
    with process:
        wait_for(job / "stopped" / "state.pt", process)
        process.send_signal(how)
        process.wait(LONG_S)
    assert not (job / "stopped" / "killed.pt").exists()
    train(job / "t.toml", job / "stopped")
    want, got = weights(job / "whole"), weights(job / "stopped")
    assert all(torch.equal(got[name], value) for name, value in want.items())


SPOIL = {
    "truncated": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "empty": lambda p: p.write_bytes(b""),
    "text": lambda p: p.write_text("state"),
    "another torch file": lambda p: torch.save({"a": 1}, p),
    "a list": lambda p: torch.save([1], p),
}


@pytest.mark.parametrize("how", SPOIL)
def test_damaged_state_of_a_training_is_refused(job, how):
    (job / "run").mkdir()
    torch.save({"fingerprint": "other", "weights": torch.zeros(100)}, job / "run" / "state.pt")
    SPOIL[how](job / "run" / "state.pt")
    result = again(job)
    assert result.exit_code == 2 and "error: " in result.output and "state.pt" in result.output


def again(job):
    """The command on the directory of an earlier run."""
    return CliRunner().invoke(app, ["train", str(job / "t.toml"), "--out", str(job / "run")])


def test_another_run_in_the_directory_is_refused(job):
    (job / "run").mkdir()
    torch.save({"fingerprint": "other"}, job / "run" / "state.pt")
    result = again(job)
    assert result.exit_code == 2 and "unfinished run with other settings" in result.output


def test_two_trainings_in_one_directory_do_not_mix(job):
    """The second is refused by name of directory and holder, and changes nothing."""
    process = start(job, job / "run")
    with process:
        wait_for(job / "run" / "state.pt", process)
        result = again(job)
        assert process.poll() is None  # the first still runs
        process.kill()
    said = " ".join(result.output.split())
    assert result.exit_code == 2 and said.startswith("error: ") and "Traceback" not in said
    assert f"is in use by process {process.pid} on" in said and str(job / "run") in said
    assert "in use" not in again(job).output  # what the dead held is free
