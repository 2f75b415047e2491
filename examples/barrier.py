"""H on Pd(111), from slab to rate.

The barrier from the fcc to the hcp hollow, its saddle, and rate constants with tunnelling. The
command `nemp neb --full` does all of this and writes a report; here are its parts.
"""

# %%
from nemp_sim import load_potential
from nemp_sim.reactions.neb import BandSettings, run_neb
from nemp_sim.reactions.plots import arrhenius_figure, neb_profile
from nemp_sim.reactions.reaction import analyse
from nemp_sim.relax import relax
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import fcc_slab
from nemp_sim.views import two_views

potential = load_potential("pdh.pt", dtype="float64")  # second derivatives want float64

# %% [markdown]
# Both hollows of a three-layer slab, the lowest layer held, relaxed in one batch.

# %%
slab = fcc_slab()
ends = relax(potential, [place(slab, "H", "fcc"), place(slab, "H", "hcp")], 0.02, steps=200)
energies = [atoms.get_potential_energy() for atoms in ends.structures]
print(f"hcp lies {energies[1] - energies[0]:.3f} eV above fcc")

# %% [markdown]
# A band of five images: every optimiser step is one call of the potential.

# %%
band = run_neb(potential, *ends.structures, BandSettings(n_images=5))
print(f"barrier {band.barrier_forward_eV:.3f} eV after {band.model_calls} calls")
neb_profile(band, ("fcc", "hcp"))

# %% [markdown]
# The saddle is refined and proved: one imaginary mode, and steepest descent to both hollows.

# %%
reaction = analyse(potential, band, temperatures_K=range(150, 601, 25))
print(reaction.proof.sentence())
print(f"wavenumbers of H at the saddle: {reaction.modes[1].wavenumbers_cm1[[0, -2, -1]].round()}")
two_views(reaction.states, ("fcc", "saddle", "hcp"))

# %% [markdown]
# Rate constants of the hop, and those of D.

# %%
at = list(reaction.rates.temperature_K).index(300)
for name, rate_per_s in reaction.rates.rate_per_s.items():
    print(f"{name}: {rate_per_s[at]:.2e} 1/s at 300 K")
arrhenius_figure(reaction.rates, reaction.heavy, "H from fcc to hcp on Pd(111)")
