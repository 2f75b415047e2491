"""What the workflows show while they run, and the last complete step that they keep."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console

from nemp_sim.relax import Step


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
def progress() -> Iterator[Callable[[Step], None]]:
    """A line on the terminal that follows the run; silent where stderr is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda step: None
        return
    with console.status("starting") as status:

        def show(step: Step) -> None:
            barrier = "" if step.barrier_eV is None else f", barrier {step.barrier_eV:.3f} eV"
            force = f"largest force {step.fmax_eV_per_A:.3f} eV/Å"
            status.update(f"{step.stage}: step {step.number}, {force}{barrier}")

        yield show
