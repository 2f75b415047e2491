"""Ring-polymer instanton: the tunnelling rate below the crossover temperature.

A ring of N beads at x_1 … x_N, bound by springs of ω_N = N k_B T / ħ, has the energy

    U_N = Σ_i V(x_i) + ½ ω_N² Σ_i |y_{i+1} − y_i|²,     y = m^(1/2) x.

Below the crossover temperature its saddle is no longer all beads on top of the barrier but a path
through it, run there and back, so that N/2 beads are enough to find it. The rate is

    k Q_r = (1/β_N ħ) (B_N / 2π β_N ħ²)^(1/2) Π' (1 / β_N ħ |η_k|) exp(−β_N U_N),

β_N = 1/(N k_B T), B_N = Σ |y_{i+1} − y_i|², η_k² the eigenvalues of the mass-weighted Hessian of
U_N without the one that vanishes, Q_r the partition function of the initial state with N beads.
Every step evaluates all beads in one call. Sources: J. O. Richardson and S. C. Althorpe, J. Chem.
Phys. 131, 214106 (2009), 10.1063/1.3267318; J. O. Richardson, Int. Rev. Phys. Chem. 37, 171 (2018),
10.1080/0144235X.2018.1472353.
"""

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.units import _e, _hbar, kB

from nemp_sim.config import require
from nemp_sim.errors import InputError
from nemp_sim.reactions.transition_state import bofill
from nemp_sim.relax import CountedCalls, Engine
from nemp_sim.structures import bare
from nemp_sim.vibrations import EV_OF_ROOT as HBAR  # ħ, where masses are amu and lengths Å
from nemp_sim.vibrations import Vibrations, partial_hessian

TIME_S = _hbar / (_e * HBAR)  # (amu Å² / eV)^(1/2)
SPREADS_ANGSTROM = np.arange(0.1, 1.51, 0.1)  # of the first path, tried in one call
LONGEST_STEP_ANGSTROM = 0.1
SOFTEST = 0.02  # of the spring constant: curvatures below it are followed as if they were this
WIDEST_OF_CROSSOVER = 0.97  # closer to the crossover temperature the path shrinks to a point


@dataclass(frozen=True)
class Instanton:
    """The saddle of a ring polymer.

    Attributes:
        temperature_K: temperature.
        n_beads: N of the whole ring.
        beads: N/2 structures along the path, with energies and forces.
        action: S/ħ = β_N U_N above the initial state.
        path_A: length of the path, mass-weighted and divided by the root of the mass that moves, Å.
        log_flux: ln of k Q_r in 1/s, energies above the initial state.
        rate_per_s: k.
        converged: whether the largest force is below the wanted one.
        steps: steps of the optimiser.
    """

    temperature_K: float
    n_beads: int
    beads: tuple[Atoms, ...]
    action: float
    path_A: float
    log_flux: float
    rate_per_s: float
    converged: bool
    steps: int


def instanton(  # noqa: PLR0913 (what an instanton is fixed by)
    engine: Engine,
    initial: Vibrations,
    saddle: Vibrations,
    initial_energy_eV: float,
    temperature_K: float,
    n_beads: int = 64,
    fmax_eV_per_A: float = 2e-3,
    steps: int = 100,
) -> Instanton:
    """Find the instanton of a barrier and its rate.

    Args:
        engine: evaluates the structures.
        initial: modes of the initial state, for its partition function.
        saddle: modes of the saddle, of the same atoms; the others are held.
        initial_energy_eV: potential energy of the initial state.
        temperature_K: below the crossover temperature.
        n_beads: of the whole ring, even; more in the cold.
        fmax_eV_per_A: largest force left on an atom of the ring.
        steps: most steps.

    Raises:
        InputError: a temperature above the crossover, or an odd or small number of beads.
        EvaluationError: results that are not finite.
    """
    require(n_beads >= 8 and n_beads % 2 == 0, "n_beads", n_beads, "even, 8 or more")
    limit = highest_temperature(saddle)
    if not 0 < temperature_K <= limit:
        raise InputError(
            f"temperature is {temperature_K} K, but an instanton exists only below the crossover "
            f"temperature, by 3 % or more: up to {limit:.0f} K. Use Eckart's or Wigner's factor."
        )
    ring = _Ring(engine, saddle, temperature_K, n_beads)
    ring.spread(saddle.modes[0])
    taken = ring.optimise(fmax_eV_per_A, steps)
    flux, action = ring.log_flux(initial_energy_eV)
    reactant = _log_partition(initial.energies_eV, ring.omega, n_beads, temperature_K)
    moved = np.linalg.norm(np.diff(ring.y, axis=0), axis=1).sum()
    heavy = np.sqrt((saddle.modes[0] ** 2).sum())  # 1 / root of the mass that moves
    return Instanton(
        temperature_K=temperature_K,
        n_beads=n_beads,
        beads=tuple(ring.beads),
        action=action,
        path_A=float(moved * heavy),
        log_flux=flux,
        rate_per_s=float(np.exp(flux - reactant)),
        converged=ring.fmax() <= fmax_eV_per_A,
        steps=taken,
    )


def highest_temperature(saddle: Vibrations) -> float:
    """Highest temperature of an instanton, K: a little below ħω‡ / 2πk_B."""
    return float(-WIDEST_OF_CROSSOVER * saddle.energies_eV[0] / (2 * np.pi * kB))


def _log_partition(
    energies_eV: np.ndarray, omega: float, n_beads: int, temperature_K: float
) -> float:
    """Ln of the partition function of harmonic modes as rings of n beads."""
    springs = 4 * omega**2 * np.sin(np.pi * np.arange(n_beads) / n_beads) ** 2
    squares = (energies_eV / HBAR) ** 2
    frequencies = np.sqrt(squares[:, None] + springs[None])
    beta_n_hbar = HBAR / (n_beads * kB * temperature_K)
    return float(-np.log(beta_n_hbar * frequencies).sum())


class _Ring:
    """Half of a ring polymer in mass-weighted coordinates y (n_beads / 2, 3n).

    Attributes:
        omega: ω_N.
        y: the beads, amu^(1/2) Å.
        beads: the structures with their results.
    """

    def __init__(
        self, engine: Engine, saddle: Vibrations, temperature_K: float, n_beads: int
    ) -> None:
        self._engine = engine
        self._calls = CountedCalls(engine)
        self._saddle = saddle
        self._indices = saddle.indices
        self._half = n_beads // 2
        self._beta_n = 1 / (n_beads * kB * temperature_K)
        self.omega = 1 / (self._beta_n * HBAR)
        self._roots = np.sqrt(np.repeat(saddle.atoms.get_masses()[saddle.indices], 3))
        self._top = saddle.atoms.positions[saddle.indices].ravel() * self._roots
        self.y = np.repeat(self._top[None], self._half, axis=0)
        self.beads: list[Atoms] = []
        self._hessians = np.zeros((0, 0, 0))

    def spread(self, mode: np.ndarray) -> None:
        """Start from the cosine along ``mode`` (N, 3) whose energy is lowest."""
        direction = mode[self._indices].ravel()
        direction = direction / np.linalg.norm(direction.reshape(-1, 3), axis=1).max() * self._roots
        wave = np.cos(np.pi * (np.arange(self._half) + 0.5) / self._half)
        paths = [self._top + s * np.outer(wave, direction) for s in SPREADS_ANGSTROM]
        every = [self._atoms(y) for path in paths for y in path]
        self._calls.fill(every)
        energies = np.array([a.get_potential_energy() for a in every]).reshape(len(paths), -1)
        totals = energies.sum(axis=1) + [self._spring_energy(path) for path in paths]
        rising = np.flatnonzero(np.diff(totals) > 0)
        best = int(rising[0]) if len(rising) else len(paths) - 1
        self.y = paths[best]
        self._fill()

    def optimise(self, fmax_eV_per_A: float, steps: int) -> int:
        """Eigenvector following of the half ring; the steps taken."""
        self._compute_hessians()
        for step in range(steps):
            if self.fmax() <= fmax_eV_per_A:
                self._compute_hessians()
                return step
            if step and step % 10 == 0:
                self._compute_hessians()
            gradient, forces = self._gradient(), self._forces()
            curvatures, modes = np.linalg.eigh(self._half_hessian())
            along = modes.T @ gradient.ravel()
            change = -along / np.maximum(np.abs(curvatures), SOFTEST * self.omega**2)
            change[0] *= -1
            move = (modes @ change).reshape(self.y.shape)
            lengths = np.linalg.norm((move / self._roots).reshape(-1, 3), axis=1)
            move *= min(1.0, LONGEST_STEP_ANGSTROM / max(lengths.max(), 1e-12))
            self.y = self.y + move
            self._fill()
            new = self._forces()
            for k in range(self._half):
                turned = (forces[k] - new[k]) / self._roots
                self._hessians[k] = bofill(self._hessians[k], move[k], turned)
        self._compute_hessians()
        return steps

    def fmax(self) -> float:
        """Largest force of the ring on an atom of a bead, eV/Å."""
        cartesian = self._gradient() * self._roots
        return float(np.linalg.norm(cartesian.reshape(-1, 3), axis=1).max())

    def log_flux(self, zero_eV: float) -> tuple[float, float]:
        """ln(k Q_r · 1 s) and S/ħ, energies above ``zero_eV``."""
        half, size = self.y.shape
        total = 2 * half
        order = [*range(half), *range(half - 1, -1, -1)]
        matrix = np.zeros((total * size, total * size))
        for place, bead in enumerate(order):
            here = slice(place * size, (place + 1) * size)
            matrix[here, here] = self._hessians[bead] + 2 * self.omega**2 * np.eye(size)
            after = (place + 1) % total
            there = slice(after * size, (after + 1) * size)
            matrix[here, there] -= self.omega**2 * np.eye(size)
            matrix[there, here] -= self.omega**2 * np.eye(size)
        squares = np.delete(np.linalg.eigvalsh(matrix), 1)  # 0 is negative, 1 vanishes
        beta_n_hbar = self._beta_n * HBAR
        stretch = 2 * (np.diff(self.y, axis=0) ** 2).sum()
        energies = np.array([bead.get_potential_energy() for bead in self.beads]) - zero_eV
        action = self._beta_n * 2 * (energies.sum() + self._spring_energy(self.y))
        flux = -np.log(beta_n_hbar * TIME_S)
        flux += 0.5 * np.log(stretch / (2 * np.pi * self._beta_n * HBAR**2))
        flux -= np.log(beta_n_hbar * np.sqrt(np.abs(squares))).sum() + action
        return float(flux), float(action)

    def _atoms(self, y: np.ndarray) -> Atoms:
        atoms = bare(self._saddle.atoms)
        atoms.set_constraint()
        atoms.positions[self._indices] = (y / self._roots).reshape(-1, 3)
        return atoms

    def _fill(self) -> None:
        self.beads = [self._atoms(y) for y in self.y]
        self._calls.fill(self.beads)

    def _forces(self) -> np.ndarray:
        return np.array([bead.get_forces()[self._indices].ravel() for bead in self.beads])

    def _gradient(self) -> np.ndarray:
        pull = np.zeros_like(self.y)
        apart = np.diff(self.y, axis=0)
        pull[:-1] -= apart
        pull[1:] += apart
        return -self._forces() / self._roots + self.omega**2 * pull

    def _spring_energy(self, y: np.ndarray) -> float:
        return float(0.5 * self.omega**2 * (np.diff(y, axis=0) ** 2).sum())

    def _compute_hessians(self) -> None:
        scale = np.outer(self._roots, self._roots)
        found = [partial_hessian(self._engine, bead, self._indices)[0] for bead in self.beads]
        self._hessians = np.array([0.5 * (h + h.T) / scale for h in found])

    def _half_hessian(self) -> np.ndarray:
        half, size = self.y.shape
        springs = 2 * np.eye(half) - np.eye(half, k=1) - np.eye(half, k=-1)
        springs[0, 0] = springs[-1, -1] = 1.0
        matrix = np.kron(self.omega**2 * springs, np.eye(size))
        for k in range(half):
            block = slice(k * size, (k + 1) * size)
            matrix[block, block] += self._hessians[k]
        return matrix
