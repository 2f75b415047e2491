"""Imaginary modes: counted and named by wave vector, frequency and the atom that moves most."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.geometry import complete_cell, minkowski_reduce
from phonopy.phonon.band_structure import BandStructure
from phonopy.phonon.mesh import Mesh

from nemp_sim.phonons.force_constants import ForceConstants

SMALL_THZ = 0.3  # acoustic modes next to Γ may be imaginary up to this by interpolation
ZERO_THZ = 0.01  # frequencies closer to zero are zero; below minus this they are imaginary


@dataclass(frozen=True)
class SpecialPoint:
    """A named wave vector of the path.

    Attributes:
        label: its name; Γ is "Γ".
        q: (3,) in the reciprocal vectors of the primitive cell, without 2π.
        frequencies_THz: (bands,) ascending; negative: imaginary.
    """

    label: str
    q: np.ndarray
    frequencies_THz: np.ndarray


@dataclass(frozen=True)
class ImaginaryMode:
    """A mode along which the energy falls.

    Attributes:
        q: (3,) wave vector in the reciprocal vectors of the primitive cell, without 2π.
        label: name of the wave vector where it has one, or "".
        band: its place among the bands at q, counted from 0, lowest frequency first.
        frequency_THz: negative: minus the size of the imaginary frequency.
        eigenvector: (n, 3) complex, mass-weighted displacement of each primitive atom.
        interpolated: a small imaginary frequency (below ``SMALL_THZ``) nearer to Γ than half the
            shortest wave vector that fits into the supercell, where the interpolation breaks the
            rotational sum rule, as in the flexural branch of slabs. This supercell cannot tell
            it from buckling at long wavelengths.
    """

    q: np.ndarray
    label: str
    band: int
    frequency_THz: float
    eigenvector: np.ndarray
    interpolated: bool

    def __str__(self) -> str:
        """For reports: where, which, how much, and who moves."""
        place = " ".join(f"{x:.4g}" for x in self.q)
        name = f" ({self.label})" if self.label else ""
        share = (np.abs(self.eigenvector) ** 2).sum(axis=1)
        return (
            f"q = {place}{name}, band {self.band}: {abs(self.frequency_THz):.3f}i THz, mostly atom "
            f"{share.argmax()} ({100 * share.max() / share.sum():.0f} %)"
        )


def imaginary_modes(
    constants: ForceConstants, raw: BandStructure, mesh: Mesh, points: Sequence[SpecialPoint]
) -> tuple[ImaginaryMode, ...]:
    """Imaginary modes of path and mesh, one wave vector of each star, the most unstable first."""
    phonon, periodic = constants.phonon, constants.periodic
    rotations = np.array(phonon.primitive_symmetry.pointgroup_operations)
    names = {_star(p.q, rotations): p.label for p in points}
    reciprocal = np.linalg.inv(phonon.primitive.cell)  # columns, 1/Å
    fitting = np.linalg.inv(phonon.supercell.cell).T[periodic]
    shortest = np.linalg.norm(_reduced(fitting), axis=1).min()
    groups = [*zip(raw.qpoints, raw.frequencies, raw.eigenvectors, strict=True)]
    groups.append((mesh.qpoints, mesh.frequencies, mesh.eigenvectors))
    found: dict[tuple[tuple[float, ...], int], ImaginaryMode] = {}
    for qpoints, frequencies, vectors in groups:
        for i in np.flatnonzero((frequencies < -ZERO_THZ).any(axis=1)):
            q = np.asarray(qpoints[i])
            star = _star(q, rotations)
            near = np.linalg.norm(reciprocal @ (q - np.rint(q))) < shortest / 2
            for band in np.flatnonzero(frequencies[i] < -ZERO_THZ):
                mode = ImaginaryMode(
                    q=np.round(q, 8) + 0.0,
                    label=names.get(star, ""),
                    band=int(band),
                    frequency_THz=float(frequencies[i, band]),
                    eigenvector=np.array(vectors[i][:, band]).reshape(-1, 3),
                    interpolated=bool(near and frequencies[i, band] > -SMALL_THZ),
                )
                found.setdefault((star, int(band)), mode)
    return tuple(sorted(found.values(), key=lambda mode: mode.frequency_THz))


def _reduced(vectors: np.ndarray) -> np.ndarray:
    """The shortest vectors of the lattice of one to three vectors (m, 3)."""
    cell = np.zeros((3, 3))
    cell[: len(vectors)] = vectors
    pbc = np.arange(3) < len(vectors)
    return minkowski_reduce(complete_cell(cell), pbc=pbc)[0][: len(vectors)]


def _star(q: np.ndarray, rotations: np.ndarray) -> tuple[float, ...]:
    """One representative of all wave vectors that symmetry and time reversal make equal to q."""
    turned = np.einsum("a,nab->nb", q, rotations)
    all_q = np.concatenate([turned, -turned])
    return min(map(tuple, np.round(np.round(all_q, 6) % 1.0, 5) % 1.0))
