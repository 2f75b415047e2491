"""Triton kernels: a residual MLP of the edge states, and its derivative, a tile of edges at a time.

A network is one flat buffer: input layer (inputs, W), hidden layers (blocks · layers, W, W), output
layer (W, outputs), all channels padded with zeros; IN inputs and OUT outputs go through a product.
Where all of it fits into shared memory (RESIDENT), a program loads it once and takes the tiles pid,
pid + number of programs, …; numbers then go from product to product in registers. Else a program
takes one tile and loads each matrix where it is used. The derivative evaluates the network anew and
keeps the slopes of its SiLU on the chip.
"""

import triton
import triton.language as tl

from nemp_sim.kernels.triton_layers import (
    all_weights,
    hidden_back,
    hidden_layers,
    input_back,
    input_layer,
    output_back,
    output_layer,
    prefetch,
)


@triton.jit
def forward_tile(
    tile, ins, hidden, outs, pair_ptr, state_ptr, scale_ptr, w_ptr, low_ptr, out_ptr, first, n_rows,
    PAIR: tl.constexpr, STATE: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
    W: tl.constexpr, BLOCKS: tl.constexpr, LAYERS: tl.constexpr, MODE: tl.constexpr,
    MATH: tl.constexpr, RESIDENT: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """``mlp_forward`` of one tile."""
    LAST: tl.constexpr = (INPUTS + BLOCKS * LAYERS * W) * W
    row = tile.to(tl.int64) * TILE + tl.arange(0, TILE)
    mask = row < n_rows
    following = tile + tl.num_programs(0)
    prefetch(pair_ptr, following, n_rows, PAIR, TILE, MATH)
    prefetch(state_ptr + first.to(tl.int64) * STATE, following, n_rows, STATE, TILE, MATH)
    x = input_layer(
        pair_ptr, state_ptr, scale_ptr, first, row, mask, ins, w_ptr, low_ptr, PAIR, STATE,
        INPUTS, W, IN, MODE, RESIDENT,
    )  # fmt: skip
    y, _, _, _ = hidden_layers(
        x, hidden, w_ptr, low_ptr, INPUTS * W, BLOCKS, LAYERS, MODE, MATH, RESIDENT
    )
    output_layer(y, out_ptr, row, mask, outs, w_ptr, low_ptr, LAST, OUTPUTS, OUT, MODE, RESIDENT)


@triton.jit(do_not_specialize=["first", "n_rows"])
def mlp_forward(
    pair_ptr, state_ptr, scale_ptr, w_ptr, low_ptr, out_ptr, first, n_rows, PAIR: tl.constexpr,
    STATE: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, W: tl.constexpr,
    BLOCKS: tl.constexpr, LAYERS: tl.constexpr, MODE: tl.constexpr, MATH: tl.constexpr,
    RESIDENT: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Outputs (rows, OUTPUTS) of the edges from ``first`` on.

    Their states are ``pair_ptr`` (rows, PAIR), and of ``state_ptr`` (E, STATE) as many numbers as
    are missing to INPUTS; groups of IN have a scale each where they have 16 bits.
    """
    ins, hidden, outs = all_weights(
        w_ptr, low_ptr, INPUTS, OUTPUTS, W, BLOCKS * LAYERS, MODE, RESIDENT, IN, OUT
    )
    pid = tl.program_id(0)
    if RESIDENT:  # places in shared memory kept over the loop would need more than all registers
        tiles = tl.cdiv(n_rows, TILE)
        for tile in tl.range(pid, tiles, tl.num_programs(0), disable_licm=True):
            forward_tile(
                tile, ins, hidden, outs, pair_ptr, state_ptr, scale_ptr, w_ptr, low_ptr, out_ptr,
                first, n_rows, PAIR, STATE, INPUTS, OUTPUTS, W, BLOCKS, LAYERS, MODE, MATH,
                RESIDENT, IN, OUT, TILE,
            )  # fmt: skip
    else:
        forward_tile(
            pid, ins, hidden, outs, pair_ptr, state_ptr, scale_ptr, w_ptr, low_ptr, out_ptr,
            first, n_rows, PAIR, STATE, INPUTS, OUTPUTS, W, BLOCKS, LAYERS, MODE, MATH,
            RESIDENT, IN, OUT, TILE,
        )  # fmt: skip


@triton.jit
def gradient_tile(
    tile, ins, hidden, outs, pair_ptr, state_ptr, scale_ptr, w_ptr, low_ptr, grad_ptr, out_ptr,
    grad_pair_ptr, grad_last_ptr, grad_state_ptr, grad_scale_ptr, first, n_rows, PAIR: tl.constexpr,
    STATE: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, W: tl.constexpr,
    BLOCKS: tl.constexpr, LAYERS: tl.constexpr, ADD_PAIR: tl.constexpr, ADD: tl.constexpr,
    STORE: tl.constexpr, MODE: tl.constexpr, MATH: tl.constexpr, RESIDENT: tl.constexpr,
    IN: tl.constexpr, OUT: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """``mlp_gradient`` of one tile."""
    LAST: tl.constexpr = (INPUTS + BLOCKS * LAYERS * W) * W
    row = tile.to(tl.int64) * TILE + tl.arange(0, TILE)
    mask = row < n_rows
    x = input_layer(
        pair_ptr, state_ptr, scale_ptr, first, row, mask, ins, w_ptr, low_ptr, PAIR, STATE,
        INPUTS, W, IN, MODE, RESIDENT,
    )  # fmt: skip
    y, last, slopes, pairs = hidden_layers(
        x, hidden, w_ptr, low_ptr, INPUTS * W, BLOCKS, LAYERS, MODE, MATH, RESIDENT
    )
    if STORE:
        output_layer(
            y, out_ptr, row, mask, outs, w_ptr, low_ptr, LAST, OUTPUTS, OUT, MODE, RESIDENT
        )
    grad, scale = output_back(
        grad_ptr, row, mask, outs, w_ptr, low_ptr, LAST, W, OUTPUTS, OUT, MODE, RESIDENT
    )
    grad = hidden_back(
        grad * last, slopes, pairs, hidden, w_ptr, low_ptr, INPUTS * W, BLOCKS, LAYERS, MODE,
        RESIDENT,
    )  # fmt: skip
    input_back(
        grad, scale, first, row, mask, ins, w_ptr, low_ptr, grad_pair_ptr, grad_last_ptr,
        grad_state_ptr, grad_scale_ptr, PAIR, STATE, INPUTS, ADD_PAIR, ADD, IN, MODE, RESIDENT,
    )  # fmt: skip


@triton.jit(do_not_specialize=["first", "n_rows"])
def mlp_gradient(
    pair_ptr, state_ptr, scale_ptr, w_ptr, low_ptr, grad_ptr, out_ptr, grad_pair_ptr,
    grad_last_ptr, grad_state_ptr, grad_scale_ptr, first, n_rows, PAIR: tl.constexpr,
    STATE: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, W: tl.constexpr,
    BLOCKS: tl.constexpr, LAYERS: tl.constexpr, ADD_PAIR: tl.constexpr, ADD: tl.constexpr,
    STORE: tl.constexpr, MODE: tl.constexpr, MATH: tl.constexpr, RESIDENT: tl.constexpr,
    IN: tl.constexpr, OUT: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Gradient of the states from that of the outputs; where STORE, these again.

    That of the numbers in ``state_ptr`` is added where ADD, that of those in ``pair_ptr`` where
    ADD_PAIR; else they are set. ``grad_state_ptr`` (E, STATE − IN) holds those of all states but
    the last, whose gradient is (rows, IN) in ``grad_last_ptr``. For halves of float16 each edge's
    gradient is scaled by a power of two into their range.
    """
    ins, hidden, outs = all_weights(
        w_ptr, low_ptr, INPUTS, OUTPUTS, W, BLOCKS * LAYERS, MODE, RESIDENT, IN, OUT
    )
    pid = tl.program_id(0)
    if RESIDENT:
        tiles = tl.cdiv(n_rows, TILE)
        for tile in tl.range(pid, tiles, tl.num_programs(0), disable_licm=True):
            gradient_tile(
                tile, ins, hidden, outs, pair_ptr, state_ptr, scale_ptr, w_ptr, low_ptr, grad_ptr,
                out_ptr, grad_pair_ptr, grad_last_ptr, grad_state_ptr, grad_scale_ptr, first,
                n_rows, PAIR, STATE, INPUTS, OUTPUTS, W, BLOCKS, LAYERS, ADD_PAIR, ADD, STORE,
                MODE, MATH, RESIDENT, IN, OUT, TILE,
            )  # fmt: skip
    else:
        gradient_tile(
            pid, ins, hidden, outs, pair_ptr, state_ptr, scale_ptr, w_ptr, low_ptr, grad_ptr,
            out_ptr, grad_pair_ptr, grad_last_ptr, grad_state_ptr, grad_scale_ptr, first,
            n_rows, PAIR, STATE, INPUTS, OUTPUTS, W, BLOCKS, LAYERS, ADD_PAIR, ADD, STORE, MODE,
            MATH, RESIDENT, IN, OUT, TILE,
        )  # fmt: skip
