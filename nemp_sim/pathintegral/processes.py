"""The processes of a simulation: the i-PI server, and the clients that compute its forces."""

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from nemp_sim.errors import InputError
from nemp_sim.ipi.client import BeadEvaluator, run_client
from nemp_sim.ipi.server import Server
from nemp_sim.locks import lock
from nemp_sim.pathintegral import lifeline
from nemp_sim.pathintegral.forces import FORCEFIELD
from nemp_sim.pathintegral.lifeline import STOP_S

LOG = "i-pi.log"
POLL_S = 0.1
START_S = 300.0  # longest wait of a client for a server that lives; many start side by side
LEAVE_S = 2.0  # the client leaves within this time after the server
LOCK_S = 15.0  # longest wait for the server of a killed process to write its restart file


@dataclass(frozen=True)
class Helper:
    """A further client, in a process of its own.

    Attributes:
        potential: path or name of the potential.
        device: where it computes.
        head: read-out; None: the only one.
        dtype: None takes that of the file.
        on_extrapolation: "warn", "raise" or "ignore" outside the domain of the potential.
    """

    potential: str
    device: str
    head: str | None = None
    dtype: str | None = None
    on_extrapolation: str = "warn"


@contextmanager
def sole_log(directory: Path) -> Iterator[IO[str]]:
    """i-PI's log, locked: one simulation runs in a directory at a time.

    i-PI inherits the lock with the file, and the operating system frees it when both processes are
    gone. So what goes on after a kill first waits for the server that was left behind to write its
    restart file.

    Raises:
        InputError: another process simulates there.
    """
    end = time.monotonic() + LOCK_S
    with (directory / LOG).open("a") as log:
        while not lock(log, wait=False):
            if time.monotonic() > end:
                raise InputError(
                    f"another process simulates in {directory}. Wait for its end, stop it with "
                    "Ctrl-C, or choose another --name."
                )
            time.sleep(POLL_S)
        yield log


class IPI(subprocess.Popen):
    """i-PI in a process."""

    asked = False

    def ask_to_stop(self) -> None:
        """Let it write its restart file and end; a second signal would end it without the file."""
        if not self.asked and self.poll() is None:
            self.asked = True
            self.terminate()

    def stop(self) -> None:
        """Ask, and wait for the end."""
        self.ask_to_stop()
        with suppress(subprocess.TimeoutExpired):
            self.wait(STOP_S)


@contextmanager
def ipi_on(path: Path, sockets: Path, log: IO[str]) -> Iterator[IPI]:
    """i-PI on an input file, in the directory of that file; gone when the block ends."""
    program = shutil.which("i-pi", path=str(Path(sys.executable).parent)) or shutil.which("i-pi")
    if program is None:
        raise InputError("the program i-pi is not installed here. Install it: pip install ipi.")
    server = IPI(
        [sys.executable, lifeline.__file__, program, "-S", f"{sockets}/", path.name],
        cwd=path.parent,
        stdin=subprocess.PIPE,  # never written to: see the module
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is for this process, which then stops i-PI
    )
    try:
        yield server
    finally:
        server.kill()
        server.wait()
        server.stdin.close()


class Clients:
    """Clients of this process, each in a thread, and those in processes of their own."""

    def __init__(self, mode: str, sockets: Path) -> None:
        """None yet; all will look for their server in the directory of sockets."""
        self.mode, self.sockets = mode, sockets
        self.error: Exception | None = None
        self._threads: list[threading.Thread] = []
        self._processes: list[subprocess.Popen] = []

    def start(self, evaluator: BeadEvaluator, address: str, leave: Callable[[], None]) -> None:
        """Start the client of a force field in a thread, which calls ``leave`` at its end."""
        server = Server(self.mode, address, prefix=f"{self.sockets}/")

        def work() -> None:
            try:
                run_client(evaluator, server, START_S)
            except Exception as error:  # handed to the thread that watches
                self.error = error
            finally:
                leave()

        self._threads.append(threading.Thread(target=work, daemon=True))
        self._threads[-1].start()

    def add(self, helper: Helper, directory: Path) -> None:
        """Start one more client in a process."""
        command = [sys.executable, "-m", "nemp_sim.cli", "ipi", f"--{self.mode}"]
        command += ["--address", FORCEFIELD, "--prefix", f"{self.sockets}/"]
        command += ["--template", f"{self.sockets}/template.extxyz"]
        for name, value in vars(helper).items():
            command += [f"--{name.replace('_', '-')}", value] if value is not None else []
        with (directory / f"client-{len(self._processes) + 1}.log").open("a") as log:
            self._processes.append(
                subprocess.Popen(
                    command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
            )

    def stop(self) -> None:
        """End what is left of them; a thread leaves when its connection ends."""
        for thread in self._threads:
            thread.join(LEAVE_S)
        for process in self._processes:
            process.terminate()
            process.wait()
