"""The optimizer against torch's AdamW and against singular-value decompositions."""

import numpy as np
import pytest
import torch
from scipy.linalg import svd
from torch import nn

from nemp_sim.training.config import TrainConfig
from nemp_sim.training.optimizer import MATRIX_RATE, NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS, Optimizer

SHAPES = [(5,), (16, 24), (40, 9), (2, 3, 12, 12), (64, 1), (7, 9)]
MATRICES = [(1, slice(0, 1)), (2, slice(0, 1)), (3, slice(0, 6))]  # parameters that Muon takes


@pytest.fixture
def parameters():
    generator = torch.Generator().manual_seed(1)
    return [
        nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        for shape in SHAPES
    ]


def gradients(parameters, count):
    generator = torch.Generator().manual_seed(2)
    size = sum(p.numel() for p in parameters)
    for k in range(count):
        yield torch.randn(size, generator=generator, dtype=torch.float64) * 3**-k


def run(parameters, count, **options):
    optimizer = Optimizer(parameters, TrainConfig(clip_norm=1e9, **options))
    rate = torch.tensor(0.01, dtype=torch.float64)
    for gradient in gradients(parameters, count):
        optimizer.step(gradient, rate)
    return optimizer


@pytest.mark.parametrize("amsgrad", [True, False])
def test_adam_is_that_of_torch_and_decays_matrices_alone(parameters, amsgrad):
    expected = [p.detach().clone().requires_grad_() for p in parameters]
    matrices = [expected[i] for i, _ in MATRICES]
    others = [p for p in expected if not any(p is m for m in matrices)]
    groups = [{"params": matrices, "weight_decay": 0.5}, {"params": others, "weight_decay": 0.0}]
    oracle = torch.optim.AdamW(groups, lr=0.01, amsgrad=amsgrad)
    for gradient in gradients(parameters, 5):
        parts = gradient.split([p.numel() for p in expected])
        for parameter, part in zip(expected, parts, strict=True):
            parameter.grad = part.view_as(parameter).clone()
        oracle.step()
    run(parameters, 5, optimizer="adam", amsgrad=amsgrad, weight_decay=0.5)
    for found, wanted in zip(parameters, expected, strict=True):
        torch.testing.assert_close(found.detach(), wanted.detach(), rtol=1e-12, atol=1e-12)


def newton_schulz(values):
    """The polynomial that each singular value goes through."""
    a, b, c = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_STEPS):
        values = a * values + b * values**3 + c * values**5
    return values


def test_muon_moves_matrices_along_the_orthogonal_factor(parameters):
    before = [p.detach().clone().flatten(0, -3) if p.dim() > 2 else p.detach().clone()[None]
              for p in parameters]  # fmt: skip
    (gradient,) = gradients(parameters, 1)
    run(parameters, 1, optimizer="muon")
    parts = gradient.split([p.numel() for p in parameters])
    for index, chosen in MATRICES:
        after = parameters[index].detach()
        after = after.flatten(0, -3) if after.dim() > 2 else after[None]
        slopes = parts[index].view(after.shape)
        for old, new, slope in zip(before[index][chosen], after, slopes, strict=True):
            u, s, vt = svd(slope.numpy(), full_matrices=False)
            factor = u @ np.diag(newton_schulz(s / np.linalg.norm(s))) @ vt
            move = -0.01 * MATRIX_RATE * max(old.shape) ** 0.5 * factor
            np.testing.assert_allclose((new - old).numpy(), move, rtol=1e-9, atol=1e-12)


def test_muon_brings_all_singular_values_near_one(rng):
    values = rng.uniform(0.02, 1.0, 50)
    assert (newton_schulz(values) > 0.5).all() and (newton_schulz(values) < 1.3).all()


def test_muon_leaves_vectors_and_small_tables_to_adam(parameters):
    copies = [nn.Parameter(p.detach().clone()) for p in parameters]
    muon = run(parameters, 3, optimizer="muon")
    adam = run(copies, 3, optimizer="adam")
    del muon, adam
    for index in (0, 4, 5):
        assert torch.equal(parameters[index], copies[index])
    for index, _ in MATRICES:
        assert not torch.equal(parameters[index], copies[index])


def test_gradient_is_clipped(parameters):
    first = [p.detach().clone() for p in parameters]
    optimizer = Optimizer(parameters, TrainConfig(clip_norm=1.0, optimizer="adam"))
    optimizer.step(torch.full_like(optimizer.weights, 1e3), torch.tensor(0.0))
    assert optimizer.moments[0].norm().item() == pytest.approx(0.1)  # (1 − β1) · 1
    assert all(torch.equal(p, q) for p, q in zip(parameters, first, strict=True))


def test_average_of_float32_weights_follows_the_smallest_steps():
    weights = [nn.Parameter(torch.ones(64))]
    optimizer = Optimizer(weights, TrainConfig(ema_decay=0.999))
    optimizer.n_steps += 1e6  # past the warm-up of the average
    optimizer.weights.add_(1e-5)  # a thousandth of it is below the last digit of float32
    for _ in range(5000):
        optimizer.step(torch.zeros(64), torch.tensor(0.0))
    left = (optimizer.weights.double() - optimizer.average).abs().max().item()
    assert left == pytest.approx(1e-5 * 0.999**5000, rel=0.1)


def test_state_round_trip(parameters):
    copies = [nn.Parameter(p.detach().clone()) for p in parameters]
    one = run(parameters, 3, optimizer="muon")
    two = Optimizer(copies, TrainConfig(clip_norm=1e9, optimizer="muon"))
    two.restore(one.state())
    gradient = torch.ones_like(one.weights)
    for optimizer in (one, two):
        optimizer.step(gradient, torch.tensor(0.01, dtype=torch.float64))
    assert torch.equal(one.weights, two.weights) and torch.equal(one.average, two.average)
