"""Phonons of palladium.

Force constants from one batched call, bands, density of states, and what heat makes of them. The
command `nemp phonons` does this and more; here are its parts.
"""

# %%
from ase.build import bulk

from nemp_sim import load_potential
from nemp_sim.minimum import relax_crystal
from nemp_sim.phonons.force_constants import build_phonopy, force_constants
from nemp_sim.phonons.plots import bands_and_dos, thermal_properties
from nemp_sim.phonons.spectra import spectra

potential = load_potential("pdh.pt", dtype="float64")

# %% [markdown]
# Positions and cell at their minimum.

# %%
relaxed = relax_crystal(potential, bulk("Pd", a=3.95))
print(f"lattice constant {relaxed.atoms.cell.lengths()[0] * 2**0.5:.4f} Å")

# %% [markdown]
# All displaced supercells are one call; phonopy makes force constants of them.

# %%
phonon = build_phonopy(relaxed.atoms)
constants = force_constants(potential, relaxed.atoms, phonon)
print(f"{len(phonon.supercell)} atoms in the supercell")

# %% [markdown]
# Bands and densities of states, on a mesh that is chosen.

# %%
found = spectra(constants)
print(f"highest frequency {found.max_THz:.2f} THz; imaginary modes: {len(found.imaginary)}")
bands_and_dos(found, "Pd, pdh.pt")

# %%
thermal_properties(found.thermal, len(phonon.primitive), "Pd, pdh.pt")
