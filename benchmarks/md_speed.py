"""Molecular dynamics of many replicas in one call a step against ASE's loop, one after the other.

    python benchmarks/md_speed.py --device cuda --replicas 1 16 64 256

First that replicas side by side move as they do alone, in float64; then, in one run, steps of all
replicas per second by ``nemp md``'s driver and by a plain script of ASE with one calculator.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet

from nemp_sim.calculator import NEMP
from nemp_sim.checkpoint import load_potential
from nemp_sim.md.run import Dynamics, simulate
from nemp_sim.potential import Potential
from nemp_sim.systems import choose_potential, read_system

TIMESTEP_FS = 0.5
TOGETHER_TOLERANCE = 1e-9  # Å, after 20 steps in float64


def run(engine: Potential, start: Atoms, replicas: int, steps: int) -> tuple[float, Atoms]:
    """Seconds of a step of all replicas after 20 steps, and the last replica at the end."""
    dynamics = Dynamics((300.0,) * replicas, "nve", TIMESTEP_FS, every=10, frames_every=10**9)
    seen: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as name:

        def note(step: int, begun: int) -> None:
            seen[step] = time.perf_counter()

        end = simulate(engine, start, dynamics, 20 + steps, Path(name), note)
    return (seen[20 + steps] - seen[20]) / steps if steps else 0.0, end[-1]


def alone(engine: Potential, start: Atoms, steps: int) -> float:
    """Seconds of a step of ASE's own loop."""
    atoms = start.copy()
    atoms.calc = NEMP(engine)
    dynamics = VelocityVerlet(atoms, TIMESTEP_FS * units.fs)
    dynamics.run(20)
    begun = time.perf_counter()
    dynamics.run(steps)
    return (time.perf_counter() - begun) / steps


def moved_alike(engine: Potential, start: Atoms) -> float:
    """Largest distance, Å, between a replica moved among four and the same moved alone."""
    hot = start.copy()
    width = np.sqrt(hot.get_masses() * units.kB * 300.0)[:, None]
    hot.set_momenta(np.random.default_rng(1).normal(size=(len(hot), 3)) * width)
    together = run(engine, hot, 4, 0)[1].positions
    return float(np.abs(together - run(engine, hot, 1, 0)[1].positions).max())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", default="h-pd111")
    parser.add_argument("--repeat", type=int, nargs=3, default=(1, 1, 1))
    parser.add_argument("--replicas", type=int, nargs="+", default=(1, 4, 16))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    name, head = choose_potential(options.system, None, None)
    start = read_system(options.system, fixed_layers=1).repeat(options.repeat)
    exact = load_potential(name, options.device, "float64", head, on_extrapolation="ignore")
    apart = moved_alike(exact, start)
    print(f"{len(start)} atoms, {exact.name} on {exact.device}: replicas together and alone are")
    print(f"{apart:.1e} Å apart after 20 steps in float64", flush=True)
    if apart > TOGETHER_TOLERANCE:
        raise SystemExit(f"more than {TOGETHER_TOLERANCE} Å: wrong")
    engine = load_potential(name, options.device, "float32", head, on_extrapolation="ignore")
    one = alone(engine, start, options.steps)
    print(f"ASE's loop, one replica: {1e3 * one:.2f} ms a step ({engine.kernel})", flush=True)
    print("replicas  ms/step  replica-steps/s  over ASE's loop")
    for replicas in options.replicas:
        step, _ = run(engine, start, replicas, options.steps)
        gain = replicas * one / step
        print(f"{replicas:8d} {1e3 * step:8.2f} {replicas / step:16.0f} {gain:16.1f}", flush=True)


if __name__ == "__main__":
    main()
