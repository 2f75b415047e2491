"""Error against speed of trained networks, and of MACE beside them, measured in one run.

    python benchmarks/front.py benchmarks/front/water_*.toml potentials/water.toml \
        --files results/front potentials --mace "128x L=1=38.5" --out results/front/water

For each TOML file: errors on its validation frames of <name>.pt, found in the directories of
--files (<dir>/<name>.pt or <dir>/<name>/<name>.pt), then the time of energy and forces, neighbour
list given, as one CUDA graph as the package runs it, of the largest validation frame repeated to
some 10⁴ atoms. On an NVIDIA GPU forces of
the kernels are compared with float64 first. "frame (ms)" is a step of that frame as it is
through the ASE calculator, "32 frames (ms)" one call with 32 copies of it, both as ``latency.py``.
--mace NAME=ERROR adds a point of MACE: its force error (meV/Å) from ``mace_accuracy.py`` on the
same split ("?" where it was not measured), its time from this run (``peers.py``). Writes <out>.csv,
<out>.png and <out>.pdf, and prints the table. With --untrained, shapes without a file are timed
with random weights. --draw FILE.csv measures nothing: it prints and draws the points of a file;
errors that this does not hold come from <name>/report.json in --files.
"""

import argparse
import csv
import json
from collections.abc import Callable
from pathlib import Path

import latency
import numpy as np
import peers
import torch
from ase import Atoms
from matplotlib.ticker import FuncFormatter
from speed import captured, errors, graph_of, timed

from nemp_sim import ModelConfig, Potential, load_potential
from nemp_sim.checkpoint import new_model
from nemp_sim.derivatives import differentiate
from nemp_sim.kernels.choice import choose, direct
from nemp_sim.plots import BLUE, VERMILLION, new_figure, save_figure
from nemp_sim.training.accuracy import error_rows, predict
from nemp_sim.training.job import read_config, read_splits

MOST_FRAMES = 500  # of the validation frames, drawn at random
FIELDS = (
    *("name", "shape", "edges", "energy_meV_per_atom", "force_meV_per_A", "us_per_atom"),
    *("kB_per_atom", "frame_ms", "frames_ms", "form"),
)
COPIES = 32
GOAL_US = 0.5  # µs/atom, drawn


def weights_of(name: str, places: list[Path]) -> Path | None:
    """The file of a potential in one of the directories."""
    tried = [at / f"{name}.pt" for place in places for at in (place, place / name)]
    return next((path for path in tried if path.is_file()), None)


def enlarged(atoms: Atoms, wanted: int) -> Atoms:
    """The structure repeated along its periodic axes to some ``wanted`` atoms."""
    axes = max(1, int(atoms.pbc.sum()))
    n = max(1, round((wanted / len(atoms)) ** (1 / axes)))
    return atoms.repeat([n if periodic else 1 for periodic in atoms.pbc])


def time_and_memory(
    step: Callable[[], object], n_atoms: int, options: argparse.Namespace, graph: bool
) -> tuple[float, float]:
    """Median time of a step, s, and its peak of memory, kB an atom (a GPU's; else 0).

    Where ``graph``, the time is that of the step as one CUDA graph.
    """
    if options.device == "cpu":
        return timed(step, options.repeats, cuda=False), 0.0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    seconds = timed(step, options.repeats, cuda=True)
    kilobytes = 1e-3 * (torch.cuda.max_memory_allocated() - before) / n_atoms
    return timed(captured(step), options.repeats, cuda=True) if graph else seconds, kilobytes


def engines(
    file: Path | None, shape: dict, atoms: Atoms, options: argparse.Namespace
) -> tuple[Potential, Potential]:
    """The network in float32 and in float64 by the plain form; of random weights without a file."""
    if file is not None:
        double = load_potential(file, options.device, "float64", kernel="reference")
        return load_potential(file, options.device, "float32"), double
    config = ModelConfig.from_dict(shape | {"elements": sorted(set(atoms.symbols))})
    return tuple(
        Potential(new_model(config, 1).cast(dtype), device=options.device, kernel=kernel)
        for dtype, kernel in ((torch.float32, "auto"), (torch.float64, "reference"))
    )


def own_point(config: Path, file: Path | None, options: argparse.Namespace) -> tuple[dict, Atoms]:
    """Errors and time of one network, and the frame whose repetition was timed."""
    job = read_config(config)
    (head,) = job.heads
    held_out = read_splits(job.heads, with_stress=False).parts["validation"]
    chosen = np.random.default_rng(0).permutation(len(held_out))[:MOST_FRAMES]
    largest = max(held_out, key=lambda frame: len(frame.atoms)).atoms
    potential, double = engines(file, job.model, largest, options)
    found = {"energy_meV_per_atom": "", "force_meV_per_A": ""}
    if file is not None:
        row = error_rows(predict({head: potential}, [held_out[k] for k in chosen]))[0]
        found = {"energy_meV_per_atom": row.energy_rmse_meV_per_atom}
        found["force_meV_per_A"] = row.force_rmse_meV_per_A
    atoms, model = enlarged(largest, options.atoms), potential.model
    describe, form = choose(model, "auto", options.precision)
    whole = direct(describe, torch.zeros(len(model.config.elements) ** 2, device=options.device))

    def step_of(structure: Atoms):  # noqa: ANN202 (a closure)
        graph = graph_of(model, structure, options.device)
        if whole is not None:
            return lambda: whole(graph, forces=True, stress=False)[0]
        return lambda: differentiate(model, graph, forces=True, stress=False, describe=describe)

    exact = differentiate(
        double.model, graph_of(double.model, largest, options.device), forces=True, stress=False
    )
    print(f"{job.training.name}: {form}, against float64 (meV/atom; meV/Å) "
          f"{errors(step_of(largest), exact)}")  # fmt: skip
    with torch.no_grad():
        seconds, kilobytes = time_and_memory(step_of(atoms), len(atoms), options, graph=True)
    frame = latency.timed(latency.calculator_step(potential, largest), options.repeats)[0]
    frames = latency.timed(latency.batch_step(potential, largest, COPIES), options.repeats)[0]
    c = model.config
    mlp = "linear" if c.message_mlp.linear else f"{c.message_mlp.n_blocks}x{c.message_mlp.width}"
    edges = len(graph_of(model, largest, "cpu").centre) / len(largest)
    return {
        "name": job.training.name,
        "shape": f"K={c.n_channels} L={c.max_l} T={c.n_message_passing} {mlp} "
        f"{c.cutoff_angstrom:g} Å",
        "edges": round(edges, 1),
        **found,
        "us_per_atom": 1e6 * seconds / len(atoms),
        "kB_per_atom": kilobytes,
        "frame_ms": 1e3 * frame,
        "frames_ms": 1e3 * frames,
        "form": form,
    }, largest


def mace_points(atoms: Atoms, small: Atoms, options: argparse.Namespace) -> list[dict]:
    """The points of --mace, each with the time of every form of MACE that runs."""
    given = dict(text.rsplit("=", 1) for text in options.mace)
    numbers, cutoff = tuple(sorted(set(atoms.numbers))), options.mace_cutoff
    makers = peers.each(options.device, cutoff, numbers, small)
    points = []
    for name, maker in makers.items():
        error = next((e for label, e in given.items() if f"MACE {label} " in f"{name} "), None)
        if error is None:
            continue
        try:
            seconds, kilobytes = time_and_memory(maker(atoms), len(atoms), options, graph=False)
        except torch.OutOfMemoryError:
            print(f"{name}: {len(atoms)} atoms do not fit")
            continue
        point = dict.fromkeys(FIELDS, "")
        points.append(
            point
            | {
                "name": name,
                "force_meV_per_A": "" if error == "?" else float(error),
                "form": name.rsplit(" ", 1)[1],
            }
            | {"us_per_atom": 1e6 * seconds / len(atoms), "kB_per_atom": kilobytes}
        )
    return points


def print_table(points: list[dict]) -> None:
    """All points as a table in Markdown."""
    print("\n| network | shape | edges/atom | energy (meV/atom) | force (meV/Å) | µs/atom "
          f"| kB/atom | frame (ms) | {COPIES} frames (ms) | form |")  # fmt: skip
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---|")
    digits = {"energy_meV_per_atom": 2, "force_meV_per_A": 1, "us_per_atom": 3, "kB_per_atom": 0}
    digits |= {"frame_ms": 2, "frames_ms": 2}
    for point in points:
        cells = [
            f"{point[name]:.{digits.get(name, 1)}f}" if point[name] != "" else ""
            for name in FIELDS[2:-1]
        ]
        cells = [point["name"], point["shape"], *cells, point["form"]]
        print("| " + " | ".join(cells) + " |")


def draw(points: list[dict], out: Path, title: str) -> None:
    """Force error against time, both logarithmic; a line where one of MACE's was not measured."""
    figure, axes = new_figure((6.4, 3.5))
    for point in points:
        name, x, y = point["name"], point["us_per_atom"], point["force_meV_per_A"]
        mace = name.startswith("MACE")
        colour = VERMILLION if mace else BLUE
        if y == "" and not mace:
            continue
        if x == "":
            axes.axhline(y, color=colour, lw=0.9, ls="-.", label=f"{name} (time not measured)")
            continue
        if y == "":
            axes.axvline(x, color=colour, lw=0.9, ls=":", label=f"{name} (error not measured)")
            continue
        letter = name.split()[-1] if mace else name.rsplit("_", 1)[1]
        label = name if mace else f"{letter}: {point['shape']}"
        axes.plot(x, y, "s" if mace else "o", color=colour, ms=6, ls="none", label=label)
        axes.annotate(letter, (x, y), xytext=(0, 6), textcoords="offset points", ha="center")
    axes.axvline(GOAL_US, color="0.5", lw=0.8, ls="--", label=f"asked: {GOAL_US} µs/atom")
    axes.set(xscale="log", yscale="log", ylabel="force error, RMS (meV/Å)", title=title)
    axes.set_xlabel("time of energy and forces (µs/atom)")
    known = [p["force_meV_per_A"] for p in points if p["force_meV_per_A"] != ""] or [10.0]
    axes.set(xlim=(0.1, 80), ylim=(0.8 * min(known), 1.3 * max(known)))
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(plain)
    axes.yaxis.set_minor_formatter(plain)
    axes.grid(which="both", lw=0.3, alpha=0.5)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=6.5, frameon=False)
    save_figure(figure, out.with_suffix(".png"))


def measured(options: argparse.Namespace) -> list[dict]:
    """All points, measured."""
    on = torch.cuda.get_device_name() if options.device != "cpu" else "CPU"
    print(f"{on}, torch {torch.__version__}, {peers.versions()}")
    points, atoms = [], None
    for config in options.configs:
        file = weights_of(read_config(config).training.name, options.files)
        if file is None and not options.untrained:
            print(f"{config.name}: no weights in {', '.join(map(str, options.files))}; left out")
            continue
        point, atoms = own_point(config, file, options)
        points.append(point)
    if options.mace and atoms is not None:
        points += mace_points(enlarged(atoms, options.atoms), atoms, options)
    return points


def read(file: Path, places: list[Path]) -> list[dict]:
    """Points of a file, with errors from the reports of trainings where it has none."""
    points = []
    for row in csv.DictReader(file.read_text().splitlines()):
        point = row | {name: float(row[name]) for name in FIELDS[2:-1] if row[name] != ""}
        reports = (place / row["name"] / "report.json" for place in places)
        report = next((path for path in reports if path.is_file()), None)
        if point["force_meV_per_A"] == "" and report is not None:
            told = json.loads(report.read_text())
            for name in ("energy_meV_per_atom", "force_meV_per_A"):
                kind, unit = name.split("_", 1)
                point[name] = told[f"validation_default_all_{kind}_rmse_{unit}"]
        points.append(point)
    return points


def main() -> None:
    """Measure all points, print and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", type=Path, nargs="*")
    parser.add_argument("--draw", type=Path, help="a file of points that were measured before")
    parser.add_argument("--untrained", action="store_true", help="time shapes without weights too")
    parser.add_argument("--files", type=Path, nargs="+", default=[Path("results/front")])
    parser.add_argument("--mace", nargs="*", default=[], help='such as "128x L=1=38.5"')
    parser.add_argument("--mace-cutoff", type=float, default=5.0, help="Å")
    parser.add_argument("--precision", default="fp16x3")
    parser.add_argument("--atoms", type=int, default=12288)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--title", default="")
    parser.add_argument("--out", type=Path, default=Path("results/front/front"))
    options = parser.parse_args()
    points = read(options.draw, options.files) if options.draw else measured(options)
    print_table(points)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.with_suffix(".csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, FIELDS)
        writer.writeheader()
        writer.writerows(points)
    draw(points, options.out, options.title)


if __name__ == "__main__":
    main()
