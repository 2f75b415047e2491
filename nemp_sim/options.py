"""Options of the command line that hold several words or numbers."""

from collections.abc import Callable
from typing import TypeVar

from nemp_sim.errors import InputError

Number = TypeVar("Number", int, float)


def words(text: str) -> tuple[str, ...]:
    """Words of an option such as "CO OH" or "CO,OH"."""
    return tuple(text.replace(",", " ").split())


def numbers(
    name: str, text: str | None, kind: Callable[[str], Number]
) -> tuple[Number, ...] | None:
    """Numbers of an option such as "200 300" or "200,300"; None stays None.

    Raises:
        InputError: something else.
    """
    if text is None:
        return None
    try:
        return tuple(kind(word) for word in words(text))
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        option = name.replace("_", "-")
        raise InputError(
            f"{name} is {text!r}, but must be {what}, as in --{option} '2 3'."
        ) from None
