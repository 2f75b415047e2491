"""Model calls of saddle searches from the same guess: ours, ASE's dimer, Sella where installed.

python benchmarks/saddle_calls.py

H from fcc to hcp on Pd(111) with effective-medium theory and with pdh.pt, from the highest image of
a loose band; the torsion of methanol with methanol.pt, from an eclipsed guess off the saddle.
A call evaluates any number of structures. Ours takes its Hessian from central differences, all
displacements in one call. A search that ends elsewhere than ours, by 1 meV or with another number
of imaginary modes, says so instead of a count.
"""

from collections.abc import Callable

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.mep import DimerControl, MinModeAtoms, MinModeTranslate
from neb_calls import Counted, EMTEngine, OneByOne

from nemp_sim.checkpoint import load_potential
from nemp_sim.reactions.neb import BandSettings, run_neb
from nemp_sim.reactions.transition_state import refine_saddle
from nemp_sim.relax import Engine, relax
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import fcc_slab
from nemp_sim.vibrations import vibrations

FMAX = 2e-3  # eV/Å
STEPS = 300
SAME_EV = 1e-3


def by_ours(engine: Counted, guess: Atoms, along: np.ndarray) -> Atoms:
    """Eigenvector following; the direction of the band is not used."""
    return refine_saddle(engine, guess, FMAX, STEPS).atoms


def by_dimer(engine: Counted, guess: Atoms, along: np.ndarray) -> Atoms:
    """ASE's dimer, which starts along the band."""
    atoms = guess.copy()
    atoms.calc = OneByOne(engine)
    held = {int(i) for c in atoms.constraints for i in c.get_indices()}
    mask = [i not in held for i in range(len(atoms))]
    control = DimerControl(
        initial_eigenmode_method="displacement", displacement_method="vector", logfile=None
    )
    dimer = MinModeAtoms(atoms, control, mask=mask)
    dimer.displace(displacement_vector=0.02 * along / np.abs(along).max(), mask=mask)
    with MinModeTranslate(dimer, logfile=None) as job:
        job.run(fmax=FMAX, steps=STEPS)
    return atoms


def by_sella(engine: Counted, guess: Atoms, along: np.ndarray) -> Atoms:
    """Sella of order one, with its own defaults."""
    from sella import Sella  # not a dependency

    atoms = guess.copy()
    atoms.calc = OneByOne(engine)
    job = Sella(atoms, order=1, internal=False, logfile=None)
    job.run(fmax=FMAX, steps=STEPS)
    return atoms


SEARCHES: dict[str, Callable[[Counted, Atoms, np.ndarray], Atoms]] = {
    "ours": by_ours,
    "ASE dimer": by_dimer,
    "Sella": by_sella,
}


def hop(engine: Engine) -> tuple[Atoms, np.ndarray]:
    """Highest image of a loose band of H from fcc to hcp, and the direction of the band."""
    slab = fcc_slab()
    ends = relax(engine, [place(slab, "H", s) for s in ("fcc", "hcp")], 0.005, 200).structures
    band = run_neb(engine, *ends, BandSettings(5, fmax_eV_per_A=0.1))
    top = band.saddle_index
    guess = band.images[top].copy()
    return guess, band.images[top + 1].positions - guess.positions


def torsion(engine: Engine) -> tuple[Atoms, np.ndarray]:
    """Methanol with its OH turned by 55° about the C–O bond, and the direction of the turn."""
    atoms = relax(engine, [molecule("CH3OH")], 0.005, 200).structures[0].copy()
    carbon, oxygen = (atoms.symbols.indices()[s][0] for s in "CO")
    proton = int(np.argmin([atoms.get_distance(oxygen, i) if n == 1 else 9.0
                            for i, n in enumerate(atoms.numbers)]))  # fmt: skip
    methyl = next(i for i, n in enumerate(atoms.numbers) if n == 1 and i != proton)
    turned = []
    for angle in (55, 60):
        copy = atoms.copy()
        copy.rotate_dihedral(methyl, carbon, oxygen, proton, angle, indices=[proton])
        turned.append(copy)
    return turned[0], turned[1].positions - turned[0].positions


def main() -> None:
    """Print one line for each case and search."""
    pdh, methanol = (load_potential(n, "cpu", "float64") for n in ("pdh.pt", "methanol.pt"))
    emt = EMTEngine()
    cases = {
        "H/Pd(111), EMT": (emt, hop(emt)),
        "H/Pd(111), pdh.pt": (pdh, hop(pdh)),
        "CH3OH torsion, methanol.pt": (methanol, torsion(methanol)),
    }
    print(f"{'case':28s} {'search':10s} {'calls':>6s} {'structures':>11s}")
    for case, (engine, (guess, along)) in cases.items():
        wanted = None
        for name, search in SEARCHES.items():
            counted = Counted(engine)
            try:
                found = search(counted, guess, along)
            except ImportError:
                print(f"{case:28s} {name:10s} not installed")
                continue
            energy = float(engine.evaluate([found]).energy[0])
            modes = vibrations(engine, found).n_imaginary
            wanted = wanted or (energy, modes)
            line = f"{counted.calls:6d} {counted.structures:11d}"
            if abs(energy - wanted[0]) > SAME_EV or modes != wanted[1]:
                line = f"ends elsewhere: {1e3 * (energy - wanted[0]):+.0f} meV, {modes} imaginary"
            print(f"{case:28s} {name:10s} {line}", flush=True)


if __name__ == "__main__":
    main()
