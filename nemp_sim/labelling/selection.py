"""Which candidate structures to label: uncertain, physically sensible, and unlike what is known.

A structure is as new as its newest atom. The environment of atom i is described, for each element
s and shell k, by the moments of the neighbours j of that element

    A⁰ = Σ_j g_k(r_ij),    A¹ = Σ_j g_k(r_ij) r̂_ij,    A² = Σ_j g_k(r_ij) √(3/2) (r̂_ij r̂_ij − 1/3),

    g_k(r) = exp(−(r − μ_k)² / 2σ²) f(r),    f = 1 up to r_c/2, then ½ + ½ cos(2π(r − r_c/2)/r_c),

of which the fingerprint holds the norms |A⁰|, |A¹|, |A²|. They do not change on translation,
rotation, inversion, permutation of like atoms, moves by lattice vectors, or choice of the
supercell. They are scaled so that a lone bonded neighbour (r < r_c/2) that moves by a small δ
along the bond moves the fingerprint by δ: distances between fingerprints are in Å. They saturate
at about 2σ for each neighbour.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from scipy.sparse import csr_array

from nemp_sim.config import require
from nemp_sim.neighbors import edge_list

CUTOFF_ANGSTROM = 5.0  # r_c
WIDTH_ANGSTROM = 0.3  # σ, also the spacing of the shells
SHELLS_ANGSTROM = np.arange(0.6, CUTOFF_ANGSTROM, WIDTH_ANGSTROM)  # μ_k
# Σ_k g_k'(r)² = √π / 2σ² for spacing σ, and a lone neighbour has |A⁰| = |A¹| = |A²| = g
SCALE_ANGSTROM = WIDTH_ANGSTROM * np.sqrt(2.0 / (3.0 * np.sqrt(np.pi)))


def fingerprints(atoms: Atoms, elements: Sequence[int]) -> np.ndarray:
    """Environments of all atoms: (N, D) in Å; D = elements × 3 moments × shells.

    Args:
        atoms: the structure.
        elements: atomic numbers that have channels; must hold those of ``atoms``.
    """
    edges = edge_list(atoms, CUTOFF_ANGSTROM)
    vectors = edges.vectors(atoms)
    length = np.linalg.norm(vectors, axis=1)
    terms = _shells(length)[:, :, None] * _moments(vectors, length)[:, None, :]  # (E, K, 9)
    species_of = np.zeros(max(elements) + 1, dtype=int)
    species_of[list(elements)] = np.arange(len(elements))
    row = edges.centre * len(elements) + species_of[atoms.numbers[edges.neighbour]]
    count = len(atoms) * len(elements)
    place = (np.ones(len(row)), (row, np.arange(len(row))))
    sums = csr_array(place, shape=(count, len(row))) @ terms.reshape(
        len(row), 9 * len(SHELLS_ANGSTROM)
    )
    squares = sums.reshape(count, len(SHELLS_ANGSTROM), 9) ** 2
    norms = np.sqrt(np.add.reduceat(squares, [0, 1, 4], axis=2))
    return SCALE_ANGSTROM * norms.reshape(len(atoms), -1)


def _shells(length: np.ndarray) -> np.ndarray:
    """g_k(r) of each pair, (E, K)."""
    beyond = np.clip(2.0 * length / CUTOFF_ANGSTROM - 1.0, 0.0, 1.0)
    smooth = 0.5 + 0.5 * np.cos(np.pi * beyond)
    away = (length[:, None] - SHELLS_ANGSTROM) / WIDTH_ANGSTROM
    return np.exp(-0.5 * away**2) * smooth[:, None]


def _moments(vectors: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Orthonormal components of 1, r̂ and √(3/2) (r̂ r̂ − 1/3), (E, 9)."""
    x, y, z = (vectors / np.maximum(length, 1e-9)[:, None]).T
    root3 = np.sqrt(3.0)
    second = [root3 * x * y, root3 * y * z, root3 * x * z]
    second += [0.5 * root3 * (x**2 - y**2), 0.5 * (2 * z**2 - x**2 - y**2)]
    return np.stack([np.ones_like(x), x, y, z, *second], axis=1)


class KnownEnvironments:
    """Atomic environments that have labels, or are chosen to get them."""

    def __init__(self, elements: Sequence[int]) -> None:
        """Start empty; ``elements`` are the atomic numbers of all structures to come."""
        self._elements = tuple(elements)
        self._blocks: dict[int, list[np.ndarray]] = {}

    def add(self, structures: Sequence[Atoms]) -> None:
        """Count all environments of ``structures`` as known."""
        if not structures:
            return
        numbers = np.concatenate([atoms.numbers for atoms in structures])
        rows = np.concatenate([fingerprints(atoms, self._elements) for atoms in structures])
        for z in np.unique(numbers):
            self._blocks.setdefault(int(z), []).append(rows[numbers == z])

    def novelty(self, atoms: Atoms) -> float:
        """Largest distance of an atom of ``atoms`` to the nearest known one of its element, Å.

        Infinite for an element of which nothing is known.
        """
        rows = fingerprints(atoms, self._elements)
        farthest = 0.0
        for z in np.unique(atoms.numbers):
            blocks = self._blocks.get(int(z), [])
            nearest = [_nearest(rows[atoms.numbers == z], block) for block in blocks]
            if not nearest:
                return np.inf
            farthest = max(farthest, float(np.min(nearest, axis=0).max()))
        return farthest


def _nearest(rows: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Distance of each of ``rows`` to the nearest of ``known``; (n, D), (m, D) → (n,)."""
    squares = (rows**2).sum(axis=1)[:, None] + (known**2).sum(axis=1) - 2.0 * rows @ known.T
    nearest = known[squares.argmin(axis=1)]
    return np.linalg.norm(rows - nearest, axis=1)  # exact also where squares cancel


def closest_contact(atoms: Atoms) -> float:
    """Smallest distance of two atoms over the sum of their covalent radii; inf where above 1."""
    radii = covalent_radii[atoms.numbers]
    edges = edge_list(atoms, 2.0 * radii.max(initial=0.1))
    lengths = np.linalg.norm(edges.vectors(atoms), axis=1)
    return float((lengths / (radii[edges.centre] + radii[edges.neighbour])).min(initial=np.inf))


@dataclass(frozen=True)
class Choice:
    """One chosen candidate.

    Attributes:
        index: its place among the candidates.
        score: its predicted uncertainty.
        novelty_A: its distance to what was known or chosen before it, Å.
    """

    index: int
    score: float
    novelty_A: float


@dataclass(frozen=True)
class Selection:
    """Outcome of ``select``.

    Attributes:
        chosen: in order of falling score.
        too_certain: candidates whose score does not exceed the smallest wanted one.
        already_known: candidates passed over because all their environments are known.
        not_reached: candidates left when enough were chosen.
    """

    chosen: tuple[Choice, ...]
    too_certain: int
    already_known: int
    not_reached: int


def select(
    candidates: Sequence[Atoms],
    scores: Sequence[float],
    known: KnownEnvironments,
    count: int,
    min_novelty_A: float,
    min_score: float = 0.0,
) -> Selection:
    """Walk the candidates from the most uncertain down; take each that is new, until ``count``.

    A chosen candidate counts as known for those after it, so no two chosen ones are alike.

    Args:
        candidates: structures.
        scores: their predicted uncertainties.
        known: what is known beforehand; grows by the chosen ones.
        count: most candidates to choose.
        min_novelty_A: a candidate is new when its ``novelty`` exceeds this, Å.
        min_score: only candidates with a larger score are chosen.

    Raises:
        InputError: a count below one, or a ``min_novelty_A`` that is not positive and finite.
    """
    require(count >= 1, "select", count, "1 or more structures")
    require(0 < min_novelty_A < np.inf, "novelty", min_novelty_A, "more than 0 (Å)")
    order = np.argsort(-np.asarray(scores, dtype=float), kind="stable")
    uncertain = [int(i) for i in order if scores[i] > min_score]
    chosen: list[Choice] = []
    walked = 0
    for index in uncertain:
        if len(chosen) == count:
            break
        walked += 1
        novelty = known.novelty(candidates[index])
        if novelty > min_novelty_A:
            known.add([candidates[index]])
            chosen.append(Choice(index, float(scores[index]), novelty))
    return Selection(
        chosen=tuple(chosen),
        too_certain=len(order) - len(uncertain),
        already_known=walked - len(chosen),
        not_reached=len(uncertain) - walked,
    )
