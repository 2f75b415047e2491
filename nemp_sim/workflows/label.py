"""Choose structures that a potential is uncertain of, and label them: a round of active learning.

nemp label --candidates md.traj --known frames.xyz --calculator mine.py:calculator

Stopped at any moment, the same command goes on. Started twice, two processes share the work.
"""

import json
import time
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.io import read

from nemp_sim.checkpoint import find_potential, load_potential, read_header
from nemp_sim.command import workflow_app
from nemp_sim.config import require, require_plain_name
from nemp_sim.console import Show, logged
from nemp_sim.errors import InputError
from nemp_sim.files import replacing
from nemp_sim.labelling.candidates import (
    Candidate,
    UncertainEngine,
    displaced,
    predict,
    queued,
    read_candidates,
    sensible,
)
from nemp_sim.labelling.labels import find_calculator
from nemp_sim.labelling.queue import Queue, label_queue, locked, write_queue
from nemp_sim.labelling.report import LabelCheck, check_labels, label_report
from nemp_sim.labelling.selection import KnownEnvironments, select
from nemp_sim.report import plain, provenance, versions, with_run_files, write_report
from nemp_sim.training.data import read_xyz
from nemp_sim.workflow import WorkflowResult


@dataclass(frozen=True)
class Settings:
    """Everything that fixes a run.

    Attributes:
        candidates: files of structures, of any format that ASE reads.
        template: file of a structure to displace at random.
        rattle: standard deviation of these displacements, Å, of each coordinate of a free atom.
        count: number of displaced copies.
        seed: seed of their random numbers.
        known: extended-XYZ files of structures that have labels.
        potential: path or name of a potential with uncertainties.
        head: its read-out; None: the only one.
        select: most structures to label.
        novelty: a structure is new when an atomic environment differs by more than this, Å.
        min_uncertainty: label only above this predicted standard deviation of a force, eV/Å.
        max_force: refuse candidates with a larger predicted force on an atom, eV/Å.
        min_contact: refuse candidates with two atoms closer than this times the sum of their
            covalent radii.
        config_type: kind of all structures; None: that of the frame, else the file name.
        calculator: "emt", "module:function" or "file.py:function".
        stress: label the stress of bulk structures too.
        retry_failed: try structures again whose calculation failed before.
        select_only: choose, do not label.
        label_only: directory whose selection is labelled; nothing is chosen.
        device: "auto", "cpu", "cuda" or "cuda:1".
        dtype: "float32" or "float64"; None: that of the potential.
        out: directory of all results.
        name: the results go to ``out``/label-``name``; None: the first file's name.
    """

    candidates: tuple[Path, ...] = ()
    template: Path | None = None
    rattle: float = 0.1
    count: int = 200
    seed: int = 0
    known: tuple[Path, ...] = ()
    potential: str = "pdh.pt"
    head: str | None = None
    select: int = 20
    novelty: float = 0.2
    min_uncertainty: float = 0.0
    max_force: float = 20.0
    min_contact: float = 0.6
    config_type: str | None = None
    calculator: str | None = None
    stress: bool = False
    retry_failed: bool = False
    select_only: bool = False
    label_only: Path | None = None
    device: str = "auto"
    dtype: str | None = None
    out: Path = Path("results")
    name: str | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without reading files."""
        for name in ("candidates", "known"):
            object.__setattr__(self, name, tuple(Path(p) for p in getattr(self, name) or ()))
        for name in ("template", "label_only", "out"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))
        for name in ("rattle", "novelty", "max_force", "min_contact"):
            require(getattr(self, name) > 0, name, getattr(self, name), "more than 0")
        require(self.min_uncertainty >= 0, "min_uncertainty", self.min_uncertainty, "0 or more")
        for name in ("select", "count"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require_plain_name(self.name)
        self._check_stages()

    def _check_stages(self) -> None:
        if self.label_only is None and not self.candidates and self.template is None:
            raise InputError(
                "neither candidates nor template is given. Give --candidates FILE or --template "
                "FILE for structures to choose from, or --label-only DIRECTORY."
            )
        if self.label_only is not None and self.select_only:
            raise InputError("select_only and label_only exclude each other. Give one of them.")
        if self.label_only is None and not self.select_only and self.calculator is None:
            raise InputError(
                "calculator is None, but labels need one: give --calculator file.py:function (or "
                "emt), or --select-only to choose structures now and label them later."
            )

    def plan(self) -> str:
        """What a run would do, in words."""
        if self.label_only is not None:
            return f"Label what is left of the choice in {self.label_only} with {self.calculator}."
        after = "" if self.select_only else f", then label them with {self.calculator}"
        return f"Choose at most {self.select} structures{after}."

    @property
    def directory(self) -> Path:
        """Where the results go."""
        if self.label_only is not None:
            return self.label_only
        first = [*self.candidates, self.template][0]
        return self.out / f"label-{self.name or first.stem}"


# what fixes the choice of structures; the rest may differ when a run goes on
NO_PART_OF_THE_CHOICE = (
    *("calculator", "stress", "retry_failed", "select_only", "label_only"),
    *("device", "dtype", "out", "name"),
)


@dataclass(frozen=True)
class Result(WorkflowResult[Settings]):
    """Outcome of a run, besides its settings, directory and report.

    Attributes:
        labelled: structures with labels.
        failed: structures whose calculation failed.
        left: structures without either.
        check: errors of the predictions on the new labels; None without labels.
    """

    labelled: tuple[Atoms, ...]
    failed: int
    left: int
    check: LabelCheck | None

    @property
    def trusted(self) -> bool:
        """Whether every chosen structure has a label, where labels were wanted."""
        return not self.failed and (not self.left or self.settings.select_only)


@logged
def run(
    settings: Settings, engine: UncertainEngine | None = None, show: Show | None = None
) -> Result:
    """Choose structures unless that is done, label those that are left, write the report.

    Args:
        settings: what to do.
        engine: predicts energies, forces and uncertainties; None loads ``settings.potential``.
        show: called with a word on progress, and with an Event after each labelled structure.

    Raises:
        PotentialFileError: no such potential.
        InputError: unusable files or settings, or a choice made with others in this directory.
        EvaluationError: predictions that are not finite.
    """
    started = time.perf_counter()
    show = show or (lambda event: None)
    directory = settings.directory
    if settings.calculator:
        find_calculator(settings.calculator)  # a wrong name is said before the work begins
    if settings.label_only is None:
        _choose_once(settings, engine, show)
    record = _read_record(directory)
    queue = Queue(directory) if record["counts"]["selected"] else None
    if queue and settings.calculator and not settings.select_only:
        label_queue(
            directory,
            settings.calculator,
            stress=settings.stress,
            retry_failed=settings.retry_failed,
            show=show,
        )
    return _finish(settings, record, queue, started)


def _choose_once(settings: Settings, engine: UncertainEngine | None, show: Show) -> None:
    """Choose structures, unless this directory holds the same choice already."""
    if _is_chosen(settings, engine):
        return
    candidates = [c for f in settings.candidates for c in read_candidates(f, settings.config_type)]
    if settings.template is not None:
        values = settings.rattle, settings.count, settings.seed, settings.config_type
        candidates += displaced(settings.template, *values)
    known = [atoms for path in settings.known for atoms in read_xyz(path)]
    engine = engine or _load(settings)
    frames, record = _choose(settings, engine, candidates, known, show)
    with locked(settings.directory):  # a process started beside this one has made the same choice
        if not _is_chosen(settings, engine):
            if frames:
                write_queue(settings.directory, frames)
            with replacing(settings.directory / "selection.json") as temporary:
                temporary.write_text(json.dumps(record, indent=2, ensure_ascii=False), "utf-8")


def _load(settings: Settings) -> UncertainEngine:
    """The potential; what lies outside its domain is what is looked for."""
    place = settings.device, settings.dtype, settings.head
    return load_potential(settings.potential, *place, on_extrapolation="ignore")


def _is_chosen(settings: Settings, engine: UncertainEngine | None) -> bool:
    """Whether a choice is there.

    Raises:
        InputError: it was made with other settings or other weights.
    """
    directory = settings.directory
    if not (directory / "selection.json").is_file():
        return False
    record = _read_record(directory)
    sha256 = getattr(engine, "sha256", "") if engine else _sha256_of(settings.potential)
    before, now = record["settings"], _choice_settings(settings)
    other = {k: (before.get(k), now[k]) for k in now if before.get(k) != now[k]}
    if record["potential"]["sha256"] != sha256:
        other["potential (sha256)"] = record["potential"]["sha256"], sha256
    if other:
        key, (old, new) = next(iter(other.items()))
        raise InputError(
            f"{key} is {new!r}, but the structures in {directory} were chosen with {old!r}. Give "
            "another --name for a new choice, or the settings of before to go on."
        )
    return True


def _sha256_of(potential: str) -> str:
    return read_header(find_potential(potential))["sha256"]


def _choice_settings(settings: Settings) -> dict[str, Any]:
    names = [f.name for f in fields(settings) if f.name not in NO_PART_OF_THE_CHOICE]
    return {name: plain(getattr(settings, name)) for name in names}


def _read_record(directory: Path) -> dict[str, Any]:
    path = directory / "selection.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file. Give a directory that label.py has filled.")
    return json.loads(path.read_text("utf-8"))


def _choose(
    settings: Settings,
    engine: UncertainEngine,
    candidates: list[Candidate],
    known: list[Atoms],
    show: Show,
) -> tuple[list[Atoms], dict[str, Any]]:
    """Predict, refuse, select: the chosen structures, and what selection.json is to hold."""
    started = time.perf_counter()
    kept, refused = sensible(candidates, settings.min_contact)
    predictions = predict(engine, kept, show)
    calm = [k for k, p in enumerate(predictions) if p.max_force <= settings.max_force]
    if len(calm) < len(kept):
        refused[f"a predicted force above {settings.max_force} eV/Å"] = len(kept) - len(calm)
    structures = [kept[k].atoms for k in calm]
    environments = KnownEnvironments(sorted({z for a in structures + known for z in a.numbers}))
    environments.add(known)
    show(f"choosing among {len(structures)} candidates, {len(known)} structures known")
    scores = [predictions[k].score for k in calm]
    limits = settings.select, settings.novelty, settings.min_uncertainty
    found = select(structures, scores, environments, *limits)
    source = provenance(engine, settings, time.perf_counter() - started)
    sha256 = source["potential"]["sha256"] or getattr(engine, "sha256", "")
    frames = [
        queued(kept[calm[c.index]], predictions[calm[c.index]], c.novelty_A, sha256)
        for c in found.chosen
    ]
    counts: dict[str, Any] = {
        "candidates": len(candidates),
        "known": len(known),
        "selected": len(frames),
    }
    counts |= {"too_certain": found.too_certain, "already_known": found.already_known}
    counts |= {"not_reached": found.not_reached, "refused": dict(refused)}
    counts["max_uncertainty_eV_per_A"] = max(scores, default=None)
    counts["least_chosen_uncertainty_eV_per_A"] = found.chosen[-1].score if frames else None
    record = source | {"settings": _choice_settings(settings), "counts": counts}
    record["potential"]["sha256"] = sha256
    return frames, plain(record)


def _finish(
    settings: Settings, record: dict[str, Any], queue: Queue | None, started: float
) -> Result:
    labels = queue.assemble() if queue else None
    labelled = tuple(read(labels, ":", format="extxyz")) if labels and labels.exists() else ()
    failures = queue.failures() if queue else {}
    check = check_labels(labelled)
    left = len(queue.left()) if queue else 0
    reasons = [f"{queue.frames[k].symbols} (structure {k}): {e}" for k, e in failures.items()]
    report = label_report(record["counts"], check, reasons, left)
    calculator = settings.directory / "calculator.txt"
    source = {key: record[key] for key in ("potential", "device", "dtype")}
    source["calculator"] = calculator.read_text("utf-8").strip() if calculator.exists() else None
    source |= {"versions": versions(), "settings": plain(settings) | record["settings"]}
    source["chosen"] = record["date"]
    source["wall_time_s"] = round(time.perf_counter() - started, 3)
    source["date"] = datetime.now().astimezone().isoformat(timespec="seconds")
    report = replace(report, provenance=source, files=with_run_files(report.files))
    write_report(report, settings.directory)
    return Result(settings, report, labelled, len(failures), left, check)


app = workflow_app(Settings, run, goes_on=True)
