"""What the path-integral workflows show at the terminal: a progress line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nemp_sim.console import status_line
from nemp_sim.pathintegral.run import Progress

Show = Callable[[str, Progress], None]


@contextmanager
def progress() -> Iterator[Show]:
    """A status line that follows a simulation."""
    with status_line() as say:

        def show(label: str, at: Progress) -> None:
            left = "" if at.seconds_left is None else f", {at.seconds_left:.0f} s left"
            say(
                f"{label}: step {at.step} of {at.steps}{left}; {at.temperature_K:.0f} K, potential "
                f"{at.potential_eV:.3f} eV, conserved {1e3 * at.conserved_eV:+.1f} meV"
            )

        yield show
