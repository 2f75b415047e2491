import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms
from ase.io import read, write
from matplotlib.image import imread
from typer.testing import CliRunner

from nemp_sim.errors import EvaluationError, InputError
from nemp_sim.reactions.neb import BandSettings, minima_on_the_way, run_neb
from nemp_sim.relax import relax
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import fcc_slab
from nemp_sim.workflows.neb import Settings, app, matched, prepare, run
from tests.engines import CommitteeEMT

RUN = ["report.json", "report.md", "run.log", "settings.toml"]
FILES = ["geometry.pdf", "geometry.png", "neb.extxyz", "neb.pdf", "neb.png", *RUN]
KEYS = {
    "barrier_forward_eV",
    "barrier_reverse_eV",
    "reaction_energy_eV",
    "converged",
    "fmax_eV_per_A",
    "n_images",
    "optimizer_steps",
    "model_calls",
    "path_length_A",
    "wall_time_s",
    "potential",
    "versions",
    "device",
    "dtype",
    "kernel",
    "settings",
    "date",
}


@pytest.fixture
def user_files(tmp_path):
    """Two files without constraints: H on Pd(111) at fcc and hcp."""
    slab = fcc_slab(fixed_layers=0)
    paths = []
    for site in ("fcc", "hcp"):
        paths.append(tmp_path / f"{site}.extxyz")
        write(paths[-1], place(slab, "H", site))
    return paths


def invoke(*options):
    return CliRunner().invoke(app, [str(option) for option in options])


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def report_of(directory):
    return json.loads((directory / "report.json").read_text(encoding="utf-8"))


def test_default_job_writes_band_figure_and_report(emt, tmp_path):
    result = run(Settings(out=tmp_path, images=5), emt)
    assert result.converged
    assert result.directory == tmp_path / "neb-h-pd111-fcc-hcp"
    assert names(result.directory) == FILES
    report = report_of(result.directory)
    assert report.keys() >= KEYS
    assert report["converged"] is True and report["n_images"] == 5
    assert report["fmax_eV_per_A"] <= 0.02
    assert report["barrier_forward_eV"] == result.band.barrier_forward_eV
    assert report["settings"]["images"] == 5
    assert report["model_calls"] == 2 + report["optimizer_steps"]
    text = (result.directory / "report.md").read_text(encoding="utf-8")
    assert f"| {result.band.barrier_forward_eV:.3f} | eV |" in text and "Converged." in text
    assert imread(result.directory / "neb.png").shape[:2] == (620, 840)


def test_verdict_report_and_figure_hold_the_same_uncertainties(tmp_path):
    engine = CommitteeEMT()
    result = run(Settings(out=tmp_path, images=3, max_std=0.2), engine)
    x = np.array([image.positions[-1, 0] for image in result.band.images])
    way, slope = np.abs(x - x[0]), engine.slopes.std()
    report = report_of(result.directory)
    np.testing.assert_allclose(report["energies_std_eV"], slope * way, atol=1e-9)
    top = report["saddle_index"]
    stds = slope * np.array([way[top], way[-1] - way[top], way[-1]])
    keys = ("barrier_forward", "barrier_reverse", "reaction_energy")
    np.testing.assert_allclose([report[f"{key}_std_eV"] for key in keys], stds, atol=1e-9)
    assert stds.max() < 1 < engine.shared.std()  # what the images share has cancelled
    values = [report[f"{key}_eV"] for key in keys]
    told = [f"{v:.3f} ± {s:.3f} eV" for v, s in zip(values, stds, strict=True)]
    assert f"Barrier {told[0]} forward, {told[1]} reverse" in report["verdict"]
    assert told[2] in report["verdict"] and "UNCERTAIN" not in report["verdict"]
    text = (result.directory / "report.md").read_text(encoding="utf-8")
    assert f"| … its predicted standard deviation | {stds[0]:.3f} | eV |" in text
    strict = run(Settings(out=tmp_path, images=3, max_std=0.05), engine)
    assert result.trusted and strict.converged and not strict.trusted
    assert strict.report.verdict.startswith("UNCERTAIN (above 0.05 eV): Barrier")


def test_full_job_goes_on_to_rates(emt, tmp_path):
    result = run(Settings(out=tmp_path, images=5, full=True, temperatures=(200, 300)), emt)
    assert result.trusted and result.reaction.problems == ()
    modes = [f"modes-{name}.extxyz" for name in ("final", "initial", "saddle")]
    assert names(result.directory) == sorted(
        [*FILES, *modes, "rates.pdf", "rates.png", "states.extxyz"]
    )
    report = report_of(result.directory)
    assert report["proved"] is True and report["proof"]["reached"] == ["initial", "final"]
    assert report["temperature_K"] == [200, 300]
    assert set(report["rates_per_s"]) == {"classical", "quantum", "wigner", "eckart"}
    assert len(report["wavenumbers_cm1"]["saddle"]) == 27
    assert "Saddle proved" in report["verdict"] and "k(300 K)" in report["verdict"]
    states = read(result.directory / "states.extxyz", ":")
    assert [atoms.info["state"] for atoms in states] == ["initial", "saddle", "final"]
    text = (result.directory / "report.md").read_text(encoding="utf-8")
    assert "## Rate constants, 1/s" in text and "## Modes of the saddle state" in text


def test_a_path_of_two_hops_is_taken_apart(emt, tmp_path, monkeypatch):
    # EMT's hollows are shallow
    monkeypatch.setattr("nemp_sim.reactions.neb.LOCAL_MINIMUM_EV", 1e-3)
    slab = fcc_slab()
    first, last = place(slab, "H", "fcc"), place(slab, "H", "fcc")
    last.positions[-1] += slab.cell[0] / 2  # the next fcc hollow, over the hcp hollow between
    last.positions[-1, :2] += 1e-3
    ends = relax(emt, [first, last], 0.01, 200).structures
    band = run_neb(emt, *ends, BandSettings(9, 0.05))
    assert minima_on_the_way(band.energies_eV)
    for name, atoms in (("a", first), ("b", last)):
        write(tmp_path / f"{name}.traj", atoms)
    files = (tmp_path / "a.traj", tmp_path / "b.traj")
    result = run(Settings(*files, images=9, fmax=0.05, split=True, out=tmp_path), emt)
    steps = report_of(result.directory)["steps"]
    assert len(steps) == 2 and all(step["converged"] for step in steps)
    assert {step["barrier_forward_std_eV"] for step in steps} == {None}  # EMT has no ensemble
    assert "2 elementary steps" in result.report.verdict
    total = sum(step["reaction_energy_eV"] for step in steps)
    assert total == pytest.approx(result.band.reaction_energy_eV, abs=2e-3)
    assert {"step-1.extxyz", "step-2.extxyz"} <= set(names(result.directory))
    assert "## Elementary steps" in (result.directory / "report.md").read_text(encoding="utf-8")


def test_a_shorter_order_of_the_atoms_is_named_and_taken(emt, tmp_path):
    slab = fcc_slab(fixed_layers=1)
    first, last = place(slab, "H", "fcc"), place(slab, "H", "hcp")
    last.positions[[8, 9]] = last.positions[[9, 8]]
    for name, atoms in (("a", first), ("b", last)):
        write(tmp_path / f"{name}.traj", atoms)
    files = (tmp_path / "a.traj", tmp_path / "b.traj")
    named = matched(prepare(Settings(*files)), apply=False)
    assert any("WARNING: another order" in note for note in named.notes)
    taken = matched(prepare(Settings(*files)), apply=True)
    assert any("were matched" in note for note in taken.notes)
    np.testing.assert_allclose(taken.ends[1].positions[8], first.positions[8], atol=1e-9)
    plain = matched(prepare(Settings()), apply=True)
    assert not any("match" in note for note in plain.notes)


def test_restart_goes_on_from_the_last_band(emt, tmp_path):
    settings = Settings(out=tmp_path, images=5, steps=6)
    first = run(settings, emt)
    assert not first.converged
    again = run(replace(settings, steps=500, restart=True), emt)
    fresh = run(replace(settings, steps=500, name="fresh"), emt)
    assert again.converged and again.band.model_calls < fresh.band.model_calls
    barrier = fresh.band.barrier_forward_eV
    assert again.band.barrier_forward_eV == pytest.approx(barrier, abs=2e-3)
    with pytest.raises(InputError, match="restart is .*there is no such file"):
        run(replace(settings, name="never", restart=True), emt)


def test_a_saddle_that_is_not_proved_is_no_success(emt, tmp_path, monkeypatch):
    monkeypatch.setattr("nemp_sim.reactions.transition_state.SAME_END_ANGSTROM", 0.0)
    result = run(Settings(out=tmp_path, images=3, full=True), emt)
    assert result.converged and not result.trusted
    assert result.report.verdict.startswith("NOT PROVED: steepest descent from the saddle")
    assert "rates.png" not in names(result.directory)
    assert "report.json" in names(result.directory)


def test_band_file_is_read_back_by_ase(emt, tmp_path):
    result = run(Settings(out=tmp_path, images=3), emt)
    images = read(result.directory / "neb.extxyz", ":")
    assert [atoms.info["image"] for atoms in images] == [0, 1, 2, 3, 4]
    energies = [atoms.get_potential_energy() for atoms in images]
    np.testing.assert_allclose(energies, result.band.energies_eV, atol=1e-6)
    for atoms, image in zip(images, result.band.images, strict=True):
        np.testing.assert_allclose(atoms.positions, image.positions, atol=1e-7)
        np.testing.assert_allclose(atoms.get_forces(), image.get_forces(), atol=1e-7)
        assert atoms.constraints[0].index.tolist() == [0, 1, 2, 3]


def test_users_files_with_fixed_layers(user_files, emt, tmp_path):
    settings = Settings(*user_files, fixed_layers=2, images=3, out=tmp_path, name="mine")
    result = run(settings, emt)
    assert result.directory == tmp_path / "neb-mine"
    assert result.band.images[2].constraints[0].index.tolist() == list(range(8))
    assert any("lowest 2 layers are held (8 atoms)" in note for note in result.report.notes)


def test_constraints_of_the_files_win(tmp_path):
    slab = fcc_slab(fixed_layers=1)
    for site in ("fcc", "hcp"):
        write(tmp_path / f"{site}.traj", place(slab, "H", site))
    settings = Settings(tmp_path / "fcc.traj", tmp_path / "hcp.traj", fixed_layers=2)
    job = prepare(settings)
    assert job.ends[0].constraints[0].index.tolist() == [0, 1, 2, 3]
    assert "--fixed-layers 2 was not used" in job.notes[0]


def test_last_frame_of_a_file_is_the_end(user_files, tmp_path):
    frames = [Atoms("H"), read(user_files[0])]
    write(tmp_path / "steps.traj", frames)
    assert len(prepare(Settings(tmp_path / "steps.traj", user_files[1])).ends[0]) == 13


def test_not_converged_is_said_and_all_files_are_there(random_file, tmp_path):
    outcome = invoke("--potential", random_file, "--steps", 1, "--images", 3, "--out", tmp_path)
    assert outcome.exit_code == 1
    assert "NOT CONVERGED" in outcome.stdout and "no barrier" in outcome.stdout
    assert outcome.stderr == ""  # no terminal, no progress
    directory = tmp_path / "neb-h-pd111-fcc-hcp"
    assert names(directory) == FILES
    report = report_of(directory)
    assert report["converged"] is False and report["verdict"].startswith("NOT CONVERGED")
    assert report["potential"]["name"] == "random.pt"
    assert len(report["potential"]["sha256"]) == 64
    assert report["potential"]["elements"] == ["H", "C", "O", "Pd"]


def test_second_run_replaces_the_first(emt, tmp_path):
    first = run(Settings(out=tmp_path, images=3), emt)
    second = run(Settings(out=tmp_path, images=2, steps=1), emt)
    assert first.directory == second.directory
    assert names(second.directory) == FILES
    assert report_of(second.directory)["n_images"] == 2
    assert len(read(second.directory / "neb.extxyz", ":")) == 4


class BreaksOff:
    """Not-a-number forces at the third call for ``size`` structures."""

    def __init__(self, engine, size):
        self.engine, self.size, self.left = engine, size, 2

    def evaluate(self, structures):
        result = self.engine.evaluate(structures)
        self.left -= len(structures) == self.size
        if self.left < 0:
            result.forces[0][0] = np.nan
        return result


@pytest.mark.parametrize(("stage", "size", "frames"), [("relaxation", 2, 2), ("band", 3, 5)])
def test_a_run_that_breaks_off_keeps_its_last_step(stage, size, frames, emt, tmp_path):
    settings = Settings(out=tmp_path, images=3, fmax=1e-3, climb=False)
    run(settings, emt)
    with pytest.raises(EvaluationError, match="not finite"):
        run(settings, BreaksOff(emt, size))
    assert names(settings.directory) == ["neb.extxyz", *RUN]
    report = report_of(settings.directory)
    assert report["converged"] is False and "barrier_forward_eV" not in report
    assert report["verdict"].startswith("BROKEN OFF") and f"'{stage}'" in report["verdict"]
    images = read(settings.directory / "neb.extxyz", ":")
    assert len(images) == frames
    assert np.isfinite([atoms.get_potential_energy() for atoms in images]).all()


def test_both_ends_in_one_minimum_are_refused(emt, tmp_path):
    slab = fcc_slab()
    near = place(slab, "H", "fcc")
    near.positions[-1] += [0.2, 0.1, 0.0]
    write(tmp_path / "a.traj", place(slab, "H", "fcc"))
    write(tmp_path / "b.traj", near)
    with pytest.raises(InputError, match="one structure.*same one"):
        run(Settings(tmp_path / "a.traj", tmp_path / "b.traj", fmax=1e-3, out=tmp_path), emt)


def test_unknown_potential_lists_what_exists(random_file, tmp_path, monkeypatch):
    monkeypatch.setenv("NEMP_POTENTIALS", str(random_file.parent))
    outcome = invoke("--potential", "nothing.pt", "--out", tmp_path / "results")
    assert outcome.exit_code == 2
    assert outcome.stderr.startswith("error: potential 'nothing.pt' was not found")
    assert "random.pt" in outcome.stderr and "Traceback" not in outcome.stderr
    assert not (tmp_path / "results").exists()


def test_unknown_element_is_refused(random_file, tmp_path):
    for name, height in (("a", 2.0), ("b", 3.0)):
        write(tmp_path / f"{name}.xyz", Atoms("AuH", [[0, 0, 0], [0, 0, height]]))
    ends = ("--initial", tmp_path / "a.xyz", "--final", tmp_path / "b.xyz")
    outcome = invoke(*ends, "--potential", random_file, "--out", tmp_path)
    assert outcome.exit_code == 2
    assert "contains Au" in outcome.stderr and "H, C, O, Pd" in outcome.stderr


def test_ends_that_differ_are_refused_by_the_command(user_files, random_file, tmp_path):
    final = read(user_files[1])
    final.set_constraint(FixAtoms([3]))
    write(tmp_path / "held.traj", final)
    ends = ("--initial", user_files[0], "--final", tmp_path / "held.traj")
    outcome = invoke(*ends, "--potential", random_file)
    assert outcome.exit_code == 2
    assert "atom 3 (Pd) is held in final only" in outcome.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--initial", "a.traj"), "final is not given"),
        (("--final", "a.traj"), "initial is not given"),
        (("--initial", "a.traj", "--final", "b.traj"), "there is no such file"),
        (("--initial", __file__, "--final", __file__), "ASE cannot read"),
        (("--images", "0"), "images is 0, but must be 1 or more"),
        (("--fmax", "-1"), "fmax is -1.0"),
        (("--fixed-layers", "3"), "fixed_layers is 3"),
        (("--name", "a/b"), "name is 'a/b'"),
        (("--device", "abacus"), "device is 'abacus'"),
        (("--dtype", "float16"), "dtype is 'float16'"),
        (("--temperatures", "0 300"), "temperatures is (0.0, 300.0), but must be above 0 K"),
        (("--temperatures", "warm"), "temperatures is 'warm', but must be numbers"),
        (("--vibrating", "1.5"), "vibrating is '1.5', but must be whole numbers"),
        (("--max-std", "0"), "max_std is 0.0"),
        (("--instanton", "60"), "instanton is (60.0,), but must be above 0 K, and left out"),
        (("--full", "--instanton", "0"), "instanton is (0.0,)"),
    ],
)
def test_bad_options_end_with_one_clear_line(options, message, random_file):
    outcome = invoke("--potential", random_file, *options)
    assert outcome.exit_code == 2
    assert outcome.stderr.startswith("error: ") and message in outcome.stderr
    assert outcome.stderr.count("\n") == 1 and outcome.stdout == ""


def test_unknown_option_is_refused():
    assert invoke("--imags", "5").exit_code == 2


def test_results_directory_that_is_a_file(random_file, tmp_path):
    (tmp_path / "results").write_text("")
    outcome = invoke("--potential", random_file, "--out", tmp_path / "results")
    assert outcome.exit_code == 2 and outcome.stderr.startswith("error: ")


def test_the_command_with_the_shipped_potential(pdh, tmp_path):
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, root / "workflows" / "neb.py", "--out", tmp_path],
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    report = report_of(tmp_path / "neb-h-pd111-fcc-hcp")
    assert 0.08 < report["barrier_forward_eV"] < 0.20  # PBE literature: 0.12 to 0.16 eV
    assert report["potential"]["name"] == pdh.name
    assert report["model_calls"] < 60
