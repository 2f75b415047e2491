"""From a band to a rate: stationary ends and saddle, the proof, their vibrations, the rates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from ase import Atoms
from ase.data import atomic_masses

from nemp_sim.config import require
from nemp_sim.reactions.instanton import Instanton, highest_temperature, instanton
from nemp_sim.reactions.kinetics import Rates, rates
from nemp_sim.reactions.neb import NEBResult
from nemp_sim.reactions.path_std import PathStd, path_std
from nemp_sim.reactions.transition_state import Proof, Refinement, prove, refine_saddle
from nemp_sim.relax import Engine, Step, relax
from nemp_sim.units import DEUTERIUM_AMU
from nemp_sim.vibrations import Vibrations, vibrations

TIGHT_FMAX = 2e-3  # eV/Å: softer modes than 50 cm⁻¹ need the ends this close to their minima
NAMES = ("initial", "saddle", "final")


@dataclass(frozen=True)
class Reaction:
    """An elementary step, from its initial over its saddle to its final state.

    Attributes:
        states: initial, saddle, final, with energies and forces.
        modes: their vibrations.
        refinement: how the saddle was found.
        proof: what lies on its sides.
        energies_eV: (3,) of the states.
        std: predicted standard deviations of barriers and reaction energy; None without an
            ensemble.
        rates: with the masses of the structures; None where there are no rates.
        heavy: with H replaced by D; None where there are no rates, or no H moves.
        problems: what stands against the result; empty: proved.
        instantons: at the temperatures that were asked for and have one.
        too_hot_K: temperatures that were asked for and have none.
    """

    states: tuple[Atoms, Atoms, Atoms]
    modes: tuple[Vibrations, Vibrations, Vibrations]
    refinement: Refinement
    proof: Proof
    energies_eV: np.ndarray
    std: PathStd | None
    rates: Rates | None
    heavy: Rates | None
    problems: tuple[str, ...]
    instantons: tuple[Instanton, ...] = ()
    too_hot_K: tuple[float, ...] = ()

    @property
    def missing_instantons_K(self) -> tuple[float, ...]:  # noqa: N802 (a unit in a name)
        """Temperatures that were asked for and have no instanton rate."""
        return (*self.too_hot_K, *(p.temperature_K for p in self.instantons if not p.converged))

    @property
    def barriers_eV(self) -> tuple[float, float]:  # noqa: N802 (a unit in a name)
        """Saddle above the initial and above the final state, potential energy."""
        here, top, there = self.energies_eV
        return float(top - here), float(top - there)

    def zero_point_eV(self) -> tuple[float, ...]:  # noqa: N802 (a unit in a name)
        """Zero-point energies of the three states."""
        return tuple(modes.zero_point_energy_eV for modes in self.modes)


def analyse(
    engine: Engine,
    band: NEBResult,
    temperatures_K: Sequence[float],
    vibrating: Sequence[int] | None = None,
    on_step: Callable[[Step], None] | None = None,
    instanton_temperatures_K: Sequence[float] = (),
) -> Reaction:
    """Refine and prove the saddle of a band, and compute its rates.

    Args:
        engine: evaluates the structures; a Potential in float64 gives analytic Hessians.
        band: converged, one barrier.
        temperatures_K: of the rates.
        vibrating: atoms that vibrate; None: all that are free.
        on_step: called after each step of the relaxation of the ends.
        instanton_temperatures_K: of instanton rates; those above the crossover temperature, known
            only now, are listed in ``too_hot_K``.

    Raises:
        InputError: temperatures or atoms that cannot be used.
        EvaluationError: results that are not finite.
    """
    require(min(temperatures_K, default=0) > 0, "temperatures", temperatures_K, "above 0 K")
    ends = relax(engine, (band.images[0], band.images[-1]), TIGHT_FMAX, 500, on_step)
    refined = refine_saddle(engine, band.images[band.saddle_index], TIGHT_FMAX)
    states = (ends.structures[0], refined.atoms, ends.structures[1])
    first, top, last = (vibrations(engine, atoms, vibrating) for atoms in states)
    modes = first, top, last
    everywhere = modes[1] if vibrating is None else vibrations(engine, refined.atoms)
    proof = prove(engine, everywhere, ends.structures)
    evaluated = engine.evaluate(list(states))
    energies = np.asarray(evaluated.energy, dtype=float)
    std = path_std(getattr(evaluated, "energy_members", None), top=1)
    problems = _problems(ends.converged, refined, modes, proof, energies)
    light = heavy = None
    if not problems:
        light = rates(first, top, last, energies, temperatures_K)
        swapped = deuterated(states[0], modes[0].indices)
        if swapped is not None:
            first, top, last = (m.with_masses(swapped) for m in modes)
            heavy = rates(first, top, last, energies, temperatures_K)
    found = Reaction(states, modes, refined, proof, energies, std, light, heavy, tuple(problems))
    if problems:
        return found
    limit = highest_temperature(modes[1])
    paths = [
        instanton(engine, modes[0], modes[1], float(energies[0]), t)
        for t in instanton_temperatures_K
        if t <= limit
    ]
    too_hot = tuple(t for t in instanton_temperatures_K if t > limit)
    return replace(found, instantons=tuple(paths), too_hot_K=too_hot)


def deuterated(atoms: Atoms, indices: np.ndarray) -> np.ndarray | None:
    """Masses (N,) with D for each ordinary H among ``indices``; None where there is none."""
    masses = atoms.get_masses()
    light = [
        i for i in indices if atoms.numbers[i] == 1 and abs(masses[i] - atomic_masses[1]) < 0.1
    ]
    if not light:
        return None
    masses[light] = DEUTERIUM_AMU
    return masses


def _problems(
    ends_converged: bool,
    refined: Refinement,
    modes: tuple[Vibrations, Vibrations, Vibrations],
    proof: Proof,
    energies: np.ndarray,
) -> list[str]:
    found = []
    if not ends_converged:
        found.append(f"the ends did not reach {TIGHT_FMAX} eV/Å")
    if not refined.converged:
        found.append(
            f"the saddle did not reach {TIGHT_FMAX} eV/Å in {refined.steps} steps "
            f"(largest force {refined.fmax_eV_per_A:.4f} eV/Å)"
        )
    for name, vibrating in zip(NAMES, modes, strict=True):
        wanted = int(name == "saddle")
        if vibrating.n_imaginary != wanted:
            values = np.abs(vibrating.wavenumbers_cm1[vibrating.energies_eV < 0])
            listed = ", ".join(f"{v:.0f}i" for v in values) or "none"
            right = "a saddle has exactly one" if wanted else "the end is not a minimum"
            found.append(f"imaginary modes of the {name} state: {listed} cm⁻¹, {right}")
    if not proof.holds and proof.n_imaginary == 1:
        found.append(
            f"steepest descent from the saddle reaches {proof.reached[0]} and "
            f"{proof.reached[1]}, not the two ends"
        )
    if not found and not energies[1] > max(energies[0], energies[2]):
        found.append("the saddle is not above both ends")
    return found
