"""Independent jobs whose engine calls become one call: several bands in one batch."""

from collections.abc import Callable, Sequence
from threading import Condition, Thread
from typing import TypeVar

from ase import Atoms

from nemp_sim.potential import Evaluation
from nemp_sim.relax import Engine

Result = TypeVar("Result")


class _Meeting:
    """Collects the request of every job that still runs, evaluates them all, hands out."""

    def __init__(self, engine: Engine, n_jobs: int) -> None:
        self._engine = engine
        self._running = n_jobs
        self._requests: dict[int, list[Atoms]] = {}
        self._answers: dict[int, Evaluation | BaseException] = {}
        self._condition = Condition()

    def evaluate(self, job: int, structures: Sequence[Atoms]) -> Evaluation:
        with self._condition:
            self._requests[job] = list(structures)
            self._answer_if_complete()
            self._condition.wait_for(lambda: job in self._answers)
            answer = self._answers.pop(job)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def leave(self) -> None:
        with self._condition:
            self._running -= 1
            self._answer_if_complete()

    def _answer_if_complete(self) -> None:
        if not self._requests or len(self._requests) < self._running:
            return
        jobs = sorted(self._requests)
        every = [atoms for job in jobs for atoms in self._requests[job]]
        try:
            result = self._engine.evaluate(every)
        except BaseException as error:  # each job raises it in its own thread
            self._answers |= dict.fromkeys(jobs, error)
        else:
            start = 0
            for job in jobs:
                stop = start + len(self._requests[job])
                self._answers[job] = _Part(result.energy[start:stop], result.forces[start:stop])
                start = stop
        self._requests.clear()
        self._condition.notify_all()


class _Part:
    """Energies and forces of the structures of one job."""

    def __init__(self, energy: object, forces: object) -> None:
        self.energy = energy
        self.forces = forces


class _Share:
    """The engine as one job sees it."""

    def __init__(self, meeting: _Meeting, job: int) -> None:
        self._meeting = meeting
        self._job = job

    def evaluate(self, structures: Sequence[Atoms]) -> Evaluation:
        return self._meeting.evaluate(self._job, structures)


def run_together(engine: Engine, jobs: Sequence[Callable[[Engine], Result]]) -> list[Result]:
    """Run jobs side by side; their requests wait for one another and become one engine call.

    A job that has finished is not waited for. Each job runs in a thread of its own, but the engine
    is called by one thread at a time.

    Args:
        engine: evaluates the structures of all jobs at once.
        jobs: functions of an engine, such as ``lambda e: run_neb(e, initial, final)``.

    Raises:
        BaseException: the first error of a job, after all have ended.
    """
    meeting = _Meeting(engine, len(jobs))
    results: list = [None] * len(jobs)
    errors: dict[int, BaseException] = {}

    def work(index: int) -> None:
        try:
            results[index] = jobs[index](_Share(meeting, index))
        except BaseException as error:
            errors[index] = error
        finally:
            meeting.leave()

    threads = [Thread(target=work, args=(index,)) for index in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[min(errors)]
    return results
