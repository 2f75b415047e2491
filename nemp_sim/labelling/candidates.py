"""Candidates for labelling: read or made, refused where senseless, with predictions."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from ase import Atoms
from ase.io import iread

from nemp_sim.config import require
from nemp_sim.errors import EvaluationError, InputError
from nemp_sim.evaluation import Evaluation
from nemp_sim.files import read_structures
from nemp_sim.labelling.selection import closest_contact
from nemp_sim.structures import check_structure

AT_ONCE = 64  # structures between two signs of progress


class UncertainEngine(Protocol):
    """What predicts with uncertainties: a Potential, or anything with this method."""

    def evaluate(self, structures: Sequence[Atoms], *, uncertainty: bool) -> Evaluation:
        """energy, forces, energy_std (B,) eV and forces_std B arrays (N, 3) eV/Å."""


@dataclass(frozen=True)
class Candidate:
    """One structure that could be labelled.

    Attributes:
        atoms: elements, positions, cell and pbc alone.
        source: name of the file that it comes from.
        index: its place there.
        config_type: kind of structure.
    """

    atoms: Atoms
    source: str
    index: int
    config_type: str


@dataclass(frozen=True)
class Prediction:
    """What the potential says of a candidate.

    Attributes:
        energy: eV.
        forces: (N, 3), eV/Å.
        energy_std: standard deviation of the energy, eV.
        forces_std: (N, 3), standard deviation of each force component, eV/Å.
    """

    energy: float
    forces: np.ndarray
    energy_std: float
    forces_std: np.ndarray

    @property
    def score(self) -> float:
        """Largest over atoms of the norm of ``forces_std``, eV/Å."""
        return float(np.linalg.norm(self.forces_std, axis=1).max(initial=0.0))

    @property
    def max_force(self) -> float:
        """Largest force on an atom, eV/Å."""
        return float(np.linalg.norm(self.forces, axis=1).max(initial=0.0))


def read_candidates(path: Path, config_type: str | None = None) -> list[Candidate]:
    """All frames of a file of any format that ASE reads.

    Args:
        path: the file.
        config_type: kind of its structures; None takes that of the frame, else the file's name.

    Raises:
        InputError: a missing or unreadable file, or a trajectory of i-PI, whose cell and units
            ASE does not read.
    """
    frames = read_structures(path, "candidates")
    return [
        Candidate(
            _bare(atoms), path.name, k, config_type or str(atoms.info.get("config_type", path.stem))
        )
        for k, atoms in enumerate(frames)
    ]


def displaced(
    template: Path, rattle_A: float, count: int, seed: int, config_type: str | None = None
) -> list[Candidate]:
    """Copies of a structure with normally distributed displacements of its free atoms.

    Args:
        template: file of the structure (its last frame); atoms held there stay.
        rattle_A: standard deviation of each coordinate, Å.
        count: number of copies.
        seed: of the random numbers.
        config_type: kind of structure; None: as for ``read_candidates``.

    Raises:
        InputError: an unusable value or file.
    """
    require(0 < rattle_A < np.inf, "rattle", rattle_A, "more than 0 (Å)")
    require(count >= 1, "count", count, "1 or more displaced structures")
    kind = read_candidates(template, config_type)[-1].config_type
    (atoms,) = iread(template, "-1:")  # once more, with its constraints
    rng = np.random.default_rng(seed)
    made = []
    for index in range(count):
        copy = atoms.copy()
        copy.set_positions(copy.positions + rng.normal(scale=rattle_A, size=(len(copy), 3)))
        made.append(Candidate(_bare(copy), template.name, index, kind))
    return made


def _bare(atoms: Atoms) -> Atoms:
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


def sensible(
    candidates: Sequence[Candidate], min_contact: float
) -> tuple[list[Candidate], Counter[str]]:
    """Candidates that a calculation could make sense of, and how many were refused for what.

    Args:
        candidates: as read or made.
        min_contact: smallest distance of two atoms over the sum of their covalent radii.
    """
    kept: list[Candidate] = []
    refused: Counter[str] = Counter()
    for index, candidate in enumerate(candidates):
        if not len(candidate.atoms):
            refused["no atoms"] += 1
            continue
        try:
            check_structure(candidate.atoms, index)
        except InputError:
            refused["positions or cell that define no neighbours"] += 1
            continue
        if closest_contact(candidate.atoms) < min_contact:
            refused[f"two atoms closer than {min_contact} × the sum of covalent radii"] += 1
            continue
        kept.append(candidate)
    return kept, refused


def predict(
    engine: UncertainEngine,
    candidates: Sequence[Candidate],
    show: Callable[[str], None] | None = None,
) -> list[Prediction]:
    """Energies, forces and their uncertainties of all candidates.

    Raises:
        InputError: the engine gives no uncertainties.
        EvaluationError: uncertainties that are not finite.
    """
    predictions: list[Prediction] = []
    for start in range(0, len(candidates), AT_ONCE):
        part = candidates[start : start + AT_ONCE]
        result = engine.evaluate([c.atoms for c in part], uncertainty=True)
        if result.forces_std is None or result.energy_std is None:
            raise InputError(
                "potential gives no uncertainties, but they choose what is labelled. Use a "
                "potential that was trained with them."
            )
        columns = result.energy, result.forces, result.energy_std, result.forces_std
        for energy, forces, energy_std, forces_std in zip(*columns, strict=True):
            if not (np.isfinite(forces_std).all() and np.isfinite(energy_std)):
                source = f"{part[len(predictions) - start].source} frame "
                source += str(part[len(predictions) - start].index)
                raise EvaluationError(f"{source}: the predicted uncertainty is not finite.")
            predictions.append(
                Prediction(
                    float(energy), np.asarray(forces), float(energy_std), np.asarray(forces_std)
                )
            )
        if show:
            show(f"predicted {len(predictions)} of {len(candidates)} candidates")
    return predictions


def queued(candidate: Candidate, prediction: Prediction, novelty_A: float, sha256: str) -> Atoms:
    """The structure as it waits for its label: with what was predicted, and where it is from.

    Args:
        candidate: the structure.
        prediction: what the potential says of it.
        novelty_A: its distance to what is known, Å; inf where nothing is.
        sha256: checksum of the weights.
    """
    atoms = candidate.atoms.copy()
    atoms.info = {
        "config_type": candidate.config_type,
        "source": candidate.source,
        "source_index": candidate.index,
        "nemp_energy": prediction.energy,
        "nemp_energy_std": prediction.energy_std,
        "nemp_max_force_std": prediction.score,
        "potential_sha256": f"sha256:{sha256}",
    }
    if novelty_A < np.inf:
        atoms.info["novelty_A"] = novelty_A
    atoms.set_array("nemp_forces", prediction.forces, dtype=float, shape=(3,))
    atoms.set_array("nemp_forces_std", prediction.forces_std, dtype=float, shape=(3,))
    return atoms
