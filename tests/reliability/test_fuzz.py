"""Random input: every outcome is a number that means something, or an error of the package."""

import os
import socket
import tomllib
import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

hypothesis = pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from nemp_sim.checkpoint import load_potential, save_potential  # noqa: E402
from nemp_sim.config import ModelConfig  # noqa: E402
from nemp_sim.errors import NempError, PotentialFileError  # noqa: E402
from nemp_sim.files import read_structures  # noqa: E402
from nemp_sim.ipi.client import BeadEvaluator, IPIClient  # noqa: E402
from nemp_sim.ipi.wire import HEADERS, Wire  # noqa: E402
from nemp_sim.neighbors import edge_list  # noqa: E402
from nemp_sim.potential import PotentialMetadata  # noqa: E402
from nemp_sim.training.config import TrainConfig  # noqa: E402
from nemp_sim.training.job import read_config  # noqa: E402

# NEMP_FUZZ=2000 pytest tests/reliability/test_fuzz.py: so many examples, others at each run
EXAMPLES = int(os.environ.get("NEMP_FUZZ", "60"))
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="NEMP_FUZZ" not in os.environ,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TOML = (Path(__file__).parents[2] / "potentials" / "methanol.toml").read_text(encoding="utf-8")
NUMBER = st.floats(-1e3, 1e3) | st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1e-300, 1e300])
VECTOR = st.tuples(NUMBER, NUMBER, NUMBER)


@FUZZ
@given(
    symbols=st.lists(st.sampled_from(["H", "C", "O", "Pd", "Au", "X"]), max_size=5),
    data=st.data(),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_structures(random_potential, symbols, data, pbc):
    potential = random_potential("smooth", zbl=True)
    places = data.draw(st.lists(VECTOR, min_size=len(symbols), max_size=len(symbols)))
    cell = data.draw(st.lists(VECTOR, min_size=3, max_size=3))
    atoms = Atoms(symbols, np.reshape(places, (-1, 3)), cell=cell, pbc=pbc)
    try:
        result = potential.evaluate([atoms], on_extrapolation="ignore")
    except NempError:
        return
    assert np.isfinite(result.energy).all() and np.isfinite(result.forces[0]).all()


def brute_force_pairs(atoms, cutoff):
    """Sorted (i, j, distance rounded) of all pairs, images by plain counting."""
    cell = np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)
    periodic = np.flatnonzero(atoms.pbc)
    reach = np.zeros(3, int)
    if len(periodic):
        spread = np.linalg.pinv(cell[periodic])  # (3, P): fractional = r · spread
        longest = cutoff + np.linalg.norm(np.ptp(atoms.positions, axis=0))
        reach[periodic] = np.ceil(longest * np.linalg.norm(spread, axis=0)).astype(int)
    ranges = [np.arange(-r, r + 1) for r in reach]
    images = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)
    found = []
    for shift in images:
        vectors = atoms.positions[None] - atoms.positions[:, None] + shift @ cell
        distance = np.linalg.norm(vectors, axis=2)
        near = distance < cutoff
        if not shift.any():
            np.fill_diagonal(near, False)
        found += [(i, j, distance[i, j]) for i, j in np.argwhere(near)]
    return sorted(found)


SHEAR = st.floats(-1.5, 1.5)
LENGTH = st.floats(2.0, 6.0)


@st.composite
def cells(draw):
    """Cells from cubes to very skewed ones, of both hands, in any order of their vectors."""
    a, b, c = draw(LENGTH), draw(LENGTH), draw(LENGTH)
    cell = np.array([[a, 0, 0], [draw(SHEAR) * a, b, 0], [draw(SHEAR) * a, draw(SHEAR) * b, c]])
    return cell[list(draw(st.permutations(range(3))))] * draw(st.sampled_from([1, -1]))


@FUZZ
@given(
    symbols=st.lists(st.sampled_from(["H", "C", "O", "Pd"]), min_size=1, max_size=4),
    cell=cells(),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    seed=st.integers(0, 2**31),
)
def test_the_same_crystal_in_other_words(random_potential, symbols, cell, pbc, seed):
    """Neighbours counted plainly; wrapped, shifted, doubled, relabelled: the same numbers."""
    potential, rng = random_potential("smooth", zbl=True), np.random.default_rng(seed)
    atoms = Atoms(symbols, rng.uniform(-8, 8, size=(len(symbols), 3)), cell=cell, pbc=pbc)
    pairs = brute_force_pairs(atoms, potential.cutoff_angstrom)
    if pairs and min(pair[2] for pair in pairs) < 0.7:
        return  # energies of keV: rounding would hide what is looked for
    edges = edge_list(atoms, potential.cutoff_angstrom)
    length = np.linalg.norm(edges.vectors(atoms), axis=1)
    got = sorted(zip(edges.centre, edges.neighbour, length, strict=True))
    assert [p[:2] for p in got] == [p[:2] for p in pairs]
    np.testing.assert_allclose([p[2] for p in got], [p[2] for p in pairs], atol=1e-9)

    whole = rng.integers(-3, 4, size=(len(atoms), 3)) * atoms.pbc
    moved = atoms.copy()
    moved.positions += whole @ atoms.cell.array + rng.normal(size=3)
    order = rng.permutation(len(atoms))
    sheared = atoms.copy()
    periodic = np.flatnonzero(pbc)
    if len(periodic) > 1:
        sheared.cell[periodic[0]] += int(rng.integers(-2, 3)) * sheared.cell[periodic[1]]
    other_vacuum = atoms.copy()
    if not atoms.pbc.all():
        other_vacuum.cell[~atoms.pbc] = 0.0
    same = [atoms, moved, atoms[order], sheared, other_vacuum]
    doubled = [atoms.repeat([1 + (axis == k) for k in range(3)]) for axis in periodic]
    result = potential.evaluate([*same, *doubled], on_extrapolation="ignore")
    energy, forces = result.energy[0], result.forces[0]
    scale = 1.0 + np.abs(forces).max()
    np.testing.assert_allclose(result.energy[: len(same)], energy, atol=1e-9 * scale)
    np.testing.assert_allclose(result.energy[len(same) :], 2 * energy, atol=1e-9 * scale)
    wanted = [forces, forces, forces[order], forces, forces]
    wanted += [np.concatenate([forces, forces])] * len(doubled)
    for index, want in enumerate(wanted):
        np.testing.assert_allclose(result.forces[index], want, atol=1e-9 * scale)


KEYS = st.sampled_from([*TrainConfig.__dataclass_fields__, *ModelConfig.__dataclass_fields__, "x"])
VALUES = st.none() | st.booleans() | st.integers() | NUMBER | st.text(max_size=4)
VALUES = VALUES | st.lists(VALUES, max_size=3)


@FUZZ
@given(values=st.dictionaries(KEYS, VALUES, max_size=4))
@pytest.mark.parametrize("kind", ["training", "model"])
def test_settings(kind, values):
    try:
        if kind == "training":
            from nemp_sim.config import check_keys

            check_keys(TrainConfig, values, "[training]")
            TrainConfig(**values)
        else:
            ModelConfig.from_dict({"elements": ["H"]} | values)
    except NempError:
        pass


@FUZZ
@given(content=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_toml_files(tmp_path, content):
    path = tmp_path / "t.toml"
    path.write_bytes(content)
    with pytest.raises(NempError):
        read_config(path)


def damaged(data, content):
    """``content`` with one to three bytes changed, cut or put in."""
    content = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        if not content:
            break
        place = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["change", "cut", "insert"]))
        if kind == "change":
            content[place] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            del content[place : place + data.draw(st.integers(1, 500))]
        else:
            content[place:place] = data.draw(st.binary(min_size=1, max_size=50))
    return bytes(content)


@FUZZ
@given(data=st.data(), suffix=st.sampled_from([".extxyz", ".vasp", ".traj", ".cif", ".json"]))
def test_damaged_structure_files(tmp_path, data, suffix):
    """Refused, or structures that check_structure lets pass."""
    good, path = tmp_path / f"good{suffix}", tmp_path / f"bad{suffix}"
    if not good.is_file():
        ase.io.write(good, bulk("Pd", cubic=True))
    path.write_bytes(damaged(data, good.read_bytes()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ASE's readers
        try:
            frames = read_structures(path, "structures")
        except NempError:
            return
    assert frames and all(np.isfinite(atoms.positions).all() for atoms in frames)


@FUZZ
@given(data=st.data())
def test_damaged_training_files(tmp_path, data):
    """Refused, or settings that hold what they say."""
    path = tmp_path / "t.toml"
    path.write_bytes(damaged(data, TOML.encode()))
    try:
        read_config(path)
    except NempError:
        pass


@FUZZ
@given(data=st.data())
def test_damaged_potential_files(random_potential, tmp_path, data):
    """Bytes changed, cut or put in: refused, or the same weights (a change in the padding)."""
    path = tmp_path / "p.pt"
    potential = random_potential("smooth")
    good = tmp_path / "good.pt"
    if not good.is_file():
        save_potential(potential.model, PotentialMetadata(), good)
    path.write_bytes(damaged(data, good.read_bytes()))
    try:
        loaded = load_potential(path, "cpu")
    except PotentialFileError:
        return
    for name, value in potential.model.state_dict().items():
        assert (loaded.model.state_dict()[name] == value).all(), name


MESSAGE = st.sampled_from([*HEADERS, "HELLO", ""]).map(lambda h: h.ljust(12).encode())
STREAM = st.lists(MESSAGE | st.binary(max_size=40), max_size=6).map(b"".join)


@FUZZ
@given(stream=STREAM)
def test_ipi_byte_stream(random_potential, stream):
    """Whatever a server sends ends in EXIT or in an error, and never in forces for nothing."""
    evaluator = BeadEvaluator(random_potential("smooth"), Atoms("OH", [[0, 0, 0], [0, 0, 1.0]]))
    ours, theirs = socket.socketpair()
    theirs.sendall(stream)
    theirs.shutdown(socket.SHUT_WR)
    try:
        IPIClient(evaluator).serve(Wire(ours, message_timeout_s=2))
    except NempError:
        pass
    else:
        assert b"EXIT" in stream
    answered = b""
    while part := theirs.recv(1 << 16):
        answered += part
    theirs.close()
    assert b"FORCEREADY" not in answered or b"POSDATA" in stream


def test_the_toml_of_every_shipped_potential_is_read():
    for path in (Path(__file__).parents[2] / "potentials").glob("*.toml"):
        assert tomllib.loads(path.read_text())
