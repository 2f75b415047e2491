"""Configuration of a training: its data and its course; typed, frozen, checked on construction."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ase.data import atomic_numbers

from nemp_sim.config import require, require_plain_name, require_types

DATA_FILES = "train", "validation", "train_only", "test"  # the lists of files in DataConfig


@dataclass(frozen=True)
class DataConfig:
    """Which frames train a potential and how labels are named.

    Attributes:
        train: extended-XYZ files (``.xz`` too) of training frames, relative to the TOML file;
            environment variables are expanded ("$NEMP_DATA/water.xyz").
        validation: files of validation frames; without any, groups of the training frames are
            held out.
        train_only: files of frames that are always trained on, whatever the split.
        test: files that are never trained or selected on, only reported.
        validation_fraction: share of the training frames to hold out, by whole groups.
        group_by: ``"cell"``: consecutive frames of one composition and cell are a group; or the
            name of an info key; or ``"frame"``: every frame for itself; or ``"block:20"``: blocks
            of 20 consecutive frames.
        energy_key: info key of the total energy, eV.
        forces_key: array key of the forces, eV/Å.
        stress_key: info key of the stress, eV/Å³ (6 Voigt or 9 or 3×3, tensile positive).
        allow_missing_forces: train on the energies alone of frames that have no forces; without
            it they stop the run, for that is also how a misspelt ``forces_key`` shows.
        type_key: info key of the kind of structure, by which errors are reported; the kind of a
            frame without it is the name of its file, up to the first dot.
        type_weights: factors of the squared errors in the loss by kind of structure, such as
            ``{HH = 0.1}``; 1 for the others. Reported errors are without them.
        isolated_atoms_eV: energies of lone atoms by symbol, eV; lone-atom frames give the others.
        split_seed: seed of the choice of held-out groups.
        check_units: stop where the labels look like other units than eV and Å.
        max_force_eV_per_A: training and validation frames with a larger force on an atom are left
            out and counted; 0: no limit.
        exclude: values of info keys whose frames are left out everywhere and counted, such as
            ``{system = ["269_[CH2]"]}`` for labels that mix two electronic states.
        level_of_theory: functional, code and settings of the labels, said in the potential file.
    """

    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    train_only: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    validation_fraction: float = 0.1
    group_by: str = "cell"
    energy_key: str = "REF_energy"
    forces_key: str = "REF_forces"
    stress_key: str = "REF_stress"
    allow_missing_forces: bool = False
    type_key: str = "config_type"
    type_weights: Mapping[str, float] = field(default_factory=dict)
    isolated_atoms_eV: Mapping[str, float] = field(default_factory=dict)
    split_seed: int = 0
    check_units: bool = True
    max_force_eV_per_A: float = 0.0  # noqa: N815 (a unit in a name)
    exclude: Mapping[str, list[str]] = field(default_factory=dict)
    level_of_theory: str = "not stated"

    def __post_init__(self) -> None:
        """Check every value."""
        require_types(self)
        for name in DATA_FILES:
            value = getattr(self, name)
            listed = (value,) if isinstance(value, str) else value
            texts = isinstance(listed, list | tuple) and all(isinstance(v, str) for v in listed)
            require(texts, f"data.{name}", value, "a list of file names")
            object.__setattr__(self, name, tuple(listed))
        require(bool(self.train), "data.train", self.train, "one or more extended-XYZ files")
        for symbol, energy in self.isolated_atoms_eV.items():
            number = isinstance(energy, int | float) and math.isfinite(energy)
            where = f"data.isolated_atoms_eV.{symbol}"
            require(number and symbol in atomic_numbers, where, energy, "an energy of an element")
        for kind, weight in self.type_weights.items():
            number = isinstance(weight, int | float) and not isinstance(weight, bool)
            usable = number and 0 < weight < math.inf
            require(usable, f"data.type_weights.{kind}", weight, "a positive number")
        fraction = self.validation_fraction
        require(0 <= fraction < 1, "data.validation_fraction", fraction, "at least 0, below 1")
        limit = self.max_force_eV_per_A
        require(limit >= 0, "data.max_force_eV_per_A", limit, "positive, or 0 for no limit")
        for key, values in self.exclude.items():
            listed = isinstance(values, (list, tuple)) and all(isinstance(v, str) for v in values)
            require(listed, f"data.exclude.{key}", values, "a list of strings")
        if self.group_by.startswith("block:"):
            block = self.group_by.removeprefix("block:")
            whole = block.isdecimal() and int(block) > 0
            require(whole, "data.group_by", self.group_by, "block:<frames>, such as block:20")


@dataclass(frozen=True)
class TrainConfig:
    """How a potential is trained.

    The loss of a batch is w_E ⟨w (ΔE/N)²⟩ + w_F ⟨w ΔF²⟩ + w_S ⟨w Δσ²⟩ over the labels of each
    kind, with energies per atom in eV, force components in eV/Å, stress components in eV/Å³; w is
    1 or that of ``DataConfig.type_weights``.

    Attributes:
        name: name of the potential; the files are ``<name>.pt`` and so on.
        epochs: passes over the training frames, at most. 0, with ``freeze_features``: no weight is
            trained; the uncertainties and the domain of validity are fitted anew to these frames.
        time_limit_s: seconds that the run may take; the rates then fall with the time that is used
            where it runs out before the epochs do. 0: no limit.
        batch_size: frames in a step, of all processes together.
        share_edges: edges of the frames that are computed together; a batch with more is computed
            in shares, one after the other, with the same result in less memory. 0: as many as a
            quarter of the memory of the device takes.
        optimizer: "muon" (Muon for matrices, Adam for the rest) or "adam".
        learning_rate: largest rate. Muon above 0.01 makes rough functions (docs/accuracy.md).
        final_learning_rate: rate at the last step; cosine decay between them.
        warmup_steps: steps of linear increase from zero.
        energy_weight: w_E at the start of the run.
        final_energy_weight: w_E at its end; geometric growth between them.
        amsgrad: divide by the largest second moment so far, not by the present one (Adam).
        force_weight: w_F.
        stress_weight: w_S; zero leaves stress labels unread.
        weight_decay: decoupled weight decay of the matrices (not of biases, radial frequencies and
            tables): each step shrinks them by the rate times this.
        clip_norm: largest norm of the gradient.
        ema_decay: decay of the averaged weights, which are the ones validated and saved.
        validate_every: epochs between validations.
        patience: validations without improvement of the validation loss after which training
            stops, and the best averaged weights are kept; 0: run to the end and keep the last.
        seed: seed of the first weights and of the order of the frames.
        dtype: "float32" or "float64".
        device: "auto", "cpu", "cuda" …
        start_from: potential whose weights and reference energies the run starts from (path or
            name); its network must be that of [model], where [model] says anything. Empty: random.
        freeze_features: train the read-outs alone; heads of ``start_from`` without data are kept,
            unchanged. Without it they are dropped: give their data too ("replay") to keep them.
        n_members: members of the ensemble read-out that gives uncertainties; 0: none.
        compile: compile the training step on a GPU (about a minute, then two to three times the
            speed).
        licence: licence of the weights.
    """

    name: str = "potential"
    epochs: int = 500
    time_limit_s: float = 0.0
    batch_size: int = 5
    share_edges: int = 0
    optimizer: Literal["muon", "adam"] = "muon"
    learning_rate: float = 3e-3
    final_learning_rate: float = 1e-5
    warmup_steps: int = 100
    energy_weight: float = 10.0
    final_energy_weight: float = 100.0
    amsgrad: bool = False
    force_weight: float = 1.0
    stress_weight: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float = 10.0
    ema_decay: float = 0.999
    validate_every: int = 10
    patience: int = 0
    seed: int = 0
    dtype: str = "float32"
    device: str = "auto"
    start_from: str = ""
    freeze_features: bool = False
    n_members: int = 8
    compile: bool = True
    licence: str = "not stated"

    def __post_init__(self) -> None:
        """Check every value."""
        require_types(self)
        require_plain_name(self.name)
        fewest = 0 if self.freeze_features else 1
        wanted = "1 or more; or 0 with freeze_features, to fit the uncertainties alone"
        require(self.epochs >= fewest, "epochs", self.epochs, wanted)
        for name in ("batch_size", "validate_every"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(self.optimizer in ("muon", "adam"), "optimizer", self.optimizer, "'muon' or 'adam'")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "positive")
        for name in ("energy_weight", "final_energy_weight"):
            require(getattr(self, name) > 0, name, getattr(self, name), "positive")
        for name in ("force_weight", "stress_weight", "share_edges"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        names = ("weight_decay", "patience", "warmup_steps", "final_learning_rate", "time_limit_s")
        for name in names:
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        members = self.n_members
        require(members == 0 or members >= 2, "n_members", members, "0, or 2 or more")
        frozen_start = bool(self.start_from) or not self.freeze_features
        require(frozen_start, "freeze_features", True, "false without start_from")
        require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "at least 0, below 1")
        require(self.clip_norm > 0, "clip_norm", self.clip_norm, "positive")
