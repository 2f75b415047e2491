"""The NEMP network, top to bottom, equation by equation.

Source: Y. Zhang and H. Guo, "Node-equivariant message passing for efficient and accurate machine
learning interatomic potentials", Chem. Sci. 2026, DOI 10.1039/d5sc07248d (arXiv 2508.16086).

Shapes: N atoms, E edges (i → j), K channels, L = max_l, P = pmax_l, T message-passing steps.
Symbols: d = |r_ij|, x = d / r_c, f_c the cutoff function, Y_lm the harmonics of ``angular.py``,
C_i the node orbitals, h_ij the edge state, n_i = Σ_j f_c(x_ij) the smooth coordination number.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from nemp_sim.angular import (
    SphericalHarmonics,
    TensorProduct,
    order_of_component,
    spread_orders,
)
from nemp_sim.config import ModelConfig
from nemp_sim.graph import AtomGraph
from nemp_sim.mlp import MLP
from nemp_sim.readout import ReadOut
from nemp_sim.zbl import ZBL

EPSILON = 1e-8  # ε of the published equations
INNER_SWITCH = (0.65, 0.85)  # of the inner radius: the network is off below, whole above
REPULSION_REACH = 0.95  # of the inner radius: no trained distance feels the repulsion


class PairCode(nn.Module):
    """Radial frequencies ω_ab and edge weights a_ab of each ordered pair of elements (a, b).

    ``table``: both are parameters. ``atomic_number``: q_ab = MLP_pair([Z_a, Z_b]),
    ω_ab = MLP_freq(q_ab), a_ab = MLP_weight(q_ab).
    """

    def __init__(self, config: ModelConfig) -> None:
        """Draw the table or the networks; frequencies start at 1 … n_radial or U(0, 12)."""
        super().__init__()
        n, n_radial = len(config.elements), config.n_radial
        n_weight = config.n_channels + n_radial
        self.is_table = config.species_code == "table"
        if self.is_table:
            omega = torch.arange(1.0, n_radial + 1)
            self.frequency = nn.Parameter(omega.repeat(n * n, 1))
            self.weight = nn.Parameter(torch.randn(n * n, n_weight))
            return
        numbers = torch.tensor(config.elements, dtype=torch.float64)
        pairs = torch.cartesian_prod(numbers, numbers).reshape(-1, 2)
        self.register_buffer("pairs", pairs, persistent=False)
        self.pair_mlp = MLP(2, config.n_pair_code, config.embedding_mlp, bias=True)
        self.frequency_mlp = MLP(config.n_pair_code, n_radial, config.embedding_mlp, bias=True)
        self.weight_mlp = MLP(config.n_pair_code, n_weight, config.embedding_mlp)
        nn.init.ones_(self.pair_mlp.output_layer.bias)
        nn.init.uniform_(self.frequency_mlp.output_layer.bias, 0.01, 12.01)

    def forward(self) -> tuple[Tensor, Tensor]:
        """ω (S², n_radial) and a (S², K + n_radial) of the pairs a·S + b of the S elements."""
        if self.is_table:
            return self.frequency, self.weight
        code = self.pair_mlp(self.pairs)
        return self.frequency_mlp(code), self.weight_mlp(code)


def cutoff_function(x: Tensor, p: float) -> Tensor:
    """f_c = u², u = 1 − (p+1)(p+2)/2 x^p + p(p+2) x^{p+1} − p(p+1)/2 x^{p+2}; zero for x ≥ 1."""
    x_in = x.clamp(max=1.0)  # keeps far padding edges finite in both passes
    inner = (p + 1) * (p + 2) / 2 - x_in * (p * (p + 2) - x_in * (p * (p + 1) / 2))
    u = 1 - x_in**p * inner
    return torch.where(x < 1, u * u, torch.zeros_like(x))


def smooth_step(x: Tensor) -> Tensor:
    """x³ (10 − 15x + 6x²): from zero to one between 0 and 1, flat at both ends."""
    return x**3 * (10 - x * (15 - 6 * x))


def inner_switch(d: Tensor, radius: Tensor) -> Tensor:
    """Zero and one at INNER_SWITCH · radius and beyond, x³(10 − 15x + 6x²) between them.

    The margin below the shortest trained distance is for hotter runs than the training frames: a
    switch that begins at that distance itself tripled the force errors of acetylacetone at 600 K.

    Args:
        d: distances (E,), Å.
        radius: radius of each edge (E,), Å; zero: no switch.
    """
    off, whole = INNER_SWITCH
    x = (d / radius.clamp(min=1e-6) - off) / (whole - off)
    return smooth_step(x.clamp(0.0, 1.0))


class PairFunctions(NamedTuple):
    """What depends on the length and the ordered pair of elements of an edge alone.

    Attributes:
        cutoff: (E,) f_c, with the inner switch where there is one.
        state: (E, 2K) edge state h⁰ = [a^edge f_c, R_e].
        radial: (E, P+2, K) rows R_l (l ≤ P), then R_ρ.
        orbitals: (E, 3, P+1, K) V¹, V², V³ of the first step, MLP_ead[first](h⁰).
    """

    cutoff: Tensor
    state: Tensor
    radial: Tensor
    orbitals: Tensor


Describe = Callable[[AtomGraph], tuple[Tensor, Tensor, Tensor | None]]  # see NEMP.describe


class NEMP(nn.Module):
    """Node-equivariant message passing: atomic energies of an AtomGraph.

    The features of the atoms are shared by all heads; each head has a ReadOut of its own.

    With the ZBL repulsion the state also holds ``inner_radius`` (S²,) in Å, the shortest distance
    of each ordered pair of elements in the training frames. A network is no guide far below what
    it has seen: there it is switched off pair by pair, and the repulsion is left.
    """

    # torch has no types for lists of modules of one kind
    readouts: Any  # nn.ModuleDict of a ReadOut for each head
    message_mlps: Any  # nn.ModuleList of an MLP for each step
    edge_mlps: Any  # likewise
    inner_radius: Tensor
    l_of: Tensor
    node_l_of: Tensor
    g: Tensor

    def __init__(self, config: ModelConfig) -> None:
        """Draw the weights of ``config`` from torch's global generator."""
        super().__init__()
        self.config = config
        n, k, steps = len(config.elements), config.n_channels, config.n_message_passing
        p1, l1 = config.pmax_l + 1, config.max_l + 1
        self.smooth = config.form == "smooth"
        self.harmonics = SphericalHarmonics(config.max_l)
        self.tensor_product = TensorProduct(config.max_l, config.pmax_l)

        self.pair_code = PairCode(config)
        self.radial_mlp = MLP(2 * config.n_radial, (p1 + 2) * k, config.radial_mlp)
        self.first_mlp = MLP(2 * k, 3 * p1 * k, config.message_mlp)
        widths = [(3 + t) * k for t in range(steps)]
        self.message_mlps = nn.ModuleList(MLP(w, (p1 + l1) * k, config.message_mlp) for w in widths)
        self.edge_mlps = nn.ModuleList(MLP(w, 3 * p1 * k, config.message_mlp) for w in widths)
        self.readouts = nn.ModuleDict({head: ReadOut(config) for head in config.heads})

        self.species_mix = nn.Parameter(torch.randn(n, k, k))  # W^spec
        self.channel_mix = nn.Parameter(torch.randn(steps, n, 3, k, k))  # W^0, W^1, W^2
        self.path_weight = nn.Parameter(torch.randn(steps, n, len(self.tensor_product.paths), k))
        if self.smooth:  # n0 = softplus(·) = 1 at the start
            self.coordination_floor = nn.Parameter(torch.full((n,), math.log(math.e - 1)))
        self.zbl = ZBL(config.elements) if config.zbl else None
        if config.zbl:
            self.register_buffer("inner_radius", torch.zeros(n * n))

        l_of = order_of_component(config.max_l)
        self.register_buffer("l_of", l_of, persistent=False)
        self.register_buffer("node_l_of", l_of[: p1**2], persistent=False)
        self.register_buffer("g", (2 * self.node_l_of.double() + 1) ** -0.5, persistent=False)

    def cast(self, dtype: torch.dtype) -> Self:
        """Weights and tables in ``dtype``; the reference energies stay float64.

        Tables are made in float64, so cast a new model once; casting up later does not restore
        their digits.
        """
        exact = [readout.reference_energies for readout in self.readouts.values()]
        self.to(dtype)
        for readout, reference in zip(self.readouts.values(), exact, strict=True):
            readout.reference_energies = reference
        return self

    def keep_head(self, head: str) -> Self:
        """Drop all other heads, in place."""
        self.readouts = nn.ModuleDict({head: self.readouts[head]})
        self.config = replace(self.config, heads=(head,))
        return self

    def forward(self, graph: AtomGraph, describe: Describe | None = None) -> Tensor:
        """Atomic energies (N,) in eV, float64 whatever the dtype of the weights.

        Each structure is read out by its own head, ``graph.head``.

        Args:
            graph: the structures.
            describe: a faster equal of ``self.describe``.
        """
        density, saturation, repulsion = (describe or self.describe)(graph)
        first, *others = self.readouts.values()
        energy = first(density, saturation, graph.species)
        head = graph.head.index_select(0, graph.structure) if others else None
        for index, readout in enumerate(others, start=1):
            mine = readout(density, saturation, graph.species)
            energy = torch.where(head == index, mine, energy)
        return energy if repulsion is None else energy + repulsion

    def forward_features(
        self, graph: AtomGraph, describe: Describe | None = None
    ) -> tuple[Tensor, Tensor]:
        """Atomic energies (N,) and features ∂E_i/∂w of the last layer (N, width), eV.

        For a network of one head (``keep_head``).
        """
        (readout,) = self.readouts.values()
        density, saturation, repulsion = (describe or self.describe)(graph)
        energy = readout(density, saturation, graph.species)
        features = readout.features(density, graph.species)
        return energy if repulsion is None else energy + repulsion, features

    def pair_functions(
        self, d: Tensor, pair: Tensor, code: tuple[Tensor, Tensor] | None = None
    ) -> PairFunctions:
        """Edge invariants of distances d (E,), Å, and pairs a·S + b (E,).

        Args:
            d: √(|r|² + ε).
            pair: ordered pairs of elements.
            code: the result of ``pair_code()``, where the caller keeps it between evaluations.
        """
        config, k, p1 = self.config, self.config.n_channels, self.config.pmax_l + 1
        f_c = cutoff_function(d / config.cutoff_angstrom, config.envelope_power)  # (E,)
        if self.zbl is not None:
            f_c = f_c * inner_switch(d, self.inner_radius.index_select(0, pair))
        # B = [a^rad f_c, sinc(ω x) f_c] → R_l, R_ρ, R_e; edge state h⁰
        frequency, weight = self.pair_code() if code is None else code
        smooth_weight = weight.index_select(0, pair) * f_c[:, None]  # (E, K + n_radial)
        x = d[:, None] / config.cutoff_angstrom
        waves = torch.sinc(frequency.index_select(0, pair) * x) * f_c[:, None]  # (E, n_radial)
        radial = self.radial_mlp(torch.cat([smooth_weight[:, k:], waves], dim=1))
        radial = radial.unflatten(1, (p1 + 2, k))  # (E, P+3, K)
        h = torch.cat([smooth_weight[:, :k], radial[:, p1 + 1]], dim=1)  # (E, 2K)
        orbitals = self.first_mlp(h).unflatten(1, (3, p1, k))
        return PairFunctions(f_c, h, radial[:, : p1 + 1], orbitals)

    def pair_of_edge(self, graph: AtomGraph) -> Tensor:
        """Ordered pair of elements a·S + b of each edge, (E,)."""
        centre = graph.at_centre(graph.species) * len(self.config.elements)
        return centre + graph.at_neighbour(graph.species)

    def normaliser(self, n_i: Tensor, species: Tensor) -> Tensor:
        """m_i (N,) of coordinations n_i (N,).

        ``mean_neighbours`` where there is one; else n_i + n0 in the smooth form, n_i + ε in the
        published form.
        """
        if self.config.mean_neighbours:
            return torch.full_like(n_i, self.config.mean_neighbours)
        if self.smooth:
            return n_i + softplus(self.coordination_floor).index_select(0, species)
        return n_i + EPSILON

    def saturation(self, n_i: Tensor, species: Tensor) -> Tensor:
        """n_i/(n_i + n0) (N,) of coordinations n_i (N,); with ε for n0 in the published form."""
        if self.smooth:
            return n_i / (n_i + softplus(self.coordination_floor).index_select(0, species))
        return n_i / (n_i + EPSILON)

    def describe(
        self,
        graph: AtomGraph,
        pair_functions: Callable[[Tensor, Tensor], PairFunctions] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What the read-outs start from.

        Returns densities ρ_i/m_i (N, (T+2)K), saturations n_i/m_i (N,), and the short-range
        repulsion (N,) float64 in eV, None without it.

        Args:
            graph: the structures.
            pair_functions: a faster equal of ``self.pair_functions``.
        """
        config, p1 = self.config, self.config.pmax_l + 1
        vectors = graph.edge_vectors().to(self.species_mix.dtype)  # (E, 3)
        d = torch.sqrt((vectors * vectors).sum(1) + EPSILON)  # (E,)
        pair = self.pair_of_edge(graph)
        f_c, h, radial, v = (pair_functions or self.pair_functions)(d, pair)
        v = spread_orders(v, self.node_l_of)  # V of the first step, (E, 3, (P+1)², K)
        y = self._harmonics(vectors / d[:, None])  # (E, (L+1)²)
        y_node = y[:, : p1**2, None]  # (E, (P+1)², 1)
        n_i = graph.sum_edges(f_c)  # (N,)
        m_i = self.normaliser(n_i, graph.species)[:, None, None]  # (N, 1, 1)

        # Node orbitals C⁰ = (Σ_j R_l Y_lm / m_i) W^spec/√K; read-out ρ⁰ = Σ_j R_ρ
        readout = [graph.sum_edges(radial[:, p1])]  # (N, K)
        c = graph.sum_edges(spread_orders(radial[:, :p1], self.node_l_of) * y_node)  # (N, S, K)
        c = torch.bmm(c / m_i, self._mix(self.species_mix, graph))

        for t in range(config.n_message_passing):
            c_hat = c * (self.g * p1**-0.5)[:, None]  # Ĉ = g_l C / √(P+1)
            # 1. edge scalar s_ij = Σ_lm Y_lm (V¹ Ĉ_i + V² Ĉ_j)/√2; h ← [h, s]
            pull = v[:, 0] * graph.at_centre(c_hat) + v[:, 1] * graph.at_neighbour(c_hat)
            h = torch.cat([h, (pull * y_node).sum(1) * 0.5**0.5], dim=1)  # (E, (3+t)K)
            # 2. read-out ρ^{t+1} = Σ_lm (Σ_j V³_l Y_lm) Ĉ_lm
            readout.append((graph.sum_edges(v[:, 2] * y_node) * c_hat).sum(1))  # (N, K)
            # 3.–7. node update; 8. V = MLP_ead[t](h)
            c = self._update_orbitals(t, h, c, m_i, y, graph)
            v = self._edge_orbitals(self.edge_mlps[t](h))

        c_hat = c * (self.g * (3 * p1) ** -0.5)[:, None]
        readout.append((graph.sum_edges(v.sum(1) * y_node) * c_hat).sum(1))
        density = torch.cat(readout, dim=1) / m_i[:, :, 0]  # (N, (T+2)K)
        repulsion = self._repulsion(d, pair, graph)
        return density, self.saturation(n_i, graph.species), repulsion

    def repulsion_reach(self) -> Tensor:
        """Distances (S²,), Å, at which the repulsion of each ordered pair of elements ends.

        The sum of the covalent radii; or, with ``zbl_reach = "trained_distances"``, at most
        REPULSION_REACH of the shortest trained distance.
        """
        assert self.zbl is not None
        reach, radius = self.zbl.cutoff, self.inner_radius
        if self.config.zbl_reach == "covalent_radii":
            return reach
        return torch.where(radius > 0, torch.minimum(reach, REPULSION_REACH * radius), reach)

    def _repulsion(self, d: Tensor, pair: Tensor, graph: AtomGraph) -> Tensor | None:
        """Short-range repulsion of each atom (N,), float64, eV; None without it."""
        if self.zbl is None:
            return None
        return graph.sum_edges(self.zbl(d, pair, self.repulsion_reach())).double()

    def _harmonics(self, unit_vectors: Tensor) -> Tensor:
        """Y_lm (E, (L+1)²); the published form divides by √(Σ_m y² + ε) of the orthonormal y."""
        y = self.harmonics(unit_vectors)
        if self.smooth:
            return y
        y = y / (4 * math.pi) ** 0.5
        blocks = y.split([2 * l + 1 for l in range(self.config.max_l + 1)], dim=1)
        norms = [
            (2 * l + 1) ** 0.5 / ((b * b).sum(1) + EPSILON).sqrt() for l, b in enumerate(blocks)
        ]
        return torch.cat([b * n[:, None] for b, n in zip(blocks, norms, strict=True)], dim=1)

    def _mix(self, matrices: Tensor, graph: AtomGraph) -> Tensor:
        """Channel mix of each atom's element (S, K, K) → (N, K, K), divided by √K.

        A product, for its derivative is one too; that of a look-up adds all atoms into S places.
        """
        every = torch.arange(matrices.shape[0], device=matrices.device)
        is_of = graph.species[:, None] == every  # (N, S)
        mixed = is_of.to(matrices.dtype) @ (matrices * self.config.n_channels**-0.5).flatten(1)
        return mixed.unflatten(1, matrices.shape[1:])

    def _edge_orbitals(self, v: Tensor) -> Tensor:
        """V¹, V², V³, each order spread over its components: (E, 3(P+1)K) → (E, 3, (P+1)², K)."""
        v = v.unflatten(1, (3, self.config.pmax_l + 1, self.config.n_channels))
        return spread_orders(v, self.node_l_of)

    def _update_orbitals(
        self, t: int, h: Tensor, c: Tensor, m_i: Tensor, y: Tensor, graph: AtomGraph
    ) -> Tensor:
        """Steps 3 to 7: C ← (C W² + D/m_i² W¹)/√2 with D the tensor product of the virtual node.

        N_lm = Σ_j M^a_l (C_j W⁰)_lm, G_lm = Σ_j M^b_l Y_lm, D = Σ λ (G ⊗ N) / √c_l: one tensor
        product for each node, not for each edge.
        """
        p1, l1, k = self.config.pmax_l + 1, self.config.max_l + 1, self.config.n_channels
        w = self.channel_mix[t]  # (S, 3, K, K)
        message = self.message_mlps[t](h).unflatten(1, (p1 + l1, k))  # (E, P+1 + L+1, K)
        m_a, m_b = message[:, :p1], message[:, p1:]
        mixed = graph.at_neighbour(torch.bmm(c, self._mix(w[:, 0], graph)))  # (E, (P+1)², K)
        neighbours = graph.sum_edges(spread_orders(m_a, self.node_l_of) * mixed)  # N
        geometry = graph.sum_edges(spread_orders(m_b, self.l_of) * y[:, :, None])  # G
        path_weight = self.path_weight[t].index_select(0, graph.species)  # (N, paths, K)
        d = self.tensor_product(geometry, neighbours, path_weight) / (m_i * m_i)
        kept = torch.bmm(c, self._mix(w[:, 2], graph))
        c = (kept + torch.bmm(d, self._mix(w[:, 1], graph))) * 0.5**0.5
        if self.config.use_norm:
            floor = 1.0 if self.smooth else EPSILON
            mean_square = (c * c).sum((1, 2), keepdim=True) / (p1 * k)
            c = c / torch.sqrt(mean_square + floor)
        return c
