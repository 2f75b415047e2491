"""Input files of i-PI from Atoms: every unit, mass and fixed atom is written out.

    H_P = Σ_k [ p_k²/2m + ½ m ω_P² (q_k − q_{k+1})² + V(q_k) ],   ω_P = P k_B T/ħ

is what i-PI propagates; P = 1 is classical dynamics. Source: V. Kapil et al., Comput. Phys. Commun.
236, 214 (2019), 10.1016/j.cpc.2018.09.020; PILE: M. Ceriotti et al., J. Chem. Phys. 133, 124104
(2010), 10.1063/1.3489925.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.geometry import complete_cell

from nemp_sim.config import require
from nemp_sim.errors import InputError
from nemp_sim.files import replacing
from nemp_sim.pathintegral.forces import (
    CHEAP,
    FORCEFIELD,
    CheapForce,
    Umbrella,
    add,
    forces_xml,
)

ENSEMBLES = ("nvt", "npt", "nve", "trpmd", "sc")
THERMOSTATS = ("pile_l", "pile_g", "langevin", "svr", "gle", "nm_gle", "nm_gle_g")
COLOURED = ("gle", "nm_gle", "nm_gle_g")  # need matrices
TRPMD_LAMBDA = 0.5  # of critical damping, on the modes of a ring alone
VACUUM_ANGSTROM = 20.0  # box of a molecule: this beside it along each axis
ISOTOPES = {"H": 1.00794, "D": 2.0141, "T": 3.016049}  # amu, as in i-PI
PREFIX = "run"  # of i-PI's own files
CHECKPOINT_STEPS = 200


@dataclass(frozen=True)
class Dynamics:
    """One simulation of i-PI.

    Attributes:
        beads: P; 1 is classical.
        temperature_K: of the ensemble.
        steps: in all, restarts included.
        timestep_fs: time step.
        ensemble: "nvt"; "npt" (isotropic); "nve", ring-polymer dynamics; "trpmd", the same with
            thermostatted internal modes; "sc", Suzuki–Chin high order NVT.
        thermostat: of ``nvt``, ``npt`` and ``sc``, one of ``THERMOSTATS``.
        tau_fs: time constant of the thermostat (of the centroid, for PILE), and of the barostat.
        gle_file: XML file with <A> and, where needed, <C> of a coloured-noise thermostat (PIGLET:
            "nm_gle"), as gle4md.org writes them.
        pressure_MPa: of ``npt``.
        every: steps between two lines of the property file.
        frames_every: steps between two written frames.
        heat_capacity: write the scaled-coordinates estimators; two more evaluations of all beads
            for each line.
        fix_com: hold the centre of mass; only where no atom is held.
        seed: of i-PI's random numbers.
        batch_size: beads of one request.
        umbrella: bias on the centroid of an atom.
        cheap: how a cheap force spares the full one; None: there is none. ``timestep_fs`` is that
            of the full force.
    """

    beads: int = 16
    temperature_K: float = 300.0
    steps: int = 1000
    timestep_fs: float = 0.5
    ensemble: str = "nvt"
    thermostat: str = "pile_l"
    tau_fs: float = 100.0
    gle_file: Path | None = None
    pressure_MPa: float = 0.1
    every: int = 2
    frames_every: int = 10
    heat_capacity: bool = False
    fix_com: bool = True
    seed: int = 1
    batch_size: int = 16
    umbrella: Umbrella | None = None
    cheap: CheapForce | None = None

    def __post_init__(self) -> None:
        """Refuse values out of their range."""
        for name in ("beads", "steps", "every", "frames_every", "batch_size"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("temperature_K", "timestep_fs", "tau_fs"):
            value = getattr(self, name)
            require(0 < value < np.inf, name.rsplit("_", 1)[0], value, "positive")
        require(self.ensemble in ENSEMBLES, "ensemble", self.ensemble, ", ".join(ENSEMBLES))
        known = ", ".join(THERMOSTATS)
        require(self.thermostat in THERMOSTATS, "thermostat", self.thermostat, f"one of {known}")
        needed = self.thermostat in COLOURED and self.ensemble in ("nvt", "npt", "sc")
        if needed != (self.gle_file is not None):
            wanted = "the XML file of its matrices (gle4md.org)" if needed else "left out"
            thermostat = f"{wanted} for the thermostat {self.thermostat}"
            require(False, "gle_file", self.gle_file, thermostat)
        if self.ensemble == "sc":
            even = self.beads % 2 == 0
            require(even, "beads", self.beads, "even for the ensemble sc (Suzuki–Chin)")
        if self.cheap is not None:
            self.cheap.check(self.beads)
            other = self.ensemble != "sc"
            require(other, "ensemble", self.ensemble, "another one than sc with a cheap force")

    def batch_sizes(self) -> dict[str, int]:
        """Beads of one request to each force field."""
        if self.cheap is None:
            return {FORCEFIELD: self.batch_size}
        most = self.cheap.full_beads or self.beads
        return {FORCEFIELD: min(self.batch_size, most), CHEAP: self.beads}


@dataclass(frozen=True)
class Start:
    """A structure as i-PI gets it.

    Attributes:
        atoms: with three cell vectors, the first along x, the second in the xy plane, masses set.
        labels: name of each atom in i-PI's files: its element, D or T.
        fixed: indices of the atoms that are held.
        rotation: (3, 3); r_given = r_here @ rotation.
        ring: (P, N, 3) Å, places of all beads in i-PI's frame; None: all beads at ``atoms``. i-PI
            interpolates a ring of another number of beads.
    """

    atoms: Atoms
    labels: tuple[str, ...]
    fixed: tuple[int, ...]
    rotation: np.ndarray
    ring: np.ndarray | None = None

    @property
    def free(self) -> np.ndarray:
        """Indices of the atoms that move."""
        return np.setdiff1d(np.arange(len(self.atoms)), self.fixed)

    def species(self) -> tuple[str, ...]:
        """Labels of the atoms that move, each once, lightest first."""
        mass = {self.labels[i]: self.atoms.get_masses()[i] for i in self.free}
        return tuple(sorted(mass, key=mass.__getitem__))


def prepare_start(atoms: Atoms) -> Start:
    """Turn a structure into i-PI's frame; fill in a box where a cell vector is missing.

    Masses are those of ``atoms``; hydrogen of about 2 or 3 amu is labelled D or T.

    Raises:
        InputError: no atoms, a left-handed cell, constraints other than FixAtoms, nothing to move.
    """
    require(len(atoms) > 0, "structure", "empty", "a structure with atoms")
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms):
            raise InputError(
                f"the structure holds a {type(constraint).__name__}, but i-PI can only hold whole "
                "atoms. Remove it, or use FixAtoms."
            )
    fixed = sorted({int(i) for c in atoms.constraints for i in c.get_indices()})
    if len(fixed) == len(atoms):
        raise InputError("all atoms are held by FixAtoms: nothing can move. Release some.")
    masses = atoms.get_masses()
    bare = Atoms(atoms.numbers, atoms.positions, cell=_box(atoms), pbc=atoms.pbc)
    cell, turn = bare.cell.standard_form()
    require(bare.cell.handedness == 1, "cell", bare.cell.tolist(), "right-handed")
    bare.positions = bare.positions @ turn.T
    bare.cell = cell.array
    bare.set_masses(masses)
    return Start(bare, tuple(map(_label, bare.symbols, masses)), tuple(fixed), np.array(turn))


def _box(atoms: Atoms) -> np.ndarray:
    """The cell, with missing vectors long enough for ``VACUUM_ANGSTROM`` beside the atoms."""
    cell = atoms.cell.array.copy()
    missing = ~cell.any(axis=1)
    if (missing & atoms.pbc).any():
        raise InputError(
            f"pbc is {atoms.pbc.tolist()}, but the cell is {cell.tolist()} Å: a periodic axis "
            "needs a cell vector."
        )
    unit = complete_cell(cell)[missing]
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cell[missing] = unit * (np.ptp(atoms.positions @ unit.T, axis=0) + VACUUM_ANGSTROM)[:, None]
    return cell


def _label(symbol: str, mass: float) -> str:
    if symbol != "H":
        return symbol
    return min(ISOTOPES, key=lambda name: abs(ISOTOPES[name] - mass))


def check_sampling(
    steps: int, equilibration: int, beads: Sequence[int], devices: Sequence[str], mode: str
) -> None:
    """Refuse what no workflow of simulations can run.

    Raises:
        InputError: naming the value.
    """
    few = 0 <= equilibration < steps
    require(few, "equilibration", equilibration, f"0 or more, and below {steps}")
    require(len(beads) > 0, "beads", beads, "at least one number")
    require(len(devices) > 0, "device", devices, "at least one device")
    require(mode in ("unix", "shm"), "mode", mode, "unix or shm")


def write_input(start: Start, dynamics: Dynamics, directory: Path, mode: str = "unix") -> Path:
    """Write init.xyz and input.xml for i-PI; returns the latter.

    Args:
        start: the structure.
        dynamics: what to do with it.
        directory: where to write.
        mode: "unix" or "shm", the mode of the <ffsocket>.
    """
    with replacing(directory / "init.xyz") as temporary:
        temporary.write_text(_xyz(start), encoding="ascii")
    path = directory / "input.xml"
    root = input_xml(start, dynamics, mode)
    ElementTree.indent(root)
    with replacing(path) as temporary:
        temporary.write_text(ElementTree.tostring(root, encoding="unicode") + "\n")
    return path


def _xyz(start: Start) -> str:
    box = " ".join(f"{x:.12f}" for x in start.atoms.cell.cellpar())
    lines = []
    for places in (start.atoms.positions,) if start.ring is None else start.ring:
        lines.append(str(len(start.atoms)))
        lines.append(f"# CELL(abcABC): {box} cell{{angstrom}} positions{{angstrom}}")
        for label, place in zip(start.labels, places, strict=True):
            lines.append(f"{label} " + " ".join(f"{x:.12f}" for x in place))
    return "\n".join(lines) + "\n"


def input_xml(start: Start, dynamics: Dynamics, mode: str = "unix") -> ElementTree.Element:
    """The <simulation> element of i-PI's input.

    Raises:
        InputError: constant pressure of what has vacuum or held atoms.
    """
    if dynamics.ensemble == "npt" and (start.fixed or not start.atoms.pbc.all()):
        raise InputError(
            f"ensemble is 'npt', but pbc is {start.atoms.pbc.tolist()} and {len(start.fixed)} "
            "atoms are held: pressure needs three periodic axes and atoms that all move. Use nvt."
        )
    # threads of i-PI 3.3 that write files share the arrays of its transform: see docs/pimd.md
    root = ElementTree.Element("simulation", verbosity="medium", threading="False")
    root.append(_output(start, dynamics))
    add(root, "total_steps", dynamics.steps)
    add(add(root, "prng"), "seed", dynamics.seed)
    for name, batch_size in dynamics.batch_sizes().items():
        socket = add(root, "ffsocket", name=name, mode=mode, pbc="False")
        add(socket, "address", name)
        add(socket, "batch_size", batch_size)
        add(socket, "latency", 1e-3)  # shorter waits split the beads into more batches
    system = add(root, "system")
    initialize = add(system, "initialize", nbeads=str(dynamics.beads))
    add(initialize, "file", "init.xyz", mode="xyz")
    masses = ", ".join(f"{m:.8f}" for m in start.atoms.get_masses())
    add(initialize, "masses", f"[{masses}]", mode="manual", units="dalton")
    add(initialize, "velocities", dynamics.temperature_K, mode="thermal", units="kelvin")
    system.append(forces_xml(dynamics.cheap, dynamics.beads))
    ensemble = add(system, "ensemble")
    add(ensemble, "temperature", dynamics.temperature_K, units="kelvin")
    if dynamics.umbrella is not None:
        root.insert(list(root).index(socket) + 1, dynamics.umbrella.forcefield())
        add(add(ensemble, "bias"), "force", forcefield="umbrella", nbeads="1")
    if dynamics.ensemble == "npt":
        add(ensemble, "pressure", dynamics.pressure_MPa, units="megapascal")
    motion = add(system, "motion", mode="dynamics")
    add(motion, "fixcom", dynamics.fix_com and not start.fixed)
    if start.fixed:
        add(motion, "fixatoms", list(start.fixed))
    motion.append(_integrator(dynamics))
    return root


def _integrator(dynamics: Dynamics) -> ElementTree.Element:
    modes = {"trpmd": "nvt"}
    element = ElementTree.Element(
        "dynamics", mode=modes.get(dynamics.ensemble, dynamics.ensemble), splitting="baoab"
    )
    add(element, "timestep", dynamics.timestep_fs, units="femtosecond")
    if dynamics.cheap is not None:
        add(element, "nmts", [1, dynamics.cheap.inner_steps])
    if dynamics.ensemble == "nve":
        return element
    if dynamics.ensemble == "npt":
        barostat = add(element, "barostat", mode="isotropic")
        add(barostat, "tau", 2 * dynamics.tau_fs, units="femtosecond")
        _thermostat(barostat, "langevin", dynamics.tau_fs)
    if dynamics.ensemble == "trpmd":
        gentle = _thermostat(element, "pile_g", 1e6)  # ns: the centroid moves by itself
        add(gentle, "pile_lambda", TRPMD_LAMBDA)
        return element
    thermostat = _thermostat(element, dynamics.thermostat, dynamics.tau_fs)
    if dynamics.gle_file is not None:
        for matrix in read_gle(dynamics.gle_file):
            thermostat.append(matrix)
    return element


def _thermostat(parent: ElementTree.Element, mode: str, tau_fs: float) -> ElementTree.Element:
    element = add(parent, "thermostat", mode=mode)
    if mode not in ("gle", "nm_gle"):
        add(element, "tau", tau_fs, units="femtosecond")
    return element


def read_gle(path: Path) -> list[ElementTree.Element]:
    """The elements <A> and <C> of a file with the matrices of a coloured-noise thermostat.

    Raises:
        InputError: no such file, or no <A> in it.
    """
    if not path.is_file():
        raise InputError(f"gle_file is {str(path)!r}, but there is no such file. Check the path.")
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        root = ElementTree.fromstring(f"<matrices>{text.split('?>')[-1]}</matrices>")
    except ElementTree.ParseError as error:
        raise InputError(f"gle_file {str(path)!r} is no XML: {error}.") from error
    found = [element for name in ("A", "C") for element in root.iter(name)]
    if not any(element.tag == "A" for element in found):
        raise InputError(
            f"gle_file {str(path)!r} holds no <A> matrix. Choose i-PI's format on gle4md.org."
        )
    return found


def properties(start: Start, dynamics: Dynamics) -> list[str]:
    """What i-PI writes to the property file, in its own names with units."""
    wanted = ["step", "time{picosecond}", "conserved{electronvolt}", "temperature{kelvin}"]
    high_order = dynamics.ensemble == "sc"
    wanted.append(f"potential{'_opsc' if high_order else ''}{{electronvolt}}")
    names = ["kinetic_cv{electronvolt}", "kinetic_td{electronvolt}"]
    names = ["kinetic_opsc{electronvolt}"] if high_order else names
    for species in start.species():
        wanted += [f"{name}({species})" for name in names]
    if start.atoms.pbc.all():
        wanted += ["volume{angstrom3}", "density{g/cm3}", "pressure_cv{megapascal}"]
    if dynamics.umbrella is not None:
        wanted.append(f"atom_x{{angstrom}}({dynamics.umbrella.atom})")
    if dynamics.heat_capacity:
        wanted.append("sc_op_scaledcoords" if high_order else "scaledcoords")
    return wanted


def _output(start: Start, dynamics: Dynamics) -> ElementTree.Element:
    output = ElementTree.Element("output", prefix=PREFIX)
    wanted, stride = properties(start, dynamics), str(dynamics.every)
    add(output, "properties", f"[{', '.join(wanted)}]", stride=stride, filename="out")
    frames = {"stride": str(dynamics.frames_every), "cell_units": "angstrom"}
    add(output, "trajectory", "positions{angstrom}", filename="pos", **frames)
    if dynamics.ensemble in ("nve", "trpmd"):
        add(output, "trajectory", "v_centroid", filename="vc", stride=stride)
        add(output, "trajectory", "x_centroid{angstrom}", filename="xc", stride=stride)
    stride = str(CHECKPOINT_STEPS)
    add(output, "checkpoint", stride=stride, filename="checkpoint", overwrite="True")
    return output
