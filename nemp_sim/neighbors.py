"""Structures → AtomGraph: neighbour lists by vesin, kept with a Verlet skin while valid."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from ase.geometry import complete_cell
from torch import Tensor
from vesin import NeighborList

from nemp_sim.errors import InputError
from nemp_sim.graph import AtomGraph

MOST_NEIGHBOURS = 2000  # of an atom, expected from the density; dense solids have 300 within 6 Å


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


def periodic_cell(atoms: Atoms) -> np.ndarray:
    """Cell vectors (3, 3) of the periodic axes, unit normals for the others, whose own are moot."""
    return complete_cell(np.where(atoms.pbc[:, None], atoms.cell.array, 0.0))


def edge_list(atoms: Atoms, cutoff: float) -> EdgeList:
    """All pairs closer than ``cutoff`` (Å), periodic images included along periodic axes only.

    Raises:
        InputError: a periodic cell so small that its images would fill the memory.
    """
    if len(atoms) == 0:
        return EdgeList(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 3)))
    refuse_dense(atoms, cutoff)
    finder = NeighborList(cutoff=cutoff, full_list=True, sorted=True)
    i, j, shifts = finder.compute(
        points=atoms.positions,
        box=periodic_cell(atoms),
        periodic=atoms.pbc,
        quantities="ijS",
    )
    return EdgeList(i.astype(np.int64), j.astype(np.int64), shifts.astype(np.float64))


def refuse_dense(atoms: Atoms, cutoff: float) -> None:
    """Refuse more neighbours than matter has: atoms in a ball of the cutoff at the mean density.

    Along axes that are not periodic the matter is as thick as its atoms lie apart, and 4/3 of the
    cutoff at least, which gives the atoms in the disc of a flat layer.
    """
    vectors = atoms.cell.array[atoms.pbc]
    if not len(vectors):
        return
    free = np.linalg.svd(vectors)[2][len(vectors) :]  # directions normal to the periodic axes
    thick = np.maximum(np.ptp(atoms.positions @ free.T, axis=0), 4 / 3 * cutoff)
    volume = np.sqrt(np.linalg.det(vectors @ vectors.T)) * thick.prod()
    expected = len(atoms) * 4 / 3 * np.pi * cutoff**3 / volume
    if expected > MOST_NEIGHBOURS:
        raise InputError(
            f"{atoms.get_chemical_formula()}: {len(atoms)} atoms in a cell of "
            f"{atoms.cell.lengths().round(3).tolist()} Å would have {expected:.0f} neighbours each "
            f"within {cutoff:g} Å, but dense matter has some 100. Is the cell in another unit?"
        )


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
        return self.within(atoms, self.kept(atoms, slot))

    def within(self, atoms: Atoms, kept: EdgeList) -> EdgeList:
        """The pairs of a list of ``kept`` that are within the cutoff."""
        return _within(atoms, kept, self.cutoff) if self.skin else kept

    def kept(self, atoms: Atoms, slot: int) -> EdgeList:
        """As ``edges``, with the pairs of the skin: the same object while it is valid."""
        if self.skin == 0:
            self.n_builds += 1
            return edge_list(atoms, self.cutoff)
        kept = self._slots.get(slot)
        if kept is None or not self._still_valid(atoms, kept[0]):
            self.n_builds += 1
            bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
            kept = bare, edge_list(atoms, self.cutoff + self.skin)
            self._slots[slot] = kept
        return kept[1]

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


def species_table(elements: Sequence[int]) -> Tensor:
    """(119,) int64, index among ``elements`` of each atomic number; −1: not among them."""
    table = torch.full((len(chemical_symbols),), -1)
    table[list(elements)] = torch.arange(len(elements))
    return table


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
        species_of_number: as ``species_table``.
        device: where the tensors go.
    """
    sizes = np.array([len(atoms) for atoms in structures], dtype=np.int64)
    first = np.concatenate([[0], np.cumsum(sizes)])
    centre = np.concatenate([e.centre + o for e, o in zip(edges, first[:-1], strict=True)])
    neighbour = np.concatenate([e.neighbour + o for e, o in zip(edges, first[:-1], strict=True)])
    numbers = np.concatenate([atoms.numbers for atoms in structures])
    cells = np.stack([periodic_cell(atoms) for atoms in structures])
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
