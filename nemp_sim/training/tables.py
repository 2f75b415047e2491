"""Labelled frames as tensors on the training device, and batches of them that are all alike.

Frames of any size lie one behind the other. A batch is a gather into tensors of a fixed size, so
that a whole training step can be one CUDA graph: batches are dealt by size (``Batches``)
such that their atoms and edges add up to nearly the same number, and the small rest is padding.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase.geometry import complete_cell
from torch import Tensor

from nemp_sim.graph import AtomGraph
from nemp_sim.neighbors import edge_list
from nemp_sim.training.data import Frame

FAR_ANGSTROM = 1e3  # cell of the padding structure: its edges are longer than any cutoff


@dataclass(frozen=True)
class BatchSize:
    """Shape of one of the ``shares`` of a batch, which are computed apart.

    It has b ``frames`` padded to n ``atoms`` and e ``edges``; one atom at least is padding.
    """

    frames: int
    atoms: int
    edges: int
    shares: int = 1


@dataclass(frozen=True)
class FrameTable:
    """F frames with N atoms and E edges in all; indices are local to each frame.

    Attributes:
        positions: (N, 3) float64, Å.
        species: (N,) int64.
        forces: (N, 3) float64, eV/Å, zero where ``has_forces`` is zero.
        centre: (E,) int32, index within the frame; edges of a frame are sorted by it.
        neighbour: (E,) int32, index within the frame.
        by_neighbour: (E,) int32, edges of the frame sorted by neighbour, index within the frame.
        shifts: (E, 3) int16, cell vectors.
        cells: (F, 3, 3) float64, Å.
        first_atom: (F+1,) int64.
        first_edge: (F+1,) int64.
        head: (F,) int64, index of the read-out.
        energy: (F,) float64, eV.
        weight: (F,) float64, factor of the squared errors in the loss.
        has_forces: (F,) float64, one where there are force labels.
        virial: (F, 3, 3) float64, eV, V·stress, zero where ``has_stress`` is zero.
        has_stress: (F,) float64, one where there is a stress label.
        volume: (F,) float64, Å³.
    """

    positions: Tensor
    species: Tensor
    forces: Tensor
    centre: Tensor
    neighbour: Tensor
    by_neighbour: Tensor
    shifts: Tensor
    cells: Tensor
    first_atom: Tensor
    first_edge: Tensor
    head: Tensor
    energy: Tensor
    weight: Tensor
    has_forces: Tensor
    virial: Tensor
    has_stress: Tensor
    volume: Tensor

    def __len__(self) -> int:
        """Number of frames F."""
        return self.energy.shape[0]

    @property
    def n_atoms(self) -> Tensor:
        """Atoms of each frame (F,) int64."""
        return self.first_atom.diff()

    def size_of(self, index: Tensor) -> BatchSize:
        """The smallest shape that holds the frames ``index``."""
        atoms, edges = self.n_atoms[index].sum(), self.first_edge.diff()[index].sum()
        return BatchSize(len(index), int(atoms) + 1, max(int(edges), 1))

    def split(self, most_edges: int) -> Iterator[Tensor]:
        """All frames in their order, in runs of up to ``most_edges`` edges or of one frame."""
        counts, start, held = self.first_edge.diff().tolist(), 0, 0
        for frame, count in enumerate(counts):
            if held and held + count > most_edges:
                yield torch.arange(start, frame, device=self.energy.device)
                start, held = frame, 0
            held += count
        yield torch.arange(start, len(counts), device=self.energy.device)

    def batch(self, index: Tensor, size: BatchSize) -> tuple[AtomGraph, Tensor]:
        """The frames ``index`` (b,) as an AtomGraph of shape ``size``, and their forces (n, 3).

        The last structure, b, holds the padding: atoms far from each other.
        """
        device, b, n = index.device, size.frames, size.atoms
        atom, frame = _slots(self.first_atom, index, n)
        edge, frame_of_edge = _slots(self.first_edge, index, size.edges)
        counts = self.n_atoms.index_select(0, index)
        start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])  # (b+1,)
        is_edge = frame_of_edge < b

        # padding edges join padding atoms to far images of themselves, evenly
        edge_counts = self.first_edge.diff().index_select(0, index)
        n_atoms, n_edges = start[-1], edge_counts.sum()
        rank = torch.arange(size.edges, device=device) - n_edges
        spare = n_atoms + rank * (n - n_atoms) // (size.edges - n_edges).clamp(min=1)
        offset = start.index_select(0, frame_of_edge)

        def joined(local: Tensor) -> Tensor:
            return torch.where(is_edge, local.index_select(0, edge).long() + offset, spare)

        centre = joined(self.centre)
        first_edge = torch.cat([edge_counts.new_zeros(1), edge_counts.cumsum(0)])
        order = self.by_neighbour.index_select(0, edge) + first_edge.index_select(0, frame_of_edge)
        shifts = self.shifts.index_select(0, edge).double()
        far = self.cells.new_full((1, 3, 3), FAR_ANGSTROM)
        graph = AtomGraph(
            positions=self.positions.index_select(0, atom),
            cells=torch.cat([self.cells.index_select(0, index), far]),
            species=self.species.index_select(0, atom),
            structure=frame,
            head=torch.cat([self.head.index_select(0, index), self.head.new_zeros(1)]),
            first_atom=torch.cat([start, start.new_full((1,), n)]),
            centre=centre,
            neighbour=joined(self.neighbour),
            shifts=torch.where(is_edge[:, None], shifts, torch.ones_like(shifts)),
            row_start=torch.searchsorted(centre, torch.arange(n + 1, device=device)),
            by_neighbour=torch.where(is_edge, order, n_edges + rank),
        )
        return graph, self.forces.index_select(0, atom)


def _slots(first: Tensor, index: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    """Source row and frame (b for padding) of each slot of a batch.

    Args:
        first: (F+1,) first row of each frame.
        index: (b,) frames of the batch.
        capacity: number of slots.
    """
    starts = first.index_select(0, index)
    counts = first.index_select(0, index + 1) - starts
    ends = counts.cumsum(0)
    slot = torch.arange(capacity, device=index.device)
    frame = torch.searchsorted(ends, slot, right=True)
    inside = frame.clamp(max=len(index) - 1)
    source = (starts - ends + counts).index_select(0, inside) + slot
    return torch.where(frame < len(index), source, 0), frame


def build_table(
    frames: Sequence[Frame],
    elements: Sequence[int],
    cutoff: float,
    device: torch.device,
    heads: Sequence[str] = ("default",),
) -> FrameTable:
    """Neighbour lists and labels of ``frames`` as one FrameTable on ``device``."""
    species_of = np.full(max(elements) + 1, -1)
    species_of[list(elements)] = np.arange(len(elements))
    edges = [edge_list(f.atoms, cutoff) for f in frames]
    cells = np.stack([complete_cell(f.atoms.cell.array) for f in frames])
    forces = [np.zeros((len(f.atoms), 3)) if f.forces is None else f.forces for f in frames]
    stressed = [f.stress is not None for f in frames]
    volume = np.abs(np.linalg.det(cells))
    stress = [np.zeros((3, 3)) if f.stress is None else f.stress for f in frames]
    no_edge = np.zeros(0 if any(len(e.centre) for e in edges) else 1)  # a row that padding can read
    arrays = {
        "positions": np.concatenate([f.atoms.positions for f in frames]),
        "species": np.concatenate([species_of[f.atoms.numbers] for f in frames]),
        "forces": np.concatenate(forces),
        "centre": np.concatenate([*(e.centre for e in edges), no_edge]).astype(np.int32),
        "neighbour": np.concatenate([*(e.neighbour for e in edges), no_edge]).astype(np.int32),
        "by_neighbour": np.concatenate(
            [*(np.argsort(e.neighbour, kind="stable") for e in edges), no_edge]
        ).astype(np.int32),
        "shifts": np.concatenate([*(e.shifts for e in edges), no_edge[:, None] * [0, 0, 0]]).astype(
            np.int16
        ),
        "cells": cells,
        "first_atom": np.cumsum([0, *(len(f.atoms) for f in frames)]),
        "first_edge": np.cumsum([0, *(len(e.centre) for e in edges)]),
        "head": np.array([heads.index(f.head) for f in frames]),
        "energy": np.array([f.energy for f in frames]),
        "weight": np.array([f.weight for f in frames], dtype=float),
        "has_forces": np.array([f.forces is not None for f in frames], dtype=float),
        "virial": np.stack(stress) * volume[:, None, None],
        "has_stress": np.array(stressed, dtype=float),
        "volume": volume,
    }
    return FrameTable(**{k: torch.from_numpy(v).to(device) for k, v in arrays.items()})


class Batches:
    """Batches of all frames of a table, dealt anew each epoch, all of one shape.

    The frames are sorted by size and cut into as many strata as a batch holds frames; a batch gets
    one frame of each stratum at random. So every frame is used once in an epoch, and the atoms and
    edges of the batches add up to nearly the same numbers, whose largest possible values are the
    shape. An incomplete stratum is filled up with frames drawn at random.

    Each batch is shared out: share r of w gets frames r, r + w, … Every process has as many shares
    as keep each at ``most_edges`` edges or below, or of one frame, its frames being dealt evenly:
    they are computed one after the other, which takes the memory of one.

    Attributes:
        count: batches in an epoch.
        size: shape of a share.
    """

    def __init__(
        self,
        table: FrameTable,
        batch_size: int,
        seed: int,
        processes: int = 1,
        most_edges: float = math.inf,
    ) -> None:
        """Sort the frames of ``table``; ``batch_size`` is that of all processes together."""
        self.seed, self.n_strata = seed, min(batch_size, len(table))
        self.count = math.ceil(len(table) / self.n_strata)
        self.edges = table.first_edge.diff().cpu().numpy()
        self.atoms = table.n_atoms.cpu().numpy()
        mine = self.n_strata // processes
        for parts in (n for n in range(1, mine + 1) if mine % n == 0):
            self.size = self._largest(processes * parts)
            if self.size.edges <= most_edges:
                break

    def epoch(self, epoch: int) -> Iterator[Tensor]:
        """Frame indices (b,) of each batch; depends on the seed and ``epoch`` alone."""
        rng = np.random.default_rng([self.seed, epoch])
        n_frames = len(self.edges)
        extra = rng.choice(n_frames, self.count * self.n_strata - n_frames, replace=False)
        order = rng.permutation(np.concatenate([np.arange(n_frames), extra]))
        order = order[self._by_size(order)]
        strata = rng.permuted(order.reshape(self.n_strata, self.count), axis=1)
        yield from torch.from_numpy(np.ascontiguousarray(strata.T))

    def _by_size(self, frames: np.ndarray) -> np.ndarray:
        """Permutation that sorts ``frames`` by edges, equal ones by atoms: no tie is left open."""
        return np.lexsort((self.atoms[frames], self.edges[frames]))

    def _largest(self, shares: int) -> BatchSize:
        """Sum of the largest frame that each stratum can hold, for the share with most."""
        order = self._by_size(np.arange(len(self.edges)))
        n_extra = self.count * self.n_strata - len(order)
        atoms, edges = np.zeros(shares, int), np.zeros(shares, int)
        for stratum in range(self.n_strata):  # extra frames shift the others up by n_extra at most
            low = max(0, stratum * self.count - n_extra)
            reach = order[low : (stratum + 1) * self.count]
            share = stratum % shares
            atoms[share] += self.atoms[reach].max()
            edges[share] += self.edges[reach].max()
        frames = self.n_strata // shares
        return BatchSize(frames, int(atoms.max()) + 1, max(int(edges.max()), 1), shares)
