"""Triton kernels: a residual MLP of the edge states, forward and backward, a tile of edges each.

A network is one flat buffer: input layer (inputs, W), hidden layers (blocks · layers, W, W), output
layer (W, outputs); inputs and outputs are padded with zeros to multiples of COLUMNS. The forward
kernel leaves the slopes of all its SiLU in memory where the backward kernel is to follow, so that
neither holds more than a few tiles of numbers in registers.

Matrix products, by ``MODE``: "ieee" (float32 or float64 multiply-adds), "tf32x3", "tf32";
"bf16x3" and "fp16x3" (two halves of each number, three products, float32 sums); "bf16" and "fp16".
"""

import triton
import triton.language as tl

INPUT_COLUMNS = 32  # features of the edge state that go through one product
OUTPUT_COLUMNS = 32  # likewise of the outputs


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
    elif MODE == "bf16" or MODE == "fp16":
        out = tl.dot(x.to(w.dtype), w, out)
    else:
        out = tl.dot(x, w, out, input_precision=MODE, out_dtype=x.dtype)
    return out


@triton.jit
def exp2_approx(x):
    """2^x by the instruction alone: zero where it would be below 1e-38."""
    return tl.inline_asm_elementwise(
        "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
    )


@triton.jit
def reciprocal(x):
    """1/x by the instruction alone, to one unit of the last digit; zero above 8e37."""
    return tl.inline_asm_elementwise(
        "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
    )


@triton.jit
def tanh_approx(x):
    """Tanh by the instruction alone, to 5e-4."""
    return tl.inline_asm_elementwise(
        "tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
    )


@triton.jit
def silu(x, MATH: tl.constexpr):
    """SiLU x σ(x) and its slope σ(x) (1 + x (1 − σ(x))).

    ``MATH``: "plain"; "fast", the instructions of the GPU for 2^x and 1/x, to two units of the
    last digit of float32; "rough", that for tanh, to 3e-4.
    """
    if MATH == "rough":
        sigma = 0.5 + 0.5 * tanh_approx(0.5 * x)
    elif MATH == "fast":
        sigma = reciprocal(1.0 + exp2_approx(-1.4426950408889634 * x))
    else:
        sigma = 1.0 / (1.0 + tl.exp(-x))
    y = x * sigma
    return y, sigma + (y - y * sigma)


@triton.jit
def pack_slope(slope):
    """Slopes −0.1 … 1.1 of the SiLU as 16-bit whole numbers n, 54 600 to one: bits of 2²³ + n."""
    bits = (slope * 54600.0 + 8394068.0).to(tl.int32, bitcast=True)
    return bits.to(tl.int16)


@triton.jit
def unpack_slope(packed):
    """As ``pack_slope``, back."""
    bits = (packed.to(tl.int32) & 0xFFFF) | 0x4B000000
    return (bits.to(tl.float32, bitcast=True) - 8394068.0) * (1.0 / 54600.0)


@triton.jit
def store_slope(ptr, depth, row, mask, n_rows, slope, W: tl.constexpr):
    """Slopes (tile, W) of one layer; of 16 bits where the memory is."""
    place, there = columns_at(ptr, depth * n_rows + row, mask, 0, W, W, W)
    if ptr.dtype.element_ty == tl.int16:
        slope = pack_slope(slope)
    tl.store(place, slope, mask=there)


@triton.jit
def load_slope(ptr, depth, row, mask, n_rows, W: tl.constexpr):
    """As ``store_slope``."""
    place, there = columns_at(ptr, depth * n_rows + row, mask, 0, W, W, W)
    slope = tl.load(place, mask=there, other=0)
    if ptr.dtype.element_ty == tl.int16:
        slope = unpack_slope(slope)
    return slope


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
    MATH: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr, TILE: tl.constexpr,
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
            y, slope = silu(y, MATH)
            depth = b * LAYERS + layer
            if SAVE:
                store_slope(slope_ptr, depth, row, mask, n_rows, slope, W)
            base = IN_PADDED * W + depth * W * W
            y = matmul(y, w_ptr + base, low_ptr + base, zero, W, False, MODE)
        x = (x + y) * 0.7071067811865476
    y, slope = silu(x, MATH)
    if SAVE:
        store_slope(slope_ptr, BLOCKS * LAYERS, row, mask, n_rows, slope, W)
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
    MATH: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr, TILE: tl.constexpr,
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
    if MODE == "fp16x3" or MODE == "fp16":
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
    grad = grad * load_slope(slope_ptr, DEPTH, row, mask, n_rows, W)
    for b in tl.static_range(BLOCKS):
        grad = grad * 0.7071067811865476
        g = grad
        for layer in tl.static_range(LAYERS):
            depth = DEPTH - 1 - b * LAYERS - layer
            base = IN_PADDED * W + depth * W * W
            g = matmul(g, w_ptr + base, low_ptr + base, zero, W, True, MODE)
            g = g * load_slope(slope_ptr, depth, row, mask, n_rows, W)
        grad = grad + g
    for c in tl.static_range(0, IN_PADDED, IN):
        zero_in = tl.zeros([TILE, IN], grad.dtype)
        g = matmul(grad, w_ptr + c * W, low_ptr + c * W, zero_in, W, True, MODE)
        g = g / scale[:, None]
        place, there = columns_at(grad_state_ptr, first + row, mask, c, STATE, INPUTS, IN)
        if ADD:
            g += tl.load(place, mask=there, other=0.0)
        tl.store(place, g, mask=there)
