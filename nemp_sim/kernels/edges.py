"""Edges of an AtomGraph, as the kernels read them."""

from dataclasses import dataclass

from torch import Tensor

from nemp_sim.graph import AtomGraph


@dataclass(frozen=True)
class Edges:
    """Edges of an AtomGraph, 32-bit, sorted by centre.

    Attributes:
        pair: (E,) ordered pair of elements.
        centre: (E,) ascending.
        neighbour: (E,).
        by_neighbour: (E,) edges sorted by neighbour.
        species: (N,).
        row_start: (N+1,) first edge of each centre; in ``by_neighbour``, first of each neighbour.
    """

    pair: Tensor
    centre: Tensor
    neighbour: Tensor
    by_neighbour: Tensor
    species: Tensor
    row_start: Tensor

    @property
    def n_atoms(self) -> int:
        """Atoms N."""
        return len(self.species)

    @property
    def n_edges(self) -> int:
        """Edges E."""
        return len(self.pair)


def edges_of(graph: AtomGraph, pair: Tensor) -> Edges:
    """The edges of ``graph``; asks the device for nothing."""
    parts = (pair, graph.centre, graph.neighbour, graph.by_neighbour)
    return Edges(*(x.int() for x in (*parts, graph.species, graph.row_start)))
