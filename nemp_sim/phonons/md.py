"""Classical molecular dynamics of several replicas of a supercell, each step one batched call.

What ``anharmonic`` takes its spectra from. Velocity Verlet; while equilibrating, the
velocities also feel a Langevin thermostat.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units

from nemp_sim.config import require
from nemp_sim.errors import EvaluationError
from nemp_sim.relax import CountedCalls, Engine
from nemp_sim.structures import bare

FRICTION_PER_FS = 0.02  # of the thermostat while equilibrating
STEPS_PER_PERIOD = 25  # of the fastest harmonic mode
LONGEST_STEP_FS = 3.0
FIT_EVERY_FS = 50.0  # between the frames that force constants are fitted to
ESCAPE_ANGSTROM = 2.0  # displacements longer than this are no vibration


@dataclass(frozen=True)
class Dynamics:
    """Trajectories of r replicas of a supercell of N atoms over t steps without thermostat.

    Attributes:
        supercell: at its minimum.
        timestep_fs: time step.
        velocities: (t, r, N, 3) √eV/amu.
        displacements: (f, N, 3) from the minimum, Å, of frames every ``FIT_EVERY_FS``.
        forces: (f, N, 3) on them, eV/Å.
        temperature_K: mean kinetic temperature.
        drift_meV_per_atom: change of the total energy over the run, mean of the replicas.
        model_calls: engine calls, each for all replicas.
    """

    supercell: Atoms
    timestep_fs: float
    velocities: np.ndarray
    displacements: np.ndarray
    forces: np.ndarray
    temperature_K: float
    drift_meV_per_atom: float
    model_calls: int


def timestep_for(max_THz: float) -> float:
    """Time step in fs for a highest frequency: 25 steps a period, at most 3 fs."""
    require(max_THz > 0, "max_THz", max_THz, "positive")
    return min(LONGEST_STEP_FS, 1e3 / (STEPS_PER_PERIOD * max_THz))


def run_replicas(
    engine: Engine,
    supercell: Atoms,
    temperature_K: float,
    timestep_fs: float,
    production_ps: float,
    replicas: int = 4,
    seed: int = 0,
    on_step: Callable[[int, int], None] | None = None,
) -> Dynamics:
    """Equilibrate with a Langevin thermostat, then velocity Verlet, all replicas in each call.

    Velocities start from a Maxwell distribution of twice the temperature, which equipartition
    halves; a quarter of the production time is spent on equilibration.

    Args:
        engine: evaluates all replicas at once.
        supercell: at its minimum, with masses; no atom is held.
        temperature_K: of the thermostat.
        timestep_fs: time step.
        production_ps: length of the run without thermostat.
        replicas: independent trajectories side by side.
        seed: of the random numbers.
        on_step: called with the step and the number of all steps.

    Raises:
        InputError: a value out of its range.
        EvaluationError: forces that are not finite, or a crystal that fell apart.
    """
    require(temperature_K > 0, "md temperature", temperature_K, "positive (K)")
    require(replicas >= 1, "md_replicas", replicas, "1 or more")
    steps = round(1e3 * production_ps / timestep_fs)
    require(steps >= 64, "md_ps", production_ps, f"64 steps of {timestep_fs:.2f} fs or more")
    rng = np.random.default_rng(seed)
    state = _State(engine, supercell, replicas, timestep_fs * units.fs)
    state.draw_velocities(2 * temperature_K, rng)
    warm_up, every = steps // 4, max(1, round(FIT_EVERY_FS / timestep_fs))
    velocities = np.empty((steps, *state.velocities.shape), dtype=np.float32)
    frames, forces, energies = [], [], []
    for step in range(-warm_up, steps):
        state.verlet()
        if step < 0:
            state.thermalise(temperature_K, np.exp(-FRICTION_PER_FS * timestep_fs), rng)
        else:
            velocities[step] = state.velocities
            energies.append(state.total_energy())
            if step % every == 0:
                frames.append(state.displacements())
                forces.append(state.forces)
        if on_step:
            on_step(step + warm_up + 1, steps + warm_up)
    return Dynamics(
        supercell=supercell,
        timestep_fs=timestep_fs,
        velocities=velocities,
        displacements=np.concatenate(frames),
        forces=np.concatenate(forces),
        temperature_K=_temperature(velocities, state.masses),
        drift_meV_per_atom=1e3 * _drift(energies) / len(supercell),
        model_calls=state.calls.count,
    )


def _temperature(velocities: np.ndarray, masses: np.ndarray) -> float:
    """Mean kinetic temperature, K, of atoms (t, r, N, 3) whose centre of mass is at rest."""
    kinetic = (masses * velocities.astype(float) ** 2).sum(axis=(2, 3)).mean()
    return float(kinetic / (3 * max(len(masses) - 1, 1)) / units.kB)


def _drift(energies: Sequence[float]) -> float:
    """Mean of the last tenth above that of the first."""
    piece = max(1, len(energies) // 10)
    return float(np.mean(energies[-piece:]) - np.mean(energies[:piece]))


class _State:
    """Positions, velocities and forces of all replicas; arrays are (r, N, 3)."""

    def __init__(self, engine: Engine, supercell: Atoms, replicas: int, dt: float) -> None:
        self.start, self.dt = bare(supercell), dt
        self.start.set_constraint()
        self.images = [self.start.copy() for _ in range(replicas)]
        self.masses = supercell.get_masses()[:, None]
        self.calls = CountedCalls(engine)
        self._evaluate()

    def _evaluate(self) -> None:
        self.calls.fill(self.images)
        self.forces = np.array([image.get_forces() for image in self.images])

    def draw_velocities(self, temperature: float, rng: np.random.Generator) -> None:
        """A Maxwell distribution."""
        self.velocities = np.zeros_like(self.forces)
        self.thermalise(temperature, 0.0, rng)

    def thermalise(self, temperature: float, kept: float, rng: np.random.Generator) -> None:
        """Keep a part of the velocities, draw the rest; the centre of mass stays at rest."""
        width = np.sqrt(units.kB * temperature * (1 - kept**2) / self.masses)
        moved = kept * self.velocities + width * rng.normal(size=self.velocities.shape)
        drift = (self.masses * moved).sum(axis=1, keepdims=True) / self.masses.sum()
        self.velocities = moved - drift

    def verlet(self) -> None:
        """One step of velocity Verlet."""
        half = self.velocities + 0.5 * self.dt * self.forces / self.masses
        for image, velocity in zip(self.images, half, strict=True):
            image.positions += self.dt * velocity
        self._evaluate()
        self.velocities = half + 0.5 * self.dt * self.forces / self.masses

    def total_energy(self) -> float:
        """Mean of the replicas, eV."""
        potential = np.mean([image.get_potential_energy() for image in self.images])
        kinetic = 0.5 * (self.masses * self.velocities**2).sum() / len(self.images)
        return float(potential + kinetic)

    def displacements(self) -> np.ndarray:
        """From the start, Å, without those of the whole crystal.

        Raises:
            EvaluationError: an atom that left its site.
        """
        moved = np.array([image.positions - self.start.positions for image in self.images])
        moved -= moved.mean(axis=1, keepdims=True)
        longest = np.linalg.norm(moved, axis=2).max()
        if longest > ESCAPE_ANGSTROM:
            raise EvaluationError(
                f"an atom of {self.start.get_chemical_formula()} left its site by {longest:.1f} Å: "
                "the crystal melts, diffuses, or the potential fails there. Lower the temperature "
                "of --md."
            )
        return moved
