r"""Three and four H atoms in vacuum for pdh.pt, and GPAW for them.

    python benchmarks/gpaw_hydrogen.py results/label-clusters
    python -m nemp_sim.labelling results/label-clusters --calculator \
        benchmarks/gpaw_hydrogen.py:calculator

Trained on H beside Pd and on two H alone, a network may bind a third H to H2 by electronvolts.
Spin-polarised, as the dissociation curve of H2 is: H3 has an odd electron. Four H
are two pairs of at most 1.2 Å, for a wider cluster is no closed shell, and PBE no guide; of three,
the third is at most 3 Å away. The last ones are rows of three, and four at most 1.9 Å across.
"""

import random
import sys
from pathlib import Path

import numpy as np
from ase import Atoms

from nemp_sim.labelling.queue import write_queue

COUNTS = {3: 32, 4: 48}  # of clusters, by number of atoms
ROWS, COMPACT = 24, 16  # clusters of three in a row, of four pressed together
BOX_ANGSTROM = 7.5
SHORTEST, BOND, FAR = 0.62, 1.2, 3.0  # distances, Å


def calculator(atoms: Atoms) -> object:
    """GPAW (PBE, plane waves to 350 eV) for a cluster of H, moments up and down to begin with."""
    return _gpaw(atoms, 350)


def calculator_450(atoms: Atoms) -> object:
    """The same with plane waves to 450 eV, the level of CO on Pd."""
    return _gpaw(atoms, 450)


def _gpaw(atoms: Atoms, plane_waves_eV: float) -> object:
    from gpaw import GPAW, PW, FermiDirac

    atoms.set_initial_magnetic_moments([1.0 - 2.0 * (k % 2) for k in range(len(atoms))])
    return GPAW(
        mode=PW(plane_waves_eV),
        xc="PBE",
        spinpol=True,
        occupations=FermiDirac(0.1),
        convergence={"energy": 2e-5, "density": 1e-4, "eigenstates": 1e-6},
        symmetry={"point_group": False},
        txt=None,
    )


def structures() -> list[Atoms]:
    """H2 and H, and two H2, in random places and order (frames in a row are a group of a split)."""
    rng = np.random.default_rng(0)
    found: list[Atoms] = []
    for count, wanted in COUNTS.items():
        while sum(len(atoms) == count for atoms in found) < wanted:
            atoms = _cluster(count, rng)
            if atoms is not None:
                found.append(atoms)
    random.Random(0).shuffle(found)
    rng = np.random.default_rng(1)
    pressed = [_row(rng) for _ in range(ROWS)] + [_compact(rng) for _ in range(COMPACT)]
    random.Random(1).shuffle(pressed)
    return found + pressed


def _cluster(count: int, rng: np.random.Generator) -> Atoms | None:
    """One cluster in the middle of its box, None where atoms are too near or too far."""
    positions = [np.zeros(3), rng.uniform(SHORTEST, 1.1) * _direction(rng)]
    middle = rng.uniform(0.7, 3.4) * _direction(rng)
    if count == 3:
        positions.append(middle)
    else:
        half = rng.uniform(SHORTEST, 1.1) / 2 * _direction(rng)
        positions += [middle - half, middle + half]
    atoms = Atoms(f"H{count}", positions, cell=3 * [BOX_ANGSTROM], pbc=True)
    distances = atoms.get_all_distances() + np.diag(np.full(count, np.inf))
    farthest = FAR if count == 3 else BOND  # a free H beside H2 is a doublet at any distance
    if distances.min() < SHORTEST or distances.min(axis=1).max() >= farthest:
        return None
    atoms.center()
    atoms.info["config_type"] = f"h{count}_gas"
    return atoms


def _row(rng: np.random.Generator) -> Atoms:
    """Three in a row that is bent by at most 30 degrees."""
    near, far = rng.uniform(SHORTEST, 1.4, size=2)
    bend = np.radians(rng.uniform(0, 30))
    positions = [(-near, 0, 0), (0, 0, 0), (far * np.cos(bend), far * np.sin(bend), 0)]
    atoms = Atoms("H3", positions, cell=3 * [BOX_ANGSTROM], pbc=True)
    atoms.center()
    atoms.info["config_type"] = "h3_row"
    return atoms


def _compact(rng: np.random.Generator) -> Atoms:
    """Four with all distances between 0.62 and 1.9 Å."""
    while True:
        atoms = Atoms("H4", rng.uniform(-1, 1, size=(4, 3)), cell=3 * [BOX_ANGSTROM], pbc=True)
        distances = atoms.get_all_distances()[np.triu_indices(4, 1)]
        if SHORTEST < distances.min() and distances.max() < 1.9:
            atoms.center()
            atoms.info["config_type"] = "h4_compact"
            return atoms


def _direction(rng: np.random.Generator) -> np.ndarray:
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)


if __name__ == "__main__":
    wanted = structures()
    if len(sys.argv) > 1:
        write_queue(Path(sys.argv[1]), wanted)
    for size in COUNTS:
        print(f"{sum(len(atoms) == size for atoms in wanted)} clusters of {size} H")
