"""What every workflow begins and ends with: its engine, the end of its report, its result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, Protocol, TypeVar

from ase import Atoms

from nemp_sim.checkpoint import load_potential
from nemp_sim.console import HasDirectory
from nemp_sim.domain_report import with_domain
from nemp_sim.potential import Potential
from nemp_sim.report import Report, concluded
from nemp_sim.systems import SYSTEMS, System, choose_potential


class Computing(HasDirectory, Protocol):
    """Settings of a workflow that say where and how to compute."""

    @property
    def device(self) -> str:
        """The device: "auto", "cpu", "cuda" or "cuda:1"."""

    @property
    def dtype(self) -> str | None:
        """The precision: "float32" or "float64"; None: that of the potential."""

    @property
    def on_extrapolation(self) -> str:
        """What to do outside the domain: "warn", "raise" or "ignore"."""


class WithSystem:
    """Settings of a workflow that knows structures by name, and a shipped potential of each.

    Attributes:
        system_field: the field that holds the name or a file.
        built_in: the structures that are known by name.
    """

    system_field: ClassVar[str] = "structure"
    built_in: ClassVar[Mapping[str, System]] = SYSTEMS
    potential: str | None
    head: str | None

    def potential_and_head(self) -> tuple[str, str | None]:
        """Those that are given, or those of the built-in structure.

        Raises:
            InputError: neither.
        """
        name = getattr(self, self.system_field)
        given = self.potential, self.head
        return choose_potential(name, *given, self.built_in, self.system_field)


Chosen = TypeVar("Chosen", bound=HasDirectory)
Given = TypeVar("Given")


@dataclass(frozen=True)
class WorkflowResult(Generic[Chosen]):
    """What the result of every workflow holds.

    Attributes:
        settings: the settings of the run.
        report: what report.json and report.md hold.
    """

    settings: Chosen
    report: Report

    @property
    def directory(self) -> Path:
        """Where the files of the run are."""
        return self.settings.directory

    @property
    def trusted(self) -> bool:
        """Whether all converged and every check passed; a command exits with 1 where not."""
        return True


def engine_of(
    given: Given | None,
    settings: Computing,
    potential: str,
    head: str | None = None,
    dtype: str | None = None,
) -> Given | Potential:
    """The engine that a workflow was given, or else the potential of its settings.

    Args:
        given: what evaluates structures; None loads ``potential``.
        settings: device, dtype and policy outside the domain.
        potential: path or name of a potential.
        head: its read-out; None: the only one.
        dtype: instead of that of the settings, where these leave it open.

    Raises:
        PotentialFileError: no such potential.
        InputError: no such head, device or dtype.
    """
    if given is not None:
        return given
    place = settings.device, settings.dtype or dtype, head
    return load_potential(potential, *place, on_extrapolation=settings.on_extrapolation)


def ended(
    report: Report,
    engine: object,
    settings: object,
    started: float,
    final: Sequence[Atoms] | None,
) -> Report:
    """The report of a workflow with the domain of its potential, provenance and common files.

    Args:
        report: what was found.
        engine: what evaluated the structures.
        settings: the frozen settings of the workflow.
        started: ``time.perf_counter()`` at its start.
        final: structures that the numbers of the report rest on; None: all that were evaluated.

    Raises:
        ExtrapolationError: something is outside and the policy of the engine is "raise".
    """
    return concluded(with_domain(report, engine, final), engine, settings, started)
