"""Cost of a step of path-integral dynamics through i-PI against that of its model calls alone.

python benchmarks/pimd_speed.py --device cuda                  64 H2O with 32 beads, water.pt
python benchmarks/pimd_speed.py --system h-pd111 --beads 16    13 atoms on the CPU

First the batched forces are compared with those of one bead at a time; then one run is timed: the
steps by the clock, and what of it the engine takes.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from ase import Atoms

from nemp_sim.checkpoint import load_potential
from nemp_sim.neighbors import NeighborLists
from nemp_sim.pathintegral.input import Dynamics, prepare_start
from nemp_sim.pathintegral.run import simulate
from nemp_sim.potential import Evaluation, Potential
from nemp_sim.relax import relax
from nemp_sim.systems import SYSTEMS, choose_potential, read_system, systems_of

WARM_UP_CALLS = 20


class Timed:
    """An engine that notes when its calls begin and end, and how many structures they hold."""

    def __init__(self, potential: Potential) -> None:
        """Take the potential."""
        self.potential, self.cutoff_angstrom = potential, potential.cutoff_angstrom
        self.calls: list[tuple[float, float, int]] = []

    def evaluate(
        self,
        structures: list[Atoms],
        forces: bool = True,
        stress: bool = False,
        neighbors: NeighborLists | None = None,
    ) -> Evaluation:
        """As the potential; results are on the host when it returns."""
        begin = time.perf_counter()
        result = self.potential.evaluate(structures, forces, stress, neighbors)
        self.calls.append((begin, time.perf_counter(), len(structures)))
        return result


def check(potential: Potential, atoms: Atoms, beads: int) -> float:
    """Largest difference of a force between batched and single beads, eV/Å."""
    rng = np.random.default_rng(1)
    batch = []
    for _ in range(beads):
        bead = atoms.copy()
        bead.positions += rng.normal(scale=0.03, size=bead.positions.shape)
        batch.append(bead)
    together = potential.evaluate(batch).forces
    alone = [potential.evaluate([bead]).forces[0] for bead in batch]
    return max(float(np.abs(a - b).max()) for a, b in zip(together, alone, strict=True))


def main() -> None:
    """Check, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--system", default="water", choices=[*systems_of("slab", "molecule", "liquid")]
    )
    parser.add_argument("--beads", type=int, default=32)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--mode", default="unix", choices=("unix", "shm"))
    arguments = parser.parse_args()
    name, head = choose_potential(arguments.system, None, None)
    potential = load_potential(name, arguments.device, head=head)
    layers = 1 if SYSTEMS[arguments.system].kind == "slab" else 0
    atoms = relax(
        potential, [read_system(arguments.system, fixed_layers=layers)], 0.2, 30
    ).structures[0]
    beads = arguments.beads
    error = check(potential, atoms, beads)
    print(f"{len(atoms)} atoms, {beads} beads, {potential.name} on {potential.device}")
    print(f"batched against single beads: largest difference of a force {error:.1e} eV/Å")
    if error > 1e-3:
        raise SystemExit("the batched forces are wrong: nothing is timed")
    engine = Timed(potential)
    dynamics = Dynamics(
        beads=beads, steps=arguments.steps, timestep_fs=0.25, batch_size=beads, every=10
    )
    with tempfile.TemporaryDirectory() as directory:
        simulate(engine, prepare_start(atoms), dynamics, Path(directory), mode=arguments.mode)
    calls = np.array(engine.calls[WARM_UP_CALLS:])
    steps = calls[:, 2].sum() / beads
    wall = 1e3 * (calls[-1, 1] - calls[0, 0]) / steps
    model = 1e3 * (calls[:, 1] - calls[:, 0]).sum() / steps
    whole = np.median((calls[:, 1] - calls[:, 0])[calls[:, 2] == beads]) * 1e3
    print(f"{'ms a step':24s}{'by the clock':>14s}{'model calls':>14s}{'ratio':>8s}")
    print(f"{'all of it':24s}{wall:14.2f}{model:14.2f}{wall / model:8.2f}")
    print(f"{'one call for all beads':24s}{wall:14.2f}{whole:14.2f}{wall / whole:8.2f}")
    print(f"{len(calls) / steps:.2f} calls a step; {1e3 * beads / wall:.0f} beads a second")


if __name__ == "__main__":
    main()
