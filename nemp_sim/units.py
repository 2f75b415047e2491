"""Units of the package and the conversions used at its edges.

Inside the package every quantity is in ASE's unit system: energy eV, length Å, mass amu,
force eV/Å, stress eV/Å³, temperature K. Conversions happen only where another program or a
person's file is read, and the factors come from ``ase.units`` (CODATA 2014).
"""

from ase.units import Bohr, Hartree, kcal, mol

HARTREE_EV: float = Hartree
BOHR_ANGSTROM: float = Bohr
KCAL_PER_MOL_EV: float = kcal / mol
DEUTERIUM_AMU: float = 2.014101778
