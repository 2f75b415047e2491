"""Runs of classical dynamics by ASE's integrators, which a kill does not end.

- ``nve``: velocity Verlet.
- ``nvt``: Langevin, m dv/dt = F − γ m v + (2 γ m k_B T)^(1/2) ξ(t); E. Vanden-Eijnden and G.
  Ciccotti, Chem. Phys. Lett. 429, 310 (2006), 10.1016/j.cplett.2006.07.086.
- ``npt``: Langevin for the atoms and for the volume, BAOAB; D. Quigley and M. I. J. Probert, J.
  Chem. Phys. 120, 11432 (2004), 10.1063/1.1755657.
"""

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.md import MolecularDynamics
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from ase.md.verlet import VelocityVerlet

from nemp_sim.config import require
from nemp_sim.errors import InputError
from nemp_sim.md.files import Files, Sample
from nemp_sim.md.joined import Replicas
from nemp_sim.potential import Potential
from nemp_sim.relax import Engine, identity
from nemp_sim.saved_state import SavedState, State
from nemp_sim.structures import GAP_ANGSTROM, fixed_coordinates, vacuum_gaps

ENSEMBLES = ("nve", "nvt", "npt")
VELOCITIES = ("auto", "maxwell", "file", "zero")
SAVED_EVERY = 200  # steps
AT_REST = 1e-6  # of the momenta of the atoms: a sum below this is rounding
STATE = "state.npz"
VOLUME = ("p_eps", "force_eps")  # of LangevinBAOAB: momentum of the volume, and the force on it
PS = 1e3 * units.fs
MPA = 1e-3 * units.GPa


@dataclass(frozen=True)
class Dynamics:
    """What fixes a run but its structure, its engine and its length.

    Attributes:
        temperatures_K: (R,) temperature of each replica; of ``nve``, that of the first velocities.
        ensemble: one of ``ENSEMBLES``.
        timestep_fs: time step.
        friction_per_ps: γ of the Langevin bath.
        pressure_MPa: of ``npt``.
        barostat_fs: time constant of the volume in ``npt``.
        velocities: the first ones: "maxwell" draws them, "file" takes those of the structure,
            "zero" none, "auto" those of the structure where it has any, or else draws.
        every: steps between two lines of the log.
        frames_every: steps between two frames of the trajectories.
        seed: of all random numbers.
    """

    temperatures_K: tuple[float, ...] = (300.0,)
    ensemble: str = "nvt"
    timestep_fs: float = 0.5
    friction_per_ps: float = 5.0
    pressure_MPa: float = 0.1
    barostat_fs: float = 1000.0
    velocities: str = "auto"
    every: int = 10
    frames_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values out of their range."""
        require(self.ensemble in ENSEMBLES, "ensemble", self.ensemble, ", ".join(ENSEMBLES))
        known = ", ".join(VELOCITIES)
        require(self.velocities in VELOCITIES, "velocities", self.velocities, f"one of {known}")
        for each in self.temperatures_K:
            require(0 < each < np.inf, "temperature", each, "positive (K)")
        for name in ("timestep_fs", "friction_per_ps", "barostat_fs"):
            value = getattr(self, name)
            require(0 < value < np.inf, name.rpartition("_")[0].split("_")[0], value, "positive")
        for name in ("every", "frames_every"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        alone = self.ensemble != "npt" or len(self.temperatures_K) == 1
        count = len(self.temperatures_K)
        require(alone, "replicas", count, "1 at one temperature in npt: nemp many runs several")


def simulate(
    engine: Engine,
    start: Atoms,
    dynamics: Dynamics,
    n_steps: int,
    directory: Path,
    on_sample: Callable[[int, int], None] | None = None,
) -> tuple[Atoms, ...]:
    """Run all replicas of ``start`` to ``n_steps``, or on from where the directory stands.

    A run that was killed goes on from its last ``SAVED_EVERY`` steps to the same bits.

    Args:
        engine: evaluates all replicas in one call.
        start: N atoms, with constraints, and momenta if they are wanted.
        dynamics: how.
        n_steps: steps in all, with those of earlier processes.
        directory: of log, trajectories and state.
        on_sample: called at each line of the log with the step and that at which this process
            began.

    Returns:
        The replicas at the end, with momenta, energies and forces.

    Raises:
        InputError: a value that does not fit the structure or the engine, or the state of another
            or a longer run.
        EvaluationError: forces that are not finite.
    """
    with_pressure = check_ensemble(start, dynamics, engine)
    calculator = Replicas(engine, [start] * len(dynamics.temperatures_K))
    calculator.with_stress = dynamics.ensemble == "npt" or with_pressure
    atoms = calculator.joined()
    saved = _saved(directory, dynamics, engine, atoms)
    files = Files(directory, dynamics.temperatures_K, with_pressure)
    state = saved.read()
    rng = np.random.default_rng(dynamics.seed) if state is None else state.rng
    sizes, begun = None, 0
    if state is None:
        atoms.set_momenta(first_momenta(start, dynamics, rng))
        atoms.get_forces()
    else:
        _take_up(state, atoms, calculator)
        sizes, begun = state.arrays["sizes"].tolist(), state.step
    _refuse_shorter(begun, n_steps, dynamics, directory)
    integrator = integrator_of(atoms, dynamics, rng)
    if state is not None:
        vars(integrator).update({n: float(state.arrays[n]) for n in VOLUME if n in state.arrays})
    freedom = degrees_of_freedom(start, dynamics, atoms)
    with files.opened(sizes, start, freedom) as write:
        if state is None:
            write(Sample(0, 0.0, atoms, calculator), log=True, frame=True)
        for step in range(begun + 1, n_steps + 1):
            log, frame = step % dynamics.every == 0, step % dynamics.frames_every == 0
            calculator.with_stress = dynamics.ensemble == "npt" or (log and with_pressure)
            integrator.step()
            if log or frame:
                here = Sample(step, step * dynamics.timestep_fs * 1e-3, atoms, calculator)
                write(here, log=log, frame=frame)
            if log and on_sample is not None:
                on_sample(step, begun)
            if step % SAVED_EVERY == 0 or step == n_steps:
                saved.write(_state(step, atoms, calculator, integrator, files.sizes(), rng))
                calculator.renew_lists()  # as in a run that goes on from here
    return calculator.split(atoms, start)


def _saved(directory: Path, dynamics: Dynamics, engine: Engine, atoms: Atoms) -> SavedState:
    """The file with the state of a run that these things fix."""
    kept = [getattr(dynamics, f.name) for f in fields(dynamics)]
    arrays = (atoms.positions, atoms.cell.array, atoms.get_masses(), fixed_coordinates(atoms))
    cure = "Choose another --name, or give --fresh to start anew."
    return SavedState(directory / STATE, [*kept, identity(engine)], arrays, cure)


def _refuse_shorter(begun: int, n_steps: int, dynamics: Dynamics, directory: Path) -> None:
    """Refuse a run that is longer already than what is wanted.

    Raises:
        InputError: with its length.
    """
    if begun > n_steps:
        raise InputError(
            f"{directory} holds a run of {begun * dynamics.timestep_fs * 1e-3:g} ps, longer than "
            "what is wanted. Give as many --picoseconds or more, another --name, or --fresh."
        )


def check_ensemble(start: Atoms, dynamics: Dynamics, engine: Engine) -> bool:
    """Whether the pressure is known: bulk, no atom held, and a potential trained on stress.

    Raises:
        InputError: ``npt`` without it, or nothing that moves.
    """
    held = fixed_coordinates(start)
    if held.all():
        raise InputError("all atoms are held: nothing can move. Release some.")
    bulk = start.pbc.all() and not (vacuum_gaps(start) > GAP_ANGSTROM).any() and not held.any()
    trained = records_stress(engine)
    if dynamics.ensemble == "npt" and not bulk:
        require(False, "ensemble", "npt", "nve or nvt: the structure has a surface or held atoms")
    if dynamics.ensemble == "npt" and not trained:
        name = getattr(engine, "name", type(engine).__name__)
        raise InputError(
            f"ensemble is npt, but {name} records no error of stresses: it was not trained on any, "
            "and its pressure may be off by GPa. Use nvt, or a potential trained with REF_stress."
        )
    return bool(bulk and trained)


def records_stress(engine: Engine) -> bool:
    """Whether stresses can be trusted: of a potential, that its head was measured on labels.

    Of another engine, that it has them.
    """
    if not isinstance(engine, Potential):
        return "stress" in inspect.signature(engine.evaluate).parameters
    rows = [row for split in engine.metadata.errors.values() for row in split]
    mine = [row for row in rows if row.get("head") == engine.head]
    return any(row.get("stress_rmse_meV_per_A3") is not None for row in mine)


def first_momenta(start: Atoms, dynamics: Dynamics, rng: np.random.Generator) -> np.ndarray:
    """(R·N, 3) momenta in ASE's units; of free structures in ``nve``, without a drift.

    Raises:
        InputError: "file" without momenta in the structure, or for several replicas of ``nve``.
    """
    given, count = start.has("momenta"), len(dynamics.temperatures_K)
    copies = dynamics.ensemble == "nve" and count > 1
    if dynamics.velocities == "file":
        wanted = "maxwell in nve: the replicas would all be one"
        wanted = wanted if given else "maxwell: the structure has no momenta"
        require(given and not copies, "velocities", "file", wanted)
    if dynamics.velocities == "zero":
        return np.zeros((count * len(start), 3))
    if dynamics.velocities == "file" or (dynamics.velocities == "auto" and given and not copies):
        return np.concatenate([start.get_momenta()] * count)
    momenta = []
    for temperature in dynamics.temperatures_K:
        each = start.copy()
        thermalize_momenta(each, temperature_K=temperature, rng=rng)
        if dynamics.ensemble == "nve" and not start.constraints:
            Stationary(each)
        momenta.append(each.get_momenta())
    return np.concatenate(momenta)


def degrees_of_freedom(start: Atoms, dynamics: Dynamics, joined: Atoms) -> int:
    """Of one replica: its free coordinates, less three where its momentum stays zero."""
    free = int((~fixed_coordinates(start)).sum())
    momenta = joined.get_momenta().reshape(len(dynamics.temperatures_K), -1, 3)
    still = np.abs(momenta.sum(axis=1)).max() <= AT_REST * np.abs(momenta).sum()
    kept = dynamics.ensemble == "nve" and not start.constraints and still
    return max(free - 3 * bool(kept), 1)


def integrator_of(
    atoms: Atoms, dynamics: Dynamics, rng: np.random.Generator
) -> VelocityVerlet | Langevin | LangevinBAOAB:
    """ASE's integrator of the ensemble, for the joined structure."""
    step, friction = dynamics.timestep_fs * units.fs, dynamics.friction_per_ps / PS
    if dynamics.ensemble == "nve":
        return VelocityVerlet(atoms, step)
    if dynamics.ensemble == "nvt":
        each = np.repeat(dynamics.temperatures_K, len(atoms) // len(dynamics.temperatures_K))
        bath: dict[str, Any] = {"temperature_K": each[:, None], "friction": friction}
        return Langevin(atoms, step, **bath, fixcm=False, rng=rng)
    with warnings.catch_warnings():  # that the mass of the volume follows from its time constant
        warnings.filterwarnings("ignore", "Using heuristic P_mass")
        return LangevinBAOAB(
            atoms,
            step,
            temperature_K=dynamics.temperatures_K[0],
            externalstress=-dynamics.pressure_MPa * MPA,
            hydrostatic=True,
            T_tau=1 / friction,
            P_tau=dynamics.barostat_fs * units.fs,
            rng=rng,
        )


def _state(  # noqa: PLR0913 (all that a run stands on)
    step: int,
    atoms: Atoms,
    calculator: Replicas,
    integrator: MolecularDynamics,
    sizes: Sequence[int],
    rng: np.random.Generator,
) -> State:
    arrays = {
        "positions": atoms.positions,
        "momenta": atoms.get_momenta(),
        "cell": atoms.cell.array,
        "forces": calculator.results["forces"],
        "energies": calculator.energies,
        "sizes": np.array(sizes),
    }
    if calculator.stresses is not None:
        arrays["stresses"] = calculator.stresses
    for name in set(VOLUME) & vars(integrator).keys():
        arrays[name] = np.array(getattr(integrator, name))
    return State(step, arrays, rng)


def _take_up(state: State, atoms: Atoms, calculator: Replicas) -> None:
    found = state.arrays
    atoms.cell = found["cell"]
    atoms.positions = found["positions"]
    atoms.set_momenta(found["momenta"], apply_constraint=False)
    calculator.restore(atoms, found["forces"], found["energies"], found.get("stresses"))
