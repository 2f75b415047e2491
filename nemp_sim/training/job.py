"""A training job as its TOML file describes it: settings, and frames by use."""

import os
import tomllib
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nemp_sim.config import ModelConfig, check_keys, near_hint, require, to_head_names
from nemp_sim.errors import InputError
from nemp_sim.structures import in_vacuum
from nemp_sim.training.config import DATA_FILES, DataConfig, TrainConfig
from nemp_sim.training.data import Frame, frame_key, read_frames, split_groups


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

    @property
    def without_forces(self) -> int:
        """Number of frames that have no force labels."""
        return sum(f.forces is None for part in self.parts.values() for f in part)

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
    for section in content:
        require(isinstance(content[section], dict), f"[{section}]", content[section], "a table")
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
    paths: dict[str, Any] = {}
    for name in DATA_FILES:
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
            for name in DATA_FILES
        }
        _check_kinds(data, {f.config_type for frames in read.values() for f in frames})
        limit = data.max_force_eV_per_A or np.inf
        for name in DATA_FILES:
            most = np.inf if name == "test" else limit
            kept = [f for f in read[name] if not f.excluded and _largest_force(f) <= most]
            left_out += len(read[name]) - len(kept)
            read[name] = kept
        if not read["validation"]:
            read["train"], read["validation"] = split_groups(
                read["train"], data.validation_fraction, data.split_seed
            )
        read["train"] += read.pop("train_only")
        if not read["train"]:
            raise InputError(f"data.train {list(data.train)} leaves no frames to train on.")
        for name, frames in read.items():
            parts[name] += frames
    _warn_of_copies(parts)
    return Splits(**parts, left_out=left_out)


def _check_kinds(data: DataConfig, kinds: Collection[str]) -> None:
    """Refuse weights of kinds that no frame has."""
    for kind in data.type_weights:
        if kind not in kinds:
            hint = near_hint(kind, sorted(kinds), "Kinds")
            raise InputError(f"data.type_weights: no frame is of the kind '{kind}'. {hint}")


def _largest_force(frame: Frame) -> float:
    """Of the labels, eV/Å; zero without."""
    return 0.0 if frame.forces is None else float(np.linalg.norm(frame.forces, axis=1).max())


def _warn_of_copies(parts: Mapping[str, Sequence[Frame]]) -> None:
    """Held-out and test frames that are trained on, lone atoms aside, say nothing of new ones."""
    trained = {frame_key(f) for f in parts["train"] if not in_vacuum(f.atoms, most=1)}
    for name in ("validation", "test"):
        copies = sum(frame_key(frame) in trained for frame in parts[name])
        if copies:
            warnings.warn(
                f"{copies} of {len(parts[name])} {name} frames stand among the training frames, "
                "too: their errors are too small. Take them out of one of the files.",
                stacklevel=2,
            )
