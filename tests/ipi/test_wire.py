"""The i-PI client against a server of the test's own: exact bytes, and all that goes wrong."""

import json
import socket
import threading
import time

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.units import Bohr, Hartree

from nemp_sim.errors import EvaluationError, InputError, IPIProtocolError, ServerGoneError
from nemp_sim.files import private_directory
from nemp_sim.ipi.client import BeadEvaluator, IPIClient, batch_size, run_client
from nemp_sim.ipi.server import Server
from nemp_sim.ipi.wire import Wire
from nemp_sim.potential import Evaluation
from tests.ipi_server import FakeServer, HarmonicEngine, free_port, header


class Session:
    """A client in a thread at one end of a socket pair, the test's server at the other."""

    def __init__(self, engine, template, message_timeout_s=60.0, **options):
        here, there = socket.socketpair()
        self.server = FakeServer(here)
        self.client = IPIClient(BeadEvaluator(engine, template, **options))
        self.error = None
        self._wire = Wire(there, message_timeout_s)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self):
        try:
            self.client.serve(self._wire)
        except Exception as error:
            self.error = error

    def end(self):
        """The error that the client ended with, within two seconds, or None."""
        self._thread.join(2)
        assert not self._thread.is_alive(), "the client did not leave within 2 s"
        self.server.socket.close()
        return self.error


@pytest.fixture
def water():
    return Atoms("OH2", [[0.1, 0.2, -0.3], [0.9, 0.1, 0.2], [-0.4, 0.7, 0.1]])


@pytest.fixture
def crystal():
    """96 atoms in a triclinic cell, in i-PI's orientation."""
    atoms = bulk("Pd", a=3.9) * (4, 4, 6)
    atoms.set_cell(atoms.cell.standard_form()[0], scale_atoms=True)
    return atoms


def request(session, atoms, beads=1, positions=None, cell=None, unit=Bohr):
    """Handshake and positions; the cell of a molecule is a box of 50 Å."""
    session.server.handshake("" if beads == 1 else f"batch_size:{beads}")
    positions = atoms.positions if positions is None else positions
    cell = (atoms.cell.array if atoms.cell.rank else 50 * np.eye(3)) if cell is None else cell
    frames = np.broadcast_to(positions, (beads, len(atoms), 3))
    session.server.socket.sendall(FakeServer.posdata(frames, cell, unit))


def refused(session, kind=InputError):
    """The message of an error that ended the client before it sent any forces."""
    session.server.socket.sendall(header("GETFORCE"))
    with pytest.raises(ConnectionError, match="after 0 of 12 bytes"):
        session.server.receive(12)
    error = session.end()
    assert isinstance(error, kind), error
    return str(error)


@pytest.mark.parametrize("beads", [1, 2])
def test_1200_atoms_in_single_bytes(rng, beads):
    """The kernel hands the message over in pieces; nothing is lost and nothing is left over."""
    atoms = Atoms("H1200", rng.uniform(0, 30, (1200, 3)), cell=[30] * 3, pbc=True)
    session = Session(HarmonicEngine(spring=1.0), atoms)
    server = session.server
    server.handshake("x:1, batch_size:2" if beads == 2 else "x:1")
    positions = atoms.positions + rng.normal(scale=0.05, size=(beads, 1200, 3))
    message = FakeServer.posdata(positions, atoms.cell.array)
    for start in range(0, len(message), 4999):
        server.socket.sendall(message[start : start + 4999])
        time.sleep(0.001)
    assert server.status() == "HAVEDATA"
    energies, forces, virials, extras = server.forces(beads)
    assert np.allclose(forces, -positions / Bohr, rtol=1e-13)
    assert np.allclose(energies, 0.5 * (positions**2).sum((1, 2)) / Bohr**2, rtol=1e-13)
    assert not virials.any() and extras == [b""] * beads
    assert server.status() == "READY"
    server.exit()
    assert session.end() is None and session.client.n_frames == beads


def test_cell_columns_virial_and_units(random_potential):
    """virial = −V σ of the same structure, evaluated without any wire."""
    crystal = bulk("Pd", a=3.9) * (2, 2, 2)
    crystal.set_cell(crystal.cell.standard_form()[0], scale_atoms=True)
    crystal.rattle(0.05, seed=1)
    potential = random_potential("smooth")
    session = Session(potential, crystal)
    request(session, crystal)
    (energy,), (forces,), (virial,), _ = session.server.forces()
    session.server.exit()
    assert session.end() is None
    expected = potential.evaluate([crystal], stress=True)
    assert energy * Hartree == pytest.approx(expected.energy[0], rel=1e-12)
    assert np.allclose(forces * Hartree / Bohr, expected.forces[0], atol=1e-10)
    xx, yy, zz, yz, xz, xy = -crystal.get_volume() * expected.stress[0]
    wanted = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    assert np.abs(wanted).max() > 1e-3
    assert np.allclose(virial * Hartree, wanted, atol=1e-10)


def test_extras_are_measured_in_bytes(water):
    """Å is two bytes in UTF-8; the reply after it still starts at the right place."""
    session = Session(HarmonicEngine(), water, extras=lambda result, k: {"unit": f"Å–{k}"})
    request(session, water, beads=2, positions=[water.positions, water.positions + 0.01])
    _, _, _, extras = session.server.forces(2)
    assert [json.loads(e) for e in extras] == [{"unit": "Å–0"}, {"unit": "Å–1"}]
    assert session.server.status() == "READY"
    session.server.exit()
    assert session.end() is None


def test_extras_never_have_the_key_raw(water):
    session = Session(HarmonicEngine(), water, extras=lambda result, k: {"raw": 1})
    request(session, water)
    assert "'raw'" in refused(session)


def test_extras_carry_the_uncertainty(random_potential):
    """i-PI's ffcommittee reads committee_pot (Hartree); its mean is the energy."""
    crystal = bulk("Pd", a=3.9)
    crystal.set_cell(crystal.cell.standard_form()[0], scale_atoms=True)
    potential = random_potential("smooth", n_members=4)
    session = Session(potential, crystal)
    request(session, crystal)
    (energy,), _, _, (extras,) = session.server.forces()
    session.server.exit()
    assert session.end() is None
    told = json.loads(extras)
    std = potential.evaluate([crystal]).energy_std[0]
    assert told["energy_std_eV"] == pytest.approx(std, rel=1e-9)
    assert len(told["committee_pot"]) == 4
    assert np.mean(told["committee_pot"]) == pytest.approx(energy, abs=1e-10)
    assert np.std(told["committee_pot"]) * Hartree == pytest.approx(std, rel=1e-6)


def test_copies_that_fill_a_batch_are_evaluated_once(water):
    engine = HarmonicEngine()
    session = Session(engine, water)
    moved = water.positions + 0.01
    request(session, water, beads=4, positions=[water.positions, moved, moved, moved])
    energies, *_ = session.server.forces(4)
    session.server.exit()
    assert session.end() is None and engine.batches == [2]
    assert energies[1] == energies[2] == energies[3] != energies[0]


def test_wrong_atom_count(water):
    session = Session(HarmonicEngine(), water)
    session.server.handshake()
    many = np.zeros((1, 5000, 3))
    session.server.socket.sendall(FakeServer.posdata(many, 50 * np.eye(3)))
    assert "5000 atoms, but the template has 3" in refused(session)


@pytest.mark.parametrize(("unit", "word"), [(1.0, "Å that were read as Bohr"), (Bohr**2, "as Å")])
def test_wrong_length_unit_is_named(water, crystal, unit, word):
    """unit 1: the numbers on the wire are Å; Bohr²: they were converted twice."""
    session = Session(HarmonicEngine(), crystal)
    request(session, crystal, unit=unit)
    assert word in refused(session)
    far = Atoms("OH2", 3 * water.positions)
    session = Session(HarmonicEngine(), far)
    request(session, far, unit=unit)
    assert word in refused(session)


def test_permuted_atoms_are_named(crystal):
    session = Session(HarmonicEngine(), crystal)
    order = np.arange(len(crystal))
    order[[3, 40]] = 40, 3
    request(session, crystal, positions=crystal.positions[order] + 0.02)
    message = refused(session)
    assert "another order" in message and "atom 3 sits at the place of atom 40" in message


def test_a_turned_cell_and_another_cell_are_refused(crystal):
    session = Session(HarmonicEngine(), crystal)
    request(session, crystal, cell=crystal.cell.array.T)
    assert "cell" in refused(session)
    session = Session(HarmonicEngine(), crystal)
    turned = crystal.cell.array[:, [1, 2, 0]]
    request(session, crystal, cell=turned)
    assert "standard_form" in refused(session)


def test_other_structure_is_refused_with_its_tolerance(water):
    session = Session(HarmonicEngine(), water)
    request(session, water, positions=water.positions + [[5.0, 0, 0], [0, 0, 0], [0, 0, 0]])
    assert "atom 0 (O) 5.00 Å away" in refused(session)
    session = Session(HarmonicEngine(), water, tolerance_angstrom=np.inf)
    request(session, water, positions=water.positions + 5.0)
    session.server.forces()
    session.server.exit()
    assert session.end() is None


def test_diffusion_is_fine_and_an_explosion_is_not(crystal):
    """400 steps of 0.1 Å across the periodic boundary, wrapped; then one step of 3 Å."""
    session = Session(HarmonicEngine(), crystal)
    request(session, crystal)
    session.server.forces()
    cell = crystal.cell.array
    atoms = crystal.copy()
    for _ in range(400):
        atoms.positions += [0.1, 0.02, 0.0]
        atoms.wrap()
        session.server.socket.sendall(FakeServer.posdata(atoms.positions[None], cell))
        session.server.forces()
    atoms.positions[7] += [1.0, 2.0, 2.0]
    session.server.socket.sendall(FakeServer.posdata(atoms.positions[None], cell))
    message = refused(session)
    assert "atom 7 (Pd)" in message and "explodes" in message


def test_beads_that_take_turns_are_not_an_explosion(water):
    """Two beads 2.5 Å apart, one request each in turn, both drifting."""
    session = Session(HarmonicEngine(), water, tolerance_angstrom=3.0)
    session.server.handshake()
    for step in range(50):
        for bead in range(2):
            place = water.positions + [0.05 * step, 0.0, 0.0 if bead else 2.5]
            session.server.socket.sendall(FakeServer.posdata(place[None], 50 * np.eye(3)))
            session.server.forces()
    session.server.exit()
    assert session.end() is None


@pytest.mark.parametrize("where", ["forces", "energy", "stress", "positions"])
def test_not_a_number_is_never_sent(crystal, where):
    class Broken(HarmonicEngine):
        def evaluate(self, structures, forces=True, stress=False, neighbors=None):
            good = super().evaluate(structures, forces, stress)
            if where == "energy":
                return Evaluation(good.energy * np.nan, (), good.forces, good.stress)
            if where == "stress":
                return Evaluation(good.energy, (), good.forces, good.stress + np.nan)
            good.forces[0][5, 1] = np.nan
            return good

    session = Session(Broken(), crystal)
    positions = crystal.positions.copy()
    if where == "positions":
        positions[5, 1] = np.nan
    request(session, crystal, positions=positions)
    message = refused(session, InputError if where == "positions" else EvaluationError)
    assert "atom 5" in message or where in ("energy", "stress")


def test_truncated_message_of_a_dead_server(water):
    session = Session(HarmonicEngine(), water)
    session.server.handshake()
    message = FakeServer.posdata(water.positions[None], 50 * np.eye(3))
    session.server.socket.sendall(message[:-20])
    session.server.socket.close()
    error = session.end()
    assert isinstance(error, ServerGoneError) and "52 of 72 bytes" in str(error)


def test_truncated_message_of_a_hanging_server(water):
    session = Session(HarmonicEngine(), water, message_timeout_s=0.3)
    session.server.handshake()
    message = FakeServer.posdata(water.positions[None], 50 * np.eye(3))
    session.server.socket.sendall(message[:-20])
    error = session.end()
    assert isinstance(error, IPIProtocolError) and "52 of 72 bytes" in str(error)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (b"HELLO WORLD!", "a header is one of"),
        (header("GETFORCE"), "GETFORCE before POSDATA"),
        (header("INIT") + np.int32([0, -5]).tobytes(), "-5 bytes"),
        (header("INIT") + np.int32([0, 12]).tobytes() + b"batch_size:x", "batch_size 'x'"),
    ],
)
def test_broken_protocol(water, message, text):
    session = Session(HarmonicEngine(), water)
    session.server.socket.sendall(message)
    error = session.end()
    assert isinstance(error, IPIProtocolError) and text in str(error)
    assert error.exit_code == 2


def test_batch_size_of_the_parameter_string():
    assert batch_size("") == 1
    assert batch_size("anything, batch_size:16") == 16
    assert batch_size(" batch_size: 3") == 3


def test_exit_is_no_error(water):
    session = Session(HarmonicEngine(), water)
    session.server.exit()
    assert session.end() is None


def test_missing_socket_is_retried_until_the_deadline(water):
    evaluator = BeadEvaluator(HarmonicEngine(), water)
    with private_directory() as directory:
        servers = (
            Server("unix", "x", prefix=str(directory)),
            Server("inet", "localhost", free_port()),
        )
        for server in servers:
            start = time.monotonic()
            with pytest.raises(ServerGoneError, match=r"within 0\.5 s"):
                run_client(evaluator, server, deadline_s=0.5)
            assert 0.3 < time.monotonic() - start < 1.5


def test_more_clients_than_the_socket_queues_wait_for_their_turn():
    """A unix socket with a full queue answers EAGAIN at once; i-PI queues four clients."""
    with private_directory() as directory, socket.socket(socket.AF_UNIX) as listener:
        server = Server("unix", "x", prefix=f"{directory}/")
        listener.bind(server.path)
        listener.listen(0)
        late = threading.Timer(0.3, lambda: [listener.accept()[0].close() for _ in range(4)])
        late.start()
        wires = [server.connect(8.0) for _ in range(4)]
        late.join()
    assert len(wires) == 4
    for wire in wires:
        wire.close()


def test_server_that_comes_late_and_one_that_comes_back(water):
    """The first server dies without EXIT; with reconnect the client serves the second."""
    evaluator = BeadEvaluator(HarmonicEngine(), water)
    with private_directory() as directory:
        server = Server("unix", "late", prefix=str(directory))
        assert server.path == f"{directory}/late"
        done = []
        thread = threading.Thread(
            target=lambda: done.append(run_client(evaluator, server, 5.0, reconnect=True)),
            daemon=True,
        )
        thread.start()
        time.sleep(0.3)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(server.path)
        listener.listen()
        for last in (False, True):
            fake = FakeServer(listener.accept()[0])
            fake.handshake()
            fake.socket.sendall(FakeServer.posdata(water.positions[None], 50 * np.eye(3)))
            fake.forces()
            if last:
                fake.exit()
            fake.socket.close()
        thread.join(2)
        listener.close()
    assert done[0].n_requests == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tcp", "localhost"), "mode is 'tcp'"),
        (("inet", "localhost"), "port is None"),
        (("inet", "localhost", 70000), "port is 70000"),
        (("unix", "water"), "prefix is None"),
        (("unix", "water", 31415, "/run/"), "port is 31415"),
        (("inet", "localhost", 31415, "/run/"), "prefix is '/run/'"),
    ],
)
def test_server_that_cannot_be(arguments, message):
    with pytest.raises(InputError, match=message):
        Server(*arguments)


def test_socket_path_that_is_too_long():
    with pytest.raises(InputError, match="shorter prefix"):
        Server("unix", "x" * 120, prefix="/run/").connect(0.1)
