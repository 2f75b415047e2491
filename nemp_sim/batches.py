"""Structures with their edges, taken through a network in batches that fit the memory."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from ase import Atoms
from torch import Tensor

from nemp_sim.errors import EvaluationError
from nemp_sim.graph import AtomGraph
from nemp_sim.memory import MemoryWarning, free_memory, is_out_of_memory
from nemp_sim.neighbors import EdgeList, build_graph

MEMORY_SHARE = 0.6  # of the free memory, for one batch
# Largest batch. On a CPU larger ones are up to 2.4 times slower for each structure; on a GPU they
# gain nothing, and leave no memory to other processes.
BATCH_BYTES = {"cpu": 2**28, "cuda": 12 * 2**30}

Part = TypeVar("Part")
Work = Callable[[list[int], AtomGraph], list[Part]]  # of the structures of a batch, and their graph


def room(device: torch.device) -> float:
    """Memory that one batch may take, bytes."""
    free = MEMORY_SHARE * free_memory(device)
    return min(free, BATCH_BYTES.get(device.type, free))


@dataclass(frozen=True)
class Batches:
    """A list of structures for one device.

    Attributes:
        structures: any number of them.
        edges: their edge lists.
        species_of_number: (119,) int64, species index of each atomic number.
        device: where they are evaluated.
        bytes_per_edge: memory that the evaluation takes.
    """

    structures: Sequence[Atoms]
    edges: Sequence[EdgeList]
    species_of_number: Tensor
    device: torch.device
    bytes_per_edge: float

    def split(self) -> Iterator[list[int]]:
        """Consecutive indices whose edges fit the free memory together."""
        limit = room(self.device) / self.bytes_per_edge
        batch: list[int] = []
        held = 0
        for index, e in enumerate(self.edges):
            if batch and held + len(e.centre) > limit:
                yield batch
                batch, held = [], 0
            batch.append(index)
            held += len(e.centre)
        if batch:
            yield batch

    def run(self, work: Work[Part]) -> list[Part]:
        """Results of ``work`` on all structures, batch after batch.

        Raises:
            EvaluationError: one structure alone exceeds the memory.
        """
        return [part for batch in self.split() for part in self._within_memory(batch, work)]

    def _within_memory(self, batch: list[int], work: Work[Part]) -> Iterator[Part]:
        """Results of ``work`` on a batch; halves it where memory runs out."""
        graph = None
        if len(batch) == 1:
            self._refuse_too_large(batch[0])
        try:
            graph = build_graph(
                [self.structures[b] for b in batch],
                [self.edges[b] for b in batch],
                self.species_of_number,
                self.device,
            )
            with torch.no_grad():
                result = work(batch, graph)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise self._too_large(batch[0]) from error
            result = None
        if result is not None:
            yield from result
            return
        del graph
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        warnings.warn(
            f"out of memory on {self.device}: a batch of {len(batch)} structures is evaluated in "
            "halves. The numbers stay the same, to rounding; it takes longer.",
            MemoryWarning,
            stacklevel=2,
        )
        middle = len(batch) // 2
        for half in (batch[:middle], batch[middle:]):
            yield from self._within_memory(half, work)

    def _refuse_too_large(self, index: int) -> None:
        """Stop before a structure on a CPU that an operating system would end the process for."""
        needed = len(self.edges[index].centre) * self.bytes_per_edge
        if self.device.type == "cpu" and needed > free_memory(self.device):
            raise self._too_large(index)

    def _too_large(self, index: int) -> EvaluationError:
        atoms, n_edges = self.structures[index], len(self.edges[index].centre)
        needed, free = n_edges * self.bytes_per_edge, free_memory(self.device)
        return EvaluationError(
            f"structure {index} ({len(atoms)} atoms, {n_edges} neighbour pairs) does not fit into "
            f"the memory of {self.device}: it takes some {needed / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free. Use a device with more memory, a smaller structure, or "
            "dtype float32."
        )
