"""Where the force errors of a potential sit: the worst frames, and what is unusual in them.

    python benchmarks/worst_frames.py benchmarks/accuracy/acac.toml results/acac/acac.pt

Reads the frames that the TOML file names (the same split as in training) and prints for each kind
of held-out and test frame: energy error as a whole and without its mean, the spread of the force
errors over frames, and the worst frames, each with the two atoms of largest error and the bond
that lies farthest outside the lengths of its pair of elements in the training frames.

A bond is a pair closer than 1.25 times the sum of the covalent radii. A root mean square that a
few frames make says that the potential extrapolates there; one that all frames share, that it
interpolates badly.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols, covalent_radii

from nemp_sim import Evaluation, load_potential
from nemp_sim.neighbors import edge_list
from nemp_sim.statistics import rms
from nemp_sim.training.data import Frame
from nemp_sim.training.job import read_config, read_splits

BOND = 1.25  # longest bond over the sum of the covalent radii
QUANTILES = (0.5, 0.95, 1.0)

Bonds = list[tuple[str, float]]
Ranges = dict[str, tuple[float, float]]


def bonds_of(frame: Frame) -> Bonds:
    """Pair of elements and length (Å) of each bond."""
    numbers = frame.atoms.numbers
    pairs = edge_list(frame.atoms, 2 * BOND * covalent_radii[numbers].max())
    lengths = np.linalg.norm(pairs.vectors(frame.atoms), axis=1)
    found = []
    for i, j, d in zip(pairs.centre, pairs.neighbour, lengths, strict=True):
        a, b = sorted((numbers[i], numbers[j]))
        if d < BOND * (covalent_radii[a] + covalent_radii[b]):
            first, last = (b, a) if a == 1 else (a, b)  # O–H, C–O
            found.append((f"{chemical_symbols[first]}–{chemical_symbols[last]}", float(d)))
    return found


def trained_ranges(frames: list[Frame]) -> Ranges:
    """Shortest and longest bond of each pair of elements, Å."""
    lengths = defaultdict(list)
    for frame in frames:
        for pair, d in bonds_of(frame):
            lengths[pair].append(d)
    return {pair: (min(values), max(values)) for pair, values in lengths.items()}


def farthest_outside(frame: Frame, ranges: Ranges) -> str:
    """The bond that lies farthest outside the trained lengths; a dash where none does."""
    worst, text = 0.0, "—"
    for pair, d in bonds_of(frame):
        low, high = ranges.get(pair, (np.inf, -np.inf))
        if (outside := max(low - d, d - high)) > worst:
            worst, text = outside, f"{pair} {d:.2f} (trained {low:.2f}–{high:.2f})"
    return text


def print_kind(name: str, frames: list[Frame], result: Evaluation, ranges: Ranges, n: int) -> None:
    """Errors of one kind of frame, and its ``n`` worst frames."""
    wrong = 1e3 * (result.energy - [f.energy for f in frames])
    errors = [1e3 * (mine - f.forces) for mine, f in zip(result.forces, frames, strict=True)]
    each = np.array([rms(e) for e in errors])
    order = np.argsort(-each)
    median, high, most = np.quantile(each, QUANTILES)
    print(
        f"\n**{name}**, {len(frames)} frames. Energy {rms(wrong):.2f} meV, mean "
        f"{wrong.mean():+.2f}, about its mean {wrong.std():.2f}. Forces "
        f"{rms(np.concatenate(errors)):.1f} meV/Å; of a frame: median {median:.1f}, "
        f"95 % {high:.1f}, largest {most:.1f}.\n"
    )
    print("| frame | energy, meV | force, meV/Å | atoms | bond outside the trained lengths |")
    print("|---:|---:|---:|---|---|")
    for k in order[:n]:
        by_atom = np.linalg.norm(errors[k], axis=1)
        top = np.argsort(-by_atom)[:2]
        atoms = ", ".join(f"{frames[k].atoms.symbols[i]}{i} {by_atom[i]:.0f}" for i in top)
        outside = farthest_outside(frames[k], ranges)
        print(f"| {k} | {wrong[k]:+.1f} | {each[k]:.1f} | {atoms} | {outside} |")


def main() -> None:
    """Evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("potential")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--worst", type=int, default=8, help="frames to list of each kind")
    options = parser.parse_args()
    job = read_config(options.config)
    splits = read_splits(job.heads, with_stress=False)
    ranges = trained_ranges(splits.train)
    for split in ("validation", "test"):
        kinds = defaultdict(list)
        for frame in getattr(splits, split):
            kinds[frame.head, frame.config_type].append(frame)
        for (head, kind), frames in kinds.items():
            potential = load_potential(options.potential, options.device, head=head)
            labelled = [f for f in frames if f.forces is not None]
            result = potential.evaluate([f.atoms for f in labelled], on_extrapolation="ignore")
            print_kind(f"{split}, {kind}", labelled, result, ranges, options.worst)


if __name__ == "__main__":
    main()
