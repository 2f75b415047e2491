"""Structures that the workflows build by name, and the shipped potential of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.spacegroup import crystal
from scipy.spatial.transform import Rotation

from nemp_sim.errors import InputError
from nemp_sim.files import read_structure
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import fcc_slab, freeze_lowest_layers
from nemp_sim.units import DEUTERIUM_AMU

WATER_BOX_ANGSTROM = 12.44  # of 64 molecules, as in the training data of water.pt
CO_LENGTH_ANGSTROM = 1.18
CO_HEIGHT_ANGSTROM = 1.3  # of C above the top layer, in a hollow


@dataclass(frozen=True)
class System:
    """A structure that needs no file.

    Attributes:
        build: makes it, near its minimum; nothing is held.
        kind: "crystal" (a few atoms, repeated), "slab", "molecule" or "liquid".
        potential: name of the shipped potential for it; None: none is shipped.
        head: read-out of that potential; None: the only one.
        relax: what a search for the minimum may move: "positions", or "auto" for the cell of
            crystals too.
        measured_angstrom: lattice constant of a cubic crystal at room temperature, Å, as measured;
            None: not cubic, or not known.
    """

    build: Callable[[], Atoms]
    kind: str
    potential: str | None
    head: str | None = None
    relax: str = "auto"
    measured_angstrom: float | None = None


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


def _hydrogen() -> Atoms:
    return place(fcc_slab(fixed_layers=0), "H", "fcc")


def _carbon_monoxide() -> Atoms:
    carbon_first = Atoms("CO", [[0, 0, 0], [0, 0, CO_LENGTH_ANGSTROM]])
    return place(fcc_slab(fixed_layers=0), carbon_first, "fcc", CO_HEIGHT_ANGSTROM)


def water_box(repeats: int, box_angstrom: float, seed: int = 1) -> Atoms:
    """Water molecules of random orientation on a simple cubic lattice: a start for a liquid.

    Args:
        repeats: molecules along each axis.
        box_angstrom: edge of the cube, Å.
        seed: of the orientations.
    """
    turns = Rotation.random(repeats**3, random_state=seed)
    box = Atoms(cell=[box_angstrom] * 3, pbc=True)
    for corner, turn in zip(np.ndindex(*[repeats] * 3), turns, strict=True):
        water = molecule("H2O")
        places = turn.apply(water.positions - water.get_center_of_mass())
        water.positions = places + (np.array(corner) + 0.5) * (box_angstrom / repeats)
        box += water
    return box


SYSTEMS: Mapping[str, System] = {
    "Pd": System(lambda: bulk("Pd", "fcc", a=3.95), "crystal", "pdh.pt", None, "auto", 3.89),
    "Ag": System(lambda: bulk("Ag", "fcc", a=4.15), "crystal", "agpd.pt", "metals", "auto", 4.086),
    "PdH": System(_rock_salt, "crystal", "pdh.pt"),
    "PdD": System(lambda: _rock_salt(DEUTERIUM_AMU), "crystal", "pdh.pt"),
    "AgPd": System(_alternating_layers, "crystal", "agpd.pt", "liquid"),
    "ice-Ih": System(_ice, "crystal", "water.pt", relax="positions"),
    "h-pd111": System(_hydrogen, "slab", "pdh.pt"),
    "co-pd111": System(_carbon_monoxide, "slab", "pdco.pt", "pw450"),
    "methanol": System(lambda: molecule("CH3OH"), "molecule", "methanol.pt"),
    "H2O": System(lambda: molecule("H2O"), "molecule", None),  # water.pt knows no lone molecule
    "water": System(lambda: water_box(4, WATER_BOX_ANGSTROM), "liquid", "water.pt"),
}
"""Pd, Ag: fcc; PdH, PdD: rock salt, H in every octahedral hole; AgPd: L1₁, layers of Ag and Pd in
turn along [111]; ice-Ih: see ``_ice``; h-pd111, co-pd111: fcc site of a 2 × 2 cell, three layers;
water: 64 molecules.
"""


def systems_of(*kinds: str) -> dict[str, System]:
    """The built-in systems of some kinds, by name."""
    return {name: system for name, system in SYSTEMS.items() if system.kind in kinds}


def read_system(
    name: str,
    built_in: Mapping[str, System] = SYSTEMS,
    argument: str = "system",
    fixed_layers: int = 0,
) -> Atoms:
    """A built-in structure by its name, or the last frame of a file.

    Args:
        name: one of ``built_in``, or a file.
        built_in: systems that are known by name.
        argument: what error messages call ``name``.
        fixed_layers: lowest layers held where the structure holds no constraints.

    Raises:
        InputError: neither a name nor a file that can be read; no such layers.
    """
    if name in built_in:
        atoms = built_in[name].build()
    else:
        path = Path(name)
        if not path.is_file():
            raise InputError(
                f"{argument} is {name!r}, but that is neither built in ({', '.join(built_in)}) nor "
                "a file. Check the path."
            )
        atoms = read_structure(path, argument)
    if atoms.constraints or not fixed_layers:
        return atoms
    return freeze_lowest_layers(atoms, fixed_layers)


def choose_potential(
    name: str,
    potential: str | None,
    head: str | None,
    built_in: Mapping[str, System] = SYSTEMS,
    argument: str = "system",
) -> tuple[str, str | None]:
    """The potential and read-out that the user gives, or those of a built-in system.

    Raises:
        InputError: none is given, and the system has no shipped one.
    """
    if potential is not None:
        return potential, head
    own = {key: (s.potential, s.head) for key, s in built_in.items() if s.potential}
    if name not in own:
        there = name in built_in or Path(name).is_file()
        also = "" if there else f" (and there is no file {name!r}: check the path)"
        raise InputError(
            f"{argument} is {name!r} and potential is not given, but only {', '.join(own)} have a "
            f"shipped one{also}. Give --potential: nemp list names those that are there."
        )
    shipped, its_head = own[name]
    return shipped, head or its_head
