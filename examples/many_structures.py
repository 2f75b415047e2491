"""One call for many structures: an H atom carried over the Pd(111) surface."""

import numpy as np
from ase.build import add_adsorbate, fcc111

from nemp_sim import load_potential

potential = load_potential("pdh.pt")

structures = []
for fraction in np.linspace(0, 1, 9):
    slab = fcc111("Pd", (2, 2, 3), a=3.95, vacuum=8.0)
    a1, a2 = slab.cell[0] / 2, slab.cell[1] / 2
    top = slab.positions[8]
    xy = top + (a1 + a2) * (1 + fraction) / 3  # fcc → bridge → hcp, along the surface diagonal
    add_adsorbate(slab, "H", height=0.95, position=xy[:2])
    structures.append(slab)

result = potential.evaluate(structures)  # energies (B,) eV, B arrays of forces in eV/Å
for fraction, energy, forces in zip(
    np.linspace(0, 1, 9), result.energy - result.energy[0], result.forces, strict=True
):
    print(f"{fraction:.3f}  {energy:+.4f} eV  force on H {np.linalg.norm(forces[-1]):.3f} eV/Å")
