"""Sizes of tensors inside the kernels, and what runs them."""

import os

PROGRAMS = 8192  # of the kernels of atoms, at most; each goes on to further atoms
FEW_ATOMS = 2048  # up to so many a program of four warps for each leaves room on a GPU


def padded_size(n: int) -> int:
    """The power of two, 16 or more, that holds ``n``: channels and widths in the kernels."""
    return max(16, 1 << (n - 1).bit_length())


def edges_at_once(are_few: bool) -> dict[str, int]:
    """Edges of an atom that a program takes at once, and its warps: many where atoms are few."""
    return {"BLOCK": 128, "num_warps": 4} if are_few else {"BLOCK": 32, "num_warps": 1}


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on the CPU (tests)."""
    return os.environ.get("TRITON_INTERPRET") == "1"
