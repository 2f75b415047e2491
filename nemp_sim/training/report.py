"""What a training run leaves: its result, report and figures."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nemp_sim.plots import save_figure
from nemp_sim.potential import Potential
from nemp_sim.report import Quantity, Report, provenance, with_vector_graphics, write_report
from nemp_sim.training.accuracy import ErrorRow, Predictions, Reliability, error_pairs, reliability
from nemp_sim.training.config import TrainConfig
from nemp_sim.training.job import Splits
from nemp_sim.training.plots import learning_curves, parity, reliability_diagram
from nemp_sim.training.uncertainty import Calibration

ERROR_COLUMNS = (
    ("energy_rmse_meV_per_atom", "energy RMSE", "meV/atom"),
    ("energy_mae_meV_per_atom", "energy MAE", "meV/atom"),
    ("force_rmse_meV_per_A", "force RMSE", "meV/Å"),
    ("force_mae_meV_per_A", "force MAE", "meV/Å"),
    ("stress_rmse_meV_per_A3", "stress RMSE", "meV/Å³"),
)
RECORDED = ("files", "frames", "frames_left_out", "held_out")  # of the metadata, in report.json
RELIABILITY_COLUMNS = (
    ("force_spearman", "Spearman correlation of predicted and true force error", 2),
    ("energy_spearman", "Spearman correlation of predicted and true energy error", 2),
    ("force_ratio", "true over predicted force error (RMS)", 2),
    ("energy_ratio", "true over predicted energy error (RMS)", 2),
)
NOTHING_HELD_OUT = (
    "No frame is held out (validation_fraction is 0 and there are no validation files): all errors "
    "are of trained frames, and say nothing of others. validation_fraction = 0.1 holds out a tenth."
)


@dataclass(frozen=True)
class Result:
    """What a training run leaves.

    Attributes:
        potential: the averaged weights with the first head, in the dtype and on the device of the
            run.
        directory: where the potential, the log and the report are.
        splits: the frames by use.
        epochs: epochs done.
        seconds: wall time of all parts of the run, s.
        predictions: of the frames of each split (of the training frames, 2000 at most).
        errors: error rows by split name, see ``accuracy.ErrorRow``.
        calibrations: how the ensemble read-out of each head was fitted.
    """

    potential: Potential
    directory: Path
    splits: Splits
    epochs: int
    seconds: float
    predictions: Mapping[str, Predictions]
    errors: dict[str, list[ErrorRow]]
    calibrations: Mapping[str, Calibration]


def write_training_report(result: Result, config: TrainConfig) -> None:
    """report.json, report.md, learning.png, parity.png and, with uncertainties, reliability.png."""
    files = {
        f"{config.name}.pt": "the potential",
        "parity.png": "predicted against reference energies and forces",
    }
    if result.epochs:
        files["log.csv"] = "one row for each validation"
        files["learning.png"] = "errors at each validation"
        curves = learning_curves(result.directory / "log.csv")
        save_figure(curves, result.directory / "learning.png")
    pairs = {name: error_pairs(values) for name, values in result.predictions.items()}
    save_figure(parity(pairs), result.directory / "parity.png")
    judged = {name: reliability(values) for name, values in result.predictions.items()}
    judged = {name: value for name, value in judged.items() if value is not None}
    if judged:
        shown = {name: value for name, value in judged.items() if name != "train"} or judged
        save_figure(reliability_diagram(shown), result.directory / "reliability.png")
        files["reliability.png"] = "true errors against predicted standard deviations"
    write_report(
        Report(
            title=f"Training of {config.name}",
            verdict=_verdict(result, config),
            quantities=(
                *_error_quantities(result),
                *_reliability_quantities(judged),
                *_crossed_quantities(result.calibrations),
            ),
            notes=(*_notes(result), *_sources(result)),
            files=with_vector_graphics(files),
            data={
                "model": asdict(result.potential.config),
                **{k: result.potential.metadata.training[k] for k in RECORDED},
            },
            provenance=provenance(result.potential, config, result.seconds),
        ),
        result.directory,
    )


def _verdict(result: Result, config: TrainConfig) -> str:
    held = "validation" in result.errors
    rows = result.errors["validation" if held else "train"]
    parts = [
        f"{row.energy_rmse_meV_per_atom:.2f} meV/atom "
        + (f"and {force:.1f} meV/Å " if (force := row.force_rmse_meV_per_A) is not None else "")
        + f"RMSE on {row.n_frames} {'held-out' if held else 'training'} frames"
        + (f" of {row.head}" if len(result.potential.heads) > 1 else "")
        for row in rows
        if row.config_type == "all"
    ]
    return f"{config.name}: {'; '.join(parts)}."


def _error_quantities(result: Result) -> list[Quantity]:
    quantities = [
        Quantity("epochs", "epochs", result.epochs),
        Quantity("training_s", "training time", result.seconds, "s", 1),
    ]
    for split, rows in result.errors.items():
        for row in rows:
            place = f"{split}, {row.head}, {row.config_type} ({row.n_frames} frames)"
            for key, label, unit in ERROR_COLUMNS:
                value = getattr(row, key)
                if value is not None:
                    name = f"{split}_{row.head}_{row.config_type}_{key}"
                    quantities.append(Quantity(name, f"{place}: {label}", value, unit, 2))
    return quantities


def _crossed_quantities(calibrations: Mapping[str, Calibration]) -> list[Quantity]:
    """What the uncertainties of forces are worth where they were not fitted."""
    labels = {"crossed_spearman": "rank correlation", "crossed_ratio": "true over predicted error"}
    return [
        Quantity(f"{head}_{key}", f"{head}, each half fitted to the other: {label}", value, "", 2)
        for head, fit in calibrations.items()
        for key, label in labels.items()
        if (value := getattr(fit, key)) is not None
    ]


def _reliability_quantities(judged: dict[str, Reliability]) -> list[Quantity]:
    return [
        Quantity(f"{split}_{key}", f"{split}: {label}", getattr(values, key), "", digits)
        for split, values in judged.items()
        for key, label, digits in RELIABILITY_COLUMNS
        if np.isfinite(getattr(values, key))
    ]


def _sources(result: Result) -> list[str]:
    """What was trained, on what: files with their checksums, frames, form of the network."""
    record, config = result.potential.metadata.training, result.potential.config
    files = (f"{name} (sha256 {checksum[:12]}…)" for name, checksum in record["files"].items())
    counts = [f"{count} {name}" for name, count in record["frames"].items()]
    counts.append(f"{record['frames_left_out']} left out")
    held = (f"{head} {how}" for head, how in record["held_out"].items())
    return [
        f"Data, by head and file: {'; '.join(files)}. Frames: {', '.join(counts)}; held out: "
        f"{'; '.join(held)}.",
        f"Network: {config.form} form, cutoff {config.cutoff_angstrom:g} Å, L = {config.max_l}, "
        f"P = {config.pmax_l}, K = {config.n_channels}, T = {config.n_message_passing}; all of its "
        "settings are in report.json.",
    ]


def _notes(result: Result) -> tuple[str, ...]:
    notes = [] if result.splits.validation else [NOTHING_HELD_OUT]
    if result.splits.without_forces:
        notes.append(f"{result.splits.without_forces} frames have no forces, but energies alone.")
    for head, values in result.potential.metadata.heads.items():
        known = values.get("lone_atom_energies_known")
        for element in values["elements"] if known is not None else ():
            if element not in known:
                notes.append(
                    f"The lone-atom energy of {element} (head {head}) is a least-squares fit: its "
                    "dissociation limit has no meaning."
                )
    for head, fit in result.calibrations.items():
        if not fit.held_out:
            notes.append(
                f"The uncertainties of head {head} are scaled to training errors, for want of "
                "held-out frames: they are too small."
            )
    return tuple(notes)
