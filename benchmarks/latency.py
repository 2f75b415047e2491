"""Time of a step as users see it: the ASE calculator, and lists of copies, atoms moving every step.

    python benchmarks/latency.py --networks reference water.pt --frames results/water_md.xyz

Energy and forces of moving atoms with a neighbour list kept with a skin of 0.5 Å; list check,
copies to and from the GPU and the look at the domain included. Atoms move as in the molecular
dynamics of --frames, forth and back, 0.5 fs a step; a file that is not there is made with water.pt.
Without --frames they move at random, which leaves the domain of a trained network soon. Forces
are first compared with float64. "replay" is the recorded step alone (``nemp_sim/replay.py``):
positions to the GPU, one CUDA graph, results back. Prints one table: ms a step (median; mean, with
the steps whose lists are new; slowest) and µs an atom.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from ase import Atoms, units
from ase.io import read, write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from ase.optimize import FIRE
from speed import REFERENCE, water_box

from nemp_sim import NEMP, load_potential
from nemp_sim.checkpoint import new_model
from nemp_sim.neighbors import NeighborLists
from nemp_sim.potential import Potential

SKIN = 0.5  # Å, that of the calculator
STEP = 0.01  # Å, of a random step: lists last for some 20
WARM_STEPS, MD_STEPS = 1500, 200  # of 0.5 fs: at 300 K with friction, then of constant energy


def potential(name: str, dtype: torch.dtype, device: str, precision: str) -> Potential:
    """One of the networks of ``speed.py``."""
    if name == "reference":
        model = new_model(REFERENCE, 1).cast(dtype)
        return Potential(model, device=device, precision=precision)
    return load_potential(name, device, dtype, precision=precision)


def timed(step: Callable[[], None], repeats: int) -> tuple[float, float, float]:
    """Median, mean and largest of the times of a step after five, s."""
    times = []
    for k in range(repeats + 5):
        start = time.perf_counter()
        step()
        if k >= 5:
            times.append(time.perf_counter() - start)
    return float(np.median(times)), float(np.mean(times)), max(times)


def row(name: str, n_atoms: int, times: tuple[float, float, float]) -> None:
    """One row of the table."""
    median, mean, largest = (1e3 * each for each in times)
    print(
        f"{name:34s} {n_atoms:8d} {median:9.3f} {mean:9.3f} {largest:9.3f} "
        f"{1e3 * median / n_atoms:8.3f}",
        flush=True,
    )


def made_frames(path: Path, device: str) -> None:
    """Write the molecular dynamics of 192 atoms of water by water.pt."""
    atoms, rng = water_box(192), np.random.default_rng(0)
    atoms.calc = NEMP("water.pt", device, "float32", on_extrapolation="ignore")
    FIRE(atoms, logfile=None).run(steps=60)
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=rng)
    step = 0.5 * units.fs
    warm = Langevin(atoms, step, temperature_K=300, friction=0.05 / units.fs, rng=rng)
    warm.run(WARM_STEPS)
    frames: list[Atoms] = []
    dynamics = VelocityVerlet(atoms, step)
    dynamics.attach(lambda: frames.append(Atoms(atoms)))
    dynamics.run(MD_STEPS)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, frames, format="extxyz", columns=["symbols", "positions"])


def mover(atoms: Atoms, frames: Sequence[Atoms], start: int) -> Callable[[], None]:
    """Moves the atoms to the next frame, of which the first is ``start``; at random without any."""
    if not frames:
        rng = np.random.default_rng(start)

        def at_random() -> None:
            atoms.positions += STEP * rng.normal(size=(len(atoms), 3))

        return at_random
    times = round((len(atoms) / len(frames[0])) ** (1 / 3))
    order = np.roll(np.r_[0 : len(frames), len(frames) - 2 : 0 : -1], -start)
    places = [frames[k].repeat(times).positions for k in order]
    count = iter(range(10**9))

    def along() -> None:
        atoms.positions[:] = places[next(count) % len(places)]

    return along


def box(n_atoms: int, frames: list[Atoms]) -> Atoms:
    """Water of about ``n_atoms`` atoms: the first frame repeated, where there are any."""
    if not frames:
        return water_box(n_atoms)
    return frames[0].repeat(round((n_atoms / len(frames[0])) ** (1 / 3)))


def check(fast: Potential, exact: Potential, atoms: Atoms, frames: list[Atoms]) -> str:
    """Errors of the forces of three consecutive steps, meV/Å."""
    lists, move, off = NeighborLists(fast.cutoff_angstrom, SKIN), mover(atoms, frames, 1), []
    for _ in range(3):
        move()
        got, want = fast.evaluate([atoms], neighbors=lists), exact.evaluate([atoms])
        off.append(1e3 * (got.forces[0] - want.forces[0]))
    return f"RMS {np.sqrt(np.mean(np.square(off))):.1e}, largest {np.abs(off).max():.1e} meV/Å"


def calculator_step(
    fast: Potential, atoms: Atoms, frames: Sequence[Atoms] = ()
) -> Callable[[], None]:
    """A step of moving atoms through the ASE calculator."""
    atoms = atoms.copy()
    atoms.calc = NEMP(fast, on_extrapolation="ignore", skin_angstrom=SKIN)
    move = mover(atoms, frames, 0)

    def step() -> None:
        move()
        atoms.get_forces()

    return step


def batch_step(
    fast: Potential, atoms: Atoms, count: int, frames: Sequence[Atoms] = ()
) -> Callable[[], None]:
    """A step of ``count`` copies, all moving, in one call."""
    copies = [atoms.copy() for _ in range(count)]
    moves = [mover(copy, frames, 5 * k) for k, copy in enumerate(copies)]
    lists = NeighborLists(fast.cutoff_angstrom, SKIN)

    def step() -> None:
        for move in moves:
            move()
        fast.evaluate(copies, neighbors=lists, on_extrapolation="ignore")

    return step


def measure(name: str, options: argparse.Namespace, frames: list[Atoms]) -> None:
    """Rows of one network."""
    fast = potential(name, torch.float32, options.device, options.precision)
    exact = potential(name, torch.float64, options.device, options.precision)
    for engine in (fast, exact):
        engine.watch.policy = "ignore"
    print(f"\n{name}, {fast.kernel}; forces of three steps against float64: ", end="")
    print(check(fast, exact, box(192, frames), frames))
    print(f"{'step':34s} {'atoms':>8s} {'ms':>9s} {'mean':>9s} {'slowest':>9s} {'µs/atom':>8s}")
    for size in options.sizes:
        atoms = box(size, frames)
        step = calculator_step(fast, atoms, frames)
        row("ASE calculator", len(atoms), timed(step, options.repeats))
        kept = fast._replays._recordings.values() if fast._replays is not None else ()
        recordings = [each for each in kept if each]
        if recordings and len(atoms) < 2000:
            replay, positions = recordings[-1], torch.from_numpy(atoms.positions)

            def once(replay: object = replay, positions: torch.Tensor = positions) -> None:
                replay.move(positions)
                replay.step()

            row("replay", len(atoms), timed(once, options.repeats))
    batch = batch_step(fast, box(192, frames), 32, frames)
    row("32 copies of 192 atoms", 32 * 192, timed(batch, options.repeats))


def main() -> None:
    """Check, then time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["reference", "water.pt"])
    parser.add_argument("--precision", default="fp16x3")
    parser.add_argument("--sizes", type=int, nargs="+", default=[192, 1536, 12288])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--frames", type=Path)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    warnings.simplefilter("once")
    on = torch.cuda.get_device_name() if options.device != "cpu" else "CPU"
    print(f"{on}, torch {torch.__version__}")
    frames: list[Atoms] = []
    if options.frames is not None:
        if not options.frames.is_file():
            made_frames(options.frames, options.device)
        frames = read(options.frames, ":")
    for name in options.networks:
        measure(name, options, frames)


if __name__ == "__main__":
    main()
