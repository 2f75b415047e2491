"""C, H and O species on Ag(111): agcho.pt on the labelled frames of lowest energy of each species.

    NEMP_DATA=/path/to/data python benchmarks/agcho_coldest.py

These frames are the nearest to the minima that adsorption energies are made of, and an error of the
whole cell goes into those in full. The frames were trained on: the errors are what the fit leaves.
Prints, for each species on four layers, the error of the energy of the cell and its predicted
standard deviation, as means over the coldest frames, and the largest labelled force in them.
"""

import argparse
import os
from collections import defaultdict
from pathlib import Path

import numpy as np

from nemp_sim import load_potential
from nemp_sim.training.config import DataConfig
from nemp_sim.training.data import Frame, read_frames

DATA = "ag111_cho_rpbe_d3/c1_core_train.xyz.xz"
SILVER = 64  # atoms of four layers


def coldest(frames: list[Frame], count: int) -> dict[str, list[Frame]]:
    """The frames of lowest energy of each species on the slab, by its SMILES."""
    by_species = defaultdict(list)
    for frame in frames:
        if (frame.atoms.symbols == "Ag").sum() == SILVER:
            by_species[frame.config_type].append(frame)
    return {s: sorted(f, key=lambda frame: frame.energy)[:count] for s, f in by_species.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--potential", default="agcho.pt")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("NEMP_DATA", ".")) / DATA)
    parser.add_argument("--count", type=int, default=3, help="frames of each species")
    options = parser.parse_args()
    potential = load_potential(options.potential, on_extrapolation="ignore")
    keys = {"energy_key": "energy", "forces_key": "forces", "type_key": "smiles"}
    frames = read_frames(options.data, DataConfig(train=(str(options.data),), **keys))
    print(f"{'species':>10} {'DFT eV':>10} {'error eV':>9} {'predicted ±':>12} {'|F| eV/Å':>9}")
    for species, chosen in sorted(coldest(frames, options.count).items()):
        result = potential.evaluate([frame.atoms for frame in chosen])
        labels = np.array([frame.energy for frame in chosen])
        force = max(np.linalg.norm(frame.forces, axis=1).max() for frame in chosen)
        error, std = (result.energy - labels).mean(), result.energy_std.mean()
        print(f"{species:>10} {labels[0]:10.3f} {error:+9.3f} {std:12.3f} {force:9.2f}")


if __name__ == "__main__":
    main()
