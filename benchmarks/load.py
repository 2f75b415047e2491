"""Many evaluations in one process: does memory grow?

    python benchmarks/load.py pdh.pt --evaluations 100000
    python benchmarks/load.py pdh.pt --evaluations 2000 --device cuda

A slab moves a little between evaluations, so that neighbour lists are rebuilt now and then. Prints
resident memory (and that of the GPU) ten times; exit code 1 where the least of the last three is
more than 1 % above the first.
"""

import argparse
import os
import time

import numpy as np
import torch

from nemp_sim import NEMP
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import fcc_slab

GROWTH = 1.01


def resident_MB() -> float:  # noqa: N802 (a unit in a name)
    """Resident memory of this process, MB."""
    with open("/proc/self/statm") as handle:
        return int(handle.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Evaluate, watch the memory, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("potential")
    parser.add_argument("--evaluations", type=int, default=100_000)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    atoms = place(fcc_slab(fixed_layers=0), "H", "fcc")
    atoms.calc = NEMP(options.potential, options.device, on_extrapolation="ignore")
    start, rng = atoms.positions.copy(), np.random.default_rng(0)
    began, seen = time.perf_counter(), []
    for k in range(1, options.evaluations + 1):
        atoms.positions = start + rng.normal(scale=0.1, size=start.shape)
        atoms.get_forces()
        if k % max(1, options.evaluations // 10) == 0:
            seen.append(resident_MB())
            gpu = torch.cuda.memory_allocated() / 1e6 if torch.cuda.is_available() else 0.0
            seconds = time.perf_counter() - began
            print(f"{k:8d} evaluations {seconds:8.1f} s {seen[-1]:9.1f} MB GPU {gpu:9.1f} MB")
    grown = min(seen[-3:]) / seen[0]  # the allocator keeps a block now and then, and gives it back
    print(f"least memory of the last three tenths over the first: {grown:.4f} (at most {GROWTH})")
    raise SystemExit(1 if grown > GROWTH else 0)


if __name__ == "__main__":
    main()
