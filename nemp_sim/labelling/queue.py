"""Labels for a queue of structures: safe against being stopped at any moment, shared by workers.

Needs only ASE and NumPy, so that it runs under the interpreter that has the electronic-structure
code: python -m nemp_sim.labelling DIRECTORY --calculator file.py:function

A directory holds

    selection.extxyz        the queue, written once
    calculator.txt          what labels it
    labels/HASH.extxyz      one labelled structure; complete or not there
    failures/HASH.json      why a structure could not be labelled
    labels.extxyz           all labels in the order of the queue, for training
    claims/HASH.lock        empty; locked by the worker that computes the structure

The locks (flock) are the operating system's, which frees them when a process ends in any way: none
goes stale. A worker that gets a lock looks again whether the label is there.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import iread, write

from nemp_sim.errors import InputError, NempError
from nemp_sim.files import replacing
from nemp_sim.labelling.labels import Factory, compute_label, find_calculator
from nemp_sim.locks import lock

FAILURES_IN_A_ROW = 3  # so many without any label: the calculator is at fault, not the structures


@dataclass(frozen=True)
class Event:
    """What became of one structure of the queue.

    Attributes:
        place: its place in the queue, from zero.
        total: structures in the queue.
        formula: its chemical formula.
        seconds: wall time of the calculation, s.
        error: why it failed; None where it is labelled.
    """

    place: int
    total: int
    formula: str
    seconds: float
    error: str | None

    def __str__(self) -> str:
        """One line for the terminal."""
        what = f"failed: {self.error}" if self.error else "labelled"
        return f"{self.place + 1}/{self.total} {self.formula} {what} ({self.seconds:.1f} s)"


class Queue:
    """The structures of a directory, their labels and failures.

    Attributes:
        directory: where they are.
        frames: the structures, in order.
        hashes: their names.
    """

    def __init__(self, directory: Path) -> None:
        """Open the queue of ``directory``.

        Raises:
            InputError: the directory holds no queue.
        """
        self.directory = Path(directory)
        path = self.directory / "selection.extxyz"
        if not path.is_file():
            raise InputError(f"{path}: no such file. Give a directory that label.py has filled.")
        self.frames: list[Atoms] = list(iread(path, ":", format="extxyz"))
        self.hashes = [str(atoms.info.get("label_hash", "")) for atoms in self.frames]
        if not all(self.hashes):
            raise InputError(f"{path}: frames without label_hash; it was not written by label.py.")
        self._texts: dict[str, str] = {}

    def label_path(self, place: int) -> Path:
        """Where the label of a structure is or will be."""
        return self.directory / "labels" / f"{self.hashes[place]}.extxyz"

    def failure_path(self, place: int) -> Path:
        """Where the reason of a failure is or will be."""
        return self.directory / "failures" / f"{self.hashes[place]}.json"

    def left(self) -> list[int]:
        """Places without label or failure."""
        return [k for k in range(len(self.frames)) if not self._done(k)]

    def _done(self, place: int) -> bool:
        return self.label_path(place).exists() or self.failure_path(place).exists()

    def failures(self) -> dict[int, str]:
        """Reason by place."""
        found = [k for k in range(len(self.frames)) if self.failure_path(k).exists()]
        return {k: json.loads(self.failure_path(k).read_text("utf-8"))["error"] for k in found}

    def forget_failures(self) -> None:
        """Have failed structures tried again."""
        for place in range(len(self.frames)):
            self.failure_path(place).unlink(missing_ok=True)

    @contextmanager
    def claim(self, place: int, wait: bool) -> Iterator[bool]:
        """Keep other processes from a structure; False where one has it, or has finished it.

        With ``wait``, until no other has it.
        """
        name = self.hashes[place]
        with locked(self.directory, name, wait) as mine:
            if mine:  # what a killed writer left
                for rest in self.directory.glob(f"*/.{name}.*.part*"):
                    rest.unlink(missing_ok=True)
            yield mine and not self._done(place)

    def use_calculator(self, identity: str) -> None:
        """Write down what labels this queue.

        Raises:
            InputError: it is another one than before.
        """
        path = self.directory / "calculator.txt"
        with locked(self.directory):
            if path.exists() and (before := path.read_text("utf-8").strip()) != identity:
                raise InputError(
                    f"calculator is {identity!r}, but {self.directory} was begun with {before!r}: "
                    "labels of two methods must not be mixed. Give the calculator of before, or "
                    f"another --name; where both give equal labels, delete {path}."
                )
            with replacing(path) as temporary:
                temporary.write_text(f"{identity}\n", encoding="utf-8")

    def keep_label(self, place: int, labelled: Atoms) -> None:
        """Write one label, completely or not at all, then all of them as labels.extxyz."""
        _write_frames(self.label_path(place), [labelled])
        self.assemble()

    def keep_failure(self, place: int, error: str) -> None:
        """Write down why a structure has no label."""
        content = {"place": place, "formula": str(self.frames[place].symbols), "error": error}
        with replacing(self.failure_path(place)) as temporary:
            temporary.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    def assemble(self) -> Path:
        """Join all labels, in the order of the queue, to labels.extxyz."""
        target = self.directory / "labels.extxyz"
        with locked(self.directory):
            for place, name in enumerate(self.hashes):
                if name not in self._texts and self.label_path(place).exists():
                    self._texts[name] = self.label_path(place).read_text("utf-8")
            if self._texts:
                with replacing(target) as temporary:
                    texts = (self._texts[name] for name in self.hashes if name in self._texts)
                    temporary.write_text("".join(texts), encoding="utf-8")
        return target


def structure_hash(atoms: Atoms) -> str:
    """Name of a geometry: elements, positions and cell to 10⁻⁶ Å, pbc.

    Starts with a letter, so that no reader takes it for a number.
    """
    digest = hashlib.sha256()
    for values in (atoms.numbers, atoms.pbc, atoms.cell.array, atoms.positions):
        digest.update((np.asarray(values, dtype=float).round(6) + 0.0).tobytes())
    return "g" + digest.hexdigest()[:20]


def write_queue(directory: Path, frames: Sequence[Atoms]) -> None:
    """Write selection.extxyz, completely or not at all; every frame gets its hash."""
    for atoms in frames:
        atoms.info["label_hash"] = structure_hash(atoms)
    _write_frames(Path(directory) / "selection.extxyz", frames)


def _write_frames(path: Path, frames: Sequence[Atoms]) -> None:
    with replacing(path) as temporary:
        write(temporary, list(frames), format="extxyz")
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())


@contextmanager
def locked(directory: Path, name: str = "all", wait: bool = True) -> Iterator[bool]:
    """Hold the lock ``name`` of a directory; yields False where another holds it.

    Args:
        directory: of the queue.
        name: what is locked; "all" for the files that all workers write.
        wait: wait until it is free.
    """
    path = directory / "claims" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        yield lock(handle, wait)


def label_queue(
    directory: Path,
    calculator: str,
    *,
    stress: bool = False,
    retry_failed: bool = False,
    show: Callable[[Event], None] | None = None,
) -> list[Event]:
    """Label what is left of a queue; several processes may work on one.

    Args:
        directory: of the queue.
        calculator: see ``find_calculator``.
        stress: label the stress of bulk structures too.
        retry_failed: try structures again that failed before.
        show: called after each structure.

    Returns:
        What this process did. It ends when nothing is left, by it or by others.

    Raises:
        InputError: no queue, no such calculator, another calculator than before, or one that fails
            for each of the first structures; they then stay in the queue.
    """
    factory, identity = find_calculator(calculator)
    queue = Queue(directory)
    queue.use_calculator(identity)
    if retry_failed:
        queue.forget_failures()
    queue.assemble()
    events: list[Event] = []
    for place in _claimed(queue):
        events.append(_label_one(queue, place, factory, stress))
        (show or (lambda event: None))(events[-1])
        if len(events) == FAILURES_IN_A_ROW and all(event.error for event in events):
            _blame_calculator(queue, calculator, events)
    return events


def _claimed(queue: Queue) -> Iterator[int]:
    """Places to label, each locked while it is; at the end, those that other processes gave up."""
    for wait in (False, True):
        for place in queue.left():
            with queue.claim(place, wait) as mine:
                if mine:
                    yield place


def _label_one(queue: Queue, place: int, factory: Factory, stress: bool) -> Event:
    atoms, started = queue.frames[place], time.perf_counter()
    error = None
    try:
        labelled = compute_label(atoms, factory, stress)
    except MemoryError:
        raise
    except Exception as failure:  # calculators raise anything where they do not converge
        error = f"{type(failure).__name__}: {failure}"
    if error is None:
        queue.keep_label(place, labelled)
    else:
        queue.keep_failure(place, error)
    seconds = time.perf_counter() - started
    return Event(place, len(queue.frames), atoms.get_chemical_formula(), seconds, error)


def _blame_calculator(queue: Queue, calculator: str, events: Sequence[Event]) -> None:
    for event in events:
        queue.failure_path(event.place).unlink(missing_ok=True)
    raise InputError(
        f"calculator is {calculator!r}, but it failed for each of the first {len(events)} "
        f"structures, the last time with {events[-1].error}. Try it by hand on a frame of "
        f"{queue.directory / 'selection.extxyz'}; nothing was recorded."
    )


def main() -> None:
    """Label a queue; exit code 0, 1 (some structures have no label) or 2 (error)."""
    parser = argparse.ArgumentParser(prog="python -m nemp_sim.labelling", description=main.__doc__)
    parser.add_argument("directory", type=Path, help="directory that label.py has filled")
    parser.add_argument(
        "--calculator", required=True, help="emt, module:function, file.py:function"
    )
    parser.add_argument("--stress", action="store_true", help="also the stress of bulk structures")
    parser.add_argument("--retry-failed", action="store_true", help="try failed structures again")
    options = vars(parser.parse_args())
    try:
        label_queue(**options, show=lambda event: print(event, flush=True))
        queue = Queue(options["directory"])
    except (NempError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)
    failed, left = len(queue.failures()), len(queue.left())
    labelled = len(queue.frames) - failed - left
    print(f"{labelled} labelled, {failed} failed, {left} left: {queue.directory}/labels.extxyz")
    sys.exit(1 if failed or left else 0)
