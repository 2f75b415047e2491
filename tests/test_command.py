"""Workflows as commands: one definition of the options for Python, TOML files and the shell."""

import ast
import importlib
import os
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from nemp_sim import cli
from nemp_sim.command import workflow_app
from nemp_sim.console import logged, status_line
from nemp_sim.errors import EvaluationError, InputError
from nemp_sim.options import options_of, read_settings, to_toml
from nemp_sim.report import Report, plain

ROOT = Path(__file__).parents[1]
MODULES = {name: importlib.import_module(f"nemp_sim.workflows.{name}") for name in cli.WORKFLOWS}
NEEDED = {  # the others have default jobs
    "label": {"template": Path("a.xyz"), "select_only": True},
    "evaluate": {"structures": Path("a.xyz")},
}
GIVEN = {
    "label": ("--template", "a.xyz", "--select-only"),
    "evaluate": ("--structures", "a.xyz"),
}


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], env={"COLUMNS": "200"})


def test_every_workflow_is_a_command_and_a_script():
    inside = {path.stem for path in (ROOT / "nemp_sim" / "workflows").glob("[!_]*.py")}
    scripts = {path.stem for path in (ROOT / "workflows").glob("*.py")}
    assert inside == scripts == set(cli.WORKFLOWS)


@pytest.mark.parametrize("name", cli.WORKFLOWS)
def test_a_script_is_the_command(name):
    source = (ROOT / "workflows" / f"{name}.py").read_text(encoding="utf-8")
    imports = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ImportFrom)]
    assert [(n.module, n.names[0].name) for n in imports] == [(f"nemp_sim.workflows.{name}", "app")]
    found = typer.main.get_command(MODULES[name].app)
    options = {p.name for p in found.params} - {"config", "dry_run", "quiet"}
    assert options >= {"potential", "head", "device", "dtype", "out", "name"}
    assert options == {f.name for f in fields(MODULES[name].Settings)}


@pytest.mark.parametrize("name", cli.WORKFLOWS)
def test_every_option_is_described(name):
    for option in options_of(MODULES[name].Settings):
        assert len(option.text) > 5, option.name
    shown = invoke(name, "--help")
    assert shown.exit_code == 0 and "None" not in shown.output and "``" not in shown.output


@pytest.mark.parametrize("name", cli.WORKFLOWS)
def test_settings_survive_their_file(name, tmp_path):
    settings = MODULES[name].Settings(**NEEDED.get(name, {}))
    path = tmp_path / "settings.toml"
    path.write_text(to_toml(plain(settings)), encoding="utf-8")
    assert MODULES[name].Settings(**read_settings(path, type(settings))) == settings


def test_command_line_wins_over_the_file_which_wins_over_defaults(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("images = 9\nfmax = 0.05\nclimb = false\ntemperatures = [200, 300.5]\n")
    done = invoke("neb", "--config", path, "--fmax", "0.02", "--climb", "--dry-run")
    assert done.exit_code == 0, done.output
    for line in ("images = 9", "fmax = 0.02", "climb = true", "temperatures = [200.0, 300.5]"):
        assert f"{line}\n" in done.output
    assert "spring = 0.1\n" in done.output and "a band of 9 images" in done.output
    assert "files in results/neb-h-pd111-fcc-hcp/" in done.output
    again = tmp_path / "again.toml"
    again.write_text(done.output.partition("\n\n")[0])
    assert invoke("neb", "--config", again, "--dry-run").output == done.output


@pytest.mark.parametrize("name", cli.WORKFLOWS)
def test_a_dry_run_does_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke(name, "--dry-run", *GIVEN.get(name, ()))
    assert done.exit_code == 0 and "files in results/" in done.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imags = 9", "unknown key 'imags'. Did you mean 'images'?"),
        ('images = "9"', "images is '9', but must be a whole number"),
        ("images = true", "images is True, but must be a whole number"),
        ("temperatures = 300", "temperatures is 300, but must be a list, each a number"),
        ('temperatures = ["a"]', "temperatures is 'a', but must be a number"),
        ("climb = 1", "climb is 1, but must be true or false"),
        ("initial = 3", "initial is 3, but must be a path"),
        ("images = ", "is no TOML file"),
        ("fmax = -1.0", "fmax is -1.0"),
    ],
)
def test_bad_files_end_with_one_clear_line(text, message, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    done = invoke("neb", "--config", path, "--dry-run")
    assert done.exit_code == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_file_that_is_not_there():
    done = invoke("neb", "--config", "nowhere.toml")
    assert done.exit_code == 2 and "there is no such file" in done.stderr


# --- a workflow of the tests


@dataclass(frozen=True)
class Small:
    """Settings.

    Attributes:
        out: where.
        end: how it ends; see
            ``out``.
    """

    out: Path = Path("results")
    end: str = "well"

    def plan(self):
        return "Count."

    @property
    def directory(self):
        return self.out


@dataclass(frozen=True)
class Outcome:
    directory: Path
    report: Report
    trusted: bool


@logged
def run(settings, engine=None, show=None):
    """Count to two."""
    show("one", 1)
    settings.directory.mkdir(parents=True)
    if settings.end != "nothing":
        (settings.directory / "result").touch()
    show("two")
    if settings.end == "nothing":
        raise InputError("no")
    if settings.end == "error":
        raise EvaluationError("lost")
    if settings.end == "stopped":
        raise KeyboardInterrupt
    report = Report("Counted", "Two.", (), notes=("so",), sections={"Table": "| t |"})
    return Outcome(settings.directory, report, settings.end == "well")


SMALL = workflow_app(Small, run, goes_on=True, sections=("Table",))


@pytest.mark.parametrize(
    ("end", "code", "last"),
    [
        ("well", 0, "end: Two."),
        ("badly", 1, "end: Two."),
        ("error", 2, "BROKEN OFF: EvaluationError: lost"),
        ("stopped", 130, "BROKEN OFF: KeyboardInterrupt: "),
    ],
)
def test_exit_codes_and_the_log(end, code, last, tmp_path):
    done = CliRunner().invoke(SMALL, ["--out", str(tmp_path / "new"), "--end", end])
    assert done.exit_code == code
    lines = (tmp_path / "new" / "run.log").read_text(encoding="utf-8").splitlines()
    said = [line.split(" ", 2)[2] for line in lines]
    assert said[0].startswith("start: Small(") and said[1:] == ["one: 1", "two", last]
    if code < 2:
        assert done.stdout == f"Counted\nTwo.\n- so\n\n| t |\nfiles in {tmp_path / 'new'}/\n"
    assert {2: "error: lost\n", 130: "stopped; the same command goes on from here\n"}.get(
        code, ""
    ) == done.stderr


def test_quiet_says_errors_alone(tmp_path):
    done = CliRunner().invoke(SMALL, ["--out", str(tmp_path / "a"), "--quiet"])
    assert (done.exit_code, done.output) == (0, "")
    done = CliRunner().invoke(SMALL, ["--out", str(tmp_path / "b"), "--quiet", "--end", "error"])
    assert (done.exit_code, done.output) == (2, "error: lost\n")


def test_a_run_without_results_leaves_no_log(tmp_path):
    with pytest.raises(InputError):
        run(Small(out=tmp_path / "none" / "deep", end="nothing"))
    assert not (tmp_path / "none").exists() and tmp_path.exists()


def test_words_of_docstrings_on_the_command_line():
    shown = CliRunner().invoke(SMALL, ["--help"], env={"COLUMNS": "120"}).output
    assert "how it ends; see OUT." in shown and "--dry-run" in shown


def test_progress_is_silent_without_a_terminal(capfd):
    with status_line() as show:
        show("relaxing", 3)
    assert capfd.readouterr() == ("", "")


# --- the shell


def test_a_wrong_name_is_answered_with_the_near_one():
    assert "neb" in invoke("nbe").output.partition("'nbe'")[2]
    assert "--images" in invoke("neb", "--imges", "3").output


def test_help_and_completion_are_light():
    """Neither torch nor matplotlib is imported before a command runs."""
    code = (
        "import sys; from typer.testing import CliRunner; from nemp_sim.cli import app\n"
        "print(CliRunner().invoke(app, ['--help']).exit_code, *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = done.stdout.split()
    assert said[0] == "0"
    assert not {"torch", "matplotlib", "scipy", "phonopy", "ipi", "ase"} & set(said)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("nemp pho", "phonons"),
        ("nemp neb --max-i", "--max-images"),
        ("nemp neb --potential pd", "pdh.pt"),
    ],
)
def test_shell_completion(words, wanted):
    code = "from nemp_sim.cli import app; app(prog_name='nemp')"
    asked = {"_NEMP_COMPLETE": "complete_bash", "COMP_WORDS": words}
    asked["COMP_CWORD"] = str(len(words.split()) - 1)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | asked,
        capture_output=True,
        text=True,
        check=False,
    )
    assert wanted in done.stdout.split(), done.stdout + done.stderr
