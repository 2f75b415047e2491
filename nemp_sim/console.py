"""What the workflows say: progress, outcome, errors; and the last complete step they keep."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import typer
from rich.console import Console

from nemp_sim.errors import NempError
from nemp_sim.files import write_structures
from nemp_sim.relax import Step
from nemp_sim.report import Report

KEPT_EVERY_S = 30.0  # between two bands that a run writes on its way


@dataclass
class KeptStep:
    """The last complete step, for the files of a run that breaks off.

    Attributes:
        show: what each step is handed on to.
        path: where bands are written now and then, for a run that is killed; None: nowhere.
        step: the last one; None before the first.
    """

    show: Callable[[Step], None]
    path: Path | None = None
    step: Step | None = field(default=None)
    _written_at: float = field(default_factory=time.monotonic)

    def __call__(self, step: Step) -> None:
        """Keep ``step`` and hand it on."""
        self.step = step
        late = time.monotonic() - self._written_at > KEPT_EVERY_S
        if self.path is not None and step.barrier_eV is not None and late:
            write_structures(self.path, step.images)
            self._written_at = time.monotonic()
        self.show(step)


@contextmanager
def status_line() -> Iterator[Callable[[str], None]]:
    """A line on the terminal that says what is going on; silent where stderr is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: None
        return
    with console.status("starting") as status:
        yield status.update


@contextmanager
def progress() -> Iterator[Callable[[Step], None]]:
    """A status line that follows an optimisation."""
    with status_line() as say:

        def show(step: Step) -> None:
            barrier = "" if step.barrier_eV is None else f", barrier {step.barrier_eV:.3f} eV"
            force = f"largest force {step.fmax_eV_per_A:.3f} eV/Å"
            say(f"{step.stage}: step {step.number}, {force}{barrier}")

        yield show


@contextmanager
def exit_codes(*, goes_on: bool = False) -> Iterator[None]:
    """Errors that a user can cure: one message, exit code 2. SIGTERM ends a run like Ctrl-C.

    Args:
        goes_on: the same command goes on after Ctrl-C, which is then said; exit code 130.
    """
    try:
        with _terminated_like_interrupted():
            yield
    except (NempError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        if not goes_on:
            raise
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise typer.Exit(130) from None


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM, which batch systems send before they kill, raises KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():  # handlers are set there only
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def print_outcome(report: Report, directory: Path) -> None:
    """Title, verdict and notes of a report, and where its files are."""
    print(f"{report.title}\n{report.verdict}")
    for note in report.notes:
        print(f"- {note}")
    print(f"files in {directory}/")
