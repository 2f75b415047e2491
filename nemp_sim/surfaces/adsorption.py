"""Adsorption: candidates on all distinct sites, what becomes of them, and their energies.

    E_ads = E(slab with adsorbate) − E(slab) − Σ_g ν_g E(gas molecule g),

negative where adsorption is favourable; ν_g from ``adsorbates.FORMS`` (H: ½ H2; OH: H2O − ½ H2 …).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.geometry import find_mic
from scipy.optimize import linear_sum_assignment

from nemp_sim.config import require
from nemp_sim.surfaces.adsorbates import FORMS, adsorbate, bonds, place
from nemp_sim.surfaces.sites import (
    Site,
    all_sites,
    distinct_sites,
    moved_by,
    nearest_site,
    surface_symmetry,
)

DESORBED_OF_RADII = 1.6  # no contact: nearest distance to the metal over the sum of the radii
SAME_MINIMUM_EV = 0.005
SAME_MINIMUM_ANGSTROM = 0.2
SURFACE_CHANGED_ANGSTROM = 1.0  # a metal atom that moved farther has left its place
AZIMUTHS_DEGREE = (0.0, 90.0)  # tried for adsorbates that are not upright


@dataclass(frozen=True)
class Candidate:
    """An adsorbate as placed.

    Attributes:
        adsorbate: its name.
        start: label of the site, with the turn about the normal.
        atoms: the structure; the slab comes first.
    """

    adsorbate: str
    start: str
    atoms: Atoms


@dataclass(frozen=True)
class Minimum:
    """What became of a candidate, or of several that ended alike.

    Attributes:
        adsorbate: its name.
        starts: labels of the candidates that ended here.
        state: "adsorbed", "absorbed" (below the surface), "desorbed", "dissociated", "rearranged"
            (other bonds), "surface changed" or "not converged".
        site: label of the nearest site of the first atom, or of the centre of H2.
        offset_A: how far beside that site.
        height_A: of the same point above the mean height of the top layer.
        metal_distance_A: shortest distance to a metal atom.
        bond_lengths_A: of the bonds within the adsorbate, by pair of symbols.
        energy_eV: of the structure.
        atoms: the structure with energy and forces.
    """

    adsorbate: str
    starts: tuple[str, ...]
    state: str
    site: str
    offset_A: float
    height_A: float
    metal_distance_A: float
    bond_lengths_A: Mapping[str, tuple[float, ...]]
    energy_eV: float
    atoms: Atoms


def candidates(
    slab: Atoms, adsorbates: Sequence[str], kinds: Sequence[str] | None = None
) -> list[Candidate]:
    """Every adsorbate on every distinct site; those that are not upright in two directions.

    Sites below the surface are for lone atoms.

    Args:
        slab: of ``slabs.fcc_slab``, relaxed or not.
        adsorbates: names of ``adsorbates.FORMS``.
        kinds: of the sites; None: all above the surface.

    Raises:
        InputError: an unknown adsorbate or site.
    """
    for name in adsorbates:
        require(name in FORMS, "adsorbate", name, f"one of {', '.join(FORMS)}")
    found = []
    sites = distinct_sites(slab, kinds)
    for name in adsorbates:
        upright = np.abs(adsorbate(name).positions[:, :2]).max() < 0.1
        turns = (0.0,) if upright else AZIMUTHS_DEGREE
        for number, site in enumerate(sites):
            if site.below and len(adsorbate(name)) > 1:
                continue
            alike = [s.label for s in sites].count(site.label) > 1
            label = f"{site.label} #{number}" if alike else site.label
            for turn in turns:
                start = label if len(turns) == 1 else f"{label} {turn:.0f}°"
                atoms = place(slab, name, site, azimuth_degree=turn)
                found.append(Candidate(name, start, atoms))
    return found


def outcome(slab: Atoms, candidate: Candidate, relaxed: Atoms, converged: bool) -> Minimum:
    """Name what became of a candidate.

    Args:
        slab: the clean slab, relaxed, with its table of sites.
        candidate: as placed.
        relaxed: with energy.
        converged: whether its forces vanish.
    """
    n = len(slab)
    guest = relaxed[n:]
    guest.set_constraint()
    point = _anchor(candidate.adsorbate, guest)
    site, offset = nearest_site(slab, point)
    top = next(s.position[2] for s in all_sites(slab) if s.kind == "top")
    reach = covalent_radii[guest.numbers][:, None] + covalent_radii[slab.numbers][None]
    metal = relaxed[:n]
    apart = np.array(
        [find_mic(metal.positions - p, slab.cell, slab.pbc)[1] for p in guest.positions]
    )
    return Minimum(
        adsorbate=candidate.adsorbate,
        starts=(candidate.start,),
        state=_state(slab, candidate, relaxed, site, float((apart / reach).min()), converged),
        site=site.label,
        offset_A=offset,
        height_A=float(point[2] - top),
        metal_distance_A=float(apart.min()),
        bond_lengths_A=_bond_lengths(guest),
        energy_eV=float(relaxed.get_potential_energy()),
        atoms=relaxed,
    )


def merged(slab: Atoms, minima: Sequence[Minimum]) -> list[Minimum]:
    """Minima without duplicates, the lowest of each adsorbate first.

    Two are one when adsorbate and state agree, their energies to ``SAME_MINIMUM_EV``, and a
    symmetry of the slab takes one adsorbate onto the other within ``SAME_MINIMUM_ANGSTROM``.
    """
    operations = surface_symmetry(slab)
    kept: list[Minimum] = []
    order = list(dict.fromkeys(m.adsorbate for m in minima))
    for one in sorted(minima, key=lambda m: (order.index(m.adsorbate), m.energy_eV)):
        for index, other in enumerate(kept):
            if _alike(slab, operations, one, other):
                kept[index] = replace(other, starts=(*other.starts, *one.starts))
                break
        else:
            kept.append(one)
    return kept


def _state(  # noqa: PLR0913 (everything that a name may rest on)
    slab: Atoms,
    candidate: Candidate,
    relaxed: Atoms,
    site: Site,
    nearest_of_radii: float,
    converged: bool,
) -> str:
    n = len(slab)
    before, after = candidate.atoms[n:], relaxed[n:]
    for part in (before, after):
        part.set_constraint()
    if not converged:
        return "not converged"
    moved = find_mic(relaxed.positions[:n] - slab.positions, slab.cell, slab.pbc)[1]
    if moved.max() > SURFACE_CHANGED_ANGSTROM:
        return "surface changed"
    if nearest_of_radii > DESORBED_OF_RADII:
        return "desorbed"
    if bonds(before) - bonds(after):
        return "dissociated"
    if bonds(after) != bonds(before):
        return "rearranged"
    return "absorbed" if site.below else "adsorbed"


def _anchor(name: str, guest: Atoms) -> np.ndarray:
    if FORMS[name].anchor:
        return guest.positions[0]
    from_first = find_mic(guest.positions - guest.positions[0], guest.cell, guest.pbc)[0]
    return guest.positions[0] + from_first.mean(axis=0)


def _bond_lengths(guest: Atoms) -> dict[str, tuple[float, ...]]:
    lengths: dict[str, list[float]] = {}
    for i, j in sorted(bonds(guest)):
        pair = "–".join(sorted((guest.symbols[i], guest.symbols[j])))
        lengths.setdefault(pair, []).append(round(float(guest.get_distance(i, j, mic=True)), 3))
    return {pair: tuple(values) for pair, values in lengths.items()}


def _alike(slab: Atoms, operations: list, one: Minimum, other: Minimum) -> bool:
    if (one.adsorbate, one.state) != (other.adsorbate, other.state):
        return False
    if abs(one.energy_eV - other.energy_eV) > SAME_MINIMUM_EV:
        return False
    n = len(slab)
    numbers, target = one.atoms.numbers[n:], other.atoms.positions[n:]
    for image in moved_by(operations, slab, one.atoms.positions[n:]):
        apart = np.array([find_mic(target - p, slab.cell, slab.pbc)[1] for p in image])
        apart[numbers[:, None] != numbers[None]] = 1e3
        if apart[linear_sum_assignment(apart)].max() < SAME_MINIMUM_ANGSTROM:
            return True
    return False
