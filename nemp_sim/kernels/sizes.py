"""Sizes of tensors inside the kernels, and what runs them."""

import os


def padded_size(n: int) -> int:
    """The power of two, 16 or more, that holds ``n``: channels and widths in the kernels."""
    return max(16, 1 << (n - 1).bit_length())


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on the CPU (tests)."""
    return os.environ.get("TRITON_INTERPRET") == "1"
