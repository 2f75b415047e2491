"""Neighbour pairs of many structures at once, on their device: bins half a cutoff wide.

Every atom looks into the bins around its own; those of a periodic axis go on in the next images, so
that a cell of any size and shape, and any mixture of periodic axes, is one case.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

BINS_OF_CUTOFF = 2  # along a cutoff
BINS_OF_ATOM = 16  # of a structure, at most, for each of its atoms; then the bins grow
LOOKS = 2**20  # (atom, bin) at a time; some seven candidates each, 100 bytes each


@dataclass(frozen=True)
class _Bins:
    """Atoms sorted into bins.

    Attributes:
        count: (B, 3) bins along each axis.
        reach: (B, 3) bins to look into on either side.
        first: (B,) first bin of each structure.
        place: (N, 3) bin of each atom along each axis.
        wraps: (N, 3) whole cell vectors by which an atom lies outside the cell.
        order: (N,) atoms sorted by bin.
        start: (bins + 1,) first place in ``order`` of each bin.
    """

    count: Tensor
    reach: Tensor
    first: Tensor
    place: Tensor
    wraps: Tensor
    order: Tensor
    start: Tensor

    @classmethod
    def of(
        cls, positions: Tensor, cells: Tensor, pbc: Tensor, structure: Tensor, cutoff: float
    ) -> Self:
        inverse = torch.linalg.inv(cells.cpu()).to(cells.device)  # (B, 3, 3)
        scaled = (positions[:, None, :] @ inverse[structure])[:, 0]  # (N, 3)
        wraps = torch.where(pbc[structure], scaled.floor(), torch.zeros_like(scaled))
        scaled = scaled - wraps
        low, high = (
            torch.zeros_like(cells[:, 0]).scatter_reduce(
                0, structure[:, None].expand(-1, 3), scaled, how, include_self=False
            )
            for how in ("amin", "amax")
        )
        low = torch.where(pbc, torch.zeros_like(low), low)
        span = torch.where(pbc, torch.ones_like(low), (high - low).clamp(min=1e-6))
        length = span / torch.linalg.vector_norm(inverse, dim=1)  # (B, 3) Å
        count = (length * (BINS_OF_CUTOFF / cutoff)).floor().clamp(min=1)
        most = BINS_OF_ATOM * torch.bincount(structure, minlength=len(cells))
        shrink = (most / count.prod(1)).clamp(max=1) ** (1 / 3)
        count = (count * shrink[:, None]).floor().clamp(min=1).long()
        reach = (cutoff * count / length).ceil().long()
        reach = torch.where(pbc, reach, torch.minimum(reach, count - 1))
        place = ((scaled - low[structure]) / span[structure] * count[structure]).long()
        place = torch.minimum(place.clamp(min=0), count[structure] - 1)
        n_bins = count.prod(1)
        first = n_bins.cumsum(0) - n_bins
        flat = first[structure] + _flat(place, count[structure])
        order = flat.argsort(stable=True)
        filled = torch.bincount(flat, minlength=int(n_bins.sum()))
        start = torch.cat([filled.new_zeros(1), filled.cumsum(0)])
        return cls(count, reach, first, place, wraps, order, start)


def _flat(place: Tensor, count: Tensor) -> Tensor:
    """Number of the bin ``place`` (…, 3) of ``count`` (…, 3)."""
    return (place[:, 0] * count[:, 1] + place[:, 1]) * count[:, 2] + place[:, 2]


def pairs(
    positions: Tensor,
    structure: Tensor,
    first_atom: Tensor,
    cells: np.ndarray,
    pbc: np.ndarray,
    cutoff: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All directed pairs closer than ``cutoff``, sorted by centre, as ``neighbors.edge_list``.

    Args:
        positions: (N, 3) float64, Å.
        structure: (N,) ascending, the structure of each atom.
        first_atom: (B+1,) first atom of each structure.
        cells: (B, 3, 3), Å; unit normals stand for axes that are not periodic.
        pbc: (B, 3) bool.
        cutoff: Å.

    Returns:
        Centres and neighbours (E,) int64, shifts (E, 3) float64 in whole cell vectors, and the
        first pair of each centre (N+1,).
    """
    device = positions.device
    on_device = torch.from_numpy(cells).to(device), torch.from_numpy(pbc).to(device)
    bins = _Bins.of(positions, *on_device, structure, cutoff)
    looks = (2 * bins.reach + 1).prod(1)  # (B,)
    step = max(1, LOOKS // int(looks.max()))
    parts = [
        _pairs_of(atoms, bins, looks, positions, *on_device, structure, cutoff)
        for atoms in torch.arange(len(positions), device=device).split(step)
    ]
    centre, neighbour, shifts = (torch.cat(each) for each in zip(*parts, strict=True))
    row_start = torch.searchsorted(centre, torch.arange(len(positions) + 1, device=device))
    return centre, neighbour, shifts, row_start


def _pairs_of(
    atoms: Tensor, bins: _Bins, looks: Tensor, positions: Tensor, cells: Tensor, pbc: Tensor,
    structure: Tensor, cutoff: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The pairs whose centres are ``atoms``."""
    each = looks[structure[atoms]]
    i = atoms.repeat_interleave(each)  # (looks,) of all atoms
    b = structure[i]
    number = torch.arange(len(i), device=i.device)
    number = number - (each.cumsum(0) - each).repeat_interleave(each)
    count, wide = bins.count[b], 2 * bins.reach[b] + 1
    offset = torch.stack(
        [number // (wide[:, 1] * wide[:, 2]), number // wide[:, 2] % wide[:, 1],
         number % wide[:, 2]], dim=1,
    )  # fmt: skip
    place = bins.place[i] + offset - bins.reach[b]
    image = place.div(count, rounding_mode="floor")
    exists = (pbc[b] | (image == 0)).all(1)
    bin_ = bins.first[b] + _flat(place - image * count, count)
    bin_ = torch.where(exists, bin_, 0)
    filled = torch.where(exists, bins.start[bin_ + 1] - bins.start[bin_], 0)
    look = torch.arange(len(i), device=i.device).repeat_interleave(filled)  # (candidates,)
    rank = torch.arange(len(look), device=i.device)
    rank = rank - (filled.cumsum(0) - filled).index_select(0, look)
    i, image = i.index_select(0, look), image.index_select(0, look)
    j = bins.order[bins.start.index_select(0, bin_.index_select(0, look)) + rank]
    shift = image + bins.wraps.index_select(0, i) - bins.wraps.index_select(0, j)
    moved = (shift[:, :, None] * cells.index_select(0, structure.index_select(0, i))).sum(1)
    vectors = positions.index_select(0, j) - positions.index_select(0, i) + moved
    near = vectors.square().sum(1) < cutoff**2
    itself = (i == j) & (shift == 0).all(1)
    kept = (near & ~itself).nonzero()[:, 0]
    return i.index_select(0, kept), j.index_select(0, kept), shift.index_select(0, kept)
