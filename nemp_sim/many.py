"""Many independent runs, one after the other or side by side on the processes of a Dask cluster."""

import csv
import importlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nemp_sim.config import require
from nemp_sim.console import Show, logged, time_left
from nemp_sim.domain_report import is_outside
from nemp_sim.errors import InputError, NempError
from nemp_sim.files import replacing
from nemp_sim.locks import alone
from nemp_sim.report import Quantity, Report, plain, versions, write_report
from nemp_sim.sweep import Sweep, is_done, placed

TABLE = "jobs.csv"
DONE, EARLIER, FAILED, WAITING = "done", "done earlier", "FAILED", "not run"


@dataclass(frozen=True)
class Workers:
    """Where the jobs run.

    Attributes:
        count: processes on this machine; 1: this one, without Dask.
        scheduler: address of a running Dask scheduler instead, "tcp://host:8786".
    """

    count: int = 1
    scheduler: str | None = None

    def __post_init__(self) -> None:
        """Check the count."""
        require(self.count >= 1, "workers", self.count, "1 or more")


@dataclass(frozen=True)
class Outcome:
    """How a job stands.

    Attributes:
        state: "done", "done earlier", "FAILED" or "not run".
        trusted: whether its result is to be trusted; None where there is none.
        said: its verdict, or the error.
        numbers: those of its report, by their keys.
    """

    state: str = WAITING
    trusted: bool | None = None
    said: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ManyResult:
    """Outcome of a sweep.

    Attributes:
        directory: where the table is.
        outcomes: of each job, in their order.
        report: what report.json and report.md hold.
    """

    directory: Path
    outcomes: tuple[Outcome, ...]
    report: Report

    @property
    def trusted(self) -> bool:
        """Whether every job ended, and none with a result that is not to be trusted."""
        return all(o.state in (DONE, EARLIER) and o.trusted is not False for o in self.outcomes)


def run_many(sweep: Sweep, workers: Workers | None = None, show: Show | None = None) -> ManyResult:
    """Run the jobs that are not done, and write a table of all of them after each.

    Stopped or killed at any moment, the same call goes on: what is done stays. A job whose process
    dies is given to another one, four times at most; a job that ends with an error does not stop
    the others.

    Args:
        sweep: the jobs.
        workers: where they run; None: in this process.
        show: called as jobs end.

    Raises:
        InputError: Dask is needed and not installed, or no scheduler answers.
    """
    return _run(sweep, workers or Workers(), show)


@logged
@alone
def _run(sweep: Sweep, workers: Workers, show: Show) -> ManyResult:
    outcomes = [_earlier(sweep, job) for job in sweep.jobs]
    left = [number for number, outcome in enumerate(outcomes) if outcome.state == WAITING]
    begun = time.perf_counter()
    show(f"{len(left)} of {len(outcomes)} jobs to run")
    report = _write(sweep, outcomes)
    with _running(sweep, left, workers) as ended:
        for count, (number, outcome) in enumerate(ended, 1):
            outcomes[number] = replace(outcome, numbers=_numbers(sweep.jobs[number], outcome))
            report = _write(sweep, outcomes)
            name = sweep.jobs[number].directory.name
            rest = time_left(begun, count, len(left))
            show(f"{count} of {len(left)} jobs, {rest}: {name}", outcome.said)
    return ManyResult(sweep.directory, tuple(outcomes), report)


def run_job(workflow: str, job: Any, worker: int | None = None) -> Outcome:  # noqa: ANN401 (any Settings)
    """Run one job here; an error of its own is an outcome."""
    import torch

    module = importlib.import_module(f"nemp_sim.workflows.{workflow}")
    try:
        result = module.run(placed(job, worker, torch.cuda.device_count()))
    except (NempError, OSError) as error:
        return Outcome(FAILED, None, f"{type(error).__name__}: {error}")
    trusted = bool(result.trusted) and not is_outside(result.report)
    return Outcome(DONE, trusted, result.report.verdict)


def run_on_worker(workflow: str, job: Any) -> Outcome:  # noqa: ANN401 (settings of any workflow)
    """``run_job`` on a process of Dask, whose name is its number where we started it."""
    from distributed import get_worker

    name = get_worker().name
    return run_job(workflow, job, name if isinstance(name, int) else None)


@contextmanager
def _running(
    sweep: Sweep, numbers: list[int], workers: Workers
) -> Iterator[Iterator[tuple[int, Outcome]]]:
    """Numbers and outcomes of jobs, as these end."""
    if not numbers:
        yield iter(())
    elif workers.count == 1 and workers.scheduler is None:
        yield ((n, run_job(sweep.workflow, sweep.jobs[n])) for n in numbers)
    else:
        with _client(workers) as client:
            yield _gathered(client, sweep, numbers)


def _gathered(client: Any, sweep: Sweep, numbers: list[int]) -> Iterator[tuple[int, Outcome]]:  # noqa: ANN401
    from distributed import as_completed

    waiting = {
        client.submit(run_on_worker, sweep.workflow, sweep.jobs[n], pure=False): n for n in numbers
    }
    for future in as_completed(waiting):
        error = future.exception()
        if error is None:
            yield waiting[future], future.result()
        else:  # a fault of the program, or a process that died again and again
            yield waiting[future], Outcome(FAILED, None, f"{type(error).__name__}: {error}")


@contextmanager
def _client(workers: Workers) -> Iterator[Any]:
    """A client of the given scheduler, or of processes of this machine that end with the block.

    Raises:
        InputError: Dask is not installed, or no scheduler answers.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise InputError(
            "more than one worker needs Dask, which is not installed: pip install 'nemp_sim[scale]'"
        ) from None
    if workers.scheduler is not None:
        try:
            client = Client(workers.scheduler)
        except (OSError, ValueError) as error:
            raise InputError(
                f"scheduler {workers.scheduler!r} does not answer ({error}). Start one with "
                "'dask scheduler', workers with 'dask worker ADDRESS --nworkers 4 --nthreads 1'."
            ) from None
        with client:
            yield client
        return
    threads = str(max(1, (os.cpu_count() or 1) // workers.count))
    environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    with (
        LocalCluster(
            n_workers=workers.count,
            threads_per_worker=1,
            dashboard_address=None,
            memory_limit=0,  # the engines keep within the memory themselves
            env=environment,
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _earlier(sweep: Sweep, job: Any) -> Outcome:  # noqa: ANN401 (settings of any workflow)
    """How a job stands before the run; whether it is trusted is in the earlier table."""
    if not is_done(job):
        return Outcome()
    verdict = _found(job.directory)["verdict"]
    path, trusted = sweep.directory / "report.json", None
    if path.is_file():
        known = {row["directory"]: row["trusted"] for row in _found(sweep.directory)["jobs"]}
        trusted = known.get(str(job.directory))
    outcome = Outcome(EARLIER, trusted, verdict)
    return replace(outcome, numbers=_numbers(job, outcome))


def _found(directory: Path) -> dict[str, Any]:
    """The report in a directory."""
    return json.loads((directory / "report.json").read_text(encoding="utf-8"))


def _numbers(job: Any, outcome: Outcome) -> dict[str, float]:  # noqa: ANN401 (any Settings)
    """The numbers of the report of a job that has one."""
    if outcome.state not in (DONE, EARLIER):
        return {}
    return {k: v for k, v in _found(job.directory).items() if isinstance(v, int | float)}


def _write(sweep: Sweep, outcomes: list[Outcome]) -> Report:
    """The report on all jobs and the table of their numbers."""
    rows: list[dict[str, Any]] = [
        {
            "directory": str(job.directory),
            "state": outcome.state,
            "trusted": outcome.trusted,
            "said": outcome.said,
            **varied,
        }
        for job, outcome, varied in zip(sweep.jobs, outcomes, sweep.varied, strict=True)
    ]
    counts = {
        state: sum(outcome.state == state for outcome in outcomes)
        for state in (DONE, EARLIER, FAILED, WAITING)
    }
    doubtful = sum(outcome.trusted is False for outcome in outcomes)
    lines = ["| job | state | trusted | verdict |", "|---|---|---|---|"]
    for row in rows:
        trusted = {True: "yes", False: "NO", None: "—"}[row["trusted"]]
        said = str(row["said"]).replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {Path(row['directory']).name} | {row['state']} | {trusted} | {said} |")
    report = Report(
        title=f"Many runs: {len(rows)} of {sweep.workflow} ({sweep.name})",
        verdict=", ".join(f"{count} {state}" for state, count in counts.items() if count)
        + (f"; {doubtful} not to be trusted" if doubtful else "")
        + ".",
        quantities=tuple(
            Quantity(f"n_{state.lower().replace(' ', '_')}", f"Jobs {state}", count)
            for state, count in counts.items()
        ),
        files={TABLE: "settings that differ and numbers of each job, a line each"},
        sections={"Jobs": "\n".join(lines)},
        data={"jobs": rows},
        provenance={"versions": versions(), "settings": {"jobs": [plain(j) for j in sweep.jobs]}},
    )
    write_report(report, sweep.directory)
    _write_table(sweep.directory / TABLE, rows, outcomes)
    return report


def _write_table(path: Path, rows: list[dict[str, Any]], outcomes: list[Outcome]) -> None:
    """One line for each job: where it is, how it differs, and every number of its report."""
    table = [
        {key: value for key, value in row.items() if key != "said"} | dict(outcome.numbers)
        for row, outcome in zip(rows, outcomes, strict=True)
    ]
    columns = list(dict.fromkeys(key for line in table for key in line))
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, columns)
        writer.writeheader()
        writer.writerows(table)
