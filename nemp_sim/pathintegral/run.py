"""One i-PI simulation from start to end: server, clients, progress, stop and continuation."""

import hashlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from ase.io import write

from nemp_sim.checkpoint import load_potential
from nemp_sim.errors import EvaluationError, InputError, NempError
from nemp_sim.files import private_directory, replacing
from nemp_sim.ipi.client import BeadEngine, BeadEvaluator, run_client
from nemp_sim.ipi.server import Server
from nemp_sim.pathintegral.files import last_row, trim
from nemp_sim.pathintegral.input import ADDRESS, PREFIX, Dynamics, Start, write_input
from nemp_sim.potential import Potential
from nemp_sim.report import plain
from nemp_sim.units import BOHR_ANGSTROM

POLL_S = 0.2
START_S = 60.0  # longest wait of a client for the server
STOP_S = 30.0  # longest wait for i-PI to write its restart file
LEAVE_S = 2.0  # the client leaves within this time after the server
RECORD = "simulation.json"  # what was simulated, to be continued only by the same


@dataclass(frozen=True)
class Progress:
    """Where a simulation stands.

    Attributes:
        step: steps done.
        steps: steps wanted.
        temperature_K: of the last written step, of the extended system.
        potential_eV: of the last written step.
        conserved_eV: change of the conserved quantity since the first written step.
        seconds_left: at the pace so far; None before the first steps.
    """

    step: int
    steps: int
    temperature_K: float
    potential_eV: float
    conserved_eV: float
    seconds_left: float | None


@dataclass(frozen=True)
class Helper:
    """A further client, in a process of its own.

    Attributes:
        potential: path or name of the potential.
        device: where it computes.
        head: read-out; None: the first one.
        dtype: None takes that of the file.
        on_extrapolation: "warn", "raise" or "ignore" outside the domain of the potential.
    """

    potential: str
    device: str
    head: str | None = None
    dtype: str | None = None
    on_extrapolation: str = "warn"


def load_clients(
    potential: str,
    devices: Sequence[str],
    dtype: str | None,
    head: str | None = None,
    on_extrapolation: str = "warn",
) -> tuple[Potential, tuple[Helper, ...]]:
    """The engine on the first device, and a helper on each of the others.

    Raises:
        PotentialFileError: no such potential.
        InputError: no such device, dtype or head.
    """
    first, *others = devices
    engine = load_potential(potential, first, dtype, head, on_extrapolation=on_extrapolation)
    helpers = (Helper(potential, device, head, dtype, on_extrapolation) for device in others)
    return engine, tuple(helpers)


def simulate(
    engine: BeadEngine,
    start: Start,
    dynamics: Dynamics,
    directory: Path,
    *,
    mode: str = "unix",
    helpers: Sequence[Helper] = (),
    show: Callable[[Progress], None] | None = None,
) -> int:
    """Run i-PI until ``dynamics.steps``, from where an earlier call in ``directory`` stopped.

    On an interrupt (Ctrl-C) i-PI writes its restart file first; a later call goes on from there
    with the same random numbers. After a kill it goes on from the last checkpoint.

    Args:
        engine: evaluates the beads of the client in this process.
        start: the structure.
        dynamics: what to do with it.
        directory: of i-PI's files; made if missing.
        mode: "unix" or "shm".
        helpers: further clients.
        show: called with the progress several times a second.

    Returns:
        Steps done in this call.

    Raises:
        InputError: the directory holds another simulation, or i-PI refuses the input.
        EvaluationError: i-PI or the clients ended before the last step.
        NempError: whatever ends the client.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _claim(directory, start, dynamics)
    done, template = 0, start.atoms
    if (restart := _restart_file(directory)) is None:
        trim(directory, PREFIX, -1)
        path = write_input(start, dynamics, directory, mode)
    else:
        path, done, places = _continued(restart, dynamics, mode)
        template = template.copy()
        template.positions = places
        if done >= dynamics.steps:
            return 0
        trim(directory, PREFIX, done)
    with private_directory() as sockets, _ipi(path, sockets) as server:
        clients = _Clients(BeadEvaluator(engine, template), mode, sockets)
        write(sockets / "template.extxyz", template, format="extxyz")
        try:
            for number, helper in enumerate(helpers):
                clients.add(helper, number, directory)
            _watch(server, clients, directory, dynamics, done, show)
        finally:
            _stop(server)
            clients.stop()
    if (reached := steps_done(directory)) < dynamics.steps:
        raise EvaluationError(
            f"i-PI ended after {reached} of {dynamics.steps} steps.{_end_of_log(directory)}"
        )
    return dynamics.steps - done


def steps_done(directory: Path) -> int:
    """Steps of the newest restart file in a directory; 0 without one."""
    restart = _restart_file(directory)
    return _step(restart) if restart else 0


def fingerprint(start: Start, dynamics: Dynamics) -> dict[str, object]:
    """What must agree for a simulation to be continued: all but its length."""
    atoms = start.atoms
    arrays = [atoms.numbers, atoms.get_masses(), np.array(start.fixed)]
    arrays += [values.round(6) for values in (atoms.cell.array, atoms.positions)]
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays))
    settings = plain(replace(dynamics, steps=1, batch_size=1))
    return {"structure_sha256": digest.hexdigest(), "dynamics": settings}


def _claim(directory: Path, start: Start, dynamics: Dynamics) -> None:
    """Refuse a directory of another simulation; else note down what is simulated here."""
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


def _restart_file(directory: Path) -> Path | None:
    """The newer of what i-PI wrote at its end and of its last checkpoint; None without any."""
    found = {}
    for name in ("RESTART", f"{PREFIX}.checkpoint"):
        with suppress(OSError, ElementTree.ParseError, ValueError):
            found[_step(directory / name)] = directory / name
    return found[max(found)] if found else None


def _continued(restart: Path, dynamics: Dynamics, mode: str) -> tuple[Path, int, np.ndarray]:
    """The input that goes on, the steps done, and the centroids (N, 3) in Å."""
    root = ElementTree.parse(restart).getroot()
    step = int(root.find("step").text)
    root.find("total_steps").text = str(dynamics.steps)
    socket = root.find("ffsocket")
    socket.set("mode", mode)
    size = socket.find("batch_size")  # i-PI leaves out what has its default value
    size = ElementTree.SubElement(socket, "batch_size") if size is None else size
    size.text = str(dynamics.batch_size)
    node = root.find("system/beads/q")
    numbers = np.array(node.text.strip(" []\n").split(","), dtype=np.float64)
    beads = numbers.reshape(dynamics.beads, -1, 3) * BOHR_ANGSTROM
    path = restart.with_name("continue.xml")
    with replacing(path) as temporary:
        ElementTree.ElementTree(root).write(temporary, encoding="unicode")
    return path, step, beads.mean(axis=0)


@contextmanager
def _ipi(path: Path, sockets: Path) -> Iterator[subprocess.Popen]:
    """i-PI on an input file, in the directory of that file; gone when the block ends."""
    program = shutil.which("i-pi", path=str(Path(sys.executable).parent)) or shutil.which("i-pi")
    if program is None:
        raise InputError("the program i-pi is not installed here. Install it: pip install ipi.")
    with (path.parent / "i-pi.log").open("a") as log:
        server = subprocess.Popen(
            [sys.executable, program, "-S", f"{sockets}/", path.name],
            cwd=path.parent,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for this process, which then stops i-PI
        )
        try:
            yield server
        finally:
            server.kill()
            server.wait()


class _Clients:
    """The client of this process, in a thread, and those in processes of their own."""

    def __init__(self, evaluator: BeadEvaluator, mode: str, sockets: Path) -> None:
        """Start the thread."""
        self.mode, self.sockets = mode, sockets
        self.error: Exception | None = None
        self.processes: list[subprocess.Popen] = []
        server = Server(mode, ADDRESS, prefix=f"{sockets}/")

        def work() -> None:
            try:
                run_client(evaluator, server, START_S)
            except Exception as error:  # handed to the thread that watches
                self.error = error

        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()

    def add(self, helper: Helper, number: int, directory: Path) -> None:
        """Start one more client."""
        command = [sys.executable, "-m", "nemp_sim.cli", "ipi", f"--{self.mode}"]
        command += ["--address", ADDRESS, "--prefix", f"{self.sockets}/"]
        command += ["--template", f"{self.sockets}/template.extxyz"]
        for name, value in vars(helper).items():
            command += [f"--{name.replace('_', '-')}", value] if value is not None else []
        with (directory / f"client-{number + 1}.log").open("a") as log:
            self.processes.append(
                subprocess.Popen(
                    command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
            )

    def stop(self) -> None:
        """End what is left of them; the thread leaves when its connection ends."""
        self.thread.join(LEAVE_S)
        for process in self.processes:
            process.terminate()
            process.wait()


def _watch(
    server: subprocess.Popen,
    clients: _Clients,
    directory: Path,
    dynamics: Dynamics,
    first: int,
    show: Callable[[Progress], None] | None,
) -> None:
    """Wait for the end of i-PI or of a client, and tell about the progress."""
    started, begin = None, None
    while server.poll() is None:
        if clients.error is not None:
            _stop(server)
            raise (
                clients.error
                if isinstance(clients.error, NempError)
                else EvaluationError(
                    f"the client failed: {type(clients.error).__name__}: {clients.error}"
                )
            ) from clients.error
        row = last_row(directory / f"{PREFIX}.out")
        if row is not None and show is not None:
            started = started or (time.monotonic(), row[0])
            begin = row[2] if begin is None else begin
            pace = (time.monotonic() - started[0]) / max(row[0] - started[1], 1)
            left = pace * (dynamics.steps - row[0]) if row[0] > started[1] else None
            show(Progress(int(row[0]), dynamics.steps, row[3], row[4], row[2] - begin, left))
        time.sleep(POLL_S)
    if server.returncode != 0 or steps_done(directory) <= first:
        raise InputError(f"i-PI failed (exit code {server.returncode}).{_end_of_log(directory)}")


def _stop(server: subprocess.Popen) -> None:
    """Ask i-PI to write its restart file and end."""
    if server.poll() is None:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(STOP_S)


def _end_of_log(directory: Path) -> str:
    path = directory / "i-pi.log"
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    said = " | ".join(line.strip() for line in lines[-4:] if line.strip())
    return f" The end of {path}: {said}"
