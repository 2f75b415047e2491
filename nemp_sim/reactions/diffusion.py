"""Diffusion constants from batched Langevin replicas, and from rate constants of hops.

Langevin dynamics by the BAOAB splitting (B. Leimkuhler and C. Matthews, Appl. Math. Res. Express
2013, 34, 10.1093/amrx/abs010): half a kick, half a drift, the exact Ornstein–Uhlenbeck step

    v → e^{−γΔt} v + (k_B T (1 − e^{−2γΔt}) / m)^(1/2) ξ,

half a drift, half a kick. All replicas are one engine call at each step. From the displacements
of d dimensions, D = ⟨|r(t + τ) − r(t)|²⟩ / 2dτ at large τ.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms, units

from nemp_sim.config import require
from nemp_sim.relax import CountedCalls, Engine, identity
from nemp_sim.saved_state import SavedState, State
from nemp_sim.structures import bare, fixed_coordinates, require_fixed_alone

SAVED_EVERY = 200  # steps


@dataclass(frozen=True)
class Diffusion:
    """A diffusion constant with its error.

    Attributes:
        lag_ps: (n,) lag times τ.
        msd_A2: (n,) mean-square displacement, mean of all replicas.
        msd_error_A2: (n,) its standard error over the replicas.
        constant_A2_per_ps: D.
        error_A2_per_ps: standard error over the replicas.
        fit_from_ps: lags from here to ``fit_to_ps`` give D.
        fit_to_ps: the longest lag.
    """

    lag_ps: np.ndarray
    msd_A2: np.ndarray
    msd_error_A2: np.ndarray
    constant_A2_per_ps: float
    error_A2_per_ps: float
    fit_from_ps: float
    fit_to_ps: float


def langevin(  # noqa: PLR0913 (what a run is fixed by)
    engine: Engine,
    replicas: Sequence[Atoms],
    temperature_K: float,
    n_steps: int,
    timestep_fs: float = 0.5,
    friction_per_ps: float = 1.0,
    every: int = 10,
    seed: int = 0,
    state_file: Path | None = None,
    on_sample: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Positions (n_samples, R, N, 3) of R replicas of one structure, Å, never wrapped.

    Velocities start from the Maxwell distribution; what FixAtoms or FixCartesian hold stays.

    Args:
        engine: evaluates all replicas in one call.
        replicas: R structures of N atoms, masses included.
        temperature_K: of the bath.
        n_steps: steps.
        timestep_fs: Δt; 0.5 with H, less at high temperature.
        friction_per_ps: γ; it slows diffusion that is not dominated by the solid.
        every: steps between samples; the start is the first sample.
        seed: of all random numbers.
        state_file: where the run stands, every ``SAVED_EVERY`` steps. A run that was killed goes on
            from there to the same bits; None: nothing is kept.
        on_sample: called with the number of steps done, at each sample.

    Raises:
        InputError: a value out of its range, other constraints than FixAtoms and FixCartesian, or
            a file with the state of another run.
        EvaluationError: forces that are not finite.
    """
    _check_run(temperature_K, timestep_fs, friction_per_ps, (every, n_steps))
    atoms = [bare(replica) for replica in replicas]
    for each in atoms:
        require_fixed_alone(each, "dynamics")
    free = np.array([~fixed_coordinates(a) for a in atoms])
    masses = np.array([a.get_masses() for a in atoms])[:, :, None]
    positions = np.array([a.positions for a in atoms])
    for a in atoms:
        a.set_constraint()
    dt = timestep_fs * units.fs
    keep = np.exp(-friction_per_ps * timestep_fs * 1e-3)
    thermal = np.sqrt(units.kB * temperature_K / masses)
    calls = CountedCalls(engine)
    fixed_by = [temperature_K, timestep_fs, friction_per_ps, every, seed]
    saved = SavedState(state_file, [*fixed_by, identity(engine)], (positions, masses, free))
    run, samples = saved.read(), [positions.copy()]
    if run is None:
        rng = np.random.default_rng(seed)
        velocities = thermal * rng.normal(size=positions.shape) * free
        forces = _forces(calls, atoms, positions) * free
        run = State(0, {"positions": positions, "velocities": velocities, "forces": forces}, rng)
    else:
        samples = [*run.arrays.pop("samples")]
    positions, velocities, forces = run.arrays.values()

    for step in range(run.step + 1, n_steps + 1):
        velocities += 0.5 * dt * forces / masses
        positions = positions + 0.5 * dt * velocities
        noise = thermal * run.rng.normal(size=positions.shape) * free
        velocities = keep * velocities + np.sqrt(1 - keep**2) * noise
        positions = positions + 0.5 * dt * velocities
        forces = _forces(calls, atoms, positions) * free
        velocities += 0.5 * dt * forces / masses
        if step % every == 0:
            samples.append(positions.copy())
            if on_sample:
                on_sample(step)
        if step % SAVED_EVERY == 0 and state_file is not None:
            arrays = {"positions": positions, "velocities": velocities, "forces": forces}
            saved.write(State(step, arrays | {"samples": np.array(samples)}, run.rng))
            calls = CountedCalls(engine)  # new neighbour lists, as in a run that goes on from here
    return np.array(samples[: n_steps // every + 1])


def _forces(calls: CountedCalls, atoms: Sequence[Atoms], positions: np.ndarray) -> np.ndarray:
    """(R, N, 3) eV/Å, of replicas moved to ``positions``."""
    for a, place in zip(atoms, positions, strict=True):
        a.positions = place
    calls.fill(atoms)
    return np.array([a.get_forces() for a in atoms])


def _check_run(
    temperature_K: float, timestep_fs: float, friction_per_ps: float, counts: tuple[int, int]
) -> None:
    for name, value in (("temperature", temperature_K), ("timestep", timestep_fs)):
        require(value > 0, name, value, "positive")
    require(friction_per_ps >= 0, "friction", friction_per_ps, "0 or more (1/ps)")
    every, n_steps = counts
    require(n_steps >= every >= 1, "every", every, f"between 1 and n_steps ({n_steps})")


def diffusion_constant(
    tracks_A: np.ndarray, sample_ps: float, fit_from: float = 0.2, fit_to: float = 0.5
) -> Diffusion:
    """D of particles from their unwrapped tracks; the error comes from the replicas.

    The slope of each replica's own mean-square displacement, over all starting times, between
    two shares of the length of the run; D is their mean, its error their standard error.

    Args:
        tracks_A: (n_samples, R, d) positions of one particle in R replicas, d dimensions.
        sample_ps: time between samples.
        fit_from: share of the run at which the fit starts: after the ballistic part.
        fit_to: share at which it ends: later lags have too few starting times.

    Raises:
        InputError: fewer than two replicas, or too short tracks.
    """
    n_samples, n_replicas, dimensions = tracks_A.shape
    require(n_replicas >= 2, "replicas", n_replicas, "2 or more, for an error")
    longest = int(fit_to * (n_samples - 1))
    first = max(1, int(fit_from * (n_samples - 1)))
    require(longest - first >= 2, "samples", n_samples, "enough for three lags in the fit")
    msd = np.zeros((longest + 1, n_replicas))
    for lag in range(1, longest + 1):
        apart = tracks_A[lag:] - tracks_A[:-lag]
        msd[lag] = (apart**2).sum(axis=2).mean(axis=0)
    lags = sample_ps * np.arange(longest + 1)
    slopes = np.polyfit(lags[first:], msd[first:], 1)[0] / (2 * dimensions)
    root = np.sqrt(n_replicas)
    return Diffusion(
        lag_ps=lags,
        msd_A2=msd.mean(axis=1),
        msd_error_A2=msd.std(axis=1, ddof=1) / root,
        constant_A2_per_ps=float(slopes.mean()),
        error_A2_per_ps=float(slopes.std(ddof=1) / root),
        fit_from_ps=float(lags[first]),
        fit_to_ps=float(lags[-1]),
    )


def hollow_diffusion(fcc_to_hcp_per_s: float, hcp_to_fcc_per_s: float, nearest_A: float) -> float:
    """D (Å²/ps) of random hops between neighbouring fcc and hcp hollows of a (111) surface.

    Three ways lead out of each hollow, l = a_nn/√3 apart, and no hop remembers the one before, so
    D = l² · (hops per time) / 4 with 6 k_fh k_hf / (k_fh + k_hf) hops per time in equilibrium.

    Args:
        fcc_to_hcp_per_s: rate constant of one of the three hops out of fcc.
        hcp_to_fcc_per_s: of one of the three back.
        nearest_A: distance of neighbouring metal atoms.
    """
    forth, back = fcc_to_hcp_per_s, hcp_to_fcc_per_s
    hops_per_ps = 6e-12 * forth * back / (forth + back)
    return nearest_A**2 / 3 * hops_per_ps / 4
