"""Correctness, then speed of energy + forces of liquid water: plain form, compiled, fused kernels.

    python benchmarks/speed.py --quick                 # two sizes, the main precisions
    python benchmarks/speed.py --peers --compile --sizes 192 1536 12288 24000 98304 648000 1990656

Two networks: water.pt, and the reference configuration of the published code (L = P = 2, K = 16,
T = 3, MLPs [2, 64, 2]) with random weights. For each and each form: error of energy and forces
against float64 on 192 atoms, then the median time of a step with the neighbour list given, and the
peak of memory beyond the graph. A row that fails says so. --profile prints the kernels that
take longest.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import peers
import torch
import triton
from ase import Atoms
from ase.build import molecule
from scipy.spatial.transform import Rotation

from nemp_sim import load_potential
from nemp_sim.checkpoint import new_model
from nemp_sim.config import MLPShape, ModelConfig
from nemp_sim.derivatives import Derivatives, differentiate
from nemp_sim.graph import AtomGraph
from nemp_sim.kernels.edge_mlp import Launch
from nemp_sim.kernels.fused import FusedNetwork
from nemp_sim.kernels.step import FusedStep
from nemp_sim.model import NEMP
from nemp_sim.neighbors import build_graph, edge_list
from nemp_sim.tabulation import PairTable
from nemp_sim.training.trainer import compiled

REFERENCE = ModelConfig(
    elements=("H", "O"),
    cutoff_angstrom=6.0,
    n_channels=16,
    n_radial=16,
    n_message_passing=3,
    n_pair_code=128,
    radial_mlp=MLPShape(2, 64, 2),
    message_mlp=MLPShape(2, 64, 2),
    embedding_mlp=MLPShape(2, 128, 2),
    output_mlp=MLPShape(2, 128, 2),
    form="published",
    species_code="atomic_number",
)
SPACING = 3.105  # Å between molecules: 0.997 g/cm³
WHOLE = {
    "networks": ["reference", "water.pt"],
    "modes": ["fp16x3", "tf32x3", "bf16x3", "tf32", "bf16"],
    "launches": ["default"],
    "sizes": [192, 1536, 12288, 24000],
}
QUICK = {
    "networks": ["reference"],
    "modes": ["fp16x3"],
    "launches": ["default"],
    "sizes": [192, 12288],
}
Step = Callable[[], Derivatives]


def water_box(n_atoms: int) -> Atoms:
    """A cubic box of about ``n_atoms`` atoms, molecules on a lattice, of random orientation."""
    n = round((n_atoms / 3) ** (1 / 3))
    corners = np.array(list(np.ndindex(n, n, n)))
    water = molecule("H2O")
    water.positions -= water.get_center_of_mass()
    turns = Rotation.random(len(corners), random_state=0).as_matrix()
    positions = (corners[:, None] + 0.5) * SPACING + np.einsum(
        "nab,mb->nma", turns, water.positions
    )
    numbers = np.tile(water.numbers, len(corners))
    return Atoms(numbers, positions.reshape(-1, 3), cell=[n * SPACING] * 3, pbc=True)


def network(name: str, dtype: torch.dtype, device: str) -> NEMP:
    """One of the two networks."""
    if name == "reference":
        model = new_model(REFERENCE, 1).cast(dtype)
    else:
        model = load_potential(name, "cpu", dtype).model
    return model.to(device).eval().requires_grad_(False)


def graph_of(model: NEMP, atoms: Atoms, device: str) -> AtomGraph:
    """The graph of one structure."""
    species = torch.full((119,), -1)
    species[list(model.config.elements)] = torch.arange(len(model.config.elements))
    edges = edge_list(atoms, model.config.cutoff_angstrom)
    return build_graph([atoms], [edges], species, torch.device(device))


def whole_step(network: FusedNetwork) -> FusedStep:
    """The step as potentials take it: without autograd, with what the domain is compared with."""
    like = network.model.species_mix
    return FusedStep(network, like.new_zeros(len(network.model.config.elements) ** 2))


def compiled_step(model: NEMP, graph: AtomGraph) -> Step:
    """Energy and forces through the compiler of torch, for this graph alone."""
    names = list(vars(graph))

    def function(*tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        moved = replace(graph, **dict(zip(names, tensors, strict=True)))
        result = differentiate(model, moved, forces=True, stress=False)
        return result.energy, result.forces

    inputs = [getattr(graph, name) for name in names]
    fast = compiled(function, inputs)

    def step() -> Derivatives:
        energy, forces = fast(*inputs)
        return Derivatives(energy, energy, forces, None)

    return step


def plain_step(model: NEMP, graph: AtomGraph, tf32: bool) -> Step:
    """The plain form, op by op."""

    def step() -> Derivatives:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        result = differentiate(model, graph, forces=True, stress=False)
        torch.backends.cuda.matmul.allow_tf32 = False
        return result

    return step


def captured(step: Step) -> Step:
    """The same step as one CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    recording = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recording):
        result = step()

    def replay() -> Derivatives:
        recording.replay()
        return result

    return replay


class Forms:
    """All ways to evaluate one network, by name; tables and packed weights are made once."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        """Tabulate the network."""
        self.options = options
        self.model = network(name, torch.float32, options.device)
        start = time.perf_counter()
        self.table = PairTable(self.model)
        self.compiled: dict[tuple[str, str], float] = {}
        self.table_seconds = time.perf_counter() - start

    def fused(self, mode: str, launch: str, graph: AtomGraph) -> Step:
        """The fused kernels in one precision and with one "tile:warps", or the default."""
        chosen = None if launch == "default" else Launch(*map(int, launch.split(":")))
        network = FusedNetwork(self.model, self.table, mode, chosen)
        if (mode, launch) not in self.compiled and self.options.device != "cpu":
            start = time.perf_counter()
            network.compile(graph)
            self.compiled[mode, launch] = time.perf_counter() - start
        step = whole_step(network)
        return lambda: step(graph, forces=True, stress=False)[0]

    def each(self, graph: AtomGraph) -> Iterator[tuple[str, Callable[[], Step]]]:
        """Names and makers of the steps on a graph."""
        yield "plain float32", lambda: plain_step(self.model, graph, tf32=False)
        yield "plain tf32", lambda: plain_step(self.model, graph, tf32=True)
        if self.options.compile:
            yield "compiled float32", lambda: compiled_step(self.model, graph)
        for mode in self.options.modes:
            for launch in self.options.launches:

                def make(mode: str = mode, launch: str = launch) -> Step:
                    return self.fused(mode, launch, graph)

                yield f"fused {mode} {launch}", make
                if len(graph.species) < self.options.graph_below:
                    yield f"fused {mode} {launch} graph", lambda make=make: captured(make())


def timed(step: Step, repeats: int, cuda: bool) -> float:
    """Median time of a step after two warm-up steps, s."""
    times = []
    for k in range(repeats + 2):
        start = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        if k >= 2:
            times.append(time.perf_counter() - start)
    return float(np.median(times))


def profile(step: Step) -> None:
    """The kernels that take longest."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as recorder:
        step()
        torch.cuda.synchronize()
    events = sorted(recorder.key_averages(), key=lambda e: -e.self_device_time_total)
    total = sum(e.self_device_time_total for e in events)
    print(f"    kernels: {total / 1e3:.2f} ms in all")
    for event in events[:14]:
        name, spent = event.key[:60], event.self_device_time_total
        print(f"    {spent / 1e3:9.3f} ms {spent / total:6.1%} {event.count:4d} × {name}")


def errors(step: Step, exact: Derivatives) -> str:
    """Energy (meV/atom) and forces (RMS and largest, meV/Å) against float64."""
    result = step()
    energy = 1e3 * float((result.energy - exact.energy).abs().max()) / len(exact.forces)
    off = 1e3 * (result.forces - exact.forces)
    rms, largest = float(off.square().mean().sqrt()), float(off.abs().max())
    return f"{energy:9.1e} {rms:9.1e} {largest:9.1e}"


def table_rows(name: str, options: argparse.Namespace) -> None:
    """Correctness on the smallest box, then the table of one network."""
    forms, cuda = Forms(name, options), options.device != "cpu"
    print(
        f"\n{name}: table of {forms.table.rows} knots a pair, "
        f"{forms.table.knots.numel() * 4 / 2**20:.1f} MiB, made in {forms.table_seconds:.1f} s, "
        f"errors {forms.table.value_error:.1e} {forms.table.slope_error:.1e}"
    )
    double = network(name, torch.float64, options.device)
    small = graph_of(double, water_box(192), options.device)
    exact = differentiate(double, small, forces=True, stress=False)
    spread = float(exact.forces.square().mean().sqrt())
    print(f"192 atoms, {len(small.centre) / 192:.0f} edges each, RMS force {spread:.2f} eV/Å")
    print(f"{'form':32s} {'E meV/at':>9s} {'F RMS meV/Å':>11s} {'largest':>7s}")
    usable = []
    for form, make in forms.each(small):
        try:
            print(f"{form:32s} {errors(make(), exact)}", flush=True)
            usable.append(form)
        except Exception as error:  # a form that fails is a row, not the end of the run
            print(f"{form:32s} failed: {type(error).__name__} {str(error)[:200]}", flush=True)
    seconds = ", ".join(f"{' '.join(k)} {v:.0f} s" for k, v in forms.compiled.items())
    print(f"kernels compiled in: {seconds}")
    print(f"{'form':32s} {'atoms':>8s} {'ms/step':>9s} {'µs/atom':>8s} {'kB/atom':>8s}")
    for size in options.sizes:
        graph = graph_of(forms.model, water_box(size), options.device)
        n_atoms = len(graph.species)
        for form, make in forms.each(graph):
            if form not in usable and "graph" not in form:
                continue
            try:
                if cuda:
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()
                    before = torch.cuda.memory_allocated()
                step = make()
                seconds = timed(step, options.repeats, cuda)
                memory = (torch.cuda.max_memory_allocated() - before) / n_atoms if cuda else 0
                print(
                    f"{form:32s} {n_atoms:8d} {1e3 * seconds:9.3f} {1e6 * seconds / n_atoms:8.3f} "
                    f"{memory / 1e3:8.1f}",
                    flush=True,
                )
                if options.profile and size == max(options.sizes) and "graph" not in form:
                    profile(step)
            except Exception as error:  # as above
                print(f"{form:32s} {n_atoms:8d} failed: {str(error)[:160]}", flush=True)


def peer_rows(options: argparse.Namespace) -> None:
    """The same table for MACE, of random weights, where it is installed."""
    cutoff, cuda = REFERENCE.cutoff_angstrom, options.device != "cpu"
    makers = peers.each(options.device, cutoff, (1, 8), water_box(192))
    print(f"\n{peers.versions() or 'MACE is not installed'}")
    for name, maker in makers.items():
        for size in options.sizes:
            atoms = water_box(size)
            try:
                if cuda:
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()
                step = maker(atoms)
                before = torch.cuda.memory_allocated() if cuda else 0
                seconds = timed(step, options.repeats, cuda)
                memory = torch.cuda.max_memory_allocated() - before if cuda else 0
                print(
                    f"{name:32s} {len(atoms):8d} {1e3 * seconds:9.3f} "
                    f"{1e6 * seconds / len(atoms):8.3f} {memory / len(atoms) / 1e3:8.1f}",
                    flush=True,
                )
            except Exception as error:  # as above
                print(f"{name:32s} {len(atoms):8d} failed: {str(error)[:160]}", flush=True)
                break


def main() -> None:
    """Compile, check, time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*")
    parser.add_argument("--modes", nargs="+")
    parser.add_argument("--launches", nargs="+", help="tile:warps of the edge kernels, or default")
    parser.add_argument("--sizes", type=int, nargs="+")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--graph-below", type=int, default=2000, help="atoms, for CUDA graphs")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action="store_true", help="time torch.compile as well")
    parser.add_argument("--peers", action="store_true", help="MACE too, where it is installed")
    parser.add_argument("--profile", action="store_true", help="kernels of the largest size")
    parser.add_argument("--quick", action="store_true", help="defaults of a short run")
    options = parser.parse_args()
    for name, value in (QUICK if options.quick else WHOLE).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    on = torch.cuda.get_device_name() if options.device != "cpu" else "CPU"
    print(f"{on}, torch {torch.__version__}, triton {triton.__version__}, {sys.version.split()[0]}")
    for name in options.networks:
        table_rows(name, options)
    if options.peers:
        peer_rows(options)


if __name__ == "__main__":
    main()
