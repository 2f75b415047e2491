"""Every example runs as a user would run it."""

import base64
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from ase.build import bulk

from nemp_sim.checkpoint import load_potential, shipped_directory
from nemp_sim.training.train import train

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(script, tmp_path):
    if "pdh.pt" in script.read_text() and not (shipped_directory() / "pdh.pt").is_file():
        pytest.skip("potentials/pdh.pt is not here")
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


NOTEBOOKS = Path(__file__).parents[1] / "examples" / "notebooks"


def exporter():
    spec = importlib.util.spec_from_file_location("export", NOTEBOOKS / "export.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_training_example_makes_a_potential(tmp_path):
    """In full it takes a minute or two; one epoch says that it runs."""
    text = (EXAMPLES[0].parent / "train.toml").read_text(encoding="utf-8")
    text = text.replace("../potentials", str(EXAMPLES[0].parents[1] / "potentials"))
    path = tmp_path / "train.toml"
    path.write_text(text.replace("epochs = 40", "epochs = 1"), encoding="utf-8")
    train(path, tmp_path / "run", device="cpu")
    energy = load_potential(tmp_path / "run" / "first.pt").evaluate([bulk("Pd")]).energy
    assert -5.0 < energy[0] < -1.0  # eV, over lone atoms


def test_examples_are_short():
    assert [path.name for path in EXAMPLES if len(path.read_text().splitlines()) > 80] == []


@pytest.mark.parametrize("name", exporter().EXPORTED)
def test_notebooks_are_those_of_the_examples(name):
    """They are made anew by: python examples/notebooks/export.py."""
    wanted = exporter().cells_of((EXAMPLES[0].parent / f"{name}.py").read_text(encoding="utf-8"))
    found = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert (found["nbformat"], found["nbformat_minor"]) == (4, 5)
    kept = ("cell_type", "id", "source")
    for cell, made in zip(found["cells"], wanted, strict=True):
        assert [cell[key] for key in kept] == [made[key] for key in kept]
        if cell["cell_type"] == "code":
            assert cell["execution_count"] and "error" not in str(cell["outputs"])
    assert sum("image/png" in str(c.get("outputs")) for c in found["cells"]) >= 2


def test_export_runs_cells_and_keeps_what_they_say():
    script = (
        '"""A title.\n\nText.\n"""\n\n# %%\nx = 2\nprint(x)\nx + 1\n\n# %% [markdown]\n# *So.*\n\n'
    )
    script += "# %%\nfrom nemp_sim.plots import new_figure\n\nnew_figure()[0]\n"
    export = exporter()
    cells = export.cells_of(script)
    assert ["".join(c["source"]) for c in cells[::2]] == ["# A title\n\nText.", "*So.*"]
    export.execute(cells)
    assert cells[1]["outputs"] == [{"output_type": "stream", "name": "stdout", "text": ["2\n"]}]
    (drawn,) = cells[3]["outputs"]
    assert base64.b64decode(drawn["data"]["image/png"]).startswith(b"\x89PNG")
    assert json.loads(export.notebook(cells))["cells"] == cells
