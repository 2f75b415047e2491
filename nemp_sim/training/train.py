"""Training: from extended XYZ to a potential file with its error report."""

import copy
import json
import math
from collections.abc import Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

import nemp_sim
from nemp_sim.checkpoint import find_potential, resolve_device, resolve_dtype, save_potential
from nemp_sim.config import require
from nemp_sim.files import sha256_of
from nemp_sim.locks import alone_in
from nemp_sim.model import NEMP
from nemp_sim.potential import Potential, PotentialMetadata
from nemp_sim.report import device_name
from nemp_sim.training.accuracy import ErrorRow, error_rows, predict
from nemp_sim.training.config import DATA_FILES, TrainConfig
from nemp_sim.training.data import Frame, References
from nemp_sim.training.job import Job, Splits, read_config, read_splits
from nemp_sim.training.processes import Processes, joined_processes
from nemp_sim.training.record import domain_record
from nemp_sim.training.report import NOTHING_HELD_OUT, Result, write_training_report
from nemp_sim.training.run import Run
from nemp_sim.training.start import continued_model, initial_model, references_of
from nemp_sim.training.tables import Batches, FrameTable, build_table
from nemp_sim.training.trainer import Trainer, most_edges
from nemp_sim.training.uncertainty import Calibration, fit_members

MAX_TRAIN_FRAMES_MEASURED = 2000  # for the table of training errors


def train(
    config_file: str | Path,
    directory: str | Path,
    device: str | None = None,
    start_from: str | None = None,
) -> Result | None:
    """Train a potential as a TOML file says; an interrupted run in ``directory`` goes on.

    Writes ``<name>.pt``, ``log.csv``, ``report.json``, ``report.md``, figures into ``directory``.
    Under torchrun all processes train together; the first one writes and returns the result, the
    others return None.

    Args:
        config_file: TOML file with the sections [model], [data] or [heads.NAME], [training].
        directory: directory of the run.
        device: overrides ``training.device``.
        start_from: overrides ``training.start_from``.

    Raises:
        InputError: unusable settings or data, each named, or a directory that another run uses.
        EvaluationError: the loss is not finite.
    """
    job = read_config(Path(config_file))
    config = replace(
        job.training,
        device=device or job.training.device,
        start_from=start_from or job.training.start_from,
    )
    job = replace(job, training=config)
    with ExitStack() as stack:
        processes, own_device = stack.enter_context(joined_processes(config.device))
        if processes.is_first:
            stack.enter_context(alone_in(Path(directory)))
        return train_job(job, Path(directory), resolve_device(own_device), processes)


def train_job(
    job: Job, directory: Path, on: torch.device, processes: Processes | None = None
) -> Result | None:
    """``train`` for settings that are read already, on the device ``on``."""
    config, processes = job.training, processes or Processes()
    console = Console(quiet=not processes.is_first)
    splits = read_splits(job.heads, config.stress_weight > 0)
    references = references_of(splits, job.heads)
    metadata = PotentialMetadata()
    if config.start_from:
        model, metadata = continued_model(job.model, splits, references, config)
    else:
        model = initial_model(job.model, splits, references, config.seed)
    model.cast(resolve_dtype(config.dtype)).to(on)
    tables = [
        build_table(
            part, model.config.elements, model.config.cutoff_angstrom, on, model.config.heads
        )
        if part
        else None
        for part in (splits.train, splits.validation)
    ]
    batch_size = min(config.batch_size, len(splits.train))
    wanted = f"a multiple of the number of processes, {processes.count}"
    require(batch_size % processes.count == 0, "batch_size", batch_size, wanted)
    counts = ", ".join(f"{len(part)} {name}" for name, part in splits.parts.items())
    console.print(
        f"{config.name}: {counts} frames of {', '.join(model.config.symbols)}"
        + (f" ({splits.left_out} left out)" if splits.left_out else "")
        + (f" ({splits.without_forces} without forces)" if splits.without_forces else "")
        + f"; {sum(p.numel() for p in model.parameters())} parameters; {on}, {config.dtype}"
        + (f", {processes.count} processes" if processes.count > 1 else "")
    )
    if not splits.validation:
        console.print(NOTHING_HELD_OUT)
    limit = most_edges(model, config, on)
    batches = Batches(tables[0], batch_size, config.seed, processes.count, limit)
    trainer = Trainer(model, tables[0], batches.size, config, processes)
    run = Run(trainer, batches, tables[1], directory, _fingerprint(job))
    _show_progress(run, console)
    if not processes.is_first:
        return None
    return finish(run, job, splits, references, metadata)


def _fingerprint(job: Job) -> str:
    """Settings, data checksums and versions on which the course of a run depends."""
    no_paths: dict[str, list[str]] = {name: [] for name in DATA_FILES}
    content = {
        "model": job.model,
        "heads": {head: asdict(data) | no_paths for head, data in job.heads.items()},
        "files": _checksums(job),
        "training": asdict(job.training) | {"device": ""},
        "start": _start_checksum(job.training),
        "versions": [nemp_sim.__version__, torch.__version__],
    }
    return json.dumps(content, sort_keys=True)


def _checksums(job: Job) -> dict[str, str]:
    """SHA-256 of the files that train or validate, by head and name."""
    return {
        f"{head}: {Path(path).name}": sha256_of(Path(path))
        for head, data in job.heads.items()
        for path in (*data.train, *data.validation, *data.train_only)
    }


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
        if math.isnan(energy):  # no frame is held out
            continue
        force = 1e3 * row[f"{split}_force_rmse_eV_per_A"]
        parts.append(f"{split} {energy:.1f} meV/atom {force:.0f} meV/Å")
    return ", ".join(parts)


def finish(
    run: Run,
    job: Job,
    splits: Splits,
    references: Mapping[str, References],
    start: PotentialMetadata,
) -> Result:
    """Fit the uncertainties, measure all splits as users will, save, and write the report."""
    config, model = job.training, run.final_model()
    tables = run.trainer.table, run.validation
    calibrations = _fit_uncertainties(model, tables, list(job.heads), config)
    heads = {head: start.heads[head] for head in model.config.heads if head in start.heads}
    heads |= _labels_of_heads(job, splits, references, model.config.symbols)
    device = run.trainer.device
    draft = PotentialMetadata(heads=heads)
    potentials = {
        head: Potential(model, draft, head=head, device=device, name=config.name)
        for head in job.heads
    }
    shown = splits.parts | {"train": _sample(splits.train, config.seed)}
    predictions = {name: predict(potentials, part) for name, part in shown.items()}
    errors = {name: error_rows(values) for name, values in predictions.items()}
    seen = [predictions[name] for name in ("train", "validation") if name in predictions]
    for head, potential in potentials.items():
        mine = [f for f in splits.train if f.head == head]
        heads[head]["domain"] = domain_record(potential, mine, seen)
    metadata = PotentialMetadata(
        heads=heads,
        training=_history(run, job, splits, calibrations),
        errors=_errors_of_heads(errors, start, {*heads} - {*job.heads}),
        licence=config.licence,
        created_by=f"nemp_sim {nemp_sim.__version__}",
    )
    path = run.directory / f"{config.name}.pt"
    save_potential(model, metadata, path)
    potential = Potential(model, metadata, name=path.name, sha256=sha256_of(path), device=device)
    result = Result(
        potential=potential,
        directory=run.directory,
        splits=splits,
        epochs=run.epoch,
        seconds=run.seconds,
        predictions=predictions,
        errors=errors,
        calibrations=calibrations,
    )
    write_training_report(result, config)
    return result


def _errors_of_heads(
    measured: Mapping[str, Sequence[ErrorRow]], start: PotentialMetadata, kept: Set[str]
) -> dict[str, list[dict[str, Any]]]:
    """Error rows by split: those measured, after those that the start's file has of kept heads."""
    rows = {
        name: [row for row in start.errors.get(name, ()) if row["head"] in kept]
        + [asdict(row) for row in measured.get(name, ())]
        for name in {**start.errors, **measured}
    }
    return {name: found for name, found in rows.items() if found}


def _labels_of_heads(
    job: Job, splits: Splits, references: Mapping[str, References], symbols: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """What the potential file says of the labels behind each head that was trained."""
    return {
        head: {
            "level_of_theory": data.level_of_theory,
            "elements": sorted(splits.elements(head), key=symbols.index),
            "lone_atom_energies_known": list(references[head].known),
        }
        for head, data in job.heads.items()
    }


def _history(
    run: Run, job: Job, splits: Splits, calibrations: Mapping[str, Calibration]
) -> dict[str, Any]:
    """What the potential file says of its training."""
    return {
        "files": _checksums(job),
        "frames": {name: len(frames) for name, frames in splits.parts.items()},
        "frames_left_out": splits.left_out,
        "held_out": {h: f"by {d.group_by}, seed {d.split_seed}" for h, d in job.heads.items()},
        "settings": asdict(job.training) | {"start_from": Path(job.training.start_from).name},
        "start_sha256": _start_checksum(job.training),
        "uncertainties": {head: asdict(c) for head, c in calibrations.items()},
        "epochs": run.epoch,
        "seconds": round(run.seconds, 1),
        "device": device_name(run.trainer.device),
        "processes": run.trainer.processes.count,
    }


def _sample(frames: list[Frame], seed: int) -> list[Frame]:
    """At most MAX_TRAIN_FRAMES_MEASURED of the frames, in their order."""
    count = min(len(frames), MAX_TRAIN_FRAMES_MEASURED)
    chosen = np.random.default_rng(seed).choice(len(frames), count, replace=False)
    return [frames[k] for k in sorted(chosen)]


def _fit_uncertainties(
    model: NEMP,
    tables: tuple[FrameTable, FrameTable | None],
    heads: Sequence[str],
    config: TrainConfig,
) -> dict[str, Calibration]:
    """Ensemble read-out of each head that was trained, in place."""
    if not config.n_members:
        return {}
    weights = config.final_energy_weight, config.force_weight
    fitted = {}
    for index, head in enumerate(model.config.heads):
        if head not in heads:
            continue
        alone = copy.deepcopy(model).keep_head(head).requires_grad_(False)
        fitted[head] = fit_members(alone, tables, index, config.n_members, weights, config.seed)
        model.readouts[head] = alone.readouts[head]
    return {head: value for head, value in fitted.items() if value is not None}
