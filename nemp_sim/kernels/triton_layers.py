"""Triton functions: layers of a residual MLP for a tile of edges, forward and backward.

Matrix products, by ``MODE``: "ieee" (float32 or float64 multiply-adds), "tf32x3", "tf32";
"bf16x3" and "fp16x3" (two halves of each number, three products, float32 sums); "bf16" and "fp16".
Matrices are those kept in shared memory where RESIDENT, else loaded where they are used.
"""

import triton
import triton.language as tl

from nemp_sim.kernels.triton_state import load_state, store_state, work_type


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
def prefetch(ptr, tile, n_rows, COLUMNS: tl.constexpr, TILE: tl.constexpr, MATH: tl.constexpr):
    """Ask for the rows of a tile of (n_rows, COLUMNS) to come to the L2 cache, a line a thread."""
    LINE: tl.constexpr = 1024 // ptr.dtype.element_ty.primitive_bitwidth
    if MATH != "plain":  # the interpreter knows no instructions of the GPU
        last = n_rows.to(tl.int64) * COLUMNS - 1
        for q in tl.static_range((TILE * COLUMNS + 128 * LINE - 1) // (128 * LINE)):
            place = tile.to(tl.int64) * TILE * COLUMNS + (q * 128 + tl.arange(0, 128)) * LINE
            tl.inline_asm_elementwise(
                "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l",
                [(ptr + tl.minimum(place, last)).to(tl.int64)], dtype=tl.int32, is_pure=False,
                pack=1,
            )  # fmt: skip


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
def low_halves(a, b):
    """Low 16 bits of a, and of b above them, by an instruction the compiler does not see through.

    It would keep a and b instead, in twice the registers.
    """
    return tl.inline_asm_elementwise(
        "prmt.b32 $0, $1, $2, 0x5410;", "=r,r,r", [a, b], dtype=tl.uint32, is_pure=True, pack=1
    )


@triton.jit
def pack_slopes(a, b, MATH: tl.constexpr):
    """Two slopes −0.1 … 1.1 of the SiLU as 16-bit whole numbers, 54 600 to one, in one number."""
    a = (a * 54600.0 + 8394068.0).to(tl.uint32, bitcast=True)  # bits of 2²³ + n
    b = (b * 54600.0 + 8394068.0).to(tl.uint32, bitcast=True)
    if MATH == "plain":
        packed = (a & 0xFFFF) | (b << 16)
    else:
        packed = low_halves(a, b)
    return packed


@triton.jit
def unpack_slope(packed, SECOND: tl.constexpr):
    """As ``pack_slopes``, back."""
    bits = (packed >> 16) if SECOND else (packed & 0xFFFF)
    return ((bits | 0x4B000000).to(tl.float32, bitcast=True) - 8394068.0) * (1.0 / 54600.0)


@triton.jit
def matrix(
    w_ptr, low_ptr, base, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STRIDE: tl.constexpr,
    MODE: tl.constexpr,
):  # fmt: skip
    """A matrix from place ``base`` on, rows ``STRIDE`` apart; its two halves where MODE has two."""
    place = base + tl.arange(0, ROWS)[:, None] * STRIDE + tl.arange(0, COLUMNS)[None, :]
    high = tl.load(w_ptr + place)
    low = tl.load(low_ptr + place) if MODE == "bf16x3" or MODE == "fp16x3" else high
    return high, low


@triton.jit
def product(x, w, out, TRANSPOSED: tl.constexpr, MODE: tl.constexpr):
    """Give out + x @ W, W of ``matrix``; out + x @ Wᵀ where TRANSPOSED."""
    high, low = w
    if TRANSPOSED:
        high = tl.trans(high)
        low = tl.trans(low)
    if MODE == "bf16x3" or MODE == "fp16x3":
        x_high = x.to(high.dtype)
        x_low = (x - x_high.to(x.dtype)).to(high.dtype)
        out = tl.dot(x_low, high, out)
        out = tl.dot(x_high, low, out)
        out = tl.dot(x_high, high, out)
    elif MODE == "bf16" or MODE == "fp16":
        out = tl.dot(x.to(high.dtype), high, out)
    else:
        out = tl.dot(x, high, out, input_precision=MODE, out_dtype=x.dtype)
    return out


@triton.jit
def matrices(
    w_ptr, low_ptr, base, COUNT: tl.constexpr, STEP: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, STRIDE: tl.constexpr, MODE: tl.constexpr,
):  # fmt: skip
    """COUNT matrices, STEP apart."""
    out = ()
    for n in tl.static_range(COUNT):
        out = out + (matrix(w_ptr, low_ptr, base + n * STEP, ROWS, COLUMNS, STRIDE, MODE),)
    return out


@triton.jit
def weight(
    kept, n: tl.constexpr, w_ptr, low_ptr, at, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    STRIDE: tl.constexpr, MODE: tl.constexpr, RESIDENT: tl.constexpr,
):  # fmt: skip
    """Matrix n of those kept, or the one from place ``at`` on."""
    if RESIDENT:
        high, low = kept[n]
    else:
        high, low = matrix(w_ptr, low_ptr, at, ROWS, COLUMNS, STRIDE, MODE)
    return high, low


@triton.jit
def input_layer(
    pair_ptr, state_ptr, scale_ptr, first, row, mask, kept, w_ptr, low_ptr, PAIR: tl.constexpr,
    STATE: tl.constexpr, INPUTS: tl.constexpr, W: tl.constexpr, IN: tl.constexpr,
    MODE: tl.constexpr, RESIDENT: tl.constexpr,
):  # fmt: skip
    """Input layer of the edge states; all of them are loaded before the first product."""
    features = ()
    for c in tl.static_range(INPUTS // IN):
        if c * IN < PAIR:
            h = load_state(pair_ptr, pair_ptr, row, mask, c, PAIR, IN)
        else:
            h = load_state(state_ptr, scale_ptr, first + row, mask, c - PAIR // IN, STATE, IN)
        features = features + (h,)
    x = tl.zeros([row.shape[0], W], work_type(pair_ptr))
    for c in tl.static_range(INPUTS // IN):
        w = weight(kept, c, w_ptr, low_ptr, c * IN * W, IN, W, W, MODE, RESIDENT)
        x = product(features[c], w, x, False, MODE)
    return x


@triton.jit
def hidden_layers(
    x, kept, w_ptr, low_ptr, base, BLOCKS: tl.constexpr, LAYERS: tl.constexpr, MODE: tl.constexpr,
    MATH: tl.constexpr, RESIDENT: tl.constexpr,
):  # fmt: skip
    """SiLU of the last residual block and its slope; slopes of the blocks, in pairs of 16 bits.

    Those of MODE "ieee", and the last of an odd number, are not paired.
    """
    W: tl.constexpr = x.shape[1]
    zero = tl.zeros_like(x)
    slopes = ()  # of the layers since the last pair
    pairs = ()
    for b in tl.static_range(BLOCKS):
        y = x
        for layer in tl.static_range(LAYERS):
            y, slope = silu(y, MATH)
            slopes = slopes + (slope,)
            if MODE != "ieee" and (b * LAYERS + layer) % 2 == 1:
                pairs = pairs + (pack_slopes(slopes[0], slopes[1], MATH),)
                slopes = ()
            at = base + (b * LAYERS + layer) * W * W
            w = weight(kept, b * LAYERS + layer, w_ptr, low_ptr, at, W, W, W, MODE, RESIDENT)
            y = product(y, w, zero, False, MODE)
        x = (x + y) * 0.7071067811865476
    y, last = silu(x, MATH)
    return y, last, slopes, pairs


@triton.jit
def slope_of(slopes, pairs, n: tl.constexpr, DEPTH: tl.constexpr, MODE: tl.constexpr):
    """Slope of layer n of ``hidden_layers``."""
    if MODE == "ieee":
        slope = slopes[n]
    elif DEPTH % 2 == 1 and n == DEPTH - 1:
        slope = slopes[0]
    else:
        slope = unpack_slope(pairs[n // 2], n % 2 == 1)
    return slope


@triton.jit
def hidden_back(
    grad, slopes, pairs, kept, w_ptr, low_ptr, base, BLOCKS: tl.constexpr, LAYERS: tl.constexpr,
    MODE: tl.constexpr, RESIDENT: tl.constexpr,
):  # fmt: skip
    """Gradient of x of ``hidden_layers`` from that of the last x."""
    W: tl.constexpr = grad.shape[1]
    DEPTH: tl.constexpr = BLOCKS * LAYERS
    zero = tl.zeros_like(grad)
    for b in tl.static_range(BLOCKS):
        grad = grad * 0.7071067811865476
        g = grad
        for layer in tl.static_range(LAYERS):
            at = base + (DEPTH - 1 - b * LAYERS - layer) * W * W
            w = weight(
                kept, DEPTH - 1 - b * LAYERS - layer, w_ptr, low_ptr, at, W, W, W, MODE, RESIDENT
            )
            g = product(g, w, zero, True, MODE)
            g = g * slope_of(slopes, pairs, DEPTH - 1 - b * LAYERS - layer, DEPTH, MODE)
        grad = grad + g
    return grad


@triton.jit
def output_layer(
    y, out_ptr, row, mask, kept, w_ptr, low_ptr, base, OUTPUTS: tl.constexpr, OUT: tl.constexpr,
    MODE: tl.constexpr, RESIDENT: tl.constexpr,
):  # fmt: skip
    """Store the outputs (rows, OUTPUTS)."""
    for c in tl.static_range(OUTPUTS // OUT):
        w = weight(
            kept, c, w_ptr, low_ptr, base + c * OUT, y.shape[1], OUT, OUTPUTS, MODE, RESIDENT
        )
        out = product(y, w, tl.zeros([y.shape[0], OUT], y.dtype), False, MODE)
        place = out_ptr + row[:, None] * OUTPUTS + c * OUT + tl.arange(0, OUT)[None, :]
        tl.store(place, out, mask=mask[:, None])


@triton.jit
def output_back(
    grad_ptr, row, mask, kept, w_ptr, low_ptr, base, W: tl.constexpr, OUTPUTS: tl.constexpr,
    OUT: tl.constexpr, MODE: tl.constexpr, RESIDENT: tl.constexpr,
):  # fmt: skip
    """Gradient of y of ``output_layer`` from that of the outputs, and the scale of each row.

    For halves of float16 a row is scaled by the power of two that brings its largest gradient into
    1 … 2. All blocks are asked for before the first is used.
    """
    grads = ()
    for c in tl.static_range(OUTPUTS // OUT):
        place = grad_ptr + row[:, None] * OUTPUTS + c * OUT + tl.arange(0, OUT)[None, :]
        grads = grads + (tl.load(place, mask=mask[:, None], other=0.0),)
    scale = tl.zeros([row.shape[0]], work_type(grad_ptr)) + 1.0
    if MODE == "fp16x3" or MODE == "fp16":
        largest = scale * 1e-30
        for c in tl.static_range(OUTPUTS // OUT):
            largest = tl.maximum(largest, tl.max(tl.abs(grads[c]), 1).to(scale.dtype))
        scale = tl.exp2(-tl.floor(tl.log2(largest)))
    grad = tl.zeros([row.shape[0], W], work_type(grad_ptr))
    for c in tl.static_range(OUTPUTS // OUT):
        w = weight(kept, c, w_ptr, low_ptr, base + c * OUT, W, OUT, OUTPUTS, MODE, RESIDENT)
        grad = product(grads[c] * scale[:, None], w, grad, True, MODE)
    return grad, scale


@triton.jit
def all_weights(
    w_ptr, low_ptr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, W: tl.constexpr,
    DEPTH: tl.constexpr, MODE: tl.constexpr, RESIDENT: tl.constexpr, IN: tl.constexpr,
    OUT: tl.constexpr,
):  # fmt: skip
    """Matrices of the input, hidden and output layers, where they are RESIDENT."""
    ins = ()
    hidden = ()
    outs = ()
    if RESIDENT:
        ins = matrices(w_ptr, low_ptr, 0, INPUTS // IN, IN * W, IN, W, W, MODE)
        hidden = matrices(w_ptr, low_ptr, INPUTS * W, DEPTH, W * W, W, W, W, MODE)
        base = (INPUTS + DEPTH * W) * W
        outs = matrices(w_ptr, low_ptr, base, OUTPUTS // OUT, OUT, W, OUT, OUTPUTS, MODE)
    return ins, hidden, outs


@triton.jit
def input_back(
    grad, scale, first, row, mask, kept, w_ptr, low_ptr, grad_pair_ptr, grad_last_ptr,
    grad_state_ptr, grad_scale_ptr, PAIR: tl.constexpr, STATE: tl.constexpr, INPUTS: tl.constexpr,
    ADD_PAIR: tl.constexpr, ADD: tl.constexpr, IN: tl.constexpr, MODE: tl.constexpr,
    RESIDENT: tl.constexpr,
):  # fmt: skip
    """Set or add the gradients of the states from that of the input layer's result.

    That of the last state of all is (rows, IN) in ``grad_last_ptr``.
    """
    W: tl.constexpr = grad.shape[1]
    REST: tl.constexpr = STATE - IN
    e = first + row
    olds = ()  # asked for before the first product
    for c in tl.static_range(INPUTS // IN):
        old = tl.zeros([grad.shape[0], IN], grad.dtype)
        if c * IN < PAIR:
            if ADD_PAIR:
                old = load_state(grad_pair_ptr, grad_pair_ptr, row, mask, c, PAIR, IN)
        elif ADD and c * IN - PAIR == REST:
            old = load_state(grad_last_ptr, grad_last_ptr, row, mask, 0, IN, IN)
        elif ADD:
            old = load_state(grad_state_ptr, grad_scale_ptr, e, mask, c - PAIR // IN, REST, IN)
        olds = olds + (old,)
    for c in tl.static_range(INPUTS // IN):
        w = weight(kept, c, w_ptr, low_ptr, c * IN * W, IN, W, W, MODE, RESIDENT)
        zero = tl.zeros([grad.shape[0], IN], grad.dtype)
        g = olds[c] + product(grad, w, zero, True, MODE) / scale[:, None]
        if c * IN < PAIR:
            store_state(grad_pair_ptr, grad_pair_ptr, row, mask, c, g, PAIR, IN)
        elif c * IN - PAIR == REST:
            store_state(grad_last_ptr, grad_last_ptr, row, mask, 0, g, IN, IN)
        else:
            store_state(grad_state_ptr, grad_scale_ptr, e, mask, c - PAIR // IN, g, REST, IN)
