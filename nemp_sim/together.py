"""Independent jobs whose engine calls become one call: several bands, several simulations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Any, TypeVar

from ase import Atoms

from nemp_sim.evaluation import Evaluation
from nemp_sim.neighbors import EdgeList, NeighborLists
from nemp_sim.relax import Engine

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Request:
    """Structures of one job, its neighbour lists, and what it wants of them."""

    structures: list[Atoms]
    neighbors: NeighborLists | None
    wanted: tuple[tuple[str, Any], ...]


class Meeting:
    """Collects the request of every job that still runs, evaluates them all, hands out."""

    def __init__(self, engine: Any, n_jobs: int) -> None:  # noqa: ANN401 (as its jobs want it)
        """Take the engine; ``n_jobs`` jobs are waited for until they leave."""
        self.engine = engine
        self._running = set(range(n_jobs))
        self._requests: dict[int, _Request] = {}
        self._answers: dict[int, Evaluation | BaseException] = {}
        self._condition = Condition()
        self._lists: _JoinedLists | None = None

    def evaluate(self, job: int, request: _Request) -> Evaluation:
        """The answer to a request, once all others have asked."""
        with self._condition:
            self._requests[job] = request
            self._answer_if_complete()
            self._condition.wait_for(lambda: job in self._answers)
            answer = self._answers.pop(job)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def leave(self, job: int) -> None:
        """Do not wait for ``job`` any more."""
        with self._condition:
            self._running.discard(job)
            self._answer_if_complete()

    def _answer_if_complete(self) -> None:
        if not self._requests or not self._requests.keys() >= self._running:
            return
        for wanted in dict.fromkeys(request.wanted for request in self._requests.values()):
            jobs = [j for j in sorted(self._requests) if self._requests[j].wanted == wanted]
            self._answer(jobs, dict(wanted))
        self._requests.clear()
        self._condition.notify_all()

    def _answer(self, jobs: list[int], wanted: dict[str, Any]) -> None:
        """One engine call for jobs that want the same."""
        requests = [self._requests[job] for job in jobs]
        every = [atoms for request in requests for atoms in request.structures]
        if all(request.neighbors is not None for request in requests):
            if self._lists is None or not self._lists.are_of(requests):
                self._lists = _JoinedLists(requests)  # the same ones hold for the same jobs
            wanted["neighbors"] = self._lists
        try:
            result = self.engine.evaluate(every, **wanted)
        except BaseException as error:  # each job raises it in its own thread
            self._answers |= dict.fromkeys(jobs, error)
            return
        start = 0
        for job, request in zip(jobs, requests, strict=True):
            stop = start + len(request.structures)
            cut = {k: None if v is None else v[start:stop] for k, v in vars(result).items()}
            self._answers[job] = type(result)(**cut)
            start = stop


class _JoinedLists(NeighborLists):
    """The neighbour lists that each job keeps, as those of one long series."""

    def __init__(self, requests: Sequence[_Request]) -> None:
        kept = [r.neighbors for r in requests]
        super().__init__(kept[0].cutoff, max(lists.skin for lists in kept))
        self._places = [(r.neighbors, k) for r in requests for k in range(len(r.structures))]

    def are_of(self, requests: Sequence[_Request]) -> bool:
        """Whether these are the lists of the requests."""
        places = [(r.neighbors, k) for r in requests for k in range(len(r.structures))]
        return len(places) == len(self._places) and all(
            mine is lists and k == place
            for (mine, k), (lists, place) in zip(self._places, places, strict=True)
        )

    def kept(self, atoms: Atoms, slot: int) -> EdgeList:
        lists, place = self._places[slot]
        return lists.kept(atoms, place)


class Share:
    """The engine as one job of a meeting sees it."""

    def __init__(self, meeting: Meeting, job: int) -> None:
        """Take part in ``meeting`` as its job number ``job``."""
        self._meeting = meeting
        self._job = job

    @property
    def cutoff_angstrom(self) -> float:
        """Neighbour cutoff of the engine, Å."""
        return self._meeting.engine.cutoff_angstrom

    def evaluate(
        self,
        structures: Sequence[Atoms],
        *,
        neighbors: NeighborLists | None = None,
        **wanted: Any,  # noqa: ANN401 (as the engine wants it)
    ) -> Evaluation:
        """As the engine, together with the other jobs."""
        request = _Request(list(structures), neighbors, tuple(sorted(wanted.items())))
        return self._meeting.evaluate(self._job, request)

    def leave(self) -> None:
        """Tell the others not to wait any more; more than once does no harm."""
        self._meeting.leave(self._job)


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
    meeting = Meeting(engine, len(jobs))
    results: list = [None] * len(jobs)
    errors: dict[int, BaseException] = {}

    def work(index: int) -> None:
        share = Share(meeting, index)
        try:
            results[index] = jobs[index](share)
        except BaseException as error:
            errors[index] = error
        finally:
            share.leave()

    threads = [Thread(target=work, args=(index,)) for index in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[min(errors)]
    return results
