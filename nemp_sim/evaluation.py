"""Evaluation: results of a list of structures, joined from those of its batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from ase import Atoms

from nemp_sim.derivatives import Derivatives
from nemp_sim.domain import Finding
from nemp_sim.errors import EvaluationError

CHECKED = "energy", "forces", "virial", "energy_std", "atomic_std", "forces_std"
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))  # xx yy zz yz xz xy


@dataclass(frozen=True)
class Evaluation:
    """Results for a list of B structures, in their order.

    Attributes:
        energy: (B,) eV.
        energies: B arrays (N_b,) of atomic energies, eV; they add up to ``energy``.
        forces: B arrays (N_b, 3), eV/Å; None where not asked for.
        stress: (B, 6), eV/Å³, Voigt order xx yy zz yz xz xy, tensile positive; None where not
            asked for.
        energy_std: (B,) eV, calibrated standard deviation of ``energy``; None where the potential
            has no ensemble read-out.
        energies_std: B arrays (N_b,), eV, of the atomic energies; None likewise.
        forces_std: B arrays (N_b, 3), eV/Å, of the forces; None where not asked for.
        energy_members: (B, M) eV, energies of the M members of the ensemble, whose mean is
            ``energy`` and whose standard deviation is ``energy_std``; None likewise.
        forces_members: B arrays (M, N_b, 3), eV/Å, forces of the members; None where ``forces`` or
            ``forces_std`` is.
        stress_members: (B, M, 6), eV/Å³, of the members; None likewise and without ``stress``.
        outside: B tuples of what is outside the domain of the potential; empty inside.
    """

    energy: np.ndarray
    energies: tuple[np.ndarray, ...]
    forces: tuple[np.ndarray, ...] | None
    stress: np.ndarray | None
    energy_std: np.ndarray | None = None
    energies_std: tuple[np.ndarray, ...] | None = None
    forces_std: tuple[np.ndarray, ...] | None = None
    energy_members: np.ndarray | None = None
    forces_members: tuple[np.ndarray, ...] | None = None
    stress_members: np.ndarray | None = None
    outside: tuple[tuple[Finding, ...], ...] = ()


def has_stress(atoms: Atoms) -> bool:
    """Whether a stress is defined: a periodic axis and three independent cell vectors."""
    return bool(atoms.pbc.any()) and atoms.cell.rank == 3


def join_parts(
    structures: Sequence[Atoms],
    parts: Sequence[Derivatives],
    forces: bool,
    stress: bool,
    forces_std: bool | None = None,
) -> Evaluation:
    """One Evaluation of all batches; ``forces_std`` is None without an ensemble read-out.

    Raises:
        EvaluationError: a result that is not a number.
    """
    ends = list(accumulate(map(len, structures), initial=0))

    def joined(name: str, *shape: int) -> np.ndarray:
        arrays = [getattr(part, name).numpy() for part in parts]
        return np.concatenate(arrays) if arrays else np.zeros((0, *shape))

    def by_structure(name: str, *shape: int) -> tuple[np.ndarray, ...]:
        whole = joined(name, *shape)
        return tuple(whole[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True))

    def in_voigt(virial: np.ndarray) -> np.ndarray:
        volumes = np.array([atoms.get_volume() for atoms in structures])
        components = np.stack([virial[..., a, b] for a, b in VOIGT], axis=-1)
        return components / volumes.reshape(-1, *[1] * (components.ndim - 1))

    has_spread = forces_std is not None
    members = None
    if forces_std and forces:
        changes = by_structure("force_deviations", 0, 3)  # each (N, M, 3)
        mean = by_structure("forces", 3)
        members = tuple(
            (f[:, None] + d).transpose(1, 0, 2) for f, d in zip(mean, changes, strict=True)
        )
    voigt = in_voigt(joined("virial", 3, 3)) if stress else None
    energy = joined("energy")
    evaluation = Evaluation(
        energy=energy,
        energies=by_structure("atomic_energies"),
        forces=by_structure("forces", 3) if forces else None,
        stress=voigt,
        energy_std=joined("energy_std") if has_spread else None,
        energies_std=by_structure("atomic_std") if has_spread else None,
        forces_std=by_structure("forces_std", 3) if forces_std else None,
        energy_members=energy[:, None] + joined("energy_deviations", 0) if has_spread else None,
        forces_members=members,
        stress_members=(
            voigt[:, None] + in_voigt(joined("virial_deviations", 0, 3, 3))
            if forces_std and stress
            else None
        ),
    )
    found = [getattr(part, name) for part in parts for name in CHECKED]
    if not all(np.isfinite(values.numpy()).all() for values in found if values is not None):
        _refuse_not_a_number(structures, evaluation)
    return evaluation


def _refuse_not_a_number(structures: Sequence[Atoms], evaluation: Evaluation) -> None:
    for index, atoms in enumerate(structures):
        numbers = ("energy", "forces", "stress", "energy_std", "energies_std", "forces_std")
        values = [getattr(evaluation, name) for name in numbers]
        if all(np.isfinite(v[index]).all() for v in values if v is not None):
            continue
        distances = (
            atoms.get_all_distances(mic=bool(atoms.pbc.any())) if len(atoms) < 2000 else None
        )
        nearest = ""
        if distances is not None and len(atoms) > 1:
            np.fill_diagonal(distances, np.inf)
            nearest = f" Its shortest distance is {distances.min():.3f} Å."
        raise EvaluationError(
            f"structure {index} ({atoms.get_chemical_formula()}): energy, forces, stress or their "
            f"uncertainties are not finite.{nearest} Check for overlapping atoms or a wrong length "
            "unit."
        )
