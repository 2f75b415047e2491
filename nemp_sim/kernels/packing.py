"""Weights and tables of a network as the kernels read them: scaled, padded with zeros, split."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nemp_sim.angular import coupling
from nemp_sim.kernels.sizes import padded_size
from nemp_sim.mlp import MLP
from nemp_sim.model import NEMP
from nemp_sim.tabulation import PairTable
from nemp_sim.zbl import COULOMB

HALVES = {
    "bf16x3": torch.bfloat16,
    "fp16x3": torch.float16,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True)
class Weights:
    """Matrices for one precision: ``high`` + ``low``, or ``high`` alone (then low is high)."""

    high: Tensor
    low: Tensor


def pad(values: Tensor, *sizes: int) -> Tensor:
    """``values`` with the last axes filled with zeros up to ``sizes``."""
    missing = [want - got for want, got in zip(sizes, values.shape[-len(sizes) :], strict=True)]
    widths = [width for axis in reversed(missing) for width in (0, axis)]
    return torch.nn.functional.pad(values, widths)


def split(matrices: Tensor, mode: str) -> Weights:
    """The matrices in the format of ``mode``."""
    if mode not in HALVES:
        matrices = matrices.contiguous()
        return Weights(matrices, matrices)
    high = matrices.to(HALVES[mode]).contiguous()
    low = (matrices - high.to(matrices.dtype)).to(HALVES[mode]).contiguous()
    return Weights(high, low)


def pack_mlp(mlp: MLP, k: int, row_scale: Tensor | None = None, n_sums: int = 1) -> Tensor:
    """One flat buffer of an MLP of an edge state, in the order of ``triton_mlp.py``.

    A linear network gives its matrix, from Q·K to R·K features, K padded.

    Args:
        mlp: the network, from Q K to R K features.
        k: channels K.
        row_scale: factors (R,) of the output rows.
        n_sums: output rows r, r + R/n_sums, … are added up.
    """
    kp = padded_size(k)
    out = mlp.output_layer.kernel * mlp.output_layer.scale  # (width, R K)
    out = out.unflatten(1, (-1, k))  # (width, R, K)
    if row_scale is not None:
        out = out * row_scale[:, None]
    out = pad(out.unflatten(1, (n_sums, -1)).sum(1), kp).flatten(1)
    if mlp.linear:
        return pad(out.unflatten(0, (-1, k)).transpose(1, 2), kp).transpose(1, 2).flatten(0, 1)
    wp = padded_size(out.shape[0])
    first = mlp.input_layer.kernel * mlp.input_layer.scale
    first = pad(first.unflatten(0, (-1, k)), kp, wp).flatten(0, 1)
    hidden = [layer.kernel * layer.scale for block in mlp.blocks for layer in block.layers]
    parts = [first, *(pad(w, wp, wp) for w in hidden), pad(out, wp, out.shape[1])]
    return torch.cat([part.flatten() for part in parts])


def orbital_scale(pmax_l: int, last: bool, like: Tensor) -> Tensor:
    """Factors of the rows of V (3(P+1),): g_l/√(P+1) of Ĉ, and 1/√2 of s for V¹ and V².

    ``last``: of the last read-out, g_l/√(3(P+1)) for all three.
    """
    p1 = pmax_l + 1
    g = (2 * torch.arange(p1, dtype=torch.float64) + 1) ** -0.5
    thirds = [3**-0.5] * 3 if last else [0.5**0.5, 0.5**0.5, 1.0]
    return torch.cat([g * (p1**-0.5 * factor) for factor in thirds]).to(like)


def pack_table(table: PairTable, pmax_l: int) -> tuple[Tensor, Tensor, Tensor]:
    """Columns in padded groups (rows, 3, groups · K), f_c alone (rows, 3), and the grid (S², 5, 4).

    The grid gets the first row and the last interval of each stretch.
    """
    k, p1 = table.n_channels, pmax_l + 1
    knots = table.knots.unflatten(1, (3, -1))
    columns, cutoff = knots[..., :-1], knots[..., -1].contiguous()
    groups = columns.unflatten(2, (-1, k))  # (rows, 3, 2 + P+1 + 1 + 3(P+1), K)
    scale = groups.new_ones(groups.shape[2])
    scale[3 + p1 :] = orbital_scale(pmax_l, False, scale)
    groups = pad(groups * scale[:, None], padded_size(k)).flatten(2).contiguous()
    last = torch.tensor(table.intervals, device=knots.device, dtype=knots.dtype) - 1
    first = (last + 2).cumsum(0) - last - 2
    more = torch.stack([first, last], dim=1).expand(len(table.grid), -1, -1)
    return groups, cutoff, torch.cat([table.grid, more], dim=2).contiguous()


def pack_repulsion(model: NEMP) -> Tensor:
    """Half charge products (eV Å), reciprocal lengths and cutoffs of the pairs (S², 3)."""
    zbl = model.zbl
    if zbl is None:
        return model.species_mix.new_zeros(1, 3)
    reach = model.repulsion_reach()
    return torch.stack([0.5 * COULOMB * zbl.charge, 1 / zbl.length, 1 / reach], 1).contiguous()


@dataclass(frozen=True)
class Entries:
    """A bilinear map out_o = Σ value λ_path a_x b_y: entries (x, y, path), sorted by o."""

    start: Tensor
    index: Tensor
    value: Tensor


def pack_couplings(model: NEMP) -> tuple[Entries, Entries, Entries]:
    """The tensor product D(G, N), and its derivatives ∂G(∂D, N) and ∂N(∂D, G)."""
    paths = model.tensor_product.paths
    found = []
    for index, (l, l1, l2) in enumerate(paths):
        share = sum(1 for path in paths if path[0] == l)
        table = coupling(l1, l2, l) / np.sqrt(share)
        for m1, m2, m in zip(*np.nonzero(table), strict=True):
            found.append((l1**2 + m1, l2**2 + m2, l**2 + m, index, table[m1, m2, m]))
    device, dtype = model.species_mix.device, model.species_mix.dtype
    n_edge, n_node = (model.config.max_l + 1) ** 2, (model.config.pmax_l + 1) ** 2

    def sort(o: int, a: int, b: int, n: int) -> Entries:
        rows = sorted(found, key=lambda row: row[o])
        counts = np.bincount([row[o] for row in rows], minlength=n)
        start = np.concatenate([[0], np.cumsum(counts)])
        index = [[row[a], row[b], row[3]] for row in rows]
        return Entries(
            torch.tensor(start, dtype=torch.int32, device=device),
            torch.tensor(np.array(index), dtype=torch.int32, device=device),
            torch.tensor([row[4] for row in rows], dtype=dtype, device=device),
        )

    return sort(2, 0, 1, n_node), sort(0, 2, 1, n_edge), sort(1, 2, 0, n_node)
