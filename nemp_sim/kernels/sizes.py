"""Sizes of tensors inside the kernels."""


def padded_size(n: int) -> int:
    """The power of two, 16 or more, that holds ``n``: channels and widths in the kernels."""
    return max(16, 1 << (n - 1).bit_length())
