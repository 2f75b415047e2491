"""Two processes (torchrun, gloo) train as one: same weights, same log, one set of files."""

import os
import subprocess
import sys
from pathlib import Path

import ase.io
import pytest
import torch

import nemp_sim
from nemp_sim.checkpoint import load_model
from nemp_sim.training.processes import Processes, joined_processes
from nemp_sim.training.train import train
from tests.training.test_data import emt_trajectory
from tests.training.test_train import read_log, write_config

PARTIAL = "allow_missing_forces = true\ntype_weights = { bulk_PdH = 0.3 }"
SAME = {"rtol": 1e-9, "atol": 1e-9}


def torchrun(arguments, count=2):
    """Run the command line of the package in ``count`` processes."""
    root = str(Path(nemp_sim.__file__).parents[1])
    command = ["torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    return subprocess.run(
        [sys.executable, "-m", *command, "-m", "nemp_sim.cli", "train", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "COLUMNS": "500"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("processes")
    frames = emt_trajectory(5)  # Pd4 and Pd4H in turn, and lone atoms: the parts differ
    for atoms in frames[1:10:3]:
        del atoms.arrays["REF_forces"]
    ase.io.write(path / "frames.xyz", frames, format="extxyz")
    ase.io.write(path / "test.xyz", emt_trajectory(1, seed=5), format="extxyz")
    return path


def test_two_processes_train_as_one(folder):
    settings = "stress_weight = 10.0\nn_members = 4"
    config = write_config(folder, epochs=4, data=PARTIAL, training=settings)
    alone = train(config, folder / "one")
    result = torchrun([config, "--out", folder / "two", "--device", "cpu"])
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("written:") == 1 and "2 processes" in result.stdout
    files = [sorted(p.name for p in (folder / d).iterdir()) for d in ("one", "two")]
    assert files[0] == files[1] and "tiny.pt" in files[0]
    models = [load_model(folder / d / "tiny.pt")[0] for d in ("one", "two")]
    states = [m.state_dict() for m in models]
    for name, value in states[0].items():
        if not name.endswith(("members", "force_calibration")):  # eigenvectors: signs are free
            torch.testing.assert_close(states[1][name], value, **SAME, msg=name)
    assert torch.equal(states[0]["pair_code.weight"], alone.potential.model.pair_code.weight)
    logs = [read_log(folder / d) for d in ("one", "two")]
    assert len(logs[0]) == len(logs[1]) == 2
    for a, b in zip(*logs, strict=True):
        for name in a.keys() - {"seconds"}:
            assert float(b[name]) == pytest.approx(float(a[name]), rel=1e-8), name


def test_batches_that_cannot_be_shared_are_refused(folder):
    config = write_config(folder, "odd.toml", epochs=1, data=PARTIAL)
    config.write_text(config.read_text().replace("batch_size = 4", "batch_size = 3"))
    result = torchrun([config, "--out", folder / "odd", "--device", "cpu"])
    assert result.returncode != 0
    message = "batch_size is 3, but must be a multiple of the number of processes, 2"
    assert message in result.stderr
    assert not (folder / "odd").exists() or not list((folder / "odd").iterdir())


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined_processes("auto") as (processes, device):
        assert processes == Processes(0, 1) and processes.is_first and device == "auto"
        values = torch.ones(2)
        processes.sum_(values)
        assert values.tolist() == [1, 1] and processes.same([2.0]) == [2.0]
    assert not torch.distributed.is_initialized()
