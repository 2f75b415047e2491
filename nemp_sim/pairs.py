"""Distances of pairs of atoms in frames of dynamics: neighbours, g(r) and bonds, with errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from matplotlib.figure import Figure

from nemp_sim.blocking import Average, block_average
from nemp_sim.neighbors import edge_list
from nemp_sim.plots import ELEMENT_COLOURS, FONT_POINTS, new_figure

PAIR_REACH_ANGSTROM = 6.0
PAIR_BINS = 120
BOND_FACTOR = 1.25  # of the sum of covalent radii
LIGHT_AMU = 20.0  # lighter atoms are adsorbates or molecules, heavier ones the solid


@dataclass(frozen=True)
class PairDistances:
    """Distances between two species, of atoms in the same copy of the structure.

    Attributes:
        distance_A: (R,) middle of each bin.
        neighbours_per_A: (R,) atoms of the second species at a distance from one of the first.
        neighbours_error_per_A: (R,) standard errors of these, by blocks of frames.
        rdf: (R,) g(r); None where the structure is not periodic in three directions.
        rdf_error: (R,) standard errors of g(r); None likewise.
        bond_A: mean of the distances below 1.25 times the sum of the covalent radii; None without.
    """

    distance_A: np.ndarray
    neighbours_per_A: np.ndarray
    neighbours_error_per_A: np.ndarray
    rdf: np.ndarray | None
    rdf_error: np.ndarray | None
    bond_A: Average | None


def pair_distances(
    atoms: Atoms, labels: Sequence[str], cells: np.ndarray, places: np.ndarray
) -> dict[str, PairDistances]:
    """Distances of pairs of species by "A–B", the lightest first; pairs of heavy ones only alone.

    Heavy species (beyond ``LIGHT_AMU``) are paired with one another where there are no light ones.

    Args:
        atoms: the structure: elements, masses and periodic axes.
        labels: species of each atom.
        cells: (F, 3, 3) of each frame, Å.
        places: (F, P, N, 3) of the P copies (beads, replicas) of each frame, Å.
    """
    names = np.array(labels)
    counts: dict[tuple[str, str], np.ndarray] = {}
    bonds: dict[tuple[str, str], list[float]] = {}
    wanted = _wanted(atoms, names)
    edges = np.linspace(0.0, PAIR_REACH_ANGSTROM, PAIR_BINS + 1)
    for pair in wanted:
        counts[pair], bonds[pair] = np.zeros((len(places), PAIR_BINS)), []
    for f, (cell, frame) in enumerate(zip(cells, places, strict=True)):
        lengths = [_lengths(atoms, names, cell, copy, wanted) for copy in frame]
        for pair in wanted:
            every = np.concatenate([each[pair] for each in lengths])
            counts[pair][f] = np.histogram(every, edges)[0] / len(frame)
            close = every[every < _bond_limit(atoms, names, pair)]
            if len(close):
                bonds[pair].append(close.mean())
    volume = np.abs(np.linalg.det(cells)).mean() if atoms.pbc.all() else None
    return {
        "–".join(pair): _averaged(names, pair, counts[pair], bonds[pair], edges, volume)
        for pair in wanted
    }


def _wanted(atoms: Atoms, names: np.ndarray) -> list[tuple[str, str]]:
    """Pairs of species, the lighter one first; none of a species that has one atom alone."""
    mass = {name: float(m) for name, m in zip(names, atoms.get_masses(), strict=True)}
    ordered = sorted(mass, key=lambda name: (mass[name], name))
    light = [name for name in ordered if mass[name] <= LIGHT_AMU] or ordered
    pairs = [(a, b) for a in light for b in ordered[ordered.index(a) :]]
    return [(a, b) for a, b in pairs if a != b or (names == a).sum() > 1]


def _lengths(
    atoms: Atoms,
    names: np.ndarray,
    cell: np.ndarray,
    positions: np.ndarray,
    wanted: Sequence[tuple[str, str]],
) -> dict[tuple[str, str], np.ndarray]:
    moved = Atoms(atoms.numbers, positions, cell=cell, pbc=atoms.pbc)
    found = edge_list(moved, PAIR_REACH_ANGSTROM)
    lengths = np.linalg.norm(found.vectors(moved), axis=1)
    first, second = names[found.centre], names[found.neighbour]
    return {(a, b): lengths[(first == a) & (second == b)] for a, b in wanted}


def _bond_limit(atoms: Atoms, names: np.ndarray, pair: tuple[str, str]) -> float:
    radii = [covalent_radii[atoms.numbers[np.flatnonzero(names == name)[0]]] for name in pair]
    return BOND_FACTOR * sum(radii)


def _averaged(  # noqa: PLR0913 (what a histogram is made of)
    names: np.ndarray,
    pair: tuple[str, str],
    counts: np.ndarray,
    bonds: Sequence[float],
    edges: np.ndarray,
    volume: float | None,
) -> PairDistances:
    """Averages over frames of counts (F, bins) of one pair."""
    first, second = pair
    averages = [block_average(in_bin) for in_bin in counts.T / (names == first).sum()]
    per_atom, error = (np.array([getattr(a, of) for a in averages]) for of in ("mean", "error"))
    rdf = rdf_error = None
    if volume is not None:
        n_others = (names == second).sum() - (second == first)
        expected = 4.0 / 3.0 * np.pi * np.diff(edges**3) * n_others / volume
        rdf, rdf_error = per_atom / expected, error / expected
    middle, width = 0.5 * (edges[1:] + edges[:-1]), np.diff(edges)
    bond = block_average(np.array(bonds)) if bonds else None
    return PairDistances(middle, per_atom / width, error / width, rdf, rdf_error, bond)


def pair_figure(pairs: Mapping[str, PairDistances]) -> Figure:
    """Radial distribution of each pair: g(r), or neighbours per Å where there is no volume.

    Bands: ± one standard error.
    """
    figure, axes = new_figure()
    is_rdf = all(pair.rdf is not None for pair in pairs.values())
    for colour, (name, pair) in zip(ELEMENT_COLOURS, pairs.items(), strict=False):
        values = pair.rdf if is_rdf else pair.neighbours_per_A
        error = pair.rdf_error if is_rdf else pair.neighbours_error_per_A
        axes.plot(pair.distance_A, values, color=colour, linewidth=1.2, label=name)
        band = values - error, values + error
        axes.fill_between(pair.distance_A, *band, color=colour, alpha=0.25, linewidth=0)
    axes.set_xlim(0.0, next(iter(pairs.values())).distance_A[-1])
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("Distance (Å)", fontsize=FONT_POINTS)
    label = "g(r)" if is_rdf else "Neighbours (1/Å)"
    axes.set_ylabel(label, fontsize=FONT_POINTS)
    axes.legend(fontsize=FONT_POINTS - 1, frameon=False)
    return figure
