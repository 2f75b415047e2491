"""What the path-integral workflows share at the terminal: a progress line, lists in options."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from nemp_sim.errors import InputError
from nemp_sim.pathintegral.run import Progress

Show = Callable[[str, Progress], None]


@contextmanager
def progress() -> Iterator[Show]:
    """A line on the terminal that follows the run; silent where stderr is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda label, step: None
        return
    with console.status("starting") as status:

        def show(label: str, at: Progress) -> None:
            left = "" if at.seconds_left is None else f", {at.seconds_left:.0f} s left"
            status.update(
                f"{label}: step {at.step} of {at.steps}{left}; {at.temperature_K:.0f} K, potential "
                f"{at.potential_eV:.3f} eV, conserved {1e3 * at.conserved_eV:+.1f} meV"
            )

        yield show


def words(text: str | None) -> tuple[str, ...] | None:
    """Entries of an option such as "1,4,16" or "1 4 16"."""
    return None if text is None else tuple(text.replace(",", " ").split())


def whole_numbers(name: str, text: str) -> tuple[int, ...]:
    """Whole numbers of an option such as "1,4,16".

    Raises:
        InputError: something else.
    """
    try:
        return tuple(int(word) for word in words(text))
    except ValueError:
        raise InputError(
            f"{name} is {text!r}, but must be whole numbers, as in --{name} 1,4,16."
        ) from None
