"""The report of classical dynamics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nemp_sim.blocking import Average
from nemp_sim.md.averages import DRIFT_LIMIT_MEV_PER_PS, SIGMAS, Averages
from nemp_sim.md.run import Dynamics
from nemp_sim.pairs import PairDistances
from nemp_sim.report import Quantity, Report


@dataclass(frozen=True)
class Findings:
    """Everything that a run gave.

    Attributes:
        runs: averages at each temperature, in ascending order.
        pairs: distances of pairs at each.
        length_ps: of each replica.
        skipped_ps: of it, left out of the averages.
    """

    runs: tuple[Averages, ...]
    pairs: tuple[Mapping[str, PairDistances], ...]
    length_ps: float
    skipped_ps: float


def conserves(found: Findings, dynamics: Dynamics) -> bool:
    """Whether the total energy drifts less than the limit, where it should not drift at all."""
    if dynamics.ensemble != "nve":
        return True
    return all(abs(r.drift_meV_per_ps.mean) <= DRIFT_LIMIT_MEV_PER_PS for r in found.runs)


def md_report(
    title: str,
    found: Findings,
    dynamics: Dynamics,
    notes: Sequence[str],
    files: Mapping[str, str],
) -> Report:
    """The report, without its provenance.

    Args:
        title: heading.
        found: what the run gave.
        dynamics: what it was.
        notes: how the start was made.
        files: name and content of each other file.
    """
    first = found.runs[0]
    several = len(found.runs) > 1
    verdict = (
        f"{dynamics.ensemble.upper()}: {first.n_replicas} replicas of {found.length_ps:g} ps at "
        f"{', '.join(f'{run.temperature_K:g}' for run in found.runs)} K"
        if several or first.n_replicas > 1
        else f"{dynamics.ensemble.upper()}: {found.length_ps:g} ps at {first.temperature_K:g} K"
    )
    kinetic = "; ".join(_with_error(run.kinetic_K, 1) for run in found.runs)
    verdict += f"; mean kinetic temperature {kinetic} K"
    if dynamics.ensemble == "nve":
        drifts = "; ".join(_with_error(run.drift_meV_per_ps, 4) for run in found.runs)
        verdict += f"; drift of the total energy {drifts} meV/ps for each atom"
    if not conserves(found, dynamics):
        verdict = f"ENERGY NOT CONSERVED, shorten --timestep. {verdict}"
    quantities: list[Quantity] = []
    for run, pairs in zip(found.runs, found.pairs, strict=True):
        at = f"_at_{run.temperature_K:g}K" if several else ""
        where = f" at {run.temperature_K:g} K" * several
        quantities += _quantities(run, dynamics, at, where)
        for name, pair in pairs.items():
            if pair.bond_A is not None:
                label = f"Mean {name} distance of bonds{where}"
                quantities.append(
                    _row(f"bond_{name.replace('–', '_')}_A{at}", label, pair.bond_A, "Å")
                )
    remarks = [remark for run in found.runs for remark in _remarks(run, dynamics)]
    return Report(
        title=title,
        verdict=f"{verdict}.",
        quantities=(
            *quantities,
            Quantity("length_ps", "Length of each replica", found.length_ps, "ps"),
            Quantity("skipped_ps", "Left out of the averages", found.skipped_ps, "ps"),
            Quantity("timestep_fs", "Time step", dynamics.timestep_fs, "fs", 2),
        ),
        notes=(*notes, "Nuclei move classically: hydrogen does not.", *remarks),
        files=files,
        data={
            "averages": [vars(run) for run in found.runs],
            "pairs": [
                {
                    name: {k: v for k, v in vars(pair).items() if k != "bond_A"}
                    for name, pair in pairs.items()
                }
                for pairs in found.pairs
            ],
        },
    )


def _with_error(value: Average, digits: int) -> str:
    error = "" if np.isnan(value.error) else f" ± {value.error:.{digits}f}"
    return f"{value.mean:.{digits}f}{error}"


def _row(key: str, label: str, value: Average, unit: str, digits: int = 4) -> Quantity:
    error = None if np.isnan(value.error) else value.error
    return Quantity(key, label, value.mean, unit, digits, error)


def _quantities(run: Averages, dynamics: Dynamics, key: str, where: str) -> list[Quantity]:
    def row(name: str, label: str, value: Average, unit: str, digits: int) -> Quantity:
        return _row(f"{name}{key}", f"{label}{where}", value, unit, digits)

    rows = [
        row("kinetic_temperature_K", "Kinetic temperature", run.kinetic_K, "K", 1),
        row("potential_eV", "Potential energy", run.potential_eV, "eV", 4),
    ]
    if dynamics.ensemble == "nve":
        label = "Drift of the total energy of an atom"
        rows.append(row("drift_meV_per_ps", label, run.drift_meV_per_ps, "meV/ps", 4))
        label = f"Largest excursion of the total energy of an atom from its fit{where}"
        rows.append(Quantity(f"excursion_meV{key}", label, run.excursion_meV, "meV", 4))
    if run.pressure_MPa is not None:
        rows.append(row("pressure_MPa", "Pressure", run.pressure_MPa, "MPa", 1))
    if run.volume_A3 is not None and dynamics.ensemble == "npt":
        rows.append(row("volume_A3", "Volume", run.volume_A3, "Å³", 2))
    return rows


def _remarks(run: Averages, dynamics: Dynamics) -> list[str]:
    found, at = [], f"At {run.temperature_K:g} K"
    if run.unsettled > SIGMAS:
        found.append(
            f"{at} the potential energies of the two halves of a run differ by {run.unsettled:.1f} "
            "standard errors: not yet equilibrium. Lengthen --equilibration and --picoseconds."
        )
    if not (run.kinetic_K.resolved and run.potential_eV.resolved):
        found.append(f"{at} the run is too short for its error bars: they are lower bounds.")
    if dynamics.ensemble == "nve":
        return found
    away = abs(run.kinetic_K.mean - run.temperature_K)
    if run.kinetic_K.error > 0 and away > SIGMAS * run.kinetic_K.error:
        found.append(
            f"{at} the kinetic temperature is {away / run.kinetic_K.error:.1f} standard errors from"
            " that of the bath: not yet equilibrium, or too long a --timestep."
        )
    return found
