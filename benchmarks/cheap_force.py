"""What a cheap force inside path-integral dynamics gains: multiple time stepping, contraction.

python benchmarks/cheap_force.py --device cuda                 64 H2O with 32 beads
python benchmarks/cheap_force.py --system file.extxyz --beads 8 --femtoseconds 20

First: with one potential as both forces, two outer steps of the multiple-time-step integrator must
be the eight short steps of the plain one. Then a ring equilibrated with the cheap potential is the
start of each scheme, all in one run: time by the clock for a femtosecond of simulation, calls
counted in beads, the drift of the conserved quantity, and the averages, which must agree.
"""

import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pimd_speed import Timed

from nemp_sim.checkpoint import load_potential
from nemp_sim.errors import NempError
from nemp_sim.pathintegral.averages import Thermodynamics, thermodynamics
from nemp_sim.pathintegral.forces import CheapForce
from nemp_sim.pathintegral.input import Dynamics, Start, prepare_start
from nemp_sim.pathintegral.run import simulate
from nemp_sim.pathintegral.structure import structure_averages
from nemp_sim.potential import Potential
from nemp_sim.relax import relax
from nemp_sim.report import device_name
from nemp_sim.systems import read_system, systems_of

TOLERANCE_ANGSTROM = 2e-4  # of positions after eight steps; i-PI writes 1e-5 Å
SKIP = 0.3  # of each run, left out of the averages


def spent(engine: Timed) -> tuple[float, int]:
    """Seconds in all calls of an engine, and structures."""
    return sum(end - begin for begin, end, _ in engine.calls), sum(n for *_, n in engine.calls)


@dataclass(frozen=True)
class Scheme:
    """One way to take the steps.

    Attributes:
        name: of the row.
        timestep_fs: time step of the full force.
        cheap: how the cheap force spares it; None: the full force alone.
        alone: whether the cheap potential takes the place of the full one.
    """

    name: str
    timestep_fs: float
    cheap: CheapForce | None = None
    alone: bool = False


def dynamics(chosen: argparse.Namespace, scheme: Scheme, femtoseconds: float) -> Dynamics:
    """Of a scheme, over a time."""
    return Dynamics(
        beads=chosen.beads,
        steps=max(8, round(femtoseconds / scheme.timestep_fs)),
        timestep_fs=scheme.timestep_fs,
        tau_fs=100.0,
        every=1,
        frames_every=max(1, round(5.0 / scheme.timestep_fs)),
        batch_size=(scheme.cheap.full_beads or chosen.beads) if scheme.cheap else chosen.beads,
        cheap=scheme.cheap,
    )


def check(engine: Potential, start: Start, chosen: argparse.Namespace) -> float:
    """Largest distance of a bead from where the plain integrator has it, Å.

    The full force is contracted to fewer beads: its difference to the cheap one is zero.
    """
    ends = []
    for inner in (1, 4):
        cheap = None if inner == 1 else CheapForce(inner, max(1, chosen.beads // 2))
        scheme = Scheme("", chosen.timestep * inner, cheap)
        plan = replace(dynamics(chosen, scheme, 0.0), steps=8 // inner, ensemble="nve")
        plan = replace(plan, frames_every=plan.steps)
        with tempfile.TemporaryDirectory() as directory:
            more = {} if cheap is None else {"cheap": engine}
            simulate(engine, start, plan, Path(directory), **more)
            ends.append(structure_averages(Path(directory), start).last_beads)
    return float(np.abs(ends[1] - ends[0]).max())


def equilibrated(cheap: Potential, start: Start, chosen: argparse.Namespace) -> Start:
    """The ring after ``--equilibration`` femtoseconds of the cheap potential alone."""
    plan = dynamics(chosen, Scheme("", chosen.timestep), chosen.equilibration)
    plan = replace(plan, frames_every=plan.steps, tau_fs=30.0)
    with tempfile.TemporaryDirectory() as directory:
        simulate(cheap, start, plan, Path(directory))
        ring = structure_averages(Path(directory), start).last_beads
    atoms = start.atoms.copy()
    atoms.positions = ring.mean(axis=0)
    return replace(start, atoms=atoms, ring=ring)


def row(
    scheme: Scheme, engines: tuple[Potential, Potential], start: Start, chosen: argparse.Namespace
) -> tuple[float, str]:
    """Milliseconds for a femtosecond, and the line of the table."""
    full, cheap = map(Timed, engines)
    plan = dynamics(chosen, scheme, chosen.femtoseconds)
    first = cheap if scheme.alone else full
    more = {"cheap": cheap} if scheme.cheap else {}
    with tempfile.TemporaryDirectory() as directory:
        short = replace(plan, steps=min(4, plan.steps))
        simulate(first, start, short, Path(directory), **more)  # kernels and lists are warm
        full.calls.clear()
        cheap.calls.clear()
        simulate(first, start, plan, Path(directory), **more)
        found = thermodynamics(Path(directory), start, plan, round(SKIP * plan.steps))
    every = full.calls + cheap.calls
    done = (plan.steps - short.steps) * scheme.timestep_fs
    clock = 1e3 * (max(end for _, end, _ in every) - min(begin for begin, *_ in every)) / done
    (seconds, beads), (other_seconds, other_beads) = spent(full), spent(cheap)
    parts = [1e3 * value / done for value in (seconds, other_seconds)]
    counts = [value / done for value in (beads, other_beads)]
    line = f"{scheme.name:34s}{clock:11.1f}{parts[0]:9.1f}{parts[1]:9.1f}"
    line += f"{counts[0]:10.0f}{counts[1]:8.0f}{found.conserved_meV_per_ps:10.2f}"
    return clock, line + averages(found)


def averages(found: Thermodynamics) -> str:
    """Kinetic energy of the lightest species and temperature of the dynamics."""
    kinetic = next(iter(found.kinetic_cv_eV.values())).scaled(1e3)
    temperature = found.kinetic_temperature_K
    return (
        f"{kinetic.mean:9.1f} ± {kinetic.error:4.1f}{temperature.mean:8.0f} ± "
        f"{temperature.error:3.0f}"
    )


def options() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    built_in = ", ".join(systems_of("slab", "molecule", "liquid"))
    parser.add_argument("--system", default="water", help=f"{built_in}, or a file")
    parser.add_argument("--potential", default="water.pt")
    parser.add_argument("--cheap", default="water-small.pt")
    parser.add_argument("--beads", type=int, default=32)
    parser.add_argument("--full-beads", type=int, default=8)
    parser.add_argument("--inner-steps", type=int, default=4)
    parser.add_argument("--timestep", type=float, default=0.25, help="of the plain runs, fs")
    parser.add_argument("--femtoseconds", type=float, default=60.0, help="of each scheme")
    parser.add_argument("--equilibration", type=float, default=200.0, help="fs, cheap potential")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    return parser.parse_args()


def main() -> None:
    """Check, run, print."""
    chosen = options()
    try:
        full = load_potential(chosen.potential, chosen.device, on_extrapolation="ignore")
        cheap = load_potential(chosen.cheap, chosen.device, on_extrapolation="ignore")
        atoms = read_system(chosen.system, systems_of("slab", "molecule", "liquid"))
    except NempError as error:
        raise SystemExit(f"error: {error}") from None
    start = prepare_start(relax(cheap, [atoms], 0.3, 30).structures[0])
    print(f"{len(atoms)} atoms, {chosen.beads} beads, {device_name(full.device)}")
    print(f"full {full.name} ({full.kernel}), cheap {cheap.name} ({cheap.kernel})")
    apart = check(cheap, start, chosen)
    print(f"outer steps against short ones, one potential: beads within {apart:.1e} Å", flush=True)
    if not apart < TOLERANCE_ANGSTROM:
        raise SystemExit("error: the integrator is wrong; nothing is timed")
    start = equilibrated(cheap, start, chosen)
    compare(chosen, (full, cheap), start)


def compare(chosen: argparse.Namespace, engines: tuple[Potential, Potential], start: Start) -> None:
    """Print the table."""
    step, inner, few = chosen.timestep, chosen.inner_steps, chosen.full_beads
    outer = step * inner
    schemes = (
        Scheme(f"full, {step:g} fs", step),
        Scheme(f"full, {outer:g} fs", outer),
        Scheme(f"cheap alone, {step:g} fs", step, alone=True),
        Scheme(f"{inner} inner steps, {outer:g} fs", outer, CheapForce(inner)),
        Scheme(f"full on {few} beads, {outer:g} fs", outer, CheapForce(inner, few)),
    )
    print(f"\n{'':34s}{'ms for 1 fs':>11s}{'full':>9s}{'cheap':>9s}{'full beads':>10s}{'cheap':>8s}"
          f"{'meV/ps':>10s}{'K (meV)':>16s}{'T (K)':>14s}{'gain':>7s}")  # fmt: skip
    plain = None
    for scheme in schemes:
        clock, line = row(scheme, engines, start, chosen)
        plain = plain or clock
        print(f"{line}{plain / clock:7.2f}", flush=True)


if __name__ == "__main__":
    main()
