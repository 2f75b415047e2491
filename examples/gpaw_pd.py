"""A calculator for the labelling workflow: GPAW at the level of theory of pdh.pt.

    python workflows/label.py --candidates md.traj --known frames.xyz --select-only --name next
    python -m nemp_sim.labelling results/label-next --calculator examples/gpaw_pd.py:calculator

The second command may run under another Python, one that has GPAW, ASE and NumPy alone. Run as a
script, this file shows its settings for a few structures.
"""

import math

from ase import Atoms
from ase.build import bulk, fcc111, molecule

from nemp_sim.labelling.labels import VACUUM_ANGSTROM, vacuum_gaps

KPOINT_LENGTH_ANGSTROM = 18.0  # cell length × k-points: 4 for a 2×2 slab of Pd, 5 for the fcc cube


def k_points(atoms: Atoms) -> tuple[int, ...]:
    """Γ-centred mesh: one point along axes with vacuum, else by the length of the cell vector."""
    lengths = atoms.cell.lengths()
    return tuple(
        1 if gap > VACUUM_ANGSTROM else math.ceil(KPOINT_LENGTH_ANGSTROM / length)
        for gap, length in zip(vacuum_gaps(atoms), lengths, strict=True)
    )


def cutoff_eV(atoms: Atoms) -> int:  # noqa: N802 (a unit in a name)
    """Plane-wave cutoff; C and O need more, and their labels then belong in a file of their own."""
    return 450 if {"C", "O"} & set(atoms.symbols) else 350


def calculator(atoms: Atoms) -> object:
    """GPAW for one structure; the box is made periodic, as plane waves want it.

    Raises:
        ValueError: a structure without a box.
    """
    if atoms.cell.rank < 3:
        raise ValueError("plane waves need a cell; put the structure into a box with 6 Å of vacuum")
    mesh = k_points(atoms)
    atoms.pbc = True
    from gpaw import GPAW, PW, FermiDirac, Mixer

    return GPAW(
        mode=PW(cutoff_eV(atoms)),
        xc="PBE",
        kpts={"size": mesh, "gamma": True},
        occupations=FermiDirac(0.1),
        mixer=Mixer(0.1, 5, 50),
        convergence={"energy": 2e-4, "density": 1e-3, "eigenstates": 1e-5},
        symmetry={"point_group": False},
        hund=len(atoms) == 1,
        txt=None,
    )


if __name__ == "__main__":
    slab = fcc111("Pd", (2, 2, 3), a=3.95, vacuum=5.5, periodic=True)
    gas = molecule("H2", cell=[8, 8, 8], pbc=True)
    for name, atoms in {"slab": slab, "bulk": bulk("Pd", a=3.95, cubic=True), "gas": gas}.items():
        mesh = " × ".join(map(str, k_points(atoms)))
        print(f"{name:5s} {atoms.symbols}: {mesh} k-points, plane waves to {cutoff_eV(atoms)} eV")
