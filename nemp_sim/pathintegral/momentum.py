"""Momentum distributions from paths that are opened afterwards: displaced-path estimator.

The distribution of the momentum of an atom along an axis e is the Fourier transform of the
end-to-end distribution of its open path,

    n(p) = 1/(2πħ) ∫ ñ(u) cos(pu/ħ) du,   ñ(u) = exp(−m u²/2βħ²) ⟨exp(−β/P Σ_k w_k ΔV_k)⟩,
    ΔV_k = V(r_k + (½ − k/P) u e) − V(r_k),   k = 0 … P,   w_0 = w_P = ½, else 1,   r_P = r_0,

averaged over the closed paths of an ordinary simulation: exact for P beads, and cheaper than open
paths for light atoms. Any bead may be the first; it is drawn at random. −ħ²/2m ñ''(0) is the
kinetic energy along the axis: a check against the virial. Displaced beads may lie where the
potential was never trained; their weights are small there, and how small is reported.

Source: L. Lin, J. A. Morrone, R. Car and M. Parrinello, Phys. Rev. Lett. 105, 110602 (2010),
10.1103/PhysRevLett.105.110602.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.units import kB
from scipy.interpolate import CubicSpline

from nemp_sim.blocking import FEWEST_BLOCKS
from nemp_sim.config import require
from nemp_sim.ipi.client import BeadEngine
from nemp_sim.pathintegral.files import Frames
from nemp_sim.pathintegral.input import PREFIX, Dynamics, Start
from nemp_sim.potential import Potential
from nemp_sim.vibrations import EV_OF_ROOT as HBAR  # ħ, where masses are amu and lengths Å
from nemp_sim.watch import Watch

AXES = ("x", "y", "z")
REACH = 4.0  # of the displacements, over the width of the end-to-end distribution
DISPLACEMENTS = 8
POINTS = 161  # of the distributions
WIDEST = 5.0  # momentum over its root mean square, and displacement beyond ``REACH``


@dataclass(frozen=True)
class Momentum:
    """Momentum distribution of the atoms of one species; axes "x", "y", "z", and their "mean".

    Attributes:
        species: their label.
        mass_amu: of one.
        temperature_K: of the simulation.
        n_samples: opened paths.
        displacement_A: (D,) u, the first one zero.
        end_to_end: by axis, (D,) ñ(u).
        end_to_end_error: likewise, standard errors.
        momentum_per_A: (R,) p/ħ, from zero on.
        density_A: by axis, (R,) distribution of p/ħ; its integral over both signs is 1.
        density_error_A: likewise, standard errors.
        kinetic_eV: by axis, kinetic energy along it.
        kinetic_error_eV: likewise, standard errors.
        outside_share: share of ∫ ñ(u) du, all axes, from paths with a bead outside the domain of
            the potential.
    """

    species: str
    mass_amu: float
    temperature_K: float
    n_samples: int
    displacement_A: np.ndarray
    end_to_end: Mapping[str, np.ndarray]
    end_to_end_error: Mapping[str, np.ndarray]
    momentum_per_A: np.ndarray
    density_A: Mapping[str, np.ndarray]
    density_error_A: Mapping[str, np.ndarray]
    kinetic_eV: Mapping[str, float]
    kinetic_error_eV: Mapping[str, float]
    outside_share: float

    def classical_A(self) -> np.ndarray:
        """Maxwell's distribution (R,) of p/ħ at the same temperature."""
        width = np.sqrt(self.mass_amu * kB * self.temperature_K) / HBAR
        scaled = self.momentum_per_A / width
        return np.exp(-(scaled**2) / 2) / (width * np.sqrt(2 * np.pi))


def momentum_distribution(
    engine: BeadEngine,
    directory: Path,
    start: Start,
    dynamics: Dynamics,
    species: str,
    kinetic_eV: float,
    skip: int = 0,
    frames: int = 40,
) -> Momentum:
    """Open the paths of the atoms of a species, one in every frame, along three axes.

    Args:
        engine: evaluates the displaced beads of a frame in one call.
        directory: of a finished simulation.
        start: what was simulated.
        dynamics: how.
        species: label of the atoms, as in ``start.species()``.
        kinetic_eV: their kinetic energy, which sets the displacements.
        skip: steps left out at the start.
        frames: used of those written, evenly spaced.

    Raises:
        InputError: classical dynamics, no such atoms, fewer than eight frames.
        EvaluationError: forces or energies that are not finite.
    """
    check_momentum(start, dynamics, species)
    chosen = [int(i) for i in start.free if start.labels[i] == species]
    mass = float(start.atoms.get_masses()[chosen[0]])
    written = [frame for frame in Frames(directory, PREFIX) if frame[0] > skip]
    require(len(written) >= FEWEST_BLOCKS, "frames", len(written), f"{FEWEST_BLOCKS} or more")
    picked = np.unique(np.linspace(0, len(written) - 1, frames).round().astype(int))
    width = HBAR / np.sqrt(2 * mass * kinetic_eV / 3)
    u = REACH * width * np.arange(DISPLACEMENTS + 1) / DISPLACEMENTS
    rng = np.random.default_rng(dynamics.seed)
    kT = kB * dynamics.temperature_K
    weights, outside = [], []
    for count, index in enumerate(picked):
        _, cell, beads = written[index]
        path = np.roll(beads, rng.integers(len(beads)), axis=0)
        opened = _Opened(start, cell, path, chosen[count % len(chosen)])
        with _uncounted(engine):
            changes, is_outside = opened.changes_eV(engine, u[1:])
        weights.append(np.exp(-changes / (len(beads) * kT)))
        outside.append(is_outside)
    free = np.exp(-mass * kT * u**2 / (2 * HBAR**2))
    samples = np.ones((len(picked), len(AXES) + 1, len(u)))
    samples[:, :3, 1:] = weights
    samples[:, 3] = samples[:, :3].mean(axis=1)
    samples *= free
    share = (samples[:, :3, 1:] * outside).sum() / samples[:, :3].sum()
    return _transformed(samples, u, species, mass, dynamics.temperature_K, 1 / width, float(share))


@contextmanager
def _uncounted(engine: BeadEngine) -> Iterator[None]:
    """What is evaluated inside neither counts in the domain of the run nor warns."""
    if not isinstance(engine, Potential):
        yield
        return
    kept, engine.watch = engine.watch, Watch(engine.name, policy="ignore")
    try:
        yield
    finally:
        engine.watch = kept


def check_momentum(start: Start, dynamics: Dynamics, species: str) -> None:
    """Refuse what has no momentum distribution to be computed, before anything is simulated.

    Raises:
        InputError: classical dynamics, or no such atoms.
    """
    require(dynamics.beads > 1, "beads", dynamics.beads, "2 or more for momentum distributions")
    known = start.species()
    require(species in known, "momentum", species, f"one of {', '.join(known)}")


class _Opened:
    """The path of one atom in a frame, to be opened."""

    def __init__(self, start: Start, cell: np.ndarray, path: np.ndarray, atom: int) -> None:
        """Take the beads (P, N, 3) of a frame in Å, the first one where the path is cut."""
        self._atoms = start.atoms.copy()
        self._atoms.set_cell(cell)
        self._axes = np.eye(3) @ start.rotation.T  # of the structure as it was given
        self._path, self._atom = np.concatenate([path, path[:1]]), atom

    def changes_eV(  # noqa: N802 (a unit in a name)
        self, engine: BeadEngine, displacements: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Σ_k w_k ΔV_k (3, D) in eV for every axis and displacement, and whether a bead is outside.

        One call.
        """
        points = len(self._path)
        share = 0.5 - np.arange(points) / (points - 1)
        weight = np.ones(points)
        weight[[0, -1]] = 0.5
        structures = [self._bead(k, np.zeros(3)) for k in range(points - 1)]
        for axis in self._axes:
            for u in displacements:
                structures += [self._bead(k, share[k] * u * axis) for k in range(points)]
        result = engine.evaluate(structures, forces=False)
        energy = np.asarray(result.energy)
        closed = weight @ np.append(energy[: points - 1], energy[0])
        shape = len(self._axes), len(displacements), points
        judged = getattr(result, "outside", ())  # engines other than ours know no domain
        marks = [bool(found) for found in judged] or [False] * len(structures)
        is_outside = np.asarray(np.array(marks[points - 1 :]).reshape(shape).any(axis=2))
        return energy[points - 1 :].reshape(shape) @ weight - closed, is_outside

    def _bead(self, k: int, moved: np.ndarray) -> Atoms:
        atoms = self._atoms.copy()
        atoms.positions = self._path[k]
        atoms.positions[self._atom] += moved
        return atoms


def _transformed(
    samples: np.ndarray,
    u: np.ndarray,
    species: str,
    mass: float,
    kelvin: float,
    width: float,
    share: float,
) -> Momentum:
    """Means of the samples (F, 4, D) and what follows from them; errors by the jackknife."""
    p = np.linspace(0.0, WIDEST * width, POINTS)
    names = (*AXES, "mean")
    means = samples.mean(axis=0)
    values = [_from_end_to_end(row, u, p, mass) for row in means]
    blocks = np.array_split(np.arange(len(samples)), FEWEST_BLOCKS)
    left = [np.delete(samples, block, axis=0).mean(axis=0) for block in blocks]
    again = [[_from_end_to_end(row, u, p, mass) for row in rows] for rows in left]

    def error(pick: Callable[[list], list]) -> np.ndarray:
        spread = np.array([pick(rows) for rows in again])
        return np.sqrt((len(blocks) - 1) * spread.var(axis=0))

    density = error(lambda rows: [row[0] for row in rows])
    kinetic = error(lambda rows: [row[1] for row in rows])
    ends = np.sqrt((len(blocks) - 1) * np.array(left).var(axis=0))
    return Momentum(
        species=species,
        mass_amu=mass,
        temperature_K=kelvin,
        n_samples=len(samples),
        displacement_A=u,
        end_to_end=dict(zip(names, means, strict=True)),
        end_to_end_error=dict(zip(names, ends, strict=True)),
        momentum_per_A=p,
        density_A={name: row[0] for name, row in zip(names, values, strict=True)},
        density_error_A=dict(zip(names, density, strict=True)),
        kinetic_eV={name: row[1] for name, row in zip(names, values, strict=True)},
        kinetic_error_eV=dict(zip(names, map(float, kinetic), strict=True)),
        outside_share=share,
    )


def _from_end_to_end(
    values: np.ndarray, u: np.ndarray, p: np.ndarray, mass: float
) -> tuple[np.ndarray, float]:
    """Distribution of p/ħ (R,) and kinetic energy in eV of ñ(u) (D,).

    −ln ñ/u² is smooth in u²: its value at zero comes from the two smallest u, a spline goes through
    all, and beyond the last u it stays what it is there.
    """
    exponent = -np.log(values[1:]) / u[1:] ** 2
    at_zero = (4 * exponent[0] - exponent[1]) / 3
    spline = CubicSpline(u**2, np.concatenate([[at_zero], exponent]), bc_type="natural")
    fine = np.linspace(0.0, u[-1] * WIDEST / REACH, 801)
    curve = np.exp(-(fine**2) * spline(np.minimum(fine, u[-1]) ** 2))
    density = np.trapezoid(curve * np.cos(np.outer(p, fine)), fine, axis=1) / np.pi
    return density, float(HBAR**2 * at_zero / mass)
