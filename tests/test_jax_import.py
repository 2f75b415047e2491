"""Published parameters: parity with the reference implementation, and refusal of hostile files."""

import io
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

import nemp_sim
from nemp_sim.derivatives import differentiate
from nemp_sim.errors import InputError, PotentialFileError
from nemp_sim.jax_import import from_arrays, read_checkpoint, read_pickle

DATA = Path(__file__).parent / "data"
AUTHORS = DATA / "authors_checkpoint"
PARITY = {"rtol": 1e-8, "atol": 1e-8}
REFERENCES = ["methanol", "pd111_h", "water_pbc"]


def load_reference(name):
    """Configuration, parameters, structure and stored results of one npz file."""
    with np.load(DATA / f"{name}.npz") as data:
        stored = dict(data)
    config = json.loads(str(stored["config_json"]))
    params = {k.removeprefix("param/"): v for k, v in stored.items() if k.startswith("param/")}
    return config, params, atoms_of(stored), stored


def atoms_of(stored):
    fields = ("numbers", "positions", "cell", "pbc")
    return Atoms(**{name: stored[name] for name in fields})


def assert_parity(potential, atoms, stored, graph_of):
    result = differentiate(potential.model, graph_of(potential, [atoms]), forces=True, stress=True)
    np.testing.assert_allclose(result.energy[0], stored["energy"], **PARITY)
    np.testing.assert_allclose(result.forces, stored["forces"], **PARITY)
    np.testing.assert_allclose(result.virial[0], stored["virial_dE_dstrain"], **PARITY)


@pytest.mark.parametrize("name", REFERENCES)
def test_parity_with_the_reference(name, graph_of):
    config, params, atoms, stored = load_reference(name)
    assert_parity(from_arrays(config, params), atoms, stored, graph_of)


def test_parity_with_the_authors_checkpoint(graph_of):
    with np.load(AUTHORS / "expected.npz") as data:
        stored = dict(data)
    potential = read_checkpoint(AUTHORS)
    assert potential.elements == ("H", "Pd")
    assert potential.dtype == torch.float64
    assert_parity(potential, atoms_of(stored), stored, graph_of)


@pytest.mark.parametrize("name", ["pd111_h", "water_pbc"])
def test_stress_is_the_virial_by_the_volume(name):
    config, params, atoms, stored = load_reference(name)
    stress = from_arrays(config, params).evaluate([atoms], stress=True).stress[0]
    want = stored["virial_dE_dstrain"].ravel()[[0, 4, 8, 5, 2, 1]]
    np.testing.assert_allclose(stress * atoms.get_volume(), want, **PARITY)


def test_energy_per_atom_is_added():
    config, params, atoms, stored = load_reference("methanol")
    shift = -3.1234567891  # a number that float32 would round
    energy = from_arrays(config, params, energy_per_atom_eV=shift).evaluate([atoms]).energy[0]
    np.testing.assert_allclose(energy, stored["energy"] + 6 * shift, **PARITY)


def test_the_first_frequencies_are_no_parameters():
    config, params, atoms, stored = load_reference("methanol")
    energy = from_arrays(config, params | {"initbias_neigh": np.zeros(8)}).evaluate([atoms]).energy
    np.testing.assert_allclose(energy[0], stored["energy"], **PARITY)


def test_activation_constant_scales_the_hidden_layers_alone():
    """y = x (W c/√n): twice the constant is twice the kernels of all layers but the last."""
    config, params, atoms, stored = load_reference("water_pbc")
    doubled = config | {"cst": 2 * config["cst"]}
    halved = {
        name: value / 2 if name.endswith("kernel") and "output_layer" not in name else value
        for name, value in params.items()
    }
    energy = from_arrays(doubled, halved).evaluate([atoms]).energy[0]
    np.testing.assert_allclose(energy, stored["energy"], **PARITY)


# --- parameters that do not fit


def edited_reference(edit):
    config, params, _, _ = load_reference("water_pbc")
    edit(config, params)
    return config, params


EDITS = {
    "missing parameter": (lambda c, p: p.pop("params/spec_coeff"), "species_mix.*missing"),
    "extra parameter": (
        lambda c, p: p.update({"params/surprise": np.zeros(3)}),
        "'surprise' have no place",
    ),
    "wrong shape": (
        lambda c, p: p.update({"params/spec_coeff": np.zeros((3, 6, 6))}),
        r"'species_mix' have shape \(3, 6, 6\).* asks for \(2, 6, 6\)",
    ),
    "odd number of scales": (
        lambda c, p: p.update({"params/scale": np.zeros(3)}),
        "scale",
    ),
    "too few axes": (
        lambda c, p: p.update({"params/l_coeff": np.zeros((3, 5))}),
        "l_coeff|path_weight",
    ),
    "missing key": (lambda c, p: c.pop("nwave"), "'nwave'"),
    "missing elements": (lambda c, p: c.pop("species"), "'species'"),
    "unusable value": (lambda c, p: c.update(pmax_l=3), "pmax_l is 3"),
    "long MLP shape": (lambda c, p: c.update(MP_nl=[1, 2, 3, False, 5, 6]), "MP_nl|message_mlp"),
}


@pytest.mark.parametrize("name", EDITS)
def test_arrays_that_do_not_fit_are_named(name):
    edit, message = EDITS[name]
    config, params = edited_reference(edit)
    with pytest.raises(InputError, match=message):
        from_arrays(config, params)


# --- checkpoint directories


@pytest.fixture
def checkpoint(tmp_path):
    """A writable copy of the authors' checkpoint directory."""
    copy = tmp_path / "checkpoint"
    copy.mkdir()
    for name in ("checkpoint_1.pkl", "full_config.json"):
        shutil.copyfile(AUTHORS / name, copy / name)
    return copy


def read_content(directory):
    with (directory / "checkpoint_1.pkl").open("rb") as handle:
        content = read_pickle(handle, "copy")
    return content | {key: base_arrays(content[key]) for key in ("params", "config")}


def base_arrays(tree):
    """The same tree with plain NumPy arrays, which can be pickled again."""
    if isinstance(tree, dict):
        return {key: base_arrays(value) for key, value in tree.items()}
    return np.array(tree) if isinstance(tree, np.ndarray) else tree


def write_content(directory, content, name="checkpoint_1.pkl"):
    (directory / name).write_bytes(pickle.dumps(content))


def test_optimizer_state_is_skipped(checkpoint):
    content = read_content(checkpoint)
    skipped = {type(leaf).__module__ for leaf in leaves(content["opt_state"])}
    assert "nemp_sim.jax_import" in skipped
    assert not any(module.startswith(("optax", "flax", "jax.")) for module in skipped)
    assert read_checkpoint(checkpoint).evaluate([Atoms("H")]).energy.shape == (1,)


def leaves(tree):
    yield tree
    if isinstance(tree, (list, tuple)):
        for branch in tree:
            yield from leaves(branch)


def test_averaged_parameters_are_preferred(checkpoint):
    content = read_content(checkpoint)
    plain = {"params": content["params"], "config": content["config"], "step": 1}
    atoms = Atoms("PdH", [[0, 0, 0], [0, 0, 1.7]])
    write_content(checkpoint, plain)
    want = read_checkpoint(checkpoint).evaluate([atoms]).energy
    changed = {"params": {"params": {"spoiled": np.ones(2)}}, "ema_params": content["params"]}
    write_content(checkpoint, plain | changed)
    np.testing.assert_array_equal(read_checkpoint(checkpoint).evaluate([atoms]).energy, want)


def test_newest_checkpoint_is_read(checkpoint):
    newer = read_content(checkpoint)
    newer = {key: newer[key] for key in ("params", "config")} | {"step": 7}
    del newer["params"]["params"]["scale"]
    write_content(checkpoint, newer, "checkpoint_0.pkl")
    with pytest.raises(InputError, match=r"energy_factor.*missing"):
        read_checkpoint(checkpoint)


def drop_params(content):
    return {"config": content["config"], "step": 3}


def object_parameter(content):
    return content | {"params": {"params": {"scale": np.array([1.0, "x"], dtype=object)}}}


BAD_CONTENT = {
    "plain list": (lambda c: [1, 2], "holds list, wanted a dict"),
    "no parameters": (drop_params, "no parameters"),
    "object parameter": (object_parameter, "scale is no array|object"),
    "text for step": (lambda c: {"params": c["params"], "step": "new"}, "checkpoint_1.pkl"),
    "list for config": (lambda c: {"params": c["params"], "config": [1]}, "checkpoint_1.pkl"),
}


@pytest.mark.parametrize("name", BAD_CONTENT)
def test_unusable_content_is_refused(checkpoint, name):
    edit, message = BAD_CONTENT[name]
    content = read_content(checkpoint)
    plain = {key: content[key] for key in ("params", "config")}
    write_content(checkpoint, edit(plain))
    with pytest.raises(PotentialFileError, match=message):
        read_checkpoint(checkpoint)


@pytest.mark.parametrize("missing", ["full_config.json", "checkpoint_1.pkl"])
def test_missing_file_lists_what_is_there(checkpoint, missing):
    (checkpoint / missing).unlink()
    (left,) = (path.name for path in checkpoint.iterdir())
    with pytest.raises(PotentialFileError, match=left.replace(".", r"\.")):
        read_checkpoint(checkpoint)


@pytest.mark.parametrize("text", ["", "{ not json", "[1, 2]"])
def test_damaged_configuration_is_refused(checkpoint, text):
    (checkpoint / "full_config.json").write_text(text)
    with pytest.raises(PotentialFileError, match="full_config.json"):
        read_checkpoint(checkpoint)


# --- hostile pickles


class Calls:
    """Pickles as a call of ``function`` when it is read."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class PersistentPickler(pickle.Pickler):
    """Writes every string as a reference to an outside object."""

    def persistent_id(self, obj):
        return obj if isinstance(obj, str) else None


def persistent_pickle():
    stream = io.BytesIO()
    PersistentPickler(stream).dump({"params": "outside"})
    return stream.getvalue()


def hidden_in_object_array(canary):
    array = np.empty(2, dtype=object)
    array[:] = [Calls(os.system, f"touch {canary}"), Calls(os.system, f"touch {canary}")]
    return pickle.dumps({"params": {"kernel": array}})


HOSTILE = {
    "os.system": (lambda c: pickle.dumps(Calls(os.system, f"touch {c}")), r"posix\.system"),
    "os.system by name": (
        lambda c: f"cos\nsystem\n(S'touch {c}'\ntR.".encode(),
        r"os\.system",
    ),
    "builtins.eval": (
        lambda c: pickle.dumps({"params": Calls(eval, f"open({str(c)!r}, 'w')")}),
        r"builtins\.eval",
    ),
    "builtins.getattr": (
        lambda c: pickle.dumps(Calls(getattr, 1.0, "real")),
        r"builtins\.getattr",
    ),
    "numpy function": (lambda c: pickle.dumps(np.fromfile), r"numpy.*fromfile"),
    "object array": (hidden_in_object_array, r"posix\.system|object"),
    "callable in an array": (
        lambda c: pickle.dumps({"params": np.array([os.system], dtype=object)}),
        r"posix\.system|object",
    ),
    "persistent id": (lambda c: persistent_pickle(), "outside object"),
    "truncated": (lambda c: (AUTHORS / "checkpoint_1.pkl").read_bytes()[:50000], "damaged"),
    "empty": (lambda c: b"", "damaged"),
    "noise": (lambda c: bytes(range(256)), "damaged"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickle_is_refused_and_runs_nothing(checkpoint, name):
    make, message = HOSTILE[name]
    canary = checkpoint / "canary"
    (checkpoint / "checkpoint_1.pkl").write_bytes(make(canary))
    with pytest.raises(PotentialFileError, match=message) as refusal:
        read_checkpoint(checkpoint)
    assert "checkpoint_1.pkl" in str(refusal.value)
    assert not canary.exists()


def test_canary_would_be_seen(tmp_path):
    """The plain unpickler runs the payload: the test above can fail."""
    canary = tmp_path / "canary"
    make, _ = HOSTILE["os.system"]
    pickle.loads(make(canary))
    assert canary.exists()


class ForgedDtype:
    """An object dtype whose flags deny that it holds references."""

    def __reduce__(self):
        return np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0)


class ForgedArray:
    """An array whose eight raw bytes NumPy would take for the address of an object."""

    def __reduce__(self):
        reconstruct = np.array(0.0).__reduce__()[0]
        state = (1, (1,), ForgedDtype(), False, b"A" * 8)
        return reconstruct, (np.ndarray, (0,), b"b"), state


@pytest.mark.parametrize("array", [ForgedArray(), np.array([None])], ids=["forged", "plain"])
def test_object_dtype_is_refused(array):
    """NumPy's own unpickling follows the forged address: a crash, or worse."""
    with pytest.raises(PotentialFileError, match="object"):
        read_pickle(io.BytesIO(pickle.dumps({"kernel": array})), "forged")


@pytest.mark.parametrize("dtype", ["f8", "f4", ">f8", "i4", "?", "U3"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_plain_arrays_are_read(dtype, order):
    want = np.array([[0, 1, 2], [3, 4, 5]], order=order).astype(dtype)
    content = {"array": want, "scalar": want[1, 2], "empty": want[:0]}
    got = read_pickle(io.BytesIO(pickle.dumps(content)), "plain")
    for name, value in content.items():
        np.testing.assert_array_equal(got[name], value)
        assert (got[name].shape, got[name].dtype.kind) == (value.shape, value.dtype.kind)


UNSAFE = re.compile(
    r"pickle\.loads?\(|weights_only\s*=\s*False|allow_pickle\s*=\s*True|(?<![.\w])eval\("
)


def test_package_unpickles_nothing_unchecked():
    sources = sorted(Path(nemp_sim.__file__).parent.rglob("*.py"))
    assert len(sources) > 10
    found = [
        f"{path.name}:{number}: {line.strip()}"
        for path in sources
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if UNSAFE.search(line)
    ]
    assert found == []
