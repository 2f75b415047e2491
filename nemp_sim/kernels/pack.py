"""Edges within the cutoff, kept by a few kernels: ``padding.packed`` takes fifty."""

from dataclasses import replace

import torch
import triton
from torch import Tensor

from nemp_sim.graph import AtomGraph
from nemp_sim.kernels.sizes import FEW_ATOMS, PROGRAMS, edges_at_once
from nemp_sim.kernels.triton_pack import count_near, keep_near, keep_order, pad_edges

PAD_BLOCK = 256


def pack(graph: AtomGraph, cutoff: float, size: int, n_atoms: int) -> tuple[AtomGraph, Tensor]:
    """As ``padding.packed``."""
    n_pad, grid = len(graph.species) - n_atoms, (min(n_atoms, PROGRAMS),)
    positions, shape = graph.positions, edges_at_once(n_atoms <= FEW_ATOMS)
    square = positions.new_full((1,), cutoff**2)
    edges = (
        *(positions, graph.cells, graph.shifts, graph.neighbour, graph.structure),
        *(graph.row_start, square),
    )
    with torch.cuda.device_of(positions):
        counts = graph.centre.new_zeros(n_atoms + 1)
        count_near[grid](*edges, counts[1:], n_atoms, **shape)
        first = counts.cumsum(0)
        centre, neighbour, order = graph.centre.new_empty(3, size)
        start, shifts = torch.empty_like(graph.row_start), graph.shifts.new_empty(size, 3)
        place = torch.empty_like(graph.centre)
        kept = centre, neighbour, shifts
        keep_near[grid](*edges, first, *kept, place, n_atoms, size, **shape)
        keep_order[grid](
            graph.by_neighbour, graph.row_start, first, place, order, n_atoms, size, **shape
        )
        pad_edges[(triton.cdiv(max(size, len(start)), PAD_BLOCK),)](
            first, *kept, order, start, n_atoms, n_pad, size, BLOCK=PAD_BLOCK, num_warps=4
        )
    packed_graph = replace(
        graph, centre=centre, neighbour=neighbour, shifts=shifts, row_start=start,
        by_neighbour=order,
    )  # fmt: skip
    return packed_graph, first[-1]
