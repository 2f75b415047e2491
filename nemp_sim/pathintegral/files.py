"""i-PI's own output files: properties by name, frames of all beads, and what a restart leaves."""

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np
from ase.geometry import cellpar_to_cell
from ipi import read_output

from nemp_sim.errors import InputError
from nemp_sim.files import replacing

_STEP = re.compile(r"Step:\s+(\d+)")
_CELL = re.compile(r"CELL\(abcABC\):\s+((?:\S+\s+){6})")


def read_properties(path: Path) -> dict[str, np.ndarray]:
    """Columns of a property file by their name, as in the input but without units.

    Raises:
        InputError: no such file, or no line in it.
    """
    if not path.is_file():
        raise InputError(f"{str(path)!r} is no file: i-PI has not run there. Check --name.")
    values, _ = read_output(str(path))
    if "step" not in values or np.size(values["step"]) == 0:
        raise InputError(f"{str(path)!r} holds no step. Run longer than --every steps.")
    count = np.size(values["step"])
    return {name: np.asarray(v).reshape(count, -1).squeeze(-1) if np.size(v) == count else v
            for name, v in values.items()}  # fmt: skip


def last_row(path: Path) -> list[float] | None:
    """The numbers of the last complete line of a property file; None before the first."""
    try:
        with path.open("rb") as handle:
            handle.seek(max(0, os.fstat(handle.fileno()).st_size - 4096))
            text = handle.read().decode("ascii", errors="replace")
    except FileNotFoundError:
        return None
    lines = [s for s in text.split("\n")[:-1] if s.strip() and not s.lstrip().startswith("#")]
    try:
        return [float(word) for word in lines[-1].split()] if lines else None
    except ValueError:
        return None


class Frames:
    """Frames of all beads of a simulation, read one after another.

    Attributes:
        labels: (N,) names of the atoms, as in i-PI's file.
    """

    def __init__(self, directory: Path, prefix: str, name: str = "pos") -> None:
        """Find the files of the beads, ``prefix.name_*.xyz``, or the one ``prefix.name.xyz``.

        Raises:
            InputError: there are none.
        """
        self._paths = sorted(directory.glob(f"{prefix}.{name}_*.xyz"))
        self._paths = self._paths or sorted(directory.glob(f"{prefix}.{name}.xyz"))
        if not self._paths:
            raise InputError(f"{directory} holds no {prefix}.{name}_*.xyz. Check --name.")
        with self._paths[0].open() as handle:
            first = next(_blocks(handle), None)
        self.labels = np.array([line.split()[0] for line in first[1]]) if first else np.array([])

    def __iter__(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Step, cell (3, 3; rows; Å) and values (P, N, 3) of each frame that all beads have."""
        handles = [path.open() for path in self._paths]
        try:
            for beads in zip(*map(_blocks, handles), strict=False):
                comment = beads[0][0]
                cell = cellpar_to_cell([float(x) for x in _CELL.search(comment)[1].split()])
                values = [[line.split()[1:4] for line in lines] for _, lines in beads]
                yield int(_STEP.search(comment)[1]), cell, np.array(values, dtype=np.float64)
        finally:
            for handle in handles:
                handle.close()


def _blocks(handle: TextIO) -> Iterator[tuple[str, list[str]]]:
    """Comment and lines of the atoms of each complete frame of an xyz file."""
    while count := handle.readline().strip():
        block = list(islice(handle, int(count) + 1))
        if len(block) <= int(count) or not block[-1].endswith("\n"):
            return
        yield block[0], block[1:]


def trim(directory: Path, prefix: str, step: int) -> None:
    """Cut i-PI's files after ``step``: what it wrote later comes again when it goes on.

    A kill may leave lines behind the last checkpoint, and the last one incomplete. With a step
    below zero all of them are removed.
    """
    for path in sorted(directory.glob(f"{prefix}.*")):
        if step < 0:
            path.unlink()
        elif path.suffix == ".xyz":
            _rewrite(path, _frames_until(path, step))
        elif path.suffix == ".out":
            _rewrite(path, _rows_until(path, step))


def _frames_until(path: Path, step: int) -> Iterator[str]:
    with path.open() as handle:
        for comment, lines in _blocks(handle):
            if int(_STEP.search(comment)[1]) > step:
                return
            yield "".join((f"{len(lines)}\n", comment, *lines))


def _rows_until(path: Path, step: int) -> Iterator[str]:
    with path.open() as handle:
        for line in handle:
            is_row = bool(line.strip()) and not line.lstrip().startswith("#")
            if is_row and (not line.endswith("\n") or float(line.split()[0]) > step):
                return
            yield line


def _rewrite(path: Path, parts: Iterator[str]) -> None:
    with replacing(path) as temporary, temporary.open("w") as handle:
        handle.writelines(parts)
