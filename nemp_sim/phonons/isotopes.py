"""Masses of isotopes."""

from ase import Atoms
from ase.data import atomic_numbers

from nemp_sim.errors import InputError
from nemp_sim.structures import with_mass


def with_isotopes(atoms: Atoms, isotopes: str) -> Atoms:
    """A copy with other masses, given as "H=2.014 Pd=105.9" (amu).

    Raises:
        InputError: no such element in the structure, or no positive mass.
    """
    copy = atoms.copy()
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
        copy = with_mass(copy, symbol, mass)
    return copy
