"""Triton kernels that keep the edges within the cutoff, in tensors of fixed sizes."""

import triton
import triton.language as tl


@triton.jit
def _is_near(
    position_ptr, cell_ptr, shift_ptr, neighbour_ptr, structure_ptr, square_ptr, i, e, mask
):  # fmt: skip
    """Whether the edges ``e`` of atom i are within the cutoff; in float64, alike both ways."""
    j = tl.load(neighbour_ptr + e, mask=mask, other=0)
    cell = cell_ptr + 9 * tl.load(structure_ptr + i)
    a = tl.load(shift_ptr + 3 * e, mask=mask, other=0.0)
    b = tl.load(shift_ptr + 3 * e + 1, mask=mask, other=0.0)
    c = tl.load(shift_ptr + 3 * e + 2, mask=mask, other=0.0)
    square = a * 0.0
    for axis in tl.static_range(3):
        x = tl.load(position_ptr + 3 * j + axis, mask=mask, other=0.0)
        x -= tl.load(position_ptr + 3 * i + axis)
        x += a * tl.load(cell + axis) + b * tl.load(cell + 3 + axis) + c * tl.load(cell + 6 + axis)
        square += x * x
    return mask & (square < tl.load(square_ptr))


@triton.jit(do_not_specialize=["n_atoms"])
def count_near(
    position_ptr, cell_ptr, shift_ptr, neighbour_ptr, structure_ptr, start_ptr, square_ptr,
    count_out, n_atoms, BLOCK: tl.constexpr,
):  # fmt: skip
    """Edges of each atom within the cutoff."""
    i = tl.program_id(0).to(tl.int64)
    while i < n_atoms:
        start = tl.load(start_ptr + i)
        end = tl.load(start_ptr + i + 1)
        count = tl.zeros([BLOCK], tl.int64)
        while start < end:
            e = start + tl.arange(0, BLOCK)
            count += _is_near(
                position_ptr, cell_ptr, shift_ptr, neighbour_ptr, structure_ptr, square_ptr, i, e,
                e < end,
            ).to(tl.int64)  # fmt: skip
            start += BLOCK
        tl.store(count_out + i, tl.sum(count, 0))
        i += tl.num_programs(0)


@triton.jit(do_not_specialize=["n_atoms", "size"])
def keep_near(
    position_ptr, cell_ptr, shift_ptr, neighbour_ptr, structure_ptr, start_ptr, square_ptr,
    first_ptr, centre_out, neighbour_out, shift_out, place_out, n_atoms, size, BLOCK: tl.constexpr,
):  # fmt: skip
    """The edges of each atom within the cutoff, from ``first`` on; where each went, −1 if left."""
    i = tl.program_id(0).to(tl.int64)
    while i < n_atoms:
        start = tl.load(start_ptr + i)
        end = tl.load(start_ptr + i + 1)
        first = tl.load(first_ptr + i)
        while start < end:
            e = start + tl.arange(0, BLOCK)
            near = _is_near(
                position_ptr, cell_ptr, shift_ptr, neighbour_ptr, structure_ptr, square_ptr, i, e,
                e < end,
            )  # fmt: skip
            number = near.to(tl.int64)
            place = first + tl.cumsum(number, 0) - 1
            tl.store(place_out + e, tl.where(near, place, -1), mask=e < end)
            fits = near & (place < size)
            tl.store(centre_out + place, i + tl.zeros_like(e), mask=fits)
            j = tl.load(neighbour_ptr + e, mask=fits, other=0)
            tl.store(neighbour_out + place, j, mask=fits)
            for axis in tl.static_range(3):
                shift = tl.load(shift_ptr + 3 * e + axis, mask=fits, other=0.0)
                tl.store(shift_out + 3 * place + axis, shift, mask=fits)
            first += tl.sum(number, 0)
            start += BLOCK
        i += tl.num_programs(0)


@triton.jit(do_not_specialize=["n_atoms", "size"])
def keep_order(
    order_ptr, start_ptr, first_ptr, place_ptr, order_out, n_atoms, size, BLOCK: tl.constexpr
):  # fmt: skip
    """Of the edges sorted by neighbour those that were kept, by their new places."""
    i = tl.program_id(0).to(tl.int64)
    while i < n_atoms:
        start = tl.load(start_ptr + i)
        end = tl.load(start_ptr + i + 1)
        first = tl.load(first_ptr + i)
        while start < end:
            e = start + tl.arange(0, BLOCK)
            order = tl.load(order_ptr + e, mask=e < end, other=0)
            kept = tl.load(place_ptr + order, mask=e < end, other=-1)
            number = (kept >= 0).to(tl.int64)
            place = first + tl.cumsum(number, 0) - 1
            tl.store(
                order_out + place, tl.minimum(kept, size - 1), mask=(kept >= 0) & (place < size)
            )
            first += tl.sum(number, 0)
            start += BLOCK
        i += tl.num_programs(0)


@triton.jit(do_not_specialize=["n_atoms", "n_pad", "size"])
def pad_edges(
    first_ptr, centre_out, neighbour_out, shift_out, order_out, start_out, n_atoms, n_pad, size,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Edges of the padding atoms to their own images, evenly; first edges of all atoms."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    count = tl.load(first_ptr + n_atoms)
    each = tl.maximum((size - count + n_pad - 1) // n_pad, 1)
    own = tl.minimum(n_atoms + (place - count) // each, n_atoms + n_pad - 1)
    mask = (place >= count) & (place < size)
    tl.store(centre_out + place, own, mask=mask)
    tl.store(neighbour_out + place, own, mask=mask)
    tl.store(order_out + place, place, mask=mask)
    for axis in tl.static_range(3):
        shift = tl.full([BLOCK], 1.0 if axis == 0 else 0.0, tl.float64)
        tl.store(shift_out + 3 * place + axis, shift, mask=mask)
    real = tl.load(first_ptr + place, mask=place <= n_atoms, other=0)
    start = tl.where(place <= n_atoms, real, count + each * (place - n_atoms))
    tl.store(start_out + place, tl.minimum(start, size), mask=place <= n_atoms + n_pad)
