"""Structures → AtomGraph: neighbour lists by vesin, kept with a Verlet skin while valid."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.geometry import complete_cell
from torch import Tensor
from vesin import NeighborList

from nemp_sim.errors import InputError
from nemp_sim.graph import AtomGraph

LARGEST_EXTENT = 1e4  # Å along axes that are not periodic; the search takes seconds beyond


@dataclass(frozen=True)
class EdgeList:
    """Directed neighbour pairs of one structure, both directions, sorted by centre.

    Attributes:
        centre: (E,) int64.
        neighbour: (E,) int64.
        shifts: (E, 3) float64, whole numbers of cell vectors.
    """

    centre: np.ndarray
    neighbour: np.ndarray
    shifts: np.ndarray

    def vectors(self, atoms: Atoms) -> np.ndarray:
        """r_j − r_i + S · cell at the present positions of ``atoms``, (E, 3), Å."""
        positions = atoms.positions
        return positions[self.neighbour] - positions[self.centre] + self.shifts @ atoms.cell.array


def check_structure(atoms: Atoms, index: int) -> None:
    """Refuse what has no well-defined neighbours.

    Raises:
        InputError: positions or cell not finite, a periodic axis without a cell vector, or
            periodic cell vectors that span no volume, or atoms spread over more than 10⁴ Å
            along an axis that is not periodic.
    """
    where = f"structure {index} ({atoms.get_chemical_formula()})"
    for name, values in (("positions", atoms.positions), ("cell", atoms.cell.array)):
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
            raise InputError(
                f"{where}: {name}[{row}] is {values[row]}, but must be finite numbers in Å. "
                "Check the file or the step that produced it."
            )
    vectors = atoms.cell.array[atoms.pbc]
    if len(vectors) and np.linalg.matrix_rank(vectors, tol=1e-6) < len(vectors):
        raise InputError(
            f"{where}: pbc is {atoms.pbc.tolist()} but the cell is {atoms.cell.array.tolist()} Å: "
            "a periodic axis needs a cell vector, and periodic cell vectors must be independent. "
            "Set atoms.cell, or atoms.pbc = False for a molecule."
        )
    if len(atoms) and not atoms.pbc.all():
        free = atoms.positions @ _off_the_periodic_axes(vectors)
        extent = np.ptp(free, axis=0).max()
        if extent > LARGEST_EXTENT:
            row = int(np.abs(free - np.median(free, axis=0)).max(axis=1).argmax())
            raise InputError(
                f"{where}: positions[{row}] is {atoms.positions[row]}, {extent:.3g} Å from other "
                f"atoms, but must be within {LARGEST_EXTENT:.0e} Å. The atom escaped: check the "
                "trajectory, its time step and the length unit."
            )


def _off_the_periodic_axes(vectors: np.ndarray) -> np.ndarray:
    """Projector (3, 3) onto the directions normal to the periodic cell vectors."""
    return np.eye(3) - np.linalg.pinv(vectors) @ vectors if len(vectors) else np.eye(3)


def edge_list(atoms: Atoms, cutoff: float) -> EdgeList:
    """All pairs closer than ``cutoff`` (Å), periodic images included along periodic axes only."""
    if len(atoms) == 0:
        return EdgeList(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 3)))
    finder = NeighborList(cutoff=cutoff, full_list=True, sorted=True)
    i, j, shifts = finder.compute(
        points=atoms.positions,
        box=complete_cell(atoms.cell.array),
        periodic=atoms.pbc,
        quantities="ijS",
    )
    return EdgeList(i.astype(np.int64), j.astype(np.int64), shifts.astype(np.float64))


class NeighborLists:
    """Edge lists of a series of structures, reused from call to call.

    The list of slot b is built with cutoff + skin and stays valid while no atom of structure b has
    moved by half the skin or more, and its cell, pbc and elements are unchanged. Edges beyond the
    cutoff are then left out by their present length, so a reused list gives the same edges as a
    new one.
    """

    def __init__(self, cutoff_angstrom: float, skin_angstrom: float = 0.0) -> None:
        """Start with no lists.

        Raises:
            InputError: a negative skin.
        """
        if not skin_angstrom >= 0:
            raise InputError(f"skin_angstrom is {skin_angstrom!r}, but must be 0 or more (Å).")
        self.cutoff = cutoff_angstrom
        self.skin = skin_angstrom
        self.n_builds = 0
        self._slots: dict[int, tuple[Atoms, EdgeList]] = {}

    def edges(self, atoms: Atoms, slot: int) -> EdgeList:
        """Pairs within the cutoff of the structure in place ``slot`` of the series."""
        if self.skin == 0:
            self.n_builds += 1
            return edge_list(atoms, self.cutoff)
        kept = self._slots.get(slot)
        if kept is None or not self._still_valid(atoms, kept[0]):
            self.n_builds += 1
            bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
            kept = bare, edge_list(atoms, self.cutoff + self.skin)
            self._slots[slot] = kept
        return _within(atoms, kept[1], self.cutoff)

    def _still_valid(self, atoms: Atoms, old: Atoms) -> bool:
        if len(atoms) != len(old) or (atoms.numbers != old.numbers).any():
            return False
        if (atoms.pbc != old.pbc).any() or (atoms.cell.array != old.cell.array).any():
            return False
        moved = ((atoms.positions - old.positions) ** 2).sum(axis=1)
        return bool(moved.max(initial=0.0) < (0.5 * self.skin) ** 2)


def _within(atoms: Atoms, edges: EdgeList, cutoff: float) -> EdgeList:
    vectors = edges.vectors(atoms)
    near = np.einsum("ij,ij->i", vectors, vectors) < cutoff**2
    return EdgeList(edges.centre[near], edges.neighbour[near], edges.shifts[near])


def build_graph(
    structures: Sequence[Atoms],
    edges: Sequence[EdgeList],
    species_of_number: Tensor,
    device: torch.device,
) -> AtomGraph:
    """Join structures into one AtomGraph on ``device``; no edge joins two structures.

    All are read out by the first head.

    Args:
        structures: B structures.
        edges: their B edge lists.
        species_of_number: (119,) int64, species index of each atomic number.
        device: where the tensors go.
    """
    sizes = np.array([len(atoms) for atoms in structures], dtype=np.int64)
    first = np.concatenate([[0], np.cumsum(sizes)])
    centre = np.concatenate([e.centre + o for e, o in zip(edges, first[:-1], strict=True)])
    neighbour = np.concatenate([e.neighbour + o for e, o in zip(edges, first[:-1], strict=True)])
    numbers = np.concatenate([atoms.numbers for atoms in structures])
    cells = np.stack([complete_cell(atoms.cell.array) for atoms in structures])
    arrays = {
        "positions": np.concatenate([atoms.positions for atoms in structures]),
        "cells": cells,
        "structure": np.repeat(np.arange(len(sizes)), sizes),
        "head": np.zeros(len(sizes), dtype=np.int64),
        "first_atom": first,
        "centre": centre,
        "neighbour": neighbour,
        "shifts": np.concatenate([e.shifts for e in edges]),
        "row_start": np.concatenate([[0], np.cumsum(np.bincount(centre, minlength=first[-1]))]),
        "by_neighbour": np.argsort(neighbour, kind="stable"),
    }
    tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
    species = species_of_number[torch.from_numpy(numbers.astype(np.int64))].to(device)
    return AtomGraph(species=species, **tensors)
