"""Where a run of dynamics stands, on disk, so that it goes on after a kill to the same bits."""

import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nemp_sim.errors import InputError
from nemp_sim.files import replacing


@dataclass
class State:
    """Where a run stands.

    Attributes:
        step: steps done.
        arrays: positions, velocities and what else the run needs, by name.
        rng: the random numbers to come.
    """

    step: int
    arrays: dict[str, np.ndarray]
    rng: np.random.Generator


class SavedState:
    """The state of one run in a file: another run does not go on from it."""

    def __init__(
        self,
        path: Path | None,
        settings: Sequence[object],
        arrays: Sequence[np.ndarray],
        cure: str = "",
    ) -> None:
        """Take what fixes the run: ``settings`` in plain values, and ``arrays``.

        ``cure`` ends the message that another run's state is refused with; the default names
        another --name and the removal of the file.
        """
        self.path = path
        self._cure = cure or f"Choose another --name, or remove {path} to start anew."
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
        try:
            with self.path.open("rb") as handle, np.load(handle, allow_pickle=False) as saved:
                about = json.loads(str(saved["about"]))
                arrays = {name: saved[name].copy() for name in about["arrays"]}
            rng = np.random.default_rng()
            rng.bit_generator.state = about["rng"]
            fingerprint, step = about["fingerprint"], int(about["step"])
        except (KeyError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            reason = f"{type(error).__name__}: {error}"
            raise InputError(
                f"{self.path}: no readable state of a run ({reason}). {self._cure}"
            ) from error
        if fingerprint != self.fingerprint:
            raise InputError(
                f"{self.path} is the state of a run with other settings, another structure or "
                f"another potential. {self._cure}"
            )
        return State(step, arrays, rng)

    def write(self, state: State) -> None:
        """Replace the file by a complete one."""
        about = {
            "fingerprint": self.fingerprint,
            "step": state.step,
            "rng": state.rng.bit_generator.state,
            "arrays": [*state.arrays],
        }
        with replacing(self.path) as temporary, temporary.open("wb") as handle:
            arrays: dict[str, Any] = state.arrays
            np.savez(handle, about=json.dumps(about), **arrays)
