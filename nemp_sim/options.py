"""Settings as options: of the command line and of TOML files, from the fields of a dataclass."""

import inspect
import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from nemp_sim.config import check_keys, require
from nemp_sim.errors import InputError

Number = TypeVar("Number", int, float)
ACCEPTED = {  # TOML values of each kind, in words and in Python
    bool: ("true or false", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    str: ("text", (str,)),
    Path: ("a path", (str,)),
}


@dataclass(frozen=True)
class Option:
    """One field of a Settings class.

    Attributes:
        name: of the field.
        kind: bool, int, float, str or Path.
        several: whether it holds a tuple of them.
        default: of the field.
        text: what it is, from the docstring of its class.
        own: whether the class itself declares it, not one that it inherits from.
    """

    name: str
    kind: type
    several: bool
    default: Any
    text: str
    own: bool

    def from_text(self, text: Any) -> Any:  # noqa: ANN401 (what typer has made of the words)
        """The value of what was typed; several words in one text are taken apart.

        Raises:
            InputError: words where numbers are wanted.
        """
        if not self.several or self.kind is Path:
            return text
        return words(text) if self.kind is str else numbers(self.name, text, self.kind)

    def from_toml(self, value: object) -> Any:  # noqa: ANN401 (a value of the field)
        """The value of an entry of a TOML file.

        Raises:
            InputError: a value of another kind.
        """
        if not self.several:
            return self._one(value)
        if not isinstance(value, list):
            require(False, self.name, value, f"a list, each {ACCEPTED[self.kind][0]}")
            return None
        return tuple(map(self._one, value))

    def _one(self, value: object) -> Any:  # noqa: ANN401
        wanted, kinds = ACCEPTED[self.kind]
        good = isinstance(value, kinds) and (self.kind is bool or not isinstance(value, bool))
        require(good, self.name, value, wanted)
        return self.kind(value)


def options_of(settings: type) -> tuple[Option, ...]:
    """The options of a Settings class: those that it declares first, then inherited ones."""
    hints, texts = get_type_hints(settings), descriptions(settings)
    own = settings.__dict__.get("__annotations__", {})
    found = [_option(f, hints[f.name], texts.get(f.name, ""), own) for f in fields(settings)]
    return tuple(sorted(found, key=lambda option: not option.own))


def _option(field: Field, hint: Any, text: str, own: Mapping[str, object]) -> Option:  # noqa: ANN401
    if get_origin(hint) is UnionType:  # "X | None"
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    several = get_origin(hint) is tuple
    kind = get_args(hint)[0] if several else hint
    default = None if field.default is MISSING else field.default
    return Option(field.name, kind, several, default, text, field.name in own)


def descriptions(settings: type) -> dict[str, str]:
    """What the docstrings of a class and its bases say of each attribute, on one line."""
    found = {}
    for cls in reversed(settings.__mro__):
        _, _, entries = inspect.cleandoc(cls.__dict__.get("__doc__") or "").partition(
            "Attributes:\n"
        )
        for match in re.finditer(r"^    (\w+): (.*(?:\n        .*)*)", entries, re.MULTILINE):
            found[match[1]] = " ".join(match[2].split())
    return found


def read_settings(path: Path, settings: type) -> dict[str, Any]:
    """Values of the fields of a Settings class that a TOML file sets.

    Raises:
        InputError: no such file, no TOML, an unknown key, or a value of another kind.
    """
    return settings_values(read_toml(path), settings, str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file holds.

    Raises:
        InputError: no such file, or no TOML.
    """
    if not path.is_file():
        raise InputError(f"config is {str(path)!r}, but there is no such file. Check the path.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is no TOML file: {error}. Lines read: images = 9") from None


def settings_values(values: Mapping[str, object], settings: type, where: str) -> dict[str, Any]:
    """Values of the fields of a Settings class, from those of a TOML table.

    Raises:
        InputError: an unknown key, or a value of another kind; ``where`` says of which file.
    """
    check_keys(settings, values, where)
    options = {option.name: option for option in options_of(settings)}
    return {name: options[name].from_toml(value) for name, value in values.items()}


def to_toml(values: Mapping[str, Any]) -> str:
    """Plain values as TOML; what is None is left out, since TOML has no such value."""
    entries = {name: value for name, value in values.items() if value is not None}
    return "".join(f"{name} = {_toml(value)}\n" for name, value in entries.items())


def _toml(value: Any) -> str:  # noqa: ANN401 (a plain value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)  # the same as TOML for text, numbers and truth


def words(text: str) -> tuple[str, ...]:
    """Words of an option such as "CO OH" or "CO,OH"."""
    return tuple(text.replace(",", " ").split())


def numbers(name: str, text: str, kind: Callable[[str], Number]) -> tuple[Number, ...]:
    """Numbers of an option such as "200 300" or "200,300".

    Raises:
        InputError: something else.
    """
    try:
        return tuple(kind(word) for word in words(text))
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        option = name.replace("_", "-")
        raise InputError(
            f"{name} is {text!r}, but must be {what}, as in --{option} '2 3'."
        ) from None
