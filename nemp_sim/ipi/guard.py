"""Checks of what i-PI sends: the protocol carries neither units nor elements.

The first frames are compared with the template, every later frame with the frames before it. A
wrong length unit, atoms in another order, a cell that was turned or transposed and a simulation
that exploded are refused by name instead of being answered by numbers without meaning.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np
from ase import Atoms

from nemp_sim.config import require
from nemp_sim.errors import InputError
from nemp_sim.ipi.wire import Frame
from nemp_sim.units import BOHR_ANGSTROM

FIRST_FRAME_TOLERANCE_ANGSTROM = 1.0  # beads of a light atom spread by a few 0.1 Å
LARGEST_STEP_ANGSTROM = 2.0  # between frames; the fastest atoms move 0.1 Å in a time step
CELL_TOLERANCE = 0.02  # of the longest cell vector
KEPT_FRAMES = 64  # earlier frames that a new one may continue: the beads that take turns
_UNITS = {
    "its numbers are Å that were read as Bohr (all lengths are 0.529 of the template's)": (
        BOHR_ANGSTROM
    ),
    "its numbers are Bohr that were read as Å (all lengths are 1.890 of the template's)": (
        1 / BOHR_ANGSTROM
    ),
}
_UNITS_CURE = (
    "Name the units in the comment line of i-PI's xyz file, e.g. 'positions{angstrom} "
    "cell{angstrom}', and in <file units='angstrom'>."
)


class FrameGuard:
    """Refuses frames that cannot belong to the simulation of a template.

    The first frames: no atom farther than ``tolerance_angstrom`` from its place in the template.
    Later ones: no atom has moved by more than ``max_step_angstrom`` since some frame among the last
    ones, or from the template (where a server starts again). This bounds the motion in one step,
    not the diffusion in a run; several frames are kept because beads take turns at one client.
    Distances are taken to the nearest image along the periodic axes of the template.
    """

    def __init__(
        self,
        template: Atoms,
        tolerance_angstrom: float = FIRST_FRAME_TOLERANCE_ANGSTROM,
        max_step_angstrom: float = LARGEST_STEP_ANGSTROM,
    ) -> None:
        """Remember the template.

        Raises:
            InputError: an empty template, or a tolerance that is not positive (``inf`` switches a
                check off).
        """
        require(len(template) > 0, "template", "empty", "a structure with atoms")
        require(tolerance_angstrom > 0, "tolerance_angstrom", tolerance_angstrom, "positive (Å)")
        require(max_step_angstrom > 0, "max_step_angstrom", max_step_angstrom, "positive (Å)")
        self._template = template
        self._tolerance = tolerance_angstrom
        self._max_step = max_step_angstrom
        self._kept: deque[Frame] = deque(maxlen=KEPT_FRAMES)

    def check(self, frames: Sequence[Frame]) -> None:
        """Check the frames of one request and remember them.

        Raises:
            InputError: a frame that does not belong to the simulation; the message names why.
        """
        for bead, frame in enumerate(frames):
            self._refuse_not_finite(frame, bead)
        if len(frames) > KEPT_FRAMES // 2 and (self._kept.maxlen or 0) < 2 * len(frames):
            self._kept = deque(self._kept, maxlen=2 * len(frames))
        if not self._kept:
            for bead, frame in enumerate(frames):
                self._check_cell(frame)
                self._check_positions(frame, bead)
        else:
            start = Frame(self._template.cell.array, self._template.positions)
            before = [start, *self._kept]
            for bead, frame in enumerate(frames):
                self._check_step(frame, bead, before, len(frames))
        self._kept.extend(frames)

    def _refuse_not_finite(self, frame: Frame, bead: int) -> None:
        good = np.isfinite(frame.positions).all(axis=1)
        if not good.all() or not np.isfinite(frame.cell).all():
            what = "the cell" if good.all() else f"the position of atom {int(np.argmin(good))}"
            raise InputError(
                f"i-PI sends {what} of frame {bead} as not-a-number: the simulation has exploded. "
                "Use a shorter time step, and look at the last frames of its trajectory."
            )

    def _check_cell(self, frame: Frame) -> None:
        periodic = self._template.pbc
        wanted, got = self._template.cell.array[periodic], frame.cell[periodic]
        if not periodic.any() or not np.isfinite(self._tolerance):
            return
        limit = CELL_TOLERANCE * np.linalg.norm(wanted, axis=1).max()
        if np.abs(got - wanted).max() < limit:
            return
        where = (
            f"i-PI sends the cell {got.round(3).tolist()} Å (rows), but that of the template is "
            f"{wanted.round(3).tolist()} Å."
        )
        for reason, factor in _UNITS.items():
            if np.abs(got / factor - wanted).max() < limit:
                raise InputError(f"{where} Wrong unit: {reason}. {_UNITS_CURE}")
        lengths = np.linalg.norm(got, axis=1) - np.linalg.norm(wanted, axis=1)
        if np.abs(lengths).max() < limit:
            raise InputError(
                f"{where} The lengths agree and the directions do not: i-PI wants the first vector "
                "along x and the second in the xy plane. Turn the structure (atoms and cell) with "
                "atoms.cell.standard_form() before writing both files."
            )
        raise InputError(f"{where} Use the file that i-PI starts from as the template.")

    def _check_positions(self, frame: Frame, bead: int) -> None:
        wanted = self._template.positions
        moved = self._distances(frame.positions - wanted, frame.cell)
        worst = int(moved.argmax())
        if moved[worst] <= self._tolerance:
            return
        where = (
            f"the first frame ({bead}) of i-PI has atom {worst} ({self._template.symbols[worst]}) "
            f"{moved[worst]:.2f} Å away from its place in the template, more than the tolerance of "
            f"{self._tolerance:g} Å."
        )
        for reason, factor in _UNITS.items():
            if self._distances(frame.positions / factor - wanted, frame.cell).max() < min(
                self._tolerance, 0.1 * np.ptp(wanted, axis=0).max() + 1e-6
            ):
                raise InputError(f"{where} Wrong unit: {reason}. {_UNITS_CURE}")
        place = self._nearest_places(frame)
        if len(set(place.tolist())) == len(place):
            swaps = np.flatnonzero(place != np.arange(len(place)))
            names = ", ".join(f"atom {i} sits at the place of atom {place[i]}" for i in swaps[:3])
            raise InputError(
                f"{where} Its atoms are those of the template in another order: {names} "
                f"({len(swaps)} atoms in all). The protocol carries no elements: write both files "
                "from the same structure."
            )
        raise InputError(
            f"{where} Use the frame that i-PI starts or restarts from as the template, or allow "
            "more with --tolerance-angstrom."
        )

    def _nearest_places(self, frame: Frame) -> np.ndarray:
        """(N,) the atom of the template that is nearest to each atom."""
        wanted = self._template.positions
        rows = (self._distances(wanted - r, frame.cell).argmin() for r in frame.positions)
        return np.fromiter(rows, int, len(wanted))

    def _check_step(self, frame: Frame, bead: int, before: list[Frame], n_frames: int) -> None:
        if not np.isfinite(self._max_step):
            return
        smallest, worst = np.inf, 0
        same_bead = before[bead - n_frames] if n_frames < len(before) else before[-1]
        for old in (same_bead, *reversed(before)):
            moved = self._distances(frame.positions - old.positions, frame.cell)
            if moved.max() < smallest:
                worst = int(moved.argmax())
                smallest = float(moved[worst])
            if smallest <= self._max_step:
                return
        raise InputError(
            f"atom {worst} ({self._template.symbols[worst]}) of frame {bead} moved by "
            f"{smallest:.2f} Å since the nearest of the last {len(before) - 1} frames, more than "
            f"{self._max_step:g} Å. The simulation explodes (shorter time step), i-PI wraps atoms "
            "of a molecule into the cell (write <ffsocket pbc='False'>), or frames of several "
            "systems come to this client (raise --max-step-angstrom)."
        )

    def _distances(self, vectors: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """(N,) lengths of (N, 3) vectors, less whole cell vectors along periodic axes."""
        if self._template.pbc.any():
            fractions = vectors @ np.linalg.inv(cell)
            vectors = vectors - (np.round(fractions) * self._template.pbc) @ cell
        return np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
