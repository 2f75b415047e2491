"""Several i-PI simulations whose beads are one engine call."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms

from nemp_sim.errors import EvaluationError, InputError
from nemp_sim.pathintegral.files import read_properties
from nemp_sim.pathintegral.input import Dynamics, prepare_start
from nemp_sim.pathintegral.restart import steps_done
from nemp_sim.pathintegral.run import Job, simulate, simulate_together
from tests.ipi_server import HarmonicEngine

pytest.importorskip("ipi", reason="i-PI is not installed")
DYNAMICS = Dynamics(beads=2, steps=20, every=1, frames_every=5, batch_size=2, fix_com=False)


def jobs(directory, **changes):
    """Two atoms in three places, each with random numbers of its own."""
    starts = [prepare_start(Atoms("H2", [[x, 0, 0], [0, 0.2, 0]])) for x in (0.1, 0.3, 0.5)]
    return [
        Job(start, replace(DYNAMICS, seed=seed, **changes), directory / str(seed))
        for seed, start in enumerate(starts, 1)
    ]


def test_simulations_in_one_batch_are_those_alone(tmp_path):
    engine, seen = HarmonicEngine(), []
    short = jobs(tmp_path, steps=8)
    assert simulate_together(engine, short[:1]) == 8  # the first is ahead, and goes on
    assert simulate_together(engine, jobs(tmp_path), show=seen.append) == 12 + 20 + 20
    assert engine.batches.count(6) >= 12 and engine.batches.count(4) >= 7  # three, then two
    assert seen[-1].step <= seen[-1].steps == 20
    for job in jobs(tmp_path / "alone"):
        simulate(HarmonicEngine(), job.start, job.dynamics, job.directory)
        together = read_properties(tmp_path / job.directory.name / "run.out")
        for name, values in read_properties(job.directory / "run.out").items():
            np.testing.assert_allclose(together[name], values, rtol=1e-6, atol=1e-7, err_msg=name)
    assert simulate_together(engine, jobs(tmp_path)) == 0  # nothing is left to do


class Fails(HarmonicEngine):
    """Forces of the last structure of one batch are not-a-number."""

    def evaluate(self, structures, **options):
        result = super().evaluate(structures, **options)
        if len(self.batches) == 12:
            result.forces[-1][0] = np.nan
        return result


def test_one_that_fails_stops_the_others_which_can_go_on(tmp_path):
    before = time.monotonic()
    with pytest.raises(EvaluationError, match="not finite .atom 0."):
        simulate_together(Fails(), jobs(tmp_path, steps=2000))
    assert time.monotonic() - before < 40
    assert [steps_done(tmp_path / name) > 0 for name in "12"] == [True, True]
    assert threading.active_count() < 10
    other = replace(jobs(tmp_path)[0], dynamics=replace(DYNAMICS, seed=9))
    with pytest.raises(InputError, match="another simulation .seed 1 → 9"):
        simulate_together(HarmonicEngine(), [*jobs(tmp_path)[1:], other])


def test_ctrl_c_stops_all_and_they_go_on(tmp_path):
    def interrupt(progress):
        if progress.step >= 5:
            raise KeyboardInterrupt

    engine = HarmonicEngine()
    with pytest.raises(KeyboardInterrupt):
        simulate_together(engine, jobs(tmp_path, steps=100_000), show=interrupt)
    reached = [steps_done(tmp_path / name) for name in "123"]
    assert min(reached) >= 5
    end = max(reached) + 3
    assert simulate_together(engine, jobs(tmp_path, steps=end)) == 3 * end - sum(reached)
    for name in "123":
        steps = read_properties(tmp_path / name / "run.out")["step"]
        np.testing.assert_array_equal(steps, np.arange(end + 1))
