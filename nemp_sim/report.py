"""Reports of the workflows: numbers with units for people (Markdown) and for programs (JSON)."""

import importlib.metadata
import json
import math
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nemp_sim
from nemp_sim.console import RUN_LOG
from nemp_sim.files import replacing
from nemp_sim.options import to_toml
from nemp_sim.potential import Potential

PACKAGES = ("torch", "ase", "numpy", "scipy", "vesin", "ipi", "phonopy", "seekpath")
SETTINGS = "settings.toml"
RUN_FILES = {
    "report.json": "these numbers for programs",
    "report.md": "these numbers for people",
    SETTINGS: "the settings used: --config settings.toml repeats the run",
    RUN_LOG: "every step with its time, and how the run ended",
}


@dataclass(frozen=True)
class Quantity:
    """One reported value.

    Attributes:
        key: its name in report.json, ending in the unit (``barrier_forward_eV``).
        label: what it is, in words.
        value: number, truth value or text; None where there is none.
        unit: unit of ``value``; empty for a pure number.
        digits: decimals shown in report.md.
        error: standard error of ``value``, same unit; in report.json under ``key``_error.
    """

    key: str
    label: str
    value: float | int | bool | str | None
    unit: str = ""
    digits: int = 3
    error: float | None = None

    def text(self) -> str:
        """The value as report.md shows it."""
        if self.value is None:
            return "—"
        if isinstance(self.value, bool | np.bool_):
            return "yes" if self.value else "no"
        if isinstance(self.value, float | np.floating):
            error = "" if self.error is None else f" ± {self.error:.{self.digits}f}"
            return f"{self.value:.{self.digits}f}{error}"
        return str(self.value)


@dataclass(frozen=True)
class Report:
    """What a workflow run found.

    Attributes:
        title: heading of report.md.
        verdict: the outcome in one sentence, shown first.
        quantities: the values, in the order of the table.
        notes: remarks that a reader must see.
        files: name of each other file of the run and what it holds.
        sections: further parts of report.md alone: heading and Markdown text.
        data: further plain values for report.json alone (arrays, with units in the keys).
        provenance: from ``provenance``.
    """

    title: str
    verdict: str
    quantities: tuple[Quantity, ...]
    notes: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    sections: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


def decimals(value: float, significant: int = 2) -> int:
    """Decimals that show so many significant digits of a number below 1; at least 3."""
    if value == 0 or not math.isfinite(value):
        return 3
    return max(3, significant - 1 - math.floor(math.log10(abs(value))))


def plus_minus(value: float, std: float | None, form: str = ".3f") -> str:
    """A value and, where there is one, its standard deviation, both with the same decimals."""
    spread = "" if std is None else f" ± {std:{form.lstrip('+z')}}"
    return f"{value:{form}}{spread}"


def versions() -> dict[str, str]:
    """Version of Python, of this package and of those that its numbers depend on."""
    found = {"python": platform.python_version(), "nemp_sim": nemp_sim.__version__}
    return found | {name: _installed_version(name) for name in PACKAGES}


def _installed_version(package: str) -> str:
    """Version of a package; a report is never lost because one is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def device_name(device: torch.device) -> str:
    """The device, with the name of the GPU where it is one."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def provenance(engine: object, settings: object, wall_time_s: float) -> dict[str, Any]:
    """What somebody else needs to repeat a run.

    Args:
        engine: the Potential, or another engine, which is then known by its class alone.
        settings: the frozen settings of the workflow.
        wall_time_s: duration of the run, s.
    """
    known = engine if isinstance(engine, Potential) else None
    return {
        "potential": {
            "name": known.name if known else type(engine).__name__,
            "sha256": known.sha256 if known else "",
            "elements": list(known.elements) if known else [],
            "head": known.head if known else "",
            "level_of_theory": known.level_of_theory if known else "not stated",
        },
        "versions": versions(),
        "device": device_name(known.device) if known else "cpu",
        "dtype": str(known.dtype).removeprefix("torch.") if known else "float64",
        "kernel": known.kernel if known else "",
        "settings": plain(settings),
        "wall_time_s": round(wall_time_s, 3),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def concluded(report: Report, engine: object, settings: object, started: float) -> Report:
    """The report of a workflow with its provenance and the files that every workflow writes.

    Args:
        report: what was found.
        engine: what evaluated the structures.
        settings: the frozen settings of the workflow.
        started: ``time.perf_counter()`` at its start.
    """
    source = provenance(engine, settings, time.perf_counter() - started)
    return replace(report, files=with_run_files(report.files), provenance=source)


def with_run_files(files: Mapping[str, str]) -> dict[str, str]:
    """All files of a workflow: those named, vector graphics, and ``RUN_FILES``."""
    return with_vector_graphics(files) | RUN_FILES


def with_vector_graphics(files: Mapping[str, str]) -> dict[str, str]:
    """The files, and the PDF that ``save_figure`` writes beside each PNG."""
    found = {}
    for name, what in files.items():
        found[name] = what
        if name.endswith(".png"):
            found[f"{name.removesuffix('.png')}.pdf"] = "the same as vector graphics"
    return found


def write_report(report: Report, directory: Path) -> None:
    """Write report.json, report.md and, of a workflow, settings.toml; older ones are replaced."""
    texts = {"report.json": to_json(report), "report.md": to_markdown(report)}
    if SETTINGS in report.files:
        texts[SETTINGS] = to_toml(report.provenance["settings"])
    for name, text in texts.items():
        with replacing(directory / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def to_json(report: Report) -> str:
    """The report as a JSON object: every quantity by its key, then data and provenance."""
    values: dict[str, Any] = {"title": report.title, "verdict": report.verdict}
    values |= {q.key: q.value for q in report.quantities}
    values |= {f"{q.key}_error": q.error for q in report.quantities if q.error is not None}
    values |= {"notes": report.notes, "files": report.files, **report.data, **report.provenance}
    return json.dumps(plain(values), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_markdown(report: Report) -> str:
    """The report as Markdown: verdict, table of values with units, remarks, files, provenance."""
    lines = [f"# {report.title}", "", f"**{report.verdict}**", ""]
    lines += [f"- {note}" for note in report.notes] + [""] * bool(report.notes)
    lines += ["| quantity | value | unit |", "|---|---:|---|"]
    lines += [f"| {q.label} | {q.text()} | {q.unit} |" for q in report.quantities]
    for heading, text in report.sections.items():
        lines += ["", f"## {heading}", "", text.rstrip()]
    if report.files:
        lines += ["", "## Files", ""]
        lines += [f"- `{name}`: {what}" for name, what in report.files.items()]
    if report.provenance:
        lines += ["", "## Provenance", "", "| | |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in _flat(plain(report.provenance))]
    return "\n".join(lines) + "\n"


def plain(value: object) -> Any:  # noqa: ANN401 (any JSON value)
    """Plain JSON values of dataclasses, NumPy arrays and numbers, paths; not-a-number is null."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            if value is None and prefix == "settings.":
                shown = "default"
            rows.append((f"{prefix}{name}", "—" if shown in (None, "") else str(shown)))
    return rows
