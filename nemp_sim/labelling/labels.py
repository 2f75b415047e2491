"""One label: find the calculator that the user names, and compute energy, forces and stress.

Needs only ASE and NumPy.
"""

import difflib
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.stress import voigt_6_to_full_3x3_stress

from nemp_sim.errors import InputError
from nemp_sim.files import sha256_of
from nemp_sim.structures import GAP_ANGSTROM, vacuum_gaps

BUILT_IN = {"emt": "ase.calculators.emt:EMT"}

Factory = Callable[[Atoms], object]


def find_calculator(name: str) -> tuple[Factory, str]:
    """The factory ``name``, and an identity that changes with its source file.

    Args:
        name: "emt", "module:function" or "path/to/file.py:function". The function takes the Atoms
            and returns an ASE calculator; a calculator class is called without arguments.

    Raises:
        InputError: nothing of that name, or a file that cannot be imported.
    """
    place, _, function = BUILT_IN.get(name, name).rpartition(":")
    if not place or not function:
        near = difflib.get_close_matches(name, BUILT_IN, n=1)
        raise InputError(
            f"calculator is {name!r}, but must be {', '.join(map(repr, BUILT_IN))}, "
            "'module:function' or 'path/to/file.py:function'."
            + (f" Did you mean {near[0]!r}?" if near else "")
        )
    module = _import(name, place)
    factory = getattr(module, function, None)
    if not callable(factory):
        known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        near = difflib.get_close_matches(function, known, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else "Check the name after the colon."
        raise InputError(f"calculator is {name!r}, but {place} has no function {function}. {hint}")
    source = inspect.getsourcefile(module)
    identity = f"{Path(place).name}:{function}"
    if place.endswith(".py") and source:  # installed modules are known by name
        identity += f" sha256:{sha256_of(Path(source))[:16]}"
    if isinstance(factory, type):
        return lambda atoms: factory(), identity
    return factory, identity


def _import(name: str, place: str) -> ModuleType:
    if place.endswith(".py") and not Path(place).is_file():
        raise InputError(f"calculator is {name!r}, but there is no file {place}. Check the path.")
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    except Exception as error:  # the user's own code may raise anything
        raise InputError(
            f"calculator is {name!r}, but importing {place} failed ({type(error).__name__}: "
            f"{error}). Mend it, or use the Python that has what it needs: "
            "python -m nemp_sim.labelling needs only ASE and NumPy."
        ) from error


def compute_label(atoms: Atoms, factory: Factory, stress: bool = False) -> Atoms:
    """A copy of ``atoms`` with its labels.

    REF_energy is the energy that belongs to the forces (the free energy at finite electronic
    temperature) where the calculator gives one, else the plain energy; REF_energy_T0 is the plain
    one where both differ. eV, eV/Å, eV/Å³.

    Args:
        atoms: the structure; its info and arrays are kept.
        factory: makes the calculator. It may prepare the Atoms that it gets (magnetic moments,
            periodicity of the box); positions and cell of the label are those of ``atoms``.
        stress: also REF_stress (9 numbers), of bulk alone: periodic axes without vacuum.

    Raises:
        ValueError: labels that are not finite, or of other positions.
        Exception: whatever the calculator raises.
    """
    working = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    working.calc = factory(working)
    plain = float(working.get_potential_energy())
    forces = np.array(working.get_forces(apply_constraint=False), dtype=float)
    energy = _free_energy(working, plain)
    if working.positions.shape != atoms.positions.shape or not (
        np.array_equal(working.positions, atoms.positions)
        and np.array_equal(working.cell.array, atoms.cell.array)
    ):
        raise ValueError("the calculator changed positions or cell; its labels are of another one")
    labelled = atoms.copy()
    labelled.info["REF_energy"] = energy
    if energy != plain:
        labelled.info["REF_energy_T0"] = plain
    labelled.set_array("REF_forces", forces, shape=(3,))
    values = [energy, plain, *forces.ravel()]
    if stress and (vacuum_gaps(atoms) < GAP_ANGSTROM).all():
        tensor = voigt_6_to_full_3x3_stress(working.get_stress(apply_constraint=False))
        labelled.info["REF_stress"] = tensor.ravel()
        values += tensor.ravel().tolist()
    if not np.isfinite(values).all():
        raise ValueError("energy, forces or stress are not finite")
    return labelled


def _free_energy(atoms: Atoms, plain: float) -> float:
    try:
        return float(atoms.get_potential_energy(force_consistent=True))
    except (PropertyNotImplementedError, NotImplementedError):
        return plain
