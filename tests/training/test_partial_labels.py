"""Frames that have energies alone, frames that are always trained on, and weights of kinds."""

import copy
import warnings
from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from nemp_sim.errors import InputError
from nemp_sim.potential import Potential
from nemp_sim.training.accuracy import error_pairs, error_rows, predict, reliability
from nemp_sim.training.config import DataConfig, TrainConfig
from nemp_sim.training.data import read_frames, reference_energies, unit_findings
from nemp_sim.training.job import read_config, read_splits
from nemp_sim.training.processes import Processes
from nemp_sim.training.run import Run
from nemp_sim.training.tables import Batches, build_table
from nemp_sim.training.train import train
from nemp_sim.training.trainer import Trainer, table_errors
from nemp_sim.training.uncertainty import _fisher, fit_members, sensitivity
from tests.training.test_data import emt_trajectory
from tests.training.test_train import weights_of, write_config
from tests.training.test_trainer import gradient_at, mixed_frames

CPU = torch.device("cpu")
GRADIENT = 1e-6  # central differences, float64, relative to the gradient
FULL = [[0, 5, 4], [5, 1, 3], [4, 3, 2]]  # Voigt → 3×3
ENERGY_ONLY = 1, 4, 6, 7  # a slab, a molecule, a tilted and a small crystal: a batch
KINDS = "{ bulk_Pd = 0.5, bulk_PdH = 0.125 }"


def without_forces(frames, chosen):
    """The frames, those of ``chosen`` with their energies alone."""
    return [replace(f, forces=None) if k in chosen else f for k, f in enumerate(frames)]


@pytest.fixture
def frames(rng):
    weights = rng.uniform(0.1, 3, size=8)
    mixed = without_forces(mixed_frames(rng), ENERGY_ONLY)
    return [replace(f, weight=float(w)) for f, w in zip(mixed, weights, strict=True)]


@pytest.fixture
def potential(random_potential):
    return random_potential("smooth", zbl=True)


def trainer_of(potential, frames, **settings):
    model = copy.deepcopy(potential.model).requires_grad_(True)
    table = build_table(frames, model.config.elements, 4.0, CPU)
    config = TrainConfig(batch_size=4, **settings)
    return Trainer(model, table, Batches(table, 4, seed=0).size, config, Processes())


def controls(energy_weight=7.0):
    return torch.tensor([0.0, energy_weight], dtype=torch.float64)


# --- the loss


@pytest.mark.parametrize("index", [[4, 1, 2, 3], [0, 5, 6, 7], [0, 5, 2, 3]])
def test_terms_are_weighted_sums_over_the_labels_there_are(potential, frames, index):
    trainer = trainer_of(potential, frames, stress_weight=0.7, force_weight=2.5)
    chosen = [frames[k] for k in index]
    result = potential.evaluate([f.atoms for f in chosen], on_extrapolation="ignore")
    energy = force = stress = 0.0
    atoms = stresses = 0
    for k, f in enumerate(chosen):
        energy += f.weight * ((result.energy[k] - f.energy) / len(f.atoms)) ** 2 / 4
        if f.forces is not None:
            force += f.weight * ((result.forces[k] - f.forces) ** 2).sum()
            atoms += len(f.atoms)
        if f.stress is not None:
            voigt = potential.evaluate([f.atoms], stress=True, on_extrapolation="ignore").stress[0]
            stress += f.weight * ((voigt[FULL] - f.stress) ** 2).sum()
            stresses += 1
    force, stress = force / (3 * atoms), stress / (9 * stresses)
    terms, _ = gradient_at(trainer, trainer.optimizer.weights, torch.tensor(index), controls())
    loss = 7.0 * energy + 2.5 * force + 0.7 * stress
    np.testing.assert_allclose(terms.numpy(), [energy, force, stress, loss], rtol=1e-11)


def test_no_forces_in_the_batch(potential, frames):
    trainer = trainer_of(potential, frames)
    index = torch.tensor(ENERGY_ONLY)
    terms, gradient = gradient_at(trainer, trainer.optimizer.weights, index, controls())
    assert terms[0] > 0 and terms[1] == 0 and torch.isfinite(gradient).all() and gradient.any()


@pytest.mark.parametrize("count", [2, 4])
def test_shares_add_up(potential, frames, count):
    trainer, index = trainer_of(potential, frames, stress_weight=0.7), torch.tensor([2, 1, 4, 3])
    whole = gradient_at(trainer, trainer.optimizer.weights, index, controls())
    size = Batches(trainer.table, 4, 0, count).size
    shared = Trainer(trainer.model, trainer.table, size, trainer.config, Processes())
    weights = trainer.optimizer.weights
    parts = [gradient_at(shared, weights, index, controls(), share) for share in range(count)]
    for k in range(2):
        total = sum(part[k] for part in parts)
        torch.testing.assert_close(total, whole[k], rtol=1e-11, atol=1e-11)


def test_gradient_is_a_central_difference(potential, frames):
    trainer, index = trainer_of(potential, frames, stress_weight=0.7), torch.tensor([4, 1, 3, 2])
    weights = trainer.optimizer.weights.clone()
    _, gradient = gradient_at(trainer, weights, index, controls())
    direction = torch.randn(weights.shape, generator=torch.Generator().manual_seed(0)).double()
    direction /= direction.norm()
    values = [
        gradient_at(trainer, weights + k * 1e-4 * direction, index, controls())[0][3]
        for k in (-2, -1, 1, 2)
    ]
    difference = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / 12e-4
    assert abs(difference - gradient @ direction) < GRADIENT * gradient.norm()


def test_traced_gradient_equals_the_eager_one(potential, frames):
    """Traced on a batch of which every frame has forces, run with others."""
    trainer = trainer_of(potential, frames)
    for tensor in (trainer.index, trainer.share):
        tensor.copy_(torch.tensor([0, 5, 2, 3]))
    traced = make_fx(trainer.objective.gradient)(*trainer._inputs())
    for batch in ([0, 1, 2, 3], [7, 6, 5, 4], ENERGY_ONLY):
        for tensor in (trainer.index, trainer.share):
            tensor.copy_(torch.tensor(batch))
        inputs = trainer._inputs()
        for got, want in zip(traced(*inputs), trainer.objective.gradient(*inputs), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_errors_of_a_table_are_unweighted_and_of_the_labels_there_are(potential, frames):
    trainer = trainer_of(potential, frames)
    energy, force, _ = table_errors(trainer.model, trainer.table, trainer.config)
    result = potential.evaluate([f.atoms for f in frames], on_extrapolation="ignore")
    wrong = [(e - f.energy) / len(f.atoms) for e, f in zip(result.energy, frames, strict=True)]
    assert energy == pytest.approx(np.sqrt(np.mean(np.square(wrong))), rel=1e-6)
    labelled = [(a, f) for a, f in zip(result.forces, frames, strict=True) if f.forces is not None]
    wrong = np.concatenate([a - f.forces for a, f in labelled])
    assert force == pytest.approx(np.sqrt(np.mean(wrong**2)), rel=1e-6)
    bare = trainer_of(potential, [replace(f, forces=None) for f in frames])
    assert table_errors(bare.model, bare.table, bare.config)[1] == 0


# --- errors and uncertainties


def test_frames_without_forces_change_no_error_of_forces(random_potential, rng):
    potential = {"default": random_potential("smooth", n_members=3)}
    frames = mixed_frames(rng)
    some = [f for k, f in enumerate(frames) if k not in ENERGY_ONLY]
    mixed, known = (predict(potential, f) for f in (without_forces(frames, ENERGY_ONLY), some))
    rows = error_rows(mixed)[0], error_rows(known)[0]
    assert rows[0].n_frames == 8
    assert rows[0].force_rmse_meV_per_A == pytest.approx(rows[1].force_rmse_meV_per_A, rel=1e-9)
    assert rows[0].force_mae_meV_per_A == pytest.approx(rows[1].force_mae_meV_per_A, rel=1e-9)
    assert error_rows(predict(potential, frames))[0].energy_rmse_meV_per_atom == pytest.approx(
        rows[0].energy_rmse_meV_per_atom, rel=1e-12
    )
    pairs = error_pairs(mixed)[1], error_pairs(known)[1]
    np.testing.assert_allclose(pairs[0].predicted, pairs[1].predicted, atol=1e-9)
    np.testing.assert_array_equal(pairs[0].reference, pairs[1].reference)
    judged = reliability(mixed), reliability(known)
    np.testing.assert_allclose(judged[0].force_std, judged[1].force_std, atol=1e-9)
    np.testing.assert_allclose(judged[0].force_error, judged[1].force_error, atol=1e-9)
    assert len(judged[0].energy_error) > len(judged[1].energy_error)
    bare = predict(potential, without_forces(frames, range(8)))
    (row,) = error_rows(bare)
    assert row.force_rmse_meV_per_A is None and row.force_mae_meV_per_A is None
    assert np.isnan(reliability(bare).force_ratio) and reliability(bare).energy_ratio > 0


def test_sensitivities_of_forces_are_those_of_the_labels_there_are(potential, frames):
    full = [f if f.forces is not None else replace(f, forces=0 * f.atoms.positions) for f in frames]
    tables = [build_table(part, potential.config.elements, 4.0, CPU) for part in (frames, full)]
    got, want = (sensitivity(potential.model, table, range(8)) for table in tables)
    rows = np.concatenate([np.full(3 * len(f.atoms), f.forces is not None) for f in frames])
    for name in ("forces", "force_error"):
        np.testing.assert_allclose(getattr(got, name), getattr(want, name)[rows], atol=1e-12)
    for name in ("energy", "energy_error", "n_atoms"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
    # the information matrix as an explicit sum over the labels
    explicit = np.zeros((got.energy.shape[1],) * 2)
    atoms = sum(len(f.atoms) for f in frames if f.forces is not None)
    start = 0
    for k, f in enumerate(frames):
        size = len(f.atoms)
        explicit += 5.0 * f.weight * np.outer(got.energy[k], got.energy[k]) / size**2
        if f.forces is not None:
            part = got.forces[start : start + 3 * size]
            explicit += 2.0 * f.weight * part.T @ part * 8 / (3 * atoms)
            start += 3 * size
    np.testing.assert_allclose(_fisher(got, (5.0, 2.0)), explicit, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bare", [range(24), range(0, 24, 4)], ids=["all", "molecules"])
def test_uncertainties_are_fitted_to_energies_alone(random_potential, rng, bare):
    potential = Potential(copy.deepcopy(random_potential("smooth").model))
    frames = without_forces([f for _ in range(3) for f in mixed_frames(rng)], bare)
    table = build_table(frames, potential.config.elements, 4.0, CPU)
    fit = fit_members(potential.model, (table, table), 0, 4, (10.0, 1.0))
    assert np.isfinite(fit.force_calibration) and fit.force_calibration > 0
    assert torch.isfinite(potential.readout.members).all() and potential.readout.members.any()
    assert (fit.crossed_ratio is None) == (len(bare) == 24)


# --- reading


@pytest.fixture
def folder(tmp_path):
    """frames.xyz and test.xyz with forces, curves.xyz without."""
    ase.io.write(tmp_path / "frames.xyz", emt_trajectory(6), format="extxyz")
    ase.io.write(tmp_path / "test.xyz", emt_trajectory(2, seed=5), format="extxyz")
    curves = emt_trajectory(4, seed=7)[:8]
    for atoms in curves:
        del atoms.arrays["REF_forces"]
        atoms.info["config_type"] = "curve"
    ase.io.write(tmp_path / "curves.xyz", curves, format="extxyz")
    return tmp_path


CURVES = 'train_only = ["curves.xyz"]\nallow_missing_forces = true\n'


def splits_of(folder, data):
    return read_splits(read_config(write_config(folder, data=data)).heads, False)


def test_missing_forces_are_refused_unless_allowed(folder):
    config = DataConfig(train=("x",))
    with pytest.raises(InputError, match=r"8 of 8.*no REF_forces.*allow_missing_forces = true"):
        read_frames(folder / "curves.xyz", config)
    allowed = replace(config, allow_missing_forces=True)
    frames = read_frames(folder / "curves.xyz", allowed)
    assert len(frames) == 8 and all(f.forces is None for f in frames)
    lone = read_frames(folder / "frames.xyz", allowed)[-1]
    assert len(lone.atoms) == 1 and not lone.forces.any()  # known without a label
    misspelt = replace(allowed, energy_key="energie")
    with pytest.raises(InputError, match="no energie"):
        read_frames(folder / "curves.xyz", misspelt)


def test_files_that_are_only_trained_on_leave_the_split_alone(folder):
    plain, more = splits_of(folder, ""), splits_of(folder, CURVES + "max_force_eV_per_A = 50.0")
    for name in ("validation", "test"):
        assert [f.energy for f in getattr(more, name)] == [f.energy for f in getattr(plain, name)]
    energies = [f.energy for f in more.train]
    assert energies[: len(plain.train)] == [f.energy for f in plain.train]
    assert [f.config_type for f in more.train[len(plain.train) :]] == ["curve"] * 8
    assert more.without_forces == 8 and plain.without_forces == 0


def test_weights_go_by_kind(folder):
    splits = splits_of(folder, CURVES + "type_weights = { curve = 0.01, bulk_PdH = 3 }")
    weights = {(f.config_type, f.weight) for f in splits.train}
    assert weights == {
        ("curve", 0.01),
        ("bulk_PdH", 3.0),
        ("bulk_Pd", 1.0),
        ("isolated_atom", 1.0),
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("type_weights = { lone_atom = 2 }", "kind 'lone_atom'. Did you mean 'isolated_atom'"),
        ("type_weights = { zz = 2 }", "kind 'zz'. Kinds: bulk_Pd, bulk_PdH"),
        ("type_weights = { bulk_Pd = 0 }", "type_weights.bulk_Pd is 0.*positive number"),
        ("type_weights = { bulk_Pd = true }", "type_weights.bulk_Pd is True"),
        ("type_weights = { bulk_Pd = inf }", "type_weights.bulk_Pd is inf"),
        ('allow_missing_forces = "yes"', "allow_missing_forces is 'yes'"),
        ("train_only = [3]", "data.train_only"),
        ("type_weight = { bulk_Pd = 2 }", "unknown key 'type_weight'. Did you mean 'type_weights'"),
    ],
)
def test_unusable_settings_are_named(folder, data, message):
    with pytest.raises(InputError, match=message):
        splits_of(folder, data)


def test_least_squares_energies_are_weighted(folder):
    config = DataConfig(train=("x",), type_weights={"bulk_Pd": 0.01, "bulk_PdH": 4.0})
    frames = read_frames(folder / "frames.xyz", config)
    references = reference_energies(frames, {})
    many = [f for f in frames if len(f.atoms) > 1]
    x = np.array([[f.atoms.symbols.count(s) / len(f.atoms) for s in ("H", "Pd")] for f in many])
    y = np.array([f.energy / len(f.atoms) for f in many])
    w = np.array([f.weight for f in many])
    solution = np.linalg.solve(x.T @ (w[:, None] * x), x.T @ (w * y))
    for symbol, value in zip(("H", "Pd"), solution, strict=True):
        fitted = references.lone_atom[symbol] + references.bound[symbol]
        assert fitted == pytest.approx(value, abs=1e-8)


def test_units_are_judged_by_the_frames_that_have_forces(folder):
    config = DataConfig(train=("x",), allow_missing_forces=True)
    frames = read_frames(folder / "frames.xyz", config)
    frames = [f if f.forces is None else replace(f, forces=-f.forces) for f in frames]
    found = unit_findings(without_forces(frames, [2]), reference_energies(frames, {}))
    assert any("opposite sign" in text for text in found)
    assert not unit_findings(
        without_forces(frames, range(len(frames))), reference_energies(frames, {})
    )


# --- whole runs


def test_an_interrupted_run_ends_with_the_same_weights(folder, monkeypatch):
    config = write_config(folder, epochs=4, data=CURVES + f"type_weights = {KINDS}")
    straight = train(config, folder / "straight")
    original = Run._validate

    def interrupted(self, rate, energy_weight):
        original(self, rate, energy_weight)
        if self.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "_validate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(config, folder / "broken")
    monkeypatch.setattr(Run, "_validate", original)
    resumed = train(config, folder / "broken")
    assert torch.equal(weights_of(resumed), weights_of(straight))
    report = (folder / "straight" / "report.md").read_text("utf-8")
    assert "8 frames have no forces" in report
    files = straight.potential.metadata.training["files"]
    assert sorted(files) == ["default: curves.xyz", "default: frames.xyz"]
    config.write_text(config.read_text("utf-8").replace("0.125", "0.25"), "utf-8")
    with pytest.raises(InputError, match="other settings"):
        train(config, folder / "broken")


def test_a_run_on_energies_alone(folder):
    """Every label of forces is missing: no number of forces is shown, and no figure fails."""
    for name in ("frames.xyz", "test.xyz"):
        frames = [a for a in ase.io.read(folder / name, ":") if len(a) > 1]
        for atoms in frames:
            del atoms.arrays["REF_forces"]
        ase.io.write(folder / name, frames, format="extxyz")
    config = write_config(folder, epochs=2, data="allow_missing_forces = true")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = train(config, folder / "out")
    assert {row.force_rmse_meV_per_A for rows in result.errors.values() for row in rows} == {None}
    report = (folder / "out" / "report.md").read_text("utf-8")
    assert "force RMSE" not in report and "energy RMSE" in report
    assert (folder / "out" / "parity.png").is_file()


def test_weights_go_by_head(folder):
    text = (
        write_config(folder, epochs=2, data=CURVES)
        .read_text("utf-8")
        .replace("[data]", "[heads.pbe]")
    )
    text += (
        '\n[heads.rpbe]\ntrain = ["curves.xyz"]\nallow_missing_forces = true\n'
        'group_by = "frame"\ncheck_units = false\ntype_weights = { curve = 0.5 }\n'
    )
    (folder / "heads.toml").write_text(text, "utf-8")
    splits = read_splits(read_config(folder / "heads.toml").heads, False)
    weights = {(f.head, f.weight) for f in splits.train if f.config_type == "curve"}
    assert weights == {("pbe", 1.0), ("rpbe", 0.5)}
    result = train(folder / "heads.toml", folder / "heads")
    rows = {row.head: row for row in result.errors["train"] if row.config_type == "all"}
    assert rows["pbe"].force_rmse_meV_per_A > 0 and rows["rpbe"].force_rmse_meV_per_A is None
    assert isinstance(result.potential, Potential)
