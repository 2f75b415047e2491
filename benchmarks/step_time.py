"""Time of one energy + forces call for batches of H/Pd(111) slabs (13 atoms each).

    python benchmarks/step_time.py --potential pdh.pt --device cpu --dtype float32

Prints one table: structures in the call, ms for the call (median and least), least ms for each
structure, and the largest difference of a force component from float64 on the CPU (eV/Å), checked
before timing. The least is the time on a machine that does nothing else.
"""

import argparse
import platform
import time

import numpy as np
import torch
from ase.build import add_adsorbate, fcc111

from nemp_sim import NEMP, load_potential
from nemp_sim.neighbors import NeighborLists


def slabs(count: int) -> list:
    """Rattled slabs with H near the fcc site; seeded."""
    structures = []
    for seed in range(count):
        slab = fcc111("Pd", (2, 2, 3), a=3.95, vacuum=8.0)
        add_adsorbate(slab, "H", 0.9, "fcc")
        slab.rattle(0.05, seed=seed)
        structures.append(slab)
    return structures


def times_ms(function, repeats: int) -> tuple[float, float]:  # noqa: ANN001
    """Median and least wall time of a call after two warm-up calls."""
    times = []
    for k in range(repeats + 2):
        start = time.perf_counter()
        function()
        if k >= 2:
            times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times)), min(times)


def main() -> None:
    """Check, then time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--potential", default="pdh.pt")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    potential = load_potential(options.potential, options.device, options.dtype)
    exact = load_potential(options.potential, "cpu", "float64")
    name = (
        torch.cuda.get_device_name(potential.device)
        if potential.device.type == "cuda"
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    )
    print(f"{potential.name} {potential.dtype} on {name}, torch {torch.__version__}")
    print(
        f"{'structures':>10} {'ms/call':>9} {'least':>9} {'ms/structure':>13} {'max |dF| eV/Å':>14}"
    )
    for size in options.sizes:
        batch = slabs(size)
        lists = NeighborLists(potential.cutoff_angstrom, 0.5)
        forces = potential.evaluate(batch).forces
        reference = exact.evaluate(batch).forces
        error = max(np.abs(a - b).max() for a, b in zip(forces, reference, strict=True))
        ms, least = times_ms(
            lambda b=batch, n=lists: potential.evaluate(b, neighbors=n), options.repeats
        )
        row = f"{size:10d} {ms:9.2f} {least:9.2f} {least / size:13.2f} {error:14.1e}"
        print(row, flush=True)
    slab = slabs(1)[0]
    slab.calc = NEMP(potential)
    shifts = iter(np.linspace(0.001, 0.01, options.repeats + 2))

    def step() -> None:
        slab.positions[-1, 2] += 1e-4 * next(shifts)
        slab.get_forces()

    ms, least = times_ms(step, options.repeats)
    print(f"ASE calculator, one slab: {ms:.2f} ms/step, at least {least:.2f}")


if __name__ == "__main__":
    main()
