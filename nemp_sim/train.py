"""Training: one visible loop from extended XYZ to a potential file with its error report."""

import json
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

import nemp_sim
from nemp_sim.accuracy import ErrorRow, error_pairs, error_rows
from nemp_sim.checkpoint import (
    find_potential,
    load_potential,
    new_model,
    resolve_device,
    resolve_dtype,
    save_potential,
)
from nemp_sim.config import DataConfig, ModelConfig, TrainConfig, check_keys
from nemp_sim.data import (
    Frame,
    References,
    build_table,
    read_frames,
    reference_energies,
    split_groups,
    unit_findings,
)
from nemp_sim.errors import InputError
from nemp_sim.files import sha256_of
from nemp_sim.model import NEMP
from nemp_sim.plots import parity, save_png
from nemp_sim.potential import Potential, PotentialMetadata
from nemp_sim.report import Quantity, Report, device_name, provenance, write_report
from nemp_sim.trainer import Run, Trainer

ERROR_COLUMNS = (
    ("energy_rmse_meV_per_atom", "energy RMSE", "meV/atom"),
    ("energy_mae_meV_per_atom", "energy MAE", "meV/atom"),
    ("force_rmse_meV_per_A", "force RMSE", "meV/Å"),
    ("force_mae_meV_per_A", "force MAE", "meV/Å"),
)


@dataclass(frozen=True)
class Splits:
    """Frames by use.

    Attributes:
        train: fitted.
        validation: held out by groups; used for early stopping where that is on.
        test: never used but for the final table.
    """

    train: list[Frame]
    validation: list[Frame]
    test: list[Frame]

    @property
    def elements(self) -> set[str]:
        """Chemical symbols in any of the frames."""
        return {s for part in vars(self).values() for f in part for s in f.atoms.symbols}


def read_config(path: Path) -> tuple[dict[str, Any], DataConfig, TrainConfig]:
    """Sections [model], [data] and [training] of a TOML file; data paths become absolute.

    Raises:
        InputError: an unreadable file, an unknown section or key, an unusable value.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file ({error}).") from None
    unknown = sorted(content.keys() - {"model", "data", "training"})
    if unknown:
        raise InputError(
            f"{path}: unknown section [{unknown[0]}]; wanted [model] [data] [training]."
        )
    check_keys(ModelConfig, content.get("model", {}), "[model]")
    check_keys(DataConfig, content.get("data", {}), "[data]")
    check_keys(TrainConfig, content.get("training", {}), "[training]")
    data = DataConfig(**content.get("data", {}))
    here = path.resolve().parent
    paths = {
        name: tuple(str(here / p) for p in getattr(data, name))
        for name in ("train", "validation", "test")
    }
    training = TrainConfig(**content.get("training", {}))
    if training.start_from and (here / training.start_from).is_file():
        training = replace(training, start_from=str(here / training.start_from))
    return content.get("model", {}), replace(data, **paths), training


def read_splits(data: DataConfig, with_stress: bool) -> Splits:
    """Training, validation and test frames."""

    def read(paths: Sequence[str]) -> list[Frame]:
        return [f for path in paths for f in read_frames(Path(path), data, with_stress)]

    train, validation = read(data.train), read(data.validation)
    if not validation:
        train, validation = split_groups(train, data.validation_fraction, data.split_seed)
    if not train:
        raise InputError(f"data.train {list(data.train)} leaves no frames to train on.")
    return Splits(train, validation, read(data.test))


def initial_model(
    options: dict[str, Any], splits: Splits, references: References, seed: int
) -> NEMP:
    """A network with random weights, scaled to the data.

    The energy scale is the RMS force component of the training frames (× 1 Å); a lone atom has
    its reference energy, and the mean binding of each element is the first energy shift.

    Raises:
        InputError: elements in the data that [model] elements leaves out.
    """
    listed = options.get("elements", sorted(splits.elements))
    missing = sorted(splits.elements - set(listed))
    if missing:
        raise InputError(f"[model] elements is {listed}, but the frames also hold {missing}.")
    components = np.concatenate([f.forces.ravel() for f in splits.train])
    scale = float(np.sqrt((components**2).mean())) or 1.0
    config = ModelConfig.from_dict({"energy_scale_eV": scale, **options, "elements": listed})
    model = new_model(config, seed)
    for index, symbol in enumerate(config.symbols):
        model.reference_energies[index] = references.lone_atom.get(symbol, 0.0)
        bound = references.bound.get(symbol, 0.0) / config.energy_scale_eV
        model.energy_shift.data[index] = bound
    return model


def continued_model(options: dict[str, Any], splits: Splits, start_from: str) -> NEMP:
    """The network of an existing potential, to be trained further.

    Raises:
        InputError: [model] or the elements of the data do not fit that network.
    """
    start = load_potential(start_from, device="cpu", dtype="float64")
    asked = ModelConfig.from_dict(start.config.to_dict() | options)
    for name, value in asked.to_dict().items():
        if value != start.config.to_dict()[name]:
            raise InputError(
                f"[model] {name} is {value}, but {start_from} has {start.config.to_dict()[name]}. "
                "Leave it out, or train from the start."
            )
    unknown = sorted(splits.elements - set(start.elements))
    if unknown:
        raise InputError(f"the frames hold {unknown}, which {start_from} does not know.")
    return start.model.requires_grad_(True)


@dataclass(frozen=True)
class Result:
    """What a training run leaves.

    Attributes:
        potential: the averaged weights, evaluated with the dtype and on the device of the run.
        directory: where the potential, the log and the report are.
        splits: the frames by use.
        epochs: epochs done.
        seconds: wall time of all parts of the run, s.
        errors: error rows by split name, see ``accuracy.ErrorRow``.
    """

    potential: Potential
    directory: Path
    splits: Splits
    epochs: int
    seconds: float
    errors: dict[str, list[ErrorRow]]


def train(config_file: str | Path, directory: str | Path, device: str | None = None) -> Result:
    """Train a potential as a TOML file says; an interrupted run in ``directory`` goes on.

    Writes ``<name>.pt``, ``log.csv``, ``report.json``, ``report.md`` and ``parity.png`` into
    ``directory``.

    Args:
        config_file: TOML file with the sections [model], [data] and [training].
        directory: directory of the run.
        device: overrides ``training.device``.

    Raises:
        InputError: unusable settings or data, each named.
        EvaluationError: the loss is not finite.
    """
    config_file, directory = Path(config_file), Path(directory)
    options, data, config = read_config(config_file)
    config = replace(config, device=device or config.device)
    console = Console()
    splits = read_splits(data, config.stress_weight > 0)
    references = reference_energies(splits.train, data.isolated_atoms_eV)
    findings = unit_findings([*splits.train, *splits.validation], references)
    if findings and data.check_units:
        raise InputError(
            " ".join(findings) + " If the labels are right, set data.check_units = false."
        )
    on = resolve_device(config.device)
    if config.start_from:
        model = continued_model(options, splits, config.start_from)
    else:
        model = initial_model(options, splits, references, config.seed)
    model.cast(resolve_dtype(config.dtype)).to(on)
    elements, cutoff = model.config.elements, model.config.cutoff_angstrom
    tables = [
        build_table(part, elements, cutoff, on) if part else None
        for part in (splits.train, splits.validation)
    ]
    console.print(
        f"{config.name}: {len(splits.train)} training, {len(splits.validation)} validation and "
        f"{len(splits.test)} test frames of {', '.join(model.config.symbols)}; "
        f"{sum(p.numel() for p in model.parameters())} parameters; {on}, {config.dtype}"
    )
    run = Run(
        Trainer(model, tables[0], config), tables[1], directory, _fingerprint(options, data, config)
    )
    _show_progress(run, console)
    return finish(run, splits, references, data)


def _fingerprint(options: dict[str, Any], data: DataConfig, config: TrainConfig) -> str:
    """Settings, data checksums and versions on which the course of a run depends."""
    content = {
        "model": options,
        "data": asdict(data) | {"train": [], "validation": [], "test": []},
        "files": [sha256_of(Path(p)) for p in (*data.train, *data.validation)],
        "training": asdict(config) | {"device": ""},
        "start": _start_checksum(config),
        "versions": [nemp_sim.__version__, torch.__version__],
    }
    return json.dumps(content, sort_keys=True)


def _start_checksum(config: TrainConfig) -> str:
    return sha256_of(find_potential(config.start_from)) if config.start_from else ""


def _show_progress(run: Run, console: Console) -> None:
    """Run all epochs behind a progress bar; without a terminal, print one line in a while."""
    config = run.trainer.config
    columns = [
        *Progress.get_default_columns(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[now]}"),
    ]
    quiet = not console.is_terminal
    with Progress(*columns, console=console, disable=quiet) as progress:
        task = progress.add_task("training", total=config.epochs, completed=run.epoch, now="")
        every = max(1, config.epochs // (20 * config.validate_every)) * config.validate_every
        for epoch in run.epochs():
            now = _summary(run.rows[-1]) if run.rows else ""
            progress.update(task, completed=epoch, now=now)
            if quiet and epoch % every == 0:
                console.print(f"epoch {epoch}/{config.epochs} {now}", highlight=False)


def _summary(row: dict[str, float]) -> str:
    parts = []
    for split in ("train", "validation"):
        energy = 1e3 * row[f"{split}_energy_rmse_eV_per_atom"]
        force = 1e3 * row[f"{split}_force_rmse_eV_per_A"]
        parts.append(f"{split} {energy:.1f} meV/atom {force:.0f} meV/Å")
    return ", ".join(parts)


def finish(run: Run, splits: Splits, references: References, data: DataConfig) -> Result:
    """Save the potential, measure it on every split as its users will, and write the report."""
    config = run.trainer.config
    draft = Potential(run.final_model(), device=run.trainer.weights.device, name=config.name)
    errors = {name: error_rows(draft, frames) for name, frames in vars(splits).items() if frames}
    metadata = PotentialMetadata(
        level_of_theory=config.level_of_theory,
        training={
            "files": {Path(p).name: sha256_of(Path(p)) for p in (*data.train, *data.validation)},
            "frames": {name: len(frames) for name, frames in vars(splits).items()},
            "held_out": f"whole groups by {data.group_by}, seed {data.split_seed}",
            "lone_atom_energies_known": list(references.known),
            "settings": asdict(config),
            "start_sha256": _start_checksum(config),
            "epochs": run.epoch,
            "seconds": round(run.seconds, 1),
            "device": device_name(run.trainer.weights.device),
        },
        errors={name: [asdict(row) for row in rows] for name, rows in errors.items()},
        licence=config.licence,
        created_by=f"nemp_sim {nemp_sim.__version__}",
    )
    path = run.directory / f"{config.name}.pt"
    potential = Potential(draft.model, metadata, device=draft.device, name=path.name)
    save_potential(potential, path)
    potential.sha256 = sha256_of(path)
    result = Result(potential, run.directory, splits, run.epoch, run.seconds, errors)
    _write_report(result, config)
    return result


def _write_report(result: Result, config: TrainConfig) -> None:
    """report.json, report.md and parity.png."""
    frames = {name: part for name, part in vars(result.splits).items() if part}
    pairs = {name: error_pairs(result.potential, part) for name, part in frames.items()}
    save_png(parity(pairs), result.directory / "parity.png")
    known = result.potential.metadata.training["lone_atom_energies_known"]
    fitted = sorted(set(result.potential.elements) - set(known))
    notes = [
        f"The lone-atom energy of {e} is a least-squares fit: its dissociation limit has no "
        "meaning."
        for e in fitted
    ]
    quantities = [
        Quantity("epochs", "epochs", result.epochs),
        Quantity("training_s", "training time", result.seconds, "s", 1),
    ]
    for name, rows in result.errors.items():
        for row in rows:
            for key, label, unit in ERROR_COLUMNS:
                where = f"{name}, {row.config_type} ({row.n_frames} frames): {label}"
                value = getattr(row, key)
                quantities.append(
                    Quantity(f"{name}_{row.config_type}_{key}", where, value, unit, 2)
                )
    held = result.errors.get("validation", result.errors["train"])[0]
    verdict = (
        f"{config.name}: {held.energy_rmse_meV_per_atom:.1f} meV/atom and "
        f"{held.force_rmse_meV_per_A:.0f} meV/Å RMSE on {held.n_frames} "
        f"{'held-out' if 'validation' in result.errors else 'training'} frames."
    )
    write_report(
        Report(
            title=f"Training of {config.name}",
            verdict=verdict,
            quantities=tuple(quantities),
            notes=tuple(notes),
            files={
                f"{config.name}.pt": "the potential",
                "log.csv": "one row for each validation",
                "parity.png": "predicted against reference energies and forces",
            },
            provenance=provenance(result.potential, config, result.seconds),
        ),
        result.directory,
    )
