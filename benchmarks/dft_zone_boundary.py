"""Frequencies of Pd and Ag at X by DFT, to compare phonons of the potentials with.

    python benchmarks/dft_zone_boundary.py

Runs under a Python that has GPAW and ASE. In the tetragonal cell of two atoms X folds onto Γ, where
the two atoms move against each other: one of them is displaced by ±u along the axis (longitudinal)
or across it (transverse), and ν = √(2F/(u m))/2π with F the mean restoring force on it (the forces
on both add up to zero). Settings as in examples/gpaw_pd.py, but denser k-points and tighter.
Prints one table.
"""

import numpy as np
from ase import Atoms, units
from gpaw import GPAW, PW, FermiDirac

DISPLACEMENT_ANGSTROM = 0.03
K_POINTS = (12, 12, 8)
LATTICE_CONSTANTS = {"Pd": (3.89, 3.944), "Ag": (4.09, 4.15)}  # Å: experiment, about that of PBE
AXES = {"transverse": 0, "longitudinal": 2}
IN_THZ = 1e-12 * units.s  # of one over ASE's unit of time


def force_on_second(symbol: str, a: float, axis: int, shift: float) -> float:
    """Force in eV/Å along ``axis`` on the second atom, displaced by ``shift`` Å along it."""
    side = a / np.sqrt(2)
    places = [(0, 0, 0), (0.5, 0.5, 0.5)]
    atoms = Atoms([symbol] * 2, cell=[side, side, a], scaled_positions=places, pbc=True)
    atoms.positions[1, axis] += shift
    atoms.calc = GPAW(
        mode=PW(350),
        xc="PBE",
        kpts={"size": K_POINTS, "gamma": True},
        occupations=FermiDirac(0.1),
        convergence={"energy": 1e-5, "density": 1e-4, "forces": 1e-3},
        txt=None,
    )
    forces = atoms.get_forces()[:, axis]
    return float(forces[1] - forces[0]) / 2


def main() -> None:
    """Compute and print."""
    print("| crystal | a (Å) | X, transverse (THz) | X, longitudinal (THz) |\n|---|---:|---:|---:|")
    for symbol, constants in LATTICE_CONSTANTS.items():
        mass = Atoms(symbol).get_masses()[0]
        for a in constants:
            found = []
            for axis in AXES.values():
                u = DISPLACEMENT_ANGSTROM
                plus, minus = (force_on_second(symbol, a, axis, s) for s in (u, -u))
                curvature = (minus - plus) / 2 / u
                found.append(IN_THZ * np.sqrt(2 * curvature / mass) / (2 * np.pi))
            print(f"| {symbol} | {a:g} | {found[0]:.2f} | {found[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
