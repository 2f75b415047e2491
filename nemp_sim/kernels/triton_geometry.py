"""Triton kernels of the geometry: edge vectors from positions, and forces from their gradients."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["n_edges"])
def edge_geometry(
    position_ptr, cell_ptr, structure_ptr, species_ptr, centre_ptr, neighbour_ptr, shift_ptr,
    vector_ptr, pair_ptr, centre_out, neighbour_out, n_edges,
    ELEMENTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """r_j − r_i + S · cell in float64, rounded once; the pair of elements; 32-bit ends."""
    e = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = e < n_edges
    i = tl.load(centre_ptr + e, mask=mask, other=0)
    j = tl.load(neighbour_ptr + e, mask=mask, other=0)
    cell = cell_ptr + 9 * tl.load(structure_ptr + i, mask=mask, other=0)
    for axis in tl.static_range(3):
        offset = tl.zeros([BLOCK], tl.float64)
        for k in tl.static_range(3):
            shift = tl.load(shift_ptr + 3 * e + k, mask=mask, other=0.0)
            offset += shift * tl.load(cell + 3 * k + axis, mask=mask, other=0.0)
        there = tl.load(position_ptr + 3 * j + axis, mask=mask, other=0.0)
        here = tl.load(position_ptr + 3 * i + axis, mask=mask, other=0.0)
        vector = there - here + offset
        tl.store(vector_ptr + 3 * e + axis, vector.to(vector_ptr.dtype.element_ty), mask=mask)
    here = tl.load(species_ptr + i, mask=mask, other=0)
    there = tl.load(species_ptr + j, mask=mask, other=0)
    tl.store(pair_ptr + e, (here * ELEMENTS + there).to(tl.int32), mask=mask)
    tl.store(centre_out + e, i.to(tl.int32), mask=mask)
    tl.store(neighbour_out + e, j.to(tl.int32), mask=mask)


@triton.jit
def position_back(grad_ptr, row_start, by_neighbour, out_ptr, BLOCK: tl.constexpr):
    """Gradient of an atom's position, float64: edges that end there less those that start."""
    atom = tl.program_id(0).to(tl.int64)
    start = tl.load(row_start + atom)
    end = tl.load(row_start + atom + 1)
    x = tl.zeros([BLOCK], tl.float64)
    y = tl.zeros([BLOCK], tl.float64)
    z = tl.zeros([BLOCK], tl.float64)
    edge = start
    while edge < end:
        e = edge + tl.arange(0, BLOCK)
        mask = e < end
        own = grad_ptr + 3 * e.to(tl.int64)
        other = grad_ptr + 3 * tl.load(by_neighbour + e, mask=mask, other=0).to(tl.int64)
        x += tl.load(other, mask=mask, other=0.0).to(tl.float64)
        y += tl.load(other + 1, mask=mask, other=0.0).to(tl.float64)
        z += tl.load(other + 2, mask=mask, other=0.0).to(tl.float64)
        x -= tl.load(own, mask=mask, other=0.0).to(tl.float64)
        y -= tl.load(own + 1, mask=mask, other=0.0).to(tl.float64)
        z -= tl.load(own + 2, mask=mask, other=0.0).to(tl.float64)
        edge += BLOCK
    tl.store(out_ptr + 3 * atom, tl.sum(x, 0))
    tl.store(out_ptr + 3 * atom + 1, tl.sum(y, 0))
    tl.store(out_ptr + 3 * atom + 2, tl.sum(z, 0))
