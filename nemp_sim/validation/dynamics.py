"""Energy conservation of molecular dynamics in the microcanonical ensemble."""

import time
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet
from ase.optimize import FIRE


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


def conservation(
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
