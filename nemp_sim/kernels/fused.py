"""FusedNetwork: ``NEMP.describe`` and its first derivatives through the Triton kernels."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from triton.runtime import JITFunction

from nemp_sim.graph import AtomGraph
from nemp_sim.kernels import triton_backward as backward_kernels
from nemp_sim.kernels import triton_forward as forward_kernels
from nemp_sim.kernels.edge_mlp import EdgeMLP, Launch
from nemp_sim.kernels.edges import Edges, edges_of
from nemp_sim.kernels.packing import (
    Entries,
    orbital_scale,
    pack_couplings,
    pack_repulsion,
    pack_table,
    pad,
)
from nemp_sim.kernels.sizes import padded_size
from nemp_sim.kernels.triton_node import couple, mix_channels
from nemp_sim.model import EPSILON, NEMP
from nemp_sim.tabulation import PairTable

PROGRAMS = 8192  # of the kernels of atoms, at most; each goes on to further atoms
WARP_NUMBERS = 128  # numbers of a block of edges (edges · K) that a warp holds in four registers


@dataclass(frozen=True)
class Record:
    """What the derivatives need of an evaluation: C of each step, sums of each step, norms."""

    edges: Edges
    vectors: Tensor
    normaliser: Tensor
    first: Tensor
    orbitals: list[Tensor]
    sums: list[Tensor]
    norms: list[Tensor]
    state: Tensor


class FusedNetwork:
    """The network in kernels: same results as ``NEMP.describe`` to the rounding of ``mode``.

    Attributes:
        mode: precision of the matrix products of the MLPs, one of ``choice.PRECISIONS``.
        launch: tile sizes and warps.
    """

    def __init__(
        self, model: NEMP, table: PairTable, mode: str = "fp16x3", launch: Launch | None = None
    ) -> None:
        """Pack the weights of ``model``, on its device, in its dtype."""
        self.model, self.mode = model, mode
        self.launch = launch or Launch()
        self.only_compile, self.is_compiled = False, False
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
        self.lookup = {
            "STATE": (2 + self.steps) * self.kp,
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
        self.n_slopes = max(mlp.n_slopes for mlp in mlps)
        half = like.new_tensor([1.0, 0.5**0.5, 0.5**0.5])[:, None, None] * k**-0.5
        self.mixes = pad(model.channel_mix * half, self.kp, self.kp)  # (T, S, 3, K, K)
        self.mixes = self.mixes.transpose(1, 2).contiguous()
        self.species_mix = pad(like * k**-0.5, self.kp, self.kp).contiguous()
        self.path_weight = pad(model.path_weight, self.kp).contiguous()
        self.couplings = pack_couplings(model)

    def describe(self, graph: AtomGraph) -> tuple[Tensor, Tensor, Tensor | None]:
        """As ``NEMP.describe``, differentiable once."""
        if not len(graph.centre):
            return self.model.describe(graph)
        vectors = graph.edge_vectors().to(self.model.species_mix.dtype)
        edges = edges_of(graph, self.model.pair_of_edge(graph))
        if vectors.is_cuda and not self.is_compiled:
            self._compile(vectors.detach(), edges)
        density, n_i, repulsion = _Describe.apply(vectors, self, edges)
        m_i = self.model.normaliser(n_i, graph.species)
        density = density[..., : self.k].transpose(0, 1).flatten(1) / m_i[:, None]
        return density, n_i / m_i, None if self.model.zbl is None else repulsion.double()

    def forward(self, vectors: Tensor, edges: Edges) -> tuple[Tensor, Tensor, Tensor, Record]:
        """ρ (T+2, N, K), n (N,), repulsion (N,) of the edge vectors, and the record."""
        n, whole = edges.n_atoms, (0, edges.n_edges)
        state = vectors.new_empty(edges.n_edges, self.lookup["STATE"])
        first, count = vectors.new_zeros(n, self.s + 1, self.kp), vectors.new_zeros(n, 2)
        self._edges(
            forward_kernels.radial_forward, vectors, edges, whole, self.cutoff_table,
            self.repulsion, state, first, count, ZBL=self.model.zbl is not None,
        )  # fmt: skip
        m_i = self.model.normaliser(count[:, 0], edges.species)[:, None, None]
        c = self._mix(first[:, : self.s] / m_i, self.species_mix, edges)
        density = vectors.new_zeros(self.steps + 2, n, self.kp)
        density[0] = first[:, self.s]
        out, _ = self._workspace(vectors, edges, slopes=False)
        sums, orbitals, norms = [], [c], []
        for t in range(self.steps):
            for chunk in self._chunks(edges) if t else [whole]:
                v = self._evaluate(self.inner[t - 1], state, chunk, out) if t else out
                self._edges(
                    forward_kernels.scalar_forward, vectors, edges, chunk, c, v, state,
                    density[t + 1], T=t,
                )  # fmt: skip
            mixed = self._mix(c, self.mixes[t, 0], edges)
            sums.append(vectors.new_zeros(n, self.s + self.s_g, self.kp))
            for chunk in self._chunks(edges):
                message = self._evaluate(self.messages[t], state, chunk, out)
                self._edges(
                    forward_kernels.message_forward, vectors, edges, chunk, mixed, message,
                    sums[t], L=self.l,
                )  # fmt: skip
            c, norm = self._update(t, c, sums[t], m_i, edges)
            orbitals.append(c)
            norms.append(norm)
        for chunk in self._chunks(edges):
            v = self._evaluate(self.last, state, chunk, out)
            self._edges(forward_kernels.final_forward, vectors, edges, chunk, c, v, density[-1])
        record = Record(edges, vectors, m_i, first, orbitals, sums, norms, state)
        return density, count[:, 0].clone(), count[:, 1].clone(), record

    def _update(
        self, t: int, c: Tensor, sums: Tensor, m_i: Tensor, edges: Edges
    ) -> tuple[Tensor, Tensor]:
        """Steps 5 to 7: the next C, and the factor 1/√(mean C² + floor) of its norm."""
        d = self._product(t, sums, m_i, edges)
        c = self._mix(c, self.mixes[t, 2], edges)
        c = self._mix(d, self.mixes[t, 1], edges, add_to=c)
        if not self.model.config.use_norm:
            return c, c.new_ones(1, 1, 1)
        floor = 1.0 if self.model.smooth else EPSILON
        mean_square = (c * c).sum((1, 2), keepdim=True) / ((self.p + 1) * self.k)
        factor = torch.rsqrt(mean_square + floor)
        return c * factor, factor

    def _product(self, t: int, sums: Tensor, m_i: Tensor, edges: Edges) -> Tensor:
        """D/m², D the tensor product of the sums G and N."""
        d = sums.new_empty(edges.n_atoms, self.s, self.kp)
        self._couple(t, self.couplings[0], sums[:, self.s :], sums, d, edges)
        return d / (m_i * m_i)

    def backward(self, record: Record, rho: Tensor, count: Tensor, repulsion: Tensor) -> Tensor:
        """Gradient of the edge vectors from those of ρ, n and the repulsion."""
        edges, m_i, vectors, state = record.edges, record.normaliser, record.vectors, record.state
        whole, rho = (0, edges.n_edges), rho.contiguous()
        grad, grad_state = torch.empty_like(vectors), torch.empty_like(state)
        out, slopes = self._workspace(vectors, edges, slopes=True)
        left = vectors.new_empty(edges.n_edges, self.p + 1, self.kp)
        grad_c = torch.zeros_like(record.orbitals[-1])
        for chunk in self._chunks(edges):
            v = self._evaluate(self.last, state, chunk, out, slopes)
            self._edges(
                backward_kernels.final_back, vectors, edges, chunk, record.orbitals[-1], v,
                rho[-1], grad_c, grad,
            )  # fmt: skip
            self.last.backward(self._run, v, chunk, slopes, grad_state, add=False)
        grad_m = torch.zeros_like(count)
        for t in reversed(range(self.steps)):
            c, sums = record.orbitals[t], record.sums[t]
            grad_c = self._norm_back(record.orbitals[t + 1], record.norms[t], grad_c)
            grad_d = self._mix(grad_c, self.mixes[t, 1], edges, transposed=True) / (m_i * m_i)
            kept = self._mix(grad_c, self.mixes[t, 2], edges, transposed=True)
            d = self._product(t, sums, m_i, edges)
            grad_m -= 2 * (grad_d * d).sum((1, 2)) * m_i[:, 0, 0]
            grad_sums = torch.empty_like(sums)
            self._couple(t, self.couplings[2], grad_d, sums[:, self.s :], grad_sums, edges)
            self._couple(t, self.couplings[1], grad_d, sums, grad_sums[:, self.s :], edges)
            mixed, mlp = self._mix(c, self.mixes[t, 0], edges), self.messages[t]
            for chunk in self._chunks(edges):
                message = self._evaluate(mlp, state, chunk, out, slopes)
                self._edges(
                    backward_kernels.message_back, vectors, edges, chunk, mixed, message,
                    grad_sums, left, grad, L=self.l,
                )  # fmt: skip
                mlp.backward(self._run, message, chunk, slopes, grad_state)
            grad_mixed = self._pull(record, left, grad_sums, harmonic=False)
            grad_c = self._mix(grad_mixed, self.mixes[t, 0], edges, transposed=True, add_to=kept)
            for chunk in self._chunks(edges) if t else [whole]:
                v = self._evaluate(self.inner[t - 1], state, chunk, out, slopes) if t else out
                self._edges(
                    backward_kernels.scalar_back, vectors, edges, chunk, c, v, rho[t + 1],
                    grad_state, left, grad_c, grad, T=t,
                )  # fmt: skip
                if t:
                    self.inner[t - 1].backward(self._run, v, chunk, slopes, grad_state)
            grad_c += self._pull(record, left, grad_sums, harmonic=True)
        grad_first = torch.empty_like(record.first)
        grad_x = self._mix(grad_c, self.species_mix, edges, transposed=True) / m_i
        grad_first[:, : self.s] = grad_x
        grad_first[:, self.s] = rho[0]
        grad_m -= (grad_x * record.first[:, : self.s]).sum((1, 2)) / m_i[:, 0, 0]
        self._edges(
            backward_kernels.radial_back, vectors, edges, whole, self.cutoff_table,
            self.repulsion, grad_first, torch.stack([count + grad_m, repulsion], 1), grad_state,
            grad, ZBL=self.model.zbl is not None,
        )  # fmt: skip
        return grad

    def _norm_back(self, c: Tensor, factor: Tensor, grad: Tensor) -> Tensor:
        """Gradient before the norm, of C after it."""
        if not self.model.config.use_norm:
            return grad
        along = (grad * c).sum((1, 2), keepdim=True) / ((self.p + 1) * self.k)
        return factor * (grad - c * along)

    def compile(self, graph: AtomGraph) -> None:
        """Compile all kernels that graphs like ``graph`` need, side by side; runs none of them."""
        vectors = graph.edge_vectors().to(self.model.species_mix.dtype)
        self._compile(vectors, edges_of(graph, self.model.pair_of_edge(graph)))

    def _compile(self, vectors: Tensor, edges: Edges) -> None:
        mode, executor = triton.AsyncCompileMode, ThreadPoolExecutor()
        with torch.cuda.device_of(vectors), executor, mode(executor):
            self.only_compile = True
            try:
                density, count, repulsion, record = self.forward(vectors, edges)
                self.backward(record, density, count, repulsion)
            finally:
                self.only_compile = False
        self.is_compiled = True

    def _run(
        self, kernel: JITFunction, grid: tuple, *inputs: Tensor | int, **constants: object
    ) -> None:
        if self.only_compile:
            kernel.warmup(*inputs, grid=grid, **constants)
        else:
            kernel[grid](*inputs, **constants)

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
            self.grid, self.table, *chunk, *inputs, **constants, **self.lookup, **self.shape,
        )  # fmt: skip

    def _pull(self, record: Record, left: Tensor, grad_sums: Tensor, harmonic: bool) -> Tensor:
        """Sums (N, S, K) over the edges that end at an atom, of what they left to it."""
        edges = record.edges
        out = torch.zeros_like(record.orbitals[0])
        self._run(
            backward_kernels.neighbour_back, (min(edges.n_atoms, PROGRAMS),), record.vectors,
            edges.centre, edges.row_start, edges.by_neighbour, left, grad_sums, out,
            edges.n_atoms, HARMONIC=harmonic, SUMS=self.s + self.s_g, **self.shape,
        )  # fmt: skip
        return out

    def _chunks(self, edges: Edges) -> Iterator[tuple[int, int]]:
        """First edge and number of edges of each chunk."""
        for first in range(0, edges.n_edges, self.launch.chunk):
            yield first, min(self.launch.chunk, edges.n_edges - first)

    def _workspace(self, like: Tensor, edges: Edges, slopes: bool) -> tuple[Tensor, Tensor]:
        """Room for the outputs and slopes of an MLP for one chunk."""
        rows = min(edges.n_edges, self.launch.chunk)
        return like.new_empty(rows * self.n_outputs), like.new_empty(rows * self.n_slopes * slopes)

    def _evaluate(
        self,
        mlp: EdgeMLP,
        state: Tensor,
        chunk: tuple[int, int],
        out: Tensor,
        slopes: Tensor | None = None,
    ) -> Tensor:
        """Outputs (rows, R K) of an MLP for a chunk, a view of ``out``."""
        out = out[: chunk[1] * mlp.n_outputs].view(chunk[1], mlp.n_outputs)
        mlp.forward(self._run, state, chunk, out, slopes)
        return out

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


class _Describe(torch.autograd.Function):
    """ρ, n and repulsion of edge vectors."""

    @staticmethod
    def forward(ctx, vectors, network, edges):  # noqa: ANN001, ANN205 (torch's signature)
        with torch.cuda.device_of(vectors):
            density, count, repulsion, ctx.record = network.forward(vectors.contiguous(), edges)
        ctx.network = network
        return density, count, repulsion

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, density, count, repulsion):  # noqa: ANN001, ANN205
        with torch.cuda.device_of(density):
            return ctx.network.backward(ctx.record, density, count, repulsion), None, None
