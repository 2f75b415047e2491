"""FusedNetwork: ``NEMP.describe`` and its first derivatives through the Triton kernels."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

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

KEPT = 3 * 2**30  # bytes of outputs kept for the derivatives, at most; and 1/24 of the memory
MANY = 2**25  # edges above which states and their gradients are kept in 16 bits


@dataclass(frozen=True)
class Record:
    """What the derivatives need of an evaluation: C, sums and norms of each step, states.

    The last of the sums are those of the last read-out.
    """

    edges: Edges
    vectors: Tensor
    normaliser: Tensor
    first: Tensor
    orbitals: list[Tensor]
    sums: list[Tensor]
    norms: list[Tensor]
    state: States
    room: Workspace

    def copy(self) -> "Record":
        """The same tensors in lists that ``FusedNetwork.backward`` may empty."""
        return replace(self, orbitals=[*self.orbitals], sums=[*self.sums], norms=[*self.norms])


@dataclass(frozen=True)
class StepBack:
    """What the derivatives of message passing step t read, and what they fill or add to."""

    t: int
    c: Tensor
    mixed: Tensor
    rho: Tensor
    grad_sums: Tensor
    left_m: Tensor
    left_u: Tensor
    grad_c: Tensor
    grad_state: States
    grad: Tensor


class FusedNetwork(PackedNetwork):
    """The network in kernels: same results as ``NEMP.describe`` to the rounding of ``mode``."""

    def __init__(
        self, model: NEMP, table: PairTable, mode: str = "fp16x3", launch: Launch | None = None
    ) -> None:
        """Pack the weights of ``model``, on its device, in its dtype."""
        super().__init__(model, table, mode, launch)
        self.compiled: set[tuple[bool, bool, bool]] = set()  # ``_form`` of what was compiled

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
        state = self._states(vectors, edges, self.steps)
        first, count = vectors.new_zeros(n, self.s + 1, self.kp), vectors.new_zeros(n, 2)
        self._edges(
            forward_kernels.radial_forward, vectors, edges, whole, self.cutoff_table,
            self.repulsion, first, count, ZBL=self.model.zbl is not None,
        )  # fmt: skip
        m_i = self.model.normaliser(count[:, 0], edges.species)[:, None, None]
        c = self._mix(first[:, : self.s] / m_i, self.species_mix, edges)
        density = vectors.new_zeros(self.steps + 2, n, self.kp)
        density[0] = first[:, self.s]
        like = vectors.new_empty(0, dtype=self.storage)
        room = Workspace(
            like, edges.n_edges, self.launch.chunk, 2 * self.kp, self.n_outputs, self._keeps(edges)
        )
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
        sums.append(torch.zeros_like(c))
        for chunk in self._chunks(vectors, edges, room):
            v = self.last.forward(self._run, room, state)
            self._edges(
                forward_kernels.final_forward, vectors, edges, chunk, c, v, sums[-1], density[-1]
            )
        record = Record(edges, vectors, m_i, first, orbitals, sums, norms, state, room)
        return density, count[:, 0].clone(), count[:, 1].clone(), record

    def backward(self, record: Record, rho: Tensor, count: Tensor, repulsion: Tensor) -> Tensor:
        """Gradient of the edge vectors from those of ρ, n and the repulsion.

        Empties the lists of the record, so that what is no longer needed leaves the memory.
        """
        edges, m_i, vectors = record.edges, record.normaliser, record.vectors
        rho, grad = rho.contiguous(), torch.empty_like(vectors)
        grad_state = self._states(vectors, edges, self.steps - 1)
        grad_c = record.sums.pop() * rho[-1][:, None]
        grad_m = torch.zeros_like(count)
        for t in reversed(range(self.steps)):
            after = record.orbitals.pop()
            grad_c, grad_sums = self._atoms_back(t, record, after, grad_c, grad_m)
            own, grad_mixed = self._step_back(t, record, after, rho, grad_sums, grad_state, grad)
            del after, grad_sums
            grad_c += self._mix(grad_mixed, self.mixes[t, 0], edges, transposed=True, add_to=own)
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

    def _atoms_back(
        self, t: int, record: Record, after: Tensor, grad_c: Tensor, grad_m: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of the update of the atoms in step t: gradient of C by the norm and of the sums.

        Adds to the gradient of m.
        """
        edges, m_i, sums = record.edges, record.normaliser, record.sums.pop()
        d, after_norm = self._product(t, sums, edges), (after, record.norms.pop())
        kept, grad_d = self._update_back(t, after_norm, d, m_i, edges, grad_c, grad_m)
        grad_sums = torch.empty_like(sums)
        self._couple(t, self.couplings[2], grad_d, sums[:, self.s :], grad_sums, edges)
        self._couple(t, self.couplings[1], grad_d, sums, grad_sums[:, self.s :], edges)
        return kept, grad_sums

    def _step_back(
        self, t: int, record: Record, after: Tensor, rho: Tensor, grad_sums: Tensor,
        grad_state: States, grad: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Of the edges of message passing step t: gradients of C and of C W⁰.

        Adds to those of the states and of the edge vectors; the last step sets them, by the last
        read-out of C ``after`` it.
        """
        edges, vectors, room = record.edges, record.vectors, record.room
        c, width = record.orbitals[t], self._stretch(edges)
        grad_c, grad_mixed = torch.zeros_like(c), torch.zeros_like(c)
        left_m, left_u = (
            vectors.new_empty(width, self.p + 1, self.kp, dtype=self.storage) for _ in range(2)
        )
        mixed = self._mix(c, self.mixes[t, 0], edges)
        step = StepBack(
            t, c, mixed, rho[t + 1], grad_sums, left_m, left_u, grad_c, grad_state, grad
        )
        for first in range(0, edges.n_edges, width):
            stretch = (first, min(width, edges.n_edges - first))
            for chunk in self._chunks(vectors, edges, room, stretch):
                if t == self.steps - 1:
                    self._final_back(record, step, after, rho[-1], chunk)
                self._message_back(record, step, chunk, first)
                self._scalar_back(record, step, chunk, first)
                if not room.keeps_pairs:
                    self._pairs(pair_state_back, vectors, edges, room, room.grad_pair_state, grad)
            self._pull(vectors, edges, left_m, stretch, grad_sums, grad_mixed, harmonic=False)
            self._pull(vectors, edges, left_u, stretch, grad_sums, grad_c, harmonic=True)
        return grad_c, grad_mixed

    def _final_back(
        self, record: Record, step: StepBack, c: Tensor, rho: Tensor, chunk: tuple[int, int]
    ) -> None:
        """Of the last read-out of a chunk: sets the gradients of the states and edge vectors."""
        edges, vectors, room = record.edges, record.vectors, record.room
        grad_v = room.grad_outputs(self.last.n_outputs)
        self._edges(output_kernels.final_grad, vectors, edges, chunk, c, rho, grad_v)
        v = self.last.gradient(self._run, room, record.state, step.grad_state, False, add=False)
        self._edges(backward_kernels.final_back, vectors, edges, chunk, c, v, rho, step.grad)

    def _message_back(
        self, record: Record, step: StepBack, chunk: tuple[int, int], first: int
    ) -> None:
        """Of the messages of a chunk; leaves M of the edges from ``first`` on."""
        edges, vectors, room = record.edges, record.vectors, record.room
        mlp, add_pair = self.messages[step.t], room.keeps_pairs or step.t == self.steps - 1
        self._edges(
            output_kernels.message_grad, vectors, edges, chunk, step.mixed, step.grad_sums,
            room.grad_outputs(mlp.n_outputs), L=self.l,
        )  # fmt: skip
        out = mlp.gradient(self._run, room, record.state, step.grad_state, add_pair)
        self._edges(
            backward_kernels.message_back, vectors, edges, chunk, out, step.grad_sums, step.left_m,
            first, step.grad, L=self.l,
        )  # fmt: skip

    def _scalar_back(
        self, record: Record, step: StepBack, chunk: tuple[int, int], first: int
    ) -> None:
        """Of s^t and ρ^{t+1} of a chunk; leaves U of the edges from ``first`` on."""
        edges, vectors, room = record.edges, record.vectors, record.room
        c, rho, t = step.c, step.rho, step.t
        of_state = step.grad_state.values, step.grad_state.scale
        if t == self.steps - 1:
            of_state = room.grad_last_state, room.grad_last_state
        out = c  # not read: the outputs of the first step are in the table
        if t:
            inner = self.inner[t - 1]
            self._edges(
                output_kernels.scalar_grad, vectors, edges, chunk, c, rho, *of_state,
                room.grad_outputs(inner.n_outputs), T=t,
            )  # fmt: skip
            out = inner.gradient(self._run, room, record.state, step.grad_state, True)
        self._edges(
            backward_kernels.scalar_back, vectors, edges, chunk, c, out, rho, *of_state,
            step.left_u, first, step.grad_c, step.grad, T=t,
        )  # fmt: skip

    def compile(self, graph: AtomGraph) -> None:
        """Compile all kernels that graphs like ``graph`` need, side by side; runs none of them."""
        self._compile(*self._edges_of(graph))

    def prepare(self, vectors: Tensor, edges: Edges) -> None:
        """Compile all kernels that such edges need, side by side, where it has not been done."""
        if vectors.is_cuda and self._form(vectors, edges) not in self.compiled:
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
        self.compiled.add(self._form(vectors, edges))

    def _form(self, like: Tensor, edges: Edges) -> tuple[bool, bool, bool]:
        """What kernels depend on: states in 16 bits, outputs kept, and few atoms."""
        few = edges.n_atoms <= self.few_atoms
        return self._is_half(like, edges), self._keeps(edges), few

    def _keeps(self, edges: Edges) -> bool:
        """Whether outputs of the networks are kept for the derivatives."""
        if self.launch.keep is not None:
            return self.launch.keep
        most = KEPT
        if edges.pair.is_cuda:
            most = min(most, torch.cuda.get_device_properties(edges.pair.device).total_memory // 24)
        return edges.n_edges * self.all_outputs * self.storage.itemsize <= most

    def _is_half(self, like: Tensor, edges: Edges) -> bool:
        """Whether states and their gradients are kept in 16 bits."""
        half = self.launch.half
        if half is None:
            half = edges.n_edges > MANY
        return half and not self.last.linear and self.storage == like.dtype == torch.float32

    def _states(self, like: Tensor, edges: Edges, groups: int) -> States:
        """Room for groups s⁰, s¹ … of all edges, or for their gradients."""
        half = self._is_half(like, edges)
        like = like.new_empty(0, dtype=self.storage)
        return States.empty(like, edges.n_edges, groups, self.kp, half)

    def _stretch(self, edges: Edges) -> int:
        """Edges of a stretch, whole chunks."""
        chunk = self.launch.chunk
        each = triton.cdiv(edges.n_edges, chunk * self.launch.stretches)
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
            return ctx.network.backward(ctx.record.copy(), density, count, repulsion), None, None
