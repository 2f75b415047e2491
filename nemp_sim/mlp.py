"""The residual networks of NEMP: dense layers, residual blocks, MLP."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from nemp_sim.config import MLPShape

SILU_GAIN = 1.67462  # c of the published dense layers


class Dense(nn.Module):
    """y = x (W s) + b, s = gain / √fan_in, divided by 100 where there is a bias; W ~ N(0, 1)."""

    def __init__(self, n_in: int, n_out: int, gain: float, bias: bool) -> None:
        """Draw the weights."""
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(n_in, n_out))
        self.bias = nn.Parameter(torch.zeros(n_out)) if bias else None
        self.scale = gain / math.sqrt(n_in) / (100.0 if bias else 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """(…, n_in) → (…, n_out)."""
        y = x @ (self.kernel * self.scale)
        return y if self.bias is None else y + self.bias


class ResidualBlock(nn.Module):
    """x ← (x + g(x)) / √2, g = layers × (SiLU, dense)."""

    activation = staticmethod(silu)

    def __init__(self, width: int, n_layers: int, bias: bool) -> None:
        """Build the layers."""
        super().__init__()
        self.layers = nn.ModuleList(Dense(width, width, SILU_GAIN, bias) for _ in range(n_layers))

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) → (…, width)."""
        y = x
        for layer in self.layers:
            y = layer(self.activation(y))
        return (x + y) * 0.5**0.5


class MLP(nn.Module):
    """Input layer, residual blocks, SiLU, output layer; or the output layer alone (linear).

    Without biases MLP(0) = 0, so an edge at the cutoff contributes nothing.
    """

    blocks: Any  # nn.ModuleList of ResidualBlock: torch has no type for that

    activation = staticmethod(silu)

    def __init__(self, n_in: int, n_out: int, shape: MLPShape, bias: bool = False) -> None:
        """Build the layers of ``shape``."""
        super().__init__()
        self.linear = shape.linear
        width = n_in if shape.linear else shape.width
        if not shape.linear:
            self.input_layer = Dense(n_in, width, SILU_GAIN, bias)
            self.blocks = nn.ModuleList(
                ResidualBlock(width, shape.layers_per_block, bias) for _ in range(shape.n_blocks)
            )
        self.output_layer = Dense(width, n_out, 1.0, bias)
        if not shape.linear:  # x σ(βx) = silu(βx)/β, and all between the two ends is linear in x
            self.input_layer.scale *= shape.bend
            self.output_layer.scale /= shape.bend

    def hidden(self, x: Tensor) -> Tensor:
        """Input of the output layer: (…, n_in) → (…, width)."""
        if self.linear:
            return x
        x = self.input_layer(x)
        for block in self.blocks:
            x = block(x)
        return self.activation(x)

    def forward(self, x: Tensor) -> Tensor:
        """(…, n_in) → (…, n_out)."""
        return self.output_layer(self.hidden(x))
