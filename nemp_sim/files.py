"""Files: written so that no reader ever sees a partial one; structures read with clear errors."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from nemp_sim.errors import InputError
from nemp_sim.structures import check_structure

MAX_JSON_DEPTH = 100  # levels


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` when the block succeeds.

    The temporary name keeps the suffix, from which writers choose a format.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_structures(path: Path, structures: Atoms | Sequence[Atoms]) -> None:
    """Write one structure, or several, as extended XYZ: the whole file or none."""
    import ase.io  # with scipy, a fifth of the import time of NEMP

    with replacing(path) as temporary:
        ase.io.write(temporary, structures, format="extxyz")


@contextmanager
def private_directory() -> Iterator[Path]:
    """A new directory with mode 0700 and a path short enough for a socket."""
    path = Path(tempfile.mkdtemp(prefix="nemp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def parse_json(text: str) -> dict[str, Any]:
    """The JSON object in a file that anyone may have made.

    Deep nesting is refused before it is parsed: where the recursion limit of the process was
    raised, the parser overflows the stack and the process dies.

    Raises:
        ValueError: no JSON object, or nested deeper than ``MAX_JSON_DEPTH``.
    """
    symbols = np.frombuffer(text.encode("utf-8"), dtype=np.uint8)
    opened = np.isin(symbols, np.frombuffer(b"[{", dtype=np.uint8)).astype(np.int64)
    closed = np.isin(symbols, np.frombuffer(b"]}", dtype=np.uint8))
    if np.cumsum(opened - closed).max(initial=0) > MAX_JSON_DEPTH:
        raise ValueError(f"JSON nested deeper than {MAX_JSON_DEPTH}")
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def sha256_of(path: Path) -> str:
    """SHA-256 checksum of a file, hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def read_structure(path: str | Path, name: str) -> Atoms:
    """The last structure of a file of any format that ASE reads.

    Args:
        path: the file.
        name: the argument that error messages name.

    Raises:
        InputError: see ``read_structures``.
    """
    return _read(Path(path), name, "-1:")[0]


def read_structures(path: str | Path, name: str) -> list[Atoms]:
    """All structures of a file of any format that ASE reads.

    Args:
        path: the file.
        name: the argument that error messages name.

    Raises:
        InputError: no such file, an unreadable one, a structure without atoms or with numbers that
            define none (``check_structure``), or an xyz file of i-PI, of whose comment lines ASE
            reads neither cell nor units.
    """
    return _read(Path(path), name, ":")


def _read(path: Path, name: str, index: str) -> list[Atoms]:
    if not path.is_file():
        raise InputError(f"{name} is {str(path)!r}, but there is no such file. Check the path.")
    with path.open("rb") as handle:
        of_ipi = any(b"# CELL" in handle.readline(400) for _ in range(2))
    if of_ipi:
        raise InputError(
            f"{name}: {str(path)!r} is an xyz file of i-PI, of which ASE reads neither the cell "
            "nor the units. Give the extended XYZ file that it was made from, or convert it: "
            "import ipi, ase.io; ase.io.write('beads.extxyz', "
            f"ipi.read_trajectory({str(path)!r}))"
        )
    import ase.io

    try:
        found = list(ase.io.iread(path, index))
    except Exception as error:  # ASE's readers raise anything
        raise InputError(
            f"{name}: ASE cannot read {str(path)!r} ({type(error).__name__}: {error}). Give a "
            "structure file of a format that ASE knows (extxyz, POSCAR, cif, traj …)."
        ) from error
    if not found or not all(map(len, found)):
        raise InputError(f"{name}: {str(path)!r} holds a structure without atoms. Give another.")
    for number, atoms in enumerate(found):
        check_structure(atoms, number)
    return found
