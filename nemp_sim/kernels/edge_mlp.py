"""EdgeMLP: one MLP of the edge states and its derivative, for a range of edges."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from nemp_sim.kernels.packing import HALVES, pack_mlp, split
from nemp_sim.kernels.sizes import interpreted, padded_size
from nemp_sim.kernels.states import States
from nemp_sim.kernels.triton_mlp import mlp_forward, mlp_gradient
from nemp_sim.kernels.workspace import Workspace
from nemp_sim.mlp import MLP

Run = Callable[..., None]
OUTPUT_COLUMNS = (64, 32, 16)  # outputs that go through one product: as many as divide their number
REGISTERS = 168  # of a thread of the derivative, where three programs share a processor
SYSTEM = 1024  # bytes of the shared memory of a program that the driver takes


@dataclass(frozen=True)
class Launch:
    """How the kernels are launched; no result depends on it but by rounding.

    Attributes:
        tile: edges of a tile of the MLPs, a power of two, 16 or more; None: 128 where the weights
            of one program alone find room in the shared memory of a processor, else 64.
        warps: warps of a tile; None: one for 16 edges.
        block: edges of an atom that one warp sums at once, a power of two; None: as many as keep
            the sums in registers.
        chunk: edges whose outputs of an MLP are held at once.
        stretches: parts of the edges, at most, of one of which what they leave to the neighbours
            is held at once, whole chunks.
        half: keep states of the edges and their gradients in 16 bits; None: above MANY edges.
        keep: keep outputs of the networks for the derivatives; None: up to KEPT bytes.
    """

    tile: int | None = None
    warps: int | None = None
    block: int | None = None
    chunk: int = 2**20
    stretches: int = 32
    half: bool | None = None
    keep: bool | None = None


def math_of(mode: str) -> str:
    """How the kernels take the SiLU in the precision ``mode``."""
    if mode == "ieee" or interpreted():  # the interpreter knows no instructions of the GPU
        return "plain"
    return "rough" if mode in ("fp16", "bf16") else "fast"


def programs_at_once(weights: Tensor, mode: str, staging: int) -> int:
    """Programs on a processor of the GPU that hold all weights in shared memory; zero: none can.

    Args:
        weights: one half of them, on the GPU.
        mode: precision.
        staging: bytes that a program needs beside them.
    """
    if not weights.is_cuda or mode not in HALVES:
        return 0
    device = torch.cuda.get_device_properties(weights.device)
    if device.major != 9 or not hasattr(tl, "condition"):
        return 0  # products from shared memory: of Hopper alone; loops as here: of Triton 3.6
    size = (2 if mode.endswith("x3") else 1) * weights.nbytes + staging
    if size > device.shared_memory_per_block_optin:  # type: ignore[attr-defined]
        return 0
    return device.shared_memory_per_multiprocessor // (size + SYSTEM)


def tiling(
    weights: Tensor, mode: str, widths: tuple[int, int], tile: int | None
) -> tuple[int, int, int]:
    """Edges of a tile, outputs that go through one product, and programs at once with the weights.

    Two programs on a processor or more, each with tiles of 64 edges, hide each other's waiting;
    where there is room for one alone, it takes 128.

    Args:
        weights: one half of them.
        mode: precision.
        widths: inputs that go through one product, and outputs in all.
        tile: the edges asked for, or None.
    """
    found = (tile or 64, next(n for n in OUTPUT_COLUMNS if widths[1] % n == 0), 0)
    for edges, columns in itertools.product((tile,) if tile else (64, 128), OUTPUT_COLUMNS[1:]):
        if widths[1] % columns:
            continue
        at_once = programs_at_once(weights, mode, 4 * edges * max(columns, widths[0]))
        if at_once >= 2:
            return edges, columns, at_once
        if at_once and not (found[2] and found[0] == edges):
            found = (edges, columns, at_once)
    return found


class EdgeMLP:
    """An MLP from the first Q K numbers of the edge states to R K outputs, K padded.

    Attributes:
        n_inputs: Q K.
        n_outputs: R K.
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
        kp, self.linear = padded_size(k), mlp.linear
        first, last = mlp.output_layer if mlp.linear else mlp.input_layer, mlp.output_layer
        self.n_inputs = first.kernel.shape[0] // k * kp
        self.n_outputs = last.kernel.shape[1] // (k * n_sums) * kp
        flat = pack_mlp(mlp, k, row_scale, n_sums).detach()
        self.weights = split(flat, "ieee" if mlp.linear else mode)
        widths = kp, self.n_outputs
        self.tile, columns, self.at_once = tiling(self.weights.high, mode, widths, launch.tile)
        three = self.at_once >= 3 and self.tile == 64
        self.narrow = 3 if three else 0  # programs of the derivative at once, with few registers
        blocks = [] if mlp.linear else mlp.blocks
        self.constants: dict[str, Any] = {
            "INPUTS": self.n_inputs,
            "OUTPUTS": self.n_outputs,
            "W": padded_size(last.kernel.shape[0]),
            "BLOCKS": len(blocks),
            "LAYERS": len(blocks[0].layers) if len(blocks) else 0,
            "MODE": mode,
            "MATH": math_of(mode),
            "RESIDENT": self.at_once > 0,
            "IN": kp,
            "OUT": columns,
            "TILE": self.tile,
            "num_warps": launch.warps or max(1, self.tile // 16),
            "num_stages": 1,
        }

    def forward(self, run: Run, room: Workspace, state: States) -> Tensor:
        """Outputs (rows, R K) of the edges of the workspace's chunk, in the workspace.

        Args:
            run: launches a kernel on a grid.
            room: the workspace, which holds h⁰ of the chunk.
            state: s⁰, s¹ … of all edges.
        """
        out = room.outputs(self, self.n_outputs)
        if self.linear:
            return torch.mm(self._inputs(room, state), self.weights.high, out=out)
        w = self.weights
        run(
            mlp_forward, self._grid(room.rows, 4), room.pair_state, state.values, state.scale,
            w.high, w.low, out, room.first, room.rows, **self._shape(room, state), **self.constants,
        )  # fmt: skip
        return out

    def gradient(
        self, run: Run, room: Workspace, state: States, grad_state: States, add_pair: bool,
        add: bool = True,
    ) -> Tensor:  # fmt: skip
        """The outputs, and the gradients of the inputs from that of the outputs.

        The workspace holds h⁰ and the gradient of the outputs, and gets that of h⁰.

        Args:
            run: launches a kernel on a grid.
            room: the workspace.
            state: s⁰, s¹ … of all edges.
            grad_state: their gradient but that of the last, which the workspace gets.
            add_pair: add to the gradient of h⁰; else set it.
            add: add to ``grad_state``; else set it.
        """
        grad, out = room.grad_outputs(self.n_outputs), room.outputs(self, self.n_outputs)
        if self.linear:
            if not room.keeps_outputs:
                torch.mm(self._inputs(room, state), self.weights.high, out=out)
            n_pair, own = room.pair_state.shape[1], self.weights.high
            room.grad_pair_state.addmm_(grad, own[:n_pair].t(), beta=float(add_pair))
            mine = grad_state.values[room.first : room.first + room.rows, : self.n_inputs - n_pair]
            end = n_pair + mine.shape[1]
            mine.addmm_(grad, own[n_pair:end].t(), beta=float(add))
            if end < self.n_inputs:
                room.grad_last_state.addmm_(grad, own[end:].t(), beta=float(add))
            return out
        w = self.weights
        registers = {"maxnreg": REGISTERS} if self.narrow else {}
        run(
            mlp_gradient, self._grid(room.rows, self.narrow or 2), room.pair_state, state.values,
            state.scale, w.high, w.low, grad, out, room.grad_pair_state, room.grad_last_state,
            grad_state.values, grad_state.scale, room.first, room.rows, ADD_PAIR=add_pair, ADD=add,
            STORE=not room.keeps_outputs, **registers, **self._shape(room, state), **self.constants,
        )  # fmt: skip
        return out

    def _inputs(self, room: Workspace, state: States) -> Tensor:
        rest = state.values[room.first : room.first + room.rows]
        return torch.cat([room.pair_state, rest], 1)[:, : self.n_inputs]

    @staticmethod
    def _shape(room: Workspace, state: States) -> dict[str, int]:
        return {"PAIR": room.pair_state.shape[1], "STATE": state.values.shape[1]}

    def _grid(self, rows: int, most: int) -> tuple[int]:
        """Programs: one for each tile, or ``most`` on a processor where they keep the weights."""
        tiles = triton.cdiv(rows, self.tile)
        if not self.at_once:
            return (tiles,)
        device = torch.cuda.get_device_properties(self.weights.high.device)
        return (min(tiles, min(self.at_once, most) * device.multi_processor_count),)
