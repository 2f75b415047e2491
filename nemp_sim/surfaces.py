"""Slabs, adsorption sites and frozen layers, on top of ``ase.build``."""

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.constraints import FixAtoms
from ase.geometry import complete_cell

from nemp_sim.config import require
from nemp_sim.errors import InputError

SITES = ("top", "bridge", "fcc", "hcp", "subsurface")
PD_LATTICE_ANGSTROM = 3.95  # PBE, at the settings of the shipped Pd–H training data
LAYER_GAP_ANGSTROM = 0.5  # atoms whose heights are closer belong to one layer
MIN_VACUUM_ANGSTROM = 4.0  # a periodic axis with a smaller gap has no lowest layer
_H_HEIGHT_ANGSTROM = {"top": 1.56, "bridge": 1.02, "fcc": 0.87, "hcp": 0.87}  # PBE, H on Pd(111)


def fcc111_slab(
    element: str = "Pd",
    *,
    lattice_constant_angstrom: float = PD_LATTICE_ANGSTROM,
    size: tuple[int, int, int] = (2, 2, 3),
    vacuum_angstrom: float = 8.0,
    fixed_layers: int = 1,
) -> Atoms:
    """A clean fcc(111) slab with pbc (T, T, F).

    The defaults are the clean slab of the Pd–H training data: 2 × 2 surface cell, three layers.

    Args:
        element: chemical symbol of the metal.
        lattice_constant_angstrom: cubic lattice constant, Å.
        size: surface cells along both in-plane vectors, and layers.
        vacuum_angstrom: empty space on either side of the slab, Å.
        fixed_layers: lowest layers held by FixAtoms (0 … layers − 1).

    Raises:
        InputError: a value out of its range.
    """
    positive = "positive (Å)"
    a = lattice_constant_angstrom
    require(a > 0, "lattice_constant_angstrom", a, positive)
    require(len(size) == 3 and min(size) >= 1, "size", size, "three whole numbers, 1 or more")
    require(vacuum_angstrom > 0, "vacuum_angstrom", vacuum_angstrom, positive)
    slab = fcc111(element, size, a=a, vacuum=vacuum_angstrom)
    sites = slab.info["adsorbate_info"]  # as plain numbers, which every file format can hold
    sites["cell"] = sites["cell"].tolist()
    sites["top layer atom index"] = int(slab.positions[:, 2].argmax())
    return freeze_lowest_layers(slab, fixed_layers)


def adsorb(
    slab: Atoms, adsorbate: str | Atoms, site: str, height_angstrom: float | None = None
) -> Atoms:
    """A copy of ``slab`` with an adsorbate at a site of its upper face.

    Sites of fcc(111): "top" above an atom of the top layer, "bridge" between two, "fcc" above an
    atom of the third layer, "hcp" above one of the second, and "subsurface", the octahedral hole
    straight below fcc, half-way between the first and the second layer.

    Args:
        slab: from ``fcc111_slab`` (or ``ase.build.fcc111``).
        adsorbate: chemical symbol, or a molecule whose first atom sits at the site.
        site: one of ``SITES``.
        height_angstrom: above the top layer, Å (negative: below). None takes that of H on Pd(111).

    Raises:
        InputError: an unknown site, or a slab whose sites are not known.
    """
    require(site in SITES, "site", site, f"one of {', '.join(SITES)}")
    info = slab.info.get("adsorbate_info", {})
    if "hcp" not in info.get("sites", {}):
        raise InputError(
            f"slab ({slab.get_chemical_formula()}) carries no table of (111) sites. Build it with "
            "nemp_sim.surfaces.fcc111_slab(), or place the adsorbate by its coordinates."
        )
    height = height_angstrom
    if height is None:
        spacing = np.linalg.norm(info["cell"][0]) * np.sqrt(2 / 3)  # d111 of nearest distance
        height = -spacing / 2 if site == "subsurface" else _H_HEIGHT_ANGSTROM[site]
    name = {"top": "ontop", "subsurface": "fcc"}.get(site, site)
    covered = slab.copy()
    guest = adsorbate.copy() if isinstance(adsorbate, Atoms) else Atoms(adsorbate)
    add_adsorbate(covered, guest, height, position=name)
    return covered


def freeze_lowest_layers(atoms: Atoms, n_layers: int) -> Atoms:
    """A copy of ``atoms`` whose lowest ``n_layers`` layers are held by FixAtoms, and nothing else.

    Raises:
        InputError: a negative number, or so many layers that no atom would move.
    """
    frozen = atoms.copy()
    frozen.set_constraint()
    if n_layers == 0:
        return frozen
    layers = layers_from_below(atoms)
    require(
        0 <= n_layers < len(layers),
        "fixed_layers",
        n_layers,
        f"between 0 and {len(layers) - 1}: the structure has {len(layers)} layers "
        f"(heights {LAYER_GAP_ANGSTROM} Å apart or more) and one must stay free",
    )
    frozen.set_constraint(FixAtoms(indices=np.sort(np.concatenate(layers[:n_layers]))))
    return frozen


def layers_from_below(atoms: Atoms) -> list[np.ndarray]:
    """Atom indices of each layer normal to the first two cell vectors, the lowest layer first.

    Heights of a cell that is periodic along the third vector are counted from the upper end of its
    vacuum, so that atoms wrapped through the boundary stay with their layer.

    Raises:
        InputError: no atoms, or a third axis that is periodic without vacuum.
    """
    require(len(atoms) > 0, "atoms", "empty", "a structure with atoms")
    a, b, c = complete_cell(atoms.cell.array)
    normal = np.cross(a, b)
    normal /= np.linalg.norm(normal)
    heights = atoms.positions @ normal
    if atoms.pbc[2]:
        period = abs(c @ normal)
        ordered = np.sort(heights % period)
        gaps = np.diff(ordered, append=ordered[0] + period)
        if gaps.max() < MIN_VACUUM_ANGSTROM:
            raise InputError(
                f"fixed_layers: {atoms.get_chemical_formula()} is periodic along its third cell "
                f"vector and its widest gap there is {gaps.max():.2f} Å, so no layer is the lowest "
                f"(a vacuum of {MIN_VACUUM_ANGSTROM} Å is wanted). Put FixAtoms into the file."
            )
        lowest = ordered[(gaps.argmax() + 1) % len(ordered)]
        heights = (heights - lowest + 1e-6) % period
    order = np.argsort(heights, kind="stable")
    breaks = np.flatnonzero(np.diff(heights[order]) > LAYER_GAP_ANGSTROM) + 1
    return np.split(order, breaks)
