"""Energies, forces, uncertainties and domain of the frames of a file; errors where it has labels.

Any file that ASE reads: nemp evaluate --structures frames.xyz --potential my.pt. Labels are
REF_energy and REF_forces, or the energies and forces of the file itself. The file is read twice,
first to refuse what is wrong in it; memory does not grow with its frames.
"""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from ase import Atoms

from nemp_sim.command import workflow_app
from nemp_sim.config import require_plain_name
from nemp_sim.console import Show, logged, time_left
from nemp_sim.errors import InputError
from nemp_sim.files import each_structure, writing_structures
from nemp_sim.labelling.report import LabelCheck, LabelErrors, check_quantities
from nemp_sim.locks import alone
from nemp_sim.plots import save_figure
from nemp_sim.potential import Potential
from nemp_sim.relax import Engine
from nemp_sim.report import Quantity, Report, write_report
from nemp_sim.statistics import Sample
from nemp_sim.structures import bare
from nemp_sim.training.accuracy import ErrorPair
from nemp_sim.training.data import labels_of
from nemp_sim.training.plots import parity
from nemp_sim.workflow import WorkflowResult, ended, engine_of

AT_ONCE = 64  # structures in memory, and between two words on progress
MOST_POINTS = 20_000  # of a panel of the figure
KEYS = (("REF_energy", "REF_forces"), ("energy", "forces"))  # ours, or those of ASE's readers


@dataclass(frozen=True)
class Settings:
    """Everything that fixes a run.

    Attributes:
        structures: file of structures, all its frames.
        potential: path or name of a potential.
        head: read-out of the potential; None: the only one.
        device: "auto", "cpu", "cuda" or "cuda:1".
        dtype: "float32" or "float64"; None: that of the potential.
        on_extrapolation: outside the domain of the potential: "warn", "raise" or "ignore".
        out: directory of all results.
        name: the results go to ``out``/evaluate-``name``; None: made from the file name.
    """

    structures: Path | None = None
    potential: str = "pdh.pt"
    head: str | None = None
    device: str = "auto"
    dtype: str | None = None
    on_extrapolation: str = "warn"
    out: Path = Path("results")
    name: str | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without files."""
        if self.structures is None:
            raise InputError("structures is not given. Give --structures FILE.")
        for name in ("structures", "out"):
            object.__setattr__(self, name, Path(getattr(self, name)))
        require_plain_name(self.name)

    def plan(self) -> str:
        """What a run would do, in words."""
        return f"Evaluate every frame of {self.structures} with {self.potential}."

    @property
    def directory(self) -> Path:
        """Where the results go."""
        return self.out / f"evaluate-{self.name or self.structures.stem}"


@dataclass(frozen=True)
class Result(WorkflowResult[Settings]):
    """Outcome of a run, besides its settings, directory and report.

    Attributes:
        check: errors on the frames that have labels; None without any.
    """

    check: LabelCheck | None


@logged
@alone
def run(settings: Settings, engine: Engine | None = None, show: Show | None = None) -> Result:
    """Evaluate all frames, compare them with their labels, write the files.

    Args:
        settings: what to do.
        engine: evaluates the structures; None loads ``settings.potential``.
        show: called with how far it is.

    Raises:
        PotentialFileError: no such potential.
        InputError: an unreadable file, or an element that the potential does not know.
        EvaluationError: results that are not finite.
    """
    started, show = time.perf_counter(), show or (lambda event: None)
    total = sum(1 for _ in _frames(settings))
    engine = engine_of(engine, settings, settings.potential, settings.head)
    errors, points, done = LabelErrors(), Points(engine), 0
    begun = time.perf_counter()
    with writing_structures(settings.directory / "evaluated.extxyz") as write:
        for frames in _batches(_frames(settings)):
            found = _evaluated(engine, frames)
            write(found)
            for atoms in found:
                if "REF_energy" in atoms.info:
                    errors.add(atoms)
                    points.add(atoms)
            done += len(found)
            show(f"evaluated {done} of {total} frames, {time_left(begun, done, total)}")
    check = errors.check()
    report = _report(settings, done, check)
    report = ended(report, engine, settings, started, None)
    if check is not None:
        figure = parity({settings.structures.stem: points.pairs()})
        save_figure(figure, settings.directory / "parity.png")
    write_report(report, settings.directory)
    return Result(settings, report, check)


def _frames(settings: Settings) -> Iterator[Atoms]:
    """Frames with their labels, if they have energy and forces, as REF_energy and REF_forces.

    Raises:
        InputError: an unreadable file, or labels that are no finite numbers of the right shape.
    """
    for index, frame in enumerate(each_structure(settings.structures, "structures")):
        copy, own = bare(frame), frame.calc.results if frame.calc else {}
        held = {*frame.info, *frame.arrays, *own}
        names = next((names for names in KEYS if held.issuperset(names)), None)
        if names is not None:
            labels = labels_of(frame, SimpleNamespace(energy_key=names[0], forces_key=names[1]))
            if isinstance(labels, str):
                raise InputError(
                    f"structures: frame {index} ({frame.get_chemical_formula()}) of "
                    f"{str(settings.structures)!r}: {labels}. Mend the labels or remove them."
                )
            copy.info["REF_energy"], copy.arrays["REF_forces"], _ = labels
        yield copy


def _batches(frames: Iterator[Atoms]) -> Iterator[list[Atoms]]:
    while batch := [*itertools.islice(frames, AT_ONCE)]:
        yield batch


def _evaluated(engine: Engine, frames: list[Atoms]) -> list[Atoms]:
    """The frames with what is predicted."""
    wanted = {"uncertainty": engine.n_members > 0} if isinstance(engine, Potential) else {}
    result = engine.evaluate(frames, **wanted)
    for index, frame in enumerate(frames):
        frame.info["nemp_energy"] = float(result.energy[index])
        frame.arrays["nemp_forces"] = np.asarray(result.forces[index])
        if getattr(result, "forces_std", None) is not None:
            frame.info["nemp_energy_std"] = float(result.energy_std[index])
            frame.arrays["nemp_forces_std"] = np.asarray(result.forces_std[index])
        outside = getattr(result, "outside", ())
        if outside and outside[index]:
            frame.info["nemp_outside"] = "; ".join(map(str, outside[index]))
    return frames


class Points:
    """Labelled and predicted energies and force components, for the figure."""

    def __init__(self, engine: Engine) -> None:
        """None yet; energies count from the lone atoms of the engine."""
        self._engine = engine
        self._lone: dict[str, float] = {}
        self._energies, self._forces = Sample(MOST_POINTS), Sample(MOST_POINTS)

    def add(self, atoms: Atoms) -> None:
        """A frame with labels and predictions."""
        for symbol in {*atoms.symbols} - {*self._lone}:
            quiet = {"on_extrapolation": "ignore"} if isinstance(self._engine, Potential) else {}
            self._lone[symbol] = float(self._engine.evaluate([Atoms(symbol)], **quiet).energy[0])
        zero = sum(self._lone[symbol] for symbol in atoms.symbols)
        kinds = ("REF", "nemp")
        energies = [(atoms.info[f"{kind}_energy"] - zero) / len(atoms) for kind in kinds]
        self._energies.add(np.array([energies]))
        forces = [atoms.arrays[f"{kind}_forces"].ravel() for kind in kinds]
        self._forces.add(np.stack(forces, axis=1))

    def pairs(self) -> tuple[ErrorPair, ErrorPair]:
        """Energies and force components; of long files a regular sample."""
        energies, forces = self._energies.rows().T, self._forces.rows().T
        return (
            ErrorPair(energies[0], energies[1], "meV/atom"),
            ErrorPair(forces[0], forces[1], "meV/Å"),
        )


def _report(settings: Settings, count: int, check: LabelCheck | None) -> Report:
    verdict = f"{count} frames evaluated; none has labels of energy and forces."
    files = {"evaluated.extxyz": "the frames with nemp_energy (eV), nemp_forces (eV/Å), labels"}
    quantities = [Quantity("n_frames", "Frames", count)]
    if check is not None:
        verdict = (
            f"Energy RMSE {check.energy_rmse_meV_per_atom:.1f} meV/atom "
            f"({check.energy_rmse_about_shift_meV_per_atom:.1f} about the mean difference), force "
            f"RMSE {check.force_rmse_meV_per_A:.1f} meV/Å on {check.n_structures} labelled frames."
        )
        files["parity.png"] = "predicted against labelled energies and forces, up to 20 000"
        quantities += [Quantity("n_labelled", "Labelled frames", check.n_structures)]
        quantities += check_quantities(check)
    return Report(
        title=f"Evaluation of {settings.structures.name}",
        verdict=verdict,
        quantities=tuple(quantities),
        files=files,
    )


app = workflow_app(Settings, run)
