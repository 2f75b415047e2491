"""FusedNetwork: ``NEMP.describe`` and its first derivatives through the Triton kernels."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from nemp_sim.graph import AtomGraph
from nemp_sim.kernels import triton_backward as backward_kernels
from nemp_sim.kernels import triton_forward as forward_kernels
from nemp_sim.kernels import triton_outputs as output_kernels
from nemp_sim.kernels.edge_mlp import Launch
from nemp_sim.kernels.edges import Edges, edges_of
from nemp_sim.kernels.packed import PackedNetwork
from nemp_sim.kernels.states import States
from nemp_sim.kernels.triton_pair import pair_state, pair_state_back
from nemp_sim.kernels.workspace import Workspace
from nemp_sim.model import NEMP
from nemp_sim.tabulation import PairTable

MANY = 2**25  # edges above which states and their gradients are kept in 16 bits


@dataclass(frozen=True)
class Record:
    """What the derivatives need of an evaluation: C, sums and norms of each step, states."""

    edges: Edges
    vectors: Tensor
    normaliser: Tensor
    first: Tensor
    orbitals: list[Tensor]
    sums: list[Tensor]
    norms: list[Tensor]
    state: States
    room: Workspace


class FusedNetwork(PackedNetwork):
    """The network in kernels: same results as ``NEMP.describe`` to the rounding of ``mode``."""

    def __init__(
        self, model: NEMP, table: PairTable, mode: str = "fp16x3", launch: Launch | None = None
    ) -> None:
        """Pack the weights of ``model``, on its device, in its dtype."""
        super().__init__(model, table, mode, launch)
        self.compiled: set[tuple[bool, bool]] = set()  # states in 16 bits, few atoms

    def describe(self, graph: AtomGraph) -> tuple[Tensor, Tensor, Tensor | None]:
        """As ``NEMP.describe``, differentiable once."""
        if not len(graph.centre):
            return self.model.describe(graph)
        vectors, edges = self._edges_of(graph)
        self.prepare(vectors, edges)
        density, n_i, repulsion = _Describe.apply(vectors, self, edges)
        m_i = self.model.normaliser(n_i, graph.species)
        density = density[..., : self.k].transpose(0, 1).flatten(1) / m_i[:, None]
        return density, n_i / m_i, None if self.model.zbl is None else repulsion.double()

    def forward(self, vectors: Tensor, edges: Edges) -> tuple[Tensor, Tensor, Tensor, Record]:
        """ρ (T+2, N, K), n (N,), repulsion (N,) of the edge vectors, and the record."""
        n, whole = edges.n_atoms, (0, edges.n_edges)
        state = self._states(vectors, edges)
        first, count = vectors.new_zeros(n, self.s + 1, self.kp), vectors.new_zeros(n, 2)
        self._edges(
            forward_kernels.radial_forward, vectors, edges, whole, self.cutoff_table,
            self.repulsion, first, count, ZBL=self.model.zbl is not None,
        )  # fmt: skip
        m_i = self.model.normaliser(count[:, 0], edges.species)[:, None, None]
        c = self._mix(first[:, : self.s] / m_i, self.species_mix, edges)
        density = vectors.new_zeros(self.steps + 2, n, self.kp)
        density[0] = first[:, self.s]
        room = Workspace(vectors, edges.n_edges, self.launch.chunk, 2 * self.kp, self.n_outputs)
        if room.keeps_pairs:
            room.take(whole)
            self._pairs(pair_state, vectors, edges, room, room.pair_state)
        sums, orbitals, norms = [], [c], []
        for t in range(self.steps):
            mixed = self._mix(c, self.mixes[t, 0], edges)
            sums.append(vectors.new_zeros(n, self.s + self.s_g, self.kp))
            for chunk in self._chunks(vectors, edges, room):
                v = self.inner[t - 1].forward(self._run, room, state) if t else mixed
                self._edges(
                    forward_kernels.scalar_forward, vectors, edges, chunk, c, v, state.values,
                    state.scale, density[t + 1], T=t,
                )  # fmt: skip
                message = self.messages[t].forward(self._run, room, state)
                self._edges(
                    forward_kernels.message_forward, vectors, edges, chunk, mixed, message,
                    sums[t], L=self.l,
                )  # fmt: skip
            d = self._product(t, sums[t], edges)
            c, norm = self._update(t, c, d, m_i, edges)
            orbitals.append(c)
            norms.append(norm)
        for chunk in self._chunks(vectors, edges, room):
            v = self.last.forward(self._run, room, state)
            self._edges(forward_kernels.final_forward, vectors, edges, chunk, c, v, density[-1])
        record = Record(edges, vectors, m_i, first, orbitals, sums, norms, state, room)
        return density, count[:, 0].clone(), count[:, 1].clone(), record

    def backward(self, record: Record, rho: Tensor, count: Tensor, repulsion: Tensor) -> Tensor:
        """Gradient of the edge vectors from those of ρ, n and the repulsion."""
        edges, m_i, vectors = record.edges, record.normaliser, record.vectors
        rho, grad = rho.contiguous(), torch.empty_like(vectors)
        grad_state = self._states(vectors, edges)
        grad_c = torch.zeros_like(record.orbitals[-1])
        self._final_back(record, rho[-1], grad_c, grad_state, grad)
        grad_m = torch.zeros_like(count)
        for t in reversed(range(self.steps)):
            sums = record.sums[t]
            d = self._product(t, sums, edges)
            after = record.orbitals[t + 1], record.norms[t]
            kept, grad_d = self._update_back(t, after, d, m_i, edges, grad_c, grad_m)
            grad_sums = torch.empty_like(sums)
            self._couple(t, self.couplings[2], grad_d, sums[:, self.s :], grad_sums, edges)
            self._couple(t, self.couplings[1], grad_d, sums, grad_sums[:, self.s :], edges)
            own, grad_mixed = self._step_back(t, record, rho[t + 1], grad_sums, grad_state, grad)
            own = self._mix(grad_mixed, self.mixes[t, 0], edges, transposed=True, add_to=own)
            grad_c = own + kept
        if record.room.keeps_pairs:
            record.room.take((0, edges.n_edges))
            self._pairs(
                pair_state_back, vectors, edges, record.room, record.room.grad_pair_state, grad
            )
        grad_first = torch.empty_like(record.first)
        grad_x = self._mix(grad_c, self.species_mix, edges, transposed=True) / m_i
        grad_first[:, : self.s] = grad_x
        grad_first[:, self.s] = rho[0]
        grad_m -= (grad_x * record.first[:, : self.s]).sum((1, 2)) / m_i[:, 0, 0]
        self._edges(
            backward_kernels.radial_back, vectors, edges, (0, edges.n_edges), self.cutoff_table,
            self.repulsion, grad_first, torch.stack([count + grad_m, repulsion], 1), grad,
            ZBL=self.model.zbl is not None,
        )  # fmt: skip
        return grad

    def _final_back(
        self, record: Record, rho: Tensor, grad_c: Tensor, grad_state: States, grad: Tensor
    ) -> None:
        """Of the last read-out: sets the gradients of the states and of the edge vectors."""
        edges, vectors, room = record.edges, record.vectors, record.room
        c = record.orbitals[-1]
        for chunk in self._chunks(vectors, edges, room):
            grad_v = room.grad_outputs(self.last.n_outputs)
            self._edges(output_kernels.final_grad, vectors, edges, chunk, c, rho, grad_v)
            v = self.last.gradient(self._run, room, record.state, grad_state, False, add=False)
            self._edges(backward_kernels.final_back, vectors, edges, chunk, c, v, rho, grad_c, grad)
            self._chunk_back(vectors, edges, room, grad)

    def _step_back(
        self, t: int, record: Record, rho: Tensor, grad_sums: Tensor, grad_state: States,
        grad: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Of the edges of message passing step t: gradients of C and of C W⁰.

        Adds to those of the states and of the edge vectors.
        """
        edges, vectors, room = record.edges, record.vectors, record.room
        c, mlp = record.orbitals[t], self.messages[t]
        mixed = self._mix(c, self.mixes[t, 0], edges)
        grad_c, grad_mixed = torch.zeros_like(c), torch.zeros_like(c)
        width = self._stretch(edges)
        left_m, left_u = (vectors.new_empty(width, self.p + 1, self.kp) for _ in range(2))
        for first in range(0, edges.n_edges, width):
            stretch = (first, min(width, edges.n_edges - first))
            for chunk in self._chunks(vectors, edges, room, stretch):
                grad_out = room.grad_outputs(mlp.n_outputs)
                self._edges(
                    output_kernels.message_grad, vectors, edges, chunk, mixed, grad_sums, grad_out,
                    L=self.l,
                )  # fmt: skip
                out = mlp.gradient(self._run, room, record.state, grad_state, room.keeps_pairs)
                self._edges(
                    backward_kernels.message_back, vectors, edges, chunk, out, grad_sums, left_m,
                    first, grad, L=self.l,
                )  # fmt: skip
                if t:
                    inner = self.inner[t - 1]
                    grad_out = room.grad_outputs(inner.n_outputs)
                    self._edges(
                        output_kernels.scalar_grad, vectors, edges, chunk, c, rho,
                        grad_state.values, grad_state.scale, grad_out, T=t,
                    )  # fmt: skip
                    out = inner.gradient(self._run, room, record.state, grad_state, True)
                self._edges(
                    backward_kernels.scalar_back, vectors, edges, chunk, c, out, rho,
                    grad_state.values, grad_state.scale, left_u, first, grad_c, grad, T=t,
                )  # fmt: skip
                self._chunk_back(vectors, edges, room, grad)
            self._pull(vectors, edges, left_m, stretch, grad_sums, grad_mixed, harmonic=False)
            self._pull(vectors, edges, left_u, stretch, grad_sums, grad_c, harmonic=True)
        return grad_c, grad_mixed

    def compile(self, graph: AtomGraph) -> None:
        """Compile all kernels that graphs like ``graph`` need, side by side; runs none of them."""
        self._compile(*self._edges_of(graph))

    def prepare(self, vectors: Tensor, edges: Edges) -> None:
        """Compile all kernels that such edges need, side by side, where it has not been done."""
        if vectors.is_cuda and self._kind(vectors, edges) not in self.compiled:
            self._compile(vectors.detach(), edges)

    def _edges_of(self, graph: AtomGraph) -> tuple[Tensor, Edges]:
        elements = len(self.model.config.elements)
        return edges_of(graph, elements, self.model.species_mix.dtype)

    def _compile(self, vectors: Tensor, edges: Edges) -> None:
        mode, executor = triton.AsyncCompileMode, ThreadPoolExecutor()
        with torch.cuda.device_of(vectors), executor, mode(executor):
            self.only_compile = True
            try:
                density, count, repulsion, record = self.forward(vectors, edges)
                self.backward(record, density, count, repulsion)
            finally:
                self.only_compile = False
        self.compiled.add(self._kind(vectors, edges))

    def _chunk_back(self, vectors: Tensor, edges: Edges, room: Workspace, grad: Tensor) -> None:
        """What the gradient of h⁰ gives, where it is not collected to the end."""
        if not room.keeps_pairs:
            self._pairs(pair_state_back, vectors, edges, room, room.grad_pair_state, grad)

    def _kind(self, like: Tensor, edges: Edges) -> tuple[bool, bool]:
        """What kernels are compiled for, beside the network: ``_is_half``, and few atoms."""
        return self._is_half(like, edges), edges.n_atoms <= self.few_atoms

    def _is_half(self, like: Tensor, edges: Edges) -> bool:
        """Whether states and their gradients are kept in 16 bits."""
        half = self.launch.half
        if half is None:
            half = edges.n_edges > MANY
        return half and not self.last.linear and like.dtype == torch.float32

    def _states(self, like: Tensor, edges: Edges) -> States:
        """Room for s⁰, s¹ … of all edges, or for their gradient."""
        half = self._is_half(like, edges)
        return States.empty(like, edges.n_edges, self.steps, self.kp, half)

    def _stretch(self, edges: Edges) -> int:
        """Edges of a stretch, whole chunks."""
        chunk = self.launch.chunk
        each = max(4, triton.cdiv(edges.n_edges, chunk * self.launch.stretches))
        return min(each * chunk, edges.n_edges)

    def _chunks(
        self, vectors: Tensor, edges: Edges, room: Workspace, part: tuple[int, int] | None = None
    ) -> Iterator[tuple[int, int]]:
        """First edge and number of edges of each chunk of a part, h⁰ of it in the workspace."""
        start, count = part or (0, edges.n_edges)
        for first in range(start, start + count, self.launch.chunk):
            chunk = first, min(self.launch.chunk, start + count - first)
            room.take(chunk)
            if not room.keeps_pairs:
                self._pairs(pair_state, vectors, edges, room, room.pair_state)
            yield chunk


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
