"""Structures that lost their cell, or whose lengths are in Bohr, refused before any work.

A start may lie outside the trained domain and relax into it; a slab whose cell was lost may, too,
by becoming a cluster, and its numbers look like those of a slab.
"""

from collections.abc import Mapping

from ase import Atoms

from nemp_sim.domain import Finding
from nemp_sim.errors import InputError
from nemp_sim.potential import Potential
from nemp_sim.units import BOHR_ANGSTROM
from nemp_sim.watch import Watch

LOW_KINDS = ("coordination", "isolation")  # too few neighbours, or none
MANY_ATOMS = 4  # fewer are a molecule


def check_start(engine: object, structures: Mapping[str, Atoms]) -> None:
    """Refuse structures outside the domain whose cell is lost, or that fit in Bohr.

    Engines other than a Potential, and a policy of "ignore", are not judged.

    Args:
        engine: what will evaluate the structures.
        structures: by the name that the message gives them.

    Raises:
        InputError: naming the structure and what is probably wrong with it.
    """
    if not isinstance(engine, Potential) or engine.watch.policy == "ignore" or not structures:
        return
    for name, found in _judged(engine, structures).items():
        atoms = structures[name]
        thin = [f for f in found if f.kind in LOW_KINDS]
        if thin and not atoms.pbc.any() and len(atoms) >= MANY_ATOMS:
            raise InputError(
                f"{name} ({atoms.get_chemical_formula()}) is not periodic, and {engine.name} knows "
                f"no such atoms in vacuum ({thin[0]}). Was the cell lost? A plain .xyz file keeps "
                "neither cell nor constraints: write .extxyz, .traj or POSCAR. A real cluster: "
                "--on-extrapolation ignore."
            )
        if found and not _judged(engine, {name: _from_bohr(atoms)})[name]:
            raise InputError(
                f"{name} ({atoms.get_chemical_formula()}) is outside what {engine.name} was "
                f"trained on ({found[0]}), but inside if its lengths are in Bohr. Give positions "
                "and cell in Å."
            )


def _judged(engine: Potential, structures: Mapping[str, Atoms]) -> dict[str, tuple[Finding, ...]]:
    """What is outside in each, without a trace in the engine's own watch."""
    if not structures:
        return {}
    watch, engine.watch = engine.watch, Watch(engine.name, policy="ignore")
    try:
        outside = engine.evaluate(list(structures.values()), forces=False).outside
    finally:
        engine.watch = watch
    return dict(zip(structures, outside, strict=True))


def _from_bohr(atoms: Atoms) -> Atoms:
    cell = atoms.cell.array * BOHR_ANGSTROM
    return Atoms(atoms.numbers, atoms.positions * BOHR_ANGSTROM, cell=cell, pbc=atoms.pbc)
