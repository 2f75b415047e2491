"""The physics list on one potential: ``nemp validate``.

Invariances and derivatives are rounding: they hold for every potential, inside its domain or not,
and only a fault of the program, of the device or of the dtype breaks them. The cutoff, the wall of
dimers and the conservation of energy also depend on the weights.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, product

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from scipy.spatial.transform import Rotation

from nemp_sim.calculator import NEMP
from nemp_sim.config import require
from nemp_sim.evaluation import has_stress
from nemp_sim.potential import Potential
from nemp_sim.structures import bare
from nemp_sim.systems import SYSTEMS
from nemp_sim.validation.approach import (
    departing_force,
    dimer,
    dimer_checks,
    lone_atom_checks,
    spike_limit,
)
from nemp_sim.validation.check import Check
from nemp_sim.validation.derivatives import force_errors, stress_errors
from nemp_sim.validation.dynamics import conservation, relax
from nemp_sim.validation.hydrogen import hydrogen_checks
from nemp_sim.validation.invariance import (
    Difference,
    batched,
    fragments,
    permuted,
    repeated,
    repeated_run,
    shifted_by_lattice,
    translated,
    turned,
)

NVE_PS, NVE_TIMESTEP_FS, NVE_K = 0.1, 0.5, 300.0
SMALL_CELL, MOST_ATOMS = 4, 40  # cells below are repeated; larger structures are left out
SPACING = 1.2  # of made structures, over the sum of the covalent radii


@dataclass(frozen=True)
class Limits:
    """Accepted differences for one dtype.

    Attributes:
        rounding_eV_per_atom: of energies per atom, from summing in another order.
        rounding_eV_per_A: of forces, likewise.
        force_eV_per_A: of forces from central differences.
        stress_eV_per_A3: of the stress from central differences.
        step: of the central differences, Å or strain.
        drift_meV: of NVE dynamics, meV/atom in ``NVE_PS``.
    """

    rounding_eV_per_atom: float
    rounding_eV_per_A: float
    force_eV_per_A: float
    stress_eV_per_A3: float
    step: float
    drift_meV: float


LIMITS = {
    torch.float64: Limits(1e-9, 1e-8, 1e-5, 1e-5, 1e-3, 0.01),
    torch.float32: Limits(1e-5, 5e-3, 2e-2, 2e-3, 1e-2, 0.05),
}


def structures_for(potential: Potential) -> list[Atoms]:
    """Built-in structures of a shipped potential, each atom a little off its place; else made ones.

    The made one holds each element of the potential on the sites of a cubic lattice.
    """
    own = [s for s in SYSTEMS.values() if s.potential == potential.name]
    built = [bare(s.build()) for s in own if s.head in (None, potential.head)]
    cells = [atoms * (2, 2, 2) if len(atoms) < SMALL_CELL else atoms for atoms in built]
    kept = {str(atoms.symbols): atoms for atoms in cells if len(atoms) <= MOST_ATOMS}
    chosen = list(kept.values()) or [_made(potential)]
    for seed, atoms in enumerate(chosen):
        atoms.set_constraint()
        atoms.rattle(0.03, seed=seed)
    return chosen


def _made(potential: Potential) -> Atoms:
    numbers = [atomic_numbers[s] for s in potential.elements]
    spacing = SPACING * 2 * max(covalent_radii[z] for z in numbers)
    sites = np.array(list(product(range(2), repeat=3))) * spacing
    symbols = [potential.elements[k % len(numbers)] for k in range(len(sites))]
    return Atoms(symbols, sites, cell=[2 * spacing] * 3, pbc=True)


def validate(potential: Potential, structures: Sequence[Atoms] | None = None) -> Iterator[Check]:
    """All checks in their order, each as soon as it is done.

    Args:
        potential: on the device and with the dtype that are to be checked.
        structures: what the checks of structures run on; None: ``structures_for``.

    Raises:
        InputError: no structures.
        NempError: as ``Potential.evaluate``.
    """
    given = structures_for(potential) if structures is None else [bare(s) for s in structures]
    require(bool(given), "structures", given, "at least one structure")
    limits = LIMITS[potential.dtype]
    for atoms in given:
        yield from invariance_checks(potential, atoms, limits)
        yield from derivative_checks(potential, atoms, limits)
    every = [*given, *(Atoms([s]) for s in potential.elements)]
    yield _rounding("batch = single", "all", limits, every, batched(potential, every))
    yield from cutoff_checks(potential, given[0], limits)
    for pair in combinations_with_replacement(potential.elements, 2):
        yield from dimer_checks(dimer(potential, pair), potential.cutoff_angstrom)
    yield from lone_atom_checks(potential)
    yield from hydrogen_checks(potential)
    yield dynamics_check(potential, given[0], limits)


def _rounding(  # noqa: PLR0913 (a line of the table)
    name: str, subject: str, limits: Limits, structures: Sequence[Atoms], found: Difference
) -> Check:
    """A line on results that should be equal."""
    energy = limits.rounding_eV_per_atom * max(1, *(len(atoms) for atoms in structures))
    force = limits.rounding_eV_per_A
    measured = f"{found.energy_eV:.1e} eV, {found.force_eV_per_A:.1e} eV/Å"
    wanted = f"< {energy:.1e} eV, < {force:.0e} eV/Å"
    passed = found.energy_eV < energy and found.force_eV_per_A < force
    return Check(name, subject, measured, wanted, passed)


def invariance_checks(potential: Potential, atoms: Atoms, limits: Limits) -> Iterator[Check]:
    """Other frames, orders and cells of one structure."""
    rng = np.random.default_rng(0)
    improper = -Rotation.random(random_state=0).as_matrix()
    subject, n = atoms.get_chemical_formula(), len(atoms)
    found = {
        "translation": translated(potential, atoms, rng.uniform(-20, 20, 3)),
        "rotation, inversion": turned(potential, atoms, improper),
        "permutation": permuted(potential, atoms, np.arange(n)[::-1]),
    }
    if atoms.pbc.any():
        jumps = rng.integers(-3, 4, (n, 3))
        found["lattice shift"] = shifted_by_lattice(potential, atoms, jumps)
        x, y, z = (2 if axis else 1 for axis in atoms.pbc)
        repeats = x, y, z
        found["extensivity"] = repeated(potential, atoms, repeats)
        grown = atoms * repeats
    else:
        apart = potential.cutoff_angstrom + 0.1
        found["separated fragments"] = fragments(potential, atoms, atoms, apart)
        grown = atoms + atoms
    for name, value in found.items():
        yield _rounding(name, subject, limits, [grown], value)
    again = repeated_run(potential, atoms)
    yield Check(
        *("repeated run", subject, f"{again.largest:.1e} eV or eV/Å", "the same bits"),
        passed=again.largest == 0,
    )


def derivative_checks(potential: Potential, atoms: Atoms, limits: Limits) -> Iterator[Check]:
    """Forces, and stress where there is one, against central differences."""
    subject = atoms.get_chemical_formula()
    chosen = sorted({0, len(atoms) // 2, len(atoms) - 1})
    error = float(np.abs(force_errors(potential, atoms, chosen, limits.step)).max())
    limit = limits.force_eV_per_A
    yield Check(
        *("forces = −dE/dr", subject, f"{error:.1e} eV/Å", f"< {limit:.0e} eV/Å"), error < limit
    )
    if has_stress(atoms) and len(atoms):
        error = float(np.abs(stress_errors(potential, atoms, limits.step / 4)).max())
        limit = limits.stress_eV_per_A3
        wanted = f"< {limit:.0e} eV/Å³"
        yield Check("stress = dE/dε / V", subject, f"{error:.1e} eV/Å³", wanted, error < limit)


def cutoff_checks(potential: Potential, atoms: Atoms, limits: Limits) -> Iterator[Check]:
    """An atom that leaves another one, and two copies of a structure beyond the cutoff."""
    for pair in combinations_with_replacement(potential.elements, 2):

        def two_atoms(d: float, pair: tuple[str, str] = pair) -> Atoms:
            return Atoms(pair, [[0] * 3, [0, 0, d]])

        force = departing_force(potential, two_atoms)
        limit = spike_limit(force)
        yield Check(
            *(
                "leaving the cutoff",
                "–".join(pair),
                f"{force.max():.3g} eV/Å, then {force[-1]:.0e}",
            ),
            wanted=f"no spike above {limit:.3g}, then 0",
            passed=bool(force.max() <= limit and force[-1] == 0),
        )
    molecule = Atoms(
        atoms.numbers, atoms.positions
    )  # dissociation: a copy far away changes nothing
    apart = fragments(potential, molecule, molecule, potential.cutoff_angstrom)
    subject = atoms.get_chemical_formula()
    yield _rounding("dissociation", subject, limits, [molecule + molecule], apart)


def dynamics_check(potential: Potential, atoms: Atoms, limits: Limits) -> Check:
    """Drift of the total energy of NVE dynamics from the relaxed structure."""
    moving = atoms.copy()
    moving.calc = NEMP(potential, on_extrapolation="ignore")
    relax(moving)
    found = conservation(moving, NVE_K, NVE_PS, NVE_TIMESTEP_FS)
    drift = abs(found.drift_meV)
    subject = f"{atoms.get_chemical_formula()}, {found.temperature_K:.0f} K"
    wanted = f"< {limits.drift_meV:g} meV/atom in {NVE_PS:g} ps"
    return Check(
        "NVE drift", subject, f"{drift:.1e} meV/atom", wanted, bool(drift < limits.drift_meV)
    )
