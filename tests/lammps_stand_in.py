"""A stand-in for LAMMPS: MPI ranks as threads, each with its part of the box and its ghosts.

It hands out what ``mliap_unified_couple.pyx`` of LAMMPS does, and exchanges values of atoms as
``pair_mliap_kokkos.cpp`` does.
"""

import copy
import math
from threading import Barrier, Thread

import numpy as np
import torch
from ase.neighborlist import primitive_neighbor_list


class Rank:
    """MLIAPDataPy of one rank: owned atoms first, then ghosts within ``shell`` of them."""

    def __init__(self, world, owned, cutoff, shell, ghosts_have_pairs):
        atoms = world.atoms
        first, second, shift = primitive_neighbor_list(
            "ijS", atoms.pbc, atoms.cell, atoms.positions, shell
        )
        mine = np.isin(first, owned)
        images = {(j, *s) for j, s in zip(second[mine], map(tuple, shift[mine]), strict=True)}
        ghosts = sorted(images - {(i, 0, 0, 0) for i in owned})
        self.world = world
        self.owner = np.array([*owned, *(g[0] for g in ghosts)], int)
        shifts = np.array([(0, 0, 0)] * len(owned) + [g[1:] for g in ghosts]).reshape(-1, 3)
        self.positions = atoms.positions[self.owner] + shifts @ atoms.cell.array
        self.nlocal = self.nlistatoms = len(owned)
        self.ntotal = len(self.owner)
        self.elems = world.elements[self.owner].astype(np.int32)
        i, j, self.rij = primitive_neighbor_list(
            "ijD", [False] * 3, np.eye(3), self.positions, cutoff
        )
        if not ghosts_have_pairs:
            i, j, self.rij = i[i < self.nlocal], j[i < self.nlocal], self.rij[i < self.nlocal]
        self.pair_i, self.pair_j = i.astype(np.int32), j.astype(np.int32)
        self.npairs = len(i)
        self.energy, self.eatoms = None, np.zeros(self.nlocal)
        self.forces = np.zeros((self.ntotal, 3))
        self.virial = np.zeros((3, 3))

    def update_pair_forces(self, fij):
        fij = np.asarray(fij)
        np.add.at(self.forces, self.pair_i, fij)
        np.add.at(self.forces, self.pair_j, -fij)
        self.virial -= self.rij.T @ fij


class ExchangingRank(Rank):
    """As Rank with Kokkos: values of ghosts from their owners, and back."""

    def forward_exchange(self, source, target, width):
        assert source.shape == target.shape and math.prod(source.shape[1:]) == width
        owned = self.world.gathered(
            self, lambda total: self.put(total, source, self.nlocal), source
        )
        target.copy_(owned[self.owner])

    def reverse_exchange(self, source, target, width):
        assert source.shape == target.shape and math.prod(source.shape[1:]) == width
        total = self.world.gathered(self, lambda total: self.put(total, source, None), source)
        target.copy_(total[self.owner])
        target[self.nlocal :] = 0

    def put(self, total, source, stop):
        total.index_add_(0, torch.from_numpy(self.owner[:stop]), source[:stop])


class World:
    """All ranks of one structure, split into slabs along the first axis."""

    def __init__(self, atoms, model, n_ranks, exchange=False, shell_cutoffs=None):
        self.atoms, self.model = atoms, model
        self.elements = np.array([model.element_types.index(s) for s in atoms.symbols])
        cutoff = 2 * model.rcutfac
        shell = cutoff * (shell_cutoffs or (1 if exchange else model.n_steps + 1))
        part = np.floor(atoms.get_scaled_positions()[:, 0] * n_ranks).astype(int)
        kind = ExchangingRank if exchange else Rank
        self.ranks = [
            kind(self, np.flatnonzero(part == r), cutoff, shell, not exchange)
            for r in range(n_ranks)
        ]
        self.barrier = Barrier(n_ranks, timeout=30)
        self.total = None

    def gathered(self, rank, put, like):
        """Sum over all ranks of what each one puts; a collective call."""
        if self.barrier.wait() == 0:
            self.total = like.new_zeros(len(self.atoms), *like.shape[1:])
        self.barrier.wait()
        for turn in self.ranks:
            if turn is rank:
                put(self.total)
            self.barrier.wait()
        return self.total.clone()

    def run(self):
        """Energy, forces (N, 3) and virial (3, 3) of the structure."""
        errors = []

        def work(rank):
            try:
                copy.copy(self.model).compute_forces(rank)
            except BaseException as error:
                errors.append(error)
                self.barrier.abort()

        threads = [Thread(target=work, args=(rank,)) for rank in self.ranks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        forces = np.zeros((len(self.atoms), 3))
        for rank in self.ranks:
            np.add.at(forces, rank.owner, rank.forces)
        virial = sum(rank.virial for rank in self.ranks)
        return sum(rank.energy for rank in self.ranks), forces, virial
