"""What runs say: progress on the terminal and in run.log, and errors."""

import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Protocol, TypeVar

import typer
from rich.console import Console

from nemp_sim.errors import NempError
from nemp_sim.locks import missing_directories

RUN_LOG = "run.log"
Show = Callable[..., None]


class HasDirectory(Protocol):
    """Settings of a workflow, as those see them that need its directory alone."""

    @property
    def directory(self) -> Path:
        """Where the results go."""


class Reported(Protocol):
    """Anything with a verdict: a ``report.Report``."""

    @property
    def verdict(self) -> str:
        """The outcome in one sentence."""


class HasReport(Protocol):
    """Result of a workflow, as the log sees it."""

    @property
    def report(self) -> Reported:
        """What the run found."""


Outcome = TypeVar("Outcome", bound=HasReport)


@contextmanager
def status_line(quiet: bool = False) -> Iterator[Show]:
    """A line on the terminal that says what is going on; silent where stderr is no terminal.

    Yields:
        A function of texts, or of objects that print themselves: what goes on, then how far it is.
    """
    console = Console(stderr=True, highlight=False)
    if quiet or not console.is_terminal:
        yield lambda *event: None
        return
    with console.status("starting") as status:
        yield lambda *event: status.update(_line(event))


def _line(event: tuple[object, ...]) -> str:
    return ": ".join(map(str, event))


def time_left(begun: float, done: int, total: int) -> str:
    """The rest of ``total`` equal steps, at the pace since ``begun`` (``time.perf_counter()``)."""
    return f"{(time.perf_counter() - begun) * (total - done) / done:.0f} s left"


@dataclass
class RunLog:
    """The lines of run.log, kept until the directory of the run exists.

    Attributes:
        path: the file.
        lines: those that are not written yet.
    """

    path: Path
    lines: list[str] = field(default_factory=list)

    def keep(self, text: str) -> None:
        """A line with date and time, for the next ``write``."""
        self.lines.append(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S%z} {text}\n")

    def write(self, text: str) -> None:
        """Add a line and those kept; several processes may write to one file."""
        self.keep(text)
        if self.path.parent.is_dir():
            with self.path.open("a", encoding="utf-8") as handle:
                handle.write("".join(self.lines))
            self.lines.clear()


def logged(run: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """A workflow's ``run(settings, engine, show)`` that keeps a log in its directory.

    Every event that is shown becomes a line of run.log, and so does the end of the run: its verdict
    or the error. A further run in the same directory adds to the log. A run that breaks off before
    it has written anything else leaves nothing: no log, and no directory that was not there.
    """

    @wraps(run)
    def kept(settings: HasDirectory, engine: object = None, show: Show | None = None) -> Outcome:
        directory = settings.directory
        log = RunLog(directory / RUN_LOG)
        missing = missing_directories(directory)

        def told(*event: object) -> None:
            log.write(_line(event))
            if show is not None:
                show(*event)

        log.keep(f"start: {settings}")  # not yet: a fresh run empties its directory
        try:
            result = run(settings, engine, told)
        except BaseException as error:
            log.write(f"BROKEN OFF: {type(error).__name__}: {error}")
            if missing and [*directory.glob("*")] == [log.path]:
                log.path.unlink()
                with suppress(OSError):  # somebody else writes there too
                    for path in missing:
                        path.rmdir()
            raise
        log.write(f"end: {result.report.verdict}")
        return result

    return kept


class Command(typer.core.TyperCommand):
    """Prints an error that a user can cure as one message; exits with its code, 2 for most."""

    def invoke(self, ctx: typer.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (NempError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(getattr(error, "exit_code", 2)) from None
        except UnicodeEncodeError as error:
            unknown = ascii(error.object[error.start : error.end])
            print(
                f"error: the locale of this process writes {error.encoding}, which has no "
                f"{unknown}. Set PYTHONUTF8=1.",
                file=sys.stderr,
            )
            raise typer.Exit(2) from None


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings as one line for people, without file, line and source of the package."""

    def show(message: Warning | str, *_where: object, **_more: object) -> None:
        print(f"warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM, which batch systems send before they kill, raises KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():  # handlers are set there only
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
