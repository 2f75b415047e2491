"""Errors of a potential against labelled frames, by kind of structure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nemp_sim.data import Frame
from nemp_sim.potential import Potential


@dataclass(frozen=True)
class ErrorRow:
    """Errors over the frames of one config_type, or over all.

    Attributes:
        config_type: kind of structure; "all" for every frame.
        n_frames: number of frames.
        energy_rmse_meV_per_atom: of the total energy divided by the number of atoms.
        energy_mae_meV_per_atom: likewise.
        force_rmse_meV_per_A: over all force components.
        force_mae_meV_per_A: likewise.
        stress_rmse_meV_per_A3: over all stress components of labelled frames; None without labels.
    """

    config_type: str
    n_frames: int
    energy_rmse_meV_per_atom: float
    energy_mae_meV_per_atom: float
    force_rmse_meV_per_A: float
    force_mae_meV_per_A: float
    stress_rmse_meV_per_A3: float | None


def error_rows(potential: Potential, frames: Sequence[Frame]) -> list[ErrorRow]:
    """Errors over all frames first, then of each config_type in alphabetical order."""
    result = potential.evaluate([f.atoms for f in frames])
    energy = [
        1e3 * (e - f.energy) / len(f.atoms) for e, f in zip(result.energy, frames, strict=True)
    ]
    force = [1e3 * (p - f.forces).ravel() for p, f in zip(result.forces, frames, strict=True)]
    stress = _stress_errors(potential, frames)
    kinds = ["all", *sorted({f.config_type for f in frames})]
    rows = []
    for kind in kinds:
        chosen = [i for i, f in enumerate(frames) if kind in ("all", f.config_type)]
        de, df = np.array([energy[i] for i in chosen]), np.concatenate([force[i] for i in chosen])
        ds = [stress[i] for i in chosen if i in stress]
        rows.append(
            ErrorRow(
                config_type=kind,
                n_frames=len(chosen),
                energy_rmse_meV_per_atom=_rms(de),
                energy_mae_meV_per_atom=float(np.abs(de).mean()),
                force_rmse_meV_per_A=_rms(df),
                force_mae_meV_per_A=float(np.abs(df).mean()),
                stress_rmse_meV_per_A3=_rms(np.concatenate(ds)) if ds else None,
            )
        )
    return rows


@dataclass(frozen=True)
class ErrorPair:
    """Reference and predicted values of one property over a set of frames, for a parity figure.

    Attributes:
        reference: (n,) labels: energies per atom relative to lone atoms, eV, or forces, eV/Å.
        predicted: (n,) values of the potential.
        unit: unit of ``rmse_meV``.
    """

    reference: np.ndarray
    predicted: np.ndarray
    unit: str

    @property
    def rmse_meV(self) -> float:  # noqa: N802 (a unit in a name)
        """Root mean square of the difference, in 1/1000 of the unit of the values."""
        return 1e3 * _rms(self.predicted - self.reference)


def error_pairs(potential: Potential, frames: Sequence[Frame]) -> tuple[ErrorPair, ErrorPair]:
    """Energies and force components of ``frames``, labelled and predicted."""
    result = potential.evaluate([f.atoms for f in frames])
    reference = dict(
        zip(potential.elements, potential.model.reference_energies.tolist(), strict=True)
    )
    lone = np.array([sum(reference[s] for s in f.atoms.symbols) for f in frames])
    sizes = np.array([len(f.atoms) for f in frames])
    labels = np.array([f.energy for f in frames])
    energy = ErrorPair((labels - lone) / sizes, (result.energy - lone) / sizes, "meV/atom")
    labelled = np.concatenate([f.forces.ravel() for f in frames])
    predicted = np.concatenate([f.ravel() for f in result.forces])
    return energy, ErrorPair(labelled, predicted, "meV/Å")


def _stress_errors(potential: Potential, frames: Sequence[Frame]) -> dict[int, np.ndarray]:
    """Stress errors (6,) in meV/Å³ by index of the labelled frames."""
    labelled = [i for i, f in enumerate(frames) if f.stress is not None]
    if not labelled:
        return {}
    result = potential.evaluate([frames[i].atoms for i in labelled], stress=True)
    voigt = [[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    return {
        i: 1e3 * (predicted - frames[i].stress[tuple(voigt)])
        for i, predicted in zip(labelled, result.stress, strict=True)
    }


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))
