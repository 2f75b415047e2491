"""H on Pd(111) as a quantum particle: a few steps of path-integral dynamics with i-PI.

For averages that mean something use workflows/pimd.py, or more steps here.
"""

from pathlib import Path

from nemp_sim import load_potential
from nemp_sim.pathintegral.averages import thermodynamics
from nemp_sim.pathintegral.input import Dynamics, prepare_start
from nemp_sim.pathintegral.run import simulate
from nemp_sim.pathintegral.structure import structure_averages
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import fcc_slab

potential = load_potential("pdh.pt")
start = prepare_start(place(fcc_slab(), "H", "fcc"))
dynamics = Dynamics(beads=4, temperature_K=300, steps=24, timestep_fs=0.5, every=1)
directory = Path("pimd-example")

simulate(potential, start, dynamics, directory)

energies = thermodynamics(directory, start, dynamics, skip=4)
structure = structure_averages(directory, start, skip=4)
for species, kinetic in energies.kinetic_cv_eV.items():
    spread = structure.gyration_A[species].mean
    print(f"{species}: kinetic energy {1e3 * kinetic.mean:.0f} meV, beads spread by {spread:.3f} Å")
print(f"input and output of i-PI in {directory}/")
