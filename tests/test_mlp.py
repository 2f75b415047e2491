"""The dense networks: the bend of the activation."""

import pytest
import torch

from nemp_sim.config import MLPShape
from nemp_sim.mlp import MLP, SILU_GAIN


@pytest.mark.parametrize("bend", [1.0, 0.3])
def test_activation_is_x_times_the_sigmoid_of_bend_x(bend):
    torch.manual_seed(0)
    mlp = MLP(5, 3, MLPShape(1, 16, 2, bend=bend)).double()
    x = 2 * torch.randn(7, 5, dtype=torch.float64)

    def active(y):
        return y * torch.sigmoid(bend * y)

    weights = [p.detach() for p in mlp.parameters()]  # input, output, two hidden
    first, hidden, last = weights[0], weights[1:3], weights[3]
    y = x @ first * SILU_GAIN / 5**0.5
    inner = y
    for kernel in hidden:
        inner = active(inner) @ kernel * SILU_GAIN / 16**0.5
    y = (y + inner) / 2**0.5
    want = active(y) @ last / 16**0.5
    torch.testing.assert_close(mlp(x).detach(), want, rtol=1e-12, atol=1e-12)


def test_without_bend_it_is_linear():
    torch.manual_seed(0)
    mlp = MLP(5, 3, MLPShape(1, 16, 1, bend=1e-6)).double()
    x = torch.randn(7, 5, dtype=torch.float64)
    torch.testing.assert_close(mlp(3 * x), 3 * mlp(x), rtol=1e-4, atol=1e-5)
