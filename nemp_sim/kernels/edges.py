"""Edges of an AtomGraph as the kernels read them, and their vectors as functions of positions."""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from nemp_sim.graph import AtomGraph
from nemp_sim.kernels.triton_geometry import edge_geometry, position_back

EDGE_BLOCK = 256  # edges of a program of ``edge_geometry``
ATOM_BLOCK = 64  # edges that ``position_back`` takes at once


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


def edges_of(graph: AtomGraph, n_elements: int, dtype: torch.dtype) -> tuple[Tensor, Edges]:
    """Vectors (E, 3) of the edges of ``graph``, differentiable once, and the edges.

    Asks the device for nothing.
    """
    vectors, pair, centre, neighbour = _Vectors.apply(
        graph.positions, graph.cells, graph, n_elements, dtype
    )
    rest = (graph.by_neighbour, graph.species, graph.row_start)
    return vectors, Edges(pair, centre, neighbour, *(x.int() for x in rest))


class _Vectors(torch.autograd.Function):
    """r_j − r_i + S · cell, as ``AtomGraph.edge_vectors``."""

    @staticmethod
    def forward(ctx, positions, cells, graph, n_elements, dtype):  # noqa: ANN001, ANN205
        n_edges = len(graph.centre)
        vectors = positions.new_empty(n_edges, 3, dtype=dtype)
        ints = [positions.new_empty(n_edges, dtype=torch.int32) for _ in range(3)]
        with torch.cuda.device_of(positions):
            edge_geometry[(triton.cdiv(n_edges, EDGE_BLOCK),)](
                positions.contiguous(), cells.contiguous(), graph.structure, graph.species,
                graph.centre, graph.neighbour, graph.shifts, vectors, *ints, n_edges,
                ELEMENTS=n_elements, BLOCK=EDGE_BLOCK, num_warps=4,
            )  # fmt: skip
        ctx.graph = graph
        ctx.mark_non_differentiable(*ints)
        return vectors, *ints

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, *_):  # noqa: ANN001, ANN002, ANN205
        graph, grad = ctx.graph, grad.contiguous()
        of_positions = of_cells = None
        if ctx.needs_input_grad[0]:
            of_positions = torch.empty_like(graph.positions)
            with torch.cuda.device_of(grad):
                position_back[(len(graph.species),)](
                    grad, graph.row_start, graph.by_neighbour, of_positions, BLOCK=ATOM_BLOCK,
                    num_warps=1,
                )  # fmt: skip
        if ctx.needs_input_grad[1]:
            each = graph.shifts[:, :, None] * grad.double()[:, None, :]  # (E, 3, 3)
            of_cells = graph.sum_atoms(graph.sum_edges(each))
        return of_positions, of_cells, None, None, None
