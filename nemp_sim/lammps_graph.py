"""The atoms of one MPI rank of LAMMPS as a graph, and parts of it that are whole in themselves."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nemp_sim.errors import EvaluationError
from nemp_sim.graph import AtomGraph, gather


@dataclass(frozen=True)
class RankGraph(AtomGraph):
    """The atoms of one MPI rank, owned ones first, then ghosts; one structure.

    Attributes:
        vectors: (E, 3) float64, r_ij of each edge, Å.
        neighbour_start: (N+1,) int64, first edge of each neighbour in the order ``by_neighbour``.
        exchange: LAMMPS' data, whose ``forward_exchange`` fills in the values of ghosts; None
            where the edges of the ghosts are in the graph.
    """

    vectors: Tensor
    neighbour_start: Tensor
    exchange: Any = None

    def edge_vectors(self) -> Tensor:
        """r_ij, (E, 3) float64, Å."""
        return self.vectors

    def at_neighbour(self, values: Tensor) -> Tensor:
        """Node values (N, …) at the neighbour of each edge, those of ghosts from their owners."""
        if self.exchange is not None and values.is_floating_point():
            values = _Exchange.apply(values, self.exchange)
        return gather(values, self.neighbour, self.neighbour_start, self.by_neighbour)


class _Exchange(torch.autograd.Function):
    """Values of the ghosts from their owners; backward, gradients of the ghosts to their owners."""

    @staticmethod
    def forward(ctx, values, data):  # noqa: ANN001, ANN205 (torch's signature)
        ctx.data = data
        return _exchanged(data.forward_exchange, values)

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001, ANN205
        return _exchanged(ctx.data.reverse_exchange, grad), None


def _exchanged(exchange: Any, values: Tensor) -> Tensor:  # noqa: ANN401 (a function of LAMMPS)
    rows = values.contiguous()
    result = torch.empty_like(rows)
    exchange(rows, result, math.prod(rows.shape[1:]))
    return result


def rank_graph(
    species: Tensor,
    centre: Tensor,
    neighbour: Tensor,
    vectors: Tensor,
    exchange: Any = None,  # noqa: ANN401
) -> RankGraph:
    """The graph of edges that stand in the order of their centres, as LAMMPS lists them."""
    n = len(species)
    device = species.device
    if bool((centre[1:] < centre[:-1]).any()):
        raise EvaluationError("LAMMPS listed the pairs in another order than that of their atoms.")

    def starts(index: Tensor) -> Tensor:
        counts = torch.bincount(index, minlength=n)
        return torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    one = torch.zeros(1, dtype=torch.int64, device=device)
    return RankGraph(
        positions=vectors.new_zeros(n, 3),
        cells=vectors.new_zeros(1, 3, 3),
        species=species,
        structure=torch.zeros(n, dtype=torch.int64, device=device),
        head=one,
        first_atom=torch.tensor([0, n], device=device),
        centre=centre,
        neighbour=neighbour,
        shifts=torch.zeros_like(vectors),
        row_start=starts(centre),
        by_neighbour=torch.argsort(neighbour, stable=True),
        vectors=vectors.clone(),
        neighbour_start=starts(neighbour),
        exchange=exchange,
    )


@dataclass(frozen=True)
class Part:
    """Some atoms with all that their energies depend on.

    Attributes:
        graph: those atoms first.
        edges: (E,) which pairs of the rank its edges are.
    """

    graph: RankGraph
    edges: Tensor


class Pairs:
    """The pairs of a rank, from which parts are cut."""

    def __init__(self, species: Tensor, centre: Tensor, neighbour: Tensor, vectors: Tensor) -> None:
        """Take species (N,), centre and neighbour (E,) in the order of the centres, r_ij (E, 3)."""
        counts = torch.bincount(centre, minlength=len(species))
        self._first = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        self._species, self._neighbour, self._vectors = species, neighbour, vectors
        self._place = torch.full_like(species, -1)
        self._positions: Tensor | None = None

    def halves(self, atoms: Tensor) -> tuple[Tensor, Tensor]:
        """Atoms in two halves, cut normal to the axis along which they are widest."""
        if self._positions is None:
            self._positions, _ = self.places()
        mine = self._positions[atoms]
        order = mine[:, int((mine.amax(0) - mine.amin(0)).argmax())].argsort(stable=True)
        middle = len(atoms) // 2
        return atoms[order[:middle]].sort().values, atoms[order[middle:]].sort().values

    def part(self, owned: Tensor, n_steps: int) -> Part:
        """Atoms ``owned`` and those up to ``n_steps`` hops away with all their pairs.

        The edges stand in the order of their new centres.
        """
        needed, newest = owned, owned
        self._place[owned] = 0
        for _ in range(n_steps):
            newest = self._neighbour[self._edges_of(newest)].unique()
            newest = newest[self._place[newest] < 0]
            self._place[newest] = 0
            needed = torch.cat([needed, newest])
        edges = self._edges_of(needed)
        leaves = self._neighbour[edges].unique()
        leaves = leaves[self._place[leaves] < 0]
        present = torch.cat([needed, leaves])
        self._place[present] = torch.arange(len(present), device=present.device)
        counts = self._first[needed + 1] - self._first[needed]
        graph = rank_graph(
            self._species[present],
            torch.arange(len(needed), device=needed.device).repeat_interleave(counts),
            self._place[self._neighbour[edges]],
            self._vectors[edges],
        )
        self._place[present] = -1
        return Part(graph, edges)

    def places(self) -> tuple[Tensor, Tensor]:
        """Positions (N, 3), Å, of the atoms that pairs connect with the first one, and which.

        LAMMPS hands over no positions: they follow from r_ij, the first atom at the origin.
        """
        positions = self._vectors.new_zeros(len(self._species), 3)
        known = torch.zeros(len(self._species), dtype=torch.bool, device=positions.device)
        newest = torch.arange(min(1, len(known)), device=positions.device)
        known[newest] = True
        while len(newest):
            edges = self._edges_of(newest)
            centres = newest.repeat_interleave(self._first[newest + 1] - self._first[newest])
            new = ~known[self._neighbour[edges]]
            edges, centres = edges[new], centres[new]
            ends = self._neighbour[edges]
            positions[ends] = positions[centres] + self._vectors[edges]
            known[ends] = True
            newest = ends.unique()
        return positions, known

    def reach_of_ghosts(self, n_owned: int) -> float:
        """How far the ghosts reach beyond the owned atoms along some axis, Å; 0 without ghosts."""
        if n_owned in (0, len(self._species)) or not len(self._neighbour):
            return 0.0
        positions, known = self.places()
        owned, every = positions[:n_owned][known[:n_owned]], positions[known]
        below = owned.amin(0) - every.amin(0)
        above = every.amax(0) - owned.amax(0)
        return float(torch.maximum(below, above).max())

    def _edges_of(self, atoms: Tensor) -> Tensor:
        """Numbers of all pairs whose centres these are, in their order."""
        first, counts = self._first[atoms], self._first[atoms + 1] - self._first[atoms]
        before = counts.cumsum(0) - counts
        steps = torch.arange(int(counts.sum()), device=atoms.device)
        return (first - before).repeat_interleave(counts) + steps
