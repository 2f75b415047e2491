"""How well predicted errors of forces rank the true ones, and how well anything could.

    python benchmarks/error_ranks.py potentials/agcho.toml agcho --frames 60

On held-out frames, by element: root mean square of the true and of the predicted error of the force
on an atom, and their rank correlation (Spearman). "By surroundings" is the rank correlation of the
true errors with their own mean over all atoms of one element with the same bonded elements, known
only afterwards: where errors are alike in size in all surroundings, no prediction ranks them.
"""

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.neighborlist import natural_cutoffs, neighbor_list

from nemp_sim import load_potential
from nemp_sim.statistics import rank_correlation, rms
from nemp_sim.training.accuracy import predict
from nemp_sim.training.job import read_config, read_splits


def surroundings(atoms: Atoms) -> list[str]:
    """Element of each atom with its bonded elements, such as ``Ag(Ag9O1)``."""
    centre, neighbour = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=1.2))
    return [
        f"{symbol}({atoms[neighbour[centre == i]].symbols.formula.format('hill')})"
        for i, symbol in enumerate(atoms.symbols)
    ]


def main() -> None:
    """Evaluate held-out frames and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="training settings, which name the split")
    parser.add_argument("potential")
    parser.add_argument("--head")
    parser.add_argument("--frames", type=int, default=10**9, help="at most, at random")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()

    potential = load_potential(options.potential, device=options.device, head=options.head)
    held = read_splits(read_config(options.config).heads, with_stress=False).validation
    held = [f for f in held if f.forces is not None and options.head in (None, f.head)]
    chosen = np.random.default_rng(0).permutation(len(held))[: options.frames]
    frames = [held[k] for k in sorted(chosen)]
    found = predict({frame.head: potential for frame in frames}, frames)
    true = np.concatenate([frame.forces for frame in frames])
    errors = np.linalg.norm(np.concatenate(found.forces) - true, axis=1)
    spread = np.linalg.norm(np.concatenate(found.forces_std), axis=1)
    kinds = [kind for frame in frames for kind in surroundings(frame.atoms)]
    groups = np.array(kinds)
    means = {kind: errors[groups == kind].mean() for kind in set(kinds)}
    best = np.array([means[kind] for kind in kinds])
    elements = np.array([kind.partition("(")[0] for kind in kinds])

    print(f"{len(chosen)} of {len(held)} held-out frames, {len(means)} surroundings")
    print("element  atoms  true, predicted (meV/Å)  Spearman  by surroundings")
    for element in ("all", *sorted(set(elements))):
        of = (elements == element) | (element == "all")
        sizes = 1e3 * rms(errors[of]), 1e3 * rms(spread[of])
        row = f"{element:7s} {of.sum():6d} {sizes[0]:8.1f} {sizes[1]:10.1f}   "
        ranks = (rank_correlation(values[of], errors[of]) for values in (spread, best))
        print(row + "".join(f"{rank:15.2f}" for rank in ranks))


if __name__ == "__main__":
    main()
