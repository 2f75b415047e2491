"""What the geometry alone tells of an atom, for the domain of validity: ``domain.py`` judges it.

On a GPU one kernel does the same (``kernels/triton_step.py``).
"""

from collections.abc import Sequence

import numpy as np
import torch
from ase.data import atomic_numbers, covalent_radii
from torch import Tensor

from nemp_sim.graph import AtomGraph
from nemp_sim.model import NEMP, cutoff_function, smooth_step

MEASURED = "nearest", "partner", "coordination", "crowding", "crowd"  # see ``domain.Measured``
NEAR, FAR = 1.3, 3.0  # covalent radii of a pair: a neighbour counts whole within, not beyond


def close_reach(symbols: Sequence[str], cutoff_angstrom: float) -> tuple[np.ndarray, np.ndarray]:
    """Distances (S, S), Å, within which a neighbour counts as close, and beyond which it does not.

    NEAR and FAR sums of the covalent radii, the latter within the cutoff.
    """
    radii = covalent_radii[[atomic_numbers[symbol] for symbol in symbols]]
    sums = radii[:, None] + radii
    far = np.minimum(FAR * sums, cutoff_angstrom)
    return np.minimum(NEAR * sums, far / 1.5), far


def close_neighbours(
    graph: AtomGraph, pair: Tensor, distance: Tensor, limits: Tensor, n_elements: int
) -> Tensor:
    """Number of close neighbours of each element, (N, S).

    Σ_j 1 − t³ (10 − 15t + 6t²), t = (d − near)/(far − near) between 0 and 1.

    Args:
        graph: the structures.
        pair: (E,) ordered pair of elements of each edge.
        distance: (E,) Å.
        limits: (S², 4) ``Domain.pair_limits``.
        n_elements: S.
    """
    _, near, far, _ = limits.index_select(0, pair).unbind(1)
    t = ((distance - near) / (far - near)).clamp(0.0, 1.0)
    weight = 1 - smooth_step(t)
    there = graph.at_neighbour(graph.species)[:, None]
    every = torch.arange(n_elements, device=there.device)
    return graph.sum_edges(weight[:, None] * (there == every))


def measure(model: NEMP, graph: AtomGraph, limits: Tensor) -> tuple[Tensor, ...]:
    """What the geometry alone tells, on the device of the graph: ``Measured`` but its spreads.

    Args:
        model: the network.
        graph: the structures.
        limits: (S², 4) float64, ``Domain.pair_limits``.
    """
    distance = torch.linalg.vector_norm(graph.edge_vectors(), dim=1)  # (E,)
    pair, n_elements = model.pair_of_edge(graph), len(model.config.elements)
    trained = limits[:, 0].index_select(0, pair)
    counts = (trained > 0) & (distance < model.config.cutoff_angstrom)
    ratio = torch.where(counts, distance / trained, torch.inf)
    nearest = torch.full_like(graph.positions[:, 0], torch.inf)
    nearest = nearest.scatter_reduce(0, graph.centre, ratio, "amin")
    is_nearest = counts & (ratio == nearest.index_select(0, graph.centre))
    none = torch.full_like(graph.species, len(graph.species))
    candidates = torch.where(is_nearest, graph.neighbour, len(graph.species))
    partner = none.scatter_reduce(0, graph.centre, candidates, "amin")
    atom = torch.arange(len(partner), device=partner.device)
    partner = torch.where(partner < len(partner), partner - atom, 0)
    f_c = cutoff_function(distance / model.config.cutoff_angstrom, model.config.envelope_power)

    accepted = limits[:, 3].view(n_elements, n_elements).index_select(0, graph.species)  # (N, S)
    excess = close_neighbours(graph, pair, distance, limits, n_elements) / accepted
    crowding = excess.amax(1)
    every = torch.arange(n_elements, device=excess.device)
    crowd = torch.where(excess == crowding[:, None], every, n_elements).amin(1)
    return nearest, partner, graph.sum_edges(f_c), crowding, crowd
