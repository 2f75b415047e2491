"""Modes at Γ: of a molecule in a box, or of chosen atoms while all others are held.

The dynamical matrix at Γ, D_{iα,jβ} = Σ_l Φ_{iα,jlβ} / √(m_i m_j) with the sum over the images l of
atom j, is cut down to the rows and columns of the chosen atoms: exactly the vibrations of a slab
whose other atoms do not move. Of a free molecule the rigid translations and rotations are projected
out first (E. B. Wilson, J. C. Decius and P. C. Cross, Molecular Vibrations, chapter 2).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.units import invcm
from phonopy.physical_units import get_physical_units

from nemp_sim.config import require
from nemp_sim.errors import InputError
from nemp_sim.phonons.force_constants import ForceConstants
from nemp_sim.phonons.imaginary import ZERO_THZ

RIGID_RANK = 1e-6  # singular values below this share of the largest: no rotation (linear molecules)


@dataclass(frozen=True)
class GammaModes:
    """Modes of n chosen atoms at Γ, m of them, lowest first.

    Attributes:
        indices: (n,) chosen atoms of the primitive cell.
        symbols: their elements.
        frequencies_THz: (m,); negative: imaginary.
        eigenvectors: (m, n, 3) real mass-weighted displacements, of norm one.
        n_rigid: translations and rotations that were projected out (molecules; else 0).
        rigid_THz: largest frequency in their space: zero but for noise and images of the molecule.
    """

    indices: np.ndarray
    symbols: tuple[str, ...]
    frequencies_THz: np.ndarray
    eigenvectors: np.ndarray
    n_rigid: int
    rigid_THz: float

    @property
    def wavenumbers_per_cm(self) -> np.ndarray:
        """The same frequencies as wavenumbers, 1/cm, (m,)."""
        return self.frequencies_THz * get_physical_units().THzToEv / invcm

    @property
    def n_imaginary(self) -> int:
        """Modes along which the energy falls."""
        return int((self.frequencies_THz < -ZERO_THZ).sum())

    @property
    def zero_point_eV(self) -> float:
        """Half the sum of the energies of the real modes, eV."""
        real = self.frequencies_THz > ZERO_THZ
        return float(self.frequencies_THz[real].sum() * get_physical_units().THzToEv / 2)

    def describe(self, mode: int) -> str:
        """Frequency and the element that moves most."""
        share = (self.eigenvectors[mode] ** 2).sum(axis=1)
        by_element = {s: share[np.array(self.symbols) == s].sum() for s in set(self.symbols)}
        most = max(sorted(by_element), key=by_element.__getitem__)
        sign = "i" if self.frequencies_THz[mode] < -ZERO_THZ else ""
        frequency = abs(self.frequencies_THz[mode])
        wavenumber = abs(self.wavenumbers_per_cm[mode])
        return (
            f"{frequency:.3f}{sign} THz, {wavenumber:.1f}{sign} cm⁻¹, "
            f"{most} {100 * by_element[most]:.0f} %"
        )


def gamma_modes(constants: ForceConstants, chosen: Sequence[int] | None = None) -> GammaModes:
    """Modes of the chosen atoms at Γ while all others are held.

    Args:
        constants: force constants; the atoms are those of the primitive cell.
        chosen: which of them vibrate; None: all.

    Raises:
        InputError: an atom that is not there, or named twice.
    """
    phonon = constants.phonon
    n_atoms = len(phonon.primitive)
    indices = np.arange(n_atoms) if chosen is None else np.asarray(chosen)
    good = indices.size > 0 and indices.dtype.kind in "iu" and len(set(indices)) == len(indices)
    good = good and indices.min() >= 0 and indices.max() < n_atoms
    require(bool(good), "atoms", chosen, f"different indices between 0 and {n_atoms - 1}")
    phonon.dynamical_matrix.run([0.0, 0.0, 0.0])
    columns = (3 * indices[:, None] + np.arange(3)).ravel()
    matrix = phonon.dynamical_matrix.dynamical_matrix.real[np.ix_(columns, columns)]
    n_rigid, rigid_thz = 0, 0.0
    basis = np.eye(len(columns))
    if not constants.periodic.any() and len(indices) == n_atoms:
        rigid, basis = _rigid_and_rest(phonon.primitive.positions, phonon.primitive.masses)
        n_rigid = rigid.shape[1]
        rigid_thz = float(np.abs(_to_thz(np.linalg.eigvalsh(rigid.T @ matrix @ rigid))).max())
    values, vectors = np.linalg.eigh(basis.T @ matrix @ basis)
    return GammaModes(
        indices=indices,
        symbols=tuple(phonon.primitive.symbols[i] for i in indices),
        frequencies_THz=_to_thz(values),
        eigenvectors=(basis @ vectors).T.reshape(len(values), len(indices), 3),
        n_rigid=n_rigid,
        rigid_THz=rigid_thz,
    )


def _rigid_and_rest(positions: np.ndarray, masses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal mass-weighted translations and rotations (3n, 3 to 6), and all other motions."""
    roots = np.sqrt(masses)[:, None, None]
    moved = positions - masses @ positions / masses.sum()
    axes = np.eye(3)
    turned = np.cross(axes[None, :, :], moved[:, None, :])  # (n, 3 axes, 3)
    motions = roots * np.concatenate([np.broadcast_to(axes, turned.shape), turned], axis=1)
    left, singular, _ = np.linalg.svd(motions.transpose(0, 2, 1).reshape(3 * len(masses), 6))
    rank = int((singular > RIGID_RANK * singular[0]).sum())
    return left[:, :rank], left[:, rank:]


def _to_thz(values: np.ndarray) -> np.ndarray:
    """Frequencies of eigenvalues in eV/Å²/amu; negative ones are imaginary."""
    return np.sign(values) * np.sqrt(np.abs(values)) * get_physical_units().DefaultToTHz


def choose_atoms(symbols: Sequence[str], given: str) -> list[int]:
    """Indices of atoms from "H", "C O" (elements) or "3 4" (counted from 0).

    Raises:
        InputError: a word that is neither an element of the structure nor an index in it.
    """
    found: set[int] = set()
    for word in given.replace(",", " ").split():
        fitting = [i for i, symbol in enumerate(symbols) if symbol == word]
        if word.isdigit() and int(word) < len(symbols):
            fitting = [int(word)]
        if not fitting:
            raise InputError(
                f"atoms {given!r} name {word!r}, which is neither an element of the structure "
                f"({' '.join(sorted(set(symbols)))}) nor an index between 0 and "
                f"{len(symbols) - 1}."
            )
        found |= set(fitting)
    require(bool(found), "atoms", given, "elements or indices, as in 'H' or '12 13'")
    return sorted(found)
