"""Where an i-PI server listens, and how a client gets to it."""

import os
import socket
import time
from dataclasses import dataclass

from nemp_sim.config import require
from nemp_sim.errors import InputError, ServerGoneError
from nemp_sim.ipi.wire import SharedMemoryWire, Wire

MODES = ("unix", "inet", "shm")
RETRY_S = 0.1  # between two attempts to connect
LONGEST_UNIX_PATH = 107  # bytes; the limit of the operating system


@dataclass(frozen=True)
class Server:
    """An i-PI server, named as in its ``<ffsocket>``.

    Attributes:
        mode: "unix", "inet" or "shm".
        address: ``<address>``: name of the socket, or of the host for "inet".
        port: ``<port>``, for "inet" only.
        prefix: what i-PI got as ``-S``, for "unix" and "shm": text put before the address, to
            which a slash is added where it is a directory.
    """

    mode: str
    address: str
    port: int | None = None
    prefix: str | None = None

    def __post_init__(self) -> None:
        """Check that mode, port and prefix belong together."""
        require(self.mode in MODES, "mode", self.mode, f"one of {', '.join(MODES)}")
        if self.mode == "inet":
            right = self.port is not None and 0 < self.port < 65536
            require(right, "port", self.port, "the <port> of i-PI's <ffsocket>, 1 to 65535")
            require(self.prefix is None, "prefix", self.prefix, "left out: inet has no socket file")
            return
        require(self.port is None, "port", self.port, f"left out: mode {self.mode} has no port")
        named = self.prefix is not None or "/" in self.address
        wanted = (
            "the private directory that i-PI got as -S DIRECTORY/ (i-PI's own default, /tmp/ipi_, "
            "is shared by all users of the machine)"
        )
        require(named, "prefix", self.prefix, wanted)

    @property
    def path(self) -> str:
        """File of the socket."""
        prefix = self.prefix or ""
        slash = "/" if os.path.isdir(prefix) and not prefix.endswith("/") else ""
        return f"{prefix}{slash}{self.address}"

    def connect(self, deadline_s: float) -> Wire:
        """Connect, trying again until the deadline.

        Raises:
            InputError: a host that is not known, or a socket that cannot be used.
            ServerGoneError: no server until the deadline.
        """
        if self.mode == "inet" and self.port is not None:
            return Wire(connect_inet(self.address, self.port, deadline_s))
        kind = SharedMemoryWire if self.mode == "shm" else Wire
        return kind(connect_unix(self.path, deadline_s))


def connect_unix(path: str, deadline_s: float) -> socket.socket:
    """Connect to a unix socket, which may come into being until the deadline.

    Raises:
        InputError: a path that is too long, or a socket of another user.
        ServerGoneError: no server until the deadline.
    """
    if len(path.encode()) > LONGEST_UNIX_PATH:
        raise InputError(
            f"the socket path {path!r} has {len(path.encode())} bytes, but a unix socket may have "
            f"{LONGEST_UNIX_PATH}. Use a shorter prefix."
        )
    connection = _retry(socket.AF_UNIX, path, deadline_s)
    owner = os.stat(path).st_uid
    if owner not in (os.getuid(), 0):
        connection.close()
        raise InputError(
            f"the socket {path!r} belongs to user {owner}, but this is user {os.getuid()}: two "
            "simulations share one prefix. Start i-PI with -S and a private directory."
        )
    return connection


def connect_inet(host: str, port: int, deadline_s: float) -> socket.socket:
    """Connect to a TCP port, which may be opened until the deadline.

    Raises:
        InputError: a host that is not known.
        ServerGoneError: no server until the deadline.
    """
    connection = _retry(socket.AF_INET, (host, port), deadline_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a host that lost its power
    return connection


def _retry(family: int, address: str | tuple[str, int], deadline_s: float) -> socket.socket:
    end = time.monotonic() + deadline_s
    while True:
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.settimeout(max(end - time.monotonic(), RETRY_S))
            connection.connect(address)
            connection.settimeout(None)
            return connection
        except socket.gaierror as error:
            connection.close()
            raise InputError(f"the host {address[0]!r} is not known: {error}.") from error
        except (FileNotFoundError, ConnectionError, TimeoutError, BlockingIOError) as error:
            connection.close()  # BlockingIOError: more clients wait than a unix socket queues
            if time.monotonic() + RETRY_S > end:
                raise ServerGoneError(
                    f"no i-PI server at {address!r} within {deadline_s:g} s ({error}). Check that "
                    "it runs and that address, port and prefix are those of its <ffsocket>, or "
                    "allow more time with --deadline-s."
                ) from error
        time.sleep(RETRY_S)
