"""Resident structures, and recordings of the step from their positions to energies and forces.

Structures that come again and again with moving atoms stay on the device with their edges, within
the cutoff and the skin; only positions travel while the neighbour lists hold. On a GPU a step of a
small system takes as long as its hundreds of launches. A CUDA graph launches them all at once, but
for tensors of fixed places and sizes: so edges are padded to a size from a coarse ladder. Edges
beyond the cutoff, and the padding, add exact zeros.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from nemp_sim.graph import AtomGraph
from nemp_sim.neighbors import EdgeList, build_graph

SKIN_EDGES = 2**15  # up to here the edges of the skin cost less than leaving them out
MOST_EDGES = 2**20  # up to here launches take longer than kernels
MOST_SERIES = 8  # of structures that stay on the device
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


class Resident:
    """A series of structures on the device, with all edges of its lists.

    Attributes:
        lists: the edges of the structures; the same objects while they hold.
        graph: the structures, with the positions of the last ``move``.
        served: what was computed for them, each the ``wanted`` of a ``Replays.step``.
    """

    def __init__(
        self,
        structures: Sequence[Atoms],
        lists: tuple[EdgeList, ...],
        species_of_number: Tensor,
        device: torch.device,
    ) -> None:
        """Bring the structures to the device."""
        self.lists, self.served = lists, set[tuple[object, ...]]()
        self.graph = build_graph(structures, lists, species_of_number, device)

    def move(self, structures: Sequence[Atoms]) -> None:
        """Take the positions of the structures; all else is as it was while the lists hold."""
        positions = np.concatenate([atoms.positions for atoms in structures])
        self.graph.positions.copy_(torch.from_numpy(positions))


class Replay:
    """One step, recorded for tensors of fixed size.

    Attributes:
        source: the graph whose edges are in place; None where they are of one step alone.
    """

    def __init__(self, work: Work, graph: AtomGraph, pool: Any) -> None:  # noqa: ANN401 (torch's)
        """Record ``work`` on a padded graph, which becomes the place of all later ones.

        Args:
            work: the step.
            graph: the padded graph.
            pool: memory that recordings share, for they never run at once; None: nothing is
                recorded, and each step runs ``work`` (tests on a CPU).
        """
        self._work, self._graph, self._recording = work, graph, None
        self.source: AtomGraph | None = None
        if pool is None:
            return
        with torch.cuda.device(graph.positions.device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # what is made or compiled once is not recorded
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

    def move(self, positions: Tensor) -> None:
        """Take other positions (N, 3) of the same atoms, Å."""
        self._graph.positions[: len(positions)].copy_(positions)

    def step(self) -> Named:
        """The results on the CPU."""
        if self._recording is None:
            return _Results.of(self._work(self._graph)).on_host()
        self._recording.replay()
        return self._results.on_host()


class Replays:
    """Series of structures on a device, and recordings by size: made where one comes twice.

    Attributes:
        works: false once a recording has failed; a warning then said why.
        n_recorded: recordings made so far.
    """

    def __init__(self, cutoff: float, species_of_number: Tensor, device: torch.device) -> None:
        """Start without any. On a CPU steps are padded but not recorded (tests)."""
        self.works, self.n_recorded = True, 0
        self._cutoff, self._species, self._device = cutoff, species_of_number, device
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._residents: OrderedDict[tuple[int, ...], Resident] = OrderedDict()
        self._recordings: OrderedDict[tuple[object, ...], Replay | None] = OrderedDict()

    def step(
        self,
        work: Work,
        structures: Sequence[Atoms],
        lists: Sequence[EdgeList],
        wanted: tuple[object, ...],
        skin: bool,
    ) -> Named:
        """Results of ``work`` for the structures, on the CPU.

        Args:
            work: the step, the same for the same ``wanted``.
            structures: B structures, none of them empty.
            lists: their edges.
            wanted: what the step computes.
            skin: the lists have edges beyond the cutoff and are the same objects while they hold.
        """
        resident = self._resident(structures, tuple(lists), skin)
        results = self._step(work, resident.graph, wanted, skin)
        resident.served.add(wanted)
        return results

    def has_served(self, lists: tuple[EdgeList, ...], wanted: tuple[object, ...]) -> bool:
        """Whether ``step`` has given results for structures with these lists, which still stay."""
        found = self._residents.get(tuple(map(id, lists)))
        return found is not None and wanted in found.served

    def _step(self, work: Work, source: AtomGraph, wanted: tuple[object, ...], skin: bool) -> Named:
        """Results of ``work`` for structures on the device."""
        graph = source
        if skin and len(graph.centre) > SKIN_EDGES:
            graph = graph.within(self._cutoff)
        n_edges = len(graph.centre)
        if not self.works or not 0 < n_edges <= MOST_EDGES:
            return _Results.of(work(graph)).on_host()
        n_atoms, n_structures = len(graph.species), graph.n_structures
        key = (n_atoms, n_structures, ladder(n_edges)[0], wanted)
        if key not in self._recordings:  # recorded when it comes again
            _remember(self._recordings, key, None, MOST_GRAPHS)
            return _Results.of(work(graph)).on_host()
        try:
            results = self._recorded(key, work, graph, source).step()
        except RuntimeError as error:
            warnings.warn(
                f"steps cannot be recorded as CUDA graphs ({str(error).splitlines()[0]}); they go "
                "on without, with the same results, several times slower for small systems.",
                stacklevel=2,
            )
            self.works = False
            self._recordings.clear()
            return _Results.of(work(graph)).on_host()
        return {  # without the padding, which adds one structure and at least two atoms
            name: value[: n_atoms if len(value) > n_structures + 1 else n_structures]
            for name, value in results.items()
        }

    def clear(self) -> None:
        """Give all memory back."""
        self._residents.clear()
        self._recordings.clear()

    def _resident(
        self, structures: Sequence[Atoms], lists: tuple[EdgeList, ...], lasting: bool
    ) -> Resident:
        """The structures on the device, where they stay if their lists are ``lasting``."""
        key = tuple(map(id, lists))  # of objects that the resident keeps alive
        found = self._residents.get(key)
        if found is None:
            found = Resident(structures, lists, self._species, self._device)
        else:
            found.move(structures)
        if lasting:
            _remember(self._residents, key, found, MOST_SERIES)
        return found

    def _recorded(
        self, key: tuple[object, ...], work: Work, graph: AtomGraph, source: AtomGraph
    ) -> Replay:
        """The recording of a size, with this graph in place."""
        replay = self._recordings[key]
        if replay is None:
            replay = Replay(work, padded(graph), self._pool)
            self.n_recorded += 1
        elif replay.source is graph:
            replay.move(graph.positions)
        else:
            replay.load(padded(graph))
        replay.source = graph if graph is source else None
        _remember(self._recordings, key, replay, MOST_GRAPHS)
        return replay


def _remember(kept: OrderedDict, key: object, value: object, most: int) -> None:
    """Put a value at the end; the one unused for longest makes room."""
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > most:
        kept.popitem(last=False)
