"""Where the simulation in a directory stands, and how it goes on."""

import hashlib
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from nemp_sim.errors import InputError
from nemp_sim.files import replacing
from nemp_sim.pathintegral.input import PREFIX, Dynamics, Start
from nemp_sim.report import plain
from nemp_sim.units import BOHR_ANGSTROM

RECORD = "simulation.json"  # what was simulated, to be continued only by the same


def steps_done(directory: Path) -> int:
    """Steps of the newest restart file in a directory; 0 without one."""
    restart = restart_file(directory)
    return _step(restart) if restart else 0


def fingerprint(start: Start, dynamics: Dynamics) -> dict[str, Any]:
    """What must agree for a simulation to be continued: all but its length."""
    atoms = start.atoms
    arrays = [atoms.numbers, atoms.get_masses(), np.array(start.fixed)]
    places = atoms.positions if start.ring is None else start.ring
    arrays += [values.round(6) for values in (atoms.cell.array, places)]
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays))
    settings = plain(replace(dynamics, steps=1, batch_size=1))
    return {"structure_sha256": digest.hexdigest(), "dynamics": settings}


def claim(directory: Path, start: Start, dynamics: Dynamics) -> None:
    """Make the directory and note down what is simulated there; refuse that of another simulation.

    Raises:
        InputError: it holds another one.
    """
    directory.mkdir(parents=True, exist_ok=True)
    record, wanted = directory / RECORD, fingerprint(start, dynamics)
    if record.is_file():
        found = json.loads(record.read_text(encoding="utf-8"))
        if found == wanted:
            return
        old, new = found.get("dynamics", {}), wanted["dynamics"]
        names = [f"{k} {old.get(k)} → {v}" for k, v in new.items() if old.get(k) != v]
        raise InputError(
            f"{directory} holds another simulation ({', '.join(names) or 'another structure'}). "
            "Choose another --name, or discard it with --fresh."
        )
    with replacing(record) as temporary:
        temporary.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")


def _step(path: Path) -> int:
    node = ElementTree.parse(path).getroot().find("step")
    return 0 if node is None else int(node.text)


def restart_file(directory: Path) -> Path | None:
    """The newer of what i-PI wrote at its end and of its last checkpoint; None without any."""
    found = {}
    for name in ("RESTART", f"{PREFIX}.checkpoint"):
        with suppress(OSError, ElementTree.ParseError, ValueError):
            found[_step(directory / name)] = directory / name
    return found[max(found)] if found else None


def continued(restart: Path, dynamics: Dynamics, mode: str) -> tuple[Path, int, np.ndarray]:
    """The input that goes on, the steps done, and the centroids (N, 3) in Å."""
    root = ElementTree.parse(restart).getroot()
    step = _step(restart)
    root.find("total_steps").text = str(dynamics.steps)
    sizes = dynamics.batch_sizes()
    for socket in root.iter("ffsocket"):
        socket.set("mode", mode)
        size = socket.find("batch_size")  # i-PI leaves out what has its default value
        size = ElementTree.SubElement(socket, "batch_size") if size is None else size
        size.text = str(sizes[socket.get("name").strip()])
    node = root.find("system/beads/q")
    numbers = np.array(node.text.strip(" []\n").split(","), dtype=np.float64)
    beads = numbers.reshape(dynamics.beads, -1, 3) * BOHR_ANGSTROM
    path = restart.with_name("continue.xml")
    with replacing(path) as temporary:
        ElementTree.ElementTree(root).write(temporary, encoding="unicode")
    return path, step, beads.mean(axis=0)
