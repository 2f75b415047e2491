"""Triton functions: groups of K numbers of the states of edges, and of their gradients.

They stand in memory as they are, or as 16-bit whole numbers with one scale for each group.
"""

import triton
import triton.language as tl


@triton.jit
def load_state(ptr, scale_ptr, row, mask, q, STATE: tl.constexpr, K: tl.constexpr):
    """Group q (rows, K) of the states of rows, STATE numbers each."""
    place = ptr + row[:, None] * STATE + q * K + tl.arange(0, K)[None, :]
    x = tl.load(place, mask=mask[:, None], other=0)
    if ptr.dtype.element_ty == tl.int16:
        scale = tl.load(scale_ptr + row * (STATE // K) + q, mask=mask, other=0.0)
        x = x.to(scale.dtype) * scale[:, None]
    return x


@triton.jit
def store_state(ptr, scale_ptr, row, mask, q, x, STATE: tl.constexpr, K: tl.constexpr):
    """As ``load_state``; the largest number of a group keeps 16 bits."""
    place = ptr + row[:, None] * STATE + q * K + tl.arange(0, K)[None, :]
    if ptr.dtype.element_ty == tl.int16:
        largest = tl.max(tl.abs(x), 1) + 1e-30
        tl.store(scale_ptr + row * (STATE // K) + q, largest * (1.0 / 32767.0), mask=mask)
        shifted = (x * (32767.0 / largest)[:, None]).to(tl.float32) + 12582912.0  # 1.5 · 2²³
        tl.store(place, shifted.to(tl.int32, bitcast=True).to(tl.int16), mask=mask[:, None])
    else:
        tl.store(place, x, mask=mask[:, None])
