"""A run in its directory: its clock, its end, and what it says of both."""

import math
from types import SimpleNamespace

import ase.io
import pytest

from nemp_sim.training.config import TrainConfig
from nemp_sim.training.processes import Processes
from nemp_sim.training.run import Run
from nemp_sim.training.train import train
from nemp_sim.training.trainer import energy_weight, learning_rate
from tests.training.test_data import emt_trajectory
from tests.training.test_train import read_log, write_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    ase.io.write(path / "frames.xyz", emt_trajectory(3), format="extxyz")
    ase.io.write(path / "test.xyz", emt_trajectory(1, seed=5), format="extxyz")
    return path


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by one second whenever it is read."""
    clock = SimpleNamespace(now=0.0)

    def read():
        clock.now += 1.0
        return clock.now

    monkeypatch.setattr("nemp_sim.training.run.time", SimpleNamespace(perf_counter=read))
    return clock


def test_time_limit_ends_the_run_at_the_final_rate(folder, clock):
    """An epoch takes one second and so does a validation, every second epoch."""
    settings = "time_limit_s = 60.0\nfinal_learning_rate = 1e-5\nn_members = 0"
    config = write_config(folder, "limit.toml", epochs=10_000, training=settings)
    result = train(config, folder / "limit")
    assert 60 <= result.seconds <= 62
    assert 38 <= result.epochs <= 42
    log = read_log(result.directory)
    rates = [float(row["learning_rate"]) for row in log]
    assert max(rates) == pytest.approx(0.02, rel=0.05)
    assert rates[-1] == pytest.approx(1e-5, abs=0.01 * 0.02)
    falling = rates[1:]
    assert falling == sorted(falling, reverse=True)
    weights = [float(row["energy_weight"]) for row in log]
    shares = [float(row["seconds"]) / 60 for row in log]
    for share, weight in zip(shares, weights, strict=True):  # 10 · 10^share, said a little later
        assert math.log(weight / 10) / math.log(10) == pytest.approx(share, abs=0.06)


def test_time_enough_changes_nothing(folder, clock):
    config = write_config(folder, "free.toml", epochs=6, training="n_members = 0")
    free = train(config, folder / "free")
    settings = "time_limit_s = 1e6\nn_members = 0"
    limited = train(
        write_config(folder, "loose.toml", epochs=6, training=settings), folder / "loose"
    )
    assert limited.epochs == free.epochs == 6
    rates = [[row["learning_rate"] for row in read_log(r.directory)] for r in (free, limited)]
    assert rates[0] == rates[1]


def test_resumed_run_keeps_to_its_time(folder, clock, monkeypatch):
    settings = "time_limit_s = 20.0\nn_members = 0"
    config = write_config(folder, "again.toml", epochs=10_000, training=settings)
    original = Run._validate

    def interrupted(self, *arguments):
        original(self, *arguments)
        if self.epoch == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "_validate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(config, folder / "again")
    monkeypatch.setattr(Run, "_validate", original)
    result = train(config, folder / "again")
    assert 20 <= result.seconds <= 22 and 12 <= result.epochs <= 14


def test_all_processes_hear_the_same_clock(folder, monkeypatch):
    """Each stretch of time goes through the first process, or rates would differ."""

    class Told(Processes):
        def same(self, values):
            return [2.0] * len(values)

    monkeypatch.setattr("nemp_sim.training.processes.Processes", Told)
    config = write_config(folder, "told.toml", epochs=6, training="n_members = 0")
    result = train(config, folder / "told")
    assert result.seconds == 6 * 2.0 + 3 * 2.0  # six epochs, three validations


def test_rate_falls_with_the_share_that_is_done():
    config = TrainConfig(learning_rate=0.1, final_learning_rate=0.001, warmup_steps=0)
    for share, rate in ((0.0, 0.1), (0.5, 0.0505), (1.0, 0.001)):
        assert learning_rate(config, 10**6, share) == pytest.approx(rate, rel=1e-12)


def test_energy_weight_grows_by_equal_factors():
    config = TrainConfig(energy_weight=10.0, final_energy_weight=1000.0)
    for share, weight in ((0.0, 10.0), (0.25, 10**1.5), (0.5, 100.0), (1.0, 1000.0)):
        assert energy_weight(config, share) == pytest.approx(weight, rel=1e-12)
