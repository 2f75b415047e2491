"""Potential files: tensors and JSON metadata, read without executing anything; lookup by name."""

import json
import os
import warnings
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemp_sim.config import ModelConfig
from nemp_sim.errors import InputError, PotentialFileError
from nemp_sim.files import parse_json, replacing, sha256_of
from nemp_sim.model import NEMP
from nemp_sim.potential import Potential, PotentialMetadata
from nemp_sim.torch_state import in_plain_torch
from nemp_sim.watch import NoDomainWarning, check_policy

FORMAT = "nemp_sim potential"
FORMAT_VERSION = 2
UNITS = {"energy": "eV", "length": "Å", "forces": "eV/Å", "stress": "eV/Å³"}
CHECKSUMS = "SHA256SUMS"  # of the shipped potentials, as sha256sum writes it
SEARCH_PATH_VARIABLE = "NEMP_POTENTIALS"
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def new_model(config: ModelConfig, seed: int = 0) -> NEMP:
    """A network with random weights drawn from ``seed``; torch's global generator is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NEMP(config)


def save_potential(model: NEMP, metadata: PotentialMetadata, path: str | Path) -> Path:
    """Write a potential file; an existing file is replaced only by a complete one."""
    path = Path(path)
    state = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
    content = {"header": json.dumps(describe(model, metadata)), "state": state}
    with replacing(path) as temporary, temporary.open("wb") as handle:
        torch.save(content, handle)  # given a path, torch would store its name in the file
    return path


def describe(model: NEMP, metadata: PotentialMetadata) -> dict[str, Any]:
    """The JSON metadata of a potential file."""
    symbols, plain = model.config.symbols, asdict(metadata)
    reference, n_members = {}, {}
    for head, readout in model.readouts.items():
        known = plain["heads"].get(head, {}).get("elements", symbols)
        values = dict(zip(symbols, readout.reference_energies.tolist(), strict=True))
        reference[head] = {symbol: values[symbol] for symbol in known}
        n_members[head] = readout.members.shape[0]
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": model.config.to_dict(),
        "dtype": str(model.species_mix.dtype).removeprefix("torch."),
        "elements": list(symbols),
        "units": UNITS,
        "reference_energies_eV": reference,
        "n_members": n_members,
        "n_parameters": sum(p.numel() for p in model.parameters()),
        **plain,
    }


@in_plain_torch
def load_potential(
    name_or_path: str | Path,
    device: str | torch.device = "auto",
    dtype: object = None,
    head: str | None = None,
    kernel: str = "auto",
    precision: str = "fp16x3",
    on_extrapolation: str = "warn",
) -> Potential:
    """Read a potential file.

    Args:
        name_or_path: a path, or the name of a potential in a directory of ``$NEMP_POTENTIALS`` or
            among the shipped ones ("pdh.pt" or "pdh").
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1" …
        dtype: "float32" or "float64" (or the torch dtype); None takes the dtype of the file.
        head: read-out (level of theory) to use; None: the only one of the file.
        kernel: "auto", "reference" or "fused", as in Potential.
        precision: of the fused kernels, as in Potential.
        on_extrapolation: what happens where a structure is outside the domain of the potential:
            "warn" (once for each set of atoms), "raise" or "ignore".

    Raises:
        PotentialFileError: no such file, or a damaged, foreign or newer file.
        InputError: an unusable device, dtype or policy, no such head, or several and none given.

    Warns:
        NoDomainWarning: the file records no domain, and ``on_extrapolation`` is not "ignore".
    """
    check_policy(on_extrapolation)
    path = find_potential(name_or_path)
    checksum = _checked_sha256(path)
    model, metadata = load_model(path, None if dtype is None else resolve_dtype(dtype))
    if head is None and len(model.config.heads) > 1:
        raise InputError(_which_head(path.name, model.config, metadata))
    options: dict[str, Any] = {
        "device": resolve_device(device),
        "kernel": kernel,
        "precision": precision,
    }
    try:
        potential = Potential(
            model, metadata, head=head, name=path.name, sha256=checksum, **options
        )
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise PotentialFileError(
            f"{path}: the record of its training domain or errors is damaged ({error!r}). Get a "
            "fresh copy."
        ) from error
    potential.watch.policy = on_extrapolation
    if not potential.domain.is_recorded and on_extrapolation != "ignore":
        warnings.warn(
            f"{path.name} records no domain of validity: no structure can be called outside what "
            "it was trained on. Train it with this version, or say on_extrapolation='ignore'.",
            NoDomainWarning,
            stacklevel=3,
        )
    return potential


def _which_head(name: str, config: ModelConfig, metadata: PotentialMetadata) -> str:
    """What to say where a file has several read-outs and none was chosen."""
    every, heads = [], config.heads
    for head in heads:
        known = metadata.heads.get(head, {})
        elements = ", ".join(known.get("elements", config.symbols))
        every.append(f"{head!r} ({elements}; {known.get('level_of_theory', 'level not stated')})")
    return (
        f"head is not given, but {name} has several, whose energies must not be mixed: "
        f"{'; '.join(every)}. Choose one: head={heads[0]!r}, or --head {heads[0]}."
    )


def load_model(path: Path, dtype: torch.dtype | None = None) -> tuple[NEMP, PotentialMetadata]:
    """The network of a potential file with all its heads.

    Args:
        path: the file.
        dtype: dtype of the network; None takes that of the file.

    Raises:
        PotentialFileError: a damaged, foreign or newer file.
    """
    header, state = _read(path)
    try:
        config = ModelConfig.from_dict(header["model"])
        _refuse_hostile(config, state)
        model = new_model(config).double()  # before the weights: they may be float64
        for head, readout in model.readouts.items():
            n_members = state[f"readouts.{head}.members"].shape[0]
            readout.members = readout.members.new_zeros(n_members, readout.members.shape[1])
        model.load_state_dict(state)
        names = PotentialMetadata.__dataclass_fields__
        metadata = PotentialMetadata(**{name: header[name] for name in names})
        _refuse_wrong_types(header)
        return model.cast(dtype or resolve_dtype(header["dtype"])), metadata
    except (AttributeError, IndexError, KeyError, TypeError, RuntimeError, InputError) as error:
        reason = " ".join(str(error).split())[:300]
        raise PotentialFileError(
            f"{path}: the weights do not fit the network that the file describes ({reason}). "
            "The file is damaged or was edited; get a fresh copy."
        ) from error


def read_header(path: Path) -> dict[str, Any]:
    """The JSON metadata of a potential file, with its path and checksum.

    Raises:
        PotentialFileError: a damaged, foreign or newer file.
    """
    checksum = _checked_sha256(path)
    load_model(path)
    return _read(path)[0] | {"file": str(path), "sha256": checksum}


def _checked_sha256(path: Path) -> str:
    """Checksum of a potential file; that of a shipped one must be the one in SHA256SUMS."""
    checksum, sums = sha256_of(path), shipped_directory() / CHECKSUMS
    if path.resolve().parent != sums.parent.resolve() or not sums.is_file():
        return checksum
    lines = (line.split() for line in sums.read_text("utf-8").splitlines())
    listed = {name: digest for digest, name in lines}
    if listed.get(path.name, checksum) != checksum:
        raise PotentialFileError(
            f"{path}: the SHA-256 checksum is {checksum}, but {CHECKSUMS} beside it says "
            f"{listed[path.name]}. The weights are not the shipped ones: install anew, or "
            "copy your own potential elsewhere."
        )
    return checksum


def _refuse_hostile(config: ModelConfig, state: dict[str, Tensor]) -> None:
    """Refuse weights that are no numbers, or that would fill the memory.

    Raises:
        RuntimeError: saying which.
    """
    for name, tensor in state.items():
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise RuntimeError(f"{name} is larger than what the file stores of it")
        if not tensor.is_floating_point():
            raise RuntimeError(f"{name} holds {tensor.dtype}, no real numbers")
        if not torch.isfinite(tensor).all():
            raise RuntimeError(f"{name} holds not-a-number or infinite weights")
    count, k = len(config.elements), config.n_channels
    least = count * k**2 * (1 + 3 * config.n_message_passing)
    for mlp in (config.radial_mlp, config.message_mlp, config.output_mlp):
        least += 0 if mlp.linear else mlp.n_blocks * mlp.layers_per_block * mlp.width**2 + mlp.width
    if config.species_code == "atomic_number":
        mlp = config.embedding_mlp
        least += mlp.n_blocks * mlp.layers_per_block * mlp.width**2 + config.n_pair_code
    stored = sum(tensor.numel() for tensor in state.values())
    if max(least, config.n_radial, *config.elements) > max(stored, 118):
        raise RuntimeError(f"the network needs {least} weights or more, the file has {stored}")


def _refuse_wrong_types(header: dict[str, Any]) -> None:
    """Refuse metadata that are no tables where tables are wanted.

    Raises:
        TypeError: naming the key.
    """
    tables = ("heads", "training", "errors", "n_members", "reference_energies_eV")
    for name in tables:
        values = header[name]
        if not isinstance(values, dict):
            raise TypeError(f"{name} is no table")
        if name == "heads" and not all(isinstance(v, dict) for v in values.values()):
            raise TypeError("an entry of heads is no table")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [
                e.filename for e in archive.infolist() if e.compress_type != zipfile.ZIP_STORED
            ]
            if packed:  # torch compresses nothing; a bomb does
                raise zipfile.BadZipFile(f"{packed[0]} is compressed")
            damaged = archive.testzip()  # torch itself does not look at the checksums
        if damaged is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # a damaged file can raise anything; it is always refused
        reason = (str(e).splitlines() or [type(e).__name__])[0][:200]
        raise PotentialFileError(
            f"{path}: not a readable potential file ({reason}). It is "
            "truncated, damaged or of another program. Published JAX checkpoints are read by "
            "'nemp import-jax DIR -o FILE.pt'."
        ) from e
    content = content if isinstance(content, dict) else {}
    if not (isinstance(content.get("header"), str) and isinstance(content.get("state"), dict)):
        raise PotentialFileError(
            f"{path}: a torch file, but not a potential of nemp_sim (no header). Potentials are "
            "written by 'nemp train' and 'nemp import-jax'."
        )
    try:
        header = parse_json(content["header"])
    except ValueError:
        header = {}
    version = header.get("format_version")
    if header.get("format") != FORMAT or not isinstance(version, int):
        raise PotentialFileError(f"{path}: the header does not describe a nemp_sim potential.")
    if version > FORMAT_VERSION:
        raise PotentialFileError(
            f"{path}: format version {version}, but this nemp_sim reads up to {FORMAT_VERSION}. "
            "Install a newer nemp_sim."
        )
    if version < FORMAT_VERSION:
        raise PotentialFileError(
            f"{path}: format version {version} of an early nemp_sim, but {FORMAT_VERSION} is read. "
            "Train it again."
        )
    return header, content["state"]


def shipped_directory() -> Path:
    """Directory of the shipped potentials: inside the installed package, or in the checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "potentials"
    return inside if inside.is_dir() else package.parent / "potentials"


def potential_directories() -> list[Path]:
    """Directories searched by name: those of ``$NEMP_POTENTIALS``, then the shipped one."""
    listed = os.environ.get(SEARCH_PATH_VARIABLE, "").split(os.pathsep)
    return [Path(entry) for entry in listed if entry] + [shipped_directory()]


def find_potential(name_or_path: str | Path) -> Path:
    """The file of a potential: as given, then in ``$NEMP_POTENTIALS``, then the shipped ones.

    Raises:
        PotentialFileError: not found; the message lists what exists.
    """
    given = Path(name_or_path)
    if given.is_file():
        return given
    names = [given.name] if given.suffix == ".pt" else [given.name, f"{given.name}.pt"]
    directories = potential_directories() if given.name == str(given) else []
    for candidate in (directory / name for directory in directories for name in names):
        if candidate.is_file():
            return candidate
    existing = [str(f) for d in potential_directories() for f in sorted(d.glob("*.pt"))]
    raise PotentialFileError(
        f"potential {str(name_or_path)!r} was not found (searched: the path as given, "
        f"${SEARCH_PATH_VARIABLE}, the shipped potentials). "
        f"Existing potentials: {', '.join(existing) or 'none'}."
    )


def resolve_device(device: str | torch.device) -> torch.device:
    """The torch device of "auto" or of a name; a missing GPU is an error, never a silent CPU.

    Raises:
        InputError: an unknown device, or a GPU that torch does not see.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device is {device!r}, but must be 'auto', 'cpu' or 'cuda'.") from error
    if resolved.type not in ("cpu", "cuda"):
        raise InputError(f"device is {device!r}, but must be 'auto', 'cpu' or 'cuda'.")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device is {device!r}, but torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} GPUs. Use device='cpu', or install a CUDA build of torch."
        )
    return resolved


def resolve_dtype(dtype: object) -> torch.dtype:
    """The torch dtype of "float32" or "float64" (or of a torch dtype).

    Raises:
        InputError: anything else.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise InputError(f"dtype is {dtype!r}, but must be 'float32' or 'float64'.")
    return DTYPES[name]
