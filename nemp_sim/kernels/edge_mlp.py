"""EdgeMLP: one MLP of the edge states and its derivative, for a range of edges."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from nemp_sim.kernels.packing import pack_mlp, split
from nemp_sim.kernels.sizes import padded_size
from nemp_sim.kernels.triton_mlp import INPUT_COLUMNS, OUTPUT_COLUMNS, mlp_backward, mlp_forward
from nemp_sim.mlp import MLP

Run = Callable[..., None]


@dataclass(frozen=True)
class Launch:
    """How the kernels are launched; no result depends on it but by rounding.

    Attributes:
        tile: edges of a tile of the MLPs, a power of two, 16 or more.
        warps: warps of a tile.
        block: edges of an atom that one warp sums at once, a power of two; None: as many as keep
            the sums in registers.
        chunk: edges between whose outputs and slopes of an MLP are kept, a multiple of ``tile``.
    """

    tile: int = 64
    warps: int = 4
    block: int | None = None
    chunk: int = 2**18


class EdgeMLP:
    """An MLP from the first Q K numbers of the edge states to R K outputs, K padded.

    Attributes:
        n_inputs: Q K.
        n_outputs: R K.
        n_slopes: numbers for each edge that the derivative needs of the evaluation.
    """

    def __init__(
        self,
        mlp: MLP,
        k: int,
        mode: str,
        launch: Launch,
        row_scale: Tensor | None = None,
        n_sums: int = 1,
    ) -> None:
        """Pack the weights for the precision ``mode``; the rest as ``pack_mlp``."""
        flat = pack_mlp(mlp, k, (INPUT_COLUMNS, OUTPUT_COLUMNS), row_scale, n_sums)
        kp, self.linear = padded_size(k), mlp.linear
        first, last = mlp.output_layer if mlp.linear else mlp.input_layer, mlp.output_layer
        self.n_inputs = first.kernel.shape[0] // k * kp
        self.n_outputs = last.kernel.shape[1] // (k * n_sums) * kp
        blocks = [] if mlp.linear else mlp.blocks
        layers = len(blocks[0].layers) if len(blocks) else 0
        width = padded_size(last.kernel.shape[0])
        self.n_slopes = 0 if mlp.linear else (len(blocks) * layers + 1) * width
        self.tile = launch.tile
        self.weights = split(flat.detach(), "ieee" if mlp.linear else mode)
        self.constants: dict[str, Any] = {
            "INPUTS": self.n_inputs,
            "OUTPUTS": self.n_outputs,
            "W": width,
            "BLOCKS": len(blocks),
            "LAYERS": layers,
            "MODE": mode,
            "IN": INPUT_COLUMNS,
            "OUT": OUTPUT_COLUMNS,
            "TILE": launch.tile,
            "num_warps": launch.warps,
            "num_stages": 1,
        }

    def forward(
        self, run: Run, state: Tensor, chunk: tuple[int, int], out: Tensor, slopes: Tensor | None
    ) -> None:
        """Fill ``out`` (rows, R K) for the edges first, first + 1 … of ``chunk`` (first, rows).

        Args:
            run: launches a kernel on a grid.
            state: (E, numbers) edge states.
            chunk: first edge, and the number of edges.
            out: (rows, R K).
            slopes: filled for ``backward``, if it is to follow; as large as n_slopes · rows.
        """
        first, rows = chunk
        save = slopes is not None
        if self.linear:
            inputs = state[first : first + rows, : self.n_inputs]
            torch.mm(inputs, self.weights.high, out=out)
            return
        w = self.weights
        run(
            mlp_forward, (triton.cdiv(rows, self.tile),), state, w.high, w.low, out,
            slopes if save else out, first, rows, STATE=state.shape[1], SAVE=save,
            maxnreg=self.limit(168 if save else 128), **self.constants,
        )  # fmt: skip

    def backward(
        self, run: Run, grad: Tensor, chunk: tuple[int, int], slopes: Tensor, grad_state: Tensor,
        add: bool = True,
    ) -> None:  # fmt: skip
        """Add to ``grad_state`` (E, numbers) what the gradient of the outputs gives; or set it."""
        first, rows = chunk
        if self.linear:
            mine = grad_state[first : first + rows, : self.n_inputs]
            mine.addmm_(grad, self.weights.high.t(), beta=float(add))
            return
        w = self.weights
        run(
            mlp_backward, (triton.cdiv(rows, self.tile),), grad, w.high, w.low, slopes, grad_state,
            first, rows, STATE=grad_state.shape[1], ADD=add, maxnreg=self.limit(168),
            **self.constants,
        )  # fmt: skip

    def limit(self, registers: int) -> int | None:
        """Registers a thread: few enough that three (168) or four (128) tiles share a processor."""
        numbers = self.tile * max(self.constants["W"], OUTPUT_COLUMNS)
        return registers if numbers <= 1024 * self.constants["num_warps"] else None
