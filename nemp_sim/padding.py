"""Graphs of fixed sizes: padded with edges beyond any cutoff, which add exact zeros."""

from dataclasses import replace

import torch
from torch import Tensor

from nemp_sim.graph import AtomGraph

STEPS_OF_OCTAVE = 8  # sizes of the ladder between a power of two and the next
PAD_EDGES = 64  # of a padding atom, at most
FAR_ANGSTROM = 1000.0  # length of a padding edge


def ladder(n: int) -> tuple[int, int]:
    """The size of the ladder at or above ``n``, and the one below that."""
    octave = max(n - 1, 2**10).bit_length() - 1
    step = 2**octave // STEPS_OF_OCTAVE
    size = -(-n // step) * step
    return size, size - step


def padded(graph: AtomGraph) -> AtomGraph:
    """The graph with edges up to a size of the ladder, of further atoms in a further structure.

    Each of these atoms has up to PAD_EDGES edges to its own image far beyond any cutoff. As many
    atoms are added as the largest number of edges of the same size takes, so that the shapes depend
    on the size alone.
    """
    n, n_edges, device = len(graph.species), len(graph.centre), graph.centre.device
    size, below = ladder(n_edges)
    n_more = -(-(size - below) // PAD_EDGES)
    more = size - n_edges
    own = n + torch.arange(more, device=device) // PAD_EDGES  # (more,) ascending
    far = FAR_ANGSTROM * torch.eye(3, dtype=torch.float64, device=device)

    def filled(values: Tensor, count: int, value: float) -> Tensor:
        return torch.cat([values, values.new_full((count, *values.shape[1:]), value)])

    shifts = filled(graph.shifts, more, 0.0)
    shifts[n_edges:, 0] = 1.0
    ends = n_edges + (torch.arange(n_more, device=device) + 1) * PAD_EDGES
    return AtomGraph(
        positions=filled(graph.positions, n_more, 0.0),
        cells=torch.cat([graph.cells, far[None]]),
        species=filled(graph.species, n_more, 0),
        structure=filled(graph.structure, n_more, graph.n_structures),
        head=filled(graph.head, 1, 0),
        first_atom=filled(graph.first_atom, 1, n + n_more),
        centre=torch.cat([graph.centre, own]),
        neighbour=torch.cat([graph.neighbour, own]),
        shifts=shifts,
        row_start=torch.cat([graph.row_start, ends.clamp(max=size)]),
        by_neighbour=torch.cat([graph.by_neighbour, torch.arange(n_edges, size, device=device)]),
    )


def packed(graph: AtomGraph, cutoff: float, size: int, n_atoms: int) -> tuple[AtomGraph, Tensor]:
    """A ``padded`` graph with its edges within ``cutoff`` (Å) alone, padded to ``size`` edges.

    All is done on the device, with tensors of fixed sizes. Also gives the number of these edges:
    where it is above ``size``, edges are missing and the graph is of no use.

    Args:
        graph: the padded graph.
        cutoff: Å.
        size: number of edges of the result.
        n_atoms: atoms that are no padding.
    """
    if graph.centre.is_cuda:
        from nemp_sim.kernels.pack import pack  # triton is not everywhere

        return pack(graph, cutoff, size, n_atoms)
    device, n_pad = graph.centre.device, len(graph.species) - n_atoms
    near = graph.edge_vectors().square().sum(1) < cutoff**2  # (E,); of both directions alike
    before = torch.cat([near.new_zeros(1, dtype=torch.int64), near.cumsum(0)])  # each edge
    ordered = near.index_select(0, graph.by_neighbour).cumsum(0)
    count, place = before[-1], torch.arange(size, device=device)
    real, last = place < count, len(graph.centre) - 1
    edge = torch.searchsorted(before[1:], place + 1).clamp(max=last)
    each = ((size - count + n_pad - 1) // n_pad).clamp(min=1)  # edges of a padding atom
    own = (n_atoms + (place - count) // each).clamp(min=n_atoms, max=n_atoms + n_pad - 1)
    ends = count + each * (torch.arange(n_pad, device=device) + 1)
    starts = torch.cat([before.index_select(0, graph.row_start[: n_atoms + 1]), ends])
    far = torch.eye(1, 3, dtype=torch.float64, device=device)  # a copy would end a recording
    turn = graph.by_neighbour.index_select(
        0, torch.searchsorted(ordered, place + 1).clamp(max=last)
    )
    packed_graph = replace(
        graph,
        centre=torch.where(real, graph.centre.index_select(0, edge), own),
        neighbour=torch.where(real, graph.neighbour.index_select(0, edge), own),
        shifts=torch.where(real[:, None], graph.shifts.index_select(0, edge), far),
        row_start=starts.clamp(max=size),
        by_neighbour=torch.where(real, before.index_select(0, turn), place).clamp(max=size - 1),
    )
    return packed_graph, count
