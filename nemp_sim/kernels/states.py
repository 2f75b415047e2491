"""States: numbers of every edge in memory, whole or in 16 bits."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class States:
    """Groups of K numbers for each edge.

    Attributes:
        values: (E, groups · K) in the dtype of the network, or int16.
        scale: (E, groups) int16, upper half of a float32, of the whole numbers; else ``values``.
    """

    values: Tensor
    scale: Tensor

    @classmethod
    def empty(cls, like: Tensor, n_edges: int, groups: int, k: int, half: bool) -> "States":
        """Room for the groups of all edges; 16-bit numbers where ``half``."""
        if not half:
            values = like.new_empty(n_edges, groups * k)
            return cls(values, values)
        values = like.new_empty(n_edges, groups * k, dtype=torch.int16)
        return cls(values, like.new_empty(n_edges, groups, dtype=torch.int16))
