"""Element-wise sanity of a potential: dimers, lone atoms, crystals, hot molecular dynamics.

    python benchmarks/sanity.py pdh.pt
    python benchmarks/sanity.py potentials/agcho.pt --device cuda --md-ps 20

* Dimers of every pair of elements from 0.5 Å to beyond the cutoff: no kink (second difference in
  steps of 0.005 Å against its neighbours), a wall at 0.5 Å, a first minimum no shorter than half
  the sum of the covalent radii, no second well deeper than 0.1 eV, exactly the lone atoms' energy
  beyond the cutoff.
* A lone atom has the reference energy that the training gave it.
* H beside H2, and H2 beside H2, from 0.8 Å on: not bound to each other, as by any functional.
* Equation of state of the crystals that the training holds, against published PBE values.
* Langevin dynamics at 1.5 times the highest temperature of the training data: finite forces, every
  atom keeps a neighbour, no two atoms meet, mean temperature as set.

Prints a table, writes sanity.json and dimers.png into --out; exit code 1 where a check fails.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import combinations_with_replacement
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule
from ase.collections import dcdft
from ase.constraints import FixAtoms
from ase.data import covalent_radii
from ase.eos import EquationOfState
from ase.md.langevin import Langevin
from ase.optimize import FIRE

from nemp_sim import NEMP, load_potential
from nemp_sim.plots import BLACK, BLUE, FONT_POINTS, GREY, new_figure, save_figure
from nemp_sim.potential import Potential
from nemp_sim.validation.approach import (
    Dimer,
    dimer,
    dimer_checks,
    dimer_shape_checks,
    lone_atom_checks,
)
from nemp_sim.validation.check import Check
from nemp_sim.validation.hydrogen import hydrogen_checks

# Largest relative deviation from the published value: lattice constant, bulk modulus.
LATTICE_TOLERANCE, BULK_TOLERANCE = 0.02, 0.25
# Crystals in the training data of each shipped potential that have a PBE level of theory.
CRYSTALS = {"pdh": ("Pd", "PdH"), "pdco": ("Pd", "PdH"), "agpd": ("Ag", "Pd")}
# Highest temperature of the training data, K (docs/data.md); agcho and agpd state none: assumed.
TRAINING_K = {"pdh": 900, "pdco": 900, "agcho": 500, "methanol": 500, "agpd": 1500}
TRAINING_K |= {"water": 330, "water-small": 330}
CLOSEST, FARTHEST = 0.55, 1.6  # distances of neighbours over the sum of covalent radii
LOOK_EVERY = 10  # steps of the dynamics between looks at the distances; forces are seen at each


def parse_options() -> argparse.Namespace:
    """Command-line options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("potential", help="path or name")
    parser.add_argument("--head", help="read-out; the first one where it is left out")
    parser.add_argument("--out", type=Path, default=Path("results/sanity"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", help="of the dynamics; statics are float64")
    parser.add_argument("--skip-md", action="store_true")
    parser.add_argument("--md-ps", type=float, default=5.0)
    parser.add_argument("--timestep-fs", type=float, default=0.5)
    parser.add_argument("--temperature-K", type=float, help="of the dynamics")
    parser.add_argument("--structure", type=Path, help="for the dynamics (any ASE format)")
    return parser.parse_args()


def equation_of_state(potential: Potential, crystal: Atoms) -> tuple[float, float]:
    """Volume per cell (Å³) and bulk modulus (GPa) from nine volumes within ± 4 % of the lattice."""
    cells = [crystal.copy() for _ in range(9)]
    for cell, scale in zip(cells, np.linspace(0.96, 1.04, 9), strict=True):
        cell.set_cell(cell.cell * scale, scale_atoms=True)
    energy = potential.evaluate(cells).energy
    state = EquationOfState([c.get_volume() for c in cells], energy, eos="birchmurnaghan")
    volume, _, modulus = state.fit(warn=False)
    return float(volume), float(modulus / units.GPa)


def crystal_checks(potential: Potential, name: str) -> Iterator[Check]:
    """Lattice constant and bulk modulus of the crystals in the training data of ``name``.

    Elements: WIEN2k PBE values of K. Lejaeghere et al., Crit. Rev. Solid State Mater. Sci. 39, 1
    (2014), as ASE ships them (``ase.collections.dcdft``). PdH (rocksalt): only that it is wider
    than the metal.
    """
    for formula in CRYSTALS.get(name, ()):
        metal = "Pd" if formula == "PdH" else formula
        pbe = dcdft.data[metal]
        a_pbe = float(np.cbrt(4 * pbe["wien2k_volume"]))
        kind = "rocksalt" if formula == "PdH" else "fcc"
        start = bulk(formula, kind, a=a_pbe * (1.04 if formula == "PdH" else 1), cubic=True)
        try:
            volume, modulus = equation_of_state(potential, start)
        except (RuntimeError, ValueError) as error:
            yield Check("crystal", formula, f"{error}"[:22], "a minimum", False)
            continue
        a = float(np.cbrt(volume))
        if formula == "PdH":
            wanted = f"{a_pbe:.3f} (Pd, PBE) to {1.08 * a_pbe:.3f} Å"
            inside = a_pbe < a < 1.08 * a_pbe
            yield Check("lattice constant", formula, f"{a:.3f} Å", wanted, inside)
            yield Check("bulk modulus", formula, f"{modulus:.0f} GPa", "> 0", modulus > 0)
            continue
        for what, ours, other, unit, tolerance in (
            ("lattice constant", a, a_pbe, "Å", LATTICE_TOLERANCE),
            ("bulk modulus", modulus, pbe["wien2k_B"], "GPa", BULK_TOLERANCE),
        ):
            wanted = f"{other:.4g} {unit} (PBE) ± {100 * tolerance:.0f} %"
            passed = abs(ours / other - 1) < tolerance
            yield Check(what, formula, f"{ours:.4g} {unit}", wanted, passed)


def adsorbed(metal: str, a: float, size: tuple[int, int, int], adsorbate: Atoms) -> Atoms:
    """A molecule above the fcc hollow of a (111) slab, the lowest layer held."""
    slab = fcc111(metal, size, a=a, vacuum=8.0)
    vectors = slab.cell[:2] / np.array(size[:2])[:, None]
    hollow = slab.positions[slab.positions[:, 2].argmax()] + vectors.sum(axis=0) / 3
    part = adsorbate.copy()
    part.positions += hollow - part.positions[0]
    part.positions[:, 2] += 1.2
    slab.set_constraint(FixAtoms(indices=np.flatnonzero(slab.get_tags() == size[2])))
    return slab + part


def water_box() -> Atoms:
    """64 water molecules of random orientation on a 4×4×4 lattice at 1 g/cm³."""
    rng, side = np.random.default_rng(0), 12.4447
    box = Atoms(cell=[side] * 3, pbc=True)
    for site in np.ndindex(4, 4, 4):
        water = molecule("H2O")
        water.rotate(rng.uniform(0, 360), rng.normal(size=3))
        water.positions += (np.array(site) + 0.5) * side / 4 - water.positions[0]
        box += water
    return box


def structure_for(name: str) -> Atoms | None:
    """What the dynamics of a shipped potential start from; None for other potentials."""
    alloy = bulk("Ag", a=4.02, cubic=True) * (2, 2, 2)
    alloy.symbols[np.random.default_rng(0).permutation(32)[:16]] = "Pd"
    made = {
        "pdh": lambda: adsorbed("Pd", 3.95, (2, 2, 3), Atoms("H")),
        "pdco": lambda: adsorbed("Pd", 3.95, (2, 2, 3), Atoms("CO", [(0, 0, 0), (0, 0, 1.15)])),
        "agcho": lambda: adsorbed("Ag", 3.89, (4, 4, 4), oxygen_down(molecule("CH3O"))),
        "methanol": lambda: molecule("CH3OH"),
        "water": water_box,
        "water-small": water_box,
        "agpd": lambda: alloy,
    }
    return made[name]() if name in made else None


def oxygen_down(methoxy: Atoms) -> Atoms:
    """CH3O with O first and the C–O axis upwards."""
    o, c = (int(np.flatnonzero(methoxy.symbols == s)[0]) for s in "OC")
    turned = methoxy.copy()
    turned.rotate(turned.positions[c] - turned.positions[o], (0, 0, 1))
    return turned[[o, *[i for i in range(len(turned)) if i != o]]]


def neighbour_ratios(atoms: Atoms) -> np.ndarray:
    """(N,) distance of each atom's nearest neighbour over the sum of both covalent radii."""
    distances = atoms.get_all_distances(mic=bool(atoms.pbc.any()))
    np.fill_diagonal(distances, np.inf)
    radii = covalent_radii[atoms.numbers]
    return (distances / (radii[:, None] + radii)).min(axis=1)


def dynamics_checks(atoms: Atoms, temperature_K: float, ps: float, dt_fs: float) -> Iterator[Check]:
    """Relax a little, then Langevin dynamics; the worst of what was seen on the way."""
    subject = f"{atoms.get_chemical_formula()}, {temperature_K:.0f} K, {ps:g} ps"
    FIRE(atoms, logfile=None).run(fmax=0.1, steps=100)
    rng = np.random.default_rng(0)
    width = np.sqrt(atoms.get_masses() * units.kB * temperature_K)
    atoms.set_momenta(rng.normal(size=(len(atoms), 3)) * width[:, None])
    thermostat = {"temperature_K": temperature_K, "friction": 0.02 / units.fs, "fixcm": False}
    run = Langevin(atoms, dt_fs * units.fs, **thermostat, rng=rng)
    force, closest, farthest, temperatures = 0.0, np.inf, 0.0, []
    reason = ""
    try:
        for step, _ in enumerate(run.irun(round(1000 * ps / dt_fs))):
            force = max(force, float(np.linalg.norm(atoms.get_forces(), axis=1).max()))
            temperatures.append(atoms.get_temperature())
            if step % LOOK_EVERY == 0:
                ratios = neighbour_ratios(atoms)
                closest, farthest = min(closest, ratios.min()), max(farthest, ratios.max())
    except Exception as error:  # whatever the calculator says of a structure that blew up
        reason = f": {error}"[:60]
    done = len(temperatures) * dt_fs / 1000
    yield Check("dynamics ends", subject, f"{done:.2f} ps{reason}", f"{ps:g} ps", not reason)
    if not temperatures:
        return
    mean = float(np.mean(temperatures[len(temperatures) // 4 :]))
    free = len(atoms) - sum(len(c.index) for c in atoms.constraints)
    # Spread of the mean kinetic temperature: 3 free atoms' degrees of freedom, 0.1 ps a sample.
    spread = 4 * np.sqrt(2 / (3 * free * max(1.0, 7.5 * done)))
    low, high = temperature_K * max(0, 1 - spread), temperature_K * (1 + spread)
    inside = low < mean < high
    yield Check("dynamics T", subject, f"{mean:.0f} K", f"{low:.0f} to {high:.0f} K", inside)
    limit = "< 50 eV/Å"
    yield Check("dynamics largest force", subject, f"{force:.1f} eV/Å", limit, force < 50)
    wanted = f"> {CLOSEST} of covalent radii"
    yield Check("dynamics closest", subject, f"{closest:.2f}", wanted, bool(closest > CLOSEST))
    wanted = f"< {FARTHEST} of covalent radii"
    name = "dynamics most remote"
    yield Check(name, subject, f"{farthest:.2f}", wanted, bool(farthest < FARTHEST))


def draw(curves: list[Dimer], path: Path) -> None:
    """All dimer curves, one panel a pair."""
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure, axes = new_figure((2.7 * columns, 2.2 * rows + 0.8))
    axes.remove()
    for index, curve in enumerate(curves):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.tick_params(direction="in", top=True, right=True, labelsize=FONT_POINTS - 2)
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.plot(curve.distance_A, curve.energy_eV, color=BLUE, linewidth=1.4)
        low = min(curve.energy_eV.min(), -0.5)
        axes.set_ylim(1.15 * low, -1.5 * low)
        axes.set_title(curve.name, fontsize=FONT_POINTS, color=BLACK)
    figure.supxlabel("Distance (Å)", fontsize=FONT_POINTS)
    figure.supylabel("Energy above lone atoms (eV)", fontsize=FONT_POINTS)
    save_figure(figure, path)


def start_structure(options: argparse.Namespace, name: str) -> Atoms | None:
    """The structure of the dynamics, if there is any."""
    if options.structure:
        return ase.io.read(options.structure, index=0)
    return structure_for(name)


def main() -> None:
    """Run all checks, print the table, write the files."""
    options = parse_options()
    potential = load_potential(options.potential, options.device, "float64", options.head)
    name = Path(options.potential).stem
    pairs = combinations_with_replacement(potential.elements, 2)
    curves = [dimer(potential, pair) for pair in pairs]
    checks = [c for curve in curves for c in dimer_shape_checks(curve)]
    checks += [c for curve in curves for c in dimer_checks(curve, potential.cutoff_angstrom)]
    checks += [*lone_atom_checks(potential), *hydrogen_checks(potential)]
    checks += crystal_checks(potential, name)
    atoms = None if options.skip_md else start_structure(options, name)
    if atoms is not None:
        atoms.calc = NEMP(options.potential, options.device, options.dtype, head=options.head)
        hot = options.temperature_K or 1.5 * TRAINING_K.get(name, 300)
        checks += dynamics_checks(atoms, hot, options.md_ps, options.timestep_fs)
    elif not options.skip_md:
        print(f"no dynamics: give a --structure for {name}", file=sys.stderr)
    out = options.out / name
    out.mkdir(parents=True, exist_ok=True)
    draw(curves, out / "dimers.png")
    (out / "sanity.json").write_text(
        json.dumps([asdict(c) for c in checks], indent=1, default=bool)
    )
    for c in checks:
        print(c.line)
    failed = sum(not c.passed for c in checks)
    print(f"{name}: {len(checks) - failed} passed, {failed} failed; files in {out}/")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
