"""Servers for the tests of the i-PI client: real i-PI in a process, and one that makes mistakes."""

import os
import shutil
import socket
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
from ase.units import Bohr, Hartree

from nemp_sim.potential import Evaluation

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
SPRING = 0.02  # Hartree/Bohr²


class HarmonicEngine:
    """E = k r²/2 of every atom about the origin; remembers batch sizes and positions."""

    cutoff_angstrom = 3.0

    def __init__(self, spring=SPRING, before=None):
        self.spring = spring * Hartree / Bohr**2
        self.batches = []
        self.seen = []
        self.before = before

    def evaluate(self, structures, forces=True, stress=False, neighbors=None):
        self.batches.append(len(structures))
        self.seen += [a.positions.copy() for a in structures]
        if self.before:
            self.before(self)
        energy = np.array([0.5 * self.spring * (a.positions**2).sum() for a in structures])
        stresses = np.zeros((len(structures), 6)) if stress else None
        return Evaluation(
            energy, (), tuple(-self.spring * a.positions for a in structures), stresses
        )


INPUT = """<simulation verbosity='low'>
<output prefix='run'><properties filename='out'>[step, conserved, potential]</properties></output>
<total_steps>{steps}</total_steps> <prng><seed>1</seed></prng>
{forcefield}
<system><initialize nbeads='{beads}'><file mode='xyz'>init.xyz</file>
<velocities mode='thermal' units='kelvin'>300</velocities></initialize>
<forces><force forcefield='ff'/></forces>
<ensemble><temperature units='kelvin'>300</temperature></ensemble>
<motion mode='dynamics'><fixcom>False</fixcom><dynamics mode='nve'>
<timestep units='femtosecond'>0.2</timestep></dynamics></motion></system></simulation>"""
DIRECT = f"""<ffdirect name='ff'><pes>harmonic</pes><parameters>{{k1: {SPRING}}}</parameters>
</ffdirect>"""


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


class RealServer:
    """i-PI 3.3 in a process, in a directory of its own."""

    def __init__(self, directory, atoms, forcefield=DIRECT, steps=4, beads=1, text=None):
        self.directory = Path(directory)
        self.steps = steps
        box = atoms.cell.cellpar() if atoms.cell.rank == 3 else [50, 50, 50, 90, 90, 90]
        lines = [str(len(atoms)), f"# CELL(abcABC): {' '.join(f'{x:.12f}' for x in box)} "]
        lines[1] += "cell{angstrom} positions{angstrom}"
        for symbol, r in zip(atoms.symbols, atoms.positions, strict=True):
            lines.append(f"{symbol} " + " ".join(f"{x:.12f}" for x in r))
        (self.directory / "init.xyz").write_text("\n".join(lines) + "\n")
        text = text or INPUT.format(steps=steps, beads=beads, forcefield=forcefield)
        (self.directory / "input.xml").write_text(text)
        program = shutil.which("i-pi", path=str(Path(sys.executable).parent)) or "i-pi"
        with (self.directory / "log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, program, "-S", f"{self.directory}/", "input.xml"],
                cwd=self.directory, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def log(self):
        return (self.directory / "log").read_text()

    def energies(self):
        """Step, conserved quantity and potential energy (Hartree) of every step, (steps + 1, 3).

        The exit code is not looked at: i-PI 3.3 cannot write a restart file with a committee.
        """
        self.process.wait(timeout=20)
        return np.loadtxt(self.directory / "run.out")

    def finish(self):
        """Positions and momenta (beads, 3N) and masses (N,) in atomic units at the end."""
        assert self.process.wait(timeout=20) == 0, self.log()
        root = ElementTree.parse(self.directory / "RESTART").getroot()
        beads = root.find("system").find("beads")
        return tuple(_array(beads.find(name)) for name in ("q", "p", "m"))


def _array(node):
    shape = [int(x) for x in node.get("shape").strip("()").split(",")]
    return np.array(node.text.strip(" []\n").split(","), float).reshape(shape)


def header(name):
    return name.ljust(12).encode()


class FakeServer:
    """The server's end of a connection, driven by the test byte by byte."""

    def __init__(self, connection):
        self.socket = connection
        self.socket.settimeout(10)

    def receive(self, count):
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise ConnectionError(f"the client left after {len(data)} of {count} bytes")
            data += part
        return data

    def status(self):
        self.socket.sendall(header("STATUS"))
        return self.receive(12).decode().strip()

    def init(self, text="", bead=0):
        raw = text.encode()
        self.socket.sendall(header("INIT") + np.int32([bead, len(raw)]).tobytes() + raw)

    def handshake(self, text=""):
        assert self.status() == "NEEDINIT"
        self.init(text)
        assert self.status() == "READY"

    @staticmethod
    def posdata(positions, cell, unit=Bohr):
        """POSDATA of positions (B, N, 3) and a cell (3, 3; rows) in Å; B = 1 is the plain form."""
        positions, cell = np.asarray(positions) / unit, np.asarray(cell) / unit
        both = cell.T.tobytes() + np.linalg.pinv(cell.T).tobytes()
        count = np.int32(positions.shape[1]).tobytes()
        if len(positions) == 1:
            return header("POSDATA") + both + count + positions.tobytes()
        return header("POSDATA") + count + both * len(positions) + positions.tobytes()

    def forces(self, beads=1):
        """The answer to GETFORCE: energies, forces, virials (atomic units), extras (bytes)."""
        self.socket.sendall(header("GETFORCE"))
        assert self.receive(12) == header("FORCEREADY")
        energies = np.frombuffer(self.receive(8 * beads))
        n = int(np.frombuffer(self.receive(4), np.int32)[0])
        forces = np.frombuffer(self.receive(24 * n * beads)).reshape(beads, n, 3)
        virials = np.frombuffer(self.receive(72 * beads)).reshape(beads, 3, 3)
        extras = [
            self.receive(int(np.frombuffer(self.receive(4), np.int32)[0])) for _ in range(beads)
        ]
        return energies, forces, virials, extras

    def exit(self):
        self.socket.sendall(header("EXIT"))
