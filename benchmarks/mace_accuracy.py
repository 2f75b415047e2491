"""MACE trained for a given wall time on exactly the frames that `nemp train` uses, and its errors.

    pip install mace-torch
    python benchmarks/mace_accuracy.py benchmarks/accuracy/acac.toml --seconds 480 --device cuda \
        --hidden-irreps "256x0e + 256x1o + 256x2e" --r-max 5 --batch-size 5

Training, validation and test frames are those of the TOML file (`training.job.read_splits`), the
lone-atom energies those of `nemp train` (MACE's E0s; frames of one atom enter MACE through them
alone). Settings are those of the MACE paper (arXiv:2206.07697, appendix A.5.1): two layers, body
order four, AMSGrad, learning rate 0.01, decay 5e-7, EMA 0.99, weights 1 and 1000 on energy and
forces, float64; and the second stage of its documentation in the last quarter of the run (energy
weight 1000, forces 100, learning rate 0.001). A probe of three short epochs measures the time of a
step; the number of epochs then fills what is left of the budget (the paper trains for 2 to 6 hours
on one A100), and the patience of the learning-rate schedule is an eighteenth of it. A run that
overstays is stopped and its best checkpoint is used. A model is the EMA model of the epoch with
the lowest validation loss of its stage; errors are of energies, forces and stress in float64.

    acac.toml, bpa3.toml  --hidden-irreps "256x0e + 256x1o + 256x2e" --r-max 5 --batch-size 5
                          (the paper's largest model; "256x0e" is its fastest)
    methanol.toml         as acac.toml
    water.toml            --hidden-irreps "64x0e + 64x1o" --r-max 6 --batch-size 4
    agcho.toml, agpd.toml, pdh.toml, pdco.toml
                          --hidden-irreps "128x0e + 128x1o" --r-max 5 --batch-size 16 (pdh, pdco: 8)

The first two lines are published settings, the others our choice. Published errors: docs/data.md.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from nemp_sim.training.data import Frame, reference_energies
from nemp_sim.training.job import Splits, read_config, read_splits

PROBE_STEPS = 15
MAX_TRAIN_FRAMES_MEASURED = 2000  # the first ones
SAFETY = 0.95  # of the time left is planned for
# e3nn 0.4.4, which MACE pins, reads its constants in a way that torch >= 2.6 refuses by default.
ENVIRONMENT = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}


@dataclass(frozen=True)
class Row:
    """Errors of one kind of structure in one split.

    Attributes:
        split: "train", "validation" or "test".
        config_type: kind of structure; "all" for every frame.
        frames: number of frames.
        energy_meV: RMSE of the energy of a structure, meV.
        energy_meV_per_atom: RMSE of the energy divided by the number of atoms, meV.
        force_meV_per_A: RMSE over force components, meV/Å.
        stress_meV_per_A3: RMSE over stress components of labelled frames, meV/Å³; or None.
    """

    split: str
    config_type: str
    frames: int
    energy_meV: float
    energy_meV_per_atom: float
    force_meV_per_A: float
    stress_meV_per_A3: float | None


@dataclass(frozen=True)
class Cost:
    """Wall times of MACE on this machine, s.

    Attributes:
        step_s: of one training step, loading included.
        validation_s: of one validation.
        overhead_s: of the start and the end of a run.
        wall_s: of the probe.
    """

    step_s: float
    validation_s: float
    overhead_s: float
    wall_s: float


def parse_options() -> argparse.Namespace:
    """Command-line options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="TOML file of nemp train")
    parser.add_argument("--head", help="level of theory, where the file has several")
    parser.add_argument("--out", type=Path, default=Path("results/mace"))
    parser.add_argument("--seconds", type=float, default=480.0, help="wall time of the training")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--hidden-irreps", default="128x0e + 128x1o")
    parser.add_argument("--r-max", type=float, default=5.0, help="cutoff, Å")
    parser.add_argument("--max-ell", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--dtype", default="float64", choices=("float32", "float64"))
    parser.add_argument("--seed", type=int, default=123)
    parser.add_argument("--max-epochs", type=int, default=2000)
    parser.add_argument("--max-frames", type=int, default=0, help="of each split; for a trial")
    return parser.parse_args()


def read_frames_of(options: argparse.Namespace) -> tuple[Splits, dict[str, float], bool]:
    """The frames of the TOML file, the lone-atom energies of the training, and: with stress?"""
    job = read_config(options.config)
    head = options.head or next(iter(job.heads))
    if head not in job.heads or (len(job.heads) > 1 and not options.head):
        raise SystemExit(f"{options.config}: give --head, one of {', '.join(job.heads)}")
    with_stress = job.training.stress_weight > 0
    splits = read_splits({head: job.heads[head]}, with_stress)
    lone = reference_energies(splits.train, job.heads[head].isolated_atoms_eV).lone_atom
    parts = {
        name: [f for f in getattr(splits, name) if len(f.atoms) > 1][: options.max_frames or None]
        for name in ("train", "validation", "test")
    }
    return Splits(**parts), lone, with_stress


def write_frames(path: Path, frames: Sequence[Frame]) -> None:
    """Extended XYZ with the label names that MACE reads by default."""
    structures = []
    for frame in frames:
        atoms = frame.atoms.copy()
        atoms.info = {"REF_energy": frame.energy, "config_type": frame.config_type}
        if frame.stress is not None:
            atoms.info["REF_stress"] = frame.stress
        atoms.arrays["REF_forces"] = frame.forces
        structures.append(atoms)
    ase.io.write(path, structures, format="extxyz")


def command(options: argparse.Namespace, lone: dict[str, float], stress: bool) -> list[str]:
    """The part of the mace_run_train command line that probe and training share."""
    references = {atomic_numbers[symbol]: energy for symbol, energy in lone.items()}
    loss = ["--loss=stress", "--compute_stress=True", "--stress_weight=100.0"] if stress else []
    return [
        *(
            sys.executable,
            "-m",
            "mace.cli.run_train",
            "--model=ScaleShiftMACE",
            "--num_interactions=2",
        ),
        f"--hidden_irreps={options.hidden_irreps}",
        *(f"--r_max={options.r_max}", f"--max_ell={options.max_ell}", "--correlation=3"),
        f"--E0s={references}",
        *("--energy_weight=1.0", "--forces_weight=1000.0", *loss),
        *(f"--batch_size={options.batch_size}", f"--valid_batch_size={4 * options.batch_size}"),
        *(f"--lr={options.learning_rate}", "--amsgrad", "--ema", "--ema_decay=0.99"),
        *("--weight_decay=5e-7", "--scaling=rms_forces_scaling", "--clip_grad=10"),
        *(f"--default_dtype={options.dtype}", f"--device={options.device}"),
        *(f"--seed={options.seed}", "--plot=False", "--skip_evaluate_heads=train,valid"),
    ]


def run_mace(arguments: Sequence[str], directory: Path, seconds: float | None) -> bool:
    """Run mace_run_train in ``directory``; False where it was stopped after ``seconds``.

    Raises:
        SystemExit: mace_run_train failed; the end of its output is printed.
    """
    log = directory / "output.txt"
    with log.open("a") as output:
        process = subprocess.Popen(
            [*arguments, f"--work_dir={directory}"],
            env=os.environ | ENVIRONMENT,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return False
    if code:
        print("".join(log.read_text().splitlines(keepends=True)[-25:]), file=sys.stderr)
        raise SystemExit(f"mace_run_train ended with {code}; see {log}")
    return True


def step_times(directory: Path) -> tuple[np.ndarray, int]:
    """Seconds of every training step in a run's log, and the number of its epochs."""
    files = (directory / "results").glob("*.txt")
    lines = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    steps = [x for x in lines if x["mode"] == "opt"]
    return np.array([x["time"] for x in steps]), 1 + max((x["epoch"] for x in steps), default=-1)


def probe(arguments: list[str], work: Path, frames: Sequence[Frame], batch: int) -> Cost:
    """What a step, a validation, and start and end cost, from three epochs of few steps."""
    directory = work / "probe"
    directory.mkdir(parents=True)
    few = list(frames)[: PROBE_STEPS * batch]
    write_frames(directory / "train.xyz", few)
    files = [f"--train_file={directory / 'train.xyz'}", f"--valid_file={work / 'validation.xyz'}"]
    started = time.perf_counter()
    run_mace([*arguments, *files, "--max_num_epochs=3", "--name=probe"], directory, None)
    wall = time.perf_counter() - started
    stamps = {}  # seconds at which the log says that an epoch is done
    for line in (directory / "output.txt").read_text().splitlines():
        found = re.match(r"(\S+ \S+) INFO: (?:Epoch (\d+)|Training complete)", line)
        if found:
            stamps[found[2]] = datetime.fromisoformat(found[1]).timestamp()
    results = next((directory / "results").glob("*.txt")).read_text().splitlines()
    validation = min(x["time"] for x in map(json.loads, results) if x["mode"] == "eval")
    steps = max(1, len(few) // batch)
    step = ((stamps["2"] - stamps["0"]) / 2 - validation) / steps
    return Cost(step, validation, wall - 3 * (steps * step + validation), wall)


def train(
    options: argparse.Namespace, arguments: list[str], splits: Splits
) -> tuple[dict[str, Path], str]:
    """Train within the budget; the models by stage, and a sentence about the run."""
    work = options.out
    started = time.perf_counter()
    cost = probe(arguments, work, splits.train, options.batch_size)
    steps = max(1, len(splits.train) // options.batch_size)  # MACE drops an incomplete batch
    left = SAFETY * (options.seconds - cost.wall_s - 1.5 * cost.overhead_s)
    every = max(1, int(left / (steps * cost.step_s)) // 200)
    epoch_s = steps * cost.step_s + cost.validation_s / every
    epochs = int(np.clip(left / epoch_s, 3, options.max_epochs))
    plan = [
        *(f"--train_file={work / 'train.xyz'}", f"--valid_file={work / 'validation.xyz'}"),
        *("--name=mace", f"--eval_interval={every}", f"--scheduler_patience={1 + epochs // 18}"),
    ]
    second = ["--swa", f"--start_swa={3 * epochs // 4}"]
    end = options.seconds - (time.perf_counter() - started)
    full = [*arguments, *plan, *second, f"--max_num_epochs={epochs}"]
    finished = run_mace(full, work, max(1.1 * end, end + 20))
    if not finished:  # write the models of the checkpoints that there are
        if not list((work / "checkpoints").glob("*.pt")):
            raise SystemExit(f"no checkpoint within {options.seconds:.0f} s; give more --seconds")
        staged = second if list((work / "checkpoints").glob("*_swa.pt")) else []
        last = [*staged, "--restart_latest", "--max_num_epochs=0"]
        run_mace([*arguments, *plan, *last], work, None)
    step_s, done = step_times(work)
    wall = time.perf_counter() - started
    note = (
        f"{done} epochs of {steps} steps ({'as planned' if finished else 'stopped by the clock'}), "
        f"validated every {every}; {wall:.0f} s in all, of which {step_s.sum():.0f} s are training "
        f"steps of {1e3 * step_s[len(step_s) // 3 :].mean():.1f} ms"
    )
    stages = {"stage one": work / "mace.model", "stage two": work / "mace_stagetwo.model"}
    return {name: path for name, path in stages.items() if path.is_file()}, note


def evaluate(
    path: Path, frames: Sequence[Frame], options: argparse.Namespace, stress: bool
) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Energies (eV), forces (eV/Å) and stresses (3, 3) (eV/Å³) in float64."""
    os.environ.update(ENVIRONMENT)
    import torch
    from mace import data
    from mace.tools import torch_geometric, torch_tools, utils

    torch_tools.set_default_dtype("float64")
    model = torch.load(path, map_location=options.device, weights_only=False).double()
    table = utils.AtomicNumberTable([int(z) for z in model.atomic_numbers])
    bare = [Atoms(f.atoms.numbers, f.atoms.positions, cell=f.atoms.cell, pbc=f.atoms.pbc)
            for f in frames]  # fmt: skip
    dataset = [
        data.AtomicData.from_config(
            data.config_from_atoms(a), z_table=table, cutoff=float(model.r_max), heads=model.heads
        )
        for a in bare
    ]
    loader = torch_geometric.dataloader.DataLoader(
        dataset, batch_size=4 * options.batch_size, shuffle=False, drop_last=False
    )
    energies, forces, stresses = [], [], []
    for batch in loader:
        batch = batch.to(options.device)
        output = model(batch.to_dict(), compute_stress=stress)
        energies.append(output["energy"].detach().cpu().numpy())
        parts = np.split(output["forces"].detach().cpu().numpy(), batch.ptr[1:-1].cpu().numpy())
        forces.extend(parts)
        if stress:
            stresses.extend(output["stress"].detach().cpu().numpy())
    return np.concatenate(energies), forces, stresses


def rows_of(split: str, frames: Sequence[Frame], result: tuple) -> list[Row]:
    """Errors over all frames, then of each config_type."""
    energies, forces, stresses = result
    total = np.array([1e3 * (e - f.energy) for e, f in zip(energies, frames, strict=True)])
    sizes = np.array([len(f.atoms) for f in frames])
    force = [1e3 * (p - f.forces).ravel() for p, f in zip(forces, frames, strict=True)]
    stress = {
        i: 1e3 * (stresses[i] - f.stress)[np.triu_indices(3)]
        for i, f in enumerate(frames)
        if stresses and f.stress is not None
    }

    def rms(values: np.ndarray) -> float:
        return float(np.sqrt((np.asarray(values) ** 2).mean()))

    rows = []
    for kind in ["all", *sorted({f.config_type for f in frames} - {"all"})]:
        chosen = [i for i, f in enumerate(frames) if kind in ("all", f.config_type)]
        labelled = [stress[i] for i in chosen if i in stress]
        rows.append(
            Row(
                *(split, kind, len(chosen), rms(total[chosen]), rms((total / sizes)[chosen])),
                force_meV_per_A=rms(np.concatenate([force[i] for i in chosen])),
                stress_meV_per_A3=rms(np.concatenate(labelled)) if labelled else None,
            )
        )
    return rows


def print_rows(rows: Sequence[Row]) -> None:
    """One line for each split and kind of structure."""
    print(
        f"{'split':>11} {'config_type':>20} {'frames':>7} {'E meV':>9} {'E meV/atom':>11} "
        f"{'F meV/Å':>9} {'σ meV/Å³':>9}"
    )
    for r in rows:
        stress = "" if r.stress_meV_per_A3 is None else f"{r.stress_meV_per_A3:9.3f}"
        print(
            f"{r.split:>11} {r.config_type:>20} {r.frames:7d} {r.energy_meV:9.2f} "
            f"{r.energy_meV_per_atom:11.3f} {r.force_meV_per_A:9.2f} {stress}"
        )


def main() -> None:
    """Write the frames, train, evaluate, print and save the table."""
    options = parse_options()
    options.out = options.out.resolve() / options.config.stem
    if options.out.exists():
        raise SystemExit(f"{options.out} exists: remove it, or give another --out")
    splits, lone, stress = read_frames_of(options)
    if not splits.validation:
        raise SystemExit(f"{options.config}: MACE needs validation frames")
    options.out.mkdir(parents=True)
    for name, frames in splits.parts.items():
        write_frames(options.out / f"{name}.xyz", frames)
    print(", ".join(f"{len(frames)} {name}" for name, frames in splits.parts.items()), "frames")
    models, note = train(options, command(options, lone, stress), splits)
    packages = ("mace-torch", "e3nn", "torch", "numpy")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    report = {"note": note, "versions": versions, "options": vars(options), "stages": {}}
    print(f"{note}\n{versions}; trained in {options.dtype} on {options.device}, errors in float64")
    for stage, path in models.items():
        rows = []
        for split, frames in splits.parts.items():
            shown = frames[:MAX_TRAIN_FRAMES_MEASURED] if split == "train" else frames
            rows += rows_of(split, shown, evaluate(path, shown, options, stress))
        print(f"\n{stage}")
        print_rows(rows)
        report["stages"][stage] = [vars(row) for row in rows]
    (options.out / "report.json").write_text(json.dumps(report, indent=1, default=str))


if __name__ == "__main__":
    main()
