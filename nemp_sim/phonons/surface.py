"""Densities of states of a slab, projected on its adsorbate and on its layers."""

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms

from nemp_sim.phonons.spectra import Spectra
from nemp_sim.surfaces.slabs import layers_from_below


def adsorbate_atoms(atoms: Atoms) -> list[int]:
    """Atoms of elements that the lowest layer does not hold; none for a clean slab."""
    lowest = {atoms.symbols[i] for i in layers_from_below(atoms)[0]}
    return [i for i, symbol in enumerate(atoms.symbols) if symbol not in lowest]


def groups_of_slab(atoms: Atoms, adsorbate: Sequence[int]) -> dict[str, list[int]]:
    """Indices of the adsorbate and of each layer of the rest, the uppermost layer first.

    Args:
        atoms: slab with its vacuum along the third cell vector.
        adsorbate: its atoms; may be empty.
    """
    held = set(adsorbate)
    rest = [i for i in range(len(atoms)) if i not in held]
    layers = layers_from_below(atoms[rest]) if rest else []
    groups = {"adsorbate": sorted(held)} if held else {}
    for number, layer in enumerate(reversed(layers), start=1):
        groups[f"layer {number}"] = sorted(rest[i] for i in layer)
    return groups


def projected_on(found: Spectra, groups: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """Density of states (m,) of each group of atoms of the primitive cell, 1/THz."""
    by_atom = found.dos.by_atom
    return {name: by_atom[list(indices)].sum(axis=0) for name, indices in groups.items()}
