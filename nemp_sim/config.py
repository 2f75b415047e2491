"""Configuration of the network and of its training: typed, frozen, checked on construction."""

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_type_hints

from ase.data import atomic_numbers, chemical_symbols, covalent_radii

from nemp_sim.errors import InputError

MAX_SUPPORTED_L = 4


def check_keys(cls: type, values: Mapping[str, Any], where: str) -> None:
    """Refuse keys of ``values`` that are no fields of ``cls``, naming the nearest field.

    Raises:
        InputError: an unknown key.
    """
    known = [f.name for f in fields(cls)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else f" Known keys: {', '.join(known)}."
            raise InputError(f"{where}: unknown key '{key}'.{hint}")


def require(condition: bool, name: str, got: object, wanted: str) -> None:
    """Raise an InputError that names the argument, its value and the wanted value."""
    if not condition:
        raise InputError(f"{name} is {got!r}, but must be {wanted}.")


def require_plain_name(name: str | None) -> None:
    """Refuse a name of results that is no plain file name; None stands for a made one."""
    plain = name is None or (isinstance(name, str) and name.isprintable())
    plain = plain and (name is None or Path(name).name == name and name not in ("", ".."))
    require(plain, "name", name, "a plain name, without '/'")


def require_types(settings: object) -> None:
    """Refuse field values of another type than annotated; whole numbers do for floats.

    Raises:
        InputError: naming the field, the value and the wanted type.
    """
    for name, kind in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        if kind is bool:
            require(isinstance(value, bool), name, value, "true or false")
        elif kind is int:
            whole = isinstance(value, int) and not isinstance(value, bool)
            require(whole, name, value, "a whole number")
        elif kind is float:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            require(number and math.isfinite(value), name, value, "a finite number")
        elif kind is str:
            require(isinstance(value, str), name, value, "text")
        elif isinstance(kind, type) and is_dataclass(kind):
            require(isinstance(value, kind), name, value, f"a {kind.__name__}")


def to_atomic_numbers(elements: object, name: str = "elements") -> tuple[int, ...]:
    """Sorted atomic numbers of chemical symbols or atomic numbers.

    Raises:
        InputError: an entry is no chemical element, an entry stands twice, or none is given.
    """
    require(isinstance(elements, (list, tuple)) and elements, name, elements, "a non-empty list")
    numbers = []
    for element in elements:
        number = atomic_numbers.get(element) if isinstance(element, str) else element
        require(
            type(number) is int and 0 < number < len(chemical_symbols),
            name,
            element,
            "chemical symbols or atomic numbers",
        )
        numbers.append(number)
    require(len(set(numbers)) == len(numbers), name, elements, "free of repeated elements")
    return tuple(sorted(numbers))


def to_head_names(heads: object) -> tuple[str, ...]:
    """Names of heads: different, each a plain word (letters, digits, underscores).

    Raises:
        InputError: no name, a name that stands twice, or one that is no plain word.
    """
    listed = isinstance(heads, (list, tuple)) and heads
    require(listed and len(set(heads)) == len(heads), "heads", heads, "a list of different names")
    for head in heads:
        plain = isinstance(head, str) and re.fullmatch(r"\w+", head, re.ASCII)
        require(plain, "heads", head, "made of letters, digits and underscores")
    return tuple(heads)


@dataclass(frozen=True)
class MLPShape:
    """Shape of one multi-layer perceptron, in the order of the published configuration.

    Attributes:
        n_blocks: residual blocks between the input layer and the output layer.
        width: neurons of each hidden layer.
        layers_per_block: (SiLU, dense) pairs inside one residual block.
        linear: the output layer alone, without hidden layers.
    """

    n_blocks: int = 1
    width: int = 64
    layers_per_block: int = 1
    linear: bool = False

    @classmethod
    def from_list(cls, values: object, name: str) -> Self:
        """The shape ``[n_blocks, width, layers_per_block, linear]``; the last ones may be missing.

        Raises:
            InputError: no list of one to four values, or an unusable value.
        """
        listed = isinstance(values, (list, tuple)) and 1 <= len(values) <= 4
        require(listed, name, values, "[n_blocks, width, layers, linear]")
        return cls(*values)

    def __post_init__(self) -> None:
        """Check the sizes."""
        require_types(self)
        require(self.n_blocks >= 0, "MLPShape.n_blocks", self.n_blocks, "0 or more")
        require(self.width >= 1, "MLPShape.width", self.width, "1 or more")
        require(self.layers_per_block >= 1, "layers_per_block", self.layers_per_block, "1 or more")


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes the form of the network; the weights are the rest.

    Two forms are the same code with two values of ``form``:

    * ``"published"``: the equations of Zhang and Guo, Chem. Sci. 2026, 10.1039/d5sc07248d, as they
      stand (this is how published checkpoints are read);
    * ``"smooth"`` (default): the neighbour normalisation n_i + ε becomes n_i + n0 with a fitted
      positive n0 per element, the orbital norm has a floor of one, and the constant energy per
      atom fades with the coordination, so that energy and forces stay smooth as the last
      neighbour of an atom leaves, and a lone atom has exactly its reference energy.

    Attributes:
        elements: atomic numbers, ascending; the position is the species index.
        cutoff_angstrom: neighbour cutoff r_c, Å.
        max_l: angular order L of the edge orbitals (0 … 4).
        pmax_l: angular order P of the node orbitals (0 … max_l).
        n_channels: channels K (``nwave``).
        n_radial: radial functions of each kind (``nradial``).
        n_message_passing: message-passing steps T (``MP_loop``), one or more.
        envelope_power: p of the cutoff function (``pn``).
        radial_mlp: shape of the radial network.
        message_mlp: shape of the edge networks of the message passing.
        output_mlp: shape of the read-out network.
        embedding_mlp: shape of the pair-code networks (``species_code="atomic_number"`` only).
        n_pair_code: width of the pair code (``species_code="atomic_number"`` only).
        use_norm: normalise the node orbitals after each step.
        output_bias: biases in the read-out network (published form only).
        form: ``"smooth"`` or ``"published"``.
        species_code: ``"table"``: the radial frequencies and weights of each ordered pair of
            elements are parameters; ``"atomic_number"``: they are networks of the two numbers.
        zbl: add the Ziegler–Biersack–Littmark screened nuclear repulsion at short range.
        energy_scale_eV: factor ``std`` of the network's energy, eV.
        heads: names of the read-outs, one for each level of theory.
    """

    elements: tuple[int, ...]
    cutoff_angstrom: float = 5.0
    max_l: int = 2
    pmax_l: int = 2
    n_channels: int = 16
    n_radial: int = 8
    n_message_passing: int = 2
    envelope_power: float = 6.0
    radial_mlp: MLPShape = field(default_factory=MLPShape)
    message_mlp: MLPShape = field(default_factory=MLPShape)
    output_mlp: MLPShape = field(default_factory=MLPShape)
    embedding_mlp: MLPShape = field(default_factory=MLPShape)
    n_pair_code: int = 16
    use_norm: bool = True
    output_bias: bool = False
    form: Literal["smooth", "published"] = "smooth"
    species_code: Literal["table", "atomic_number"] = "table"
    zbl: bool = False
    energy_scale_eV: float = 1.0
    heads: tuple[str, ...] = ("default",)

    def __post_init__(self) -> None:
        """Check every value."""
        object.__setattr__(self, "elements", to_atomic_numbers(self.elements, "elements"))
        object.__setattr__(self, "heads", to_head_names(self.heads))
        require_types(self)
        require(self.cutoff_angstrom > 0, "cutoff_angstrom", self.cutoff_angstrom, "positive")
        require(0 <= self.max_l <= MAX_SUPPORTED_L, "max_l", self.max_l, "between 0 and 4")
        require(0 <= self.pmax_l <= self.max_l, "pmax_l", self.pmax_l, "between 0 and max_l")
        for name in ("n_channels", "n_radial", "n_message_passing", "n_pair_code"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(self.envelope_power >= 2, "envelope_power", self.envelope_power, "2 or more")
        reach = 2 * max(covalent_radii[z] for z in self.elements) if self.zbl else 0.0
        wanted = f"{reach} Å or more, the reach of the repulsion (zbl)"
        require(self.cutoff_angstrom >= reach, "cutoff_angstrom", self.cutoff_angstrom, wanted)
        require(self.energy_scale_eV > 0, "energy_scale_eV", self.energy_scale_eV, "positive")
        require(self.form in ("smooth", "published"), "form", self.form, "'smooth' or 'published'")
        require(
            self.species_code in ("table", "atomic_number"),
            "species_code",
            self.species_code,
            "'table' or 'atomic_number'",
        )
        require(
            not (self.output_bias and self.form == "smooth"),
            "output_bias",
            True,
            "False in the smooth form, where an atom without neighbours has its reference energy",
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from plain values (JSON or TOML).

        An MLP shape is a list ``[n_blocks, width, layers_per_block, linear]`` or a table.

        Raises:
            InputError: an unknown key or an unusable value.
        """
        check_keys(cls, values, "ModelConfig")
        plain = dict(values)
        require("elements" in plain, "elements", None, "a list of chemical symbols")
        for name in ("radial_mlp", "message_mlp", "output_mlp", "embedding_mlp"):
            shape = plain.get(name)
            if isinstance(shape, Mapping):
                check_keys(MLPShape, shape, name)
                plain[name] = MLPShape(**shape)
            elif isinstance(shape, (list, tuple)):
                plain[name] = MLPShape.from_list(shape, name)
        return cls(**plain)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``from_dict`` reads them back."""
        return asdict(self) | {"elements": list(self.elements), "heads": list(self.heads)}

    @property
    def symbols(self) -> tuple[str, ...]:
        """Chemical symbols of ``elements``."""
        return tuple(chemical_symbols[z] for z in self.elements)


@dataclass(frozen=True)
class DataConfig:
    """Which frames train a potential and how labels are named.

    Attributes:
        train: extended-XYZ files (``.xz`` too) of training frames, relative to the TOML file;
            environment variables are expanded ("$NEMP_DATA/water.xyz").
        validation: files of validation frames; without any, groups of the training frames are
            held out.
        test: files that are never trained or selected on, only reported.
        validation_fraction: share of the training frames to hold out, by whole groups.
        group_by: ``"cell"``: consecutive frames of one composition and cell are a group; or the
            name of an info key; or ``"frame"``: every frame for itself; or ``"block:20"``: blocks
            of 20 consecutive frames.
        energy_key: info key of the total energy, eV.
        forces_key: array key of the forces, eV/Å.
        stress_key: info key of the stress, eV/Å³ (6 Voigt or 9 or 3×3, tensile positive).
        type_key: info key of the kind of structure, by which errors are reported.
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
    test: tuple[str, ...] = ()
    validation_fraction: float = 0.1
    group_by: str = "cell"
    energy_key: str = "REF_energy"
    forces_key: str = "REF_forces"
    stress_key: str = "REF_stress"
    type_key: str = "config_type"
    isolated_atoms_eV: Mapping[str, float] = field(default_factory=dict)
    split_seed: int = 0
    check_units: bool = True
    max_force_eV_per_A: float = 0.0  # noqa: N815 (a unit in a name)
    exclude: Mapping[str, list[str]] = field(default_factory=dict)
    level_of_theory: str = "not stated"

    def __post_init__(self) -> None:
        """Check every value."""
        require_types(self)
        for name in ("train", "validation", "test"):
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

    The loss of a batch is w_E ⟨(ΔE/N)²⟩ + w_F ⟨ΔF²⟩ + w_S ⟨Δσ²⟩, with energies per atom in eV,
    force components in eV/Å, stress components in eV/Å³.

    Attributes:
        name: name of the potential; the files are ``<name>.pt`` and so on.
        epochs: passes over the training frames, at most.
        time_limit_s: seconds that the run may take; the rates then fall with the time that is used
            where it runs out before the epochs do. 0: no limit.
        batch_size: frames in a step, of all processes together.
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
        for name in ("epochs", "batch_size", "validate_every"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(self.optimizer in ("muon", "adam"), "optimizer", self.optimizer, "'muon' or 'adam'")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "positive")
        for name in ("energy_weight", "final_energy_weight"):
            require(getattr(self, name) > 0, name, getattr(self, name), "positive")
        for name in ("force_weight", "stress_weight"):
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
