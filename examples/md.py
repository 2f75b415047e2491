"""Molecular dynamics: palladium at two temperatures, two replicas each, one model call a step."""

from nemp_sim.workflows.md import Settings, run

settings = Settings(
    structure="Pd",
    repeat=(2, 2, 2),
    temperature=(300.0, 900.0),
    replicas=2,
    picoseconds=0.2,  # a look; take 20
    equilibration=0.08,
    timestep=2.0,
    every=2,
    frames_every=5,
    fresh=True,
)
result = run(settings)
for found in result.found.runs:
    kinetic, energy = found.kinetic_K, found.potential_eV
    print(f"{found.temperature_K:g} K: kinetic {kinetic.mean:.0f} ± {kinetic.error:.0f} K")
    print(f"  potential energy {energy.mean:.3f} ± {energy.error:.3f} eV")
hottest = result.final[-1]  # ase.Atoms with momenta, to go on from
print(f"{hottest.get_chemical_formula()}: {hottest.get_temperature():.0f} K at the end")
print(f"trajectories, figures and report: {result.directory}")
