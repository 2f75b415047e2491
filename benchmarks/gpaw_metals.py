r"""Crystals of Ag and Pd for agpd.pt, and GPAW for them: the head `metals`.

    python benchmarks/gpaw_metals.py results/label-metals
    python -m nemp_sim.labelling results/label-metals --calculator \
        benchmarks/gpaw_metals.py:calculator

Energies of a metal converge slowly with k-points (bulk Pd, 0.1 eV of Fermi–Dirac smearing: 17 meV
between 10³ and 11³), so a mesh that changes with the lattice constant makes energies jump. Here it
depends on the shape of the cell alone, and the cells of one atom and of two sample alike: perfect
crystals in both agree to 0.7 meV/atom.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk

from nemp_sim.labelling.queue import write_queue

LATTICE_CONSTANT_ANGSTROM = {"Ag": 4.15, "Pd": 3.945}
SCALES = 0.98, 1.0, 1.025  # of the lattice constant
DISPLACED = (1.0, 0.06), (0.98, 0.08), (1.03, 0.08), (1.01, 0.12)  # scale, standard deviation (Å)
POINTS_PER_SIDE = 11.3, 8.0  # of an fcc cube: cells of one and two atoms, larger ones


def k_points(atoms: Atoms) -> tuple[int, ...]:
    """Γ-centred mesh of even numbers by the lengths of the cell in units of the fcc cube's side."""
    side = (4 * atoms.get_volume() / len(atoms)) ** (1 / 3)
    points = POINTS_PER_SIDE[len(atoms) > 2]
    return tuple(max(2, 2 * round(points * side / x / 2)) for x in atoms.cell.lengths())


def calculator(atoms: Atoms) -> object:
    """GPAW (PBE, plane waves to 450 eV) for one crystal; forces and energy, no usable stress."""
    from gpaw import GPAW, PW, FermiDirac, Mixer

    return GPAW(
        mode=PW(450),
        xc="PBE",
        kpts={"size": k_points(atoms), "gamma": True},
        occupations=FermiDirac(0.1),
        mixer=Mixer(0.1, 5, 50),
        convergence={"energy": 2e-5, "density": 1e-4, "eigenstates": 1e-6},
        symmetry={} if len(atoms) <= 2 else {"point_group": False},
        txt=None,
    )


def structures() -> list[Atoms]:
    """Equations of state; strains; frozen phonons at X and L of three amplitudes and volumes.

    Random displacements in three elongated cells, for modes between Γ and X, K and L, and in cells
    of eight atoms ("displaced"; "rattled": held out).
    """
    found = []
    rng, other, third = (np.random.default_rng(seed) for seed in range(3))

    def add(atoms: Atoms, kind: str) -> None:
        atoms.info["config_type"] = f"{atoms.symbols[0].lower()}_{kind}"
        found.append(atoms)

    for metal, side in LATTICE_CONSTANT_ANGSTROM.items():
        for scale in SCALES:
            moved = bulk(metal, a=side * scale).repeat((2, 2, 2))
            moved.positions += rng.normal(scale=0.08, size=moved.positions.shape)
            add(moved, "rattled")
        for scale, size in DISPLACED:
            moved = bulk(metal, a=side * scale).repeat((2, 2, 2))
            moved.positions += third.normal(scale=size, size=moved.positions.shape)
            add(moved, "displaced")
        for scale in (1.0, 1.02):
            for cell in _elongated_cells(metal, side * scale):
                cell.positions += other.normal(scale=0.06, size=cell.positions.shape)
                add(cell, "elongated")
        for scale in (0.95, 0.97, 0.985, 1.0, 1.015, 1.03, 1.06):
            add(bulk(metal, a=side * scale), "eos")
        for scale in SCALES:
            for moved in _frozen_phonons(metal, side * scale):
                add(moved, "phonon")
        for strain in (-0.04, -0.02, 0.02, 0.04):
            shear = np.eye(3)
            shear[0, 1] = shear[1, 0] = strain
            for change in (np.diag([1 + strain, 1 + strain, 1 / (1 + strain) ** 2]), shear):
                strained = bulk(metal, a=side)
                strained.set_cell(strained.cell.array @ change, scale_atoms=True)
                add(strained, "strain")
    return found


def _elongated_cells(metal: str, side: float) -> list[Atoms]:
    """Three or four atoms: with modes halfway to X and to K, and at a third of the way to L."""
    layers = _tetragonal(metal, side)
    return [
        layers.repeat((1, 1, 2)),
        layers.repeat((2, 1, 1)),
        bulk(metal, a=side).repeat((3, 1, 1)),
    ]


def _tetragonal(metal: str, side: float) -> Atoms:
    """The cell of two atoms."""
    edges = [side / 2**0.5, side / 2**0.5, side]
    return Atoms(f"{metal}2", scaled_positions=[(0, 0, 0), (0.5, 0.5, 0.5)], cell=edges, pbc=True)


def _frozen_phonons(metal: str, side: float) -> Iterator[Atoms]:
    """Cells of two atoms, displaced along the modes at X and L, along and across."""
    x_cell = _tetragonal(metal, side)
    l_cell = bulk(metal, a=side).repeat((2, 1, 1))
    along = np.linalg.inv(l_cell.cell.array).T[0]
    along /= np.linalg.norm(along)
    across = np.cross(along, [1.0, 0.0, 0.0])
    across /= np.linalg.norm(across)
    x_modes = [(x_cell, np.array([0.0, 0.0, 1.0])), (x_cell, np.array([1.0, 0.0, 0.0]))]
    for cell, direction in [*x_modes, (l_cell, along), (l_cell, across)]:
        for amplitude in (0.04, 0.12, 0.22):
            moved = cell.copy()
            moved.positions += np.outer([0.5, -0.5], amplitude * direction)
            yield moved


if __name__ == "__main__":
    wanted = structures()
    if len(sys.argv) > 1:
        write_queue(Path(sys.argv[1]), wanted)
    for atoms in wanted:
        mesh = " × ".join(map(str, k_points(atoms)))
        print(f"{atoms.info['config_type']:10s} {len(atoms)} atoms: {mesh} k-points")
