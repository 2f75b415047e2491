"""Beads evaluated in a second through the i-PI client: one batched request, or one bead each.

python benchmarks/ipi_beads.py                                H on Pd(111), 13 atoms, pdh.pt
python benchmarks/ipi_beads.py --device cuda --system water   64 H2O, water.pt, on a GPU

The server is a minimal one in this process, so that its own work (propagating the beads) is not in
the numbers. Correctness first: the forces that come back either way are compared with float64 ones
of the plain form. Both ways get the same moving beads and keep their neighbour lists.
"""

import argparse
import socket
import threading
import time

import numpy as np
from ase import Atoms

from nemp_sim.checkpoint import load_potential
from nemp_sim.errors import NempError
from nemp_sim.ipi.client import BeadEvaluator, IPIClient
from nemp_sim.ipi.wire import Wire
from nemp_sim.pathintegral.input import prepare_start
from nemp_sim.potential import Potential
from nemp_sim.report import device_name
from nemp_sim.systems import choose_potential, read_system, systems_of
from nemp_sim.units import BOHR_ANGSTROM, HARTREE_EV

TOLERANCE_EV_PER_A = 1e-3


def receive(connection: socket.socket, count: int) -> bytes:
    """Exactly ``count`` bytes."""
    data = bytearray()
    while len(data) < count:
        data += connection.recv(count - len(data))
    return bytes(data)


def request(connection: socket.socket, positions: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Send beads (B, N, 3) (Å), read the whole answer and return the forces (B, N, 3), eV/Å."""
    beads, atoms, _ = positions.shape
    frame = cell.T / BOHR_ANGSTROM
    both = frame.tobytes() + np.linalg.inv(frame).tobytes()
    count = np.int32(atoms).tobytes()
    head = both + count if beads == 1 else count + both * beads
    body = (positions / BOHR_ANGSTROM).tobytes()
    connection.sendall(b"POSDATA     " + head + body + b"GETFORCE    ")
    receive(connection, 12 + 8 * beads + 4)
    forces = np.frombuffer(receive(connection, 24 * beads * atoms)).reshape(positions.shape)
    receive(connection, 72 * beads)  # virials
    for _ in range(beads):
        receive(connection, int(np.frombuffer(receive(connection, 4), np.int32)[0]))
    return forces * HARTREE_EV / BOHR_ANGSTROM


class Served:
    """A client in a thread, at the other end of a socket, with ``beads`` moving beads."""

    def __init__(self, potential: Potential, atoms: Atoms, beads: int, batched: bool) -> None:
        """Connect and initialise."""
        self.connection, there = socket.socketpair()
        self.batched, self.cell = batched, atoms.cell.array
        client = IPIClient(BeadEvaluator(potential, atoms))
        self.thread = threading.Thread(target=client.serve, args=(Wire(there),), daemon=True)
        self.thread.start()
        text = f"batch_size:{beads}".encode() if batched else b""
        self.connection.sendall(b"INIT        " + np.int32([0, len(text)]).tobytes() + text)
        self.rng = np.random.default_rng(1)
        shape = (beads, len(atoms), 3)
        self.base = atoms.positions + self.rng.normal(scale=0.05, size=shape)

    def step(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions and forces of the next beads."""
        positions = self.base + self.rng.normal(scale=0.002, size=self.base.shape)
        parts = [positions] if self.batched else positions[:, None]
        answers = [request(self.connection, part, self.cell) for part in parts]
        return positions, np.concatenate(answers)

    def close(self) -> None:
        """Tell the client to leave."""
        self.connection.sendall(b"EXIT        ")
        self.thread.join()
        self.connection.close()


def error_of(served: Served, exact: Potential, atoms: Atoms) -> float:
    """Largest difference of a force of one step from those of ``exact``, eV/Å."""
    positions, forces = served.step()
    beads = [atoms.copy() for _ in positions]
    for bead, places in zip(beads, positions, strict=True):
        bead.positions = places
    return float(np.abs(np.array([exact.evaluate([b]).forces[0] for b in beads]) - forces).max())


def rate_of(served: Served, seconds: float) -> float:
    """Beads a second over at least ``seconds``."""
    served.step()  # builds the neighbour lists, where the check has not
    start, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds:
        done += len(served.step()[0])
    return done / spent


def main() -> None:
    """Check and print one line for each number of beads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    systems = [*systems_of("slab", "molecule", "liquid")]
    parser.add_argument("--system", default="h-pd111", choices=systems)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--kernel", default="auto", choices=("auto", "reference", "fused"))
    parser.add_argument("--beads", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--seconds", type=float, help="of each measurement; 5, 2 with --quick")
    parser.add_argument("--quick", action="store_true", help="a short run")
    options = parser.parse_args()
    try:
        name, head = choose_potential(options.system, None, None)
        potential = load_potential(name, options.device, head=head, kernel=options.kernel)
    except NempError as error:
        raise SystemExit(f"error: {error}") from None
    exact = load_potential(name, options.device, "float64", head, "reference")
    atoms = prepare_start(read_system(options.system)).atoms
    seconds = options.seconds or (2.0 if options.quick else 5.0)
    print(f"{len(atoms)} atoms, {potential.name}, kernel {potential.kernel}")
    print(device_name(potential.device))
    print(
        f"{'beads':>5s} {'ΔF (eV/Å)':>10s} {'one by one /s':>14s} {'batched /s':>11s} {'ratio':>6s}"
    )
    for beads in options.beads:
        ways = [Served(potential, atoms, beads, batched) for batched in (False, True)]
        error = max(error_of(served, exact, atoms) for served in ways)
        if not error <= TOLERANCE_EV_PER_A:
            raise SystemExit(f"error: forces are {error:.1e} eV/Å off; nothing is timed")
        one, batch = (rate_of(served, seconds) for served in ways)
        for served in ways:
            served.close()
        print(f"{beads:5d} {error:10.1e} {one:14.1f} {batch:11.1f} {batch / one:6.2f}", flush=True)


if __name__ == "__main__":
    main()
