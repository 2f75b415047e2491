"""Triton kernel that finds the pairs of small structures: atoms look at images of all others."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["n_atoms"])
def find_pairs(
    position_ptr, cell_ptr, inverse_ptr, periodic_ptr, reach_ptr, structure_ptr, first_ptr,
    square_ptr, start_ptr, count_out, centre_out, neighbour_out, shift_out, n_atoms,
    FILL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Number of the pairs of each atom; or, where FILL, the pairs from ``start`` on.

    Images are counted from the nearest one along each periodic axis, ``reach`` to either side.
    """
    i = tl.program_id(0).to(tl.int64)
    square = tl.load(square_ptr)
    while i < n_atoms:
        b = tl.load(structure_ptr + i)
        last = tl.load(first_ptr + b + 1)
        x = tl.load(position_ptr + 3 * i)
        y = tl.load(position_ptr + 3 * i + 1)
        z = tl.load(position_ptr + 3 * i + 2)
        cell, inverse = cell_ptr + 9 * b, inverse_ptr + 9 * b
        reach_a = tl.load(reach_ptr + 3 * b).to(tl.int64)
        reach_b = tl.load(reach_ptr + 3 * b + 1).to(tl.int64)
        reach_c = tl.load(reach_ptr + 3 * b + 2).to(tl.int64)
        wide_b, wide_c = 2 * reach_b + 1, 2 * reach_c + 1
        images = (2 * reach_a + 1) * wide_b * wide_c
        place = i * 0
        if FILL:
            place = tl.load(start_ptr + i)
        start = tl.load(first_ptr + b)
        while start < last:
            j = start + tl.arange(0, BLOCK)
            mask = j < last
            dx = tl.load(position_ptr + 3 * j, mask=mask, other=0.0) - x
            dy = tl.load(position_ptr + 3 * j + 1, mask=mask, other=0.0) - y
            dz = tl.load(position_ptr + 3 * j + 2, mask=mask, other=0.0) - z
            near_a = _nearest(dx, dy, dz, inverse, tl.load(periodic_ptr + 3 * b))
            near_b = _nearest(dx, dy, dz, inverse + 1, tl.load(periodic_ptr + 3 * b + 1))
            near_c = _nearest(dx, dy, dz, inverse + 2, tl.load(periodic_ptr + 3 * b + 2))
            image = i * 0
            while image < images:
                a = near_a + (image // (wide_b * wide_c) - reach_a).to(tl.float64)
                e = near_b + (image // wide_c % wide_b - reach_b).to(tl.float64)
                c = near_c + (image % wide_c - reach_c).to(tl.float64)
                vx = _moved(dx, a, e, c, cell)
                vy = _moved(dy, a, e, c, cell + 1)
                vz = _moved(dz, a, e, c, cell + 2)
                itself = (j == i) & (a == 0) & (e == 0) & (c == 0)
                found = mask & (vx * vx + vy * vy + vz * vz < square) & (itself == 0)
                number = found.to(tl.int64)
                if FILL:
                    edge = place + tl.cumsum(number, 0) - 1
                    tl.store(centre_out + edge, i + tl.zeros_like(j), mask=found)
                    tl.store(neighbour_out + edge, j, mask=found)
                    tl.store(shift_out + 3 * edge, a, mask=found)
                    tl.store(shift_out + 3 * edge + 1, e, mask=found)
                    tl.store(shift_out + 3 * edge + 2, c, mask=found)
                place += tl.sum(number, 0)
                image += 1
            start += BLOCK
        if not FILL:
            tl.store(count_out + i, place)
        i += tl.num_programs(0)


@triton.jit
def _nearest(dx, dy, dz, inverse_ptr, periodic):
    """Cell vectors from r_i + d to its nearest image along one axis; 0 where not periodic."""
    along = dx * tl.load(inverse_ptr) + dy * tl.load(inverse_ptr + 3)
    along += dz * tl.load(inverse_ptr + 6)
    return -tl.floor(along + 0.5) * periodic


@triton.jit
def _moved(d, a, b, c, cell_ptr):
    """One component of d + (a, b, c) · cell."""
    return d + (a * tl.load(cell_ptr) + b * tl.load(cell_ptr + 3) + c * tl.load(cell_ptr + 6))
