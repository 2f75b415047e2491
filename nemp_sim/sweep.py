"""Many runs of one workflow: the settings of each, from one file, and which of them are done."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from nemp_sim.checkpoint import find_potential
from nemp_sim.config import check_keys, require, require_plain_name
from nemp_sim.errors import InputError, NempError
from nemp_sim.files import sha256_of
from nemp_sim.options import read_toml, settings_values
from nemp_sim.report import plain

SWEPT = (
    *("evaluate", "relax", "adsorption", "neb", "vibrations", "diffusion"),
    *("md", "phonons", "pimd", "umbrella"),
)
NO_MATTER = ("device", "out", "fresh", "restart")  # settings that change no number of a result
UNFINISHED = "BROKEN OFF"  # begins the verdict of a report on a run that did not end


@dataclass(frozen=True)
class SweepFile:
    """What a file of ``nemp many`` may hold.

    Attributes:
        workflow: one of ``SWEPT``.
        name: the table of all jobs goes to results/many-``name``; None: the name of the file.
        settings: settings of all jobs.
        vary: values of a setting; there is a job for every combination.
        jobs: further settings of one job each.
    """

    workflow: str
    name: str | None = None
    settings: Mapping[str, Any] | None = None
    vary: Mapping[str, Sequence[Any]] | None = None
    jobs: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Sweep:
    """Jobs that depend on nothing but their settings.

    Attributes:
        workflow: name of their workflow.
        name: of the sweep.
        jobs: frozen settings of the workflow, each with a directory of its own.
        varied: for each job, the settings in which they differ, as text.
    """

    workflow: str
    name: str
    jobs: tuple[Any, ...]
    varied: tuple[Mapping[str, str], ...]

    def __post_init__(self) -> None:
        """Check that no two jobs write to one directory."""
        require(self.workflow in SWEPT, "workflow", self.workflow, f"one of {', '.join(SWEPT)}")
        require_plain_name(self.name)
        require(bool(self.jobs), "jobs", self.jobs, "at least one: a [vary] table or [[jobs]]")
        for directory, count in Counter(job.directory for job in self.jobs).items():
            if count > 1:
                raise InputError(
                    f"{count} jobs would write to {directory}. Give each a name of its own."
                )

    @property
    def directory(self) -> Path:
        """Where the table of all jobs goes."""
        return Path(self.jobs[0].out) / f"many-{self.name}"


def read_sweep(path: Path) -> Sweep:
    """The jobs of a TOML file; the settings of all of them are checked before any runs.

    Raises:
        InputError: no such file, no TOML, an unknown key, or a value that cannot be used.
    """
    values = read_toml(path)
    check_keys(SweepFile, values, str(path))
    require("workflow" in values, "workflow", None, f"one of {', '.join(SWEPT)}")
    found = SweepFile(**values)
    require(found.workflow in SWEPT, "workflow", found.workflow, f"one of {', '.join(SWEPT)}")
    common, several = found.settings or {}, found.vary or {}
    for name, choices in several.items():
        good = isinstance(choices, list) and bool(choices)
        require(good, f"vary.{name}", choices, "a list of values, a job for each")
    jobs, varied = [], []
    for chosen in found.jobs or [{}]:
        for values_of_one in itertools.product(*several.values()):
            differing = dict(zip(several, values_of_one, strict=True))
            given = {**common, **chosen}
            if differing:
                given["name"] = job_name([given.get("name"), *values_of_one])
            jobs.append(_settings(found.workflow, given | differing, str(path)))
            varied.append({k: _text(v) for k, v in {**chosen, **differing}.items()})
    return Sweep(found.workflow, found.name or path.stem, tuple(jobs), tuple(varied))


def sweep_of(workflow: str, name: str, jobs: Iterable[Any]) -> Sweep:
    """A sweep of settings that were made in Python."""
    chosen = tuple(jobs)
    return Sweep(workflow, name, chosen, tuple({} for _ in chosen))


def job_name(values: Iterable[object]) -> str:
    """A plain name from values such as "111", ["CO", "OH"] or 300.0; None says nothing."""
    words = [_text(value) for value in values if value is not None]
    return re.sub(r"[^\w.+-]+", "_", "-".join(words)).strip("_")


def is_done(job: Any) -> bool:  # noqa: ANN401 (settings of any workflow)
    """Whether the directory of a job holds its whole result, of these settings and weights."""
    path = job.directory / "report.json"
    if not path.is_file():
        return False
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    if str(found.get("verdict", "")).startswith(UNFINISHED):
        return False
    before, now = found.get("settings", {}), plain(job)
    if any(before.get(key) != value for key, value in now.items() if key not in NO_MATTER):
        return False
    weights = found.get("potential", {}).get("sha256")
    return weights == "" or weights == _sha256(job)  # other engines than a Potential have none


def placed(job: Any, worker: int | None, n_gpus: int) -> Any:  # noqa: ANN401 (settings of any workflow)
    """The job on a GPU of its own: worker 0 on the first, and so on, in turn.

    A job that names its device ("cpu", "cuda:1") stays there, and so do jobs of one process and of
    workers that somebody else has started.
    """
    if worker is None or n_gpus < 2 or job.device not in ("auto", "cuda"):
        return job
    return replace(job, device=f"cuda:{worker % n_gpus}")


def _settings(workflow: str, given: Mapping[str, Any], where: str) -> Any:  # noqa: ANN401
    kind = import_module(f"nemp_sim.workflows.{workflow}").Settings
    try:
        return kind(**settings_values(given, kind, where))
    except NempError as error:
        raise InputError(f"{where}, job {dict(given)}: {error}") from None


def _sha256(job: Any) -> str:  # noqa: ANN401 (settings of any workflow)
    chosen = getattr(job, "potential_and_head", None)
    name = chosen()[0] if chosen is not None else job.potential
    return sha256_of(find_potential(name))


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return "_".join(map(_text, value))
    return Path(value).stem if isinstance(value, str) and "/" in value else str(value)
