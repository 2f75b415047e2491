"""Hostile and damaged potential files, and training input, at the commands that read them."""

import io
import json
import pickle
import sys
import zipfile
from pathlib import Path

import ase.io
import pytest
import torch
from ase import Atoms

from nemp_sim import checkpoint
from nemp_sim.checkpoint import load_potential, save_potential, shipped_directory
from nemp_sim.cli import app
from nemp_sim.errors import PotentialFileError
from nemp_sim.files import parse_json
from nemp_sim.potential import PotentialMetadata
from tests.reliability.outcome import EXECUTED, assert_refused
from tests.training.test_data import emt_trajectory


@pytest.fixture
def good(random_potential, tmp_path):
    path = tmp_path / "p.pt"
    return save_potential(random_potential("smooth").model, PotentialMetadata(), path)


class Call:
    """Calls a function when a careless reader unpickles it."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def payloads(directory):
    import builtins
    import os
    import shutil
    import subprocess

    canary = str(Path(directory) / EXECUTED)
    return {
        "os.system": Call(os.system, f"touch {canary}"),
        "os.popen": Call(os.popen, f"touch {canary}"),
        "subprocess": Call(subprocess.check_call, ["touch", canary]),
        "eval": Call(builtins.eval, f"open({canary!r}, 'w')"),
        "exec": Call(builtins.exec, f"open({canary!r}, 'w')"),
        "open": Call(builtins.open, canary, "w"),
        "import": Call(builtins.__import__, "antigravity"),
        "getattr": Call(builtins.getattr, "text", "upper"),
        "copy": Call(shutil.copy, __file__, canary),
        "torch.load": Call(torch.load, canary),
        "torch.save": Call(torch.save, [1], canary),
        "pathlib": Call(Path.touch, Path(canary)),
    }


PAYLOADS = list(payloads("."))


@pytest.mark.parametrize("where", ["state", "beside"])
@pytest.mark.parametrize("name", PAYLOADS)
def test_payloads_are_refused_and_not_executed(good, tmp_path, name, where):
    payload = payloads(tmp_path)[name]
    content = torch.load(good, weights_only=True)
    if where == "state":
        content["state"]["species_mix"] = payload
    else:
        content["extra"] = payload
    torch.save(content, good)
    for command in ("info", "validate"):
        assert_refused(app, [command, good], tmp_path, "p.pt")
    assert not (tmp_path / EXECUTED).exists()


def rewrite(path, change):
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def header(path, **changes):
    def change(content):
        content["header"] = json.dumps(json.loads(content["header"]) | changes)

    rewrite(path, change)


def weight(name, value):
    return lambda p: rewrite(p, lambda c: c["state"].__setitem__(name, value(c["state"][name])))


def model(**changes):
    def change(path):
        content = json.loads(torch.load(path, weights_only=True)["header"])
        header(path, model=content["model"] | changes)

    return change


def raw_header(text):
    return lambda p: rewrite(p, lambda c: c.__setitem__("header", text))


def packed(path):
    """A zip bomb: a gigabyte of zeros in a megabyte, in the place of a weight."""
    source = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            zeros = "/data/" in entry.filename
            target.writestr(entry.filename, bytes(10**8) if zeros else source.read(entry))


def stretched(tensor):
    """A tensor of 10¹² elements on the storage of one."""
    return torch.zeros(1).expand(10**6, 10**6)


WIDE = {"n_blocks": 4, "width": 10**6, "layers_per_block": 4, "linear": False}
HOSTILE = {
    "NaN weight": weight("species_mix", lambda t: t * torch.nan),
    "infinite weight": weight("channel_mix", lambda t: t / 0),
    "NaN reference energy": weight("readouts.default.reference_energies", lambda t: t * torch.nan),
    "complex weight": weight("species_mix", lambda t: t.to(torch.complex128)),
    "weight without size": weight("species_mix", lambda t: t[:0]),
    "stretched weight": weight("species_mix", stretched),
    "stretched members": weight("readouts.default.members", stretched),
    "weight is a text": weight("species_mix", lambda t: "text"),
    "weight is a list": weight("species_mix", lambda t: [1.0]),
    "transposed weight": weight("path_weight", lambda t: t.movedim(0, -1)),
    "unknown weight": lambda p: rewrite(
        p, lambda c: c["state"].__setitem__("more", torch.zeros(1))
    ),
    "zip bomb": packed,
    "bomb: channels": model(n_channels=10**6),
    "bomb: width": model(message_mlp=WIDE),
    "bomb: steps": model(n_message_passing=10**9),
    "bomb: radial": model(n_radial=10**9),
    "negative channels": model(n_channels=-1),
    "cutoff is text": model(cutoff_angstrom="5"),
    "cutoff is NaN": model(cutoff_angstrom=float("nan")),
    "elements: 500": model(elements=[1, 500]),
    "elements: none": model(elements=[]),
    "form unknown": model(form="rough"),
    "heads twice": model(heads=["a", "a"]),
    "model is a list": lambda p: header(p, model=[1]),
    "heads is a list": lambda p: header(p, heads=[1, 2]),
    "head is a number": lambda p: header(p, heads={"default": 3}),
    "errors is text": lambda p: header(p, errors="small"),
    "training is null": lambda p: header(p, training=None),
    "members is null": lambda p: header(p, n_members=None),
    "domain of unknown pair": lambda p: header(
        p, heads={"default": {"domain": {"shortest_distance_A": {"H-Xx": 1.0}}}}
    ),
    "domain is a list": lambda p: header(p, heads={"default": {"domain": [1]}}),
    "dtype is a list": lambda p: header(p, dtype=[1]),
    "deep header": raw_header("[" * 100000),
    "header of another program": raw_header("{}"),
    "version is text": lambda p: header(p, format_version="2"),
    "version of the future": lambda p: header(p, format_version=99),
    "protocol 0 pickle": lambda p: p.write_bytes(pickle.dumps({"a": 1}, protocol=0)),
    "empty zip": lambda p: zipfile.ZipFile(p, "w").close(),
    "zip of another kind": lambda p: zipfile.ZipFile(p, "w").writestr("a/data.pkl", b"\x80\x02."),
    "gzip": lambda p: p.write_bytes(b"\x1f\x8b" + bytes(100)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_potential_is_refused(good, tmp_path, name):
    HOSTILE[name](good)
    assert_refused(app, ["validate", good, "--device", "cpu"], tmp_path, "p.pt")
    with pytest.raises(PotentialFileError, match=r"p\.pt"):
        load_potential(good, "cpu")


def test_deep_json_is_refused_whatever_the_recursion_limit():
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(10**6)  # as compilers and property-based tests leave it
        with pytest.raises(ValueError, match="nested deeper than 100"):
            parse_json("[" * 10**5)
    finally:
        sys.setrecursionlimit(limit)
    assert parse_json('{"a": [1, "[[["]}') == {"a": [1, "[[["]}


OPTIONS = {
    "no such potential": (["nowhere.pt"], "was not found"),
    "directory for a file": (["DIRECTORY"], "was not found"),
    "no such head": (["GOOD", "--head", "pbe"], "head is"),
    "no such dtype": (["GOOD", "--dtype", "float16"], "dtype is"),
    "no such device": (["GOOD", "--device", "tpu"], "device is"),
    "GPU 99": (["GOOD", "--device", "cuda:99"], "sees"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_unusable_options_of_a_potential(good, tmp_path, name):
    given, message = OPTIONS[name]
    places = {"DIRECTORY": tmp_path, "GOOD": good}
    arguments = ["validate", *(places.get(a, a) for a in given)]
    assert_refused(app, arguments, tmp_path, message)


def test_output_that_cannot_be_written(tmp_path):
    published = Path(__file__).parents[1] / "data" / "authors_checkpoint"
    (tmp_path / "file").write_text("")
    arguments = ["import-jax", published, "-o", tmp_path / "file" / "x.pt"]
    assert_refused(app, arguments, tmp_path)


@pytest.mark.parametrize("path", sorted(shipped_directory().glob("*.pt")), ids=lambda p: p.name)
def test_shipped_weights_are_those_that_are_listed(path, tmp_path, monkeypatch):
    """The list names every shipped potential; other bytes under its name are refused."""
    sums = (shipped_directory() / checkpoint.CHECKSUMS).read_text()
    assert f"{checkpoint.sha256_of(path)}  {path.name}" in sums.splitlines()
    other = tmp_path / path.name
    save_potential(checkpoint.load_model(path)[0], PotentialMetadata(), other)
    (tmp_path / checkpoint.CHECKSUMS).write_text(sums)
    monkeypatch.setattr(checkpoint, "shipped_directory", lambda: tmp_path)
    with pytest.raises(PotentialFileError, match="checksum"):
        load_potential(other, "cpu")


# --- training input

TRAINING = {
    "not TOML": "[model\n",
    "no data": '[training]\nname = "x"\n',
    "data and heads": '[data]\ntrain = ["FRAMES"]\n[heads.a]\ntrain = ["FRAMES"]\n',
    "unknown section": '[data]\ntrain = ["FRAMES"]\n[optimiser]\n',
    "unknown key": '[data]\ntrain = ["FRAMES"]\n[training]\nepoch = 3\n',
    "unknown model key": '[data]\ntrain = ["FRAMES"]\n[model]\nn_chanels = 3\n',
    "unknown data key": '[data]\ntrain = ["FRAMES"]\nenergykey = "E"\n',
    "epochs is text": '[data]\ntrain = ["FRAMES"]\n[training]\nepochs = "3"\n',
    "epochs is zero": '[data]\ntrain = ["FRAMES"]\n[training]\nepochs = 0\n',
    "rate is NaN": '[data]\ntrain = ["FRAMES"]\n[training]\nlearning_rate = nan\n',
    "rate is infinite": '[data]\ntrain = ["FRAMES"]\n[training]\nlearning_rate = inf\n',
    "rate is negative": '[data]\ntrain = ["FRAMES"]\n[training]\nlearning_rate = -1.0\n',
    "batch of zero": '[data]\ntrain = ["FRAMES"]\n[training]\nbatch_size = 0\n',
    "optimiser unknown": '[data]\ntrain = ["FRAMES"]\n[training]\noptimizer = "sgd"\n',
    "dtype unknown": '[data]\ntrain = ["FRAMES"]\n[training]\ndtype = "float16"\n',
    "device unknown": '[data]\ntrain = ["FRAMES"]\n[training]\ndevice = "tpu"\n',
    "start unknown": '[data]\ntrain = ["FRAMES"]\n[training]\nstart_from = "nowhere.pt"\n',
    "cutoff is zero": '[data]\ntrain = ["FRAMES"]\n[model]\ncutoff_angstrom = 0\n',
    "L is 9": '[data]\ntrain = ["FRAMES"]\n[model]\nmax_l = 9\n',
    "element missing": '[data]\ntrain = ["FRAMES"]\n[model]\nelements = ["Pd"]\n',
    "element unknown": '[data]\ntrain = ["FRAMES"]\n[model]\nelements = ["Qq"]\n',
    "MLP is text": '[data]\ntrain = ["FRAMES"]\n[model]\nradial_mlp = "large"\n',
    "train is a number": "[data]\ntrain = 3\n",
    "train is empty": "[data]\ntrain = []\n",
    "train holds a number": "[data]\ntrain = [3]\n",
    "data is a number": "data = 3\n",
    "model is a number": 'model = 3\n[data]\ntrain = ["FRAMES"]\n',
    "heads is a list": 'heads = ["a"]\n',
    "file missing": '[data]\ntrain = ["nowhere.xyz"]\n',
    "file is a directory": '[data]\ntrain = ["."]\n',
    "variable not set": '[data]\ntrain = ["$NEMP_NO_SUCH_VARIABLE/a.xyz"]\n',
    "fraction is one": '[data]\ntrain = ["FRAMES"]\nvalidation_fraction = 1.0\n',
    "group key missing": '[data]\ntrain = ["FRAMES"]\ngroup_by = "md_run"\n',
    "lone atom of no element": '[data]\ntrain = ["FRAMES"]\nisolated_atoms_eV = {Qq = 1.0}\n',
    "lone atom is text": '[data]\ntrain = ["FRAMES"]\nisolated_atoms_eV = {H = "x"}\n',
    "wrong energy key": '[data]\ntrain = ["FRAMES"]\nenergy_key = "E0"\n',
    "name with a slash": '[data]\ntrain = ["FRAMES"]\n[training]\nname = "../x"\n',
}
NEAR = {
    "unknown key": "epochs",
    "unknown model key": "n_channels",
    "unknown data key": "energy_key",
}


@pytest.fixture
def frames(tmp_path):
    ase.io.write(tmp_path / "frames.xyz", emt_trajectory(3), format="extxyz")
    return tmp_path


@pytest.mark.parametrize("name", TRAINING)
def test_training_settings_are_refused(frames, name):
    text = TRAINING[name].replace("FRAMES", "frames.xyz")
    (frames / "t.toml").write_text(text)
    said = assert_refused(app, ["train", frames / "t.toml", "--out", frames / "run"], frames)
    if name in NEAR:
        assert f"Did you mean '{NEAR[name]}'" in said


def labelled(**labels):
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.75]])
    atoms.info["REF_energy"] = labels.get("energy", -6.0)
    atoms.arrays["REF_forces"] = labels.get("forces", [[0.0, 0, 1], [0, 0, -1]])
    return atoms


LABELS = {
    "NaN energy": "2\nProperties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=nan\n{atoms}",
    "infinite energy": "2\nProperties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=inf\n{atoms}",
    "energy is text": "2\nProperties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=low\n{atoms}",
    "energy is a list": '2\nProperties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy="1 2"\n'
    "{atoms}",
    "energy is true": "2\nProperties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=T\n{atoms}",
    "no energy": "2\nProperties=species:S:1:pos:R:3:REF_forces:R:3\n{atoms}",
    "no forces": "2\nProperties=species:S:1:pos:R:3 REF_energy=-6\nH 0 0 0\nH 0 0 0.75\n",
    "NaN force": "2\nProperties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=-6\n"
    "H 0 0 0 nan 0 0\nH 0 0 0.75 0 0 0\n",
    "forces of two columns": "2\nProperties=species:S:1:pos:R:3:REF_forces:R:2 REF_energy=-6\n"
    "H 0 0 0 0 0\nH 0 0 0.75 0 0\n",
    "forces are words": "2\nProperties=species:S:1:pos:R:3:REF_forces:S:3 REF_energy=-6\n"
    "H 0 0 0 a b c\nH 0 0 0.75 a b c\n",
    "NaN position": "2\nProperties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=-6\n"
    "H 0 0 nan 0 0 0\nH 0 0 0.75 0 0 0\n",
    "NaN stress": '2\nProperties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=-6 pbc="T T T" '
    'Lattice="9 0 0 0 9 0 0 0 9" REF_stress="nan 0 0 0 0 0"\n{atoms}',
    "stress of five": '2\nProperties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=-6 pbc="T T T" '
    'Lattice="9 0 0 0 9 0 0 0 9" REF_stress="1 0 0 0 0"\n{atoms}',
    "truncated": "2\nProperties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=-6\nH 0 0 0 0 0 1\n",
    "binary": "\x00\x01\x02",
    "empty": "",
}
ATOMS = "H 0 0 0 0 0 1\nH 0 0 0.75 0 0 -1\n"


@pytest.mark.parametrize("name", LABELS)
def test_training_labels_are_refused(tmp_path, name):
    (tmp_path / "f.xyz").write_text(LABELS[name].replace("{atoms}", ATOMS))
    settings = '[data]\ntrain = ["f.xyz"]\ncheck_units = false\n[training]\nstress_weight = 1.0\n'
    (tmp_path / "t.toml").write_text(settings)
    arguments = ["train", tmp_path / "t.toml", "--out", tmp_path / "run", "--device", "cpu"]
    assert_refused(app, arguments, tmp_path)
