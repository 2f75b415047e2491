"""Predictions for labelled frames, their errors by kind of structure, and their uncertainties."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nemp_sim.evaluation import VOIGT
from nemp_sim.potential import Potential
from nemp_sim.statistics import rank_correlation, rms
from nemp_sim.training.data import Frame


@dataclass(frozen=True)
class Predictions:
    """What a potential says of F labelled frames, each read out by the head of its labels.

    Attributes:
        frames: the frames.
        energy: (F,) eV.
        lone_atoms: (F,) sum of the lone-atom energies, eV.
        forces: F arrays (N, 3), eV/Å.
        stress: (6,) in Voigt order by index of the frames that have a stress label, eV/Å³.
        energy_std: (F,) eV; not-a-number where a head has no ensemble read-out.
        forces_std: F arrays (N, 3), eV/Å; empty arrays likewise.
        energies_std: F arrays (N,), eV, of the atomic energies; empty arrays likewise.
    """

    frames: Sequence[Frame]
    energy: np.ndarray
    lone_atoms: np.ndarray
    forces: list[np.ndarray]
    stress: dict[int, np.ndarray]
    energy_std: np.ndarray
    forces_std: list[np.ndarray]
    energies_std: list[np.ndarray]


def predict(potentials: Mapping[str, Potential], frames: Sequence[Frame]) -> Predictions:
    """Evaluate ``frames`` with the potential of their head."""
    count = len(frames)
    result = Predictions(
        frames=frames,
        energy=np.zeros(count),
        lone_atoms=np.zeros(count),
        forces=[np.zeros((0, 3))] * count,
        stress={},
        energy_std=np.full(count, np.nan),
        forces_std=[np.zeros((0, 3))] * count,
        energies_std=[np.zeros(0)] * count,
    )
    for head, potential in potentials.items():
        for stress in (False, True):
            mine = [k for k, f in enumerate(frames) if f.head == head and stress == _labelled(f)]
            if mine:
                _fill(result, potential, mine, stress)
    return result


def _labelled(frame: Frame) -> bool:
    return frame.stress is not None


def _fill(result: Predictions, potential: Potential, mine: list[int], stress: bool) -> None:
    structures = [result.frames[k].atoms for k in mine]
    has_std = potential.n_members > 0
    values = potential.evaluate(
        structures, stress=stress, uncertainty=has_std, on_extrapolation="ignore"
    )
    reference = potential.reference_energies_eV
    result.energy[mine] = values.energy
    result.lone_atoms[mine] = [sum(reference[s] for s in atoms.symbols) for atoms in structures]
    for slot, k in enumerate(mine):
        result.forces[k] = values.forces[slot]
        if stress:
            result.stress[k] = values.stress[slot]
        if has_std:
            result.energy_std[k] = values.energy_std[slot]
            result.forces_std[k] = values.forces_std[slot]
            result.energies_std[k] = values.energies_std[slot]


@dataclass(frozen=True)
class ErrorRow:
    """Errors over the frames of one head and config_type, or over all of a head.

    Attributes:
        head: level of theory.
        config_type: kind of structure; "all" for every frame.
        n_frames: number of frames.
        energy_rmse_meV_per_atom: of the total energy divided by the number of atoms.
        energy_mae_meV_per_atom: likewise.
        force_rmse_meV_per_A: over all labelled force components; None without labels.
        force_mae_meV_per_A: likewise.
        stress_rmse_meV_per_A3: over all stress components of labelled frames; None without labels.
    """

    head: str
    config_type: str
    n_frames: int
    energy_rmse_meV_per_atom: float
    energy_mae_meV_per_atom: float
    force_rmse_meV_per_A: float | None
    force_mae_meV_per_A: float | None
    stress_rmse_meV_per_A3: float | None


def error_rows(predictions: Predictions) -> list[ErrorRow]:
    """For each head: errors over all frames first, then of each config_type in order."""
    frames, rows = predictions.frames, []
    for head in dict.fromkeys(f.head for f in frames):
        mine = [k for k, f in enumerate(frames) if f.head == head]
        kinds = sorted({frames[k].config_type for k in mine})
        for kind in ["all", *kinds] if len(kinds) > 1 else ["all"]:
            chosen = [k for k in mine if kind in ("all", frames[k].config_type)]
            rows.append(_row(predictions, head, kind, chosen))
    return rows


def _row(predictions: Predictions, head: str, kind: str, chosen: list[int]) -> ErrorRow:
    frames = [predictions.frames[k] for k in chosen]
    energy = energy_errors(predictions)[chosen]
    energy = 1e3 * energy / [len(f.atoms) for f in frames]
    force = 1e3 * force_errors(predictions, chosen)
    rows, columns = zip(*VOIGT, strict=True)
    stress = [
        1e3 * (predictions.stress[k] - predictions.frames[k].stress[rows, columns])
        for k in chosen
        if k in predictions.stress
    ]
    return ErrorRow(
        head=head,
        config_type=kind,
        n_frames=len(chosen),
        energy_rmse_meV_per_atom=rms(energy),
        energy_mae_meV_per_atom=float(np.abs(energy).mean()),
        force_rmse_meV_per_A=rms(force) if len(force) else None,
        force_mae_meV_per_A=float(np.abs(force).mean()) if len(force) else None,
        stress_rmse_meV_per_A3=rms(np.concatenate(stress)) if stress else None,
    )


def energy_errors(predictions: Predictions) -> np.ndarray:
    """Predicted minus labelled total energies (F,), eV."""
    return predictions.energy - np.array([f.energy for f in predictions.frames])


def force_errors(predictions: Predictions, chosen: Sequence[int]) -> np.ndarray:
    """Predicted minus labelled forces on the atoms of the frames ``chosen``, (n, 3), eV/Å.

    Frames without force labels are left out, here and in ``labelled_rows``.
    """
    return labelled_rows(predictions, predictions.forces, chosen) - labelled_rows(
        predictions, [f.forces for f in predictions.frames], chosen
    )


def labelled_rows(
    predictions: Predictions, values: Sequence[np.ndarray | None], chosen: Sequence[int]
) -> np.ndarray:
    """``values`` (N, 3) of those frames of ``chosen`` that have force labels, stacked, (n, 3)."""
    kept = [values[k] for k in chosen if predictions.frames[k].forces is not None]
    return np.concatenate([np.zeros((0, 3)), *kept])


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
        return 1e3 * rms(self.predicted - self.reference)


def error_pairs(predictions: Predictions) -> tuple[ErrorPair, ErrorPair]:
    """Energies and force components, labelled and predicted."""
    frames, lone = predictions.frames, predictions.lone_atoms
    sizes = np.array([len(f.atoms) for f in frames])
    labels = np.array([f.energy for f in frames])
    energy = ErrorPair((labels - lone) / sizes, (predictions.energy - lone) / sizes, "meV/atom")
    every = range(len(frames))
    labelled = labelled_rows(predictions, [f.forces for f in frames], every).ravel()
    predicted = labelled_rows(predictions, predictions.forces, every).ravel()
    return energy, ErrorPair(labelled, predicted, "meV/Å")


@dataclass(frozen=True)
class Reliability:
    """Predicted standard deviations beside true errors.

    Attributes:
        force_std: (n,) of n atoms that have labels: √(σ_x² + σ_y² + σ_z²), eV/Å.
        force_error: (n,) length of the error of the force, eV/Å.
        energy_std: (m,) of m frames, per atom, eV.
        energy_error: (m,) absolute error per atom, eV.
    """

    force_std: np.ndarray
    force_error: np.ndarray
    energy_std: np.ndarray
    energy_error: np.ndarray

    @property
    def force_spearman(self) -> float:
        """Rank correlation of predicted and true force errors over atoms."""
        return rank_correlation(self.force_std, self.force_error)

    @property
    def energy_spearman(self) -> float:
        """Rank correlation of predicted and true energy errors over frames."""
        return rank_correlation(self.energy_std, self.energy_error)

    @property
    def force_ratio(self) -> float:
        """Root mean square true error over root mean square predicted one; one if calibrated."""
        return rms(self.force_error) / max(rms(self.force_std), 1e-300)

    @property
    def energy_ratio(self) -> float:
        """Likewise for energies per atom."""
        return rms(self.energy_error) / max(rms(self.energy_std), 1e-300)


def reliability(predictions: Predictions) -> Reliability | None:
    """Uncertainties and errors of all frames with more than one atom; None without any."""
    chosen = [
        k
        for k, f in enumerate(predictions.frames)
        if len(f.atoms) > 1 and np.isfinite(predictions.energy_std[k])
    ]
    if not chosen:
        return None
    sizes = np.array([len(predictions.frames[k].atoms) for k in chosen])
    force = force_errors(predictions, chosen)
    spread = labelled_rows(predictions, predictions.forces_std, chosen)
    return Reliability(
        force_std=np.linalg.norm(spread, axis=1),
        force_error=np.linalg.norm(force, axis=1),
        energy_std=predictions.energy_std[chosen] / sizes,
        energy_error=np.abs(energy_errors(predictions)[chosen]) / sizes,
    )
