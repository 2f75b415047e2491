"""What the workflows say: progress, outcome, errors; and the last complete step they keep."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import typer
from rich.console import Console

from nemp_sim.errors import NempError
from nemp_sim.relax import Step
from nemp_sim.report import Report


@dataclass
class KeptStep:
    """The last complete step, for the files of a run that breaks off.

    Attributes:
        show: what each step is handed on to.
        step: the last one; None before the first.
    """

    show: Callable[[Step], None]
    step: Step | None = field(default=None)

    def __call__(self, step: Step) -> None:
        """Keep ``step`` and hand it on."""
        self.step = step
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
    """Errors that a user can cure: one message, exit code 2.

    Args:
        goes_on: the same command goes on after Ctrl-C, which is then said; exit code 130.
    """
    try:
        yield
    except (NempError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        if not goes_on:
            raise
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise typer.Exit(130) from None


def print_outcome(report: Report, directory: Path) -> None:
    """Title, verdict and notes of a report, and where its files are."""
    print(f"{report.title}\n{report.verdict}")
    for note in report.notes:
        print(f"- {note}")
    print(f"files in {directory}/")
