"""Energies, forces, uncertainties and domain of the frames of a file; errors where it has labels.

Any file that ASE reads: nemp evaluate --structures frames.xyz --potential my.pt. Labels are
REF_energy and REF_forces, or the energies and forces of the file itself.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from nemp_sim.command import workflow_app
from nemp_sim.config import require_plain_name
from nemp_sim.console import Show, logged, time_left
from nemp_sim.errors import InputError
from nemp_sim.files import read_structures, write_structures
from nemp_sim.labelling.report import LabelCheck, check_labels, check_quantities
from nemp_sim.locks import alone
from nemp_sim.plots import save_figure
from nemp_sim.potential import Potential
from nemp_sim.relax import Engine
from nemp_sim.report import Quantity, Report, write_report
from nemp_sim.structures import bare
from nemp_sim.training.accuracy import ErrorPair
from nemp_sim.training.plots import parity
from nemp_sim.workflow import WorkflowResult, ended, engine_of

AT_ONCE = 64  # structures between two words on progress


@dataclass(frozen=True)
class Settings:
    """Everything that fixes a run.

    Attributes:
        structures: file of structures, all its frames.
        potential: path or name of a potential.
        head: read-out of the potential; None: the first.
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
        structures: with nemp_energy (eV) in ``info`` and nemp_forces (eV/Å) in ``arrays``, their
            standard deviations nemp_energy_std and nemp_forces_std where the potential has them,
            and nemp_outside, what is outside its domain.
        check: errors on the frames that have labels; None without any.
    """

    structures: tuple[Atoms, ...]
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
    frames = read_structures(settings.structures, "structures")
    engine = engine_of(engine, settings, settings.potential, settings.head)
    found: list[Atoms] = []
    begun = time.perf_counter()
    for start in range(0, len(frames), AT_ONCE):
        found += _evaluated(engine, frames[start : start + AT_ONCE])
        left = time_left(begun, len(found), len(frames))
        show(f"evaluated {len(found)} of {len(frames)} frames, {left}")
    labelled = [atoms for atoms in found if "REF_energy" in atoms.info]
    check = check_labels(labelled) if labelled else None
    report = _report(settings, found, check)
    report = ended(report, engine, settings, started, None)
    write_structures(settings.directory / "evaluated.extxyz", found)
    if labelled:
        pairs = _pairs(labelled, _lone_atoms(engine, labelled))
        save_figure(parity({settings.structures.stem: pairs}), settings.directory / "parity.png")
    write_report(report, settings.directory)
    return Result(settings, report, tuple(found), check)


def _evaluated(engine: Engine, frames: Sequence[Atoms]) -> list[Atoms]:
    """Bare copies with what is predicted and, where a frame has both, its labels."""
    wanted = {}
    if isinstance(engine, Potential):
        wanted["uncertainty"] = engine.n_members > 0
    result = engine.evaluate(list(frames), **wanted)
    copies = []
    for index, frame in enumerate(frames):
        copy = bare(frame)
        copy.info["nemp_energy"] = float(result.energy[index])
        copy.arrays["nemp_forces"] = np.asarray(result.forces[index])
        if getattr(result, "forces_std", None) is not None:
            copy.info["nemp_energy_std"] = float(result.energy_std[index])
            copy.arrays["nemp_forces_std"] = np.asarray(result.forces_std[index])
        outside = getattr(result, "outside", ())
        if outside and outside[index]:
            copy.info["nemp_outside"] = "; ".join(map(str, outside[index]))
        copies.append(_with_labels(copy, frame))
    return copies


def _with_labels(copy: Atoms, frame: Atoms) -> Atoms:
    """``copy`` with the labels of ``frame``, if it has energy and forces."""
    own = frame.calc.results if frame.calc else {}
    energy = frame.info.get("REF_energy", own.get("energy"))
    forces = frame.arrays.get("REF_forces", own.get("forces"))
    if energy is not None and forces is not None:
        copy.info["REF_energy"], copy.arrays["REF_forces"] = float(energy), forces
    return copy


def _lone_atoms(engine: Engine, frames: Sequence[Atoms]) -> dict[str, float]:
    """Energy of the lone atom of each element, eV: the zero of the figure."""
    symbols = sorted({symbol for atoms in frames for symbol in atoms.symbols})
    quiet = {"on_extrapolation": "ignore"} if isinstance(engine, Potential) else {}
    energy = engine.evaluate([Atoms(symbol) for symbol in symbols], **quiet).energy
    return dict(zip(symbols, map(float, energy), strict=True))


def _pairs(frames: Sequence[Atoms], lone: dict[str, float]) -> tuple[ErrorPair, ErrorPair]:
    """Energies and force components, labelled and predicted."""
    zero = np.array([sum(lone[symbol] for symbol in atoms.symbols) for atoms in frames])
    sizes = np.array([len(atoms) for atoms in frames])
    energies = (
        (np.array([a.info[key] for a in frames]) - zero) / sizes
        for key in ("REF_energy", "nemp_energy")
    )
    forces = (
        np.concatenate([a.arrays[key].ravel() for a in frames])
        for key in ("REF_forces", "nemp_forces")
    )
    wanted, predicted = energies
    labels, found = forces
    return ErrorPair(wanted, predicted, "meV/atom"), ErrorPair(labels, found, "meV/Å")


def _report(settings: Settings, found: Sequence[Atoms], check: LabelCheck | None) -> Report:
    verdict = f"{len(found)} frames evaluated; none has labels of energy and forces."
    files = {"evaluated.extxyz": "the frames with nemp_energy (eV), nemp_forces (eV/Å), labels"}
    quantities = [Quantity("n_frames", "Frames", len(found))]
    if check is not None:
        verdict = (
            f"Energy RMSE {check.energy_rmse_meV_per_atom:.1f} meV/atom "
            f"({check.energy_rmse_about_shift_meV_per_atom:.1f} about the mean difference), force "
            f"RMSE {check.force_rmse_meV_per_A:.1f} meV/Å on {check.n_structures} labelled frames."
        )
        files["parity.png"] = "predicted against labelled energies and forces"
        quantities += [Quantity("n_labelled", "Labelled frames", check.n_structures)]
        quantities += check_quantities(check)
    return Report(
        title=f"Evaluation of {settings.structures.name}",
        verdict=verdict,
        quantities=tuple(quantities),
        files=files,
    )


app = workflow_app(Settings, run)
