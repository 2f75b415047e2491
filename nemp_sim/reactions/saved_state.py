"""Where a run of Langevin replicas stands, on disk, so that it goes on after a kill."""

import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nemp_sim.errors import InputError
from nemp_sim.files import replacing

ARRAYS = ("positions", "velocities", "forces")


@dataclass
class State:
    """Where R replicas of N atoms stand.

    Attributes:
        step: steps done.
        positions: (R, N, 3) Å, never wrapped.
        velocities: (R, N, 3), units of ASE.
        forces: (R, N, 3) eV/Å on the free atoms.
        samples: positions at the start and at every sample.
        rng: the random numbers to come.
    """

    step: int
    positions: np.ndarray
    velocities: np.ndarray
    forces: np.ndarray
    samples: list[np.ndarray]
    rng: np.random.Generator


class SavedState:
    """The state of one run in a file: another run does not go on from it."""

    def __init__(
        self, path: Path | None, settings: Sequence[object], arrays: Sequence[np.ndarray]
    ) -> None:
        """Take what fixes the run: ``settings`` in plain values, and ``arrays``."""
        self.path = path
        digest = hashlib.sha256(json.dumps(list(settings)).encode())
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
        self.fingerprint = digest.hexdigest()

    def read(self) -> State | None:
        """The state in the file; None where there is none.

        Raises:
            InputError: a damaged file, or one of another run.
        """
        if self.path is None or not self.path.is_file():
            return None
        cure = f"Choose another --name, or remove {self.path} to start anew."
        try:
            with self.path.open("rb") as handle, np.load(handle, allow_pickle=False) as saved:
                about = json.loads(str(saved["about"]))
                arrays = {name: saved[name].copy() for name in ARRAYS}
                samples = [*saved["samples"]]
            rng = np.random.default_rng()
            rng.bit_generator.state = about["rng"]
            fingerprint, step = about["fingerprint"], int(about["step"])
        except (KeyError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            reason = f"{type(error).__name__}: {error}"
            raise InputError(
                f"{self.path}: no readable state of a run ({reason}). {cure}"
            ) from error
        if fingerprint != self.fingerprint:
            raise InputError(
                f"{self.path} is the state of an unfinished run with other settings, another "
                f"structure or another potential. {cure}"
            )
        return State(step=step, samples=samples, rng=rng, **arrays)

    def write(self, state: State) -> None:
        """Replace the file by a complete one."""
        about = {
            "fingerprint": self.fingerprint,
            "step": state.step,
            "rng": state.rng.bit_generator.state,
        }
        arrays = {name: getattr(state, name) for name in ARRAYS}
        with replacing(self.path) as temporary, temporary.open("wb") as handle:
            np.savez(handle, about=json.dumps(about), samples=np.array(state.samples), **arrays)
