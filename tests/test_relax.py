import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.optimize import FIRE, LBFGS

from nemp_sim.errors import InputError
from nemp_sim.relax import OPTIMIZERS, relax
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import fcc_slab
from tests.engines import EMTEngine

ASE_ALONE = {
    "lbfgs": lambda atoms: LBFGS(atoms, logfile=None, alpha=30.0),
    "fire": lambda atoms: FIRE(atoms, logfile=None),
}


def starts():
    slab = fcc_slab()
    other = place(fcc_slab(size=(1, 2, 3)), "H", "bridge")
    other.positions[-1] += [0.1, 0.05, 0.0]
    return [place(slab, "H", "fcc"), slab, place(slab, "H", "top"), other]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_structure_takes_the_steps_that_ase_takes_alone(name):
    start, engine = starts(), EMTEngine()
    together = relax(engine, start, 0.01, 300, optimizer=name)
    assert together.converged and (together.fmax_each_eV_per_A <= 0.01).all()
    steps = []
    for relaxed, atoms in zip(together.structures, start, strict=True):
        alone = atoms.copy()
        alone.calc = EMT()
        optimizer = ASE_ALONE[name](alone)
        optimizer.run(fmax=0.01, steps=300)
        steps.append(optimizer.nsteps)
        np.testing.assert_allclose(relaxed.positions, alone.positions, atol=1e-6)
        assert relaxed.get_potential_energy() == pytest.approx(alone.get_potential_energy())
        assert (relaxed.positions[:2] == atoms.positions[:2]).all()
        assert atoms.calc is None
    sizes = [sum(n >= call for n in steps) for call in range(max(steps) + 1)]
    assert engine.batches == sizes  # converged structures have left the batch
    assert together.optimizer_steps == max(steps) and together.model_calls == len(sizes)


def test_used_up_steps_are_no_convergence():
    seen = []
    found = relax(EMTEngine(), starts()[:2], 1e-6, 2, seen.append)
    assert not found.converged and found.optimizer_steps == 2
    assert [step.number for step in seen] == [0, 1, 2]
    assert seen[-1].fmax_eV_per_A == found.fmax_eV_per_A == found.fmax_each_eV_per_A.max()


def test_nothing_to_relax():
    assert relax(EMTEngine(), [], 0.01, 5).converged
    with pytest.raises(InputError, match="optimizer is 'cg', but must be one of lbfgs, fire"):
        relax(EMTEngine(), starts(), 0.01, 5, optimizer="cg")
