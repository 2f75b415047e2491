"""Time of a step as users see it: the ASE calculator, and lists of copies, atoms moving every step.

    python benchmarks/latency.py --networks reference water.pt

Energy and forces of moving atoms with a neighbour list kept with a skin of 0.5 Å; list check,
copies to and from the GPU and the look at the domain included. Forces are first compared with
float64. "replay" is the recorded step alone (``nemp_sim/replay.py``): positions to the GPU, one
CUDA graph, results back. Prints one table: ms a step (median and slowest) and µs an atom.
"""

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from ase import Atoms
from speed import REFERENCE, water_box

from nemp_sim import NEMP, load_potential
from nemp_sim.checkpoint import new_model
from nemp_sim.neighbors import NeighborLists
from nemp_sim.potential import Potential

SKIN = 0.5  # Å, that of the calculator
STEP = 0.01  # Å, of a random step: lists last for some 20


def potential(name: str, dtype: torch.dtype, device: str, precision: str) -> Potential:
    """One of the networks of ``speed.py``."""
    if name == "reference":
        model = new_model(REFERENCE, 1).cast(dtype)
        return Potential(model, device=device, precision=precision)
    return load_potential(name, device, dtype, precision=precision)


def timed(step: Callable[[], None], repeats: int) -> tuple[float, float]:
    """Median and largest of the times of a step after five, s."""
    times = []
    for k in range(repeats + 5):
        start = time.perf_counter()
        step()
        if k >= 5:
            times.append(time.perf_counter() - start)
    return float(np.median(times)), max(times)


def row(name: str, n_atoms: int, times: tuple[float, float]) -> None:
    """One row of the table."""
    median, largest = times
    print(
        f"{name:34s} {n_atoms:8d} {1e3 * median:9.3f} {1e3 * largest:9.3f} "
        f"{1e6 * median / n_atoms:8.3f}",
        flush=True,
    )


def check(fast: Potential, exact: Potential, atoms: Atoms) -> str:
    """Errors of the forces of three consecutive steps, meV/Å."""
    lists, rng, off = NeighborLists(fast.cutoff_angstrom, SKIN), np.random.default_rng(1), []
    for _ in range(3):
        atoms.positions += STEP * rng.normal(size=(len(atoms), 3))
        got, want = fast.evaluate([atoms], neighbors=lists), exact.evaluate([atoms])
        off.append(1e3 * (got.forces[0] - want.forces[0]))
    return f"RMS {np.sqrt(np.mean(np.square(off))):.1e}, largest {np.abs(off).max():.1e} meV/Å"


def calculator_step(fast: Potential, atoms: Atoms) -> Callable[[], None]:
    """A step of moving atoms through the ASE calculator."""
    atoms, rng = atoms.copy(), np.random.default_rng(0)
    atoms.calc = NEMP(fast, on_extrapolation="ignore", skin_angstrom=SKIN)

    def step() -> None:
        atoms.positions += STEP * rng.normal(size=(len(atoms), 3))
        atoms.get_forces()

    return step


def batch_step(fast: Potential, atoms: Atoms, count: int) -> Callable[[], None]:
    """A step of ``count`` copies, all moving, in one call."""
    copies, rng = [atoms.copy() for _ in range(count)], np.random.default_rng(0)
    lists = NeighborLists(fast.cutoff_angstrom, SKIN)

    def step() -> None:
        for copy in copies:
            copy.positions += STEP * rng.normal(size=(len(copy), 3))
        fast.evaluate(copies, neighbors=lists, on_extrapolation="ignore")

    return step


def measure(name: str, options: argparse.Namespace) -> None:
    """Rows of one network."""
    fast = potential(name, torch.float32, options.device, options.precision)
    exact = potential(name, torch.float64, options.device, options.precision)
    for engine in (fast, exact):
        engine.watch.policy = "ignore"
    print(f"\n{name}, {fast.kernel}; forces of three steps against float64: ", end="")
    print(check(fast, exact, water_box(192)))
    print(f"{'step':34s} {'atoms':>8s} {'ms':>9s} {'slowest':>9s} {'µs/atom':>8s}")
    for size in options.sizes:
        atoms = water_box(size)
        row("ASE calculator", len(atoms), timed(calculator_step(fast, atoms), options.repeats))
        recordings = [r for r in fast._replays._recordings.values() if r]
        if recordings and len(atoms) < 2000:
            replay, positions = recordings[-1], torch.from_numpy(atoms.positions)

            def once(replay: object = replay, positions: torch.Tensor = positions) -> None:
                replay.move(positions)
                replay.step()

            row("replay", len(atoms), timed(once, options.repeats))
    batch = batch_step(fast, water_box(192), 32)
    row("32 copies of 192 atoms", 32 * 192, timed(batch, options.repeats))


def main() -> None:
    """Check, then time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["reference", "water.pt"])
    parser.add_argument("--precision", default="fp16x3")
    parser.add_argument("--sizes", type=int, nargs="+", default=[192, 1536, 12288])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    warnings.simplefilter("once")
    on = torch.cuda.get_device_name() if options.device != "cpu" else "CPU"
    print(f"{on}, torch {torch.__version__}")
    for name in options.networks:
        measure(name, options)


if __name__ == "__main__":
    main()
