"""What a run of dynamics found: temperatures, energies and pressures with errors, and the drift."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nemp_sim.blocking import Average, block_average, drift
from nemp_sim.errors import InputError
from nemp_sim.files import each_structure
from nemp_sim.md.files import COLUMNS, LOG, PRESSURE

SIGMAS = 3.0  # between the halves of a run, or from the bath: beyond, it is no equilibrium
DRIFT_LIMIT_MEV_PER_PS = 1.0  # for each atom; k_B T at 300 K is 26 meV


@dataclass(frozen=True)
class Series:
    """The log of R replicas, n lines each.

    Attributes:
        time_ps: (n,).
        temperature_K: (n, R) kinetic temperatures.
        potential_eV: (n, R).
        total_eV: (n, R) potential and kinetic energy.
        pressure_MPa: (n, R); None where it is not known.
        volume_A3: (n, R); None likewise.
    """

    time_ps: np.ndarray
    temperature_K: np.ndarray
    potential_eV: np.ndarray
    total_eV: np.ndarray
    pressure_MPa: np.ndarray | None
    volume_A3: np.ndarray | None

    def of(self, replicas: Sequence[int], after_ps: float) -> "Series":
        """Some replicas alone, from a time on."""
        late = self.time_ps > after_ps
        kept = {k: v for k, v in vars(self).items() if k != "time_ps"}
        cut: dict[str, Any] = {
            k: None if v is None else v[late][:, list(replicas)] for k, v in kept.items()
        }
        return Series(self.time_ps[late], **cut)


@dataclass(frozen=True)
class Averages:
    """Averages of the replicas at one temperature.

    Attributes:
        temperature_K: that was asked for.
        n_replicas: replicas.
        kinetic_K: kinetic temperature.
        potential_eV: potential energy of one replica.
        drift_meV_per_ps: slope of the total energy of an atom, mean of the replicas; of ``nve``
            alone it says how good the time step is.
        excursion_meV: largest distance of the total energy of an atom from its fit.
        pressure_MPa: None where it is not known.
        volume_A3: of ``npt``; None likewise.
        unsettled: how many standard errors the two halves of the run are apart in potential energy,
            at worst.
    """

    temperature_K: float
    n_replicas: int
    kinetic_K: Average
    potential_eV: Average
    drift_meV_per_ps: Average
    excursion_meV: float
    pressure_MPa: Average | None
    volume_A3: Average | None
    unsettled: float


def read_log(directory: Path) -> Series:
    """The log of a run."""
    table = np.genfromtxt(directory / LOG, delimiter=",", names=True, dtype=float)
    replicas = int(table["replica"].max()) + 1

    def column(name: str) -> Any:  # noqa: ANN401 (an array, or None where it is not known)
        known = name in (table.dtype.names or ())
        return table[name].reshape(-1, replicas) if known else None

    names = (*COLUMNS[3:5], COLUMNS[6], *PRESSURE)
    return Series(table["time_ps"].reshape(-1, replicas)[:, 0], **{n: column(n) for n in names})


def averages(series: Series, temperature_K: float, n_atoms: int) -> Averages:
    """Averages over the lines of one temperature, ``Series.of`` the replicas and times wanted.

    Raises:
        InputError: fewer than two lines.
    """
    count = len(series.time_ps)
    if count < 2:
        raise InputError(
            f"the log has {count} lines after the equilibration, but averages need two. Give more "
            "--picoseconds, a shorter --equilibration, or a smaller --every."
        )
    per_atom = 1e3 * series.total_eV / n_atoms
    fits = np.polyfit(series.time_ps, per_atom, 1)
    rest = per_atom - np.outer(series.time_ps, fits[0]) - fits[1]
    n_replicas = len(fits[0])
    spread = fits[0].std(ddof=1) / np.sqrt(n_replicas) if n_replicas > 1 else float("nan")
    halves = [drift(column) for column in series.potential_eV.T]
    return Averages(
        temperature_K=temperature_K,
        n_replicas=n_replicas,
        kinetic_K=pooled(series.temperature_K),
        potential_eV=pooled(series.potential_eV),
        drift_meV_per_ps=Average(float(fits[0].mean()), float(spread), 1.0, True),
        excursion_meV=float(np.abs(rest).max()),
        pressure_MPa=None if series.pressure_MPa is None else pooled(series.pressure_MPa),
        volume_A3=None if series.volume_A3 is None else pooled(series.volume_A3),
        unsettled=max(halves),
    )


def pooled(values: np.ndarray) -> Average:
    """Mean of independent series (n, R), each with its own error by blocks."""
    each = [block_average(column) for column in values.T]
    error = float(np.sqrt(sum(a.error**2 for a in each))) / len(each)
    inefficiency = float(np.mean([a.inefficiency for a in each]))
    resolved = all(a.resolved for a in each)
    return Average(float(np.mean([a.mean for a in each])), error, inefficiency, resolved)


def frames_of(paths: Sequence[Path], after_ps: float) -> tuple[np.ndarray, np.ndarray]:
    """Cells (F, 3, 3) and places (F, R, N, 3), Å, of R trajectories of one length from a time on.

    The cells are those of the first: replicas share theirs, and ``npt`` has one.
    """
    places: list[list[np.ndarray]] = []
    cells: list[np.ndarray] = []
    for path in paths:
        kept = [a for a in each_structure(path, "trajectory") if a.info["time_ps"] > after_ps]
        places.append([a.positions for a in kept])
        cells = cells or [a.cell.array for a in kept]
    return np.array(cells), np.array(places).swapaxes(0, 1)
