"""Energy conservation: NVE molecular dynamics, drift and largest deviation of the total energy.

    python benchmarks/nve_drift.py pdh.pt --temperature 300 --ps 5 --timestep 0.5

Without --structure the structure is H on Pd(111) 2×2×3, relaxed first, as in the tests.
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.build import add_adsorbate, fcc111
from ase.io import read
from ase.md.verlet import VelocityVerlet
from ase.optimize import FIRE

from nemp_sim import NEMP


@dataclass(frozen=True)
class Conservation:
    """How well a trajectory conserves its total energy.

    Attributes:
        drift_meV: slope of the linear fit times the duration, meV/atom.
        largest_deviation_meV: largest |E(t) − E(0)|, meV/atom.
        fluctuation_meV: standard deviation of E(t), meV/atom.
        temperature_K: mean kinetic temperature.
        steps_per_second: speed, steps/s.
    """

    drift_meV: float
    largest_deviation_meV: float
    fluctuation_meV: float
    temperature_K: float
    steps_per_second: float


def hydrogen_on_palladium() -> Atoms:
    """H in the fcc hollow of Pd(111) 2×2×3, pbc (T, T, F)."""
    slab = fcc111("Pd", (2, 2, 3), a=3.94, vacuum=8.0)
    add_adsorbate(slab, "H", 0.9, "fcc")
    return slab


def measure(
    atoms: Atoms, temperature_K: float, ps: float, timestep_fs: float, seed: int = 0
) -> Conservation:
    """Run NVE from random velocities and measure the total energy at every step.

    Args:
        atoms: a structure with a calculator; its positions and momenta are changed.
        temperature_K: temperature of the first velocities.
        ps: duration.
        timestep_fs: time step of velocity Verlet.
        seed: seed of the velocities.
    """
    width = np.sqrt(atoms.get_masses() * units.kB * temperature_K)
    velocities = np.random.default_rng(seed).normal(size=(len(atoms), 3))
    atoms.set_momenta(velocities * width[:, None])
    energies, temperatures = [], []

    def record() -> None:
        energies.append(atoms.get_total_energy())
        temperatures.append(atoms.get_temperature())

    n_steps = round(1000 * ps / timestep_fs)
    start = time.perf_counter()
    with VelocityVerlet(atoms, timestep=timestep_fs * units.fs) as dynamics:
        dynamics.attach(record)
        dynamics.run(n_steps)
    seconds = time.perf_counter() - start
    per_atom = 1000 * np.array(energies) / len(atoms)
    slope = np.polyfit(np.linspace(0, 1, len(per_atom)), per_atom, 1)[0]
    return Conservation(
        drift_meV=float(slope),
        largest_deviation_meV=float(np.abs(per_atom - per_atom[0]).max()),
        fluctuation_meV=float(per_atom.std()),
        temperature_K=float(np.mean(temperatures)),
        steps_per_second=n_steps / seconds,
    )


def relax(atoms: Atoms, fmax: float = 0.05) -> None:
    """Relax in place, so that the kinetic energy stays near the one that was asked for."""
    with FIRE(atoms, logfile=None) as optimizer:
        optimizer.run(fmax=fmax, steps=300)


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("potential", help="name or path of a potential")
    parser.add_argument("--structure", help="file that ASE reads (default: H on Pd(111))")
    parser.add_argument("--temperature", type=float, default=300.0, help="K")
    parser.add_argument("--ps", type=float, default=5.0, help="duration, ps")
    parser.add_argument("--timestep", type=float, default=0.5, help="fs")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float64", choices=["float32", "float64"])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    atoms = read(args.structure) if args.structure else hydrogen_on_palladium()
    atoms.calc = NEMP(args.potential, args.device, args.dtype)
    relax(atoms)
    result = measure(atoms, args.temperature, args.ps, args.timestep, args.seed)
    print(
        f"{atoms.get_chemical_formula()}, {args.ps} ps NVE, {args.timestep} fs, {args.dtype}, "
        f"mean {result.temperature_K:.0f} K\n"
        f"drift (linear fit)   {result.drift_meV:+.6f} meV/atom, "
        f"{result.drift_meV / args.ps:+.6f} meV/atom/ps\n"
        f"largest deviation    {result.largest_deviation_meV:.6f} meV/atom\n"
        f"standard deviation   {result.fluctuation_meV:.6f} meV/atom\n"
        f"speed                {result.steps_per_second:.0f} steps/s"
    )


if __name__ == "__main__":
    main()
