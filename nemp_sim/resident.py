"""Structures that stay on a device, with their pairs within the cutoff and a skin."""

import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from nemp_sim.errors import InputError
from nemp_sim.graph import AtomGraph
from nemp_sim.kernels.sizes import interpreted
from nemp_sim.neighbor_search import pairs
from nemp_sim.neighbors import NeighborLists, periodic_cell, refuse_dense
from nemp_sim.structures import LARGEST_NUMBER, check_structure

GIVEN = "positions", "cells", "species", "structure", "head", "first_atom"  # without pairs
MOST_EDGES_KEPT = 2**26  # of all series but the last: 3 GB


def on_device(arrays: Mapping[str, np.ndarray], device: torch.device) -> dict[str, Tensor]:
    """Arrays of float64 and int64 as tensors on a device, all in one copy."""
    flat = torch.from_numpy(
        np.concatenate([each.ravel().view(np.int64) for each in arrays.values()])
    )
    if device.type == "cuda":
        flat = flat.pin_memory()
    parts = flat.to(device, non_blocking=True).split([each.size for each in arrays.values()])
    kinds = {np.dtype(np.int64): torch.int64, np.dtype(np.float64): torch.float64}
    return {
        name: part.view(kinds[each.dtype]).view(each.shape)
        for (name, each), part in zip(arrays.items(), parts, strict=True)
    }


def device_graph(
    structures: Sequence[Atoms], cutoff: float, species_of_number: Tensor, device: torch.device
) -> AtomGraph:
    """As ``neighbors.build_graph``, with the pairs within ``cutoff`` (Å) found on the device.

    Raises:
        InputError: as ``neighbors.edge_list``.
    """
    for atoms in structures:
        refuse_dense(atoms, cutoff)
    sizes = np.array([len(atoms) for atoms in structures])
    numbers = np.concatenate([atoms.numbers for atoms in structures]).astype(np.int64)
    given = {
        "positions": np.concatenate([atoms.positions for atoms in structures]),
        "cells": np.stack([periodic_cell(atoms) for atoms in structures]),
        "species": species_of_number.numpy()[numbers],
        "structure": np.arange(len(sizes)).repeat(sizes),
        "head": np.zeros(len(sizes), dtype=np.int64),
        "first_atom": np.concatenate([[0], sizes.cumsum()]),
    }
    return _with_pairs(on_device(given, device), structures, cutoff)


def _with_pairs(
    given: Mapping[str, Tensor], structures: Sequence[Atoms], cutoff: float
) -> AtomGraph:
    """The graph of structures whose atoms are on the device."""
    cells = np.stack([periodic_cell(atoms) for atoms in structures])
    pbc = np.stack([atoms.pbc for atoms in structures])
    search = _search(given["positions"].device, structures, cells, pbc, cutoff)
    places = given["positions"], given["structure"], given["first_atom"]
    centre, neighbour, shifts, row_start = search(*places, cells, pbc, cutoff)
    return AtomGraph(
        **given,
        centre=centre,
        neighbour=neighbour,
        shifts=shifts,
        row_start=row_start,
        by_neighbour=neighbour.argsort(stable=True),
    )


def _search(
    device: torch.device,
    structures: Sequence[Atoms],
    cells: np.ndarray,
    pbc: np.ndarray,
    cutoff: float,
) -> Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]:
    """What finds pairs fastest: on a GPU every atom of a small structure looks at all others."""
    if device.type != "cuda" and not interpreted():
        return pairs
    from nemp_sim.kernels.search import MOST_LOOKS, all_pairs, images_in_reach

    sizes = [len(atoms) for atoms in structures]
    looks = sizes * (2 * images_in_reach(cells, pbc, cutoff) + 1).prod(1)
    return all_pairs if looks.max() <= MOST_LOOKS else pairs


class Resident:
    """A series of structures on the device.

    Attributes:
        graph: the structures, with the positions of the last ``move``.
        served: what was computed for them, each the ``wanted`` of a ``Replays.step``.
    """

    def __init__(
        self,
        structures: Sequence[Atoms],
        lists: NeighborLists,
        species_of_number: Tensor,
        device: torch.device,
    ) -> None:
        """Bring the structures to the device and find their pairs there."""
        self.graph = device_graph(structures, lists.cutoff + lists.skin, species_of_number, device)
        self.served = set[tuple[object, ...]]()
        self.owner = weakref.ref(lists)
        self._half_skin = 0.5 * lists.skin
        pinned = device.type == "cuda"  # the device fetches it without making the CPU wait
        self._host = torch.empty_like(self.graph.positions, device="cpu", pin_memory=pinned)
        self._shapes = [atoms.arrays["positions"].shape for atoms in structures]
        self._positions = np.concatenate([atoms.positions for atoms in structures])
        self._rest = _rest(structures)
        lists.n_builds += len(structures)

    def move(self, structures: Sequence[Atoms]) -> bool:
        """Take the positions of the structures; false where more has changed, or they are unusable.

        The pairs hold while no atom has moved by half the skin or more since they were found; then
        they are found anew.
        """
        if not all(isinstance(atoms, Atoms) for atoms in structures):
            return False
        every = [atoms.arrays["positions"] for atoms in structures]
        if [each.shape for each in every] != self._shapes or _rest(structures) != self._rest:
            return False
        positions = np.concatenate(every)
        moved = positions - self._positions
        if np.einsum("ij,ij->i", moved, moved).max() < self._half_skin**2:
            self._host.copy_(torch.from_numpy(positions))
            self.graph.positions.copy_(self._host, non_blocking=True)  # read before a step ends
            return True
        return self._renew(structures, positions)

    def _renew(self, structures: Sequence[Atoms], positions: np.ndarray) -> bool:
        """Find the pairs anew for other positions; false where these are to be refused.

        Along periodic axes any numbers will do; along others atoms could lie too far apart.
        """
        lists = self.owner()
        if lists is None or not np.abs(positions).max() < LARGEST_NUMBER:
            return False
        try:
            for index, atoms in enumerate(structures):
                if not atoms.pbc.all():
                    check_structure(atoms, index)
                    refuse_dense(atoms, lists.cutoff + lists.skin)
        except InputError:  # said where all is checked
            return False
        kept = {name: getattr(self.graph, name) for name in GIVEN}
        given = kept | on_device({"positions": positions}, self.graph.positions.device)
        self.graph = _with_pairs(given, structures, lists.cutoff + lists.skin)
        self._positions = positions
        lists.n_builds += len(structures)
        return True


def _rest(structures: Sequence[Atoms]) -> list[bytes]:
    """All but the positions that pairs depend on: atomic numbers, cells, periodic axes."""
    return [
        each.tobytes()
        for atoms in structures
        for each in (atoms.arrays["numbers"], atoms.cell.array, atoms.pbc)
    ]


class Residents:
    """The series that stay on a device, one for each object of neighbour lists."""

    def __init__(self, species_of_number: Tensor, device: torch.device) -> None:
        """Start without any."""
        self._species, self._device = species_of_number, device
        self._kept: OrderedDict[int, Resident] = OrderedDict()

    def again(self, structures: Sequence[Atoms], lists: NeighborLists) -> Resident | None:
        """The series of these lists, moved to these structures; None where it does not hold."""
        found = self._kept.get(id(lists))
        if found is None or found.owner() is not lists or not found.move(structures):
            return None
        self._kept.move_to_end(id(lists))
        return found

    def anew(self, structures: Sequence[Atoms], lists: NeighborLists) -> Resident:
        """A new series; it stays while the lists live and there is room."""
        self._kept.pop(id(lists), None)
        for key, old in list(self._kept.items()):
            if old.owner() is None:
                del self._kept[key]
        while sum(len(old.graph.centre) for old in self._kept.values()) > MOST_EDGES_KEPT:
            self._kept.popitem(last=False)
        found = Resident(structures, lists, self._species, self._device)
        self._kept[id(lists)] = found
        return found

    def drop(self, lists: NeighborLists) -> None:
        """Forget the series of these lists."""
        self._kept.pop(id(lists), None)

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
