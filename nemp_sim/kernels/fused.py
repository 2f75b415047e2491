"""FusedNetwork: ``NEMP.describe`` and its first derivatives through the Triton kernels."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from triton.runtime import JITFunction

from nemp_sim.graph import AtomGraph
from nemp_sim.kernels import triton_backward as backward_kernels
from nemp_sim.kernels import triton_forward as forward_kernels
from nemp_sim.kernels.packing import (
    HALVES,
    Entries,
    Weights,
    orbital_scale,
    pack_couplings,
    pack_mlp,
    pack_repulsion,
    pack_table,
    pad,
    split,
)
from nemp_sim.kernels.sizes import padded_size
from nemp_sim.kernels.tiles import Edges, edges_of
from nemp_sim.kernels.triton_node import couple, mix_channels, sum_tiles
from nemp_sim.model import EPSILON, NEMP
from nemp_sim.tabulation import PairTable


@dataclass(frozen=True)
class Launch:
    """How the edge kernels are launched; no result depends on it but by rounding.

    Tiles of 64 edges use Hopper's large matrix instructions, twice as fast as tiles of 32. Triton
    3.6 compiles those of half-precision pairs, and tiles of 64 edges with 8 warps, to kernels that
    leave their shared memory (an illegal access): 16 edges a warp, and halves by tiles of 32.

    Attributes:
        tile: edges of a tile, a power of two, 16 or more.
        warps: warps of a program.
        stages: depth of software pipelining.
    """

    tile: int = 64
    warps: int = 4
    stages: int = 1


HALVES_LAUNCH = Launch(tile=32)


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
    scalars: Tensor


class FusedNetwork:
    """The network in kernels: same results as ``NEMP.describe`` to the rounding of ``mode``.

    Attributes:
        mode: precision of the matrix products, one of ``choice.PRECISIONS``.
        launch: tile size and warps.
    """

    def __init__(
        self, model: NEMP, table: PairTable, mode: str = "tf32x3", launch: Launch | None = None
    ) -> None:
        """Pack the weights of ``model``, on its device, in its dtype."""
        self.model, self.mode = model, mode
        self.launch = launch or (HALVES_LAUNCH if mode in HALVES else Launch())
        self.only_compile = False
        config, k = model.config, model.config.n_channels
        self.k, self.kp, self.steps = k, padded_size(k), config.n_message_passing
        self.p, self.l = config.pmax_l, config.max_l
        self.s, self.s_g = (self.p + 1) ** 2, (self.l + 1) ** 2
        message = config.message_mlp
        self.shape = {
            "EPSILON": 0.0 if model.smooth else EPSILON,
            "P": self.p,
            "K": self.kp,
            "TILE": self.launch.tile,
            "num_warps": self.launch.warps,
            "num_stages": self.launch.stages,
        }
        self.table, self.cutoff_table, self.grid = pack_table(table, self.p)
        self.lookup = {"ROWS": table.rows, "COLUMNS": self.table.shape[2]}
        self.network = {
            "W": 0 if message.linear else padded_size(message.width),
            "BLOCKS": message.n_blocks,
            "LAYERS": message.layers_per_block,
            "MODE": mode,
        }
        self.repulsion = pack_repulsion(model)
        self.messages = [self._split(pack_mlp(mlp, k)) for mlp in model.message_mlps]
        like = model.species_mix
        scale = orbital_scale(self.p, False, like)
        inner = [pack_mlp(mlp, k, scale) for mlp in model.edge_mlps[:-1]]
        self.last = self._split(
            pack_mlp(model.edge_mlps[-1], k, orbital_scale(self.p, True, like), n_sums=3)
        )
        self.orbitals = [self.messages[0]] + [self._split(flat) for flat in inner]
        half = like.new_tensor([1.0, 0.5**0.5, 0.5**0.5])[:, None, None] * k**-0.5
        mixes = pad(model.channel_mix * half, self.kp, self.kp)  # (T, S, 3, K, K)
        self.mixes = [[self._split(mixes[t, :, w]) for w in range(3)] for t in range(self.steps)]
        self.species_mix = self._split(pad(like * k**-0.5, self.kp, self.kp))
        self.path_weight = pad(model.path_weight, self.kp).contiguous()
        self.couplings = pack_couplings(model)

    def _split(self, matrices: Tensor) -> Weights:
        return split(matrices.detach(), self.mode)

    def describe(self, graph: AtomGraph) -> tuple[Tensor, Tensor, Tensor | None]:
        """As ``NEMP.describe``, differentiable once."""
        if not len(graph.centre):
            return self.model.describe(graph)
        vectors = graph.edge_vectors().to(self.model.species_mix.dtype)
        edges = edges_of(graph, self.model.pair_of_edge(graph), self.launch.tile)
        density, n_i, repulsion = _Describe.apply(vectors, self, edges)
        m_i = self.model.normaliser(n_i, graph.species)
        density = density[..., : self.k].flatten(1) / m_i[:, None]
        return density, n_i / m_i, None if self.model.zbl is None else repulsion.double()

    def forward(self, vectors: Tensor, edges: Edges) -> tuple[Tensor, Tensor, Tensor, Record]:
        """ρ (N, T+2, K), n (N,), repulsion (N,) of the edge vectors, and the record."""
        geometry = (vectors, edges.pair, edges.centre)
        pairs = (vectors, edges.pair, edges.neighbour, edges.centre)
        partial, count = self._partial(edges, self.s + 1), self._partial(edges, 2, 1)
        self._launch(
            forward_kernels.radial_forward, edges, *geometry, self.grid, self.table,
            self.cutoff_table, self.repulsion, partial, count, edges.n_edges,
            ZBL=self.model.zbl is not None, **self.lookup,
        )  # fmt: skip
        first, count = self._sum(partial, edges), self._sum(count, edges)[:, :, 0]
        m_i = self.model.normaliser(count[:, 0], edges.species)[:, None, None]
        c = self._mix(first[:, : self.s] / m_i, self.species_mix, edges)
        scalars = vectors.new_empty(self.steps, edges.n_edges, self.kp)
        density, sums, orbitals, norms = [first[:, self.s]], [], [c], []
        for t in range(self.steps):
            v, m = self.orbitals[t], self.messages[t]
            partial = self._partial(edges, 1)
            self._launch(
                forward_kernels.scalar_forward, edges, *pairs,
                self.grid, self.table, c, scalars, v.high, v.low, partial, edges.n_edges,
                T=t, **self.network, **self.lookup,
            )  # fmt: skip
            density.append(self._sum(partial, edges)[:, 0])
            mixed = self._mix(c, self.mixes[t][0], edges)
            partial = self._partial(edges, self.s + self.s_g)
            self._launch(
                forward_kernels.message_forward, edges, *pairs,
                self.grid, self.table, mixed, scalars, m.high, m.low, partial, edges.n_edges,
                T=t, L=self.l, **self.network, **self.lookup,
            )  # fmt: skip
            sums.append(self._sum(partial, edges))
            c, norm = self._update(t, c, sums[t], m_i, edges)
            orbitals.append(c)
            norms.append(norm)
        partial = self._partial(edges, 1)
        self._launch(
            forward_kernels.final_forward, edges, *geometry, self.grid, self.table, c,
            scalars, self.last.high, self.last.low, partial, edges.n_edges,
            T=self.steps, **self.network, **self.lookup,
        )  # fmt: skip
        density.append(self._sum(partial, edges)[:, 0])
        record = Record(edges, vectors, m_i, first, orbitals, sums, norms, scalars)
        return torch.stack(density, 1), count[:, 0].clone(), count[:, 1].clone(), record

    def _update(
        self, t: int, c: Tensor, sums: Tensor, m_i: Tensor, edges: Edges
    ) -> tuple[Tensor, Tensor]:
        """Steps 5 to 7: the next C, and the factor 1/√(mean C² + floor) of its norm."""
        d = self._product(t, sums, m_i, edges)
        c = self._mix(c, self.mixes[t][2], edges)
        c = self._mix(d, self.mixes[t][1], edges, add_to=c)
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
        edges, m_i, vectors = record.edges, record.normaliser, record.vectors
        geometry = (vectors, edges.pair, edges.centre)
        pairs = (vectors, edges.pair, edges.neighbour, edges.centre)
        rho = rho.contiguous()
        grad, grad_s = torch.empty_like(vectors), torch.empty_like(record.scalars)
        partial = self._partial(edges, self.s)
        self._launch(
            backward_kernels.final_back, edges, *geometry, self.grid, self.table,
            record.orbitals[-1], record.scalars, self.last.high, self.last.low,
            rho[:, -1].contiguous(), grad_s, grad, partial,
            edges.n_edges,
            T=self.steps, **self.network, **self.lookup,
        )  # fmt: skip
        grad_c = self._sum(partial, edges)
        per_edge = vectors.new_empty(2, edges.n_edges, self.p + 1, self.kp)
        grad_m = torch.zeros_like(count)
        both = self._partial(edges, 2 * self.s)
        for t in reversed(range(self.steps)):
            c, sums = record.orbitals[t], record.sums[t]
            grad_c = self._norm_back(record.orbitals[t + 1], record.norms[t], grad_c)
            grad_d = self._mix(grad_c, self.mixes[t][1], edges, transposed=True) / (m_i * m_i)
            kept = self._mix(grad_c, self.mixes[t][2], edges, transposed=True)
            d = self._product(t, sums, m_i, edges)
            grad_m -= 2 * (grad_d * d).sum((1, 2)) * m_i[:, 0, 0]
            grad_sums = torch.empty_like(sums)
            self._couple(t, self.couplings[2], grad_d, sums[:, self.s :], grad_sums, edges)
            self._couple(t, self.couplings[1], grad_d, sums, grad_sums[:, self.s :], edges)
            mixed = self._mix(c, self.mixes[t][0], edges)
            v, m = self.orbitals[t], self.messages[t]
            self._launch(
                backward_kernels.message_back, edges, *pairs,
                self.grid, self.table, mixed, record.scalars, m.high, m.low, grad_sums, grad_s,
                grad, per_edge[1], edges.n_edges, T=t, L=self.l, **self.network, **self.lookup,
            )  # fmt: skip
            self._launch(
                backward_kernels.scalar_back, edges, *pairs,
                self.grid, self.table, c, record.scalars, v.high, v.low,
                rho[:, t + 1].contiguous(), grad_s, grad, per_edge[0], partial, edges.n_edges,
                T=t, **self.network, **self.lookup,
            )  # fmt: skip
            grad_c = kept + self._sum(partial, edges)
            self._launch(
                backward_kernels.neighbour_back, edges, vectors, edges.sorted_neighbour,
                edges.centre, edges.by_neighbour, grad_sums, per_edge[0], per_edge[1], both,
                edges.n_edges,
                SUMS=self.s + self.s_g,
            )  # fmt: skip
            pulled = self._sum(both, edges)
            grad_c += pulled[:, : self.s]
            grad_mixed = pulled[:, self.s :]
            self._mix(grad_mixed, self.mixes[t][0], edges, transposed=True, add_to=grad_c)
        grad_first = torch.empty_like(record.first)
        grad_x = self._mix(grad_c, self.species_mix, edges, transposed=True) / m_i
        grad_first[:, : self.s] = grad_x
        grad_first[:, self.s] = rho[:, 0]
        grad_m -= (grad_x * record.first[:, : self.s]).sum((1, 2)) / m_i[:, 0, 0]
        self._launch(
            backward_kernels.radial_back, edges, *geometry, self.grid, self.table,
            self.cutoff_table, self.repulsion, grad_first,
            torch.stack([count + grad_m, repulsion], 1), grad, edges.n_edges,
            ZBL=self.model.zbl is not None, **self.lookup,
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
        edges = edges_of(graph, self.model.pair_of_edge(graph), self.launch.tile)
        with ThreadPoolExecutor() as executor, triton.AsyncCompileMode(executor):
            self.only_compile = True
            try:
                density, count, repulsion, record = self.forward(vectors, edges)
                self.backward(record, density, count, repulsion)
            finally:
                self.only_compile = False

    def _launch(
        self, kernel: JITFunction, edges: Edges, *inputs: Tensor | int, **constants: object
    ) -> None:
        self._run(kernel, (edges.n_tiles,), *inputs, **constants, **self.shape)

    def _run(
        self, kernel: JITFunction, grid: tuple, *inputs: Tensor | int, **constants: object
    ) -> None:
        if self.only_compile:
            kernel.warmup(*inputs, grid=grid, **constants)
        else:
            kernel[grid](*inputs, **constants)

    def _partial(self, edges: Edges, n_rows: int, width: int | None = None) -> Tensor:
        return self.table.new_empty(edges.n_tiles + edges.n_atoms, n_rows, width or self.kp)

    def _sum(self, partial: Tensor, edges: Edges) -> Tensor:
        """Sums (N, rows, K) of the rows of each centre."""
        out = partial.new_empty(edges.n_atoms, *partial.shape[1:])
        size = out[0].numel()
        block = min(triton.next_power_of_2(size), 1024)
        grid = (edges.n_atoms, triton.cdiv(size, block))
        self._run(
            sum_tiles,
            grid,
            partial,
            edges.first_row,
            edges.end_row,
            out,
            R=size,
            BLOCK=block,
            num_warps=4,
        )
        return out

    def _mix(
        self,
        x: Tensor,
        weights: Weights,
        edges: Edges,
        transposed: bool = False,
        add_to: Tensor | None = None,
    ) -> Tensor:
        """Channel mix x W_Z of each atom, x (N, S, K) with any stride between the atoms."""
        out = x.new_empty(edges.n_atoms, self.s, self.kp) if add_to is None else add_to
        self._run(
            mix_channels, (edges.n_atoms,), x, weights.high, weights.low, edges.species, out,
            x.stride(0), ADD=add_to is not None, TRANSPOSED=transposed, S=self.s,
            S_PAD=padded_size(self.s), K=self.kp, MODE=self.mode, num_warps=2,
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
        density, count, repulsion, ctx.record = network.forward(vectors.contiguous(), edges)
        ctx.network = network
        return density, count, repulsion

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, density, count, repulsion):  # noqa: ANN001, ANN205
        return ctx.network.backward(ctx.record, density, count, repulsion), None, None
