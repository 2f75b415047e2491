"""The i-PI client: all beads of a request are evaluated in one engine call.

    server = Server("unix", "pimd", prefix="/home/me/run/sockets/")
    run_client(BeadEvaluator(potential, template), server, deadline_s=60)

``run_client`` returns when the server says EXIT; whatever is wrong closes the connection with an
error, so that the server gives the work to another client, and never gets a number that means
nothing.
"""

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from nemp_sim.config import require
from nemp_sim.errors import EvaluationError, InputError, IPIProtocolError, ServerGoneError
from nemp_sim.evaluation import Evaluation, has_stress
from nemp_sim.ipi.guard import (
    FIRST_FRAME_TOLERANCE_ANGSTROM,
    LARGEST_STEP_ANGSTROM,
    FrameGuard,
)
from nemp_sim.ipi.server import Server
from nemp_sim.ipi.wire import Frame, Reply, Wire, reply_in_atomic_units
from nemp_sim.neighbors import NeighborLists
from nemp_sim.units import HARTREE_EV

SKIN_ANGSTROM = 0.5
Extras = Callable[[Evaluation, int], dict[str, Any]]

logger = logging.getLogger(__name__)


class BeadEngine(Protocol):
    """What evaluates beads: a Potential, or anything with these members."""

    @property
    def cutoff_angstrom(self) -> float:
        """Neighbour cutoff, Å."""

    def evaluate(
        self,
        structures: Sequence[Atoms],
        forces: bool = True,
        stress: bool = False,
        neighbors: NeighborLists | None = None,
        uncertainty: bool = False,
    ) -> Evaluation:
        """Energies in eV, forces in eV/Å and stresses in eV/Å³ of all structures."""


def uncertainty_extras(evaluation: Evaluation, index: int) -> dict[str, Any]:
    """What an ensemble read-out says of structure ``index``; empty without one.

    ``energy_std_eV`` is the calibrated standard deviation of the energy. ``committee_pot``, the
    energy of each member in Hartree, is what i-PI's ``<ffcommittee>`` reads with parse_json; its
    mean is the energy.
    """
    extras: dict[str, Any] = {}
    if evaluation.energy_std is not None:
        extras["energy_std_eV"] = float(evaluation.energy_std[index])
    if evaluation.energy_members is not None:
        extras["committee_pot"] = (evaluation.energy_members[index] / HARTREE_EV).tolist()
    return extras


def committee_extras(evaluation: Evaluation, index: int, atoms: Atoms) -> dict[str, Any]:
    """Forces (3N each) and virials (3, 3) of the members of the ensemble, in atomic units."""
    forces = evaluation.forces_members[index]
    virials = np.zeros((len(forces), 3, 3))
    if evaluation.stress_members is not None:
        members = evaluation.stress_members[index]
        stresses = np.array([voigt_6_to_full_3x3_stress(s) for s in members])
        virials = -atoms.get_volume() * stresses
    in_atomic_units = [
        reply_in_atomic_units(Reply(0.0, f, v)) for f, v in zip(forces, virials, strict=True)
    ]
    return {
        "committee_force": [f.ravel().tolist() for _, f, _ in in_atomic_units],
        "committee_virial": [v.tolist() for *_, v in in_atomic_units],
    }


class BeadEvaluator:
    """Frames in, replies out: one engine call for all frames of a request.

    Elements, order and periodic axes are those of the template; cells and positions those of the
    frames. Neighbour lists are kept for each place in the batch.
    """

    def __init__(
        self,
        engine: BeadEngine,
        template: Atoms,
        *,
        tolerance_angstrom: float = FIRST_FRAME_TOLERANCE_ANGSTROM,
        max_step_angstrom: float = LARGEST_STEP_ANGSTROM,
        extras: Extras = uncertainty_extras,
        committee_forces: bool = False,
    ) -> None:
        """Take the engine and the structure whose beads will come.

        Args:
            engine: evaluates the structures.
            template: elements in the order of i-PI's file, periodic axes, first positions (Å).
            tolerance_angstrom: farthest that an atom of the first frames may be from the template.
            max_step_angstrom: farthest that an atom may move between frames; ``inf``: no limit.
            extras: what to tell i-PI beside the numbers, as JSON; never under the key "raw".
            committee_forces: also tell forces and virials of the members of the ensemble read-out;
                costs a backward pass for each of them.

        Raises:
            InputError: an empty template, a tolerance that is not positive, or forces of members of
                an engine without any.
        """
        n_members = getattr(engine, "n_members", 0)
        wanted = "left out: the potential has no ensemble read-out"
        require(bool(n_members) or not committee_forces, "committee_forces", True, wanted)
        self._options = {"uncertainty": True} if committee_forces else {}
        self._engine = engine
        self._template = Atoms(
            template.numbers, template.positions, cell=template.cell, pbc=template.pbc
        )
        self._guard = FrameGuard(self._template, tolerance_angstrom, max_step_angstrom)
        self._neighbors = NeighborLists(engine.cutoff_angstrom, SKIN_ANGSTROM)
        self._extras = extras

    @property
    def n_atoms(self) -> int:
        """Atoms of one bead."""
        return len(self._template)

    def warm_up(self) -> None:
        """Evaluate the template, so that what is wrong with it shows before the server waits.

        Raises:
            NempError: whatever the engine refuses.
        """
        atoms = self._template
        self._engine.evaluate([atoms], forces=True, stress=has_stress(atoms))

    def evaluate(self, frames: Sequence[Frame]) -> list[Reply]:
        """Replies to all frames, in their order.

        i-PI fills an incomplete batch with copies of its last frame; those are evaluated once.

        Raises:
            InputError: frames that do not belong to the template, or extras that i-PI refuses.
            EvaluationError: results that are not finite or do not fit the memory.
        """
        self._guard.check(frames)
        distinct = list(frames)
        while len(distinct) > 1 and _same(distinct[-1], distinct[-2]):
            distinct.pop()
        beads = [
            Atoms(self._template.numbers, f.positions, cell=f.cell, pbc=self._template.pbc)
            for f in distinct
        ]
        stress = has_stress(beads[0])
        result = self._engine.evaluate(
            beads, forces=True, stress=stress, neighbors=self._neighbors, **self._options
        )
        replies = [self._reply(result, k, beads[k], stress) for k in range(len(beads))]
        return replies + replies[-1:] * (len(frames) - len(distinct))

    def _reply(self, result: Evaluation, index: int, atoms: Atoms, stress: bool) -> Reply:
        energy, forces = float(result.energy[index]), np.asarray(result.forces[index])
        virial = np.zeros((3, 3))
        if stress:
            virial = -atoms.get_volume() * voigt_6_to_full_3x3_stress(result.stress[index])
        finite = np.isfinite(forces).all(axis=1)
        if not finite.all() or not np.isfinite(energy) or not np.isfinite(virial).all():
            raise EvaluationError(
                f"frame {index} ({atoms.get_chemical_formula()}): energy, forces or virial are not "
                f"finite{'' if finite.all() else f' (atom {int(np.argmin(finite))})'}; nothing is "
                "sent to i-PI. Look for overlapping atoms in its last frames."
            )
        if forces.shape != atoms.positions.shape:
            raise EvaluationError(
                f"frame {index}: the engine gave forces of shape {forces.shape}, but "
                f"{atoms.positions.shape} is wanted. Check the engine."
            )
        extras = self._extras(result, index)
        if self._options:
            extras |= committee_extras(result, index, atoms)
        if "raw" in extras:
            raise InputError("the extras have the key 'raw', which i-PI refuses. Rename it.")
        text = json.dumps(extras, ensure_ascii=False) if extras else ""
        return Reply(energy, forces, virial, text)


def _same(first: Frame, second: Frame) -> bool:
    return np.array_equal(first.positions, second.positions) and np.array_equal(
        first.cell, second.cell
    )


class IPIClient:
    """Answers the messages of one server until it says EXIT.

    Attributes:
        n_requests: requests answered.
        n_frames: frames answered.
        batch_size: frames of one request, as announced by the server.
    """

    def __init__(self, evaluator: BeadEvaluator) -> None:
        """Take what evaluates the frames."""
        self._evaluator = evaluator
        self.n_requests = 0
        self.n_frames = 0
        self.batch_size = 1

    def serve(self, wire: Wire) -> None:
        """Answer until EXIT, and close the connection in any case.

        The frames are evaluated when the message after POSDATA has been read: i-PI 3.3 sends
        GETFORCE right behind, and a client that is killed with unread bytes makes the connection
        reset, at which i-PI's polling thread ends and the simulation hangs.

        Raises:
            ServerGoneError: the connection ended without EXIT.
            IPIProtocolError: the server broke the protocol.
            InputError: frames that do not belong to the template.
            EvaluationError: results that must not be sent.
        """
        initialised, frames = False, list[Frame]()
        replies: list[Reply] = []
        self.batch_size = 1
        try:
            while (header := wire.receive_header()) != "EXIT":
                if frames and header in ("STATUS", "GETFORCE"):
                    frames, replies = [], self._evaluator.evaluate(frames)
                if header == "STATUS":
                    ready = "HAVEDATA" if replies else "READY"
                    wire.send_status(ready if initialised else "NEEDINIT")
                elif header == "INIT":
                    bead, parameters = wire.receive_init()
                    self.batch_size, initialised = batch_size(parameters), True
                    logger.info("INIT for bead %d: %d frames a request", bead, self.batch_size)
                elif header == "POSDATA":
                    frames = wire.receive_positions(self.batch_size, self._evaluator.n_atoms)
                else:
                    _require_data(replies)
                    wire.send_forces(replies)
                    self.n_requests += 1
                    self.n_frames += len(replies)
                    replies = []
        finally:
            wire.close()


def run_client(
    evaluator: BeadEvaluator, server: Server, deadline_s: float = 60.0, *, reconnect: bool = False
) -> IPIClient:
    """Serve ``server`` until it says EXIT.

    Args:
        evaluator: evaluates the frames.
        server: where i-PI listens.
        deadline_s: longest wait for a server, s.
        reconnect: wait for a new server where one goes away without EXIT.

    Raises:
        ServerGoneError: no server until the deadline, or it went away without EXIT.
        NempError: as ``IPIClient.serve``, and whatever the engine refuses of the template.
    """
    evaluator.warm_up()
    client = IPIClient(evaluator)
    while True:
        wire = server.connect(deadline_s)
        try:
            client.serve(wire)
            return client
        except ServerGoneError as error:
            if not reconnect:
                raise
            logger.warning("%s Waiting for a new server for %g s.", error, deadline_s)


def batch_size(parameters: str) -> int:
    """Frames of one request, from the parameter string of INIT ("…, batch_size:16"); or 1.

    Raises:
        IPIProtocolError: a batch size that is not a positive whole number.
    """
    size = 1
    for token in parameters.split(","):
        name, _, value = token.partition(":")
        if name.strip() != "batch_size":
            continue
        if not value.strip().isdecimal() or int(value) < 1:
            raise IPIProtocolError(
                f"the server announces batch_size {value.strip()!r}, but it must be a positive "
                "whole number. Correct batch_size of <ffsocket>."
            )
        size = int(value)
    return size


def _require_data(replies: list[Reply]) -> None:
    if not replies:
        raise IPIProtocolError(
            "the server sent GETFORCE before POSDATA. Is another program talking to this socket?"
        )
