import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from nemp_sim.report import (
    PACKAGES,
    Quantity,
    Report,
    plain,
    provenance,
    to_json,
    to_markdown,
    versions,
    write_report,
)


@dataclass(frozen=True)
class Settings:
    steps: int = 5
    out: Path = Path("results")


@pytest.fixture
def report(random_potential):
    return Report(
        title="A run",
        verdict="Barrier 0.123 eV.",
        quantities=(
            Quantity("barrier_eV", "Barrier", np.float64(0.12345), "eV"),
            Quantity("kinetic_meV", "Kinetic energy", 151.234, "meV", 1, error=0.54),
            Quantity("force_eV_per_A", "Largest force", 0.01234, "eV/Å", 4),
            Quantity("steps", "Steps", 12),
            Quantity("converged", "Converged", True),
            Quantity("missing_K", "Temperature", None, "K"),
        ),
        notes=("Mind the gap.",),
        files={"a.png": "a figure"},
        data={"energies_eV": np.array([0.0, 0.1])},
        provenance=provenance(random_potential("smooth"), Settings(), 1.23456),
    )


def test_json_holds_every_quantity_by_its_key(report):
    values = json.loads(to_json(report))
    assert values["barrier_eV"] == 0.12345
    assert values["kinetic_meV"] == 151.234 and values["kinetic_meV_error"] == 0.54
    assert "barrier_eV_error" not in values
    assert values["steps"] == 12 and values["converged"] is True and values["missing_K"] is None
    assert values["energies_eV"] == [0.0, 0.1]
    assert values["notes"] == ["Mind the gap."]
    assert values["settings"] == {"steps": 5, "out": "results"}
    assert values["wall_time_s"] == 1.235


def test_markdown_shows_each_number_with_its_unit(report):
    text = to_markdown(report)
    assert text.startswith("# A run\n\n**Barrier 0.123 eV.**\n")
    assert "| Kinetic energy | 151.2 ± 0.5 | meV |" in text
    for row in (
        "| Barrier | 0.123 | eV |",
        "| Largest force | 0.0123 | eV/Å |",
        "| Steps | 12 |  |",
        "| Converged | yes |  |",
        "| Temperature | — | K |",
        "- Mind the gap.",
        "- `a.png`: a figure",
        "| settings.steps | 5 |",
    ):
        assert row in text.splitlines()


def test_provenance_names_potential_versions_device_and_date(random_potential):
    potential = random_potential("smooth", dtype=torch.float32)
    values = provenance(potential, Settings(), 2.0)
    assert values["potential"] == {
        "name": "random smooth",
        "sha256": "",
        "elements": ["H", "C", "O", "Pd"],
        "head": "default",
        "level_of_theory": "not stated",
    }
    assert set(values["versions"]) == {"python", "nemp_sim", *PACKAGES}
    assert (values["device"], values["dtype"]) == ("cpu", "float32")
    assert len(values["date"]) == len("2026-01-01T00:00:00+00:00")


def test_another_engine_is_known_by_its_class():
    values = provenance(Settings(), Settings(), 0.0)
    assert values["potential"]["name"] == "Settings" and values["potential"]["elements"] == []


def test_versions_are_those_that_run():
    assert versions()["torch"] == torch.__version__
    assert versions()["numpy"] == np.__version__


def test_not_a_number_becomes_null():
    assert plain({"a": [math.nan, np.inf, np.float32(0.5)], 2: (np.int64(3), Path("x"))}) == {
        "a": [None, None, 0.5],
        "2": [3, "x"],
    }
    quantity = Quantity("e_eV", "Energy", math.nan, "eV")
    assert json.loads(to_json(Report("t", "v", (quantity,))))["e_eV"] is None


def test_files_are_replaced_and_nothing_else_is_left(report, tmp_path):
    (tmp_path / "report.json").write_text("old")
    write_report(report, tmp_path)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["report.json", "report.md"]
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["title"] == "A run"
