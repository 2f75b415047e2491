"""Adsorption sites of fcc slabs: where they are, and which of them are alike by symmetry."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.formula import Formula
from ase.geometry import find_mic

from nemp_sim.config import require
from nemp_sim.errors import InputError
from nemp_sim.surfaces.slabs import layers_from_below

# By facet and kind: (u, v, w), u and v along the surface cell of ASE from an atom of the top layer,
# w upwards in layer spacings.
_PLACES: dict[str, dict[str, Sequence[tuple[float, float, float]]]] = {
    "111": {
        "top": [(0, 0, 0)],
        "bridge": [(1 / 2, 0, 0), (0, 1 / 2, 0), (1 / 2, 1 / 2, 0)],
        "fcc": [(1 / 3, 1 / 3, 0)],
        "hcp": [(2 / 3, 2 / 3, 0)],
        "sub_oct": [(1 / 3, 1 / 3, -1 / 2)],
        "sub_tet": [(0, 0, -3 / 4), (2 / 3, 2 / 3, -1 / 4)],
    },
    "100": {
        "top": [(0, 0, 0)],
        "bridge": [(1 / 2, 0, 0), (0, 1 / 2, 0)],
        "hollow": [(1 / 2, 1 / 2, 0)],
        "sub_oct": [(0, 0, -1)],
        "sub_tet": [(1 / 2, 0, -1 / 2), (0, 1 / 2, -1 / 2)],
    },
    "110": {
        "top": [(0, 0, 0)],
        "shortbridge": [(0, 1 / 2, 0)],
        "longbridge": [(1 / 2, 0, 0)],
        "hollow": [(1 / 2, 1 / 2, 0)],
        "sub_oct": [(0, 1 / 2, -1)],
        "sub_tet": [(1 / 4, 0, -1), (3 / 4, 0, -1)],
    },
}
_NEIGHBOURS = {"top": 1, "bridge": 2, "shortbridge": 2, "longbridge": 2, "fcc": 3, "hcp": 3}
_NEIGHBOURS |= {"hollow": 4, "sub_oct": 6, "sub_tet": 4}
KINDS = tuple(_NEIGHBOURS)
SAME_SITE_ANGSTROM = 0.3
SYMMETRY_ANGSTROM = 0.05  # atoms of a relaxed slab may lie this far from perfect symmetry


@dataclass(frozen=True)
class Site:
    """A place for an adsorbate on or in a slab.

    Attributes:
        kind: one of ``KINDS``.
        position: (3,) Å; above the surface at the height of the top layer.
        metals: formula of the nearest metal atoms, of the top layer for sites above it ("AgPd2").
        multiplicity: sites of the surface cell that are alike by symmetry.
    """

    kind: str
    position: np.ndarray
    metals: str
    multiplicity: int = 1

    @property
    def below(self) -> bool:
        """Whether it lies below the surface."""
        return self.kind.startswith("sub")

    @property
    def label(self) -> str:
        """Kind, with the metals of an alloy."""
        return self.kind if len(Formula(self.metals).count()) == 1 else f"{self.kind} {self.metals}"


def all_sites(slab: Atoms) -> list[Site]:
    """Every site of the upper face of a slab of ``slabs.fcc_slab``, relaxed or not.

    Kinds of (111): "top", "bridge", "fcc" above an atom of the third layer, "hcp" above one of the
    second; of (100): "top", "bridge", "hollow"; of (110): "top", "shortbridge", "longbridge",
    "hollow". Below the surface, where there are two layers: "sub_oct" with six metal neighbours,
    "sub_tet" with four.

    Raises:
        InputError: a slab whose facet is not known.
    """
    info = slab.info.get("adsorbate_info", {})
    if info.get("facet") not in _PLACES:
        raise InputError(
            f"slab ({slab.get_chemical_formula()}) carries no table of sites. Build it with "
            "nemp_sim.surfaces.slabs.fcc_slab(), or place the adsorbate by its coordinates."
        )
    layers = layers_from_below(slab)
    height = slab.positions[layers[-1], 2].mean()
    spacing = height - slab.positions[layers[-2], 2].mean() if len(layers) > 1 else 0.0
    origin = slab.positions[info["top layer atom index"], :2]
    unit = np.array(info["cell"])
    repeats = np.rint(np.linalg.norm(slab.cell[:2], axis=1) / np.linalg.norm(unit, axis=1))
    found = []
    for kind, places in _PLACES[info["facet"]].items():
        for u, v, w in places:
            if w < 0 and len(layers) < np.floor(-w) + 2:  # not all its neighbours exist
                continue
            for i, j in np.ndindex(*repeats.astype(int)):
                lateral = origin + np.array([u + i, v + j]) @ unit
                position = np.array([*lateral, height + w * spacing])
                candidates = np.arange(len(slab)) if w else layers[-1]
                metals = _metals_near(slab, candidates, position, kind)
                found.append(Site(kind, position, metals))
    return found


def distinct_sites(slab: Atoms, kinds: Sequence[str] | None = None) -> list[Site]:
    """One of each set of sites that a symmetry of the slab, by spglib, maps onto one another.

    Args:
        slab: of ``slabs.fcc_slab``, relaxed or not.
        kinds: those wanted; None: all above the surface.

    Raises:
        InputError: a kind that the facet does not have.
    """
    sites = all_sites(slab)
    known = sorted({site.kind for site in sites}, key=KINDS.index)
    for kind in kinds or ():
        require(kind in known, "site", kind, f"one of {', '.join(known)} on this slab")
    wanted = kinds or [kind for kind in known if not kind.startswith("sub")]
    operations = surface_symmetry(slab)
    found: list[Site] = []
    for kind in wanted:
        left = [site for site in sites if site.kind == kind]
        while left:
            images = moved_by(operations, slab, left[0].position)
            alike = [_distance(slab, images, s.position) < SAME_SITE_ANGSTROM for s in left]
            first = left[0]
            found.append(Site(kind, first.position, first.metals, sum(alike)))
            left = [site for site, same in zip(left, alike, strict=True) if not same]
    return found


def surface_symmetry(slab: Atoms) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rotations (3, 3) and translations (3,) of scaled coordinates that keep the upper face."""
    from phonopy.structure.atoms import PhonopyAtoms  # 0.4 s, of every command that has slabs
    from phonopy.structure.symmetry import Symmetry

    unit = PhonopyAtoms(numbers=slab.numbers, cell=slab.cell.array, positions=slab.positions)
    found = Symmetry(unit, symprec=SYMMETRY_ANGSTROM).symmetry_operations
    kept = []
    for rotation, translation in zip(found["rotations"], found["translations"], strict=True):
        upright = (rotation[2] == [0, 0, 1]).all() and (rotation[:, 2] == [0, 0, 1]).all()
        shift = translation - np.rint(translation)
        if upright and abs(shift[2]) * slab.cell.lengths()[2] < SYMMETRY_ANGSTROM:
            kept.append((rotation, translation))
    return kept


def moved_by(
    operations: list[tuple[np.ndarray, np.ndarray]], slab: Atoms, positions: np.ndarray
) -> np.ndarray:
    """Images of positions (…, 3) under every operation, (n, …, 3), Å."""
    scaled = slab.cell.scaled_positions(np.reshape(positions, (-1, 3)))
    images = [scaled @ rotation.T + shift for rotation, shift in operations]
    return np.reshape(np.array(images) @ slab.cell.array, (len(operations), *positions.shape))


def nearest_site(slab: Atoms, position: np.ndarray) -> tuple[Site, float]:
    """The site that lies closest beside ``position`` (3,), and how far beside it, Å.

    Sites above the surface for a position above half a layer below it, those below otherwise.

    Raises:
        InputError: a slab whose facet is not known.
    """
    sites = all_sites(slab)
    top = next(site.position[2] for site in sites if site.kind == "top")
    below = [site for site in sites if site.below]
    if below and position[2] < top - 0.2:
        offsets = [_distance(slab, position[None], s.position) for s in below]
        return below[int(np.argmin(offsets))], float(min(offsets))
    above = [site for site in sites if not site.below]
    flat = np.array([[1.0, 1.0, 0.0]])
    offsets = [_distance(slab, flat * position, (flat * s.position)[0]) for s in above]
    return above[int(np.argmin(offsets))], float(min(offsets))


def _distance(slab: Atoms, images: np.ndarray, position: np.ndarray) -> float:
    """Smallest distance between any of the images (n, 3) and ``position``, Å."""
    return float(find_mic(images - position, slab.cell, slab.pbc)[1].min())


def _metals_near(slab: Atoms, candidates: np.ndarray, position: np.ndarray, kind: str) -> str:
    apart = find_mic(slab.positions[candidates] - position, slab.cell, slab.pbc)[1]
    nearest = candidates[np.argsort(apart, kind="stable")[: _NEIGHBOURS[kind]]]
    return Atoms(slab.numbers[nearest]).get_chemical_formula(mode="metal")
