"""PackedNetwork: weights and tables of a network as the kernels read them, and their launches."""

from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime import JITFunction

from nemp_sim.kernels.edge_mlp import EdgeMLP, Launch
from nemp_sim.kernels.edges import Edges
from nemp_sim.kernels.packing import (
    Entries,
    orbital_scale,
    pack_couplings,
    pack_repulsion,
    pack_table,
    pad,
)
from nemp_sim.kernels.sizes import FEW_ATOMS, PROGRAMS, padded_size
from nemp_sim.kernels.triton_backward import neighbour_back
from nemp_sim.kernels.triton_node import couple, mix_channels, update, update_back
from nemp_sim.kernels.workspace import Workspace
from nemp_sim.model import EPSILON, NEMP
from nemp_sim.tabulation import PairTable

PAIR_NUMBERS = 2048  # numbers of a block of edges (edges · K) of the kernels of h⁰
WARPS_OF_FEW = 4  # of a program, where atoms are few: each takes a block of edges
WARP_NUMBERS = 128  # numbers of a block of edges (edges · K) that a warp holds in four registers


class PackedNetwork:
    """Weights of a network on its device, and its kernels one by one.

    Attributes:
        mode: precision of the matrix products of the MLPs, one of ``choice.PRECISIONS``.
        launch: tile sizes and warps.
        only_compile: kernels are compiled, not run.
        storage: dtype of what is kept for every edge, float16 where products are of float16 alone.
        few_atoms: up to so many, kernels of atoms take one by several warps.
    """

    def __init__(
        self, model: NEMP, table: PairTable, mode: str = "fp16x3", launch: Launch | None = None
    ) -> None:
        """Pack the weights of ``model``, on its device, in its dtype."""
        self.model, self.mode = model, mode
        self.launch = launch or Launch()
        self.only_compile, self.few_atoms = False, FEW_ATOMS
        config, k = model.config, model.config.n_channels
        self.k, self.kp, self.steps = k, padded_size(k), config.n_message_passing
        self.p, self.l = config.pmax_l, config.max_l
        self.s, self.s_g = (self.p + 1) ** 2, (self.l + 1) ** 2
        self.table, self.cutoff_table, self.grid = pack_table(table, self.p)
        self.shape = {
            "EPSILON": 0.0 if model.smooth else EPSILON,
            "P": self.p,
            "K": self.kp,
            "BLOCK": self.launch.block or max(2, WARP_NUMBERS // self.kp),
            "num_warps": 1,
        }
        self.whole = {  # of the kernels that take all orbitals of an atom
            "NORM": config.use_norm,
            "COUNT": (self.p + 1) * k,
            "S": self.s,
            "S_PAD": padded_size(self.s),
            "K": self.kp,
            "num_warps": 2 if self.kp < 64 else 4,
        }
        self.lookup = {
            "STATE": self.steps * self.kp,
            "ROWS": table.rows,
            "COLUMNS": self.table.shape[2],
        }
        self.repulsion = pack_repulsion(model)
        like = model.species_mix
        scale, last_scale = (orbital_scale(self.p, last, like) for last in (False, True))
        self.messages = [EdgeMLP(mlp, k, mode, self.launch) for mlp in model.message_mlps]
        inner = model.edge_mlps[:-1]  # of the steps after the first, whose network is in the table
        self.inner = [EdgeMLP(mlp, k, mode, self.launch, scale) for mlp in inner]
        self.last = EdgeMLP(model.edge_mlps[-1], k, mode, self.launch, last_scale, n_sums=3)
        mlps = [*self.messages, *self.inner, self.last]
        self.n_outputs = max(mlp.n_outputs for mlp in mlps)
        self.all_outputs = sum(mlp.n_outputs for mlp in mlps)
        whole = mode != "fp16" or self.last.linear
        self.storage = like.dtype if whole else torch.float16
        half = like.new_tensor([1.0, 0.5**0.5, 0.5**0.5])[:, None, None] * k**-0.5
        self.mixes = pad(model.channel_mix * half, self.kp, self.kp)  # (T, S, 3, K, K)
        self.mixes = self.mixes.transpose(1, 2).contiguous()
        self.species_mix = pad(like * k**-0.5, self.kp, self.kp).contiguous()
        self.path_weight = pad(model.path_weight, self.kp).contiguous()
        self.couplings = pack_couplings(model)

    def _run(
        self, kernel: JITFunction, grid: tuple, *inputs: Tensor | int, **constants: object
    ) -> None:
        if self.only_compile:
            kernel.warmup(*inputs, grid=grid, **constants)
        else:
            kernel[grid](*inputs, **constants)

    def _at_once(self, shape: dict[str, Any], n_atoms: int) -> dict[str, Any]:
        """A shape of kernels of atoms; where these are few, with more edges and warps for each."""
        if n_atoms > self.few_atoms:
            return shape
        return shape | {"BLOCK": WARPS_OF_FEW * shape["BLOCK"], "num_warps": WARPS_OF_FEW}

    def _edges(
        self,
        kernel: JITFunction,
        vectors: Tensor,
        edges: Edges,
        chunk: tuple[int, int],
        *inputs: Tensor | int,
        **constants: object,
    ) -> None:
        """Run a kernel over the atoms whose edges lie in ``chunk``."""
        grid = (min(edges.n_atoms, chunk[1], PROGRAMS),)
        self._run(
            kernel, grid, vectors, edges.pair, edges.neighbour, edges.centre, edges.row_start,
            self.grid, self.table, *chunk, *inputs, **constants, **self.lookup,
            **self._at_once(self.shape, edges.n_atoms),
        )  # fmt: skip

    def _pairs(
        self, kernel: JITFunction, vectors: Tensor, edges: Edges, room: Workspace, *outputs: Tensor
    ) -> None:
        """Run a kernel of h⁰ over the edges of the workspace's chunk."""
        block = max(4, PAIR_NUMBERS // self.kp)
        self._run(
            kernel, (triton.cdiv(room.rows, block),), vectors, edges.pair, self.grid, self.table,
            room.first, room.rows, *outputs, K=self.kp, ROWS=self.lookup["ROWS"],
            COLUMNS=self.lookup["COLUMNS"], BLOCK=block, num_warps=4,
        )  # fmt: skip

    def _pull(
        self, vectors: Tensor, edges: Edges, left: Tensor, stretch: tuple[int, int],
        grad_sums: Tensor, out: Tensor, harmonic: bool,
    ) -> None:  # fmt: skip
        """Add to ``out`` (N, S, K) what the edges of a stretch that end at an atom left to it."""
        self._run(
            neighbour_back, (min(edges.n_atoms, PROGRAMS),), vectors,
            edges.centre, edges.row_start, edges.by_neighbour, left, *stretch, grad_sums, out,
            edges.n_atoms, HARMONIC=harmonic, SUMS=self.s + self.s_g,
            **self._at_once(self.shape, edges.n_atoms),
        )  # fmt: skip

    def _mix(
        self,
        x: Tensor,
        weights: Tensor,
        edges: Edges,
        transposed: bool = False,
        add_to: Tensor | None = None,
    ) -> Tensor:
        """Channel mix x W_Z of each atom, x (N, S, K) with any stride between the atoms."""
        out = x.new_empty(edges.n_atoms, self.s, self.kp) if add_to is None else add_to
        self._run(
            mix_channels, (edges.n_atoms,), x, weights, edges.species, out, x.stride(0),
            ADD=add_to is not None, TRANSPOSED=transposed, S=self.s, S_PAD=padded_size(self.s),
            K=self.kp, num_warps=2,
        )  # fmt: skip
        return out

    def _couple(
        self, t: int, entries: Entries, a: Tensor, b: Tensor, out: Tensor, edges: Edges
    ) -> None:
        """Fill the first components of ``out`` by the bilinear map ``entries`` of a and b."""
        block = 16
        grid = (triton.cdiv(edges.n_atoms, block), len(entries.start) - 1)
        self._run(
            couple, grid, a, b, self.path_weight[t], edges.species, entries.start, entries.index,
            entries.value, out, edges.n_atoms, a.stride(0), b.stride(0), out.stride(0),
            N_PATHS=self.path_weight.shape[2], K=self.kp, BLOCK=block, num_warps=4,
        )  # fmt: skip

    def _product(self, t: int, sums: Tensor, edges: Edges) -> Tensor:
        """The tensor product D of the sums G and N."""
        d = sums.new_empty(edges.n_atoms, self.s, self.kp)
        self._couple(t, self.couplings[0], sums[:, self.s :], sums, d, edges)
        return d

    def _update(
        self, t: int, c: Tensor, d: Tensor, m_i: Tensor, edges: Edges
    ) -> tuple[Tensor, Tensor]:
        """Steps 5 to 7: the next C, and the factor 1/√(mean C² + floor) of its norm."""
        out, norm = torch.empty_like(c), c.new_empty(edges.n_atoms)
        self._run(
            update, (edges.n_atoms,), c, d, m_i, self.mixes[t, 2], self.mixes[t, 1],
            edges.species, out, norm, FLOOR=1.0 if self.model.smooth else EPSILON, **self.whole,
        )  # fmt: skip
        return out, norm

    def _update_back(
        self, t: int, after: tuple[Tensor, Tensor], d: Tensor, m_i: Tensor, edges: Edges,
        grad: Tensor, grad_m: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Gradients of C before step t and of D from that of ``after``, C after it with its norm.

        Adds to the gradient of m.
        """
        kept, grad_d = torch.empty_like(grad), torch.empty_like(grad)
        self._run(
            update_back, (edges.n_atoms,), grad, *after, d, m_i, self.mixes[t, 2],
            self.mixes[t, 1], edges.species, kept, grad_d, grad_m, **self.whole,
        )  # fmt: skip
        return kept, grad_d
