"""Triton functions: groups of K numbers of the states of edges, and of their gradients.

They stand in memory as they are, or as 16-bit whole numbers with one scale for each group, the
upper half of a float32 that was rounded up.
"""

import triton
import triton.language as tl


@triton.constexpr_function
def work_type(ptr):
    """Type of the sums of numbers in memory: float32 where these are float16."""
    kind = ptr.dtype.element_ty
    return tl.float32 if kind == tl.float16 else kind


@triton.jit
def load_state(ptr, scale_ptr, row, mask, q, STATE: tl.constexpr, K: tl.constexpr):
    """Group q (rows, K) of the states of rows, STATE numbers each."""
    place = ptr + row[:, None] * STATE + q * K + tl.arange(0, K)[None, :]
    x = tl.load(place, mask=mask[:, None], other=0)
    if ptr.dtype.element_ty == tl.int16:
        scale = tl.load(scale_ptr + row * (STATE // K) + q, mask=mask, other=0)
        x = x.to(tl.float32) * (scale.to(tl.int32) << 16).to(tl.float32, bitcast=True)[:, None]
    return x


@triton.jit
def store_state(ptr, scale_ptr, row, mask, q, x, STATE: tl.constexpr, K: tl.constexpr):
    """As ``load_state``; the largest number of a group keeps 16 bits."""
    place = ptr + row[:, None] * STATE + q * K + tl.arange(0, K)[None, :]
    if ptr.dtype.element_ty == tl.int16:
        largest = (tl.max(tl.abs(x), 1) + 1e-30).to(tl.float32) * (1.0 / 32767.0)
        upper = (largest.to(tl.int32, bitcast=True) + 0xFFFF) >> 16
        tl.store(scale_ptr + row * (STATE // K) + q, upper.to(tl.int16), mask=mask)
        scale = (upper << 16).to(tl.float32, bitcast=True)
        shifted = x.to(tl.float32) / scale[:, None] + 12582912.0  # 1.5 · 2²³
        tl.store(place, shifted.to(tl.int32, bitcast=True).to(tl.int16), mask=mask[:, None])
    else:
        tl.store(place, x, mask=mask[:, None])


@triton.jit
def load_gradient(
    ptr, scale_ptr, e, first, mask, q: tl.constexpr, STATE: tl.constexpr, K: tl.constexpr
):
    """Gradient of group q of the states of edges e, (E, STATE − K).

    That of the last group stands in ``ptr`` (rows, K), of the edges from ``first`` on alone.
    """
    if (q + 1) * K == STATE:
        x = load_state(ptr, ptr, e - first, mask, 0, K, K)
    else:
        x = load_state(ptr, scale_ptr, e, mask, q, STATE - K, K)
    return x
