"""The loss by its formulas, its gradient by differences, the traced step against the eager one."""

import copy

import numpy as np
import pytest
import torch
from ase.build import bulk
from torch.fx.experimental.proxy_tensor import make_fx

from nemp_sim.memory import bytes_per_edge
from nemp_sim.potential import Potential
from nemp_sim.training import trainer as trainer_module
from nemp_sim.training.config import TrainConfig
from nemp_sim.training.processes import Processes
from nemp_sim.training.tables import Batches, build_table
from nemp_sim.training.trainer import Trainer, compiled, table_errors
from tests.conftest import make_methanol, make_slab, make_tilted
from tests.training.test_tables import labelled

GRADIENT = 1e-6  # central differences, float64, relative to the gradient
TRACED = {"rtol": 1e-12, "atol": 1e-12}
COMPILED = {"rtol": 1e-5, "atol": 1e-5}  # float32
STEPPED = {"rtol": 1e-4, "atol": 1e-4}  # float32, five steps
STRESS = [0.0, 0.7]
HEADS = ("default",), ("pbe", "rpbe")


def mixed_frames(rng, heads=("default",)):
    """Molecule, slab and bulk, some without stress label, in turn of all heads."""
    frames = []
    for k in range(8):
        make = (make_methanol, make_slab, make_tilted, lambda: bulk("Pd", a=3.9))[k % 4]
        atoms = make()
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        frames.append(labelled(atoms, rng, heads[k % len(heads)], stress=k < 6))
    return frames


@pytest.fixture
def make_trainer(random_potential, rng):
    """Function that makes a trainer on the mixed frames, from weights that are all at work."""

    def make(dtype=torch.float64, device="cpu", heads=("default",), batch_size=4, **settings):
        frames = mixed_frames(np.random.default_rng(3), heads)
        model = copy.deepcopy(random_potential("smooth", zbl=True).model)
        first = model.readouts["default"]
        model.readouts = torch.nn.ModuleDict({head: copy.deepcopy(first) for head in heads})
        model.cast(dtype).to(device).requires_grad_(True)
        table = build_table(frames, model.config.elements, 4.0, torch.device(device), heads)
        batches = Batches(table, batch_size, seed=0)
        config = TrainConfig(batch_size=batch_size, **settings)
        return Trainer(model, table, batches.size, config, Processes()), frames, batches

    return make


def gradient_at(trainer, weights, index, controls, share=0):
    """Terms and gradient of the loss of a share with ``weights`` instead of the trainer's own."""
    mine = index[share :: trainer.objective.size.shares]
    parts = weights.split([p.numel() for p in trainer.parameters])
    shaped = [v.view_as(p) for v, p in zip(parts, trainer.parameters, strict=True)]
    return trainer.objective.gradient(index, mine, controls, *shaped, *vars(trainer.table).values())


# --- the loss


@pytest.mark.parametrize("stress_weight", STRESS)
def test_terms_are_those_of_the_formulas(make_trainer, stress_weight):
    trainer, frames, _ = make_trainer(stress_weight=stress_weight, force_weight=2.5)
    index = [4, 1, 6, 3]  # stress labels: frame 1 and 3; frame 4 is a molecule, 6 has none
    chosen = [frames[k] for k in index]
    assert [f.stress is not None for f in chosen] == [False, True, False, True]
    model = copy.deepcopy(trainer.model)
    result = Potential(model).evaluate([f.atoms for f in chosen])
    sizes = np.array([len(f.atoms) for f in chosen])
    energy = np.mean(((result.energy - [f.energy for f in chosen]) / sizes) ** 2)
    errors = [a - f.forces for a, f in zip(result.forces, chosen, strict=True)]
    force = sum((e**2).sum() for e in errors) / (3 * sizes.sum())
    stresses = Potential(model).evaluate([chosen[1].atoms, chosen[3].atoms], stress=True).stress
    full = stresses[:, [[0, 5, 4], [5, 1, 3], [4, 3, 2]]] - [chosen[1].stress, chosen[3].stress]
    stress = np.mean(full**2) if stress_weight else 0.0
    controls = torch.tensor([0.0, 7.0], dtype=torch.float64)
    terms, _ = gradient_at(trainer, trainer.optimizer.weights, torch.tensor(index), controls)
    loss = 7.0 * energy + 2.5 * force + stress_weight * stress
    np.testing.assert_allclose(terms.numpy(), [energy, force, stress, loss], rtol=1e-11)


@pytest.mark.parametrize("stress_weight", STRESS)
def test_no_stress_label_in_the_batch(make_trainer, stress_weight):
    trainer, _, _ = make_trainer(stress_weight=stress_weight)
    controls = torch.tensor([0.0, 7.0], dtype=torch.float64)
    terms, gradient = gradient_at(
        trainer, trainer.optimizer.weights, torch.tensor([0, 4, 6, 7]), controls
    )
    assert terms[2] == 0 and torch.isfinite(gradient).all()


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("stress_weight", STRESS)
def test_shares_add_up(make_trainer, stress_weight, count):
    trainer, *_ = make_trainer(stress_weight=stress_weight)
    index, controls = torch.tensor([2, 1, 4, 7]), torch.tensor([0.0, 3.0], dtype=torch.float64)
    whole = gradient_at(trainer, trainer.optimizer.weights, index, controls)
    size = Batches(trainer.table, 4, 0, count).size
    args = trainer.model, trainer.table, size, trainer.config, Processes()
    shared, weights = Trainer(*args), trainer.optimizer.weights
    parts = [gradient_at(shared, weights, index, controls, share) for share in range(count)]
    for k in range(2):
        total = sum(part[k] for part in parts)
        torch.testing.assert_close(total, whole[k], rtol=1e-11, atol=1e-11)


def test_shares_follow_the_memory_of_the_device(make_trainer, monkeypatch):
    trainer, *_ = make_trainer()
    cpu, model = torch.device("cpu"), trainer.model
    each = bytes_per_edge(model.config, torch.float64)
    monkeypatch.setattr(trainer_module, "total_memory", lambda device: 1e4 * each)
    limit = trainer_module.most_edges(model, trainer.config, cpu)
    assert limit == pytest.approx(1e4 * trainer_module.MEMORY_SHARE / trainer_module.STEP_COPIES)
    assert trainer_module.most_edges(model, TrainConfig(share_edges=77), cpu) == 77


@pytest.mark.parametrize("most_edges", [1, 200])
def test_steps_in_shares_equal_whole_ones(make_trainer, most_edges):
    whole, _, batches = make_trainer(stress_weight=0.5)
    size = Batches(whole.table, 4, 0, most_edges=most_edges).size
    assert batches.size.shares == 1 < size.shares and size.edges < batches.size.edges
    shared, *_ = make_trainer(stress_weight=0.5)
    shared = Trainer(shared.model, shared.table, size, shared.config, Processes())
    for index in batches.epoch(0):
        for trainer in (whole, shared):
            trainer.step(index, 1e-3, 10.0)
    kwargs = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(shared.optimizer.weights, whole.optimizer.weights, **kwargs)
    np.testing.assert_allclose(shared.mean_terms(), whole.mean_terms(), rtol=1e-9)


# --- its gradient


@pytest.mark.parametrize("heads", HEADS, ids=len)
@pytest.mark.parametrize("stress_weight", STRESS)
def test_gradient_is_a_central_difference(make_trainer, stress_weight, heads):
    trainer, _, _ = make_trainer(stress_weight=stress_weight, heads=heads)
    index, controls = torch.tensor([0, 1, 2, 7]), torch.tensor([0.0, 3.0], dtype=torch.float64)
    weights = trainer.optimizer.weights.clone()
    _, gradient = gradient_at(trainer, weights, index, controls)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        direction = torch.randn(weights.shape, generator=generator, dtype=torch.float64)
        direction /= direction.norm()
        values = [
            gradient_at(trainer, weights + k * 1e-4 * direction, index, controls)[0][3]
            for k in (-2, -1, 1, 2)
        ]
        difference = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / 12e-4
        assert abs(difference - gradient @ direction) < GRADIENT * gradient.norm()


@pytest.mark.parametrize("heads", HEADS, ids=len)
@pytest.mark.parametrize("stress_weight", STRESS)
def test_traced_gradient_equals_the_eager_one(make_trainer, stress_weight, heads):
    """Traced on one batch, run with other frames, weights and controls."""
    trainer, _, _ = make_trainer(stress_weight=stress_weight, heads=heads)
    for tensor in (trainer.index, trainer.share):
        tensor.copy_(torch.tensor([0, 1, 2, 3]))
    traced = make_fx(trainer.objective.gradient)(*trainer._inputs())
    generator = torch.Generator().manual_seed(1)
    for batch in ([0, 1, 2, 3], [7, 6, 5, 4], [3, 3, 0, 1]):
        index = torch.tensor(batch)
        controls = torch.rand(2, generator=generator, dtype=torch.float64)
        parameters = [
            p.detach() + 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
            for p in trainer.parameters
        ]
        inputs = [index, index, controls, *parameters, *vars(trainer.table).values()]
        for got, want in zip(traced(*inputs), trainer.objective.gradient(*inputs), strict=True):
            torch.testing.assert_close(got, want, **TRACED)


@pytest.mark.gpu
@pytest.mark.parametrize("stress_weight", STRESS)
def test_compiled_gradient_equals_the_eager_one(make_trainer, stress_weight):
    trainer, _, _ = make_trainer(torch.float32, "cuda", stress_weight=stress_weight)
    for tensor in (trainer.index, trainer.share):
        tensor.copy_(torch.tensor([0, 1, 2, 3]))
    function = compiled(trainer.objective.gradient, trainer._inputs())
    for batch in ([0, 1, 2, 3], [7, 6, 5, 4]):
        for tensor in (trainer.index, trainer.share):
            tensor.copy_(torch.tensor(batch))
        trainer.controls.copy_(torch.tensor([0.0, 3.0]))
        want = trainer.objective.gradient(*trainer._inputs())
        for a, b in zip(function(*trainer._inputs()), want, strict=True):
            scale = b.abs().max()
            torch.testing.assert_close(a / scale, b / scale, **COMPILED)


@pytest.mark.gpu
def test_compiled_steps_equal_plain_ones(make_trainer):
    weights = []
    for compile_it in (True, False):
        trainer, _, batches = make_trainer(torch.float32, "cuda", compile=compile_it)
        trainer.prepare(next(batches.epoch(0)))
        assert trainer.cuda_graph is not None
        steps = [index for epoch in range(3) for index in batches.epoch(epoch)][:5]
        for index in steps:
            trainer.step(index, 1e-3, 10.0)
        weights.append(trainer.optimizer.weights.clone())
    torch.testing.assert_close(*weights, **STEPPED)


# --- the trainer


def test_prepare_does_nothing_on_a_cpu(make_trainer):
    trainer, _, batches = make_trainer()
    before = {k: v.clone() for k, v in trainer.optimizer.state().items()}
    trainer.prepare(next(batches.epoch(0)))
    assert trainer.cuda_graph is None and trainer.gradient == trainer.objective.gradient
    assert all(torch.equal(v, before[k]) for k, v in trainer.optimizer.state().items())


def test_weights_are_views_of_one_vector(make_trainer):
    trainer, _, batches = make_trainer()
    before = [p.clone() for p in trainer.parameters]
    trainer.step(next(batches.epoch(0)), 1e-3, 1.0)
    moved = [(p - b).abs().max() for p, b in zip(trainer.parameters, before, strict=True)]
    assert 0 < max(moved) < 5e-3  # the first step is about as long as the rate
    trainer.optimizer.weights.zero_()
    assert not any(p.any() for p in trainer.parameters)


def test_frozen_weights_stay_and_the_rest_moves(make_trainer):
    trainer, _, batches = make_trainer(heads=HEADS[1])
    model = trainer.model.requires_grad_(False)
    model.readouts["pbe"].requires_grad_(True)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    again = Trainer(model, trainer.table, batches.size, trainer.config, Processes())
    for index in batches.epoch(0):
        again.step(index, 1e-2, 1.0)
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and all(name.startswith("readouts.pbe.") for name in moved)
    averaged = again.averaged_model().state_dict()
    assert all(torch.equal(averaged[k], before[k]) for k in before.keys() - moved)


def test_mean_terms_are_means_over_the_steps(make_trainer):
    trainer, _, batches = make_trainer(stress_weight=0.5)
    rows = []
    for index in batches.epoch(0):
        controls = torch.tensor([0.0, 4.0], dtype=torch.float64)
        rows.append(gradient_at(trainer, trainer.optimizer.weights, index, controls)[0].numpy())
        trainer.step(index, 1e-3, 4.0)
    np.testing.assert_allclose(trainer.mean_terms(), np.mean(rows, axis=0), rtol=1e-12)
    assert trainer.mean_terms() == [0, 0, 0, 0]


@pytest.mark.parametrize("most_edges", [1, 200, 10**6])
def test_errors_of_a_table_are_those_of_its_frames(make_trainer, monkeypatch, most_edges):
    """RMSE over all frames, whatever the batches: a frame at a time, several, all at once."""
    monkeypatch.setattr(trainer_module, "VALIDATION_EDGES", most_edges)
    trainer, frames, _ = make_trainer(stress_weight=1.0)
    frames = frames * 2
    table = build_table(frames, trainer.model.config.elements, 4.0, torch.device("cpu"))
    energy, force, stress = table_errors(trainer.model, table, trainer.config)
    potential = Potential(copy.deepcopy(trainer.model))
    result = potential.evaluate([f.atoms for f in frames])
    per_atom = [(e - f.energy) / len(f.atoms) for e, f in zip(result.energy, frames, strict=True)]
    assert energy == pytest.approx(np.sqrt(np.mean(np.square(per_atom))), rel=1e-6)
    wrong = np.concatenate([a - f.forces for a, f in zip(result.forces, frames, strict=True)])
    assert force == pytest.approx(np.sqrt(np.mean(wrong**2)), rel=1e-6)
    labels = [f for f in frames if f.stress is not None]
    voigt = potential.evaluate([f.atoms for f in labels], stress=True).stress
    wrong = voigt[:, [[0, 5, 4], [5, 1, 3], [4, 3, 2]]] - [f.stress for f in labels]
    assert stress == pytest.approx(np.sqrt(np.mean(wrong**2)), rel=1e-6)
