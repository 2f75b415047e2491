"""Harmonic vibrations of chosen atoms: partial Hessian, modes, zero-point energy.

With the Hessian H of the chosen atoms at fixed others and their masses m the modes are

    m^(−1/2) H m^(−1/2) u_k = ω_k² u_k,     E_k = ħω_k,     zero-point energy = ½ Σ ħω_k,

the sum over real ω_k. Modes with ω_k² < 0 are imaginary and appear as negative energies and
wavenumbers throughout. For a free molecule, the translations and rotations (six, five for a linear
one, three for an atom) are projected out of the Hessian before. The potential has no dipole
moments, so there are no infrared intensities, and nothing says which modes infrared light sees.

Nothing is kept in files between calls: every Hessian is of the geometry that was given.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.units import _amu, _e, _hbar, invcm

from nemp_sim.config import require
from nemp_sim.errors import EvaluationError, InputError
from nemp_sim.potential import Potential
from nemp_sim.relax import CountedCalls, Engine
from nemp_sim.structures import fixed_coordinates, gathered, require_fixed_alone

METHODS = ("auto", "analytic", "differences")
FIELD = 0.05  # of the largest second derivative: forces that a shift of all atoms may cause
DISPLACEMENT_ANGSTROM = 0.01
SMALL_CM1 = 50.0  # an imaginary mode below this may be noise; a real one is hardly harmonic
EV_OF_ROOT = _hbar * 1e10 / np.sqrt(_e * _amu)  # ħω in eV of sqrt(eV / Å² / amu)


@dataclass(frozen=True)
class Vibrations:
    """Harmonic modes of n chosen atoms of a structure of N atoms.

    Attributes:
        atoms: the structure.
        indices: (n,) the chosen atoms.
        hessian: (3n, 3n) eV/Å², symmetric.
        asymmetry_eV_per_A2: largest |H − Hᵀ| before it was made symmetric.
        energies_eV: (m,) ħω, ascending; imaginary ones as negative numbers.
        modes: (m, N, 3) displacement of the atoms, without unit, scaled to Σ m u² = 1 amu.
        n_projected: translations and rotations taken out; m = 3n − n_projected.
        rigid: whose they are: of a "molecule", translations of a "crystal", of "nothing".
        method: "analytic" or "differences".
    """

    atoms: Atoms
    indices: np.ndarray
    hessian: np.ndarray
    asymmetry_eV_per_A2: float
    energies_eV: np.ndarray
    modes: np.ndarray
    n_projected: int
    rigid: str
    method: str

    @property
    def wavenumbers_cm1(self) -> np.ndarray:
        """(m,) ascending, cm⁻¹; imaginary ones as negative numbers."""
        return self.energies_eV / invcm

    @property
    def real_energies_eV(self) -> np.ndarray:  # noqa: N802 (a unit in a name)
        """ħω of the real modes, eV."""
        return self.energies_eV[self.energies_eV > 0]

    @property
    def n_imaginary(self) -> int:
        """Number of imaginary modes."""
        return int((self.energies_eV < 0).sum())

    @property
    def zero_point_energy_eV(self) -> float:  # noqa: N802 (a unit in a name)
        """½ Σ ħω over the real modes, eV."""
        return float(0.5 * self.real_energies_eV.sum())

    def with_masses(self, masses: np.ndarray) -> "Vibrations":
        """The same Hessian with other masses (N,) in amu: isotopes at the price of nothing."""
        atoms = self.atoms.copy()
        atoms.set_masses(masses)
        return _from_hessian(
            atoms,
            self.indices,
            (self.hessian, self.asymmetry_eV_per_A2),
            self.rigid,
            self.method,
        )


def vibrations(
    engine: Engine,
    atoms: Atoms,
    indices: Sequence[int] | None = None,
    *,
    method: str = "auto",
    molecule: bool | None = None,
    displacement_angstrom: float = DISPLACEMENT_ANGSTROM,
) -> Vibrations:
    """Harmonic vibrations of the chosen atoms, the others held.

    Args:
        engine: evaluates the structures.
        atoms: at a stationary point; masses set on it are kept.
        indices: the chosen atoms; None: all that no constraint holds.
        method: "analytic" (second derivatives of the network), "differences" (central, all
            displaced structures in one call) or "auto": analytic where the engine can.
        molecule: take translations and rotations out. None: where every atom is chosen: both of a
            molecule (no axis is periodic, or there is vacuum along all that are), translations of
            anything else; nothing in an external field.
        displacement_angstrom: of the differences.

    Raises:
        InputError: no atoms, or a method that the engine does not have.
        EvaluationError: results that are not finite.
    """
    chosen = check_chosen(atoms, indices)
    matrix, used = partial_hessian(engine, atoms, chosen, method, displacement_angstrom)
    rigid = "molecule" if molecule else "nothing"
    if molecule is None and len(chosen) == len(atoms) and _costs_nothing_to_shift(matrix):
        rigid = "crystal" if gathered(atoms) is None else "molecule"
    symmetric = 0.5 * (matrix + matrix.T)
    asymmetry = float(np.abs(matrix - matrix.T).max())
    return _from_hessian(atoms, chosen, (symmetric, asymmetry), rigid, used)


def check_chosen(atoms: Atoms, indices: Sequence[int] | None) -> np.ndarray:
    """Indices (n,) of the atoms that vibrate: those given, or all that are free.

    Raises:
        InputError: none, one twice, one that does not exist, or one that is held in part.
    """
    require_fixed_alone(atoms, "a calculation of vibrations")
    held = fixed_coordinates(atoms)
    partly = np.flatnonzero(held.any(axis=1) & ~held.all(axis=1))
    chosen = np.flatnonzero(~held.all(axis=1)) if indices is None else np.asarray(indices, int)
    wanted = f"different whole numbers from 0 to {len(atoms) - 1}, at least one"
    good = len(chosen) and len(set(chosen)) == len(chosen)
    good = good and 0 <= chosen.min() and chosen.max() < len(atoms)
    require(bool(good), "indices", chosen.tolist(), wanted)
    both = sorted(set(partly.tolist()) & set(chosen.tolist()))
    if both:
        raise InputError(
            f"indices: atoms {both} are held along some axes only, but a vibrating atom must be "
            "free. Use FixAtoms, or leave these atoms out."
        )
    return chosen


def partial_hessian(
    engine: Engine,
    atoms: Atoms,
    indices: np.ndarray,
    method: str = "auto",
    displacement_angstrom: float = DISPLACEMENT_ANGSTROM,
) -> tuple[np.ndarray, str]:
    """Rows and columns (3n, 3n) of the Hessian, eV/Å², as computed; and the method used.

    Raises:
        InputError: a method that the engine does not have.
        EvaluationError: results that are not finite.
    """
    require(method in METHODS, "method", method, f"one of {', '.join(METHODS)}")
    require(displacement_angstrom > 0, "displacement", displacement_angstrom, "positive (Å)")
    exact = engine if isinstance(engine, Potential) else None
    if method == "analytic" and exact is None:
        raise InputError(
            f"method is 'analytic', but {type(engine).__name__} has no second derivatives. Use "
            "method='differences'."
        )
    size = 3 * len(indices)
    if exact is not None and method != "differences":
        rows = exact.hessian(atoms, [int(i) for i in indices])
        return rows[:, :, indices].reshape(size, size).astype(float), "analytic"
    moved = []
    for i in indices:
        for axis in range(3):
            for sign in (1, -1):
                copy = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
                copy.positions[i, axis] += sign * displacement_angstrom
                moved.append(copy)
    CountedCalls(engine).fill(moved)
    forces = np.array([copy.get_forces()[indices] for copy in moved]).reshape(size, 2, size)
    return (forces[:, 1] - forces[:, 0]) / (2 * displacement_angstrom), "differences"


def _from_hessian(
    atoms: Atoms,
    indices: np.ndarray,
    hessian: tuple[np.ndarray, float],
    rigid: str,
    method: str,
) -> Vibrations:
    matrix, asymmetry = hessian
    roots = np.sqrt(np.repeat(atoms.get_masses()[indices], 3))
    weighted = matrix / np.outer(roots, roots)
    basis = np.eye(len(roots))
    if rigid != "nothing":
        places = gathered(atoms) if rigid == "molecule" else None
        basis = _internal_basis(roots, None if places is None else places[indices])
    squares, vectors = np.linalg.eigh(basis.T @ weighted @ basis)
    if not np.isfinite(squares).all():
        raise EvaluationError(f"{atoms.get_chemical_formula()}: frequencies are not finite.")
    vectors = (basis @ vectors).T / roots  # (m, 3n), Cartesian
    modes = np.zeros((len(squares), len(atoms), 3))
    modes[:, indices] = vectors.reshape(len(squares), len(indices), 3)
    return Vibrations(
        atoms=atoms.copy(),
        indices=indices,
        hessian=matrix,
        asymmetry_eV_per_A2=asymmetry,
        energies_eV=np.sign(squares) * np.sqrt(np.abs(squares)) * EV_OF_ROOT,
        modes=modes,
        n_projected=len(roots) - len(squares),
        rigid=rigid,
        method=method,
    )


def _costs_nothing_to_shift(hessian: np.ndarray) -> bool:
    """Whether Σ_j Φ_ij = 0, which it is not in an external field."""
    sums = hessian.reshape(len(hessian), -1, 3).sum(axis=1)
    return bool(np.abs(sums).max() <= FIELD * np.abs(hessian).max())


def _internal_basis(roots: np.ndarray, positions: np.ndarray | None) -> np.ndarray:
    """Orthonormal columns (3n, m) normal to translations and, where there are positions, rotations.

    m is 3n − 3 without positions, else 3n − 6, or 3n − 5 if linear.
    """
    masses = roots[::3] ** 2
    outward = [np.tile(axis, len(masses)) for axis in np.eye(3)]
    if positions is not None:
        centred = positions - masses @ positions / masses.sum()
        outward += [np.cross(axis, centred).ravel() for axis in np.eye(3)]
    rigid = np.array(outward) * roots
    rigid /= np.linalg.norm(rigid[0])
    _, sizes, directions = np.linalg.svd(rigid, full_matrices=True)
    return directions[int((sizes > 1e-4 * sizes[0]).sum()) :].T
