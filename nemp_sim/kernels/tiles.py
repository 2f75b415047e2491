"""Edges of an AtomGraph in tiles, as the kernels read them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nemp_sim.graph import AtomGraph


@dataclass(frozen=True)
class Edges:
    """Edges of an AtomGraph, 32-bit.

    Tile p holds ``tile`` consecutive edges, p · tile and on, of one or more centres. Its sum over
    the edges of centre c goes to row p + c of a buffer: no two share a row, for with each tile or
    centre on the way the row grows. The rows of a centre stand together, in the order of the tiles.

    Attributes:
        pair: (E,) ordered pair of elements.
        centre: (E,) ascending.
        neighbour: (E,).
        by_neighbour: (E,) edges sorted by neighbour.
        sorted_neighbour: (E,) their neighbours, ascending; each atom as often as in ``centre``.
        species: (N,).
        first_row: (N,) of the rows of each centre.
        end_row: (N,) likewise; the first where a centre has no edges.
        tile: edges of a tile.
    """

    pair: Tensor
    centre: Tensor
    neighbour: Tensor
    by_neighbour: Tensor
    sorted_neighbour: Tensor
    species: Tensor
    first_row: Tensor
    end_row: Tensor
    tile: int

    @property
    def n_atoms(self) -> int:
        """Atoms N."""
        return len(self.species)

    @property
    def n_edges(self) -> int:
        """Edges E."""
        return len(self.pair)

    @property
    def n_tiles(self) -> int:
        """Number of tiles."""
        return -(-self.n_edges // self.tile)


def edges_of(graph: AtomGraph, pair: Tensor, tile: int) -> Edges:
    """Tiles of ``tile`` edges; asks the device for nothing."""
    start, end = graph.row_start[:-1], graph.row_start[1:]
    atoms = torch.arange(len(start), device=pair.device)
    first = start // tile + atoms
    last = torch.where(end > start, (end - 1) // tile + atoms + 1, first)
    by_neighbour = graph.by_neighbour
    parts = (pair, graph.centre, graph.neighbour, by_neighbour, graph.neighbour[by_neighbour])
    return Edges(*(x.int() for x in (*parts, graph.species, first, last)), tile)
