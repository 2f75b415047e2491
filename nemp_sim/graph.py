"""AtomGraph: a batch of structures as tensors, with the sums and gathers that the network needs."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from nemp_sim.torch_state import is_traced


@dataclass(frozen=True)
class AtomGraph:
    """Structures b = 0 … B−1 with N atoms and E directed edges in all, edges sorted by centre.

    The edge list is full: each pair stands in both directions, so every atom is the neighbour of
    as many edges as it is the centre of.

    Attributes:
        positions: (N, 3) float64, Å.
        cells: (B, 3, 3) float64, Å; rows are the cell vectors.
        species: (N,) int64, index into the elements of the potential.
        structure: (N,) int64, ascending, the structure of each atom.
        head: (B,) int64, index of the read-out (level of theory) of each structure.
        first_atom: (B+1,) int64, first atom of each structure.
        centre: (E,) int64, ascending, centre atom i of each edge.
        neighbour: (E,) int64, neighbour atom j of each edge.
        shifts: (E, 3) float64, whole numbers of cell vectors added to r_j − r_i.
        row_start: (N+1,) int64, first edge of each centre.
        by_neighbour: (E,) int64, permutation that sorts the edges by neighbour.
    """

    positions: Tensor
    cells: Tensor
    species: Tensor
    structure: Tensor
    head: Tensor
    first_atom: Tensor
    centre: Tensor
    neighbour: Tensor
    shifts: Tensor
    row_start: Tensor
    by_neighbour: Tensor

    @property
    def n_structures(self) -> int:
        """Number of structures B."""
        return self.cells.shape[0]

    def edge_vectors(self) -> Tensor:
        """r_j − r_i + S · cell, (E, 3) float64, Å."""
        cell_of_edge = self.at_centre(self.at_atoms(self.cells))
        offset = (self.shifts[:, :, None] * cell_of_edge).sum(1)
        return self.at_neighbour(self.positions) - self.at_centre(self.positions) + offset

    def at_centre(self, values: Tensor) -> Tensor:
        """Node values (N, …) at the centre of each edge, (E, …)."""
        return gather(values, self.centre, self.row_start)

    def at_neighbour(self, values: Tensor) -> Tensor:
        """Node values (N, …) at the neighbour of each edge, (E, …)."""
        return gather(values, self.neighbour, self.row_start, self.by_neighbour)

    def sum_edges(self, values: Tensor) -> Tensor:
        """Sum of edge values (E, …) over the edges of each centre, (N, …)."""
        if is_traced():  # plain operations of any sizes, which name no device
            zeros = (self.species * 0).to(values.dtype).reshape(-1, *[1] * (values.dim() - 1))
            return zeros.expand(-1, *values.shape[1:]).index_add(0, self.centre, values)
        return _SegmentSum.apply(values, self.centre, self.row_start, None)

    def sum_atoms(self, values: Tensor) -> Tensor:
        """Sum of atomic values (N, …) over the atoms of each structure, (B, …)."""
        return _SegmentSum.apply(values, self.structure, self.first_atom, None)

    def at_atoms(self, values: Tensor) -> Tensor:
        """Values of each structure (B, …) at its atoms, (N, …)."""
        return gather(values, self.structure, self.first_atom)

    def within(self, cutoff: float) -> Self:
        """The same atoms with the edges shorter than ``cutoff`` (Å); asks the device how many."""
        near = self.edge_vectors().square().sum(1) < cutoff**2  # (E,); of both directions alike
        index = near.nonzero()[:, 0]
        count = torch.cat(
            [near.new_zeros(1, dtype=torch.int64), near.cumsum(0)]
        )  # before each edge
        order = self.by_neighbour.index_select(0, near[self.by_neighbour].nonzero()[:, 0])
        return replace(
            self,
            centre=self.centre.index_select(0, index),
            neighbour=self.neighbour.index_select(0, index),
            shifts=self.shifts.index_select(0, index),
            row_start=count.index_select(0, self.row_start),
            by_neighbour=count.index_select(0, order),
        )

    def strained(self, strain: Tensor) -> Self:
        """Positions and cells after the symmetric strain (B, 3, 3): r → r (1 + ε)."""
        deform = torch.eye(3, dtype=strain.dtype, device=strain.device) + strain
        positions = (self.positions[:, None, :] @ self.at_atoms(deform))[:, 0, :]
        return replace(self, positions=positions, cells=self.cells @ deform)

    def to(self, device: torch.device) -> Self:
        """The same graph on another device."""
        tensors = {name: value.to(device) for name, value in vars(self).items()}
        return replace(self, **tensors)


def gather(values: Tensor, index: Tensor, first: Tensor, order: Tensor | None = None) -> Tensor:
    """Rows ``values[index]`` of values (N, …), (E, …), to be differentiated to any order.

    Args:
        values: node values.
        index: (E,) node of each row.
        first: (N+1,) first row of each node, once the rows are sorted by node.
        order: (E,) permutation that sorts the rows by node; None: they are sorted.
    """
    if is_traced():
        return values.index_select(0, index)
    return _Gather.apply(values, index, first, order)


class _Gather(torch.autograd.Function):
    """values[index]; its derivative is the segment sum, so it differentiates to any order."""

    @staticmethod
    def forward(values, index, row_start, order):  # noqa: ANN001, ANN205 (torch's signature)
        return values.index_select(0, index)

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: ANN001, ANN205
        _, index, row_start, ctx.order = inputs
        ctx.save_for_backward(index, row_start)

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001, ANN205
        index, row_start = ctx.saved_tensors
        return _SegmentSum.apply(grad, index, row_start, ctx.order), None, None, None

    @staticmethod
    def vmap(info, in_dims, values, *rest):  # noqa: ANN001, ANN002, ANN205
        return _batch_last(_Gather, in_dims[0], values, rest)


class _SegmentSum(torch.autograd.Function):
    """Sum of the edge values of each node, in a fixed order, so that every run gives equal bits.

    ``order`` is None where the edges are sorted by ``index``, else the permutation that sorts them.
    """

    @staticmethod
    def forward(values, index, row_start, order):  # noqa: ANN001, ANN205
        n_nodes = row_start.shape[0] - 1
        if values.device.type == "cpu":
            return values.new_zeros(n_nodes, *values.shape[1:]).index_add_(0, index, values)
        sorted_values = values if order is None else values.index_select(0, order)
        return torch.segment_reduce(
            sorted_values.contiguous(), "sum", offsets=row_start, axis=0, unsafe=True, initial=0
        )

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: ANN001, ANN205
        _, index, row_start, ctx.order = inputs
        ctx.save_for_backward(index, row_start)

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001, ANN205
        index, row_start = ctx.saved_tensors
        return _Gather.apply(grad, index, row_start, ctx.order), None, None, None

    @staticmethod
    def vmap(info, in_dims, values, *rest):  # noqa: ANN001, ANN002, ANN205
        return _batch_last(_SegmentSum, in_dims[0], values, rest)


def _batch_last(function, batch_dim, values, rest):  # noqa: ANN001, ANN202
    """Both functions leave trailing axes alone, so a vmapped axis simply becomes the last one."""
    result = function.apply(values.movedim(batch_dim, -1), *rest)
    return result, result.dim() - 1
