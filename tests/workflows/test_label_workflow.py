import json
from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write
from typer.testing import CliRunner

from nemp_sim.checkpoint import save_potential
from nemp_sim.errors import InputError
from nemp_sim.labelling.queue import Event, label_queue
from nemp_sim.potential import PotentialMetadata
from nemp_sim.training.config import DataConfig
from nemp_sim.training.data import read_frames
from nemp_sim.workflows.label import Settings, app, run
from tests.engines import UncertainEMT

FILES = ["labels.extxyz", "report.json", "report.md", "selection.extxyz", "selection.json"]


@pytest.fixture
def template(tmp_path):
    """File of a small Cu–Pd cell."""
    atoms = bulk("Cu", cubic=True)
    atoms.symbols[0] = "Pd"
    write(tmp_path / "cupd.extxyz", atoms)
    return tmp_path / "cupd.extxyz"


@pytest.fixture
def settings(template, tmp_path):
    """Function that makes settings with changes."""

    def make(**changes):
        values = {"template": template, "count": 40, "select": 6, "out": tmp_path / "results"}
        return Settings(**values | {"calculator": "emt"} | changes)

    return make


class NoEngine:
    """Must not be asked."""

    sha256 = UncertainEMT.sha256

    def evaluate(self, structures, uncertainty):
        raise AssertionError


class Certain(UncertainEMT):
    """Has no uncertainties."""

    def evaluate(self, structures, uncertainty):
        result = super().evaluate(structures, uncertainty)
        return SimpleNamespace(**vars(result) | {"energy_std": None, "forces_std": None})


def test_a_round(settings):
    shown = []
    result = run(settings(stress=True), UncertainEMT(), shown.append)
    assert result.directory.name == "label-cupd"
    assert {p.name for p in result.directory.iterdir()} >= set(FILES)
    assert (len(result.labelled), result.failed, result.left) == (6, 0, 0)
    assert [event.place for event in shown if isinstance(event, Event)] == list(range(6))
    values = json.loads((result.directory / "report.json").read_text())
    assert values["candidates"] == 40 and values["selected"] == values["labelled"] == 6
    total = values["already_known"] + values["not_reached"] + values["refused_total"]
    assert total + values["selected"] + values["too_certain"] == 40
    assert values["potential"]["sha256"] == "00e1" and values["settings"]["select"] == 6
    assert values["calculator"] == "ase.calculators.emt:EMT"
    assert values["error_over_std"] == pytest.approx(1.0, abs=0.3)
    assert "candidates chosen" in (result.directory / "report.md").read_text()


def test_most_uncertain_ones_are_labelled_and_carry_their_origin(settings):
    labelled = run(settings(), UncertainEMT()).labelled
    scores = [atoms.info["nemp_max_force_std"] for atoms in labelled]
    assert scores == sorted(scores, reverse=True)
    for atoms in labelled:
        assert atoms.info["source"] == "cupd.extxyz" and 0 <= atoms.info["source_index"] < 40
        assert atoms.info["config_type"] == "cupd"
        assert atoms.info["potential_sha256"] == "sha256:00e1"
        largest = np.linalg.norm(atoms.arrays["nemp_forces_std"], axis=1).max()
        assert largest == pytest.approx(atoms.info["nemp_max_force_std"], rel=1e-6)


def test_training_reads_the_labels(settings):
    result = run(settings(stress=True, config_type="round1"), UncertainEMT())
    frames = read_frames(result.directory / "labels.extxyz", DataConfig(("a",)), with_stress=True)
    assert len(frames) == 6 and all(frame.stress is not None for frame in frames)
    assert {frame.config_type for frame in frames} == {"round1"}
    assert frames[0].energy == result.labelled[0].info["REF_energy"]


def test_a_second_round_knows_the_first(settings):
    first = run(settings(select=40, novelty=0.05, name="1"), UncertainEMT())
    assert len(first.labelled) > 30
    known = (first.directory / "labels.extxyz",)
    second = run(settings(novelty=0.05, known=known, name="2"), UncertainEMT())
    assert second.report.verdict.startswith("None of 40 candidates")
    assert second.labelled == () and not (second.directory / "selection.extxyz").exists()
    other = run(settings(seed=1, known=known, novelty=0.05, name="3"), UncertainEMT())
    assert len(other.labelled) == 6


def test_choice_now_and_labels_later(settings):
    chosen = run(settings(select_only=True, calculator=None), UncertainEMT())
    assert chosen.left == 6 and chosen.check is None
    assert not (chosen.directory / "labels.extxyz").exists()
    label_queue(chosen.directory, "emt")  # under another Python, say
    done = run(Settings(label_only=chosen.directory), NoEngine())
    assert len(done.labelled) == 6 and done.check.n_structures == 6
    whole = run(settings(name="whole"), UncertainEMT())
    one, other = (r.directory / "labels.extxyz" for r in (done, whole))
    assert one.read_bytes() == other.read_bytes()


def test_a_second_start_goes_on_without_choosing_again(settings):
    first = run(settings(select_only=True), UncertainEMT())
    before = (first.directory / "selection.extxyz").read_bytes()
    assert len(run(settings(), NoEngine()).labelled) == 6
    assert (first.directory / "selection.extxyz").read_bytes() == before


def test_another_choice_in_the_same_place_is_refused(settings):
    run(settings(), UncertainEMT())
    with pytest.raises(InputError, match="seed is 1, but the structures .* chosen with 0"):
        run(settings(seed=1), NoEngine())
    other = UncertainEMT()
    other.sha256 = "00e2"
    with pytest.raises(InputError, match=r"potential .sha256. is '00e2'.*another --name"):
        run(settings(), other)


@pytest.mark.parametrize("head", [None, "pbe"])
def test_potential_and_head_are_those_of_the_settings(head, settings, monkeypatch):
    asked = []

    def load(*place, **more):
        asked.append((place, more))
        return UncertainEMT()

    monkeypatch.setattr("nemp_sim.workflows.label.load_potential", load)
    run(settings(potential="my.pt", head=head, dtype="float32"))
    quiet = {"on_extrapolation": "ignore"}  # what is outside is what is looked for
    assert asked == [(("my.pt", "auto", "float32", head), quiet)]


def test_large_forces_and_contacts_are_refused(settings):
    result = run(settings(rattle=0.4, max_force=8.0, min_contact=0.7), UncertainEMT())
    refused = json.loads((result.directory / "report.json").read_text())["refused"]
    assert set(refused) == {
        "two atoms closer than 0.7 × the sum of covalent radii",
        "a predicted force above 8.0 eV/Å",
    }
    for atoms in result.labelled:
        assert np.linalg.norm(atoms.arrays["nemp_forces"], axis=1).max() <= 8.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"template": None}, "neither candidates nor template"),
        ({"calculator": None}, "calculator is None.*--select-only"),
        ({"novelty": 0.0}, "novelty is 0.0"),
        ({"select": 0}, "select is 0"),
        ({"name": "a/b"}, "name is 'a/b'"),
        ({"label_only": "x", "select_only": True}, "exclude each other"),
        ({"min_uncertainty": -1.0}, "min_uncertainty is -1.0"),
    ],
)
def test_unusable_settings_are_refused(changes, message, settings):
    with pytest.raises(InputError, match=message):
        settings(**changes)


def test_nothing_is_written_where_input_is_wrong(settings, tmp_path):
    for changes, message in (
        ({"calculator": "etm"}, "Did you mean 'emt'"),
        ({"candidates": [tmp_path / "none.traj"]}, "no such file"),
        ({"known": [tmp_path / "none.xyz"]}, "no such file"),
    ):
        with pytest.raises(InputError, match=message):
            run(settings(**changes), UncertainEMT())
    with pytest.raises(InputError, match="gives no uncertainties"):
        run(settings(), Certain())
    with pytest.raises(InputError, match="label.py has filled"):
        run(Settings(label_only=tmp_path / "none"))
    assert not (tmp_path / "results").exists() and not (tmp_path / "none").exists()


def test_command_line(settings):
    chosen = run(settings(select_only=True), UncertainEMT())
    directory = str(chosen.directory)
    result = CliRunner().invoke(app, ["--label-only", directory, "--calculator", "emt"])
    assert result.exit_code == 0, result.output
    assert "6/6 Cu3Pd labelled" in (chosen.directory / "run.log").read_text(encoding="utf-8")
    assert "6 labelled, 0 failed, 0 left" in result.output
    assert len(read(chosen.directory / "labels.extxyz", ":")) == 6
    wrong = CliRunner().invoke(app, ["--label-only", directory, "--calculator", "etm"])
    assert wrong.exit_code == 2 and "Did you mean 'emt'" in wrong.output
    bare = CliRunner().invoke(app, [])
    assert bare.exit_code == 2 and "Give --candidates FILE" in bare.output


def test_a_round_with_a_potential_that_has_members(settings, random_potential, tmp_path):
    """The uncertainties come from the ensemble read-out of the potential's file."""
    potential = random_potential("smooth", n_members=4)
    path = save_potential(potential.model, PotentialMetadata(), tmp_path / "members.pt")
    write(tmp_path / "pd.extxyz", bulk("Pd", cubic=True))
    chosen = {"template": tmp_path / "pd.extxyz", "count": 12, "select": 3, "novelty": 0.02}
    chosen["max_force"] = 1e3
    result = run(settings(**chosen, potential=str(path), head="default", device="cpu"))
    assert len(result.labelled) == 3
    assert json.loads((result.directory / "report.json").read_text())["potential"]["head"] == (
        "default"
    )
    for atoms in result.labelled:
        std = potential.evaluate([atoms], uncertainty=True).forces_std[0]
        want = np.linalg.norm(std, axis=1).max()
        assert atoms.info["nemp_max_force_std"] == pytest.approx(want, rel=1e-6)
    certain = save_potential(
        random_potential("smooth").model, PotentialMetadata(), tmp_path / "certain.pt"
    )
    with pytest.raises(InputError, match="no ensemble read-out"):
        run(settings(**chosen, potential=str(certain), device="cpu", name="certain"))
