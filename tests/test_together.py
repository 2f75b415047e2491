import numpy as np
import pytest

from nemp_sim.errors import EvaluationError
from nemp_sim.neighbors import NeighborLists
from nemp_sim.reactions.neb import BandSettings, run_neb
from nemp_sim.relax import relax
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import fcc_slab
from nemp_sim.together import run_together
from tests.engines import EMTEngine


@pytest.fixture(scope="module")
def ends():
    slab = fcc_slab()
    start = [place(slab, "H", site) for site in ("fcc", "hcp")]
    return relax(EMTEngine(), start, 0.01, 200).structures


def test_bands_in_one_batch_are_the_bands_alone(ends):
    settings = [BandSettings(3), BandSettings(5)]
    alone = [run_neb(EMTEngine(), *ends, s) for s in settings]
    engine = EMTEngine()
    jobs = [lambda e, s=s: run_neb(e, *ends, s) for s in settings]
    together = run_together(engine, jobs)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.energies_eV, other.energies_eV)
        assert one.model_calls == other.model_calls
    assert engine.batches[:2] == [4, 8]
    assert len(engine.batches) == max(band.model_calls for band in alone)


def test_an_error_ends_every_job(ends):
    class Broken(EMTEngine):
        def evaluate(self, structures):
            if len(self.batches) == 2:
                raise EvaluationError("out of memory")
            return super().evaluate(structures)

    jobs = [lambda e: run_neb(e, *ends, BandSettings(3))] * 2
    with pytest.raises(EvaluationError, match="out of memory"):
        run_together(Broken(), jobs)


def test_a_job_that_fails_alone_does_not_hold_up_the_others(ends):
    finished = []

    def good(engine):
        finished.append(run_neb(engine, *ends, BandSettings(3)).converged)

    def bad(engine):
        engine.evaluate(list(ends))
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        run_together(EMTEngine(), [bad, good])
    assert finished == [True]


def test_each_job_keeps_its_neighbour_lists_and_gets_its_stresses(random_potential):
    potential = random_potential("smooth")
    kept = [NeighborLists(potential.cutoff_angstrom, 0.5) for _ in range(2)]
    slabs = [place(fcc_slab(), "H", "fcc"), place(fcc_slab(), "H", "hcp"), fcc_slab()]
    for atoms in slabs:
        atoms.rattle(0.02, seed=1)

    def job(engine, mine, lists):
        assert engine.cutoff_angstrom == potential.cutoff_angstrom
        for _ in range(2):
            found = engine.evaluate(mine, forces=True, stress=True, neighbors=lists)
        return found

    parts = slabs[:2], slabs[2:]
    found = run_together(
        potential, [lambda e, i=i: job(e, parts[i], kept[i]) for i in range(len(parts))]
    )
    assert [lists.n_builds for lists in kept] == [2, 1]
    for mine, part in zip(parts, found, strict=True):
        alone = potential.evaluate(mine, stress=True)
        np.testing.assert_allclose(part.energy, alone.energy, rtol=1e-12)
        np.testing.assert_allclose(part.stress, alone.stress, atol=1e-12)
        for one, other in zip(part.forces, alone.forces, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-10)


def test_jobs_that_want_different_things_get_them(random_potential):
    potential, slab = random_potential("smooth"), fcc_slab()
    jobs = [lambda e: e.evaluate([slab], stress=True), lambda e: e.evaluate([slab], forces=False)]
    first, second = run_together(potential, jobs)
    assert first.stress.shape == (1, 6) and first.forces is not None
    assert second.stress is None and second.forces is None
