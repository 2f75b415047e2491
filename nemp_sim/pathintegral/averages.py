"""Quantum averages of an i-PI simulation, from its own output files, with error bars.

    K_cv = 3/2 N k_B T − 1/(2P) Σ_k (q_k − q̄) · f_k          centroid virial
    K_td = 3/2 N P k_B T − Σ_k ½ m ω_P² (q_k − q_{k+1})²/P     primitive (thermodynamic)

Both are estimators of the same quantum kinetic energy; the first has the smaller scatter.
i-PI counts held atoms in these sums and gives them the momenta of a free particle; here only atoms
that move count. Sources: M. F. Herman et al., J. Chem. Phys. 76, 5150 (1982), 10.1063/1.442815;
scaled coordinates: T. M. Yamamoto, J. Chem. Phys. 123, 104101 (2005), 10.1063/1.2013257.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.units import kB

from nemp_sim.blocking import Average, block_average, drift
from nemp_sim.config import require
from nemp_sim.errors import InputError
from nemp_sim.pathintegral.files import read_properties
from nemp_sim.pathintegral.input import PREFIX, Dynamics, Start
from nemp_sim.units import HARTREE_EV

CONSERVED_LIMIT_MEV_PER_PS = 5.0  # for each atom; k_B T at 300 K is 26 meV
JUMP_FACTOR, JUMP_SMALLEST_EV = 25.0, 0.02  # over the median change between two lines
DRIFT_LIMIT = 4.0  # halves of a run that differ by more standard errors are no equilibrium


@dataclass(frozen=True)
class Thermodynamics:
    """Averages over the property file of one simulation; energies of the atoms that move.

    Attributes:
        beads: P.
        temperature_K: of the ensemble.
        n_samples: lines used.
        length_ps: time that they span.
        kinetic_cv_eV: by species, centroid-virial kinetic energy of one atom (of the operator
            estimator, with Suzuki–Chin).
        kinetic_td_eV: by species, primitive kinetic energy of one atom; empty with Suzuki–Chin.
        potential_eV: of the whole structure.
        energy_eV: kinetic (centroid virial) and potential energy.
        kinetic_temperature_K: of the extended system; the ensemble's where the dynamics is right.
        heat_capacity_kB: at constant volume; None where not written.
        pressure_MPa: None without full periodicity.
        volume_A3: likewise.
        density_g_per_cm3: likewise.
        conserved_meV_per_ps: slope of the conserved quantity for each atom that moves.
        jump_eV: largest change of the conserved quantity between two lines.
        jump_step: the step after it.
        drift: difference of the halves of the run in the total energy, in standard errors.
        series: time (ps) and energies (eV) used, for the figure.
    """

    beads: int
    temperature_K: float
    n_samples: int
    length_ps: float
    kinetic_cv_eV: Mapping[str, Average]
    kinetic_td_eV: Mapping[str, Average]
    potential_eV: Average
    energy_eV: Average
    kinetic_temperature_K: Average
    heat_capacity_kB: Average | None
    pressure_MPa: Average | None
    volume_A3: Average | None
    density_g_per_cm3: Average | None
    conserved_meV_per_ps: float
    jump_eV: float
    jump_step: int
    drift: float
    series: Mapping[str, np.ndarray]

    def remarks(self) -> list[str]:
        """What a reader must know about the quality of the averages."""
        found = []
        if not (self.energy_eV.resolved and self.kinetic_temperature_K.resolved):
            found.append(
                f"P = {self.beads}: the run is shorter than its correlation time allows to say; "
                "the error bars are lower bounds. Give more --steps."
            )
        if self.drift > DRIFT_LIMIT:
            found.append(
                f"P = {self.beads}: the total energies of the two halves differ by "
                f"{self.drift:.1f} standard errors: not yet equilibrium. Give more --equilibration."
            )
        got, error = self.kinetic_temperature_K.mean, self.kinetic_temperature_K.error
        if abs(got - self.temperature_K) > max(DRIFT_LIMIT * error, 0.02 * self.temperature_K):
            found.append(
                f"P = {self.beads}: the temperature of the dynamics is {got:.1f} ± {error:.1f} K "
                f"instead of {self.temperature_K:g} K: a shorter time step, or a longer run."
            )
        usual = np.median(np.abs(np.diff(self.series["conserved_eV"]))) if self.jump_step else 0.0
        if abs(self.jump_eV) > max(JUMP_FACTOR * usual, JUMP_SMALLEST_EV):
            found.append(
                f"P = {self.beads}: the conserved quantity jumps by {self.jump_eV:+.2f} eV before "
                f"step {self.jump_step} (time.png): the forces were wrong there, or beads reached "
                "distances that the potential was not trained on."
            )
        if abs(self.conserved_meV_per_ps) > CONSERVED_LIMIT_MEV_PER_PS:
            found.append(
                f"P = {self.beads}: the conserved quantity drifts by "
                f"{self.conserved_meV_per_ps:.1f} meV/ps for each atom. Give a shorter --timestep."
            )
        return found


def thermodynamics(
    directory: Path, start: Start, dynamics: Dynamics, skip: int = 0
) -> Thermodynamics:
    """Averages over the lines after step ``skip``.

    Raises:
        InputError: no lines are left.
    """
    columns = read_properties(directory / f"{PREFIX}.out")
    used = _after(columns, skip)
    count = len(used["step"])
    kinetic = "kinetic_opsc" if dynamics.ensemble == "sc" else "kinetic_cv"
    potential = used["potential_opsc" if dynamics.ensemble == "sc" else "potential"]
    thermal = 1.5 * kB * dynamics.temperature_K
    centroid = {s: _per_atom(used, kinetic, s, start, thermal) for s in start.species()}
    primitive = {}
    if dynamics.ensemble != "sc":
        held = dynamics.beads * thermal
        primitive = {s: _per_atom(used, "kinetic_td", s, start, held) for s in start.species()}
    moving = {s: sum(start.labels[i] == s for i in start.free) for s in start.species()}
    total = potential + sum(moving[s] * series for s, series in centroid.items())
    time_ps = used["time"]
    steps = np.diff(used["conserved"])
    jump = int(np.abs(steps).argmax()) if count > 1 else None
    slope = np.polyfit(time_ps, used["conserved"], 1)[0] if count > 2 else 0.0
    given = {n: block_average(used[n]) for n in ("pressure_cv", "volume", "density") if n in used}
    return Thermodynamics(
        beads=dynamics.beads,
        temperature_K=dynamics.temperature_K,
        n_samples=count,
        length_ps=float(np.ptp(time_ps)),
        kinetic_cv_eV={s: block_average(v) for s, v in centroid.items()},
        kinetic_td_eV={s: block_average(v) for s, v in primitive.items()},
        potential_eV=block_average(potential),
        energy_eV=block_average(total),
        kinetic_temperature_K=block_average(used["temperature"]),
        heat_capacity_kB=_heat_capacity(used, start, dynamics),
        pressure_MPa=given.get("pressure_cv"),
        volume_A3=given.get("volume"),
        density_g_per_cm3=given.get("density"),
        conserved_meV_per_ps=float(1e3 * slope / len(start.free)),
        jump_eV=0.0 if jump is None else float(steps[jump]),
        jump_step=0 if jump is None else int(used["step"][jump + 1]),
        drift=drift(total),
        series={"time_ps": time_ps, "energy_eV": total, "conserved_eV": used["conserved"]},
    )


def _after(columns: Mapping[str, np.ndarray], skip: int) -> dict[str, np.ndarray]:
    keep = columns["step"] > skip
    if not keep.any():
        raise InputError(
            f"equilibration is {skip}, but the last step is {int(columns['step'][-1])}. Give more "
            "--steps, or a shorter --equilibration."
        )
    return {name: values[keep] for name, values in columns.items()}


def _per_atom(
    used: Mapping[str, np.ndarray], name: str, species: str, start: Start, held_eV: float
) -> np.ndarray:
    """Series of one atom's kinetic energy, without what i-PI counts for each held atom."""
    n_held = sum(start.labels[i] == species for i in start.fixed)
    n_free = sum(start.labels[i] == species for i in start.free)
    return (used[f"{name}({species})"] - n_held * held_eV) / n_free


def _heat_capacity(
    used: Mapping[str, np.ndarray], start: Start, dynamics: Dynamics
) -> Average | None:
    """C_V/k_B = β² (⟨ε²⟩ − ⟨ε⟩² − ⟨ε'⟩), less the kinetic 3/2 of each held atom."""
    columns = [used[n] for n in ("scaledcoords", "sc_op_scaledcoords") if n in used]
    if not columns:
        return None
    energy, derivative = columns[0].T
    beta = HARTREE_EV / (kB * dynamics.temperature_K)
    series = beta**2 * ((energy - energy.mean()) ** 2 - derivative)
    return block_average(series).scaled(1.0, -1.5 * len(start.fixed))


def isotope_free_energy(masses_amu: np.ndarray, kinetic_eV: Sequence[Average]) -> Average:
    """Change of the free energy when the mass of an atom goes from the first to the last, eV.

        ∂F/∂m = −⟨K⟩/m,   ΔF = 2 ∫ ⟨K⟩/g dg  with g = m^(−1/2)

    where ⟨K⟩/g hardly varies for a stiff oscillator; Simpson's rule in g. The classical part,
    −3/2 k_B T ln(m₂/m₁), is the same in all phases.

    Args:
        masses_amu: odd number of masses, evenly spaced in g: from ``isotope_masses``.
        kinetic_eV: kinetic energy of the atom at each mass.

    Raises:
        InputError: an even number, or uneven steps.

    Source: M. Ceriotti and T. E. Markland, J. Chem. Phys. 138, 014112 (2013), 10.1063/1.4772676.
    """
    g = np.asarray(masses_amu, dtype=np.float64) ** -0.5
    count = len(g)
    require(count >= 3 and count % 2 == 1, "masses_amu", count, "an odd number, 3 or more")
    steps = np.diff(g)
    require(np.allclose(steps, steps[0]), "masses_amu", list(masses_amu), "evenly spaced in 1/√m")
    weights = np.ones(count)
    weights[1:-1:2], weights[2:-1:2] = 4.0, 2.0
    weights *= 2.0 * steps[0] / (3.0 * g)
    mean = sum(w * k.mean for w, k in zip(weights, kinetic_eV, strict=True))
    error = np.sqrt(sum((w * k.error) ** 2 for w, k in zip(weights, kinetic_eV, strict=True)))
    worst = max(k.inefficiency for k in kinetic_eV)
    return Average(float(mean), float(error), worst, all(k.resolved for k in kinetic_eV))


def isotope_masses(first_amu: float, last_amu: float, count: int = 3) -> np.ndarray:
    """Masses (amu) for ``isotope_free_energy``: evenly spaced in 1/√m, both ends included."""
    return np.linspace(first_amu**-0.5, last_amu**-0.5, count) ** -2.0
