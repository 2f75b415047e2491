"""H on Pd(111): relax with ASE's optimiser and print the adsorption energy and the stress."""

from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.constraints import FixAtoms
from ase.optimize import BFGS

from nemp_sim import NEMP

calc = NEMP("pdh.pt")

slab = fcc111("Pd", (2, 2, 3), a=3.95, vacuum=8.0)
slab.set_constraint(FixAtoms(mask=slab.positions[:, 2] < slab.positions[:, 2].min() + 0.1))
h_on_slab = slab.copy()
add_adsorbate(h_on_slab, "H", height=0.9, position="fcc")
h2 = Atoms("H2", [[0, 0, 0], [0, 0, 0.75]])

energies = {}
for name, atoms in {"slab": slab, "H on slab": h_on_slab, "H2": h2}.items():
    atoms.calc = calc
    BFGS(atoms, logfile=None).run(fmax=0.02, steps=200)
    energies[name] = atoms.get_potential_energy()
    print(f"{name}: {energies[name]:.4f} eV")

binding = energies["H on slab"] - energies["slab"] - 0.5 * energies["H2"]
print(f"E(H/Pd) - E(Pd) - 1/2 E(H2) = {binding:.3f} eV (no zero-point energy)")
print("stress of the slab:", h_on_slab.get_stress().round(5), "eV/Å³")
