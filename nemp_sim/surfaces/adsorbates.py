"""Adsorbates: molecules turned towards a surface, their gas references, and how they are placed."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.data import atomic_numbers, covalent_radii
from ase.geometry import find_mic
from ase.neighborlist import natural_cutoffs, neighbor_list

from nemp_sim.config import require
from nemp_sim.errors import InputError
from nemp_sim.surfaces.sites import Site, all_sites

BOND_OF_RADII = 1.05  # first distance to the metal over the sum of covalent radii
BOND_MARGIN = 1.5  # atoms closer than this times the sum of covalent radii are bonded


@dataclass(frozen=True)
class Form:
    """How an adsorbate stands on a surface, and what it is compared with.

    Attributes:
        name: its name in ASE's table of molecules; empty for a lone atom.
        anchor: symbol of the atom that binds; empty: the centre of the molecule.
        tilt_degree: of the sum of the bonds of the anchor against the surface normal.
        gas: amount of each gas molecule that it is made from.
    """

    name: str
    anchor: str
    tilt_degree: float
    gas: Mapping[str, float] = field(default_factory=dict)


FORMS = {
    "H": Form("", "H", 0, {"H2": 0.5}),
    "H2": Form("H2", "", 90, {"H2": 1}),
    "O": Form("", "O", 0, {"H2O": 1, "H2": -1}),
    "OH": Form("OH", "O", 60, {"H2O": 1, "H2": -0.5}),
    "H2O": Form("H2O", "O", 80, {"H2O": 1}),
    "CO": Form("CO", "C", 0, {"CO": 1}),
    "CH3O": Form("CH3O", "O", 0, {"CH3OH": 1, "H2": -0.5}),
    "CH2OH": Form("H2COH", "C", 0, {"CH3OH": 1, "H2": -0.5}),
    "CH3OH": Form("CH3OH", "O", 30, {"CH3OH": 1}),
}


def adsorbate(name: str) -> Atoms:
    """An adsorbate that stands above the origin, its binding atom first and at the origin.

    Turned so that the bonds of the binding atom point up, then tilted: CO with C down, OH, CH3O and
    CH3OH with O down, H2O nearly flat with O down, CH2OH with C down and its plane along the
    surface, H2 flat with its centre at the origin.

    Args:
        name: one of ``FORMS``, or the symbol of an element.

    Raises:
        InputError: neither.
    """
    if name not in FORMS:
        require(name in atomic_numbers, "adsorbate", name, f"an element or {', '.join(FORMS)}")
        return Atoms(name)
    form = FORMS[name]
    if not form.name:
        return Atoms(name)
    atoms = molecule(form.name)
    atoms.info = {}
    atoms.set_initial_magnetic_moments(None)
    if not form.anchor:
        atoms.positions -= atoms.positions.mean(axis=0)
        atoms.rotate([0, 0, 1], [1, 0, 0])
        return atoms
    anchor = [i for i, symbol in enumerate(atoms.symbols) if symbol == form.anchor][0]
    atoms = atoms[[anchor, *(i for i in range(len(atoms)) if i != anchor)]]
    atoms.positions -= atoms.positions[0]
    atoms.rotate(_upwards(atoms), [0, 0, 1])
    atoms.rotate(form.tilt_degree, _tilt_axis(atoms))
    return atoms


def place(
    slab: Atoms,
    guest: str | Atoms,
    site: str | Site,
    height_angstrom: float | None = None,
    azimuth_degree: float = 0.0,
) -> Atoms:
    """A copy of ``slab`` with an adsorbate at a site.

    Args:
        slab: of ``slabs.fcc_slab``.
        guest: a name that ``adsorbate`` knows, or a molecule whose first atom sits at the site.
        site: from ``sites.distinct_sites``, or a kind, of which the first is taken.
        height_angstrom: of the site above the top layer, Å. None: for sites below the surface their
            centre, else where the lowest atom touches a metal atom (1.05 covalent radii).
        azimuth_degree: turn about the surface normal.

    Raises:
        InputError: an unknown site or adsorbate, or a slab whose sites are not known.
    """
    if isinstance(site, str):
        every = all_sites(slab)
        kinds = list(dict.fromkeys(s.kind for s in every))
        require(site in kinds, "site", site, f"one of {', '.join(kinds)} on this slab")
        site = next(s for s in every if s.kind == site)
    if isinstance(guest, str):
        body = adsorbate(guest)
    else:
        body = guest.copy()
        body.positions -= body.positions[0]
    body.rotate(azimuth_degree, "z")
    point = site.position.copy()
    if height_angstrom is not None:
        tops = [s.position[2] for s in all_sites(slab) if s.kind == "top"]
        point[2] = tops[0] + height_angstrom
    elif not site.below:
        point[2] = _touching_height(slab, body, point)
    body.positions += point
    covered = slab.copy()
    covered.extend(Atoms(body.numbers, body.positions))
    return covered


def bonds(atoms: Atoms) -> set[tuple[int, int]]:
    """Pairs (i, j), i < j, closer than ``BOND_MARGIN`` times the sum of their covalent radii."""
    i, j = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=BOND_MARGIN))
    return {(int(a), int(b)) for a, b in zip(i, j, strict=True) if a < b}


def gas_molecule(name: str) -> Atoms:
    """A molecule of the gas phase without a cell: the reference of adsorption energies.

    Raises:
        InputError: a molecule that ASE's table does not hold.
    """
    try:
        atoms = molecule(name)
    except KeyError:
        raise InputError(f"gas is {name!r}, but ASE's table holds no such molecule.") from None
    return Atoms(atoms.numbers, atoms.positions)


def _upwards(atoms: Atoms) -> np.ndarray:
    """Direction of the bonds of atom 0; for a planar atom, the normal of its plane."""
    bonded = sorted(j for i, j in bonds(atoms) if i == 0)
    vectors = atoms.positions[bonded]
    vectors = vectors / np.linalg.norm(vectors, axis=1)[:, None]
    total = vectors.sum(axis=0)
    if len(bonded) == 3 and np.linalg.norm(total) < 1.0:
        normal = np.cross(vectors[1] - vectors[0], vectors[2] - vectors[0])
        return normal * (1 if normal @ total >= 0 else -1)
    return total


def _tilt_axis(atoms: Atoms) -> np.ndarray:
    """The horizontal direction along which the molecule is widest, so that it lies down flat."""
    flat = atoms.positions[:, :2] - atoms.positions[:, :2].mean(axis=0)
    if np.ptp(flat) < 1e-6:
        return np.array([1.0, 0.0, 0.0])
    direction = np.linalg.svd(flat)[2][0]
    return np.array([*direction, 0.0])


def _touching_height(slab: Atoms, guest: Atoms, point: np.ndarray) -> float:
    """Lowest height of the origin of ``guest`` at which no atom of it is too close to the slab."""
    lowest = -np.inf
    for number, offset in zip(guest.numbers, guest.positions, strict=True):
        reach = BOND_OF_RADII * (covalent_radii[number] + covalent_radii[slab.numbers])
        flat = (slab.positions - point - offset) * [1, 1, 0]
        beside = find_mic(flat, slab.cell, slab.pbc)[1]
        near = beside < reach
        if near.any():
            rise = np.sqrt(reach[near] ** 2 - beside[near] ** 2)
            lowest = max(lowest, (slab.positions[near, 2] + rise).max() - offset[2])
    return float(lowest)
