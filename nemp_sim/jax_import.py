"""Checkpoints of the published JAX code → Potential, without executing anything foreign."""

import pickle
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from nemp_sim.checkpoint import new_model
from nemp_sim.config import MLPShape, ModelConfig
from nemp_sim.errors import InputError, PotentialFileError
from nemp_sim.files import parse_json
from nemp_sim.mlp import SILU_GAIN
from nemp_sim.model import NEMP
from nemp_sim.potential import Potential, PotentialMetadata

_SKIPPED_MODULES = ("optax", "flax", "jax")  # optimizer states: read as inert placeholders


class _PlainDtype:
    """Stands for numpy.dtype, whose own unpickling trusts forged flags and sizes."""

    def __init__(self, code: str, *_: object) -> None:
        if not re.fullmatch(r"[biufcSU]\d{1,4}", code):
            raise PotentialFileError(
                f"the pickle holds an array of dtype {code!r} (objects or records); it was refused "
                "and nothing was executed. Export the parameters as plain arrays."
            )
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        """Take the byte order, and nothing else, of the pickled state."""
        self.dtype = self.dtype.newbyteorder(state[1])


class _PlainArray(np.ndarray):
    """An array that takes its contents from checked parts only."""

    def __setstate__(self, state: Any) -> None:  # noqa: ANN401 (what a pickle holds)
        """Shape, dtype, order and bytes, in NumPy's pickle layout."""
        _, shape, dtype, fortran_order, raw = state
        checked: Any = (1, shape, dtype.dtype, bool(fortran_order), bytes(raw))
        super().__setstate__(checked)


def _empty_array(*_: object) -> _PlainArray:
    return _PlainArray((0,))


def _scalar(dtype: _PlainDtype, raw: bytes) -> object:
    return np.frombuffer(raw, dtype.dtype, count=1)[0]


_ARRAY_GLOBALS = {
    ("numpy", "ndarray"): None,  # an argument of _reconstruct, which ours ignores
    ("numpy", "dtype"): _PlainDtype,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy.core.multiarray", "scalar"): _scalar,
}


READOUT = "readouts.default"
_AXES = {"scale": 1, "l_coeff": 4}  # of the parameters that are reordered


class _Skipped(tuple):
    """Stands for an object of an optimizer library; holds its fields, runs nothing."""

    def __new__(cls, *fields: object) -> "_Skipped":
        return super().__new__(cls, fields)

    def __setstate__(self, state: object) -> None:
        """Drop the state."""


class _ArrayUnpickler(pickle.Unpickler):
    """Reads arrays and plain containers; optimizer states become inert; the rest is refused."""

    def find_class(self, module: str, name: str) -> object:
        """The allowed global, or an inert stand-in for an optimizer state."""
        if (module, name) in _ARRAY_GLOBALS:
            return _ARRAY_GLOBALS[module, name]
        if module.split(".")[0] in _SKIPPED_MODULES:
            return _Skipped
        raise PotentialFileError(
            f"the pickle asks for {module}.{name}, which is no array or plain container; it was "
            "refused and nothing was executed. Export the parameters as plain arrays."
        )

    def persistent_load(self, pid: object) -> object:
        """Refuse references to objects outside the file."""
        raise PotentialFileError(f"the pickle refers to an outside object {pid!r}; refused.")


def read_pickle(handle: BinaryIO, name: str) -> object:
    """Unpickle arrays and plain containers.

    Raises:
        PotentialFileError: any other object, named; or a damaged file.
    """
    try:
        return _ArrayUnpickler(handle).load()
    except PotentialFileError as error:
        raise PotentialFileError(f"{name}: {error}") from None
    except Exception as error:  # a hostile stream can raise anything; it is always refused
        raise PotentialFileError(f"{name}: damaged or foreign pickle ({error!r}).") from error


def read_checkpoint(directory: str | Path) -> Potential:
    """Read a checkpoint directory of the published JAX code.

    The directory holds ``full_config.json`` and one or more ``checkpoint*.pkl``; the newest one
    (largest ``step``, then name) is read. The averaged (EMA) parameters are used where present,
    and ``initpot`` of the configuration is the energy per atom, eV.

    Raises:
        PotentialFileError: a missing or damaged file, or a pickle with foreign objects.
        InputError: a configuration that the network does not know, or missing elements.
    """
    directory = Path(directory)
    config_file = directory / "full_config.json"
    pickles = sorted(directory.glob("checkpoint*.pkl"))
    if not config_file.is_file() or not pickles:
        raise PotentialFileError(
            f"{directory}: full_config.json and checkpoint*.pkl are needed, found "
            f"{sorted(p.name for p in directory.glob('*')) or 'nothing'}."
        )
    try:
        config = parse_json(config_file.read_text())
    except ValueError as error:
        raise PotentialFileError(f"{config_file}: not a JSON object ({error}).") from error
    contents = []
    for path in pickles:
        content = _read_content(path)
        contents.append((int(content.get("step", 0)), path, content))
    _, path, content = max(contents, key=lambda entry: (entry[0], entry[1].name))
    trees = [key for key in ("ema_params", "params") if isinstance(content.get(key), Mapping)]
    if not trees:
        raise PotentialFileError(f"{path}: no parameters; keys are {[str(k) for k in content]}.")
    inner = content.get("config", {})
    if "species" not in config and "reduce_spec" in inner:
        config["species"] = np.asarray(inner["reduce_spec"]).astype(int).tolist()
    config.setdefault("std", float(inner.get("std", 1.0)))
    config.setdefault("cst", float(inner.get("cst", SILU_GAIN)))
    return from_arrays(config, _flatten(content[trees[0]]), float(config.get("initpot", 0.0)))


def _read_content(path: Path) -> Mapping[str, Any]:
    with path.open("rb") as handle:
        content = read_pickle(handle, str(path))
    if not isinstance(content, Mapping):
        raise PotentialFileError(f"{path}: holds {type(content).__name__}, wanted a dict.")
    step, config = content.get("step", 0), content.get("config", {})
    if not (isinstance(step, (int, np.integer)) and isinstance(config, Mapping)):
        raise PotentialFileError(
            f"{path}: step is {type(step).__name__} and config is {type(config).__name__}, wanted "
            "a whole number and a dict."
        )
    return content


def from_arrays(
    config: Mapping[str, Any],
    params: Mapping[str, np.ndarray],
    energy_per_atom_eV: float = 0.0,  # noqa: N803 (a unit in a name)
) -> Potential:
    """The published network with given parameters, as a float64 Potential on the CPU.

    Args:
        config: the published configuration (``max_l``, ``pmax_l``, ``nwave``, ``nradial``,
            ``npaircode``, ``MP_loop``, ``emb_nl``, ``radial_nl``, ``MP_nl``, ``out_nl``,
            ``use_norm``, ``use_bias``, ``cutoff``, ``std``, ``pn``, ``species``, ``cst``).
        params: arrays by path, ``params/radialnn/input_layer/kernel`` …; the leading ``params/``
            may be missing.
        energy_per_atom_eV: constant added to each atom's energy, eV (``initpot``).

    Raises:
        InputError: a missing key of the configuration, or arrays that do not fit it.
    """
    model = new_model(model_config(config)).double()
    arrays = {name.removeprefix("params/"): np.asarray(value) for name, value in params.items()}
    arrays.pop("initbias_neigh", None)  # only where training started
    state = _published_state(model, arrays, float(config.get("cst", SILU_GAIN)) / SILU_GAIN)
    count = len(model.config.elements)
    state |= {
        f"{READOUT}.reference_energies": torch.full(
            (count,), energy_per_atom_eV, dtype=torch.float64
        ),
        f"{READOUT}.members": torch.zeros(0, *model.readouts["default"].members.shape[1:]),
        f"{READOUT}.force_calibration": torch.ones(()),
    }
    own = model.state_dict()
    for name in sorted(own.keys() ^ state.keys()):
        side = "are missing" if name in own else "have no place in the network"
        raise InputError(f"published parameters for '{name}' {side}: another version of the code?")
    for name, value in state.items():
        if value.shape != own[name].shape:
            raise InputError(
                f"published parameters for '{name}' have shape {tuple(value.shape)}, but the "
                f"configuration asks for {tuple(own[name].shape)}."
            )
    model.load_state_dict(state)
    training = {"source": "parameters of the published JAX code"}
    return Potential(model, PotentialMetadata(training=training), name="published JAX parameters")


def model_config(config: Mapping[str, Any]) -> ModelConfig:
    """The ModelConfig of a published configuration.

    Raises:
        InputError: a missing key.
    """
    try:
        return ModelConfig(
            elements=tuple(int(z) for z in config["species"]),
            cutoff_angstrom=float(config["cutoff"]),
            max_l=config["max_l"],
            pmax_l=config["pmax_l"],
            n_channels=config["nwave"],
            n_radial=config["nradial"],
            n_message_passing=config["MP_loop"],
            envelope_power=config["pn"],
            radial_mlp=MLPShape.from_list(config["radial_nl"], "radial_nl"),
            message_mlp=MLPShape.from_list(config["MP_nl"], "MP_nl"),
            output_mlp=MLPShape.from_list(config["out_nl"], "out_nl"),
            embedding_mlp=replace(MLPShape.from_list(config["emb_nl"], "emb_nl"), linear=False),
            n_pair_code=config["npaircode"],
            use_norm=config["use_norm"],
            output_bias=config["use_bias"],
            form="published",
            species_code="atomic_number",
            energy_scale_eV=float(config.get("std", 1.0)),
        )
    except KeyError as error:
        raise InputError(f"the published configuration has no key {error}.") from None


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """Nested dicts → {"a/b/c": array}."""
    flat: dict[str, np.ndarray] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}/")
        elif isinstance(value, np.ndarray) and value.dtype.kind == "f":
            flat[f"{prefix}{key}"] = value
        else:
            raise PotentialFileError(f"parameter {prefix}{key} is no array of floats.")
    return flat


def _published_state(
    model: NEMP, arrays: Mapping[str, np.ndarray], gain: float
) -> dict[str, Tensor]:
    """Published parameter names and axis orders → the state of ``model``.

    ``gain`` corrects hidden layers for another activation constant than ours.
    """
    steps = model.config.n_message_passing
    modules = {
        "neighcoeffnn": "pair_code.pair_mlp",
        "neighnn": "pair_code.frequency_mlp",
        "rweightnn": "pair_code.weight_mlp",
        "radialnn": "radial_mlp",
        "outnn": f"{READOUT}.output_mlp",
        f"ead_list_{steps}": "first_mlp",  # the last member is the one used before the loop
    }
    modules |= {f"ead_list_{t}": f"edge_mlps.{t}" for t in range(steps)}
    modules |= {f"MPNN_list_{t}": f"message_mlps.{t}" for t in range(steps)}
    state: dict[str, Tensor] = {}
    for name, array in arrays.items():
        value = torch.from_numpy(np.array(array, dtype=np.float64))
        head, *rest = name.split("/")
        if name in _AXES and value.ndim != _AXES[name]:
            raise InputError(
                f"published parameters '{name}' have shape {tuple(value.shape)}, but must have "
                f"{_AXES[name]} axes."
            )
        if name == "scale":
            if value.numel() % 2:
                raise InputError(
                    f"published parameters 'scale' hold {value.numel()} numbers, "
                    "but must hold two for each element."
                )
            factor, shift = value.reshape(-1, 2).T
            state |= {f"{READOUT}.energy_factor": factor, f"{READOUT}.energy_shift": shift}
        elif name == "spec_coeff":
            state["species_mix"] = value
        elif name == "contract_coeff":
            state["channel_mix"] = value
        elif name == "l_coeff":  # (T, paths, S, K) → (T, S, paths, K)
            state["path_weight"] = value.transpose(1, 2)
        elif head in modules:
            local = re.sub(r"\b(block|layer)_(\d+)", r"\1s.\2", ".".join(rest))
            hidden = rest[0] != "output_layer" and rest[-1] == "kernel"
            state[f"{modules[head]}.{local}"] = value * gain if hidden else value
        else:
            state[name] = value
    return state
