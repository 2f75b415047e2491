import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read

from nemp_sim.errors import InputError
from nemp_sim.labelling.queue import Queue, label_queue, locked, structure_hash, write_queue

ROOT = Path(__file__).parents[2]
SLOW = """
import os, time
from ase.calculators.emt import EMT

class Slow(EMT):
    def calculate(self, atoms=None, *args, **kwargs):
        if "energy" not in self.results:
            with open({log!r}, "a") as log:
                log.write(f"{{atoms.positions[0, 0]:.6f}}\\n")
        time.sleep({seconds})
        super().calculate(atoms, *args, **kwargs)

def make(atoms):
    return Slow()
"""
FAULTY = """
import numpy as np
from ase.calculators.emt import EMT

class Faulty(EMT):
    def calculate(self, atoms=None, *args, **kwargs):
        super().calculate(atoms, *args, **kwargs)
        if len(atoms) == 2:
            raise RuntimeError("did not converge")
        if len(atoms) == 3:
            self.results["energy"] = np.nan

def make(atoms):
    return Faulty()
"""


def frames(count):
    made = []
    for seed in range(count):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=seed)
        made.append(atoms)
    return made


@pytest.fixture
def queue(tmp_path):
    """Directory with a queue of eight structures."""
    write_queue(tmp_path / "queue", frames(8))
    return tmp_path / "queue"


@pytest.fixture
def slow(tmp_path):
    """Name of a calculator that takes 0.15 s, and the file where it says what it computes."""
    log, path = tmp_path / "log", tmp_path / "slow.py"
    path.write_text(SLOW.format(log=str(log), seconds=0.15))
    return f"{path}:make", log


def start(directory, calculator):
    command = [sys.executable, "-m", "nemp_sim.labelling", str(directory)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "--calculator", calculator],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    output = process.communicate(timeout=60)
    assert process.returncode == 0, output
    return output[0]


def test_labels_are_those_of_the_calculator(queue):
    events = label_queue(queue, "emt")
    assert [event.place for event in events] == list(range(8))
    assert str(events[0]).startswith("1/8 Cu4 labelled (")
    labelled = read(queue / "labels.extxyz", ":")
    assert len(labelled) == 8
    for atoms, original in zip(labelled, frames(8), strict=True):
        atoms.calc = EMT()
        assert atoms.info["REF_energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
        np.testing.assert_allclose(atoms.arrays["REF_forces"], atoms.get_forces(), atol=1e-8)
        np.testing.assert_allclose(atoms.positions, original.positions, atol=1e-8)
        assert atoms.info["label_hash"] == structure_hash(original)
    assert label_queue(queue, "emt") == []


def test_hash_is_of_the_geometry():
    atoms = frames(1)[0]
    name = structure_hash(atoms)
    atoms.info["config_type"] = "other"
    atoms.positions += 1e-9
    assert structure_hash(atoms) == name
    atoms.positions[0, 0] += 1e-5
    assert structure_hash(atoms) != name


def test_killed_at_any_moment_it_goes_on(queue, slow, tmp_path):
    calculator, log = slow
    write_queue(tmp_path / "whole", frames(8))
    label_queue(tmp_path / "whole", calculator)
    log.unlink()
    for wanted in (2, 5):
        process = start(queue, calculator)
        while len(list(queue.glob("labels/g*"))) < wanted and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        kept = list(queue.glob("labels/g*"))
        assert wanted <= len(kept) < 8
        assert all(len(read(path, ":")) == 1 for path in kept)
    finish(start(queue, calculator))
    assert (queue / "labels.extxyz").read_bytes() == (
        tmp_path / "whole" / "labels.extxyz"
    ).read_bytes()
    begun = Counter(log.read_text().split())
    assert len(begun) == 8
    assert sum(begun.values()) <= 10  # a second time only what was cut off


def test_killed_while_writing_leaves_no_half_label(queue):
    rest = queue / "labels" / f".{Queue(queue).hashes[3]}.123.part.extxyz"
    rest.parent.mkdir()
    rest.write_text("4\nLattice=")
    label_queue(queue, "emt")
    assert len(read(queue / "labels.extxyz", ":")) == 8
    assert not rest.exists()


def test_two_workers_share_a_queue(queue, slow):
    calculator, log = slow
    workers = [start(queue, calculator), start(queue, calculator)]
    outputs = [worker.communicate(timeout=60)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    lines = [line for text in outputs for line in text.splitlines() if " Cu4 labelled" in line]
    assert sorted(int(line.split("/")[0]) for line in lines) == list(range(1, 9))
    assert max(Counter(log.read_text().split()).values()) == 1
    names = [atoms.info["label_hash"] for atoms in read(queue / "labels.extxyz", ":")]
    assert names == [structure_hash(atoms) for atoms in frames(8)]


def test_a_structure_of_another_worker_comes_last_and_is_taken_over_when_it_dies(queue):
    with ExitStack() as other:
        assert other.enter_context(locked(queue, Queue(queue).hashes[2], wait=False))
        death = threading.Timer(0.5, other.close)
        death.start()
        events = label_queue(queue, "emt")
        death.join()
    assert [event.place for event in events] == [0, 1, 3, 4, 5, 6, 7, 2]


def faulty_queue(tmp_path, sizes):
    (tmp_path / "faulty.py").write_text(FAULTY)
    made = [bulk("Cu", cubic=True)[:n] for n in sizes]
    for seed, atoms in enumerate(made):
        atoms.rattle(0.1, seed=seed)
    write_queue(tmp_path, made)
    return f"{tmp_path}/faulty.py:make"


def test_failures_are_recorded_and_skipped(tmp_path):
    calculator = faulty_queue(tmp_path, [2, 4, 3, 4])
    events = label_queue(tmp_path, calculator)
    assert [bool(event.error) for event in events] == [True, False, True, False]
    assert "Cu2 failed: RuntimeError: did not converge" in str(events[0])
    queue = Queue(tmp_path)
    assert queue.left() == [] and list(queue.failures()) == [0, 2]
    assert queue.failures()[2] == "ValueError: energy, forces or stress are not finite"
    content = json.loads(queue.failure_path(0).read_text())
    assert content == {"place": 0, "formula": "Cu2", "error": "RuntimeError: did not converge"}
    assert len(read(tmp_path / "labels.extxyz", ":")) == 2
    assert label_queue(tmp_path, calculator) == []
    assert len(label_queue(tmp_path, calculator, retry_failed=True)) == 2


def test_a_calculator_that_always_fails_is_to_blame(tmp_path):
    calculator = faulty_queue(tmp_path, [2, 2, 2, 4])
    with pytest.raises(InputError, match="each of the first 3 structures.*did not converge"):
        label_queue(tmp_path, calculator)
    assert Queue(tmp_path).left() == [0, 1, 2, 3]


def test_labels_of_two_methods_are_not_mixed(queue, slow):
    label_queue(queue, "emt")
    with pytest.raises(InputError, match="begun with 'ase.calculators.emt:EMT'"):
        label_queue(queue, slow[0])


def test_no_queue_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        label_queue(tmp_path, "emt")
    process = start(tmp_path, "emt")
    _, error = process.communicate(timeout=30)
    assert process.returncode == 2 and error.startswith("error: ") and "Traceback" not in error


def test_labelling_needs_no_torch():
    code = (
        "import sys, nemp_sim.labelling.queue\n"
        "unwanted = {'torch', 'vesin', 'typer', 'rich', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported: {unwanted}' if unwanted else 0)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
