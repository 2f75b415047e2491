"""Many jobs: which they are, which are done, and that a process that dies costs nothing."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from ase.io import write
from typer.testing import CliRunner

from nemp_sim import cli
from nemp_sim.errors import InputError
from nemp_sim.many import Workers, run_job, run_many
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import fcc_slab
from nemp_sim.sweep import is_done, job_name, placed, read_sweep, sweep_of
from nemp_sim.workflows import neb, pimd, relax
from tests.engines import EMTEngine


def sweep_file(directory, text):
    path = directory / "screen.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def hollows(tmp_path):
    """Settings of two relaxations, with EMT."""
    paths = [tmp_path / f"{site}.extxyz" for site in ("fcc", "hcp")]
    for path in paths:
        write(path, place(fcc_slab(fixed_layers=1), "H", path.stem))
    return [relax.Settings(str(p), potential="pdh.pt", out=tmp_path / "results") for p in paths]


@pytest.fixture
def counted(monkeypatch):
    """The relaxations run with EMT; their names in the order of their runs."""
    ran, real = [], relax.run

    def run(settings):
        ran.append(settings.directory.name)
        return real(settings, EMTEngine())

    monkeypatch.setattr(relax, "run", run)
    return ran


# --- which jobs


def test_every_combination_is_a_job(tmp_path):
    sweep = read_sweep(
        sweep_file(
            tmp_path,
            'workflow = "adsorption"\n[settings]\nmetal = "Ag"\nname = "a"\n'
            '[vary]\nfacet = ["111", "100"]\nadsorbates = [["H"], ["CO", "OH"]]\n',
        )
    )
    assert sweep.name == "screen" and sweep.directory == Path("results/many-screen")
    assert [(job.facet, job.adsorbates, job.metal) for job in sweep.jobs] == [
        (facet, adsorbates, "Ag")
        for facet in ("111", "100")
        for adsorbates in (("H",), ("CO", "OH"))
    ]
    assert [job.name for job in sweep.jobs] == ["a-111-H", "a-111-CO_OH", "a-100-H", "a-100-CO_OH"]
    assert sweep.varied[1] == {"facet": "111", "adsorbates": "CO_OH"}


def test_jobs_one_by_one(tmp_path):
    text = 'workflow = "neb"\nname = "set"\n[settings]\nimages = 5\n' + "".join(
        f'[[jobs]]\ninitial = "d/{a}.xyz"\nfinal = "d/{b}.xyz"\n' for a, b in ("ab", "bc")
    )
    sweep = read_sweep(sweep_file(tmp_path, text))
    assert [job.directory.name for job in sweep.jobs] == ["neb-a-b", "neb-b-c"]
    assert {job.images for job in sweep.jobs} == {5}
    assert sweep.varied[0] == {"initial": "a", "final": "b"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('workflow = "neb"\n[vary]\nimags = [3]\n', "unknown key 'imags'. Did you mean 'images'"),
        ('workflow = "neb"\n[vary]\nimages = 3\n', "vary.images is 3, but must be a list"),
        ('workflow = "neb"\n[vary]\nimages = []\n', "vary.images is"),
        ('workflow = "neb"\n[vary]\nfmax = [0.1, -1.0]\n', "fmax is -1.0"),
        ('workflow = "nbe"\n', "workflow is 'nbe', but must be one of evaluate"),
        ('workflow = "label"\n', "workflow is 'label'"),
        ("[vary]\nfmax = [0.1]\n", "workflow is None"),
        ('workflow = "neb"\nseting = 1\n', "unknown key 'seting'. Did you mean 'settings'"),
        (
            'workflow = "neb"\n[[jobs]]\nimages = 3\n[[jobs]]\nimages = 4\n',
            "2 jobs would write to results/neb-h-pd111-fcc-hcp. Give each a name",
        ),
    ],
)
def test_bad_files_are_refused_before_anything_runs(text, message, tmp_path):
    done = CliRunner().invoke(cli.app, ["many", str(sweep_file(tmp_path, text))])
    assert done.exit_code == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_names_of_values():
    assert job_name([None, "111", ["CO", "OH"], 300.0, "a/b c.xyz"]) == "111-CO_OH-300.0-b_c"


def test_workers_take_gpus_in_turn():
    job = relax.Settings("Pd")
    assert [placed(job, n, 2).device for n in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert placed(job, 1, 1) is placed(job, 1, 0) is placed(job, None, 2) is job
    named = replace(job, device="cuda:3")
    assert placed(named, 0, 4) is named
    several = pimd.Settings(device=("cuda:0", "cuda:1"))
    assert placed(several, 0, 4) is several


# --- what is done


def test_only_what_is_missing_runs(hollows, counted):
    first = run_many(sweep_of("relax", "hollows", hollows[:1]))
    assert first.trusted and counted == ["relax-fcc"]
    both = run_many(sweep_of("relax", "hollows", hollows))
    assert [o.state for o in both.outcomes] == ["done earlier", "done"]
    assert both.trusted and counted == ["relax-fcc", "relax-hcp"]
    with (both.directory / "jobs.csv").open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["directory"] for row in rows] == [str(job.directory) for job in hollows]
    report = json.loads((hollows[1].directory / "report.json").read_text(encoding="utf-8"))
    assert int(rows[1]["optimizer_steps"]) == report["optimizer_steps"] > 0
    assert (both.directory / "run.log").read_text(encoding="utf-8").count("end: ") == 2


def test_other_settings_or_weights_are_not_done(hollows, counted, tmp_path):
    job = hollows[0]
    run_many(sweep_of("relax", "one", [job]))
    assert is_done(job) and is_done(replace(job, device="cpu"))
    assert not is_done(replace(job, fmax=0.02))
    path = job.directory / "report.json"
    report = json.loads(path.read_text(encoding="utf-8"))
    for change in ({"potential": {"sha256": "other"}}, {"verdict": "BROKEN OFF after step 1"}):
        path.write_text(json.dumps(report | change), encoding="utf-8")
        assert not is_done(job)
    path.write_text("{", encoding="utf-8")
    assert not is_done(job)


def test_a_run_that_broke_off_is_not_done(tmp_path, monkeypatch):
    """The report that the band leaves when it is stopped does not count as a result."""

    class Failing(EMTEngine):
        def evaluate(self, structures):
            if len(self.batches) > 4:
                raise KeyboardInterrupt
            return super().evaluate(structures)

    job = neb.Settings(out=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        neb.run(job, Failing())
    assert (job.directory / "report.json").is_file() and not is_done(job)


def test_an_error_of_one_job_does_not_stop_the_others(hollows, counted, tmp_path):
    bad = replace(hollows[0], structures=str(tmp_path / "nowhere.extxyz"))
    found = run_many(sweep_of("relax", "mixed", [bad, hollows[1]]))
    assert [o.state for o in found.outcomes] == ["FAILED", "done"] and not found.trusted
    assert "nowhere.extxyz" in found.outcomes[0].said
    assert "| relax-nowhere | FAILED | — | InputError: " in found.report.sections["Jobs"]


def test_what_is_not_to_be_trusted_stays_so(hollows, counted):
    job = replace(hollows[0], steps=1)
    assert run_job("relax", job).trusted is False
    for state in ("done earlier", "done earlier"):
        found = run_many(sweep_of("relax", "lost", [job]))
        assert found.outcomes[0].state == state
    assert not run_many(sweep_of("relax", "again", [replace(job, name="x")])).trusted
    assert not run_many(sweep_of("relax", "again", [replace(job, name="x")])).trusted


def test_a_sweep_is_a_command(tmp_path, monkeypatch, counted):
    monkeypatch.chdir(tmp_path)
    path = sweep_file(tmp_path, 'workflow = "relax"\n[vary]\nfmax = [0.5, 0.1]\n')
    shown = CliRunner().invoke(cli.app, ["many", str(path), "--dry-run"])
    assert shown.exit_code == 0 and not (tmp_path / "results").exists()
    assert "results/relax-0.1: Relax positions of HPd12 with pdh.pt" in shown.stdout
    done = CliRunner().invoke(cli.app, ["many", str(path)])
    assert (
        done.exit_code == 0 and "2 done." in done.stdout and "| relax-0.5 | done |" in done.stdout
    )
    shown = CliRunner().invoke(cli.app, ["many", str(path), "--dry-run"])
    assert shown.stdout == "results/relax-0.5: done\nresults/relax-0.1: done\n"


def test_workers_are_at_least_one():
    with pytest.raises(InputError, match="workers is 0"):
        Workers(0)


def test_workers_need_dask(hollows, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install 'nemp_sim\[scale\]'"):
        run_many(sweep_of("relax", "two", hollows), Workers(2))


# --- a cluster


def until(found, process, seconds=120.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := found():
            return value
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise TimeoutError


def test_two_processes_and_one_that_is_killed(tmp_path):
    """kill −9 of a worker in the middle of a job: the job runs again, and all end."""
    pytest.importorskip("distributed")
    path = sweep_file(
        tmp_path,
        'workflow = "relax"\n[settings]\nfmax = 1e-9\ndevice = "cpu"\n[vary]\nsteps = [12, 13]\n',
    )
    command = [sys.executable, "-m", "nemp_sim.cli", "many", str(path), "--workers", "2"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    log = tmp_path / "results" / "relax-12" / "run.log"
    with subprocess.Popen(command, cwd=tmp_path, **options) as process:
        until(lambda: log.is_file() and "step 2," in log.read_text(encoding="utf-8"), process)
        holder = (log.parent / ".in-use").read_text(encoding="utf-8")
        victim = int(holder.split()[1])
        assert victim != process.pid
        os.kill(victim, signal.SIGKILL)
        out, err = process.communicate(timeout=200)
    assert process.returncode == 1, err  # no job converged, as it was meant
    assert "2 done; 2 not to be trusted." in out
    assert log.read_text(encoding="utf-8").count(" start: ") == 2
    other = tmp_path / "results" / "relax-13" / "run.log"
    assert other.read_text(encoding="utf-8").count(" start: ") == 1
    for steps in (12, 13):
        report = tmp_path / "results" / f"relax-{steps}" / "report.json"
        assert json.loads(report.read_text(encoding="utf-8"))["optimizer_steps"] == steps
