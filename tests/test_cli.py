"""The nemp command: what it prints, what it writes, and how it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from typer.testing import CliRunner

from nemp_sim import __version__
from nemp_sim.checkpoint import load_potential, save_potential
from nemp_sim.cli import app
from nemp_sim.jax_import import read_checkpoint
from tests.training.test_data import emt_trajectory

PUBLISHED = Path(__file__).parent / "data" / "authors_checkpoint"


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def potential_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "published.pt"
    potential = read_checkpoint(PUBLISHED)
    return save_potential(potential.model, potential.metadata, path)


def test_version_and_help():
    assert run("--version").output.strip() == f"nemp_sim {__version__}"
    assert "import-jax" in run("--help").output


def test_info_prints_the_metadata(potential_file):
    result = run("info", potential_file)
    assert result.exit_code == 0
    for text in ("H, Pd", "published", "-3.25", "sha256", "default: level of theory", "none"):
        assert text in result.output
    header = json.loads(run("info", potential_file, "--json").output)
    assert header["elements"] == ["H", "Pd"]
    assert header["model"]["heads"] == ["default"] and header["n_members"] == {"default": 0}
    assert header["units"]["forces"] == "eV/Å"


def test_list_names_the_potentials_of_the_search_path(potential_file, monkeypatch):
    monkeypatch.setenv("NEMP_POTENTIALS", str(potential_file.parent))
    assert "published.pt" in run("list").output


def test_import_jax_writes_the_published_network(tmp_path):
    path = tmp_path / "imported.pt"
    assert run("import-jax", PUBLISHED, "-o", path).exit_code == 0
    expected = np.load(PUBLISHED / "expected.npz")
    atoms = ase.Atoms(
        expected["numbers"], expected["positions"], cell=expected["cell"], pbc=expected["pbc"]
    )
    energy = load_potential(path, device="cpu").evaluate([atoms]).energy[0]
    assert energy == pytest.approx(float(expected["energy"]), rel=1e-8, abs=1e-8)


def test_train_writes_a_potential_that_loads(tmp_path):
    ase.io.write(tmp_path / "frames.xyz", emt_trajectory(3), format="extxyz")
    config = tmp_path / "run.toml"
    config.write_text(
        "[model]\nn_channels = 2\nn_radial = 2\nmessage_mlp = [0, 4, 1]\n"
        '[data]\ntrain = ["frames.xyz"]\ncheck_units = false\n'
        '[training]\nname = "cli"\nepochs = 2\nvalidate_every = 1\ndevice = "cpu"\n'
    )
    result = run("train", config, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "meV/atom" in result.output
    assert load_potential(tmp_path / "run" / "cli.pt").elements == ("H", "Pd")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("info", "nowhere.pt"), "Existing potentials"),
        (("train", "nowhere.toml"), "no such file"),
        (("import-jax", "nowhere", "-o", "x.pt"), "full_config.json"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_export_lammps_prints_the_input_lines(potential_file, tmp_path):
    result = run("export-lammps", potential_file, "-o", tmp_path / "model.mliap")
    assert result.exit_code == 0
    for line in ("units metal", "pair_coeff * * H Pd", "comm_modify cutoff"):
        assert line in result.output
    assert (tmp_path / "model.mliap").is_file()
    refused = run("export-lammps", potential_file, "-o", tmp_path / "model.pt")
    assert refused.exit_code == 2
    assert "another ending" in refused.output


@pytest.mark.parametrize("utf8", ["0", "1"])
def test_locales_that_cannot_write_our_letters_are_told_what_helps(utf8):
    other = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": utf8}
    command = [sys.executable, "-m", "nemp_sim.cli", "info", "methanol"]
    done = subprocess.run(command, capture_output=True, env=os.environ | other)
    said = done.stderr.decode()
    if utf8 == "1":
        assert (done.returncode, said) == (0, "") and "Å" in done.stdout.decode("utf-8")
    else:
        assert done.returncode == 2 and "Set PYTHONUTF8=1" in said and "Traceback" not in said
