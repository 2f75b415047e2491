"""Fcc slabs of metals and random alloys, their lattice constant, and frozen layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc100, fcc110, fcc111
from ase.constraints import FixAtoms
from ase.data import atomic_numbers, covalent_radii, reference_states
from ase.eos import EquationOfState
from ase.formula import Formula
from ase.geometry import complete_cell
from ase.units import GPa

from nemp_sim.config import require
from nemp_sim.errors import InputError
from nemp_sim.relax import Engine
from nemp_sim.structures import fixed_coordinates

FACETS = {"111": fcc111, "100": fcc100, "110": fcc110}
PD_LATTICE_ANGSTROM = 3.95  # PBE, at the settings of the shipped Pd–H training data
LAYER_GAP_ANGSTROM = 0.5  # atoms whose heights are closer belong to one layer
MIN_VACUUM_ANGSTROM = 4.0  # a periodic axis with a smaller gap has no lowest layer
EOS_STRAINS = np.linspace(-0.04, 0.04, 9)  # of the lattice constant, about the best guess
EOS_ROUNDS = 8

Composition = str | Mapping[str, float]


def fcc_slab(  # noqa: PLR0913 (what a slab is fixed by)
    composition: Composition = "Pd",
    facet: str = "111",
    *,
    lattice_constant_angstrom: float = PD_LATTICE_ANGSTROM,
    size: tuple[int, int, int] = (2, 2, 3),
    vacuum_angstrom: float = 8.0,
    fixed_layers: int = 1,
    seed: int = 0,
) -> Atoms:
    """A clean fcc slab with pbc (T, T, F).

    The defaults are the clean slab of the Pd–H training data: Pd(111), 2 × 2 surface cell, three
    layers. Elements of an alloy are dealt at random; for an order of your own set ``slab.symbols``.

    Args:
        composition: a metal ("Pd"), a formula ("Pd3Ag") or shares ({"Pd": 0.75, "Ag": 0.25}).
        facet: one of ``FACETS``.
        lattice_constant_angstrom: cubic lattice constant, Å; ``equation_of_state`` computes it.
        size: surface cells along both in-plane vectors, and layers.
        vacuum_angstrom: empty space on either side of the slab, Å.
        fixed_layers: lowest layers held by FixAtoms (0 … layers − 1).
        seed: of the random order of an alloy.

    Raises:
        InputError: a value out of its range.
    """
    positive = "positive (Å)"
    a = lattice_constant_angstrom
    require(facet in FACETS, "facet", facet, f"one of {', '.join(FACETS)}")
    require(a > 0, "lattice_constant_angstrom", a, positive)
    require(len(size) == 3 and min(size) >= 1, "size", size, "three whole numbers, 1 or more")
    require(vacuum_angstrom > 0, "vacuum_angstrom", vacuum_angstrom, positive)
    shares = composition_shares(composition)
    slab = FACETS[facet](next(iter(shares)), size, a=a, vacuum=vacuum_angstrom)
    slab.symbols = dealt_symbols(shares, len(slab), seed)
    sites = slab.info["adsorbate_info"]  # as plain numbers, which every file format can hold
    sites["cell"] = sites["cell"].tolist()
    sites["top layer atom index"] = int(slab.positions[:, 2].argmax())
    sites["facet"] = facet
    return freeze_lowest_layers(slab, fixed_layers)


def composition_shares(composition: Composition) -> dict[str, float]:
    """Shares of the elements, which add up to 1, of a formula or of a mapping.

    Raises:
        InputError: no chemical formula, an unknown element, or a negative share.
    """
    wanted = "a formula such as 'Pd3Ag' or shares such as {'Pd': 0.75, 'Ag': 0.25}"
    if isinstance(composition, str):
        try:
            shares: Mapping[str, float] = Formula(composition).count()
        except ValueError:
            shares = {composition: 1.0}
    else:
        shares = composition
    good = bool(shares) and all(s in atomic_numbers and share > 0 for s, share in shares.items())
    require(good, "composition", dict(shares), wanted)
    total = sum(shares.values())
    return {symbol: share / total for symbol, share in shares.items()}


def dealt_symbols(shares: Mapping[str, float], n_atoms: int, seed: int) -> list[str]:
    """Symbols of ``n_atoms`` atoms in random order; the counts are the shares, rounded."""
    bounds = np.rint(np.cumsum(list(shares.values())) * n_atoms).astype(int)
    counts = np.diff(bounds, prepend=0)
    symbols = [s for s, count in zip(shares, counts, strict=True) for _ in range(count)]
    return [symbols[i] for i in np.random.default_rng(seed).permutation(n_atoms)]


@dataclass(frozen=True)
class BulkMetal:
    """What the equation of state of an fcc metal says.

    Attributes:
        lattice_constant_angstrom: at the lowest energy.
        bulk_modulus_GPa: there.
    """

    lattice_constant_angstrom: float
    bulk_modulus_GPa: float


def equation_of_state(engine: Engine, composition: Composition = "Pd", seed: int = 0) -> BulkMetal:
    """Lattice constant and bulk modulus of an fcc metal, by a Birch–Murnaghan fit.

    Nine lattice constants within ± 4 % in one engine call, about a better centre until the minimum
    is in the middle. An alloy is a random cube of 32 atoms on ideal sites, so that its lattice
    constant is that of the mean lattice. Source of the fit: F. Birch, Phys. Rev. 71, 809 (1947),
    10.1103/PhysRev.71.809, as ASE has it.

    Raises:
        InputError: no minimum at a lattice constant that metals have.
    """
    shares = composition_shares(composition)
    centre = sum(share * _usual_lattice_constant(symbol) for symbol, share in shares.items())
    cell = bulk(next(iter(shares)), "fcc", a=1.0, cubic=len(shares) > 1)
    if len(shares) > 1:
        cell = cell.repeat(2)
        cell.symbols = dealt_symbols(shares, len(cell), seed)
    cubes = len(cell) / 4
    for _ in range(EOS_ROUNDS):
        scaled = []
        for a in centre * (1 + EOS_STRAINS):
            scaled.append(cell.copy())
            scaled[-1].set_cell(cell.cell * a, scale_atoms=True)
        energies = engine.evaluate(scaled).energy
        volumes = [atoms.get_volume() for atoms in scaled]
        lowest = int(np.argmin(energies))
        inside = 0 < lowest < len(scaled) - 1
        found, modulus = centre * (1 + EOS_STRAINS[lowest]), 0.0
        if inside:
            volume, _, modulus = EquationOfState(volumes, energies, "birchmurnaghan").fit()
            found = float((volume / cubes) ** (1 / 3))
        if inside and abs(found / centre - 1) < 0.02:
            return BulkMetal(found, float(modulus / GPa))
        centre = found
    raise InputError(
        f"composition {composition!r}: the energy has no minimum near a lattice constant of "
        f"{centre:.2f} Å, so the potential does not hold this metal. Give --lattice-constant, or "
        "use a potential that was trained on the bulk."
    )


def _usual_lattice_constant(symbol: str) -> float:
    """Of ASE's table for fcc metals; of touching covalent spheres for others, Å."""
    listed: Any = reference_states[atomic_numbers[symbol]]
    state: Mapping[str, Any] = listed or {}
    if state.get("symmetry") == "fcc":
        return float(state["a"])
    return 2 * np.sqrt(2) * float(covalent_radii[atomic_numbers[symbol]])


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
    heights, gap = _heights(atoms)
    if atoms.pbc[2] and gap < MIN_VACUUM_ANGSTROM:
        raise InputError(
            f"fixed_layers: {atoms.get_chemical_formula()} is periodic along its third cell "
            f"vector and its widest gap there is {gap:.2f} Å, so no layer is the lowest "
            f"(a vacuum of {MIN_VACUUM_ANGSTROM} Å is wanted). Put FixAtoms into the file."
        )
    order = np.argsort(heights, kind="stable")
    breaks = np.flatnonzero(np.diff(heights[order]) > LAYER_GAP_ANGSTROM) + 1
    return np.split(order, breaks)


def vacuum_words(atoms: Atoms) -> str:
    """The empty space along the third cell vector, for a report; empty where there is none."""
    if not atoms.pbc.any():
        return ""
    heights, gap = _heights(atoms)
    if atoms.pbc[2]:
        return f"{gap:.1f} Å of vacuum" if gap >= MIN_VACUUM_ANGSTROM else ""
    if atoms.cell.rank < 3:
        return "no periodicity along the normal"
    free = abs(_normal(atoms) @ atoms.cell.array[2]) - np.ptp(heights)
    return f"{free:.1f} Å of vacuum and no periodicity along the normal"


def slab_words(slab: Atoms) -> str:
    """Layers of a clean slab, those that are held, and its vacuum, for a report."""
    layers = layers_from_below(slab)
    held = np.asarray(fixed_coordinates(slab).all(axis=1), dtype=bool)
    n_held = sum(bool(held[layer].all()) for layer in layers)
    which = "the lowest" if n_held == 1 else f"the lowest {n_held}"
    words = f"{which} held ({held.sum()} of {len(slab)} atoms)" if n_held else "none held"
    return ", ".join(filter(None, (f"{len(layers)} layers, {words}", vacuum_words(slab))))


def _normal(atoms: Atoms) -> np.ndarray:
    """Unit vector normal to the first two cell vectors."""
    a, b, _ = complete_cell(atoms.cell.array)
    normal = np.cross(a, b)
    return normal / np.linalg.norm(normal)


def _heights(atoms: Atoms) -> tuple[np.ndarray, float]:
    """Heights (N,) along the normal, of a periodic cell above its widest gap; and that gap, Å."""
    normal = _normal(atoms)
    heights = atoms.positions @ normal
    if not atoms.pbc[2]:
        return heights, np.inf
    period = abs(atoms.cell.array[2] @ normal)
    ordered = np.sort(heights % period)
    gaps = np.diff(ordered, append=ordered[0] + period)
    lowest = ordered[(gaps.argmax() + 1) % len(ordered)]
    return (heights - lowest + 1e-6) % period, float(gaps.max())
