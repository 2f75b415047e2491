"""Triton kernels: a residual MLP of the edge states, forward and backward, a tile of edges each.

A network is one flat buffer: input layer (inputs, W), hidden layers (blocks · layers, W, W), output
layer (W, outputs); inputs and outputs are padded with zeros to multiples of COLUMNS. The forward
kernel leaves the slopes of all its SiLU in memory where the backward kernel is to follow, so that
neither holds more than a few tiles of numbers in registers.

Matrix products, by ``MODE``: "ieee" (float32 or float64 multiply-adds), "tf32x3", "tf32";
"bf16x3" and "fp16x3" (two halves of each number, three products, float32 sums); "bf16".
"""

import triton
import triton.language as tl

INPUT_COLUMNS = 32  # features of the edge state that go through one product
OUTPUT_COLUMNS = 64  # likewise of the outputs


@triton.jit
def split_dot(x, high, low, out, DTYPE: tl.constexpr):
    """Give out + x @ (high + low) from three products of halves."""
    x_high = x.to(DTYPE)
    x_low = (x - x_high.to(x.dtype)).to(DTYPE)
    out = tl.dot(x_low, high, out)
    out = tl.dot(x_high, low, out)
    return tl.dot(x_high, high, out)


@triton.jit
def matmul(
    x,
    w_ptr,
    low_ptr,
    out,
    STRIDE: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    MODE: tl.constexpr,
):
    """Give out + x @ W, W of rows ``STRIDE`` apart; out + x @ Wᵀ where TRANSPOSED."""
    ROWS: tl.constexpr = out.shape[1] if TRANSPOSED else x.shape[1]
    COLUMNS: tl.constexpr = x.shape[1] if TRANSPOSED else out.shape[1]
    place = tl.arange(0, ROWS)[:, None] * STRIDE + tl.arange(0, COLUMNS)[None, :]
    w = tl.load(w_ptr + place)
    if TRANSPOSED:
        w = tl.trans(w)
    if MODE == "bf16x3" or MODE == "fp16x3":
        low = tl.load(low_ptr + place)
        if TRANSPOSED:
            low = tl.trans(low)
        out = split_dot(x, w, low, out, w.dtype)
    elif MODE == "bf16":
        out = tl.dot(x.to(tl.bfloat16), w, out)
    else:
        out = tl.dot(x, w, out, input_precision=MODE, out_dtype=x.dtype)
    return out


@triton.jit
def silu(x):
    """SiLU x σ(x) and its slope σ(x) (1 + x (1 − σ(x)))."""
    sigma = 1.0 / (1.0 + tl.exp(-x))
    return x * sigma, sigma * (1.0 + x * (1.0 - sigma))


@triton.jit
def columns_at(ptr, row, mask, first, STRIDE: tl.constexpr, END: tl.constexpr, N: tl.constexpr):
    """Places and mask of columns first … first + N of the rows, as far as END."""
    column = first + tl.arange(0, N)[None, :]
    return ptr + row[:, None] * STRIDE + column, mask[:, None] & (column < END)


@triton.jit(do_not_specialize=["first", "n_rows"])
def mlp_forward(
    state_ptr, w_ptr, low_ptr, out_ptr, slope_ptr, first, n_rows,
    STATE: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, W: tl.constexpr,
    BLOCKS: tl.constexpr, LAYERS: tl.constexpr, SAVE: tl.constexpr, MODE: tl.constexpr,
    IN: tl.constexpr, OUT: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Outputs (rows, OUTPUTS) of the edge states first, first + 1 …, rows of STATE numbers.

    ``slope_ptr``: (blocks · layers + 1, rows, W) the slopes of the SiLU, where SAVE.
    """
    row = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    mask = row < n_rows
    IN_PADDED: tl.constexpr = (INPUTS + IN - 1) // IN * IN
    OUT_PADDED: tl.constexpr = (OUTPUTS + OUT - 1) // OUT * OUT
    x = tl.zeros([TILE, W], state_ptr.dtype.element_ty)
    for c in tl.static_range(0, IN_PADDED, IN):
        place, there = columns_at(state_ptr, first + row, mask, c, STATE, INPUTS, IN)
        h = tl.load(place, mask=there, other=0.0)
        x = matmul(h, w_ptr + c * W, low_ptr + c * W, x, W, False, MODE)
    zero = tl.zeros_like(x)
    for b in tl.static_range(BLOCKS):
        y = x
        for layer in tl.static_range(LAYERS):
            y, slope = silu(y)
            depth = b * LAYERS + layer
            if SAVE:
                place, there = columns_at(slope_ptr, depth * n_rows + row, mask, 0, W, W, W)
                tl.store(place, slope, mask=there)
            base = IN_PADDED * W + depth * W * W
            y = matmul(y, w_ptr + base, low_ptr + base, zero, W, False, MODE)
        x = (x + y) * 0.7071067811865476
    y, slope = silu(x)
    if SAVE:
        depth = BLOCKS * LAYERS
        place, there = columns_at(slope_ptr, depth * n_rows + row, mask, 0, W, W, W)
        tl.store(place, slope, mask=there)
    for c in tl.static_range(0, OUT_PADDED, OUT):
        base = IN_PADDED * W + BLOCKS * LAYERS * W * W + c
        zero_out = tl.zeros([TILE, OUT], x.dtype)
        out = matmul(y, w_ptr + base, low_ptr + base, zero_out, OUT_PADDED, False, MODE)
        place, there = columns_at(out_ptr, row, mask, c, OUTPUTS, OUTPUTS, OUT)
        tl.store(place, out, mask=there)


@triton.jit(do_not_specialize=["first", "n_rows"])
def mlp_backward(
    grad_ptr, w_ptr, low_ptr, slope_ptr, grad_state_ptr, first, n_rows,
    STATE: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, W: tl.constexpr,
    BLOCKS: tl.constexpr, LAYERS: tl.constexpr, ADD: tl.constexpr, MODE: tl.constexpr,
    IN: tl.constexpr, OUT: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Set the gradient of the edge states from that of the outputs; add to it where ADD.

    For fp16x3 each edge's gradient is scaled by a power of two into the range of float16.
    """
    row = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    mask = row < n_rows
    IN_PADDED: tl.constexpr = (INPUTS + IN - 1) // IN * IN
    OUT_PADDED: tl.constexpr = (OUTPUTS + OUT - 1) // OUT * OUT
    DEPTH: tl.constexpr = BLOCKS * LAYERS
    largest = tl.zeros([TILE], grad_ptr.dtype.element_ty) + 1e-30
    if MODE == "fp16x3":
        for c in range(0, OUT_PADDED, OUT):  # not unrolled: it would hold all blocks in registers
            place, there = columns_at(grad_ptr, row, mask, c, OUTPUTS, OUTPUTS, OUT)
            g = tl.load(place, mask=there, other=0.0)
            largest = tl.maximum(largest, tl.max(tl.abs(g), 1))
        scale = tl.exp2(-tl.floor(tl.log2(largest)))
    else:
        scale = tl.zeros_like(largest) + 1.0
    grad = tl.zeros([TILE, W], grad_ptr.dtype.element_ty)
    zero = tl.zeros_like(grad)
    for c in tl.static_range(0, OUT_PADDED, OUT):
        place, there = columns_at(grad_ptr, row, mask, c, OUTPUTS, OUTPUTS, OUT)
        g = tl.load(place, mask=there, other=0.0) * scale[:, None]
        base = IN_PADDED * W + DEPTH * W * W + c
        grad = matmul(g, w_ptr + base, low_ptr + base, grad, OUT_PADDED, True, MODE)
    place, there = columns_at(slope_ptr, DEPTH * n_rows + row, mask, 0, W, W, W)
    grad = grad * tl.load(place, mask=there, other=0.0)
    for b in tl.static_range(BLOCKS):
        grad = grad * 0.7071067811865476
        g = grad
        for layer in tl.static_range(LAYERS):
            depth = DEPTH - 1 - b * LAYERS - layer
            base = IN_PADDED * W + depth * W * W
            g = matmul(g, w_ptr + base, low_ptr + base, zero, W, True, MODE)
            place, there = columns_at(slope_ptr, depth * n_rows + row, mask, 0, W, W, W)
            g = g * tl.load(place, mask=there, other=0.0)
        grad = grad + g
    for c in tl.static_range(0, IN_PADDED, IN):
        zero_in = tl.zeros([TILE, IN], grad.dtype)
        g = matmul(grad, w_ptr + c * W, low_ptr + c * W, zero_in, W, True, MODE)
        g = g / scale[:, None]
        place, there = columns_at(grad_state_ptr, first + row, mask, c, STATE, INPUTS, IN)
        if ADD:
            g += tl.load(place, mask=there, other=0.0)
        tl.store(place, g, mask=there)
