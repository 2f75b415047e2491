"""Random input: every outcome is a number that means something, or an error of the package."""

import socket
import tomllib
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

hypothesis = pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from nemp_sim.checkpoint import load_potential, save_potential  # noqa: E402
from nemp_sim.config import ModelConfig  # noqa: E402
from nemp_sim.errors import NempError, PotentialFileError  # noqa: E402
from nemp_sim.ipi.client import BeadEvaluator, IPIClient  # noqa: E402
from nemp_sim.ipi.wire import HEADERS, Wire  # noqa: E402
from nemp_sim.potential import PotentialMetadata  # noqa: E402
from nemp_sim.training.config import TrainConfig  # noqa: E402
from nemp_sim.training.job import read_config  # noqa: E402

FUZZ = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
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


@FUZZ
@given(data=st.data())
def test_damaged_potential_files(random_potential, tmp_path, data):
    """Bytes changed, cut or put in: refused, or the same weights (a change in the padding)."""
    path = tmp_path / "p.pt"
    potential = random_potential("smooth")
    good = tmp_path / "good.pt"
    if not good.is_file():
        save_potential(potential.model, PotentialMetadata(), good)
    content = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["change", "cut", "insert"]))
        if kind == "change":
            content[place] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            del content[place : place + data.draw(st.integers(1, 500))]
        else:
            content[place:place] = data.draw(st.binary(min_size=1, max_size=50))
        if not content:
            break
    path.write_bytes(bytes(content))
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
