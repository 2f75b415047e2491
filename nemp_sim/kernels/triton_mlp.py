"""Triton functions: the residual MLPs of a tile of edges, forward and backward, kept on chip.

A network is one flat buffer: input layers (Q, K, W) for the Q parts of the edge state, hidden
layers (blocks · layers, W, W), output rows (R, parts, width, K). A linear network has output rows
alone, with one part for each part of the edge state. Everything is padded with zeros to powers of
two, which changes no result.

Matrix products, by ``MODE``: "ieee" (float32 or float64 multiply-adds), "tf32x3", "tf32";
"bf16x3" and "fp16x3" (two halves of each number, three products, float32 sums); "bf16".
"""

import triton
import triton.language as tl

# Gradients are small numbers: scaled up, their float16 halves keep their digits.
GRADIENT_SCALE = tl.constexpr(256.0)


@triton.jit
def silu(x):
    """SiLU: x σ(x)."""
    return x / (1.0 + tl.exp(-x))


@triton.jit
def silu_slope(x):
    """σ(x) (1 + x (1 − σ(x))).

    Not from the exponential of ``silu``: the compiler would keep that one in registers, from the
    forward pass to the backward.
    """
    small = tl.exp(-tl.abs(x))
    sigma = tl.where(x > 0, 1.0, small) / (1.0 + small)
    return sigma * (1.0 + x * (1.0 - sigma))


@triton.jit
def split_dot(x, high, low, DTYPE: tl.constexpr):
    """Product x @ (high + low) from three products of halves."""
    x_high = x.to(DTYPE)
    x_low = (x - x_high.to(x.dtype)).to(DTYPE)
    product = tl.dot(x_low, high)
    product = tl.dot(x_high, low, product)
    return tl.dot(x_high, high, product)


@triton.jit
def matmul(
    x,
    w_ptr,
    low_ptr,
    base,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    MODE: tl.constexpr,
):
    """Product x @ W, W (ROWS, COLUMNS) stored at ``base``; x @ Wᵀ where TRANSPOSED."""
    rows = tl.arange(0, ROWS)[:, None]
    columns = tl.arange(0, COLUMNS)[None, :]
    place = base + rows * COLUMNS + columns
    w = tl.load(w_ptr + place)
    if TRANSPOSED:
        w = tl.trans(w)
    if MODE == "bf16x3" or MODE == "fp16x3":
        low = tl.load(low_ptr + place)
        if TRANSPOSED:
            low = tl.trans(low)
        if MODE == "bf16x3":
            out = split_dot(x, w, low, tl.bfloat16)
        elif TRANSPOSED:
            out = split_dot(x * GRADIENT_SCALE, w, low, tl.float16) * (1.0 / GRADIENT_SCALE)
        else:
            out = split_dot(x, w, low, tl.float16)
    elif MODE == "bf16":
        out = tl.dot(x.to(tl.bfloat16), w)
    else:
        out = tl.dot(x, w, input_precision=MODE, out_dtype=x.dtype)
    return out


@triton.jit
def mlp_saved(
    h,
    w_ptr,
    low_ptr,
    Q: tl.constexpr,
    K: tl.constexpr,
    W: tl.constexpr,
    BLOCKS: tl.constexpr,
    LAYERS: tl.constexpr,
    MODE: tl.constexpr,
):
    """Inputs of all SiLU: of each layer of each block in turn, then of the output layer.

    A linear network (W = 0) gives the parts of its input.
    """
    if W == 0:
        saved = h
    else:
        x = matmul(h[0], w_ptr, low_ptr, 0, K, W, False, MODE)
        for q in tl.static_range(1, Q):
            x += matmul(h[q], w_ptr, low_ptr, q * K * W, K, W, False, MODE)
        saved = ()
        for b in tl.static_range(BLOCKS):
            y = x
            for layer in tl.static_range(LAYERS):
                saved = saved + (y,)
                base = Q * K * W + (b * LAYERS + layer) * W * W
                y = matmul(silu(y), w_ptr, low_ptr, base, W, W, False, MODE)
            x = (x + y) * 0.7071067811865476
        saved = saved + (x,)
    return saved


@triton.jit
def mlp_hidden(saved, W: tl.constexpr, BLOCKS: tl.constexpr, LAYERS: tl.constexpr):
    """Parts of the input of the output layer."""
    if W == 0:
        hidden = saved
    else:
        hidden = (silu(saved[BLOCKS * LAYERS]),)
    return hidden


@triton.jit
def mlp_row(
    hidden,
    row,
    w_ptr,
    low_ptr,
    Q: tl.constexpr,
    K: tl.constexpr,
    W: tl.constexpr,
    DEPTH: tl.constexpr,
    MODE: tl.constexpr,
):
    """Output row ``row`` (edges, K); DEPTH = blocks · layers."""
    if W == 0:
        out = matmul(hidden[0], w_ptr, low_ptr, row * Q * K * K, K, K, False, MODE)
        for q in tl.static_range(1, Q):
            out += matmul(hidden[q], w_ptr, low_ptr, (row * Q + q) * K * K, K, K, False, MODE)
    else:
        base = Q * K * W + DEPTH * W * W + row * W * K
        out = matmul(hidden[0], w_ptr, low_ptr, base, W, K, False, MODE)
    return out


@triton.jit
def mlp_row_back(
    grad_hidden,
    grad,
    row,
    w_ptr,
    low_ptr,
    Q: tl.constexpr,
    K: tl.constexpr,
    W: tl.constexpr,
    DEPTH: tl.constexpr,
    MODE: tl.constexpr,
):
    """``grad_hidden`` with the share of output row ``row``, whose gradient is ``grad``."""
    if W == 0:
        out = ()
        for q in tl.static_range(Q):
            base = (row * Q + q) * K * K
            out = out + (grad_hidden[q] + matmul(grad, w_ptr, low_ptr, base, K, K, True, MODE),)
    else:
        base = Q * K * W + DEPTH * W * W + row * W * K
        out = (grad_hidden[0] + matmul(grad, w_ptr, low_ptr, base, W, K, True, MODE),)
    return out


@triton.jit
def mlp_zero_grad(x, Q: tl.constexpr, W: tl.constexpr):
    """Zero gradients of the parts of the input of the output layer."""
    if W == 0:
        out = (tl.zeros_like(x),)
        for _ in tl.static_range(1, Q):
            out = out + (tl.zeros_like(x),)
    else:
        out = (tl.zeros([x.shape[0], W], x.dtype),)
    return out


@triton.jit
def mlp_back(
    grad_hidden,
    saved,
    w_ptr,
    low_ptr,
    Q: tl.constexpr,
    K: tl.constexpr,
    W: tl.constexpr,
    BLOCKS: tl.constexpr,
    LAYERS: tl.constexpr,
    MODE: tl.constexpr,
):
    """Gradients of the Q parts of the edge state, each (edges, K)."""
    if W == 0:
        out = grad_hidden
    else:
        DEPTH: tl.constexpr = BLOCKS * LAYERS
        grad = grad_hidden[0] * silu_slope(saved[DEPTH])
        for back in tl.static_range(BLOCKS):
            grad = grad * 0.7071067811865476
            g = grad
            for layer_back in tl.static_range(LAYERS):
                base = Q * K * W + (DEPTH - 1 - back * LAYERS - layer_back) * W * W
                g = matmul(g, w_ptr, low_ptr, base, W, W, True, MODE)
                g = g * silu_slope(saved[DEPTH - 1 - back * LAYERS - layer_back])
            grad = grad + g
        out = ()
        for q in tl.static_range(Q):
            out = out + (matmul(grad, w_ptr, low_ptr, q * K * W, K, W, True, MODE),)
    return out
