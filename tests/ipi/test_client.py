"""The i-PI client against i-PI itself: trajectories, batches, lost clients and servers."""

import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from ase import Atoms
from ase.units import Bohr

from nemp_sim.errors import ServerGoneError
from nemp_sim.files import private_directory
from nemp_sim.ipi.client import BeadEvaluator, run_client
from nemp_sim.ipi.server import Server
from tests.ipi_server import (
    DIRECT,
    ENVIRONMENT,
    SPRING,
    HarmonicEngine,
    RealServer,
    free_port,
)

pytest.importorskip("ipi", reason="i-PI is not installed")

STEPS = 4  # of RealServer
FS = 41.341373  # atomic units of time, as in i-PI
TOLERANCE = 2e-9  # of the largest component: a restart file holds nine digits


@pytest.fixture
def directory():
    with private_directory() as path:
        yield path


@pytest.fixture
def atoms():
    return Atoms("OH2", [[0.1, 0.2, -0.3], [0.9, 0.1, 0.2], [-0.4, 0.7, 0.1]])


def socket_forcefield(mode, port=None, batch=1):
    where = f"<port>{port}</port>" if port else ""
    address = "localhost" if port else "water"
    size = f"<batch_size>{batch}</batch_size>" if batch > 1 else ""
    return (
        f"<ffsocket name='ff' mode='{mode}'><address>{address}</address>{where}{size}"
        "<latency>1e-3</latency></ffsocket>"
    )


def serve_in_thread(engine, atoms, server, deadline_s=8.0):
    """A client in a thread; ``outcome`` holds the client or the error that it ended with."""
    outcome = []

    def work():
        try:
            outcome.append(run_client(BeadEvaluator(engine, atoms), server, deadline_s))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, outcome


def server_of(mode, directory, port):
    if mode == "inet":
        return Server("inet", "localhost", port)
    return Server(mode, "water", prefix=f"{directory}/")


@pytest.mark.parametrize("mode", ["unix", "inet", "shm"])
@pytest.mark.parametrize(("beads", "batch"), [(3, 1), (4, 4), (5, 4)])
def test_trajectory_is_that_of_i_pi_s_own_force_field(directory, atoms, mode, beads, batch):
    """(5, 4): i-PI fills the second batch with copies; each request is one engine call."""
    own, ours = directory / "own", directory / "ours"
    own.mkdir(), ours.mkdir()
    port = free_port() if mode == "inet" else None
    engine = HarmonicEngine()
    forcefield = socket_forcefield(mode, port, batch)
    with (
        RealServer(own, atoms, DIRECT, beads=beads) as first,
        RealServer(ours, atoms, forcefield, beads=beads) as second,
    ):
        thread, outcome = serve_in_thread(engine, atoms, server_of(mode, ours, port))
        expected, got = first.finish(), second.finish()
    thread.join(2)
    assert not thread.is_alive() and outcome[0].batch_size == batch, outcome
    for theirs, mine in zip(expected, got, strict=True):
        assert np.abs(mine - theirs).max() < TOLERANCE * np.abs(theirs).max()
    assert np.abs(expected[0] - expected[0][0]).max() > 1e-3  # the beads have spread
    sizes = engine.batches[1:]  # after the warm-up
    assert max(sizes) == batch
    most = beads * (STEPS + 1)
    assert most - beads < sum(sizes) <= most  # copies are not evaluated, nor equal beads twice


def test_one_bead_is_velocity_verlet(directory, atoms):
    """x(n+1) = 2 x(n) − x(n−1) − τ² k x(n) / m, of the positions that the engine got."""
    engine = HarmonicEngine()
    with RealServer(directory, atoms, socket_forcefield("unix"), steps=8) as server:
        thread, _ = serve_in_thread(engine, atoms, server_of("unix", directory, None))
        mass = np.repeat(server.finish()[2], 3).reshape(-1, 3)
    thread.join(2)
    x = np.array(engine.seen[1:]) / Bohr  # after the warm-up
    assert len(x) == 9 and np.abs(x[-1] - x[0]).max() > 1e-3
    expected = 2 * x[1:-1] - x[:-2] - (0.2 * FS) ** 2 * SPRING / mass * x[1:-1]
    assert np.abs(x[2:] - expected).max() < 1e-10


CLIENT = """
import sys, time
from ase import Atoms
from tests.ipi_server import HarmonicEngine
from nemp_sim.ipi.client import BeadEvaluator, run_client
from nemp_sim.ipi.server import Server
def stop(engine):
    if len(engine.batches) == 4:
        print("busy", flush=True)
        time.sleep(60)
atoms = Atoms("OH2", eval(sys.argv[2]))
run_client(BeadEvaluator(HarmonicEngine(before=stop), atoms), Server("unix", sys.argv[1]))
"""


@pytest.mark.parametrize("batch", [1, 4])
def test_work_of_a_killed_client_goes_to_another(directory, atoms, batch):
    own, ours = directory / "own", directory / "ours"
    own.mkdir(), ours.mkdir()
    with (
        RealServer(own, atoms, DIRECT, beads=4) as first,
        RealServer(ours, atoms, socket_forcefield("unix", batch=batch), beads=4) as second,
    ):
        arguments = [sys.executable, "-c", CLIENT, f"{ours}/water", repr(atoms.positions.tolist())]
        victim = subprocess.Popen(arguments, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
        try:
            assert victim.stdout.readline() == "busy\n"
            thread, outcome = serve_in_thread(
                HarmonicEngine(), atoms, server_of("unix", ours, None)
            )
            victim.send_signal(signal.SIGKILL)
            expected, got = first.finish(), second.finish()
        finally:
            victim.kill()
            victim.wait()
            victim.stdout.close()
    thread.join(2)
    assert not isinstance(outcome[0], Exception)
    assert np.abs(expected[0] - got[0]).max() < TOLERANCE * np.abs(got[0]).max()


@pytest.mark.parametrize("batch", [1, 4])
def test_client_leaves_within_two_seconds_of_the_server_s_death(directory, atoms, batch):
    forcefield = socket_forcefield("unix", batch=batch)
    with RealServer(directory, atoms, forcefield, steps=10**6, beads=4) as server:
        engine = HarmonicEngine()
        thread, outcome = serve_in_thread(engine, atoms, server_of("unix", directory, None))
        while len(engine.batches) < 5:
            time.sleep(0.01)
        server.process.kill()
        killed = time.monotonic()
        thread.join(5)
    assert time.monotonic() - killed < 2
    assert isinstance(outcome[0], ServerGoneError) and "without EXIT" in str(outcome[0])
    assert outcome[0].exit_code == 3
