"""The training loop: it learns, resumes to the same bits, stops early, and refuses bad input."""

import csv

import ase.io
import numpy as np
import pytest
import torch
from ase.units import Hartree

from nemp_sim.checkpoint import load_potential
from nemp_sim.errors import InputError
from nemp_sim.training.accuracy import error_rows, predict
from nemp_sim.training.config import TrainConfig
from nemp_sim.training.job import read_config, read_splits
from nemp_sim.training.run import Run
from nemp_sim.training.train import train
from nemp_sim.training.trainer import learning_rate
from tests.training.test_data import emt_trajectory

MODEL = """
[model]
cutoff_angstrom = 4.0
n_channels = 4
n_radial = 4
radial_mlp = [1, 8, 1]
message_mlp = [0, 8, 1]
output_mlp = [1, 8, 1]
"""
CONFIG = (
    MODEL
    + """\
{model}
[data]
train = ["frames.xyz"]
test = ["test.xyz"]
validation_fraction = 0.3
group_by = "frame"
check_units = false
{data}
[training]
name = "tiny"
epochs = {epochs}
batch_size = 4
learning_rate = 0.02
warmup_steps = 2
validate_every = 2
dtype = "float64"
device = "cpu"
{training}
"""
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("train")
    ase.io.write(path / "frames.xyz", emt_trajectory(6), format="extxyz")
    ase.io.write(path / "test.xyz", emt_trajectory(2, seed=5), format="extxyz")
    return path


def write_config(folder, name="tiny.toml", epochs=6, model="", data="", training=""):
    path = folder / name
    path.write_text(CONFIG.format(epochs=epochs, model=model, data=data, training=training))
    return path


def read_log(directory):
    with (directory / "log.csv").open() as handle:
        return list(csv.DictReader(handle))


def weights_of(result):
    return torch.cat([p.flatten() for p in result.potential.model.parameters()])


@pytest.fixture(scope="module")
def straight(folder):
    return train(write_config(folder), folder / "straight")


def test_an_interrupted_run_ends_with_the_same_weights(folder, straight, monkeypatch):
    done = []
    original = Run._validate

    def interrupted(self, rate, energy_weight):
        original(self, rate, energy_weight)
        done.append(self.epoch)
        if len(done) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "_validate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(write_config(folder), folder / "broken")
    monkeypatch.setattr(Run, "_validate", original)
    resumed = train(write_config(folder), folder / "broken")
    assert resumed.epochs == straight.epochs == 6
    assert torch.equal(weights_of(resumed), weights_of(straight))
    rows = [read_log(folder / d) for d in ("straight", "broken")]
    for a, b in zip(*rows, strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {
            k: v for k, v in b.items() if k != "seconds"
        }


def test_training_learns(folder):
    # EMT forces of these frames have an RMS of about 0.5 eV/Å; a constant model keeps all of it
    result = train(write_config(folder, "long.toml", epochs=90), folder / "long")
    rms = np.sqrt(np.mean([(f.forces**2).mean() for f in result.splits.test if len(f.atoms) > 1]))
    row = result.errors["test"][0]
    assert row.config_type == "all"
    assert row.force_rmse_meV_per_A < 0.35 * 1e3 * rms
    log = read_log(result.directory)
    assert float(log[-1]["train_force_rmse_eV_per_A"]) < 0.3 * float(
        log[0]["train_force_rmse_eV_per_A"]
    )


def test_saved_potential_has_the_reported_errors(straight):
    potential = load_potential(straight.directory / "tiny.pt", device="cpu")
    for name, rows in straight.errors.items():
        again = error_rows(predict({"default": potential}, getattr(straight.splits, name)))
        assert again == rows
    assert potential.metadata.training["frames"]["test"] == len(straight.splits.test)


def test_lone_atoms_have_their_reference_energy(straight):
    for frame in straight.splits.train:
        if len(frame.atoms) == 1:
            energy = straight.potential.evaluate([frame.atoms]).energy[0]
            assert energy == pytest.approx(frame.energy, abs=1e-12)


def test_early_stop_keeps_the_best_weights(folder):
    settings = "patience = 2\nfinal_energy_weight = 10.0"
    config = write_config(folder, "patience.toml", epochs=400, training=settings)
    config.write_text(config.read_text().replace("learning_rate = 0.02", "learning_rate = 0.3"))
    result = train(config, folder / "patience")
    log = read_log(result.directory)
    losses = [
        10 * float(r["validation_energy_rmse_eV_per_atom"]) ** 2
        + float(r["validation_force_rmse_eV_per_A"]) ** 2
        for r in log
    ]
    assert result.epochs < 400
    assert int(np.argmin(losses)) == len(losses) - 3  # two validations without improvement
    best = float(log[int(np.argmin(losses))]["validation_force_rmse_eV_per_A"])
    assert result.errors["validation"][0].force_rmse_meV_per_A == pytest.approx(
        1e3 * best, rel=0.05
    )


def test_training_goes_on_from_a_potential(folder, straight):
    start = straight.directory / "tiny.pt"
    settings = f'start_from = "{start}"\nfinal_learning_rate = 0.0'
    config = write_config(folder, "on.toml", epochs=40, training=settings)
    config.write_text(
        config.read_text().replace("\nlearning_rate = 0.02", "\nlearning_rate = 0.002")
    )
    result = train(config, folder / "on")
    before, after = straight.errors["train"][0], result.errors["train"][0]
    assert after.force_rmse_meV_per_A < before.force_rmse_meV_per_A
    moved = (weights_of(result) - weights_of(straight)).abs()
    assert 0 < moved.max() < 0.5  # the same weights, a little moved; new ones differ by about 1
    history = result.potential.metadata.training
    assert history["start_sha256"] == straight.potential.sha256
    assert history["settings"]["start_from"] == "tiny.pt"  # no directory of the trainer's machine
    same = (r.potential.readout.reference_energies for r in (result, straight))
    assert torch.equal(*same)


def test_another_network_than_that_of_the_start_is_refused(folder, straight, tmp_path):
    settings = f'start_from = "{straight.directory / "tiny.pt"}"'
    config = write_config(folder, "wider.toml", training=settings)
    config.write_text(config.read_text().replace("n_channels = 4", "n_channels = 8"))
    with pytest.raises(InputError, match=r"n_channels is 8.*has 4"):
        train(config, tmp_path)


def test_stress_labels_enter_the_loss(folder):
    training = "stress_weight = 100.0"
    result = train(
        write_config(folder, "stress.toml", epochs=30, training=training), folder / "stress"
    )
    without = train(write_config(folder, "plain.toml", epochs=30), folder / "plain")
    frames = [f for f in result.splits.train if f.stress is not None]
    assert frames
    errors = [
        error_rows(predict({"default": r.potential}, frames))[0].stress_rmse_meV_per_A3
        for r in (result, without)
    ]
    assert errors[0] < errors[1]


def test_learning_rate_warms_up_and_ends_low():
    config = TrainConfig(learning_rate=1e-2, final_learning_rate=1e-4, warmup_steps=9)
    rates = [learning_rate(config, k, k / 1000) for k in range(1000)]
    assert rates[0] == pytest.approx(1e-3, rel=1e-3)
    assert max(rates) == pytest.approx(1e-2, rel=1e-2)
    assert rates[-1] == pytest.approx(1e-4, rel=1e-2)


BAD = {
    "unknown model key": ({"model": "n_chanels = 3"}, "n_chanels.*n_channels"),
    "unknown data key": ({"data": "grupby = 'x'"}, "grupby"),
    "unknown training key": ({"training": "epoch = 3"}, "epoch.*epochs"),
    "elements missing": ({"model": 'elements = ["Pd"]'}, "also hold.*H"),
    "negative weight": ({"training": "force_weight = -1.0"}, "force_weight"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_are_named(folder, tmp_path, name):
    options, message = BAD[name]
    with pytest.raises(InputError, match=message):
        train(write_config(folder, f"{name.replace(' ', '_')}.toml", **options), tmp_path)


def test_unit_findings_stop_the_training(folder, tmp_path):
    frames = emt_trajectory(6)
    for atoms in frames:
        atoms.info["REF_energy"] /= Hartree
    ase.io.write(tmp_path / "frames.xyz", frames, format="extxyz")
    config = write_config(tmp_path, "units.toml", data="", training="")
    config.write_text(config.read_text().replace('test = ["test.xyz"]', ""))
    train(config, tmp_path / "unchecked")
    config.write_text(config.read_text().replace("check_units = false", ""))
    with pytest.raises(InputError, match=r"Hartree.*check_units = false"):
        train(config, tmp_path / "checked")


def test_a_directory_of_another_run_is_refused(folder, straight):
    with pytest.raises(InputError, match="another --out"):
        train(write_config(folder, "other.toml", epochs=7), straight.directory)


@pytest.mark.parametrize(
    "text",
    [
        "[model",
        "[modle]\n",
        "[data]\ntrain = []\n",
        "[model]\n",
        "[data]\ntrain = ['a']\n[heads.pbe]\ntrain = ['a']\n",
        "[heads]\npbe = 1\n",
        "[heads.'p b e']\ntrain = ['a']\n",
        "[heads.pbe]\ntrain = ['a']\ngrupby = 'x'\n",
    ],
)
def test_unreadable_config(tmp_path, text):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(InputError):
        read_config(path)
    with pytest.raises(InputError, match="no such file"):
        read_config(tmp_path / "none.toml")


def test_data_paths_expand_environment_variables(tmp_path, monkeypatch):
    path = tmp_path / "env.toml"
    path.write_text(
        "[heads.pbe]\ntrain = ['$NEMP_DATA/a.xyz']\nlevel_of_theory = 'PBE'\n"
        "[heads.rpbe]\ntrain = ['b.xyz']\n"
    )
    monkeypatch.delenv("NEMP_DATA", raising=False)
    with pytest.raises(InputError, match=r"\$NEMP_DATA/a.xyz names an environment variable"):
        read_config(path)
    monkeypatch.setenv("NEMP_DATA", "/somewhere")
    heads = read_config(path).heads
    assert heads["pbe"].train == ("/somewhere/a.xyz",)
    assert heads["rpbe"].train == (str(tmp_path / "b.xyz"),)
    assert heads["pbe"].level_of_theory == "PBE" and heads["rpbe"].level_of_theory == "not stated"


def test_frames_with_large_forces_are_left_out_and_counted(folder):
    all_frames = read_splits(read_config(write_config(folder)).heads, False)
    largest = sorted(
        np.linalg.norm(f.forces, axis=1).max() for f in all_frames.train + all_frames.validation
    )
    limit = (largest[-4] + largest[-3]) / 2
    config = write_config(folder, "limit.toml", data=f"max_force_eV_per_A = {limit}")
    splits = read_splits(read_config(config).heads, False)
    assert splits.left_out == 3
    kept = splits.train + splits.validation
    assert len(kept) == len(largest) - 3
    assert max(np.linalg.norm(f.forces, axis=1).max() for f in kept) < limit
    assert len(splits.test) == len(all_frames.test)


def test_excluded_frames_are_left_out_everywhere_and_counted(folder):
    before = read_splits(read_config(write_config(folder)).heads, False)
    kinds = {f.config_type for f in before.train}
    unwanted = sorted(kinds)[0]
    config = write_config(
        folder, "exclude.toml", data=f'exclude = {{ config_type = ["{unwanted}"] }}'
    )
    splits = read_splits(read_config(config).heads, False)
    count = sum(f.config_type == unwanted for part in before.parts.values() for f in part)
    assert count > 0 and splits.left_out == count
    assert all(f.config_type != unwanted for part in splits.parts.values() for f in part)
    with pytest.raises(InputError, match=r"exclude\.config_type.*list of strings"):
        read_config(write_config(folder, "bad.toml", data='exclude = { config_type = "a" }'))


def test_training_errors_are_of_a_sample_where_there_are_many_frames(folder, monkeypatch):
    monkeypatch.setattr("nemp_sim.training.train.MAX_TRAIN_FRAMES_MEASURED", 3)
    result = train(write_config(folder, "sample.toml", epochs=1), folder / "sample")
    n_train = len(result.splits.train)
    assert n_train > 3 and result.errors["train"][0].n_frames == 3
    assert result.errors["test"][0].n_frames == len(result.splits.test)
    assert result.potential.metadata.training["frames"]["train"] == n_train
    shown = [id(f) for f in result.predictions["train"].frames]
    assert shown == [id(f) for f in result.splits.train if id(f) in shown]  # in their order


@pytest.mark.gpu
def test_cuda_graph_steps_equal_cpu_steps(folder, tmp_path):
    config = write_config(folder, "gpu.toml", epochs=4)
    on_cpu = train(config, tmp_path / "cpu", device="cpu")
    on_gpu = train(config, tmp_path / "gpu", device="cuda")
    torch.testing.assert_close(weights_of(on_gpu).cpu(), weights_of(on_cpu), rtol=1e-9, atol=1e-9)
