"""Configuration of the network: typed, frozen, checked on construction; the checks of settings."""

import difflib
import math
import re
from collections.abc import Mapping, Sequence
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
            raise InputError(f"{where}: unknown key '{key}'. {near_hint(key, known, 'Known keys')}")


def near_hint(name: str, known: Sequence[str], every: str) -> str:
    """A sentence with the known name nearest to ``name``; all of them, as ``every``, if none is."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean '{near[0]}'?" if near else f"{every}: {', '.join(known)}."


def require(condition: object, name: str, got: object, wanted: str) -> None:
    """Raise an InputError that names the argument, its value and the wanted value, if not met."""
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
    listed = elements if isinstance(elements, (list, tuple)) else ()
    require(listed, name, elements, "a non-empty list")
    numbers: list[int] = []
    for element in listed:
        number: Any = atomic_numbers.get(element) if isinstance(element, str) else element
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
    listed = heads if isinstance(heads, (list, tuple)) else ()
    different = listed and len(set(listed)) == len(listed)
    require(different, "heads", heads, "a list of different names")
    for head in listed:
        plain = isinstance(head, str) and re.fullmatch(r"\w+", head, re.ASCII)
        require(plain, "heads", head, "made of letters, digits and underscores")
    return tuple(listed)


@dataclass(frozen=True)
class MLPShape:
    """Shape of one multi-layer perceptron, in the order of the published configuration.

    Attributes:
        n_blocks: residual blocks between the input layer and the output layer.
        width: neurons of each hidden layer.
        layers_per_block: (SiLU, dense) pairs inside one residual block.
        linear: the output layer alone, without hidden layers.
        bend: β of the activation x σ(βx): 1 is SiLU, towards 0 the network becomes linear.
    """

    n_blocks: int = 1
    width: int = 64
    layers_per_block: int = 1
    linear: bool = False
    bend: float = 1.0

    @classmethod
    def from_list(cls, values: object, name: str) -> Self:
        """The shape ``[n_blocks, width, layers_per_block, linear, bend]``; the last may be missing.

        Raises:
            InputError: no list of one to five values, or an unusable value.
        """
        listed = values if isinstance(values, (list, tuple)) else ()
        require(1 <= len(listed) <= 5, name, values, "[n_blocks, width, layers, linear, bend]")
        return cls(*listed)

    def __post_init__(self) -> None:
        """Check the sizes."""
        require_types(self)
        require(self.n_blocks >= 0, "MLPShape.n_blocks", self.n_blocks, "0 or more")
        require(self.width >= 1, "MLPShape.width", self.width, "1 or more")
        require(self.layers_per_block >= 1, "layers_per_block", self.layers_per_block, "1 or more")
        require(self.bend > 0, "MLPShape.bend", self.bend, "positive")


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
        zbl_reach: where that repulsion ends. ``"covalent_radii"``: at the sum of the covalent
            radii, which bends bonds (files of before have it); ``"trained_distances"``: just below
            the shortest trained distance of the pair, and at that sum at most; new trainings have
            it.
        mean_neighbours: sums over neighbours are divided by it (smooth form); 0: by the smooth
            coordination of the atom, which ties what one bond gives to all other neighbours.
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
    zbl_reach: Literal["covalent_radii", "trained_distances"] = "covalent_radii"
    mean_neighbours: float = 0.0
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
        fits = self.mean_neighbours == 0 or self.mean_neighbours > 0 and self.form == "smooth"
        wanted = "0, or positive in the smooth form"
        require(fits, "mean_neighbours", self.mean_neighbours, wanted)
        wanted = "'covalent_radii' or 'trained_distances'"
        known = self.zbl_reach in ("covalent_radii", "trained_distances")
        require(known, "zbl_reach", self.zbl_reach, wanted)
        require(
            not (self.output_bias and self.form == "smooth"),
            "output_bias",
            True,
            "False in the smooth form, where an atom without neighbours has its reference energy",
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from plain values (JSON or TOML).

        An MLP shape is a list ``[n_blocks, width, layers_per_block, linear, bend]`` or a table.

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
