"""Recordings of the step from positions on a device to energies and forces.

On a GPU a step of a small system takes as long as its hundreds of launches. A CUDA graph launches
them all at once, but for tensors of fixed places and sizes: so edges are padded to a size from a
coarse ladder. Where they are many, those of the skin are left out within the recording.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nemp_sim.graph import AtomGraph
from nemp_sim.padding import ladder, packed, padded
from nemp_sim.resident import Residents

SKIN_EDGES = 2**12  # up to here the edges of the skin cost less than leaving them out
MOST_EDGES = 2**21  # with those of the skin; up to here launches take longer than kernels
MOST_GRAPHS = 8  # of different sizes; the one unused for longest makes room
SPARE = 1.02  # places for edges within the cutoff, over those of the first step
ROUNDED = 2**10  # and up to a multiple of this, with half of it to spare

Named = dict[str, Tensor]  # results of a step; each has a row for each atom or for each structure
Work = Callable[[AtomGraph], Named]


@dataclass
class _Results:
    """Results of a step in one tensor, so that they leave the device in one copy.

    Attributes:
        shapes: of each result, by name.
        flat: float64, all of them, and in front a number of edges.
    """

    shapes: dict[str, torch.Size]
    flat: Tensor

    @classmethod
    def of(cls, results: Named, count: Tensor | None = None) -> "_Results":
        shapes = {name: value.shape for name, value in results.items()}
        values = [value.double().flatten() for value in results.values()]
        head = values[0].new_zeros(1) if count is None else count.double()[None]
        return cls(shapes, torch.cat([head, *values]))

    def on_host(self) -> tuple[Named, int]:
        """As ``apart``; waits for the device."""
        return self.apart(self.flat.cpu())

    def apart(self, flat: Tensor) -> tuple[Named, int]:
        """The results in ``flat``, a copy on the CPU, by name, and the number of edges."""
        sizes = [shape.numel() for shape in self.shapes.values()]
        count, *parts = flat.split([1, *sizes])
        pairs = zip(self.shapes.items(), parts, strict=True)
        return {name: part.view(shape) for (name, shape), part in pairs}, int(count)


class Replay:
    """One step, recorded for tensors of fixed size.

    Attributes:
        source: the graph whose edges are in place; None where they are of one step alone.
        capacity: edges within the cutoff that there is room for; None: all edges are taken.
    """

    def __init__(
        self,
        work: Work,
        graph: AtomGraph,
        pool: Any,  # noqa: ANN401 (torch's)
        cutoff: float | None = None,
    ) -> None:
        """Record ``work`` on a padded graph, which becomes the place of all later ones.

        Args:
            work: the step.
            graph: the graph; it is padded here.
            pool: memory that recordings share, for they never run at once; None: nothing is
                recorded, and each step runs ``work`` (tests on a CPU).
            cutoff: edges beyond are left out, Å; None: all are taken.
        """
        self._work, self._recording = work, None
        self._graph, self._n_atoms, self._cutoff = padded(graph), len(graph.species), cutoff
        self.source: AtomGraph | None = None
        self.capacity: int | None = None
        if cutoff is not None:
            near = graph.edge_vectors().square().sum(1) < cutoff**2
            self.capacity = -(-int(SPARE * int(near.sum()) + ROUNDED / 2) // ROUNDED) * ROUNDED
        if pool is None:
            return
        with torch.cuda.device(graph.positions.device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # what is made or compiled once is not recorded
                for _ in range(2):
                    results = self._run()
            torch.cuda.current_stream().wait_stream(stream)
            self._host = torch.empty_like(results.flat, device="cpu", pin_memory=True)
            self._recording = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._recording, pool=pool):
                self._results = self._run()
                self._host.copy_(self._results.flat, non_blocking=True)

    def _run(self) -> _Results:
        if self._cutoff is None or self.capacity is None:
            return _Results.of(self._work(self._graph))
        graph, count = packed(self._graph, self._cutoff, self.capacity, self._n_atoms)
        return _Results.of(self._work(graph), count)

    def load(self, graph: AtomGraph) -> None:
        """Take another graph of the same sizes, once padded."""
        for name, value in vars(padded(graph)).items():
            getattr(self._graph, name).copy_(value)

    def move(self, positions: Tensor) -> None:
        """Take other positions (N, 3) of the same atoms, Å."""
        self._graph.positions[: len(positions)].copy_(positions)

    def step(self) -> Named | None:
        """The results on the CPU; None where more edges are within the cutoff than have room."""
        if self._recording is None:
            results, count = self._run().on_host()
        else:
            self._recording.replay()
            torch.cuda.current_stream(self._graph.positions.device).synchronize()
            results, count = self._results.apart(self._host.clone())
        return results if self.capacity is None or count <= self.capacity else None


class Replays:
    """Steps of graphs on a device, and recordings by size: made where one comes twice.

    Attributes:
        residents: the series of structures on the device.
        works: false once a recording has failed; a warning then said why.
        n_recorded: recordings made so far.
    """

    def __init__(self, cutoff: float, species_of_number: Tensor, device: torch.device) -> None:
        """Start without any. On a CPU steps are padded but not recorded (tests)."""
        self.residents = Residents(species_of_number, device)
        self.works, self.n_recorded = True, 0
        self._cutoff = cutoff
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._recordings: OrderedDict[tuple[object, ...], Replay | None] = OrderedDict()

    def step(
        self, work: Work, graph: AtomGraph, wanted: tuple[object, ...], lasting: bool
    ) -> Named:
        """Results of ``work`` for structures on the device, on the CPU.

        Args:
            work: the step, the same for the same ``wanted``.
            graph: the structures, none of them empty.
            wanted: what the step computes.
            lasting: the graph has the edges of a skin, and is the same object while they hold.
        """
        many = lasting and len(graph.centre) > SKIN_EDGES
        if not self.works or not 0 < len(graph.centre) <= MOST_EDGES:
            return self._unrecorded(work, graph, many)
        key = (len(graph.species), graph.n_structures, ladder(len(graph.centre))[0], many, wanted)
        if key not in self._recordings:  # recorded when it comes again
            _remember(self._recordings, key, None, MOST_GRAPHS)
            return self._unrecorded(work, graph, many)
        try:
            results = self._recorded(key, work, graph, lasting).step()
        except RuntimeError as error:
            warnings.warn(
                f"steps cannot be recorded as CUDA graphs ({str(error).splitlines()[0]}); they go "
                "on without, with the same results, several times slower for small systems.",
                stacklevel=2,
            )
            self.works = False
            self._recordings.clear()
            return self._unrecorded(work, graph, many)
        if results is None:  # recorded anew, with more room, when it comes again
            _remember(self._recordings, key, None, MOST_GRAPHS)
            return self._unrecorded(work, graph, many)
        n_atoms, n_structures = len(graph.species), graph.n_structures
        return {  # without the padding, which adds one structure and at least two atoms
            name: value[: n_atoms if len(value) > n_structures + 1 else n_structures]
            for name, value in results.items()
        }

    def clear(self) -> None:
        """Give all memory back."""
        self.residents.clear()
        self._recordings.clear()

    def _unrecorded(self, work: Work, graph: AtomGraph, many: bool) -> Named:
        return _Results.of(work(graph.within(self._cutoff) if many else graph)).on_host()[0]

    def _recorded(
        self, key: tuple[object, ...], work: Work, graph: AtomGraph, lasting: bool
    ) -> Replay:
        """The recording of a size, with this graph in place."""
        replay = self._recordings[key]
        if replay is None:
            many = lasting and len(graph.centre) > SKIN_EDGES
            replay = Replay(work, graph, self._pool, self._cutoff if many else None)
            self.n_recorded += 1
        elif replay.source is graph:
            replay.move(graph.positions)
        else:
            replay.load(graph)
        replay.source = graph if lasting else None
        _remember(self._recordings, key, replay, MOST_GRAPHS)
        return replay


def _remember(kept: OrderedDict, key: object, value: object, most: int) -> None:
    """Put a value at the end; the one unused for longest makes room."""
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > most:
        kept.popitem(last=False)
