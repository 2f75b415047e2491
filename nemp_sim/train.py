"""Training: from extended XYZ to a potential file with its error report."""

import copy
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

import nemp_sim
from nemp_sim.accuracy import ErrorRow, Predictions, error_rows, predict
from nemp_sim.checkpoint import (
    find_potential,
    load_model,
    new_model,
    resolve_device,
    resolve_dtype,
    save_potential,
)
from nemp_sim.config import DataConfig, ModelConfig, TrainConfig, check_keys, require, to_head_names
from nemp_sim.data import (
    Frame,
    References,
    read_frames,
    reference_energies,
    split_groups,
    unit_findings,
)
from nemp_sim.errors import InputError
from nemp_sim.files import sha256_of
from nemp_sim.model import NEMP
from nemp_sim.potential import Potential, PotentialMetadata
from nemp_sim.processes import Processes, joined_processes
from nemp_sim.report import device_name
from nemp_sim.run import Run
from nemp_sim.tables import Batches, FrameTable, build_table
from nemp_sim.trainer import Trainer
from nemp_sim.training_report import write_training_report
from nemp_sim.uncertainty import Calibration, fit_members

MAX_TRAIN_FRAMES_MEASURED = 2000  # for the table of training errors


@dataclass(frozen=True)
class Job:
    """What a TOML file asks for.

    Attributes:
        model: section [model] as it stands.
        heads: data of each head, from [heads.NAME]; a section [data] is the head "default".
        training: section [training].
    """

    model: dict[str, Any]
    heads: Mapping[str, DataConfig]
    training: TrainConfig


@dataclass(frozen=True)
class Splits:
    """Frames of all heads by use.

    Attributes:
        train: fitted.
        validation: held out by groups; used for early stopping where that is on, and to scale the
            uncertainties.
        test: never used but for the final table.
        left_out: frames that are excluded or have too large a force.
    """

    train: list[Frame]
    validation: list[Frame]
    test: list[Frame]
    left_out: int = 0

    @property
    def parts(self) -> dict[str, list[Frame]]:
        """The splits that hold frames, by name."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: frames for name, frames in named.items() if frames}

    def elements(self, head: str | None = None) -> set[str]:
        """Chemical symbols in any of the frames, or in those of a head."""
        every = (f for part in self.parts.values() for f in part)
        return {s for f in every if head in (None, f.head) for s in f.atoms.symbols}


def read_config(path: Path) -> Job:
    """Sections [model], [data] or [heads.NAME], and [training]; data paths become absolute.

    Raises:
        InputError: an unreadable file, an unknown section or key, an unusable value.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file ({error}).") from None
    unknown = sorted(content.keys() - {"model", "data", "heads", "training"})
    if unknown:
        raise InputError(
            f"{path}: unknown section [{unknown[0]}]; wanted [model], [data] or [heads.NAME], "
            "[training]."
        )
    if ("data" in content) == ("heads" in content):
        raise InputError(f"{path}: wanted either [data] or one or more [heads.NAME].")
    check_keys(ModelConfig, content.get("model", {}), "[model]")
    check_keys(TrainConfig, content.get("training", {}), "[training]")
    sections = content.get("heads") or {"default": content["data"]}
    here = path.resolve().parent
    heads = {}
    for head in to_head_names(list(sections)):
        where = f"[heads.{head}]" if "heads" in content else "[data]"
        require(isinstance(sections[head], dict), where, sections[head], "a table")
        check_keys(DataConfig, sections[head], where)
        heads[head] = _with_absolute_paths(DataConfig(**sections[head]), here)
    training = TrainConfig(**content.get("training", {}))
    if training.start_from and (here / training.start_from).is_file():
        training = replace(training, start_from=str(here / training.start_from))
    return Job(content.get("model", {}), heads, training)


def _with_absolute_paths(data: DataConfig, here: Path) -> DataConfig:
    """Paths relative to ``here``, environment variables expanded."""
    paths = {}
    for name in ("train", "validation", "test"):
        expanded = [os.path.expandvars(p) for p in getattr(data, name)]
        for p in expanded:
            if "$" in p:
                raise InputError(
                    f"data.{name}: {p} names an environment variable that is not set. Set it to "
                    "the directory of the data (docs/data.md says how to get them)."
                )
        paths[name] = tuple(str(here / p) for p in expanded)
    return replace(data, **paths)


def read_splits(heads: Mapping[str, DataConfig], with_stress: bool) -> Splits:
    """Training, validation and test frames of all heads."""
    parts: dict[str, list[Frame]] = {"train": [], "validation": [], "test": []}
    left_out = 0
    for head, data in heads.items():
        read = {
            name: [
                f
                for path in getattr(data, name)
                for f in read_frames(Path(path), data, with_stress, head)
            ]
            for name in parts
        }
        limit = data.max_force_eV_per_A or np.inf
        for name in parts:
            most = np.inf if name == "test" else limit
            kept = [
                f
                for f in read[name]
                if not f.excluded and np.linalg.norm(f.forces, axis=1).max() <= most
            ]
            left_out += len(read[name]) - len(kept)
            read[name] = kept
        if not read["validation"]:
            read["train"], read["validation"] = split_groups(
                read["train"], data.validation_fraction, data.split_seed
            )
        if not read["train"]:
            raise InputError(f"data.train {list(data.train)} leaves no frames to train on.")
        for name, frames in read.items():
            parts[name] += frames
    return Splits(**parts, left_out=left_out)


def references_of(splits: Splits, heads: Mapping[str, DataConfig]) -> dict[str, References]:
    """Reference energies of each head, from its training frames; checks the units of its labels.

    Raises:
        InputError: labels that look like other units than eV and Å.
    """
    references = {}
    for head, data in heads.items():
        train = [f for f in splits.train if f.head == head]
        references[head] = reference_energies(train, data.isolated_atoms_eV)
        held = [f for f in splits.validation if f.head == head]
        findings = unit_findings([*train, *held], references[head])
        if findings and data.check_units:
            raise InputError(
                f"labels of head {head}: {' '.join(findings)} If the labels are right, set "
                "check_units = false."
            )
    return references


def initial_model(
    options: dict[str, Any], splits: Splits, references: Mapping[str, References], seed: int
) -> NEMP:
    """A network with random weights, scaled to the data.

    The energy scale is the RMS force component of the training frames (× 1 Å); a lone atom has
    its reference energy, and the mean binding of each element is the first energy shift.

    Raises:
        InputError: elements in the data that [model] elements leaves out.
    """
    listed = options.get("elements", sorted(splits.elements()))
    missing = sorted(splits.elements() - set(listed))
    if missing:
        raise InputError(f"[model] elements is {listed}, but the frames also hold {missing}.")
    components = np.concatenate([f.forces.ravel() for f in splits.train])
    scale = float(np.sqrt((components**2).mean())) or 1.0
    config = ModelConfig.from_dict(
        {"energy_scale_eV": scale, **options, "elements": listed, "heads": list(references)}
    )
    model = new_model(config, seed)
    for head, reference in references.items():
        _set_references(model, head, reference)
    return model


def _set_references(model: NEMP, head: str, references: References) -> None:
    readout, config = model.readouts[head], model.config
    for index, symbol in enumerate(config.symbols):
        readout.reference_energies[index] = references.lone_atom.get(symbol, 0.0)
        bound = references.bound.get(symbol, 0.0) / config.energy_scale_eV
        readout.energy_shift.data[index] = bound


def continued_model(
    options: dict[str, Any],
    splits: Splits,
    references: Mapping[str, References],
    config: TrainConfig,
) -> tuple[NEMP, PotentialMetadata]:
    """The network of an existing potential, to be trained further, and what its file says.

    Heads that the data name and the potential has not are new, and start from its first one. Heads
    that the potential has and the data do not name are kept where the features are frozen, else
    dropped.

    Raises:
        InputError: [model] or the elements of the data do not fit that network.
    """
    start, metadata = load_model(find_potential(config.start_from), torch.float64)
    own = start.config.to_dict()
    asked = ModelConfig.from_dict(own | options).to_dict()
    for name, value in asked.items():
        if value != own[name]:
            raise InputError(
                f"[model] {name} is {value}, but {config.start_from} has {own[name]}. Leave it "
                "out, or train from the start."
            )
    unknown = sorted(splits.elements() - set(start.config.symbols))
    if unknown:
        raise InputError(f"the frames hold {unknown}, which {config.start_from} does not know.")
    kept = [head for head in own["heads"] if head in references or config.freeze_features]
    heads = [*kept, *(head for head in references if head not in own["heads"])]
    model = new_model(replace(start.config, heads=tuple(heads))).cast(torch.float64)
    shared = {k: v for k, v in start.state_dict().items() if not k.startswith("readouts.")}
    model.load_state_dict(shared, strict=False)
    for head in heads:
        source = start.readouts[head if head in own["heads"] else own["heads"][0]]
        keep = config.freeze_features and head not in references
        width = source.members.shape[1]
        model.readouts[head].members = source.members.new_zeros(
            source.members.shape[0] if keep else 0, width
        )
        state = source.state_dict()
        if not keep:
            state["members"] = source.members.new_zeros(0, width)
        model.readouts[head].load_state_dict(state)
        if head not in own["heads"]:
            _set_references(model, head, references[head])
    model.requires_grad_(not config.freeze_features)
    for head in references:
        model.readouts[head].requires_grad_(True)
    return model, metadata


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
        InputError: unusable settings or data, each named.
        EvaluationError: the loss is not finite.
    """
    job = read_config(Path(config_file))
    config = replace(
        job.training,
        device=device or job.training.device,
        start_from=start_from or job.training.start_from,
    )
    job = replace(job, training=config)
    with joined_processes(config.device) as (processes, own_device):
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
        + f"; {sum(p.numel() for p in model.parameters())} parameters; {on}, {config.dtype}"
        + (f", {processes.count} processes" if processes.count > 1 else "")
    )
    batches = Batches(tables[0], batch_size, config.seed, processes.count)
    trainer = Trainer(model, tables[0], batches.size, config, processes)
    run = Run(trainer, batches, tables[1], directory, _fingerprint(job))
    _show_progress(run, console)
    if not processes.is_first:
        return None
    return finish(run, job, splits, references, metadata)


def _fingerprint(job: Job) -> str:
    """Settings, data checksums and versions on which the course of a run depends."""
    no_paths = {"train": [], "validation": [], "test": []}
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
        for path in (*data.train, *data.validation)
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
    heads |= {
        head: {
            "level_of_theory": data.level_of_theory,
            "elements": [e for e in model.config.symbols if e in splits.elements(head)],
            "lone_atom_energies_known": list(references[head].known),
        }
        for head, data in job.heads.items()
    }
    device = run.trainer.device
    draft = PotentialMetadata(heads=heads)
    potentials = {
        head: Potential(model, draft, head=head, device=device, name=config.name)
        for head in job.heads
    }
    shown = splits.parts | {"train": _sample(splits.train, config.seed)}
    predictions = {name: predict(potentials, part) for name, part in shown.items()}
    errors = {name: error_rows(values) for name, values in predictions.items()}
    metadata = PotentialMetadata(
        heads=heads,
        training={
            "files": _checksums(job),
            "frames": {name: len(frames) for name, frames in splits.parts.items()},
            "frames_left_out": splits.left_out,
            "held_out": {h: f"by {d.group_by}, seed {d.split_seed}" for h, d in job.heads.items()},
            "settings": asdict(config),
            "start_sha256": _start_checksum(config),
            "uncertainties": {head: asdict(c) for head, c in calibrations.items()},
            "epochs": run.epoch,
            "seconds": round(run.seconds, 1),
            "device": device_name(device),
            "processes": run.trainer.processes.count,
        },
        errors={name: [asdict(row) for row in rows] for name, rows in errors.items()},
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
