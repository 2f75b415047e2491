"""Three and four H atoms in vacuum for pdh.pt, and GPAW for them.

    python benchmarks/gpaw_hydrogen.py clusters.extxyz
    python workflows/label.py --candidates clusters.extxyz --potential pdh --select 80 \
        --novelty 0.01 --select-only --name clusters
    python -m nemp_sim.labelling results/label-clusters --calculator \
        benchmarks/gpaw_hydrogen.py:calculator

Trained on H beside Pd and on two H alone, a network may bind a third H to H2 by electronvolts.
Spin-polarised, as the dissociation curve of H2 is: H3 has an odd electron. Every H is within 1.2 Å
of another one, for a wider cluster is no closed shell, and PBE no guide.
"""

import sys

import ase.io
import numpy as np
from ase import Atoms

COUNTS = {3: 32, 4: 48}  # of clusters, by number of atoms
BOX_ANGSTROM = 7.5
SHORTEST, LONGEST, BOND = 0.62, 4.2, 1.2  # distances, Å


def calculator(atoms: Atoms) -> object:
    """GPAW (PBE, plane waves to 350 eV) for a cluster of H, moments up and down to begin with."""
    from gpaw import GPAW, PW, FermiDirac

    atoms.set_initial_magnetic_moments([1.0 - 2.0 * (k % 2) for k in range(len(atoms))])
    return GPAW(
        mode=PW(350),
        xc="PBE",
        spinpol=True,
        occupations=FermiDirac(0.1),
        convergence={"energy": 2e-5, "density": 1e-4, "eigenstates": 1e-6},
        symmetry={"point_group": False},
        txt=None,
    )


def structures() -> list[Atoms]:
    """H2 and H, and two H2, in random places."""
    rng = np.random.default_rng(0)
    found: list[Atoms] = []
    for count, wanted in COUNTS.items():
        while sum(len(atoms) == count for atoms in found) < wanted:
            atoms = _cluster(count, rng)
            if atoms is not None:
                found.append(atoms)
    return found


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
    nearest = np.sort(distances.min(axis=1))
    alone = count == 3 and nearest[-1] < 3.0  # a free H beside H2 is a doublet at any distance
    if distances.min() < SHORTEST or nearest[-1] > LONGEST or not (alone or nearest[-1] < BOND):
        return None
    atoms.center()
    atoms.info["config_type"] = f"h{count}_gas"
    return atoms


def _direction(rng: np.random.Generator) -> np.ndarray:
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)


if __name__ == "__main__":
    wanted = structures()
    if len(sys.argv) > 1:
        ase.io.write(sys.argv[1], wanted)
    for size in COUNTS:
        print(f"{sum(len(atoms) == size for atoms in wanted)} clusters of {size} H")
