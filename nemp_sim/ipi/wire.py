"""The bytes that i-PI and a client exchange: one message, one method; units change here only.

A header is 12 ASCII characters padded by blanks; int32 and float64 go in the native order of the
machine. Lengths are Bohr, energies Hartree; cell vectors are the columns of i-PI's matrix and the
rows of ASE's; the virial is −V · stress. Inside everything is in eV and Å.

    STATUS → NEEDINIT | READY | HAVEDATA
    INIT       int32 bead, int32 length, parameters ("…, batch_size:B")
    POSDATA    (cell, inverse cell), int32 N, positions
    POSDATA    int32 N, B × (cell, inverse cell), B × positions                      batch of B > 1
    GETFORCE → FORCEREADY, B energies, int32 N, B × forces, B × virial, B × (int32 length, extras)
    EXIT

With shared memory POSDATA is int32 N, followed on the first time by the names of six segments, and
the reply on the socket is FORCEREADY and the extras. Source: V. Kapil et al., Comput. Phys. Commun.
236, 214 (2019), 10.1016/j.cpc.2018.09.020, and the user guide of i-PI 3.3.
"""

import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker, shared_memory

import numpy as np

from nemp_sim.errors import InputError, IPIProtocolError, ServerGoneError
from nemp_sim.units import BOHR_ANGSTROM, HARTREE_EV

HEADER_BYTES = 12
DRAIN_S = 0.5  # longest wait for the server's end when closing
LONGEST_TEXT = 1_000_000  # bytes of a parameter string or of the name of a segment
SEGMENTS = ("pos", "h", "ih", "pot", "force", "vir")
HEADERS = ("STATUS", "INIT", "POSDATA", "GETFORCE", "EXIT")


@dataclass(frozen=True)
class Frame:
    """One bead as it came.

    Attributes:
        cell: (3, 3) cell vectors as rows, Å.
        positions: (N, 3) Å.
    """

    cell: np.ndarray
    positions: np.ndarray


@dataclass(frozen=True)
class Reply:
    """Results of one bead.

    Attributes:
        energy: eV.
        forces: (N, 3) eV/Å.
        virial: (3, 3) −V · stress, eV.
        extras: JSON text of an object, or "".
    """

    energy: float
    forces: np.ndarray
    virial: np.ndarray
    extras: str = ""


def frame_from_atomic_units(cell: np.ndarray, positions: np.ndarray) -> Frame:
    """The frame of a cell (9 numbers, vectors as columns) and 3N positions in Bohr."""
    rows = np.array(cell, dtype=np.float64).reshape(3, 3).T
    places = np.array(positions, dtype=np.float64).reshape(-1, 3)
    return Frame(rows * BOHR_ANGSTROM, places * BOHR_ANGSTROM)


def reply_in_atomic_units(reply: Reply) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy (Hartree), forces (N, 3) (Hartree/Bohr) and virial (3, 3) (Hartree)."""
    forces = np.asarray(reply.forces, dtype=np.float64) * (BOHR_ANGSTROM / HARTREE_EV)
    virial = np.asarray(reply.virial, dtype=np.float64) / HARTREE_EV
    return float(reply.energy) / HARTREE_EV, forces, virial


class Wire:
    """The messages of the plain and of the batched protocol on a connected socket."""

    def __init__(self, connection: socket.socket, message_timeout_s: float = 60.0) -> None:
        """Take the connection over.

        Args:
            connection: a connected socket.
            message_timeout_s: longest time between the header and the end of one message.
        """
        self._socket = connection
        self._timeout = message_timeout_s

    def close(self) -> None:
        """Close the connection; whatever the server waits for goes to another client.

        What the server is still sending is read and dropped first: closing on top of it would
        reset the connection, at which i-PI 3.3 hangs.
        """
        end = time.monotonic() + DRAIN_S
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            while (left := end - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not self._socket.recv(1 << 16):
                    break
        self._socket.close()

    def receive_header(self) -> str:
        """The next header; waits for it as long as the server lives.

        Raises:
            ServerGoneError: the connection ended.
            IPIProtocolError: not a header of i-PI.
        """
        self._socket.settimeout(None)
        first = self._receive(1)
        raw = first + self._receive(HEADER_BYTES - 1)
        name = raw.decode("ascii", errors="replace").rstrip()
        if name not in HEADERS:
            raise IPIProtocolError(
                f"the server sent {raw!r}, but a header is one of {', '.join(HEADERS)}, padded to "
                "12 characters. Is it i-PI, or a socket that mixes two protocols (mode shm)?"
            )
        return name

    def receive_init(self) -> tuple[int, str]:
        """Body of INIT: number of the bead and the parameter string."""
        bead, length = self._integers(2)
        return bead, self._text(length)

    def receive_positions(self, batch_size: int, n_atoms: int) -> list[Frame]:
        """Body of POSDATA: one frame, or ``batch_size`` of them.

        Raises:
            InputError: the server has another number of atoms.
        """
        if batch_size == 1:
            cells = self._floats(18)
            self._check_atoms(n_atoms)
        else:
            self._check_atoms(n_atoms)
            cells = self._floats(18 * batch_size)
        cells = cells.reshape(batch_size, 2, 9)
        positions = self._floats(3 * n_atoms * batch_size).reshape(batch_size, -1)
        return [frame_from_atomic_units(c[0], p) for c, p in zip(cells, positions, strict=True)]

    def send_status(self, status: str) -> None:
        """Answer STATUS by NEEDINIT, READY or HAVEDATA."""
        self._send(_header(status))

    def send_forces(self, replies: Sequence[Reply]) -> None:
        """Answer GETFORCE with the results of all beads in one piece."""
        energies, forces, virials = zip(*map(reply_in_atomic_units, replies), strict=True)
        parts = [_header("FORCEREADY"), np.array(energies).tobytes()]
        parts.append(np.int32(len(forces[0])).tobytes())
        parts += [f.tobytes() for f in forces] + [v.tobytes() for v in virials]
        self._send(b"".join(parts + [_extras(reply) for reply in replies]))

    def _check_atoms(self, n_atoms: int) -> None:
        (got,) = self._integers(1)
        if got != n_atoms:
            raise InputError(
                f"i-PI sends {got} atoms, but the template has {n_atoms}. Use the file that i-PI "
                "starts from as the template."
            )

    def _integers(self, count: int) -> list[int]:
        return np.frombuffer(self._receive(4 * count), np.int32).tolist()

    def _floats(self, count: int) -> np.ndarray:
        return np.frombuffer(self._receive(8 * count), np.float64)

    def _text(self, length: int) -> str:
        if not 0 <= length <= LONGEST_TEXT:
            raise IPIProtocolError(
                f"the server announces a text of {length} bytes, but 0 to {LONGEST_TEXT} are "
                "possible. Server and client may have different byte orders."
            )
        return self._receive(length).decode("utf-8", errors="replace")

    def _receive(self, count: int) -> bytearray:
        """Exactly ``count`` bytes; those after the first header byte within the time allowed."""
        buffer = bytearray(count)
        view, done = memoryview(buffer), 0
        while done < count:
            try:
                got = self._socket.recv_into(view[done:])
            except TimeoutError as error:
                raise IPIProtocolError(
                    f"the server stopped in the middle of a message: {done} of {count} bytes came "
                    f"within {self._timeout:g} s. Is it i-PI 3.3 or newer in the mode of the "
                    "client (plain socket or shm)?"
                ) from error
            except ConnectionError as error:
                raise ServerGoneError(f"{_GONE} ({error}). {_GONE_CURE}") from error
            if got == 0:
                cut = f" after {done} of {count} bytes of a message" if done else ""
                raise ServerGoneError(f"{_GONE}{cut}. {_GONE_CURE}")
            done += got
            self._socket.settimeout(self._timeout)
        return buffer

    def _send(self, data: bytes) -> None:
        try:
            self._socket.settimeout(self._timeout)
            self._socket.sendall(data)
        except TimeoutError as error:
            raise IPIProtocolError(
                f"the server did not take {len(data)} bytes within {self._timeout:g} s. It may "
                "have hung: look at its output."
            ) from error
        except ConnectionError as error:
            raise ServerGoneError(f"{_GONE} ({error}). {_GONE_CURE}") from error


_GONE = "the server closed the connection without EXIT"
_GONE_CURE = "It died or dropped this client: look at its output (timeout of <ffsocket>?)."


class SharedMemoryWire(Wire):
    """The messages of mode="shm": numbers go through shared memory, control through the socket."""

    def __init__(self, connection: socket.socket, message_timeout_s: float = 60.0) -> None:
        """Take the connection over; the segments become known with the first positions."""
        super().__init__(connection, message_timeout_s)
        self._segments: dict[str, shared_memory.SharedMemory] = {}

    def close(self) -> None:
        """Close the connection and let go of the segments, which stay with the server."""
        super().close()
        for segment in self._segments.values():
            segment.close()
        self._segments.clear()

    def receive_positions(self, batch_size: int, n_atoms: int) -> list[Frame]:
        """Body of POSDATA: the frames lie in shared memory and are copied."""
        self._check_atoms(n_atoms)
        if not self._segments:
            names = [self._text(self._integers(1)[0]) for _ in SEGMENTS]
            self._segments = dict(zip(SEGMENTS, map(_attach, names), strict=True))
        cells = self._view("h", batch_size, 9)
        positions = self._view("pos", batch_size, 3 * n_atoms)
        return [frame_from_atomic_units(c, p) for c, p in zip(cells, positions, strict=True)]

    def send_forces(self, replies: Sequence[Reply]) -> None:
        """Write all results into shared memory, then say FORCEREADY with the extras."""
        count = len(replies)
        for k, reply in enumerate(replies):
            energy, forces, virial = reply_in_atomic_units(reply)
            self._view("pot", count, 1)[k] = energy
            self._view("force", count, forces.size)[k] = forces.ravel()
            self._view("vir", count, 9)[k] = virial.ravel()
        self._send(_header("FORCEREADY") + b"".join(map(_extras, replies)))

    def _view(self, name: str, count: int, width: int) -> np.ndarray:
        segment = self._segments[name]
        if segment.size < 8 * count * width:
            raise IPIProtocolError(
                f"the shared-memory segment {segment.name} ({name}) has {segment.size} bytes, but "
                f"{count} × {width} numbers need {8 * count * width}."
            )
        return np.ndarray((count, width), np.float64, buffer=segment.buf)


def _attach(name: str) -> shared_memory.SharedMemory:
    """Attach to a segment of the server, which alone removes it."""
    try:
        segment = shared_memory.SharedMemory(name=name)
    except FileNotFoundError as error:
        raise IPIProtocolError(
            f"the shared-memory segment {name!r} does not exist on this machine. Mode shm needs "
            "server and client on one machine, and in one container."
        ) from error
    resource_tracker.unregister(segment._name, "shared_memory")  # type: ignore[attr-defined]
    return segment


def _header(name: str) -> bytes:
    return name.ljust(HEADER_BYTES).encode("ascii")


def _extras(reply: Reply) -> bytes:
    """Length in bytes (not characters) and UTF-8 text."""
    text = reply.extras.encode("utf-8")
    return np.int32(len(text)).tobytes() + text
