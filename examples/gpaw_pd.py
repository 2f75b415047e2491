"""A calculator for the labelling workflow: GPAW at the level of theory of pdh.pt.

    python workflows/label.py --candidates md.traj --known frames.xyz --select-only --name next
    python -m nemp_sim.labelling results/label-next --calculator examples/gpaw_pd.py:calculator

The second command may run under another Python, one that has GPAW, ASE and NumPy alone. With
``gpaw_pd.py:calculator_on_gpu`` GPAW (25.7, built for CUDA, with CuPy) runs on the GPU: start
several, they share the queue. Run as a script, this file shows its settings for a few structures.
"""

import math
from typing import Any

from ase import Atoms
from ase.build import bulk, fcc111, molecule

from nemp_sim.structures import GAP_ANGSTROM, vacuum_gaps

KPOINT_LENGTH_ANGSTROM = 18.0  # cell length × k-points: 4 for a 2×2 slab of Pd, 5 for the fcc cube


def k_points(atoms: Atoms) -> tuple[int, ...]:
    """Γ-centred mesh: one point along axes with vacuum, else by the length of the cell vector."""
    lengths = atoms.cell.lengths()
    return tuple(
        1 if gap > GAP_ANGSTROM else math.ceil(KPOINT_LENGTH_ANGSTROM / length)
        for gap, length in zip(vacuum_gaps(atoms), lengths, strict=True)
    )


def cutoff_eV(atoms: Atoms) -> int:  # noqa: N802 (a unit in a name)
    """Plane-wave cutoff; C and O need more, and their labels then belong in a file of their own."""
    return 450 if {"C", "O"} & set(atoms.symbols) else 350


def calculator(atoms: Atoms) -> object:
    """GPAW for one structure, made periodic as plane waves want it; ValueError without a box."""
    from gpaw import GPAW

    return GPAW(**_settings(atoms), hund=len(atoms) == 1)


def calculator_on_gpu(atoms: Atoms) -> object:
    """As ``calculator``, on the GPU; ValueError for lone atoms, which are spin-polarised."""
    if len(atoms) == 1:
        raise ValueError("a lone atom is spin-polarised; label it with gpaw_pd.py:calculator")
    from gpaw.new.ase_interface import GPAW

    return GPAW(**_settings(atoms), parallel={"gpu": True})


def _settings(atoms: Atoms) -> dict[str, Any]:
    if atoms.cell.rank < 3:
        raise ValueError("plane waves need a cell; put the structure into a box with 6 Å of vacuum")
    mesh = k_points(atoms)
    atoms.pbc = True
    from gpaw import PW, FermiDirac, Mixer

    return {
        "mode": PW(cutoff_eV(atoms)),
        "xc": "PBE",
        "kpts": {"size": mesh, "gamma": True},
        "occupations": FermiDirac(0.1),
        "mixer": Mixer(0.1, 5, 50),
        # a density converged to 1e-3 leaves 0.03 eV/Å of noise in the forces
        "convergence": {"energy": 2e-5, "density": 1e-4, "eigenstates": 1e-6},
        "symmetry": {"point_group": False},
        "txt": None,
    }


if __name__ == "__main__":
    slab = fcc111("Pd", (2, 2, 3), a=3.95, vacuum=5.5, periodic=True)
    gas = molecule("H2", cell=[8, 8, 8], pbc=True)
    for name, atoms in {"slab": slab, "bulk": bulk("Pd", a=3.95, cubic=True), "gas": gas}.items():
        mesh = " × ".join(map(str, k_points(atoms)))
        print(f"{name:5s} {atoms.symbols}: {mesh} k-points, plane waves to {cutoff_eV(atoms)} eV")
