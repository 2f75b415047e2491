"""Pairs of small structures: one kernel, in which every atom looks at the images of all others."""

import numpy as np
import torch
from torch import Tensor

from nemp_sim.kernels.sizes import PROGRAMS
from nemp_sim.kernels.triton_search import find_pairs
from nemp_sim.structures import cell_heights

MOST_LOOKS = 2**15  # images that an atom looks at; beyond, bins are faster
BLOCK = 64  # atoms that one looks at together


def images_in_reach(cells: np.ndarray, pbc: np.ndarray, cutoff: float) -> np.ndarray:
    """Images to look at on either side of the nearest one, (B, 3) int64.

    With x the nearest image along an axis, |x| ≤ 1/2, and h the height of the cell, those m with
    (|m| − 1/2) h < ``cutoff``.
    """
    return np.where(pbc, np.floor(cutoff / cell_heights(cells) + 0.5), 0).astype(np.int64)


def all_pairs(
    positions: Tensor,
    structure: Tensor,
    first_atom: Tensor,
    cells: np.ndarray,
    pbc: np.ndarray,
    cutoff: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As ``neighbor_search.pairs``; asks the device for the number of pairs alone."""
    n, device = len(positions), positions.device
    reach = images_in_reach(cells, pbc, cutoff)
    arrays = cells, np.linalg.inv(cells), pbc.astype(float), reach.astype(float), [cutoff**2]
    flat = torch.from_numpy(np.concatenate([np.ravel(each) for each in arrays]))
    flat = (flat.pin_memory() if device.type == "cuda" else flat).to(device, non_blocking=True)
    cell, inverse, periodic, near, square = flat.split([np.size(each) for each in arrays])
    given = positions, cell, inverse, periodic, near, structure, first_atom, square
    counts = structure.new_zeros(n + 1)
    grid, shape = (min(n, PROGRAMS),), {"BLOCK": BLOCK, "num_warps": 1}
    with torch.cuda.device_of(positions):
        nowhere = counts, counts, counts, positions
        find_pairs[grid](*given, *nowhere[:1], counts[1:], *nowhere[1:], n, FILL=False, **shape)
        start = counts.cumsum(0)
        centre, neighbour = structure.new_empty(2, int(start[-1]))
        shifts = positions.new_empty(len(centre), 3)
        find_pairs[grid](*given, start, counts, centre, neighbour, shifts, n, FILL=True, **shape)
    return centre, neighbour, shifts, start
