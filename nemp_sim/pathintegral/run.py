"""i-PI simulations from start to end: servers, clients, progress, stop and continuation."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.io import write

from nemp_sim.checkpoint import load_potential
from nemp_sim.errors import EvaluationError, InputError, NempError
from nemp_sim.files import private_directory
from nemp_sim.ipi.client import BeadEngine, BeadEvaluator
from nemp_sim.pathintegral.files import last_row, trim
from nemp_sim.pathintegral.forces import CHEAP, FORCEFIELD
from nemp_sim.pathintegral.input import PREFIX, Dynamics, Start, write_input
from nemp_sim.pathintegral.processes import IPI, LOG, Clients, Helper, ipi_on, sole_log
from nemp_sim.pathintegral.restart import claim, continued, restart_file, steps_done
from nemp_sim.potential import Potential
from nemp_sim.together import Meeting, Share

POLL_S = 0.2


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

    def __str__(self) -> str:
        """One line for the terminal."""
        left = "" if self.seconds_left is None else f", {self.seconds_left:.0f} s left"
        return (
            f"step {self.step} of {self.steps}{left}; {self.temperature_K:.0f} K, potential "
            f"{self.potential_eV:.3f} eV, conserved {1e3 * self.conserved_eV:+.1f} meV"
        )


@dataclass(frozen=True)
class Job:
    """What is simulated where.

    Attributes:
        start: the structure.
        dynamics: what to do with it.
        directory: of i-PI's files; made if missing.
    """

    start: Start
    dynamics: Dynamics
    directory: Path


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
    cheap: BeadEngine | None = None,
    show: Callable[[Progress], None] | None = None,
) -> int:
    """Run i-PI until ``dynamics.steps``, from where an earlier call in ``directory`` stopped.

    On an interrupt (Ctrl-C) i-PI writes its restart file first; a later call goes on from there
    with the same random numbers, and so it does when this process was killed. After a kill of
    i-PI itself it goes on from the last checkpoint.

    Args:
        engine: evaluates the beads of the client in this process.
        start: the structure.
        dynamics: what to do with it.
        directory: of i-PI's files; made if missing.
        mode: "unix" or "shm".
        helpers: further clients.
        cheap: evaluates the cheap force, where ``dynamics.cheap`` wants one.
        show: called with the progress several times a second.

    Returns:
        Steps done in this call.

    Raises:
        InputError: the directory holds another simulation, or i-PI refuses the input.
        EvaluationError: i-PI or the clients ended before the last step.
        NempError: whatever ends the client.
    """
    if (cheap is None) != (dynamics.cheap is None):
        given = "given" if cheap is not None else "not given"
        raise InputError(f"cheap engine is {given}: dynamics.cheap and the engine go together.")
    engines = {FORCEFIELD: engine} if cheap is None else {FORCEFIELD: engine, CHEAP: cheap}
    with _running(engines, Job(start, dynamics, directory), mode, helpers) as simulation:
        return 0 if simulation is None else _watch([simulation], show)


def simulate_together(
    engine: BeadEngine,
    jobs: Sequence[Job],
    *,
    mode: str = "unix",
    show: Callable[[Progress], None] | None = None,
) -> int:
    """``simulate`` for several jobs side by side: one i-PI each, all beads of all in one call.

    Args:
        engine: evaluates the beads of all simulations, in this process.
        jobs: the simulations, each in a directory of its own.
        mode: "unix" or "shm".
        show: called with the progress of the slowest, several times a second.

    Returns:
        Steps done in this call, of all together.

    Raises:
        InputError, EvaluationError, NempError: as ``simulate``; the others stop as at Ctrl-C.
    """
    for job in jobs:
        claim(job.directory, job.start, job.dynamics)
    meeting = Meeting(engine, len(jobs))
    shares = [Share(meeting, number) for number in range(len(jobs))]
    with ExitStack() as stack:
        enter = stack.enter_context
        try:
            pairs = zip(shares, jobs, strict=True)
            found = [enter(_running({FORCEFIELD: share}, job, mode)) for share, job in pairs]
            return _watch([simulation for simulation in found if simulation is not None], show)
        except BaseException:
            for share in shares:  # none waits for another while all stop
                share.leave()
            raise


@contextmanager
def _running(
    engines: Mapping[str, Any],  # a BeadEngine, or the Share of a job in one
    job: Job,
    mode: str,
    helpers: Sequence[Helper] = (),
) -> Iterator["_Simulation | None"]:
    """Server and clients of a job, from where it stands; None where nothing is left to do."""
    start, dynamics, directory = job.start, job.dynamics, job.directory
    claim(directory, start, dynamics)
    with ExitStack() as stack:
        log = stack.enter_context(sole_log(directory))
        done, template = 0, start.atoms
        if (restart := restart_file(directory)) is None:
            trim(directory, PREFIX, -1)
            path = write_input(start, dynamics, directory, mode)
        else:
            path, done, places = continued(restart, dynamics, mode)
            template = template.copy()
            template.positions = places
            if done >= dynamics.steps:
                for engine in engines.values():
                    _end_of(engine)()
                yield None
                return
            trim(directory, PREFIX, done)
        sockets = stack.enter_context(private_directory())
        server = stack.enter_context(ipi_on(path, sockets, log))
        write(sockets / "template.extxyz", template, format="extxyz")
        clients = Clients(mode, sockets)
        stack.callback(clients.stop)
        stack.callback(server.stop)
        for address, engine in engines.items():
            clients.start(BeadEvaluator(engine, template), address, _end_of(engine))
        for helper in helpers:
            clients.add(helper, directory)
        yield _Simulation(server, clients, job, done)


def _end_of(engine: BeadEngine | Share) -> Callable[[], None]:
    """What to call when an engine is needed no more."""
    return engine.leave if isinstance(engine, Share) else lambda: None


class _Simulation:
    """A server with its clients, as long as it runs.

    Attributes:
        server: i-PI.
        progress: where it stands; None before the first line.
    """

    def __init__(self, server: IPI, clients: Clients, job: Job, done: int) -> None:
        self.server, self._clients, self._job, self._done = server, clients, job, done
        self._first: tuple[float, np.ndarray] | None = None
        self.progress: Progress | None = None

    def look(self) -> bool:
        """Whether it still runs; the progress is brought up to date.

        Raises:
            NempError: of the client.
            InputError: i-PI refuses its input.
            EvaluationError: i-PI ended before the last step.
        """
        if self.server.poll() is not None:
            self._check_end()
            return False
        error = self._clients.error
        if error is not None:
            self.server.stop()
            raise (
                error
                if isinstance(error, NempError)
                else EvaluationError(f"the client failed: {type(error).__name__}: {error}")
            ) from error
        row = last_row(self._job.directory / f"{PREFIX}.out")
        if row is not None:
            self._first = self._first or (time.monotonic(), row)
            since, first = self._first
            steps, taken = self._job.dynamics.steps, row[0] - first[0]
            left = (time.monotonic() - since) / taken * (steps - row[0]) if taken > 0 else None
            change = row[2] - first[2]
            self.progress = Progress(int(row[0]), steps, row[3], row[4], change, left)
        return True

    def steps(self) -> int:
        """Steps done since the start."""
        return steps_done(self._job.directory) - self._done

    def _check_end(self) -> None:
        directory, wanted = self._job.directory, self._job.dynamics.steps
        reached = steps_done(directory)
        if self.server.returncode != 0 or reached <= self._done:
            code = self.server.returncode
            raise InputError(f"i-PI failed (exit code {code}).{_end_of_log(directory)}")
        if reached < wanted:
            raise EvaluationError(
                f"i-PI ended after {reached} of {wanted} steps.{_end_of_log(directory)}"
            )


def _watch(simulations: Sequence[_Simulation], show: Callable[[Progress], None] | None) -> int:
    """Wait for the end of all, or of one that fails, and tell about the slowest; the steps done."""
    running = list(simulations)
    try:
        while running:
            running = [simulation for simulation in running if simulation.look()]
            told = [simulation.progress for simulation in running]
            if show is not None and told and None not in told:
                show(min(told, key=lambda progress: progress.step))
            time.sleep(POLL_S if running else 0.0)
    except BaseException:
        for simulation in simulations:
            simulation.server.ask_to_stop()
        raise
    return sum(simulation.steps() for simulation in simulations)


def _end_of_log(directory: Path) -> str:
    path = directory / LOG
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    said = " | ".join(line.strip() for line in lines[-4:] if line.strip())
    return f" The end of {path}: {said}"
