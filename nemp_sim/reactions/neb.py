"""Nudged elastic band in which every optimiser step is one batched model call over all images.

The forces on the band are ASE's (``ase.mep.NEB``, method "improvedtangent"):

    F_i = F_i^⊥ + k (|R_{i+1} − R_i| − |R_i − R_{i−1}|) τ̂_i,     F_i^⊥ = F_i − (F_i·τ̂_i) τ̂_i,

and F_i − 2 (F_i·τ̂_i) τ̂_i for the climbing image. Sources: G. Henkelman and H. Jónsson, J. Chem.
Phys. 113, 9978 (2000), 10.1063/1.1323224; G. Henkelman, B. P. Uberuaga and H. Jónsson, J. Chem.
Phys. 113, 9901 (2000), 10.1063/1.1329672. The first path follows the image-dependent pair
potential: S. Smidstrup et al., J. Chem. Phys. 140, 214106 (2014), 10.1063/1.4878664.

What is added here: one call for all images, ends relaxed together and then frozen, ends that do not
belong together refused, and a result with its units.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.mep import NEB
from ase.optimize.ode import ode12r
from ase.optimize.sciopt import OptimizerConvergenceError
from ase.utils.forcecurve import fit_images

from nemp_sim.config import require
from nemp_sim.reactions.ends import check_ends, first_path, follow
from nemp_sim.relax import CountedCalls, Engine, Step, largest_force, snapshot
from nemp_sim.structures import bare

CLIMB_BELOW_FMAX = 5.0  # the highest image climbs once the forces are below this many fmax
RESOLVED = 0.2  # of the height of the path: largest step of energy beside the highest image
LOCAL_MINIMUM_EV = 0.005  # a dip of the path that deserves a remark


@dataclass(frozen=True)
class BandSettings:
    """What fixes a nudged-elastic-band run beside its ends.

    Attributes:
        n_images: moving images between the two ends, 1 or more.
        fmax_eV_per_A: the run is converged when no atom of any image feels a larger force.
        steps: most optimiser steps, of both stages together.
        spring_eV_per_A2: spring constant between neighbouring images.
        climb: let the highest image climb onto the saddle once the band has settled.
        max_images: images are added beside the highest until there are this many or the energy is
            resolved there; None keeps ``n_images``.
    """

    n_images: int = 7
    fmax_eV_per_A: float = 0.02
    steps: int = 500
    spring_eV_per_A2: float = 0.1
    climb: bool = True
    max_images: int | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        require(self.n_images >= 1, "images", self.n_images, "1 or more moving images")
        require(self.fmax_eV_per_A > 0, "fmax", self.fmax_eV_per_A, "positive (eV/Å)")
        require(self.steps >= 1, "steps", self.steps, "1 or more")
        most = self.n_images if self.max_images is None else self.max_images
        require(most >= self.n_images, "max_images", most, f"at least images ({self.n_images})")
        require(self.spring_eV_per_A2 > 0, "spring", self.spring_eV_per_A2, "positive (eV/Å²)")


@dataclass(frozen=True)
class NEBResult:
    """A band of n images, the two ends included, from the initial to the final state.

    Attributes:
        images: with energy and forces attached; no atom jumps by a lattice vector on the way.
        path_length_A: (n,) distance along the path up to each image, minimum image.
        energies_eV: (n,) energy of each image.
        spline_path_A: (m,) fine grid of the distance along the path.
        spline_energies_eV: (m,) energy above the initial state: cubic Hermite spline through the
            images with the force along the path as its slope.
        saddle_index: the highest image.
        barrier_forward_eV: highest image minus initial state.
        barrier_reverse_eV: highest image minus final state.
        reaction_energy_eV: final minus initial state.
        spline_barrier_eV: highest point of the spline minus initial state.
        fmax_eV_per_A: largest force of the band on an atom.
        converged: whether that is below the wanted one, with the climbing image if asked for.
        climbing: whether the highest image climbs.
        optimizer_steps: steps of the optimiser, both stages together.
        model_calls: engine calls: one for both ends, one for the first band, one for each step.
    """

    images: tuple[Atoms, ...]
    path_length_A: np.ndarray
    energies_eV: np.ndarray
    spline_path_A: np.ndarray
    spline_energies_eV: np.ndarray
    saddle_index: int
    barrier_forward_eV: float
    barrier_reverse_eV: float
    reaction_energy_eV: float
    spline_barrier_eV: float
    fmax_eV_per_A: float
    converged: bool
    climbing: bool
    optimizer_steps: int
    model_calls: int

    @property
    def highest_end(self) -> str:
        """Which end is the highest image: "initial", "final", or "" where one between them is."""
        return {0: "initial", len(self.images) - 1: "final"}.get(self.saddle_index, "")

    @property
    def has_saddle(self) -> bool:
        """Whether the highest image lies between the ends."""
        return not self.highest_end


class BatchedNEB(NEB):
    """ASE's NEB with the results of all moving images filled by one engine call per geometry.

    Attributes:
        fmax: largest force of the band on an atom at the present geometry, eV/Å.
        geometries: geometries evaluated so far.
    """

    def __init__(self, images: list[Atoms], calls: CountedCalls, spring_eV_per_A2: float) -> None:
        """Take a band whose two ends carry their results already."""
        super().__init__(images, k=spring_eV_per_A2, method="improvedtangent")
        self.fmax = np.inf
        self.geometries = 0
        self._calls = calls
        self._filled_at: np.ndarray | None = None

    def get_forces(self) -> np.ndarray:
        """Forces of the band on the moving images, ((n − 2) · N, 3), eV/Å."""
        positions = self.get_positions()
        if self._filled_at is None or not np.array_equal(positions, self._filled_at):
            self._calls.fill(self.images[1:-1])
            self.geometries += 1
            self._filled_at = positions
        forces = super().get_forces()
        self.fmax = largest_force(forces)
        return forces

    def go_back(self, images: Sequence[Atoms]) -> None:
        """Take geometry and results of an earlier state of the band, without a call."""
        for mine, earlier in zip(self.images[1:-1], images[1:-1], strict=True):
            mine.set_positions(earlier.positions, apply_constraint=False)
            mine.calc = earlier.calc
        self._filled_at = self.get_positions()
        self.get_forces()


def run_neb(
    engine: Engine,
    initial: Atoms,
    final: Atoms,
    settings: BandSettings | None = None,
    on_step: Callable[[Step], None] | None = None,
    path: Sequence[Atoms] | None = None,
) -> NEBResult:
    """Nudged elastic band between two given ends, which stay as they are.

    Two stages: the plain band until its forces are below ``CLIMB_BELOW_FMAX`` · fmax, then the
    climbing image. The number of engine calls is 2 + optimiser steps.

    Args:
        engine: evaluates all moving images at once.
        initial: relaxed initial state, with its constraints.
        final: relaxed final state: the same atoms in the same order, cell and constraints.
        settings: images, convergence and springs.
        on_step: called after each optimiser step.
        path: moving images to start from, such as those of an earlier run; None: IDPP. Their number
            then counts, not that of the settings.

    Raises:
        InputError: ends that do not belong together, or a path of other atoms.
        EvaluationError: energies or forces that are not finite.
    """
    settings = settings or BandSettings()
    check_ends(initial, final)
    images = first_path(initial, final, settings.n_images if path is None else len(path))
    if path is not None:
        follow(images, path)
    calls = CountedCalls(engine)
    calls.fill([images[0], images[-1]])
    neb = BatchedNEB(images, calls, settings.spring_eV_per_A2)
    while (added := _beside_the_top(neb, settings, on_step)) is not None:
        earlier, neb = neb, BatchedNEB(added, calls, settings.spring_eV_per_A2)
        neb.geometries = earlier.geometries
    converged = _optimise(neb, settings, on_step)
    return _result(neb, converged, calls.count)


def _beside_the_top(
    neb: BatchedNEB, settings: BandSettings, on_step: Callable[[Step], None] | None
) -> list[Atoms] | None:
    """The settled band with an image more on each side of its top; None where none is wanted."""
    room = (settings.max_images or 0) - (len(neb.images) - 2)
    if room <= 0:
        return None
    settled = CLIMB_BELOW_FMAX * settings.fmax_eV_per_A
    neb.get_forces()
    if not _descend(neb, settled, settings.steps - (neb.geometries - 1), on_step):
        return None
    energies = np.array([image.get_potential_energy() for image in neb.images])
    top = int(energies.argmax())
    jumps = np.abs(np.diff(energies))
    wanted = [i for i in (top - 1, top) if 0 <= i < len(jumps)]
    wanted = [i for i in wanted if jumps[i] > RESOLVED * np.ptp(energies)]
    images = list(neb.images)
    for i in sorted(wanted, key=lambda i: -jumps[i])[:room]:
        place = images.index(neb.images[i]) + 1
        middle = bare(neb.images[i])
        step = 0.5 * (neb.images[i + 1].positions - neb.images[i].positions)
        middle.set_positions(neb.images[i].positions + step, apply_constraint=False)
        images.insert(place, middle)
    return images if len(images) > len(neb.images) else None


def _optimise(
    neb: BatchedNEB, settings: BandSettings, on_step: Callable[[Step], None] | None
) -> bool:
    """Run the stages; whether the last one converged."""
    stages = [(False, settings.fmax_eV_per_A)]
    if settings.climb:
        stages = [(False, CLIMB_BELOW_FMAX * settings.fmax_eV_per_A), (True, stages[0][1])]
    for neb.climb, fmax in stages:
        neb.get_forces()
        if not _descend(neb, fmax, settings.steps - (neb.geometries - 1), on_step):
            return False
    return True


def _descend(
    neb: BatchedNEB, fmax: float, steps: int, on_step: Callable[[Step], None] | None
) -> bool:
    """Follow the forces of the band until none is above ``fmax``; whether that was reached.

    The solver is the adaptive ode12r (S. Makri, C. Ortner and J. R. Kermode, J. Chem. Phys. 150,
    094109 (2019), 10.1063/1.5064465), which follows the forces without the curvature that
    quasi-Newton methods read from them: the forces of a band are no gradient. A trial step that
    it rejects counts as a step. Model calls to 0.02 eV/Å with seven images, measured for Au on
    Al(100) with EMT, H from fcc to hcp on Pd(111) with pdh.pt, a diatomic with a bond of 120 eV/Å²
    on a corrugated plane, and the Müller-Brown path with two saddles:

        ode12r                                     16, 16, 50, 21
        FIRE                                       46, 40, 85, 75
        MDMin                                      17, 18, diverges, 23
        LBFGS (BFGS takes nearly the same steps)   33, 26, 57, diverges
        LBFGS, initial curvature 30 eV/Å²          20, 19, 42, 75 (to 0.01 eV/Å: diverges)

    ``ase.mep.neb.NEBOptimizer`` wraps the same solver, but leaves the climbing image out of its
    test of convergence and reports success when its steps are used up. The solver's only error,
    a vanishing step, ends the run unconverged like used-up steps.
    """
    accepted = snapshot(neb.images)

    def forces(x: np.ndarray) -> np.ndarray:
        neb.set_positions(x.reshape(-1, 3))
        return neb.get_forces().ravel()

    def accept(x: np.ndarray) -> None:
        nonlocal accepted
        accepted = snapshot(neb.images)
        if on_step:
            on_step(_step(neb, accepted))

    if on_step:
        on_step(_step(neb, accepted))
    with suppress(OptimizerConvergenceError), np.errstate(divide="ignore"):
        ode12r(
            forces,
            neb.get_positions().ravel(),
            fmax=fmax,
            steps=steps,
            verbose=0,
            maxtol=np.inf,
            callback=accept,
            residual=lambda f, x: largest_force(f.reshape(-1, 3)),
        )
    neb.go_back(accepted)
    return neb.fmax <= fmax


def _step(neb: BatchedNEB, images: tuple[Atoms, ...]) -> Step:
    energies = np.asarray(neb.energies)
    barrier = energies.max() - energies[0]
    stage = "climbing" if neb.climb else "band"
    return Step(stage, neb.geometries - 1, neb.fmax, float(barrier), images)


def _result(neb: BatchedNEB, converged: bool, model_calls: int) -> NEBResult:
    images = tuple(neb.images)
    energies = np.array([image.get_potential_energy() for image in images])
    fit = fit_images(images)
    saddle = int(energies.argmax())
    return NEBResult(
        images=images,
        path_length_A=np.array(fit.path),
        energies_eV=energies,
        spline_path_A=fit.fit_path,
        spline_energies_eV=fit.fit_energies,
        saddle_index=saddle,
        barrier_forward_eV=float(energies[saddle] - energies[0]),
        barrier_reverse_eV=float(energies[saddle] - energies[-1]),
        reaction_energy_eV=float(energies[-1] - energies[0]),
        spline_barrier_eV=float(fit.fit_energies.max()),
        fmax_eV_per_A=neb.fmax,
        converged=converged,
        climbing=neb.climb,
        optimizer_steps=neb.geometries - 1,
        model_calls=model_calls,
    )


def minima_on_the_way(energies_eV: np.ndarray) -> list[int]:
    """Images between the ends that are local minima deeper than ``LOCAL_MINIMUM_EV``."""
    found = []
    for i in range(1, len(energies_eV) - 1):
        depth = min(energies_eV[:i].max(), energies_eV[i + 1 :].max()) - energies_eV[i]
        lower = energies_eV[i] < min(energies_eV[i - 1], energies_eV[i + 1])
        if lower and depth > LOCAL_MINIMUM_EV:
            found.append(i)
    return found


def remarks(result: NEBResult) -> list[str]:
    """What a reader of the barrier must know: no saddle between the ends, minima on the way."""
    energies = result.energies_eV - result.energies_eV[0]
    found = []
    if not result.has_saddle:
        found.append(
            f"The {result.highest_end} state is the highest image: the path has no saddle, and the "
            "'barrier' is only the difference of the two ends."
        )
    for i in minima_on_the_way(energies):
        found.append(
            f"Image {i} is a minimum on the way, {energies[i]:+.3f} eV from the initial state: the "
            "path has several steps. Run it with --split for a barrier of each."
        )
    return found
