"""Structures that the workflows build by name."""

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from scipy.spatial.transform import Rotation

from nemp_sim.errors import InputError
from nemp_sim.files import read_with_ase
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import fcc_slab, freeze_lowest_layers

POTENTIALS = {  # shipped potential of each built-in system; None: the user's own
    "h-pd111": "pdh.pt",
    "water": "water.pt",
    "methanol": "methanol.pt",
    "co-pd111": None,
}
WATER_BOX_ANGSTROM = 12.44  # of 64 molecules, as in the training data of water.pt
CO_LENGTH_ANGSTROM = 1.18
CO_HEIGHT_ANGSTROM = 1.3  # of C above the top layer, in a hollow


def build_system(system: str, fixed_layers: int | None = None) -> Atoms:
    """A built-in structure by its name, or the last frame of a file.

    Args:
        system: h-pd111 or co-pd111 (fcc site, 2 × 2 cell, three layers), water (64 molecules),
            methanol (gas), or a file.
        fixed_layers: lowest layers held where the structure holds no constraints; None: one in
            built-in slabs, none in files.

    Raises:
        InputError: neither a name nor a file that can be read.
    """
    if system == "water":
        return water_box(4, WATER_BOX_ANGSTROM)
    if system == "methanol":
        return molecule("CH3OH")
    if system in POTENTIALS:
        slab = fcc_slab(fixed_layers=1 if fixed_layers is None else fixed_layers)
        if system == "h-pd111":
            return place(slab, "H", "fcc")
        carbon_first = Atoms("CO", [[0, 0, 0], [0, 0, CO_LENGTH_ANGSTROM]])
        return place(slab, carbon_first, "fcc", CO_HEIGHT_ANGSTROM)
    path = Path(system)
    if not path.is_file():
        raise InputError(
            f"system is {system!r}, but that is neither built in ({', '.join(POTENTIALS)}) nor a "
            "file. Check the path."
        )
    atoms = read_with_ase(path, "system")
    if atoms.constraints or not fixed_layers:
        return atoms
    return freeze_lowest_layers(atoms, fixed_layers)


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
