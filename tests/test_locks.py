"""One run in a directory at a time; what a dead process held is free."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from nemp_sim import locks
from nemp_sim.errors import InputError
from nemp_sim.labelling.queue import locked
from nemp_sim.locks import IN_USE, alone, alone_in, clear
from nemp_sim.pathintegral.processes import sole_log

ROOT = Path(__file__).parents[1]
HOLD = """
import sys, time
from pathlib import Path
from nemp_sim.locks import alone_in
with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that works in a directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    with process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_second_run_is_refused_and_told_who_works_there(tmp_path, holder):
    with pytest.raises(InputError) as told, alone_in(tmp_path / "run"):
        pass
    said = str(told.value)
    assert str(tmp_path / "run") in said and f"process {holder.pid} on " in said
    with alone_in(tmp_path / "another"):
        pass


def test_what_a_killed_process_held_is_free(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait(10)
    assert (tmp_path / "run" / IN_USE).is_file()  # nobody could remove it
    with alone_in(tmp_path / "run"):
        assert f"process {os.getpid()} " in (tmp_path / "run" / IN_USE).read_text()
    assert not (tmp_path / "run" / IN_USE).exists()


def test_nothing_is_left_of_a_run_that_writes_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), alone_in(tmp_path / "a" / "b"):
        raise ZeroDivisionError
    assert not (tmp_path / "a").exists()
    with alone_in(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "report.md").touch()
    assert [*(tmp_path / "a" / "b").iterdir()] == [tmp_path / "a" / "b" / "report.md"]


def test_a_file_that_is_removed_between_opening_and_locking_is_no_lock(tmp_path, monkeypatch):
    real, tries = locks.lock, []

    def lock(handle, wait):
        if not tries:
            os.unlink(handle.name)  # the run before has just ended
        tries.append(handle.name)
        return real(handle, wait)

    monkeypatch.setattr(locks, "lock", lock)
    with alone_in(tmp_path):
        monkeypatch.setattr(locks, "lock", real)
        with pytest.raises(InputError, match="in use"), alone_in(tmp_path):
            pass
    assert len(tries) == 2


@pytest.mark.parametrize("hold", [alone_in, sole_log, locked])
def test_file_systems_without_locks_are_told_of(tmp_path, monkeypatch, hold):
    """By whatever locks: a run, a simulation, a queue of labels."""

    def flock(handle, operation):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", flock)
    error = errno.ENOLCK
    with pytest.warns(UserWarning, match="has no locks"), hold(tmp_path):
        pass
    error = errno.EIO
    with pytest.raises(OSError, match=os.strerror(errno.EIO)), hold(tmp_path):
        pass


@dataclass(frozen=True)
class Settings:
    directory: Path


def test_a_discarded_run_keeps_its_directory(tmp_path):
    @alone
    def run(settings, answer):
        (settings.directory / "old").mkdir()
        (settings.directory / "old" / "file").touch()
        clear(settings.directory)
        with pytest.raises(InputError, match="in use"):
            run(settings, answer)
        return answer

    assert run(Settings(tmp_path / "run"), answer=3) == 3
    assert not (tmp_path / "run").exists()
    clear(tmp_path / "run")


def test_waiting_takes_the_lock_when_it_is_free(tmp_path):
    with (tmp_path / "x").open("a") as first, (tmp_path / "x").open("a") as second:
        assert locks.lock(first, wait=True)
        assert not locks.lock(second, wait=False)
        first.close()
        started = time.monotonic()
        assert locks.lock(second, wait=True) and time.monotonic() - started < 5
