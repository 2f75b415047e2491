"""Model calls of one NEB job: our batched band against ASE's own NEB, same solver, same fmax.

python benchmarks/neb_calls.py                  H from fcc to hcp on Pd(111) with pdh.pt
python benchmarks/neb_calls.py --potential emt  the same job with ASE's effective-medium theory

Both ends are relaxed once, before the clock starts. ASE's bands are driven by the solver and the
two stages of nemp_sim.reactions.neb, so that only the way of evaluating the images differs.
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.mep import NEB
from ase.optimize.ode import ode12r

from nemp_sim.checkpoint import load_potential
from nemp_sim.potential import Evaluation
from nemp_sim.reactions.ends import first_path
from nemp_sim.reactions.neb import CLIMB_BELOW_FMAX, BandSettings, run_neb
from nemp_sim.relax import Engine, largest_force, relax
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import fcc_slab


class Counted:
    """An engine that counts its calls and the structures in them."""

    def __init__(self, engine: Engine) -> None:
        """Start at zero."""
        self.engine = engine
        self.calls = 0
        self.structures = 0

    def evaluate(self, structures: list[Atoms]) -> Evaluation:
        """Pass on to the engine."""
        self.calls += 1
        self.structures += len(structures)
        return self.engine.evaluate(structures)


class EMTEngine:
    """ASE's effective-medium theory as an engine."""

    def evaluate(self, structures: list[Atoms]) -> Evaluation:
        """One structure after the other."""
        done = [atoms.copy() for atoms in structures]
        for atoms in done:
            atoms.set_constraint()
            atoms.calc = EMT()
        energy = np.array([atoms.get_potential_energy() for atoms in done])
        return Evaluation(energy, (), tuple(atoms.get_forces() for atoms in done), None)


class OneByOne(Calculator):
    """An ASE calculator that asks an engine for one structure."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, engine: Engine) -> None:
        """Keep the engine."""
        super().__init__()
        self.engine = engine

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: tuple[str, ...] = ("energy",),
        system_changes: tuple[str, ...] = all_changes,
    ) -> None:
        """One call for one structure."""
        super().calculate(atoms, properties, system_changes)
        result = self.engine.evaluate([self.atoms])
        self.results = {"energy": float(result.energy[0]), "forces": result.forces[0]}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: way of evaluating the images.
        calls: model calls.
        structures: structures evaluated.
        seconds: wall time, s.
        barrier_eV: highest image minus the initial state.
    """

    name: str
    calls: int
    structures: int
    seconds: float
    barrier_eV: float

    def __str__(self) -> str:
        """The line."""
        return (
            f"{self.name:34s} {self.calls:8d} {self.structures:10d} {self.seconds:9.2f} "
            f"{self.barrier_eV:12.4f}"
        )


def ours(engine: Engine, ends: tuple[Atoms, Atoms], settings: BandSettings) -> Row:
    """Our band: one call for both ends, then one for all moving images at each geometry."""
    start = time.perf_counter()
    result = run_neb(engine, *ends, settings)
    seconds = time.perf_counter() - start
    structures = 2 + settings.n_images * (result.model_calls - 1)
    barrier = result.barrier_forward_eV
    return Row("nemp_sim, batched", result.model_calls, structures, seconds, barrier)


def ase(engine: Engine, ends: tuple[Atoms, Atoms], settings: BandSettings, shared: bool) -> Row:
    """ASE's NEB with one calculator for each image, or one for all."""
    counted, start = Counted(engine), time.perf_counter()
    images = first_path(*ends, settings.n_images)
    common = OneByOne(counted)
    for image in images:
        image.calc = common if shared else OneByOne(counted)
    neb = NEB(
        images,
        k=settings.spring_eV_per_A2,
        method="improvedtangent",
        allow_shared_calculator=shared,
    )

    def forces(x: np.ndarray) -> np.ndarray:
        neb.set_positions(x.reshape(-1, 3))
        return neb.get_forces().ravel()

    for neb.climb, fmax in ((False, CLIMB_BELOW_FMAX), (True, 1.0)):
        ode12r(
            forces,
            neb.get_positions().ravel(),
            fmax=fmax * settings.fmax_eV_per_A,
            steps=settings.steps,
            verbose=0,
            maxtol=np.inf,
            callback=lambda x: None,
            residual=lambda f, x: largest_force(f.reshape(-1, 3)),
        )
    seconds = time.perf_counter() - start
    name = "ASE, one calculator for all" if shared else "ASE, one calculator for each image"
    barrier = neb.energies.max() - neb.energies[0]
    return Row(name, counted.calls, counted.structures, seconds, barrier)


def main() -> None:
    """Run the three and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--potential", default="pdh.pt", help="path, name, or 'emt'")
    parser.add_argument("--images", type=int, default=7, help="moving images")
    parser.add_argument("--fmax", type=float, default=0.02, help="eV/Å")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    options = parser.parse_args()
    named = options.potential != "emt"
    engine = load_potential(options.potential, options.device) if named else EMTEngine()
    slab = fcc_slab()
    start = [place(slab, "H", "fcc"), place(slab, "H", "hcp")]
    ends = relax(engine, start, options.fmax, 500).structures
    settings = BandSettings(options.images, options.fmax)
    where = f"{options.potential} on {engine.device}" if named else "EMT"
    print(f"H from fcc to hcp on Pd(111), {where}, {options.images} images, {options.fmax} eV/Å")
    print(f"{'':34s} {'calls':>8s} {'structures':>10s} {'seconds':>9s} {'barrier (eV)':>12s}")
    print(ours(engine, ends, settings))
    for shared in (False, True):
        print(ase(engine, ends, settings, shared))


if __name__ == "__main__":
    main()
