"""Growth of time and memory with the number of atoms, up to two million in one call.

    python benchmarks/growth.py --repeats 1 2 4 8 12 15

A box of 648 atoms of water, repeated n × n × n on the GPU, its neighbour list with it. Forces of
every repetition must equal those of the box, and the energy n³ times its own, before a row is
printed: ms, µs and kB an atom (peak beyond the graph), GB with the graph, and the largest
difference of a force, for which 16-bit states of many edges leave room. Last: the log-log slope of
time and memory between 10³ atoms and the largest.
"""

import argparse
import time

import numpy as np
import torch
from speed import graph_of, network, water_box, whole_step

from nemp_sim.graph import AtomGraph
from nemp_sim.kernels.fused import FusedNetwork
from nemp_sim.tabulation import PairTable

OFF = 5e-4  # eV/Å, largest difference of a force


def repeated(graph: AtomGraph, n: int) -> AtomGraph:
    """Copies n × n × n of a periodic structure in one, edges and all, on its device."""
    device, n_atoms = graph.centre.device, len(graph.species)
    cells = torch.cartesian_prod(*[torch.arange(n, device=device)] * 3).view(-1, 3)  # (n³, 3)
    offset = (cells.double() @ graph.cells[0])[:, None]
    positions = (graph.positions + offset).view(-1, 3)
    there = cells[:, None] + graph.shifts.long()  # (n³, E, 3) cell of the neighbour
    place = there.remainder(n)
    shifts = torch.div(there - place, n, rounding_mode="floor").double().view(-1, 3)
    del there
    place = (place[..., 0] * n + place[..., 1]) * n + place[..., 2]  # (n³, E)
    first = n_atoms * torch.arange(n**3, device=device)[:, None]
    neighbour = (place * n_atoms + graph.neighbour).view(-1)
    del place
    starts = len(graph.centre) * torch.arange(n**3, device=device)[:, None] + graph.row_start[:-1]
    total = len(neighbour)
    return AtomGraph(
        positions=positions,
        cells=graph.cells * n,
        species=graph.species.repeat(n**3),
        structure=torch.zeros(len(positions), dtype=torch.int64, device=device),
        head=graph.head,
        first_atom=torch.tensor([0, len(positions)], device=device),
        centre=(first + graph.centre).view(-1),
        neighbour=neighbour,
        shifts=shifts,
        row_start=torch.cat([starts.view(-1), starts.new_tensor([total])]),
        by_neighbour=neighbour.argsort(stable=True),
    )


def main() -> None:
    """Check and time every size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="reference")
    parser.add_argument("--mode", default="fp16x3")
    parser.add_argument("--repeats", type=int, nargs="+", default=[1, 2, 4, 8, 12, 15])
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    model = network(options.network, torch.float32, "cuda")
    step = whole_step(FusedNetwork(model, PairTable(model), options.mode))
    base = graph_of(model, water_box(648), "cuda")
    want = step(base, forces=True, stress=False)[0]
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {options.network}, "
          f"{options.mode}, {len(base.centre) / 648:.0f} edges an atom")  # fmt: skip
    print(f"{'atoms':>9s} {'edges':>11s} {'ms':>10s} {'µs/atom':>8s} {'kB/atom':>8s} {'GB':>6s} "
          f"{'meV/Å':>7s}")  # fmt: skip
    rows = []
    for n in options.repeats:
        try:
            graph = repeated(base, n)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before, times = torch.cuda.memory_allocated(), []
            for _ in range(options.steps + 1):
                start = time.perf_counter()
                got = step(graph, forces=True, stress=False)[0]
                torch.cuda.synchronize()
                times.append(time.perf_counter() - start)
        except torch.OutOfMemoryError as error:
            print(f"{648 * n**3:9d} does not fit: {str(error)[:90]}")
            break
        memory = torch.cuda.max_memory_allocated() - before
        atoms, edges = len(graph.species), len(graph.centre)
        own = sum(x.nbytes for x in vars(graph).values() if torch.is_tensor(x))
        off = float((got.forces.view(n**3, -1, 3) - want.forces).abs().max())
        energy = abs(float(got.energy) / n**3 - float(want.energy)) / 648
        if not (off < OFF and energy < 1e-5):
            raise SystemExit(
                f"error: {atoms} atoms: forces off by {off}, energy by {energy} eV/atom"
            )
        seconds = float(np.median(times[1:]))
        rows.append((atoms, seconds, memory))
        print(f"{atoms:9d} {edges:11d} {1e3 * seconds:10.2f} {1e6 * seconds / atoms:8.3f} "
              f"{memory / atoms / 1e3:8.1f} {(memory + own) / 1e9:6.1f} {1e3 * off:7.1e}",
              flush=True)  # fmt: skip
        del got, graph
    logs = np.log([row for row in rows if row[0] >= 648])
    whole = [np.polyfit(logs[:, 0], logs[:, k], 1)[0] for k in (1, 2)]
    large = [np.polyfit(logs[-3:, 0], logs[-3:, k], 1)[0] for k in (1, 2)]
    print(f"log-log slope of time {whole[0]:.3f}, memory {whole[1]:.3f}; "
          f"of the three largest {large[0]:.3f}, {large[1]:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
