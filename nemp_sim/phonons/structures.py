"""Structures of the phonon workflow: built in by name, or read from a file; masses of isotopes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import atomic_numbers
from ase.spacegroup import crystal

from nemp_sim.errors import InputError
from nemp_sim.files import read_with_ase
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import fcc_slab

DEUTERIUM_AMU = 2.014101778


@dataclass(frozen=True)
class BuiltIn:
    """A structure that needs no file.

    Attributes:
        build: makes it, near its minimum.
        potential: name of the shipped potential for it; None: none is shipped.
        head: read-out of that potential; None: the first.
        relax: "cell", "positions" or "auto".
    """

    build: Callable[[], Atoms]
    potential: str | None
    head: str | None = None
    relax: str = "auto"


def _rock_salt(hydrogen_amu: float | None = None) -> Atoms:
    atoms = bulk("PdH", "rocksalt", a=4.09)
    if hydrogen_amu is not None:
        atoms.set_masses([None, hydrogen_amu])
    return atoms


def _alternating_layers() -> Atoms:
    cell = 4.04 * (np.full((3, 3), 0.5) + 0.5 * np.eye(3))
    return Atoms("AgPd", scaled_positions=[[0, 0, 0], [0.5] * 3], cell=cell, pbc=True)


def _ice() -> Atoms:
    """Ice XI, the proton-ordered form of ice Ih, eight molecules in the orthorhombic cell.

    A. J. Leadbetter et al., J. Chem. Phys. 82, 424 (1985), 10.1063/1.448763: D2O at 5 K.
    """
    return crystal(
        ["O", "O", "H", "H", "H"],
        [
            (0.0, 0.6646, 0.0631),
            (0.5, 0.8255, -0.0631),
            (0.0, 0.6636, 0.1963),
            (0.0, 0.5363, 0.0183),
            (0.6766, 0.7748, -0.0183),
        ],
        spacegroup=36,
        cellpar=[4.465, 7.859, 7.292, 90, 90, 90],
    )


def _carbon_monoxide() -> Atoms:
    upright = Atoms("CO", [[0, 0, 0], [0, 0, 1.18]])
    return place(fcc_slab(fixed_layers=0), upright, "fcc", 1.28)


BUILT_IN: Mapping[str, BuiltIn] = {
    "Pd": BuiltIn(lambda: bulk("Pd", "fcc", a=3.95), "pdh.pt"),
    "Ag": BuiltIn(lambda: bulk("Ag", "fcc", a=4.15), "agpd.pt", "liquid"),
    "PdH": BuiltIn(_rock_salt, "pdh.pt"),
    "PdD": BuiltIn(lambda: _rock_salt(DEUTERIUM_AMU), "pdh.pt"),
    "AgPd": BuiltIn(_alternating_layers, "agpd.pt", "liquid"),
    "ice-Ih": BuiltIn(_ice, "water.pt", relax="positions"),
    "H2O": BuiltIn(lambda: molecule("H2O"), None),  # water.pt knows no lone molecule
    "CH3OH": BuiltIn(lambda: molecule("CH3OH"), "methanol.pt"),
    "H-Pd111": BuiltIn(lambda: place(fcc_slab(fixed_layers=0), "H", "fcc"), "pdh.pt"),
    "CO-Pd111": BuiltIn(_carbon_monoxide, None),
}
"""Pd, Ag: fcc; PdH, PdD: rock salt, H in every octahedral hole; AgPd: L1₁, layers of Ag and Pd in
turn along [111]; ice-Ih: see ``_ice``; H-Pd111, CO-Pd111: fcc site of a 2 × 2 cell, three layers.
"""


def read_structure(structure: str) -> Atoms:
    """A built-in structure by its name, or the last frame of a file.

    Raises:
        InputError: neither a name nor a file that can be read.
    """
    if structure in BUILT_IN:
        return BUILT_IN[structure].build()
    path = Path(structure)
    if not path.is_file():
        raise InputError(
            f"structure is {structure!r}, but that is neither a built-in one "
            f"({', '.join(BUILT_IN)}) nor a file. Check the path."
        )
    return read_with_ase(path, "structure")


def with_isotopes(atoms: Atoms, isotopes: str) -> Atoms:
    """A copy with other masses, given as "H=2.014 Pd=105.9" (amu).

    Raises:
        InputError: no such element in the structure, or no positive mass.
    """
    copy = atoms.copy()
    masses = copy.get_masses()
    for word in isotopes.replace(",", " ").split():
        symbol, _, text = word.partition("=")
        try:
            mass = float(text)
        except ValueError:
            mass = 0.0
        if symbol not in atomic_numbers or symbol not in copy.symbols or not 0 < mass < 400:
            raise InputError(
                f"isotopes is {isotopes!r}, but {word!r} is not an element of the structure "
                f"({' '.join(sorted(set(copy.symbols)))}) with a mass in amu, as in H=2.014."
            )
        masses[copy.symbols == symbol] = mass
    copy.set_masses(masses)
    return copy
