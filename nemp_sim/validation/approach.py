"""Two atoms that approach and leave: dimer curves, and the force of an atom that departs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from scipy.signal import find_peaks

from nemp_sim.potential import Potential
from nemp_sim.validation.check import Check

STEP_ANGSTROM, SHORTEST_ANGSTROM = 0.005, 0.5
KINK, WALL_EV, SECOND_WELL_EV, LONE_EV = 0.2, 1.0, 0.1, 1e-5
SPIKE_EV_PER_A = 0.1  # a force below is no spike, whatever stood before
DEPARTURE = 0.8, 1.05  # of the cutoff
N_DEPARTURE = 201


@dataclass(frozen=True)
class Dimer:
    """Energy of two atoms against their distance.

    Attributes:
        pair: the two symbols.
        distance_A: (n,) Å.
        energy_eV: (n,) eV, relative to the two lone atoms.
    """

    pair: tuple[str, str]
    distance_A: np.ndarray
    energy_eV: np.ndarray

    @property
    def name(self) -> str:
        """Both symbols."""
        return "–".join(self.pair)

    def minima(self) -> list[tuple[float, float]]:
        """(distance Å, depth eV below the lower of the tops on both sides), above 0.1 eV."""
        found, shape = find_peaks(-self.energy_eV, prominence=SECOND_WELL_EV)
        return [
            (float(self.distance_A[i]), float(d))
            for i, d in zip(found, shape["prominences"], strict=True)
        ]

    def kink(self) -> float:
        """Largest jump of the second difference from the mean of its neighbours, relative.

        Second differences of a twice differentiable curve change by O(h) from one point to the
        next; at a kink one of them stands out by O(1).
        """
        c = np.diff(self.energy_eV, 2)
        jump = np.abs(c[1:-1] - (c[:-2] + c[2:]) / 2)
        scale = np.abs(c[:-2]) + np.abs(c[2:]) + 0.5 * STEP_ANGSTROM**2
        return float((jump / scale).max())


def dimer(potential: Potential, pair: tuple[str, str]) -> Dimer:
    """The curve from 0.5 Å to 0.3 Å beyond the cutoff."""
    r = np.arange(SHORTEST_ANGSTROM, potential.cutoff_angstrom + 0.3, STEP_ANGSTROM)
    every = [Atoms(pair, [(0, 0, 0), (x, 0, 0)]) for x in r] + [Atoms([s]) for s in pair]
    energy = potential.evaluate(every, forces=False, on_extrapolation="ignore").energy
    return Dimer(pair, r, energy[:-2] - energy[-2:].sum())


def dimer_checks(curve: Dimer, cutoff: float) -> Iterator[Check]:
    """Wall and limit of a dimer curve: what holds for every pair, known or not."""
    e, name = curve.energy_eV, curve.name
    rise = float(e[0] - e.min())
    wanted = f"E({SHORTEST_ANGSTROM} Å) − E_min > {WALL_EV} eV"
    yield Check("dimer wall", name, f"{rise:.3g} eV", wanted, rise > WALL_EV)
    far = float(np.abs(e[curve.distance_A >= cutoff]).max())
    wanted = f"|E − lone atoms| < {LONE_EV}"
    yield Check("dimer limit", name, f"{far:.1e} eV", wanted, far < LONE_EV)


def dimer_shape_checks(curve: Dimer) -> Iterator[Check]:
    """Smoothness and wells of a dimer curve, for pairs that the training frames hold."""
    e, name, kink = curve.energy_eV, curve.name, curve.kink()
    yield Check("dimer smooth", name, f"{kink:.3f}", f"jump of curvature < {KINK}", kink < KINK)
    # Where the energy first stops to fall on the way out; the last point for a repulsive pair.
    falls = np.flatnonzero(np.diff(e) >= 0)
    first = float(curve.distance_A[falls[0] if len(falls) else -1])
    shortest = 0.5 * sum(covalent_radii[atomic_numbers[s]] for s in curve.pair)
    yield Check("dimer falls to", name, f"{first:.2f} Å", f"> {shortest:.2f} Å", first > shortest)
    wells = curve.minima()
    found = ", ".join(f"{r:.2f} Å ({d:.2f} eV)" for r, d in wells) or "none"
    yield Check("dimer wells", name, found, "one at most", len(wells) <= 1)


def lone_atom_checks(potential: Potential) -> Iterator[Check]:
    """Lone atoms against the reference energies of the file."""
    known = potential.metadata.heads.get(potential.head, {}).get("lone_atom_energies_known", ())
    for symbol, reference in potential.reference_energies_eV.items():
        energy = potential.evaluate([Atoms([symbol])], on_extrapolation="ignore").energy[0]
        kind = "calculated" if symbol in known else "fitted: no dissociation energy"
        yield Check(
            *("lone atom", symbol, f"{energy:.4f} eV", f"{reference:.4f} eV ({kind})"),
            passed=bool(abs(energy - reference) < LONE_EV),
        )


def departing_force(potential: Potential, build: Callable[[float], Atoms]) -> np.ndarray:
    """|F| along z on the last atom, which leaves, (201,), eV/Å.

    Args:
        potential: what is tested.
        build: the structure with that atom so far away, Å; from 0.8 to 1.05 of the cutoff.
    """
    distances = np.linspace(*DEPARTURE, N_DEPARTURE) * potential.cutoff_angstrom
    structures = [build(float(d)) for d in distances]
    forces = potential.evaluate(structures, on_extrapolation="ignore").forces
    return np.abs([f[-1, 2] for f in forces])


def spike_limit(force: np.ndarray) -> float:
    """Largest force that is no spike: what stood at the start, or ``SPIKE_EV_PER_A``."""
    return max(SPIKE_EV_PER_A, 1.001 * float(force[0]))
