"""Cost of a step of path-integral dynamics through i-PI against that of its model calls alone.

python benchmarks/pimd_speed.py --device cuda                  64 H2O with 32 beads, water.pt
python benchmarks/pimd_speed.py --system h-pd111 --beads 16    13 atoms on the CPU

First the batched forces are compared with those of one bead at a time in float64 by the plain form;
then one run is timed: the steps by the clock, and what of it the engine takes.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from ase import Atoms

from nemp_sim.checkpoint import load_potential
from nemp_sim.errors import NempError
from nemp_sim.neighbors import NeighborLists
from nemp_sim.pathintegral.input import Dynamics, prepare_start
from nemp_sim.pathintegral.run import simulate
from nemp_sim.potential import Evaluation, Potential
from nemp_sim.relax import relax
from nemp_sim.report import device_name
from nemp_sim.systems import SYSTEMS, choose_potential, read_system, systems_of

WARM_UP_CALLS = 20
TOLERANCE_EV_PER_A = 1e-3


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


def check(potential: Potential, exact: Potential, atoms: Atoms, beads: int) -> float:
    """Largest difference of a force between batched beads and single ones by ``exact``, eV/Å."""
    rng = np.random.default_rng(1)
    batch = []
    for _ in range(beads):
        bead = atoms.copy()
        bead.positions += rng.normal(scale=0.03, size=bead.positions.shape)
        batch.append(bead)
    together = potential.evaluate(batch).forces
    alone = [exact.evaluate([bead]).forces[0] for bead in batch]
    return max(float(np.abs(a - b).max()) for a, b in zip(together, alone, strict=True))


def options() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    systems = [*systems_of("slab", "molecule", "liquid")]
    parser.add_argument("--system", default="water", choices=systems)
    parser.add_argument("--beads", type=int, default=32)
    parser.add_argument("--steps", type=int, help="200; 60 with --quick")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--kernel", default="auto", choices=("auto", "reference", "fused"))
    parser.add_argument("--mode", default="unix", choices=("unix", "shm"))
    parser.add_argument("--quick", action="store_true", help="a short run")
    return parser.parse_args()


def main() -> None:
    """Check, run, print."""
    chosen = options()
    try:
        name, head = choose_potential(chosen.system, None, None)
        potential = load_potential(name, chosen.device, head=head, kernel=chosen.kernel)
    except NempError as error:
        raise SystemExit(f"error: {error}") from None
    exact = load_potential(name, chosen.device, "float64", head, "reference")
    layers = 1 if SYSTEMS[chosen.system].kind == "slab" else 0
    start = read_system(chosen.system, fixed_layers=layers)
    atoms = relax(potential, [start], 0.2, 30).structures[0]
    beads = chosen.beads
    print(f"{len(atoms)} atoms, {beads} beads, {potential.name}, kernel {potential.kernel}")
    print(device_name(potential.device))
    error = check(potential, exact, atoms, beads)
    print(f"batched against single float64 beads: largest difference of a force {error:.1e} eV/Å")
    if not error <= TOLERANCE_EV_PER_A:
        raise SystemExit("error: the batched forces are wrong; nothing is timed")
    engine = Timed(potential)
    steps = chosen.steps or (60 if chosen.quick else 200)
    dynamics = Dynamics(beads=beads, steps=steps, timestep_fs=0.25, batch_size=beads, every=10)
    with tempfile.TemporaryDirectory() as directory:
        simulate(engine, prepare_start(atoms), dynamics, Path(directory), mode=chosen.mode)
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
