"""LinearNetwork: one message-passing step with linear edge networks, without a network per edge.

M^a, M^b and V of the last read-out are linear in the edge state [h⁰, s]. So the sums over the edges
of M^b Y_lm and of V Y_lm are those of h⁰ Y_lm and of s Y_lm, mixed once for each atom; V¹, V² and
the part of M^a that h⁰ gives depend on the distance and the elements alone and are tabulated. What
is left for each edge is one product of s with a (K, (P+1) K) matrix, for M^a.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime import JITFunction

from nemp_sim.kernels import triton_linear as kernels
from nemp_sim.kernels import triton_linear_back as back
from nemp_sim.kernels.edge_mlp import Launch
from nemp_sim.kernels.edges import Edges
from nemp_sim.kernels.fused import FusedNetwork
from nemp_sim.kernels.packing import HALVES, Weights, orbital_scale, pad, split
from nemp_sim.kernels.sizes import PROGRAMS
from nemp_sim.mlp import MLP
from nemp_sim.model import NEMP
from nemp_sim.tabulation import PairTable

TILE = 64  # edges of a tile of the product
MAX_L = 2  # largest max_l whose sums stay in registers


def is_linear(model: NEMP) -> bool:
    """Whether a network is one that ``LinearNetwork`` evaluates."""
    c = model.config
    return c.message_mlp.linear and c.n_message_passing == 1 and c.max_l <= MAX_L


@dataclass(frozen=True)
class LinearRecord:
    """What the derivatives need of an evaluation.

    Attributes:
        edges: the edges.
        vectors: of the edges.
        normaliser: m of the atoms.
        first: (N, S+1, K) Σ_j R_l Y_lm, Σ_j R_ρ.
        orbitals: C⁰ and C¹.
        norm: factor of the norm.
        mixed: C⁰ W⁰.
        sums: (N, S + (L+1)², K) N and G.
        third: (N, S, K) Σ_j V³_l Y_lm.
        last: (N, S, K) Σ_j (V¹+V²+V³)_l Y_lm of the last read-out.
        s: (E, K) of the edges.
    """

    edges: Edges
    vectors: Tensor
    normaliser: Tensor
    first: Tensor
    orbitals: tuple[Tensor, Tensor]
    norm: Tensor
    mixed: Tensor
    sums: Tensor
    third: Tensor
    last: Tensor
    s: Tensor


class LinearNetwork(FusedNetwork):
    """As ``FusedNetwork``, whose mixes and products of the atoms it uses."""

    def __init__(
        self, model: NEMP, table: PairTable, mode: str = "fp16x3", launch: Launch | None = None
    ) -> None:
        """Pack the weights of ``model``, for which ``is_linear``."""
        super().__init__(model, table, mode, launch)
        p1, k, kp = self.p + 1, self.k, self.kp
        scale, last_scale = (
            orbital_scale(self.p, last, model.species_mix).double() for last in (False, True)
        )
        first = _matrix(model.first_mlp, k)  # (2, K, 3(P+1), K) from h⁰ to V
        message = _matrix(model.message_mlps[0], k)  # (3, K, P+1 + L+1, K) from [h⁰, s] to M
        last = _matrix(model.edge_mlps[-1], k) * last_scale[:, None]
        last = last.unflatten(2, (3, p1)).sum(2)  # (3, K, P+1, K)
        third = first[:, :, 2 * p1 :] * scale[2 * p1 :, None]
        dtype = model.species_mix.dtype

        def of_rows(matrix: Tensor, n_l: int) -> Tensor:  # (Q, K, n_l, K) → ((n_l)², Q K, K)
            rows = pad(matrix.movedim(2, 0), kp).movedim(-1, -2)
            rows = pad(rows, kp).movedim(-1, -2).flatten(1, 2)
            times = torch.arange(n_l, device=rows.device) * 2 + 1
            return rows.repeat_interleave(times, 0).to(dtype).contiguous()

        self._third = of_rows(third, p1)  # (S, 2K, K)
        self._geometry = of_rows(message[:, :, p1:], self.l + 1)  # (S_G, 3K, K)
        self._last = of_rows(last, p1)  # (S, 3K, K)
        direct = pad(message[2, :, :p1], kp).movedim(0, 2)  # (P+1, K', K)
        direct = pad(direct, kp).movedim(2, 0).flatten(1).to(dtype)  # (K', (P+1) K')
        self._direct = split(direct, mode)
        self._direct_back = split(direct.t().contiguous(), mode)
        self._table = _packed_table(table, message[:2, :, :p1], scale, p1, kp)
        self._constants = {
            "K": kp,
            "P": self.p,
            "ROWS": table.rows,
            "COLUMNS": self._table.shape[2],
            "BLOCK": self.shape["BLOCK"],
            "num_warps": 1,
        }

    def forward(self, vectors: Tensor, edges: Edges) -> tuple[Tensor, Tensor, Tensor, Any]:
        """As ``FusedNetwork.forward``."""
        n, n_edges, s, kp = edges.n_atoms, edges.n_edges, self.s, self.kp
        first, count = vectors.new_empty(n, s + 1, kp), vectors.new_empty(n, 2)
        hs = vectors.new_empty(n, self.s_g, 3, kp)
        self._atoms(
            kernels.pairs_forward, vectors, edges.pair, edges.row_start, self.grid, self._table,
            self.cutoff_table, self.repulsion, first, hs, count, n, L=self.l, **self._fixed,
        )  # fmt: skip
        m_i = self.model.normaliser(count[:, 0], edges.species)[:, None, None]
        c = self._mix(first[:, :s] / m_i, self.species_mix, edges)
        mixed = self._mix(c, self.mixes[0, 0], edges)
        state, message = vectors.new_empty(n_edges, kp), vectors.new_empty(n_edges, self.p + 1, kp)
        self._atoms(
            kernels.scalars_forward, vectors, edges.pair, edges.neighbour, edges.row_start,
            self.grid, self._table, c, state, hs, n, L=self.l, EPSILON=self.shape["EPSILON"],
        )  # fmt: skip
        self._times(state, self._direct, message)
        sums = vectors.new_empty(n, s + self.s_g, kp)
        self._atoms(
            kernels.messages_forward, vectors, edges.pair, edges.neighbour, edges.row_start,
            self.grid, self._table, mixed, message, sums, n, SUMS=s + self.s_g,
        )  # fmt: skip
        rows = hs.flatten(2).transpose(0, 1)  # (S_G, N, 3K)
        sums[:, s:] = torch.bmm(rows, self._geometry).transpose(0, 1)
        third = torch.bmm(rows[:s, :, : 2 * kp], self._third).transpose(0, 1).contiguous()
        last = torch.bmm(rows[:s], self._last).transpose(0, 1).contiguous()
        after, norm = self._update(0, c, self._product(0, sums, edges), m_i, edges)
        density = torch.stack([first[:, s], (third * c).sum(1), (last * after).sum(1)])
        record = LinearRecord(
            edges, vectors, m_i, first, (c, after), norm, mixed, sums, third, last, state
        )  # fmt: skip
        return density, count[:, 0].clone(), count[:, 1].clone(), record

    def backward(
        self,
        record: Any,  # noqa: ANN401 (a LinearRecord)
        rho: Tensor,
        count: Tensor,
        repulsion: Tensor,
    ) -> Tensor:
        """As ``FusedNetwork.backward``."""
        edges, m_i, vectors, s = record.edges, record.normaliser, record.vectors, self.s
        (c, after), sums, n = record.orbitals, record.sums, edges.n_atoms
        grad_last = rho[2][:, None] * after
        d, grad_m = self._product(0, sums, edges), torch.zeros_like(count)
        kept, grad_d = self._update_back(
            0, (after, record.norm), d, m_i, edges, rho[2][:, None] * record.last, grad_m
        )
        grad_sums = torch.empty_like(sums)
        self._couple(0, self.couplings[2], grad_d, sums[:, s:], grad_sums, edges)
        self._couple(0, self.couplings[1], grad_d, sums, grad_sums[:, s:], edges)
        grad_hs = self._mixed_back(grad_sums[:, s:], grad_last, rho[1][:, None] * c)
        grad, grad_s = torch.empty_like(vectors), torch.empty_like(record.s)
        message, left = vectors.new_empty(2, edges.n_edges, self.p + 1, self.kp)
        self._times(record.s, self._direct, message)
        self._atoms(
            back.messages_back, vectors, edges.pair, edges.neighbour, edges.row_start, self.grid,
            self._table, record.mixed, message, grad_sums, left, grad, n, SUMS=s + self.s_g,
        )  # fmt: skip
        own = self._pull_back(record, left, grad_sums, harmonic=False)
        grad_c = self._mix(own, self.mixes[0, 0], edges, transposed=True, add_to=kept)
        grad_c += rho[1][:, None] * record.third
        self._times(message, self._direct_back, grad_s)
        self._atoms(
            back.scalars_back, vectors, edges.pair, edges.neighbour, edges.row_start, self.grid,
            self._table, c, record.s, grad_s, grad_hs, left, grad_c, grad, n, L=self.l,
            EPSILON=self.shape["EPSILON"],
        )  # fmt: skip
        grad_c += self._pull_back(record, left, grad_sums, harmonic=True)
        grad_x = self._mix(grad_c, self.species_mix, edges, transposed=True) / m_i
        grad_m -= (grad_x * record.first[:, :s]).sum((1, 2)) / m_i[:, 0, 0]
        grad_first = torch.cat([grad_x, rho[0][:, None]], dim=1)
        self._atoms(
            back.pairs_back, vectors, edges.pair, edges.row_start, self.grid, self._table,
            self.cutoff_table, self.repulsion, grad_first, grad_hs,
            torch.stack([count + grad_m, repulsion], 1), grad, n, L=self.l, **self._fixed,
        )  # fmt: skip
        return grad

    @property
    def _fixed(self) -> dict[str, object]:
        return {"EPSILON": self.shape["EPSILON"], "ZBL": self.model.zbl is not None}

    def _mixed_back(self, geometry: Tensor, last: Tensor, third: Tensor) -> Tensor:
        """Gradient of hs (N, S_G, 3, K) from those of what is mixed of it."""
        s, kp = self.s, self.kp
        out = torch.bmm(geometry.transpose(0, 1), self._geometry.transpose(1, 2))  # (S_G, N, 3K)
        out[:s] += torch.bmm(last.transpose(0, 1), self._last.transpose(1, 2))
        part = torch.bmm(third.transpose(0, 1), self._third.transpose(1, 2))
        out[:s, :, : 2 * kp] += part
        return out.transpose(0, 1).contiguous()

    def _pull_back(
        self, record: LinearRecord, left: Tensor, grad_sums: Tensor, harmonic: bool
    ) -> Tensor:
        """Sums (N, S, K) over the edges that end at an atom, of what they left to it."""
        edges = record.edges
        out = torch.empty_like(record.mixed)
        names = ("K", "P", "BLOCK", "num_warps")
        at_once = self._at_once(self._constants, edges.n_atoms)
        self._run(
            back.pull_back, (min(edges.n_atoms, PROGRAMS),), record.vectors, edges.centre,
            edges.row_start, edges.by_neighbour, left, grad_sums, out, edges.n_atoms,
            HARMONIC=harmonic, EPSILON=self.shape["EPSILON"], SUMS=self.s + self.s_g,
            **{name: at_once[name] for name in names},
        )  # fmt: skip
        return out

    def _atoms(self, kernel: JITFunction, *inputs: Any, **constants: Any) -> None:  # noqa: ANN401
        """Run a kernel over all atoms, whose number is the last of the inputs."""
        grid = (min(inputs[-1], PROGRAMS),)
        at_once = self._at_once(self._constants, inputs[-1])
        self._run(kernel, grid, *inputs, **constants, **at_once)

    def _times(self, x: Tensor, weights: Weights, out: Tensor) -> None:
        """Fill ``out`` with the product of the rows of the edges and a matrix."""
        rows, mode = len(x), self.mode
        inputs, outputs = weights.high.shape
        self._run(
            kernels.edge_product, (triton.cdiv(rows, TILE),), x, weights.high, weights.low, out,
            rows, INPUTS=inputs, OUTPUTS=outputs, IN=self.kp, OUT=self.kp, HALVES=mode in HALVES,
            THREE=mode.endswith("x3"), MODE=mode, TILE=TILE, num_warps=4,
        )  # fmt: skip


def _matrix(mlp: MLP, k: int) -> Tensor:
    """Matrix of a linear network, float64, (Q, K, R, K) from Q K to R K features."""
    layer = mlp.output_layer
    matrix = layer.kernel.detach().double() * layer.scale
    return matrix.unflatten(0, (-1, k)).unflatten(2, (-1, k))


def _packed_table(table: PairTable, message: Tensor, scale: Tensor, p1: int, kp: int) -> Tensor:
    """Columns (rows, 3, groups · K) in the order of ``triton_linear.py``.

    Args:
        table: the functions of the pairs.
        message: (2, K, P+1, K) from h⁰ to M^a.
        scale: (3(P+1),) factors of V.
        p1: P + 1.
        kp: K, padded.
    """
    k = table.n_channels
    knots = table.knots.unflatten(1, (3, -1)).double()
    groups = knots[..., :-1].unflatten(2, (-1, k))  # (rows, 3, 2 + P+1 + 1 + 3(P+1), K)
    v = groups[:, :, 3 + p1 : 3 + 3 * p1] * scale[: 2 * p1, None]
    a = torch.einsum("rpqk,qklc->rplc", groups[:, :, :2], message)
    every = torch.cat([groups[:, :, : 3 + p1], v, a], dim=2)
    return pad(every, kp).flatten(2).to(table.knots.dtype).contiguous()
