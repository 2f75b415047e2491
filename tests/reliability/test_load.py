"""Many evaluations, many threads: memory and numbers stay; ``benchmarks/load.py`` goes further."""

import gc
import itertools
import mmap
import threading

import numpy as np
import torch
from ase.build import molecule

from benchmarks.load import resident_MB
from nemp_sim import NEMP, load_potential

EVALUATIONS = 150
MOST_MB = 2.0  # of growth
THREADS = 12


def moved(atoms, rng):
    atoms.positions = atoms.positions.round(1) + rng.normal(scale=0.05, size=atoms.positions.shape)


def growth(atoms, evaluations, after_each=lambda: None):
    """Growth in evaluations after twenty others: memory (MB), tensors, energy (eV)."""
    rng, start = np.random.default_rng(0), atoms.positions.copy()
    first = atoms.get_potential_energy()
    for k in range(evaluations + 20):
        if k == 20:
            before = resident_MB(), tensors()
        moved(atoms, rng)
        atoms.get_forces()
        after_each()
    memory, count = resident_MB(), tensors()
    atoms.positions = start
    return memory - before[0], count - before[1], atoms.get_potential_energy() - first


def tensors():
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def methanol():
    atoms = molecule("CH3OH")
    atoms.calc = NEMP("methanol.pt", "cpu", on_extrapolation="ignore")
    return atoms


def test_evaluations_keep_nothing():
    memory, count, energy = growth(methanol(), EVALUATIONS)
    assert memory < MOST_MB and count == 0 and energy == 0.0


def test_a_leak_would_be_seen():
    kept, calls = [], itertools.count()

    def keep():
        if next(calls) >= 20:  # pages of its own: the allocator may have some from before
            kept.append(torch.frombuffer(mmap.mmap(-1, 2**26), dtype=torch.float32).fill_(1.0))

    memory, count, _ = growth(methanol(), 3, keep)
    assert memory > MOST_MB and count == 3


def test_threads_on_one_potential_get_what_they_would_alone():
    potential = load_potential("methanol.pt", "cpu", on_extrapolation="ignore")
    atoms, results = molecule("CH3OH"), {}

    def work(seed, into):
        mine, rng = atoms.copy(), np.random.default_rng(seed)
        mine.calc = NEMP(potential, on_extrapolation="ignore")
        for _ in range(3):
            moved(mine, rng)
            into.setdefault(seed, []).append((mine.get_potential_energy(), mine.get_forces()))

    threads = [threading.Thread(target=work, args=(k, results)) for k in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = {}
    for k in range(THREADS):
        work(k, alone)
    assert potential.watch.n_structures == 6 * THREADS
    for k in range(THREADS):
        for (energy, forces), (wanted, wanted_forces) in zip(results[k], alone[k], strict=True):
            assert energy == wanted
            np.testing.assert_array_equal(forces, wanted_forces)
