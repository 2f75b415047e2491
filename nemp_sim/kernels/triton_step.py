"""Triton kernels around the network: geometry before it, read-out between its two passes, forces.

What torch does by some 150 small kernels, each of which takes longer to start than to run.
"""

import triton
import triton.language as tl


@triton.jit
def silu(x):
    """SiLU x σ(x) and its slope σ(x) (1 + x (1 − σ(x)))."""
    sigma = 1.0 / (1.0 + tl.exp(-x))
    return x * sigma, sigma * (1.0 + x * (1.0 - sigma))


@triton.jit
def edge_block(start, end, BLOCK: tl.constexpr):
    """Edges of a block, and which of them exist."""
    e = start + tl.arange(0, BLOCK)
    return e.to(tl.int64), e < end


@triton.jit(do_not_specialize=["n_atoms"])
def geometry(
    position_ptr, cell_ptr, shift_ptr, species_ptr, structure_ptr, neighbour_ptr, order_ptr,
    start_ptr, limit_ptr,
    vector_out, pair_out, centre_out, neighbour_out, order_out, species_out, start_out,
    nearest_out, partner_out, coordination_out, crowding_out, crowd_out, n_atoms,
    CUTOFF: tl.constexpr, POWER: tl.constexpr, SPECIES: tl.constexpr, WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Vectors and 32-bit indices of the edges, and what the domain is compared with, by atoms.

    All in float64, as ``AtomGraph.edge_vectors`` and ``surroundings.measure``.
    """
    i = tl.program_id(0).to(tl.int64)
    every = tl.arange(0, WIDE)  # elements
    while i < n_atoms:
        first = tl.load(start_ptr + i)
        end = tl.load(start_ptr + i + 1)
        own = tl.load(species_ptr + i)
        tl.store(species_out + i, own.to(tl.int32))
        tl.store(start_out + i, first.to(tl.int32))
        tl.store(start_out + i + 1, end.to(tl.int32))
        cell = cell_ptr + 9 * tl.load(structure_ptr + i)
        nearest = tl.full([BLOCK], float("inf"), tl.float64)
        partner = n_atoms + tl.zeros([BLOCK], tl.int64)
        coordination = tl.zeros([BLOCK], tl.float64)
        close = tl.zeros([WIDE, BLOCK], tl.float64)
        start = first
        while start < end:
            e, mask = edge_block(start, end, BLOCK)
            j = tl.load(neighbour_ptr + e, mask=mask, other=0)
            order = tl.load(order_ptr + e, mask=mask, other=0)
            there = tl.load(species_ptr + j, mask=mask, other=0)
            pair = own * SPECIES + there
            a = tl.load(shift_ptr + 3 * e, mask=mask, other=0.0)
            b = tl.load(shift_ptr + 3 * e + 1, mask=mask, other=0.0)
            c = tl.load(shift_ptr + 3 * e + 2, mask=mask, other=0.0)
            square = tl.zeros([BLOCK], tl.float64)
            for axis in tl.static_range(3):
                x = tl.load(position_ptr + 3 * j + axis, mask=mask, other=0.0)
                x -= tl.load(position_ptr + 3 * i + axis)
                x += a * tl.load(cell + axis) + b * tl.load(cell + 3 + axis)
                x += c * tl.load(cell + 6 + axis)
                square += x * x
                tl.store(vector_out + 3 * e + axis, x.to(vector_out.dtype.element_ty), mask=mask)
            tl.store(pair_out + e, pair.to(tl.int32), mask=mask)
            tl.store(centre_out + e, (i + tl.zeros_like(j)).to(tl.int32), mask=mask)
            tl.store(neighbour_out + e, j.to(tl.int32), mask=mask)
            tl.store(order_out + e, order.to(tl.int32), mask=mask)
            d = tl.sqrt(square)
            trained = tl.load(limit_ptr + 4 * pair, mask=mask, other=0.0)
            counts = mask & (trained > 0) & (d < CUTOFF)
            ratio = d / tl.where(trained > 0, trained, 1.0)
            ratio = tl.where(counts, ratio, float("inf"))
            first_one = (ratio < nearest) | ((ratio == nearest) & (j < partner))
            partner = tl.where(counts & first_one, j, partner)
            nearest = tl.minimum(nearest, ratio)
            x = tl.maximum(tl.minimum(d / CUTOFF, 1.0), 1e-30)
            inner = x * (POWER * (POWER + 2) - x * (POWER * (POWER + 1) / 2))
            inner = (POWER + 1) * (POWER + 2) / 2 - inner
            u = 1 - tl.exp(POWER * tl.log(x)) * inner
            coordination += tl.where(mask & (x < 1), u * u, 0.0)
            near = tl.load(limit_ptr + 4 * pair + 1, mask=mask, other=0.0)
            far = tl.load(limit_ptr + 4 * pair + 2, mask=mask, other=1.0)
            t = tl.maximum(tl.minimum((d - near) / (far - near), 1.0), 0.0)
            weight = tl.where(mask, 1 - t * t * t * (10 - t * (15 - 6 * t)), 0.0)
            close += tl.where(there[None, :] == every[:, None], weight[None, :], 0.0)
            start += BLOCK
        least = tl.min(nearest, 0)
        place = tl.min(tl.where(nearest == least, partner, n_atoms), 0)
        tl.store(nearest_out + i, least)
        tl.store(partner_out + i, tl.where(place < n_atoms, place - i, 0))
        tl.store(coordination_out + i, tl.sum(coordination, 0))
        accepted = limit_ptr + 4 * (own * SPECIES + every) + 3
        accepted = tl.load(accepted, mask=every < SPECIES, other=float("inf"))
        excess = tl.sum(close, 1) / accepted
        largest = tl.max(excess, 0)
        tl.store(crowding_out + i, largest)
        tl.store(crowd_out + i, tl.min(tl.where(excess == largest, every, WIDE), 0).to(tl.int64))
        i += tl.num_programs(0)


@triton.jit(do_not_specialize=["n_atoms"])
def pull(
    grad_ptr, vector_ptr, order_ptr, start_ptr, force_out, virial_out, n_atoms,
    STRESS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Forces of the atoms from the gradients of the edge vectors; and Σ_j r ⊗ ∂E/∂r (9 numbers).

    Sums have a fixed order and are made in float64.
    """
    i = tl.program_id(0).to(tl.int64)
    while i < n_atoms:
        first = tl.load(start_ptr + i)
        end = tl.load(start_ptr + i + 1)
        for axis in tl.static_range(3):
            total = tl.zeros([BLOCK], tl.float64)
            start = first
            while start < end:
                e, mask = edge_block(start, end, BLOCK)
                g = tl.load(grad_ptr + 3 * e + axis, mask=mask, other=0.0)
                f = tl.load(order_ptr + e, mask=mask, other=0).to(tl.int64)
                h = tl.load(grad_ptr + 3 * f + axis, mask=mask, other=0.0)
                total += g.to(tl.float64) - h.to(tl.float64)
                start += BLOCK
            tl.store(force_out + 3 * i + axis, tl.sum(total, 0))
            if STRESS:
                for other in tl.static_range(3):
                    total = tl.zeros([BLOCK], tl.float64)
                    start = first
                    while start < end:
                        e, mask = edge_block(start, end, BLOCK)
                        g = tl.load(grad_ptr + 3 * e + axis, mask=mask, other=0.0)
                        r = tl.load(vector_ptr + 3 * e + other, mask=mask, other=0.0)
                        total += g.to(tl.float64) * r.to(tl.float64)
                        start += BLOCK
                    tl.store(virial_out + 9 * i + 3 * other + axis, tl.sum(total, 0))
        i += tl.num_programs(0)


@triton.jit
def sum_structures(
    value_ptr, first_ptr, out_ptr, STRIDE: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Sum of one column of the atoms of one structure, in float64 and in a fixed order."""
    b, column = tl.program_id(0).to(tl.int64), tl.program_id(1)
    start = tl.load(first_ptr + b)
    end = tl.load(first_ptr + b + 1)
    total = tl.zeros([BLOCK], tl.float64)
    while start < end:
        i = start + tl.arange(0, BLOCK)
        value = tl.load(value_ptr + STRIDE * i + column, mask=i < end, other=0.0)
        total += value.to(tl.float64)
        start += BLOCK
    tl.store(out_ptr + COLUMNS * b + column, tl.sum(total, 0))


@triton.jit(do_not_specialize=["n_atoms"])
def read_out(
    density_ptr, count_ptr, repulsion_ptr, species_ptr, floor_ptr, factor_ptr, shift_ptr,
    reference_ptr, w_ptr, member_ptr, energy_out, deviation_out, grad_density, grad_count,
    n_atoms,
    SCALE: tl.constexpr, Q: tl.constexpr, K: tl.constexpr, W: tl.constexpr, BLOCKS: tl.constexpr,
    LAYERS: tl.constexpr, MEMBERS: tl.constexpr, SMOOTH: tl.constexpr, ZBL: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Energies of a tile of atoms, deviations of the members, gradients of ρ (Q, N, K) and n.

    ``w_ptr``: input layer (Q K, W), hidden layers (W, W), output layer (W,); ``member_ptr``:
    (W, MEMBERS), zero MEMBERS for none. ``floor_ptr``: m_i − n_i of each element.
    """
    i = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    mask = i < n_atoms
    k = tl.arange(0, K)[None, :]
    column = tl.arange(0, W)[None, :]
    square = tl.arange(0, W)[:, None] * W + column
    species = tl.load(species_ptr + i, mask=mask, other=0)
    n = tl.load(count_ptr + i, mask=mask, other=0.0)
    m = n + tl.load(floor_ptr + species)
    x = tl.zeros([TILE, W], n.dtype)
    for q in tl.static_range(Q):
        place = density_ptr + (q * n_atoms + i)[:, None] * K + k
        rho = tl.load(place, mask=mask[:, None], other=0.0) / m[:, None]
        w = tl.load(w_ptr + (q * K + tl.arange(0, K)[:, None]) * W + column)
        x = tl.dot(rho, w, x, input_precision="ieee", out_dtype=x.dtype)
    zero = tl.zeros_like(x)
    hidden = w_ptr + Q * K * W
    slopes = ()
    for b in tl.static_range(BLOCKS):
        y = x
        for layer in tl.static_range(LAYERS):
            y, slope = silu(y)
            slopes = slopes + (slope,)
            w = tl.load(hidden + (b * LAYERS + layer) * W * W + square)
            y = tl.dot(y, w, zero, input_precision="ieee", out_dtype=x.dtype)
        x = (x + y) * 0.7071067811865476
    y, slope = silu(x)
    last = tl.load(hidden + BLOCKS * LAYERS * W * W + column)
    factor = tl.load(factor_ptr + species)
    shift = tl.load(shift_ptr + species)
    value = factor * tl.sum(y * last, 1)
    if SMOOTH:
        value += shift * (n / m)
    else:
        value += shift
    energy = SCALE * value.to(tl.float64) + tl.load(reference_ptr + species)
    if ZBL:
        energy += tl.load(repulsion_ptr + i, mask=mask, other=0.0).to(tl.float64)
    tl.store(energy_out + i, energy, mask=mask)
    factor = factor * SCALE
    if MEMBERS > 0:
        member = tl.arange(0, MEMBERS)[None, :]
        w = tl.load(member_ptr + tl.arange(0, W)[:, None] * MEMBERS + member)
        none = tl.zeros([TILE, MEMBERS], n.dtype)
        change = tl.dot(y, w, none, input_precision="ieee", out_dtype=n.dtype) * factor[:, None]
        tl.store(deviation_out + i[:, None] * MEMBERS + member, change, mask=mask[:, None])
    grad = factor[:, None] * last * slope
    for b in tl.static_range(BLOCKS):
        grad = grad * 0.7071067811865476
        g = grad
        for layer in tl.static_range(LAYERS):
            base = ((BLOCKS - b) * LAYERS - 1 - layer) * W * W
            w = tl.trans(tl.load(hidden + base + square))
            g = tl.dot(g, w, zero, input_precision="ieee", out_dtype=x.dtype)
            g = g * slopes[(BLOCKS - b) * LAYERS - 1 - layer]
        grad = grad + g
    along = tl.zeros_like(n)
    for q in tl.static_range(Q):
        w = tl.load(w_ptr + (q * K + tl.arange(0, K)[:, None]) * W + column)
        none = tl.zeros([TILE, K], n.dtype)
        g = tl.dot(grad, tl.trans(w), none, input_precision="ieee", out_dtype=x.dtype) / m[:, None]
        place = (q * n_atoms + i)[:, None] * K + k
        rho = tl.load(density_ptr + place, mask=mask[:, None], other=0.0)
        along -= tl.sum(g * rho, 1) / m
        tl.store(grad_density + place, g, mask=mask[:, None])
    if SMOOTH:
        along += SCALE * shift * (1 - n / m) / m
    tl.store(grad_count + i, along, mask=mask)
