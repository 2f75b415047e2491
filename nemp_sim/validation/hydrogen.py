"""H2 beside a third H or another H2: nothing binds them, whatever the functional.

A network that knew two H alone, and H beside others, bound a third one by electronvolts. Where the
domain of validity names such a structure the number is not silent, so those inside count.
"""

from collections.abc import Iterator

import numpy as np
from ase import Atoms

from nemp_sim.potential import Potential
from nemp_sim.validation.check import Check

BOND_ANGSTROM = 0.75
NEAREST_ANGSTROM, STEP_ANGSTROM = 0.8, 0.1  # between the nearest atoms of the two
ATTRACTION_EV = 0.1  # more than any real one
PARTNERS = {
    "H": (np.zeros((1, 3)),),
    "H2": tuple(np.outer([-0.5, 0.5], axis) for axis in np.eye(3)),
}
H2 = Atoms("H2", np.outer([-0.5, 0.5], [BOND_ANGSTROM, 0, 0]))


def clusters(partner: str, farthest_angstrom: float) -> list[Atoms]:
    """H2 along x, and H or another H2 along x, y or z: farther out along x, and along y."""
    distances = np.arange(NEAREST_ANGSTROM, farthest_angstrom, STEP_ANGSTROM)
    made = []
    for turn in PARTNERS[partner]:
        other = Atoms(f"H{len(turn)}", BOND_ANGSTROM * turn)
        half_x, half_y, _ = other.positions.max(axis=0)
        for d in distances:
            for away in ((d + BOND_ANGSTROM / 2 + half_x, 0, 0), (0, d + half_y, 0)):
                moved = other.copy()
                moved.translate(away)
                made.append(H2 + moved)
    return made


def hydrogen_checks(potential: Potential) -> Iterator[Check]:
    """The lowest energy of three and of four H against the two parts, of structures inside."""
    if "H" not in potential.elements:
        return
    parts = [H2, Atoms("H")]
    apart = potential.evaluate(parts, forces=False, on_extrapolation="ignore").energy
    of_part = {"H2": float(apart[0]), "H": float(apart[1])}
    for partner in PARTNERS:
        made = clusters(partner, potential.cutoff_angstrom)
        found = potential.evaluate(made, forces=False, on_extrapolation="ignore")
        energy = found.energy - of_part["H2"] - of_part[partner]
        inside = energy[[not outside for outside in found.outside]]
        lowest = inside.min(initial=np.inf)
        said = f"{lowest:.3f} eV" if len(inside) else "none inside"
        yield Check(
            "not bound",
            f"H2 + {partner}",
            f"{said} (outside too: {energy.min():.2f})",
            f"> {-ATTRACTION_EV} eV inside the domain",
            bool(lowest > -ATTRACTION_EV),
        )
