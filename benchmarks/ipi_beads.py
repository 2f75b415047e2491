"""Beads evaluated in a second through the i-PI client: one batched request, or one bead each.

python benchmarks/ipi_beads.py                 H on Pd(111), 13 atoms, pdh.pt
python benchmarks/ipi_beads.py --device cuda   the same on a GPU

The server is a minimal one in this process, so that its own work (propagating the beads) is not in
the numbers. Both ways get the same moving beads and keep their neighbour lists.
"""

import argparse
import socket
import threading
import time

import numpy as np
from ase import Atoms
from ase.units import Bohr

from nemp_sim.checkpoint import load_potential
from nemp_sim.ipi.client import BeadEvaluator, IPIClient
from nemp_sim.ipi.wire import Wire
from nemp_sim.potential import Potential
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import fcc_slab


def receive(connection: socket.socket, count: int) -> bytes:
    """Exactly ``count`` bytes."""
    data = bytearray()
    while len(data) < count:
        data += connection.recv(count - len(data))
    return bytes(data)


def request(connection: socket.socket, positions: np.ndarray, cell: np.ndarray) -> None:
    """Send beads (B, N, 3) (Å) and read the whole answer."""
    beads, atoms, _ = positions.shape
    both = (cell.T / Bohr).tobytes() + np.linalg.inv(cell.T / Bohr).tobytes()
    count = np.int32(atoms).tobytes()
    head = both + count if beads == 1 else count + both * beads
    body = (positions / Bohr).tobytes()
    connection.sendall(b"POSDATA     " + head + body + b"GETFORCE    ")
    receive(connection, 12 + 8 * beads + 4 + beads * (24 * atoms + 72))
    for _ in range(beads):
        receive(connection, int(np.frombuffer(receive(connection, 4), np.int32)[0]))


def beads_per_second(
    potential: Potential, atoms: Atoms, beads: int, batched: bool, seconds: float
) -> float:
    """Serve moving beads for ``seconds`` and count them."""
    here, there = socket.socketpair()
    client = IPIClient(BeadEvaluator(potential, atoms))
    thread = threading.Thread(target=client.serve, args=(Wire(there),), daemon=True)
    thread.start()
    text = f"batch_size:{beads}".encode() if batched else b""
    here.sendall(b"INIT        " + np.int32([0, len(text)]).tobytes() + text)
    rng = np.random.default_rng(1)
    base = atoms.positions + rng.normal(scale=0.05, size=(beads, len(atoms), 3))
    start, done = 0.0, 0
    for step in range(10**9):
        if step == 2:  # the first steps build the neighbour lists
            start, done = time.perf_counter(), 0
        if step > 2 and time.perf_counter() - start > seconds:
            break
        positions = base + rng.normal(scale=0.002, size=base.shape)
        parts = [positions] if batched else positions[:, None]
        for part in parts:
            request(here, part, atoms.cell.array)
        done += beads
    rate = done / (time.perf_counter() - start)
    here.sendall(b"EXIT        ")
    thread.join()
    here.close()
    return rate


def main() -> None:
    """Print one line for each number of beads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--potential", default="pdh.pt")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--beads", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    potential = load_potential(arguments.potential, arguments.device)
    atoms = place(fcc_slab(), "H", "fcc")
    atoms.cell[2, 2] = np.ptp(atoms.positions[:, 2]) + 16.0  # i-PI needs three cell vectors
    print(f"{len(atoms)} atoms, {potential.name} on {potential.device}, beads per second")
    for beads in arguments.beads:
        one, batch = (
            beads_per_second(potential, atoms, beads, way, arguments.seconds)
            for way in (False, True)
        )
        print(f"{beads:3d} beads: one by one {one:8.1f}, batched {batch:8.1f}, ×{batch / one:.1f}")


if __name__ == "__main__":
    main()
