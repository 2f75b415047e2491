"""Forces in i-PI's input: the potential, a cheap one that spares it, an umbrella on a centroid."""

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from nemp_sim.config import require

FORCEFIELD, CHEAP = "nemp", "cheap"  # names of the force fields, and of their sockets


@dataclass(frozen=True)
class Umbrella:
    """A harmonic bias ½ κ (e · r̄ − s₀)² on the centroid of one atom.

    Attributes:
        atom: its index.
        direction: the unit vector e, in i-PI's frame.
        centre_angstrom: s₀.
        spring_eV_per_A2: κ.
    """

    atom: int
    direction: tuple[float, float, float]
    centre_angstrom: float
    spring_eV_per_A2: float

    def forcefield(self) -> ElementTree.Element:
        """The <ffdirect> of ``nemp_sim.pathintegral.umbrella``."""
        values = vars(self) | dict(zip("xyz", self.direction, strict=True))
        pairs = [f"{name}: {value}" for name, value in values.items() if name != "direction"]
        element = ElementTree.Element("ffdirect", name="umbrella")
        add(element, "pes", "custom")
        add(element, "pes_path", Path(__file__).with_name("umbrella.py"))
        add(element, "parameters", "{" + ", ".join(pairs) + "}")
        return element


@dataclass(frozen=True)
class CheapForce:
    """A cheap force that most of the work is left to; the full one corrects it.

    Multiple time stepping: F − F_cheap acts once a time step, F_cheap in ``inner_steps`` shorter
    ones in between (M. Tuckerman, B. J. Berne and G. J. Martyna, J. Chem. Phys. 97, 1990 (1992),
    10.1063/1.463137). Ring-polymer contraction: F − F_cheap is computed on a ring of fewer beads
    (T. E. Markland and D. E. Manolopoulos, J. Chem. Phys. 129, 024105 (2008), 10.1063/1.2953308).

    Attributes:
        inner_steps: steps of the cheap force in one time step.
        full_beads: beads of the full force; None: all.
    """

    inner_steps: int = 4
    full_beads: int | None = None

    def check(self, beads: int) -> None:
        """Refuse values out of their range for a ring of so many beads.

        Raises:
            InputError: naming the value.
        """
        require(self.inner_steps >= 1, "inner_steps", self.inner_steps, "1 or more")
        fits = self.full_beads is None or 1 <= self.full_beads <= beads
        require(fits, "full_beads", self.full_beads, f"1 to the number of beads, {beads}")


def forces_xml(cheap: CheapForce | None, beads: int) -> ElementTree.Element:
    """The <forces> of a system: force fields with their weights in outer and inner steps."""
    element = ElementTree.Element("forces")
    if cheap is None:
        add(element, "force", forcefield=FORCEFIELD)
        return element
    few = {} if cheap.full_beads in (None, beads) else {"nbeads": str(cheap.full_beads)}
    terms = [(FORCEFIELD, [1, 0], few)]
    terms += [(CHEAP, [-1, 0], few), (CHEAP, [0, 1], {})] if few else [(CHEAP, [-1, 1], {})]
    for name, weights, ring in terms:
        add(add(element, "force", forcefield=name, **ring), "mts_weights", weights)
    return element


def add(
    parent: ElementTree.Element, tag: str, value: object = None, **attributes: str
) -> ElementTree.Element:
    """Append a child with a text and attributes; returns the child."""
    element = ElementTree.SubElement(parent, tag, attributes)
    if value is not None:
        element.text = f" {value} "
    return element
