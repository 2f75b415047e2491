"""Potential files: exact round trip, lookup by name, refusal of everything damaged or foreign."""

import json
import os
import pickle
import re

import numpy as np
import pytest
import torch

from nemp_sim import checkpoint
from nemp_sim.checkpoint import (
    find_potential,
    load_model,
    load_potential,
    new_model,
    read_header,
    resolve_device,
    resolve_dtype,
    save_potential,
)
from nemp_sim.config import ModelConfig
from nemp_sim.errors import InputError, PotentialFileError
from nemp_sim.potential import PotentialMetadata

# Loading a float32 file in float64 and back is exact; the other way rounds to float32.
ROUNDING = {torch.float32: 1e-6, torch.float64: 0.0}


def state_of(potential):
    return potential.model.state_dict()


@pytest.fixture(params=["smooth", "published"])
def form(request):
    return request.param


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def saved(request, form, random_potential, tmp_path):
    """A potential and its file."""
    potential = random_potential(form, dtype=request.param)
    return potential, save_potential(potential.model, potential.metadata, tmp_path / "saved.pt")


@pytest.fixture
def path(random_potential, tmp_path):
    """A good potential file, to be spoiled."""
    return save_potential(
        random_potential("smooth").model, PotentialMetadata(), tmp_path / "good.pt"
    )


# --- round trip


def test_round_trip_is_bit_equal(saved, water):
    potential, path = saved
    loaded = load_potential(path, "cpu")
    assert loaded.config == potential.config
    assert loaded.dtype == potential.dtype
    assert state_of(loaded).keys() == state_of(potential).keys()
    for name, value in state_of(potential).items():
        assert torch.equal(state_of(loaded)[name], value), name
        assert state_of(loaded)[name].dtype == value.dtype, name
    want, got = potential.evaluate([water]), loaded.evaluate([water])
    np.testing.assert_array_equal(got.energy, want.energy)
    np.testing.assert_array_equal(got.forces[0], want.forces[0])


def test_reference_energies_stay_float64(tmp_path):
    model = new_model(ModelConfig(elements=(1, 46))).cast(torch.float32)
    exact = torch.tensor([-13.605693122994, -136123.456789012345], dtype=torch.float64)
    model.readouts["default"].reference_energies.copy_(exact)
    path = save_potential(model, PotentialMetadata(), tmp_path / "potential.pt")
    assert torch.equal(load_potential(path, "cpu").readout.reference_energies, exact)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_of_the_caller_wins(saved, dtype):
    potential, path = saved
    loaded = load_potential(path, "cpu", dtype)
    assert loaded.dtype == getattr(torch, dtype)
    want = state_of(potential)["species_mix"].double()
    got = state_of(loaded)["species_mix"].double()
    torch.testing.assert_close(got, want, rtol=ROUNDING[loaded.dtype], atol=0)


def test_loading_in_another_dtype_computes_its_tables_in_that_dtype(random_potential, tmp_path):
    """Tables cast up from float32 would carry float32 noise into a float64 potential."""
    model = random_potential("smooth", dtype=torch.float32).model
    path = save_potential(model, PotentialMetadata(), tmp_path / "x.pt")
    loaded = load_potential(path, "cpu", "float64").model
    fresh = new_model(loaded.config).cast(torch.float64)
    for name, table in fresh.named_buffers():
        if not name.startswith("readouts."):
            assert torch.equal(dict(loaded.named_buffers())[name], table), name


def test_metadata_survive(tmp_path):
    model = new_model(ModelConfig(elements=(1, 46)))
    metadata = PotentialMetadata(
        heads={"default": {"level_of_theory": "PBE", "elements": ["Pd"]}},
        training={"epochs": 3},
        errors={"mae_eV": 0.1},
        licence="MIT",
    )
    path = save_potential(model, metadata, tmp_path / "potential.pt")
    loaded = load_potential(path, "cpu")
    assert loaded.metadata == load_model(path)[1] == metadata
    assert loaded.level_of_theory == "PBE" and loaded.elements == ("Pd",)
    assert loaded.name == "potential.pt"
    header = read_header(path)
    assert header["sha256"] == loaded.sha256
    assert len(loaded.sha256) == 64
    assert header["elements"] == ["H", "Pd"]
    assert header["reference_energies_eV"] == {"default": {"Pd": 0.0}}
    assert header["n_members"] == {"default": 0}
    assert header["n_parameters"] == sum(p.numel() for p in model.parameters())


# --- lookup


@pytest.fixture
def places(monkeypatch, tmp_path, random_potential):
    """Three directories, each with a distinct potential "same.pt": here, listed, shipped."""
    directories = {name: tmp_path / name for name in ("here", "listed", "shipped")}
    for directory in directories.values():
        save_potential(random_potential("smooth").model, PotentialMetadata(), directory / "same.pt")
    monkeypatch.chdir(directories["here"])
    monkeypatch.setenv("NEMP_POTENTIALS", f"{tmp_path / 'absent'}{os.pathsep}{tmp_path / 'listed'}")
    monkeypatch.setattr(checkpoint, "shipped_directory", lambda: directories["shipped"])
    return directories


@pytest.mark.parametrize(
    ("name", "order"),
    [("same.pt", ["here", "listed", "shipped"]), ("same", ["listed", "shipped"])],
)
def test_lookup_order(places, name, order):
    for place in order:
        found = find_potential(name).resolve()
        assert found == places[place] / "same.pt"
        found.unlink()
    with pytest.raises(PotentialFileError, match="not found"):
        find_potential(name)


def test_not_found_lists_what_exists(places):
    with pytest.raises(PotentialFileError, match="'other.pt' was not found") as error:
        find_potential("other.pt")
    for place in ("listed", "shipped"):
        assert str(places[place] / "same.pt") in str(error.value)
    assert "NEMP_POTENTIALS" in str(error.value)


def test_not_found_with_nothing_to_list(places):
    for directory in places.values():
        (directory / "same.pt").unlink()
    with pytest.raises(PotentialFileError, match="Existing potentials: none"):
        find_potential("same.pt")


def test_directory_part_is_not_searched_by_name(places):
    with pytest.raises(PotentialFileError, match="'elsewhere/same.pt' was not found"):
        find_potential("elsewhere/same.pt")


# --- damaged, foreign and hostile files


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 0x40
    path.write_bytes(data)


def flip_a_weight(path):
    weights = torch.load(path, weights_only=True)["state"]["species_mix"]
    flip(path, path.read_bytes().index(weights.numpy().tobytes()) + 100)


def edit(path, **changes):
    """Rewrite the header with ``changes``; a value of None removes the key."""
    content = torch.load(path, weights_only=True)
    header = json.loads(content["header"]) | changes
    content["header"] = json.dumps({k: v for k, v in header.items() if v is not None})
    torch.save(content, path)


def replace_content(path, **changes):
    content = torch.load(path, weights_only=True) | changes
    torch.save({k: v for k, v in content.items() if v is not None}, path)


class Runs:
    """Touches a file when a careless reader unpickles it."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def without_a_weight(path):
    state = torch.load(path, weights_only=True)["state"]
    state.pop("species_mix")
    replace_content(path, state=state)


def with_a_wrong_shape(path):
    state = torch.load(path, weights_only=True)["state"]
    replace_content(path, state=state | {"species_mix": torch.zeros(2)})


SPOIL = {
    "weights flipped": flip_a_weight,
    "start flipped": lambda p: flip(p, 0),
    "end flipped": lambda p: flip(p, p.stat().st_size - 22),
    "truncated": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "last byte lost": lambda p: p.write_bytes(p.read_bytes()[:-1]),
    "empty": lambda p: p.write_bytes(b""),
    "text": lambda p: p.write_text("not a potential\n"),
    "json": lambda p: p.write_text("{}"),
    "plain pickle": lambda p: p.write_bytes(pickle.dumps({"header": "{}"})),
    "foreign torch file": lambda p: torch.save(torch.nn.Linear(2, 2).state_dict(), p),
    "torch list": lambda p: torch.save([1, 2], p),
    "whole module": lambda p: torch.save(torch.nn.Linear(2, 2), p),
    "header is no JSON": lambda p: replace_content(p, header="{ not json"),
    "header is a JSON list": lambda p: replace_content(p, header="[1, 2]"),
    "no state": lambda p: replace_content(p, state=None),
    "state is a list": lambda p: replace_content(p, state=[1.0]),
    "missing weight": without_a_weight,
    "wrong shape": with_a_wrong_shape,
    "other format": lambda p: edit(p, format="something else"),
    "no version": lambda p: edit(p, format_version=None),
    "no model": lambda p: edit(p, model=None),
    "no dtype": lambda p: edit(p, dtype=None),
    "unknown dtype": lambda p: edit(p, dtype="float16"),
    "no metadata": lambda p: edit(p, licence=None),
    "other elements": lambda p: edit(p, model={"elements": [1, 6]}),
    "unknown key": lambda p: edit(p, model={"elements": [1], "max_L": 2}),
}


@pytest.mark.parametrize("how", SPOIL)
def test_spoiled_file_is_refused_by_name(path, how):
    SPOIL[how](path)
    with pytest.raises(PotentialFileError, match=r"good\.pt"):
        load_potential(path, "cpu")


def test_every_flipped_byte_is_refused_or_harmless(path, rng, random_potential):
    """A changed byte in the padding may go unseen; one in the weights never."""
    good, want = path.read_bytes(), state_of(random_potential("smooth"))
    refused = 0
    for position in rng.integers(0, len(good), 60):
        path.write_bytes(good)
        flip(path, position)
        print(f"byte {position} of {len(good)}")
        try:
            got = state_of(load_potential(path, "cpu"))
        except PotentialFileError:
            refused += 1
            continue
        assert all(torch.equal(got[name], value) for name, value in want.items())
    assert refused > 20


def test_newer_format_asks_for_a_newer_program(path):
    edit(path, format_version=3)
    with pytest.raises(PotentialFileError, match=r"format version 3.* newer nemp_sim"):
        load_potential(path, "cpu")


def test_older_format_asks_for_training(path):
    edit(path, format_version=1)
    with pytest.raises(PotentialFileError, match=r"good\.pt: format version 1 .*Train it again"):
        load_potential(path, "cpu")


@pytest.mark.parametrize("where", ["state", "header", "extra"])
def test_hostile_pickle_inside_is_refused_and_runs_nothing(path, tmp_path, where):
    canary = tmp_path / "canary"
    content = torch.load(path, weights_only=True)
    torch.save(content | {where: Runs(canary)}, path)
    with pytest.raises(PotentialFileError, match=r"good\.pt"):
        load_potential(path, "cpu")
    assert not canary.exists()
    torch.load(path, weights_only=False)  # the payload is live: the test above can fail
    assert canary.exists()


# --- manners


def test_load_leaves_torch_alone(path):
    torch.manual_seed(11)
    with torch.no_grad():
        before = torch_state()
        load_potential(path, "cpu", "float64")
        assert before == torch_state()
    before = torch_state()
    load_potential(path, "cpu", "float32")
    new_model(ModelConfig(elements=(1,)), seed=3)
    assert before == torch_state()


def torch_state():
    return (
        torch.get_rng_state().numpy().tobytes(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
    )


def test_new_model_depends_on_the_seed_alone():
    config = ModelConfig(elements=(1, 8))
    torch.manual_seed(1)
    first = new_model(config, seed=5).species_mix
    torch.manual_seed(2)
    assert torch.equal(first, new_model(config, seed=5).species_mix)
    assert not torch.equal(first, new_model(config, seed=6).species_mix)


@pytest.mark.parametrize("device", ["tpu", "mps", "meta", "", "cuda:99"])
def test_unusable_device_is_named(device):
    with pytest.raises(InputError, match=f"device is '{device}'"):
        resolve_device(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_an_error(path):
    with pytest.raises(InputError, match=r"sees 0 GPUs"):
        load_potential(path, "cuda")
    assert resolve_device("auto") == torch.device("cpu")


@pytest.mark.gpu
def test_auto_takes_the_gpu(path):
    assert load_potential(path).device.type == "cuda"


@pytest.mark.parametrize(
    "file", sorted(checkpoint.shipped_directory().glob("*.pt")), ids=lambda f: f.stem
)
def test_shipped_files_name_no_directory_of_the_machine_that_made_them(file):
    _, known = load_model(file)
    said = json.dumps([known.heads, known.training, known.errors])
    assert not re.findall(r'"(?:/|[A-Z]:|~)[^"]*"', said)


@pytest.mark.parametrize("dtype", ["float16", "double", 64, torch.bfloat16])
def test_unusable_dtype_is_named(dtype):
    with pytest.raises(InputError, match="dtype is"):
        resolve_dtype(dtype)


@pytest.mark.parametrize("dtype", ["float32", torch.float32])
def test_usable_dtype(dtype):
    assert resolve_dtype(dtype) is torch.float32


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("stage", [(torch, "save"), (os, "replace")], ids=["write", "rename"])
def test_interrupted_write_leaves_the_old_file(path, monkeypatch, random_potential, stage, error):
    """The name points to a complete file at every moment: written beside, then renamed."""
    before = path.read_bytes()

    def fail(*_):
        raise error

    monkeypatch.setattr(*stage, fail)
    with pytest.raises(type(error)):
        save_potential(random_potential("published").model, PotentialMetadata(), path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["good.pt"]
