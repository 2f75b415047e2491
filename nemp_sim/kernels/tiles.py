"""Edges of an AtomGraph in tiles, as the kernels read them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nemp_sim.graph import AtomGraph


@dataclass(frozen=True)
class Edges:
    """Edges of an AtomGraph as the kernels read them, 32-bit.

    Attributes:
        pair: (E,) ordered pair of elements.
        centre: (E,).
        neighbour: (E,).
        by_neighbour: (E,).
        row_start: (N+1,).
        species: (N,).
        tile_start: (N+1,) first tile of each centre.
        tile_centre: (tiles,) centre of each tile, N beyond the last.
    """

    pair: Tensor
    centre: Tensor
    neighbour: Tensor
    by_neighbour: Tensor
    row_start: Tensor
    species: Tensor
    tile_start: Tensor
    tile_centre: Tensor

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
        """Bound of the number of tiles."""
        return len(self.tile_centre)


def edges_of(graph: AtomGraph, pair: Tensor, tile: int) -> Edges:
    """Tiles of up to ``tile`` edges of one centre each; asks the device for nothing."""
    n_atoms, n_edges = len(graph.species), len(pair)
    counts = (graph.row_start.diff() + tile - 1) // tile
    tile_start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    tiles = torch.arange(n_edges // tile + n_atoms, device=pair.device)
    tile_centre = torch.searchsorted(tile_start, tiles, right=True) - 1
    parts = (pair, graph.centre, graph.neighbour, graph.by_neighbour, graph.row_start)
    return Edges(*(x.int() for x in (*parts, graph.species, tile_start, tile_centre)))
