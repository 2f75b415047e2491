"""Replays: energies and forces of the same atoms again and again, as one CUDA graph each.

A step of a small system on a GPU takes as long as its hundreds of launches. A CUDA graph launches
them all at once, but for tensors of fixed places and sizes: so the edges, within the cutoff and the
skin, are padded to a size from a coarse ladder, and only positions travel while the lists hold.
Edges beyond the cutoff, and the padding, add exact zeros.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from nemp_sim.graph import AtomGraph
from nemp_sim.neighbors import EdgeList, build_graph

MOST_EDGES = 2**18  # beyond, kernels take longer than launches, and the edges of the skin cost more
MOST_GRAPHS = 8  # of different sizes; the one unused for longest makes room
STEPS_OF_OCTAVE = 8  # sizes of the ladder between a power of two and the next
PAD_EDGES = 64  # of a padding atom, at most
FAR_ANGSTROM = 1000.0  # length of a padding edge

Named = dict[str, Tensor]  # results of a step; each has a row for each atom or for each structure
Work = Callable[[AtomGraph], Named]


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


@dataclass
class _Results:
    """Results of a step in one tensor, so that they leave the device in one copy.

    Attributes:
        shapes: of each result, by name.
        flat: float64, all of them.
    """

    shapes: dict[str, torch.Size]
    flat: Tensor

    @classmethod
    def of(cls, results: Named) -> "_Results":
        shapes = {name: value.shape for name, value in results.items()}
        return cls(shapes, torch.cat([value.double().flatten() for value in results.values()]))

    def on_host(self) -> Named:
        """The results on the CPU; waits for the device."""
        parts = self.flat.cpu().split([shape.numel() for shape in self.shapes.values()])
        pairs = zip(self.shapes.items(), parts, strict=True)
        return {name: part.view(shape) for (name, shape), part in pairs}


class Replay:
    """One step, recorded for tensors of fixed size."""

    def __init__(self, work: Work, graph: AtomGraph, pool: object | None) -> None:
        """Record ``work`` on a padded graph, which becomes the place of all later ones.

        Args:
            work: the step.
            graph: the padded graph.
            pool: memory that recordings share, for they never run at once; None: nothing is
                recorded, and each step runs ``work``.
        """
        self._work, self._graph, self._recording = work, graph, None
        self.lists: tuple[EdgeList, ...] = ()
        if pool is None:
            return
        stream = torch.cuda.Stream(graph.positions.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # what is made once, compiled or chosen, is not recorded
            for _ in range(2):
                work(graph)
        torch.cuda.current_stream().wait_stream(stream)
        self._recording = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._recording, pool=pool):
            self._results = _Results.of(work(graph))

    def load(self, graph: AtomGraph) -> None:
        """Take another padded graph of the same sizes."""
        for name, value in vars(graph).items():
            getattr(self._graph, name).copy_(value)

    def move(self, positions: np.ndarray) -> None:
        """Take other positions (N, 3) of the same atoms, Å."""
        self._graph.positions[: len(positions)].copy_(torch.from_numpy(positions))

    def step(self) -> Named:
        """The results on the CPU."""
        if self._recording is None:
            return _Results.of(self._work(self._graph)).on_host()
        self._recording.replay()
        return self._results.on_host()


class Replays:
    """Recordings by size, made where a size comes for the second time; the oldest makes room.

    Attributes:
        works: false once a recording has failed; a warning then said why.
        n_recorded: recordings made so far.
    """

    def __init__(self, species_of_number: Tensor, device: torch.device) -> None:
        """Start without recordings. On a CPU steps are padded but not recorded (tests)."""
        self.works, self.n_recorded = True, 0
        self._species, self._device = species_of_number, device
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._recordings: OrderedDict[tuple[object, ...], Replay | None] = OrderedDict()

    def step(
        self,
        work: Work,
        structures: Sequence[Atoms],
        lists: Sequence[EdgeList],
        wanted: tuple[object, ...],
    ) -> Named | None:
        """Results of ``work`` for the structures, on the CPU; None where it is not recorded.

        Args:
            work: the step, the same for the same ``wanted``.
            structures: B structures.
            lists: their edges, those beyond the cutoff too; the same objects while they hold.
            wanted: what the step computes.
        """
        n_edges = sum(len(edges.centre) for edges in lists)
        sizes = [len(atoms) for atoms in structures]
        if not self.works or not 0 < n_edges <= MOST_EDGES or 0 in sizes:
            return None
        key = (sum(sizes), len(sizes), ladder(n_edges)[0], wanted)
        if key not in self._recordings:
            self._recordings[key] = None  # recorded when it comes again
            if len(self._recordings) > MOST_GRAPHS:
                self._recordings.popitem(last=False)
            return None
        self._recordings.move_to_end(key)
        try:
            results = self._replay(key, work, structures, tuple(lists)).step()
        except RuntimeError as error:
            warnings.warn(
                f"steps cannot be recorded as CUDA graphs ({str(error).splitlines()[0]}); they go "
                "on without, with the same results, several times slower for small systems.",
                stacklevel=2,
            )
            self.works = False
            self._recordings.clear()
            return None
        return {
            name: value[: key[0] if len(value) > key[1] + 1 else key[1]]
            for name, value in results.items()
        }

    def _replay(
        self,
        key: tuple[object, ...],
        work: Work,
        structures: Sequence[Atoms],
        lists: tuple[EdgeList, ...],
    ) -> Replay:
        """The recording of a size, with these structures in place."""
        replay = self._recordings[key]
        if replay is not None and len(replay.lists) == len(lists):
            if all(a is b for a, b in zip(replay.lists, lists, strict=True)):
                replay.move(np.concatenate([atoms.positions for atoms in structures]))
                return replay
        graph = build_graph(structures, lists, self._species, self._device)
        if replay is None:
            replay = Replay(work, padded(graph), self._pool)
            self._recordings[key] = replay
            self.n_recorded += 1
        else:
            replay.load(padded(graph))
        replay.lists = lists
        return replay
