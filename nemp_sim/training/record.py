"""The domain of a potential, as its file records it: what the training frames cover."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from nemp_sim.neighbors import build_graph, edge_list
from nemp_sim.potential import Potential
from nemp_sim.structures import in_vacuum
from nemp_sim.surroundings import close_neighbours, measure
from nemp_sim.training.accuracy import Predictions
from nemp_sim.training.data import Frame

BATCH = 64


def domain_record(
    potential: Potential, frames: Sequence[Frame], predictions: Sequence[Predictions]
) -> dict[str, Any]:
    """Ranges of one head, in plain values; ``domain.Domain.of`` reads them back.

    Keys: "shortest_distance_A" (by pair, "H-Pd"; pairs that meet within the cutoff),
    "coordination" ([smallest, largest] n_i by element; of other frames than lone atoms and dimers
    in vacuum where it is in any, for these would call crystals in Bohr known), "crowding" (largest
    number of close neighbours, "H-Pd": of the Pd beside an H) and, with an ensemble read-out,
    "largest_std" by kind (``domain.KINDS``) over the predicted frames, dimers in vacuum aside
    likewise: the wall of a dissociation curve is uncertain by eV.

    Args:
        potential: the trained head.
        frames: the training frames of the head.
        predictions: of training and held-out frames of any heads.
    """
    model, symbols = potential.model, potential.config.symbols
    shortest = np.full(len(symbols) ** 2, np.inf)
    bounds = {symbol: [np.inf, 0.0] for symbol in potential.elements}
    crowding = np.zeros((len(symbols), len(symbols)))
    limits = torch.from_numpy(potential.domain.pair_limits(potential.cutoff_angstrom))
    limits = limits.to(potential.device)
    large = {s for f in frames if not in_vacuum(f.atoms) for s in f.atoms.symbols}
    for start in range(0, len(frames), BATCH):
        structures = [f.atoms for f in frames[start : start + BATCH]]
        edges = [edge_list(atoms, potential.cutoff_angstrom) for atoms in structures]
        graph = build_graph(structures, edges, potential.species_of_number, potential.device)
        n = measure(model, graph, limits)[2]
        species = graph.species.cpu().numpy()
        many = np.repeat([not in_vacuum(a) for a in structures], [len(a) for a in structures])
        for symbol, values in bounds.items():
            counted = many | (symbol not in large)
            mine = n.cpu().numpy()[counted & (species == symbols.index(symbol))]
            values[0] = min([values[0], *mine.tolist()])
            values[1] = max([values[1], *mine.tolist()])
        lengths, pair = graph.edge_vectors().norm(dim=1), model.pair_of_edge(graph)
        np.minimum.at(shortest, pair.cpu().numpy(), lengths.cpu().numpy())
        close = close_neighbours(graph, pair, lengths, limits, len(symbols))
        np.maximum.at(crowding, species, close.cpu().numpy())
    pairs = {
        f"{a}-{b}": float(shortest[i * len(symbols) + j])
        for i, a in enumerate(symbols)
        for j, b in enumerate(symbols)
        if i <= j and np.isfinite(shortest[i * len(symbols) + j])
    }
    known = [symbols.index(symbol) for symbol in potential.elements]
    crowds = {f"{symbols[a]}-{symbols[b]}": float(crowding[a, b]) for a in known for b in known}
    record: dict[str, Any] = {
        "shortest_distance_A": pairs,
        "coordination": bounds,
        "crowding": crowds,
    }
    if potential.n_members:
        record["largest_std"] = largest_std(potential.head, predictions)
    return record


def largest_std(head: str, predictions: Sequence[Predictions]) -> Mapping[str, float]:
    """Largest standard deviation of each kind over the frames of a head, lone atoms aside.

    Dimers in vacuum count only where there are no others; crystals of one atom are no lone atoms.
    """
    largest = {"energy_std": 0.0, "atom_std": 0.0, "force_std": 0.0}
    every = [f.atoms for p in predictions for f in p.frames if f.head == head]
    most = 2 if any(not in_vacuum(atoms) for atoms in every) else 1
    for part in predictions:
        for k, frame in enumerate(part.frames):
            if frame.head == head and not in_vacuum(frame.atoms, most):
                found = {
                    "energy_std": part.energy_std[k] / len(frame.atoms),
                    "atom_std": part.energies_std[k].max(),
                    "force_std": np.linalg.norm(part.forces_std[k], axis=1).max(),
                }
                largest = {kind: max(v, float(found[kind])) for kind, v in largest.items()}
    return largest
