"""What a run of dynamics writes on its way: a table and trajectories, which a further run goes on.

Both grow at their end. The state of a run says how long they were; what a killed run wrote after
that is cut off before the run goes on.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from ase import Atoms, units

from nemp_sim.errors import InputError
from nemp_sim.md.joined import Replicas

LOG = "log.csv"
COLUMNS = ("step", "time_ps", "replica", "temperature_K", "potential_eV", "kinetic_eV", "total_eV")
PRESSURE = ("pressure_MPa", "volume_A3")


@dataclass(frozen=True)
class Sample:
    """Where all replicas are at one step.

    Attributes:
        step: time steps since the start.
        time_ps: the same as a time.
        atoms: the joined structure with its momenta.
        calculator: with the results there.
    """

    step: int
    time_ps: float
    atoms: Atoms
    calculator: Replicas


class Files:
    """The files of R replicas in a directory.

    Attributes:
        trajectories: path of each replica's.
    """

    def __init__(
        self, directory: Path, temperatures_K: Sequence[float], with_pressure: bool
    ) -> None:
        """Name those of replicas at these temperatures."""
        self.trajectories = trajectory_paths(directory, temperatures_K)
        self._paths = [directory / LOG, *self.trajectories]
        self._columns = COLUMNS + PRESSURE * with_pressure
        self._handles: list[IO[str]] = []

    @contextmanager
    def opened(
        self, sizes: Sequence[int] | None, start: Atoms, freedom: int
    ) -> Iterator[Callable[..., None]]:
        """Open all for writing at their end, or anew.

        Args:
            sizes: their sizes where the run goes on, bytes; None: it begins.
            start: one replica, with its constraints.
            freedom: degrees of freedom of a replica, for its temperature.

        Yields:
            A function of a ``Sample`` and of what to write: ``log``, ``frame``.

        Raises:
            InputError: a file is shorter than the run that goes on has left it.
        """
        for path, size in zip(self._paths, sizes if sizes is not None else (), strict=False):
            self._cut(path, int(size))
        with ExitStack() as stack:
            mode = "w" if sizes is None else "a"
            opening = (path.open(mode, encoding="utf-8", newline="\n") for path in self._paths)
            self._handles = [stack.enter_context(handle) for handle in opening]
            if sizes is None:
                self._handles[0].write(",".join(self._columns) + "\n")

            def write(sample: Sample, log: bool, frame: bool) -> None:
                if log:
                    self._write_log(sample, freedom)
                if frame:
                    self._write_frames(sample, start)

            yield write

    def sizes(self) -> list[int]:
        """Sizes of the files as they are on disk, bytes."""
        for handle in self._handles:
            handle.flush()
        return [path.stat().st_size for path in self._paths]

    def _cut(self, path: Path, size: int) -> None:
        found = path.stat().st_size if path.is_file() else 0
        if found < size:
            raise InputError(
                f"{path} has {found} bytes, but the run that goes on has written {size}: the file "
                "was changed or lost. Give --fresh to start anew."
            )
        os.truncate(path, size)

    def _write_log(self, sample: Sample, freedom: int) -> None:
        calculator = sample.calculator
        count = len(calculator.atoms_of)
        momenta, masses = sample.atoms.get_momenta(), sample.atoms.get_masses()
        squares = (momenta**2).sum(axis=1) / masses
        for k, kinetic in enumerate(0.5 * squares.reshape(count, -1).sum(axis=1)):
            potential = calculator.energies[k]
            row = [f"{sample.step}", f"{sample.time_ps:.6f}", f"{k}"]
            row.append(f"{2 * kinetic / (freedom * units.kB):.4f}")
            row += [f"{value:.9f}" for value in (potential, kinetic, potential + kinetic)]
            if len(self._columns) > len(COLUMNS):
                volume = abs(np.linalg.det(sample.atoms.cell.array))
                pressure = 2 * kinetic / (3 * volume) - calculator.stresses[k, :3].mean()
                row += [f"{1e3 * pressure / units.GPa:.4f}", f"{volume:.6f}"]
            self._handles[0].write(",".join(row) + "\n")

    def _write_frames(self, sample: Sample, start: Atoms) -> None:
        from ase.io.extxyz import write_extxyz

        frames = sample.calculator.split(sample.atoms, start)
        for frame, handle in zip(frames, self._handles[1:], strict=True):
            frame.info = {"step": sample.step, "time_ps": round(sample.time_ps, 6)}
            write_extxyz(handle, [frame])


def trajectory_paths(directory: Path, temperatures_K: Sequence[float]) -> list[Path]:
    """Where the frames of each replica go; replicas of one temperature are numbered from 0."""
    if len(temperatures_K) == 1:
        return [directory / "trajectory.extxyz"]
    found, seen = [], dict.fromkeys(temperatures_K, 0)
    for temperature in temperatures_K:
        found.append(directory / f"trajectory-{temperature:g}K-{seen[temperature]}.extxyz")
        seen[temperature] += 1
    return found
