"""Time and memory of one training step: plain, as a CUDA graph, compiled, in shares.

    python benchmarks/training_step.py benchmarks/accuracy/acac.toml --device cuda
    python benchmarks/training_step.py potentials/water.toml --batch-size 4 \
        --share-edges 35000 18000 --device cuda

A step is the loss of a batch, its gradient (second derivatives included) and the optimizer. Before
it is timed, loss and gradient of the first batch are compared with those of the plain form: eager,
the whole batch at once. --share-edges: compiled, in shares of up to so many edges. On a CPU nothing
is compiled. Prints one table: ms for each of consecutive steps (median of five runs), the peak of
memory of a step beyond the tables of the frames, and relative differences of loss and gradient.
"""

import argparse
import gc
import math
import platform
import time
from dataclasses import dataclass, replace
from itertools import chain, count, cycle, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import nemp_sim
from nemp_sim.checkpoint import resolve_device
from nemp_sim.training.job import Job, read_config, read_splits
from nemp_sim.training.processes import Processes
from nemp_sim.training.start import initial_model, references_of
from nemp_sim.training.tables import Batches, build_table
from nemp_sim.training.trainer import Trainer

RUNS = 5


@dataclass(frozen=True)
class Form:
    """A way to make a step: ``compiled`` is None without a CUDA graph."""

    name: str
    compiled: bool | None
    most_edges: float = math.inf


PLAIN = Form("plain", None)
ON_GPU = Form("CUDA graph", False), Form("compiled", True)


def prepared(job: Job, device: torch.device, form: Form) -> tuple[Trainer, list[Tensor]]:
    """A trainer from the initial weights, and the batches of its first steps."""
    config = replace(job.training, compile=bool(form.compiled))
    splits = read_splits(job.heads, config.stress_weight > 0)
    model = initial_model(job.model, splits, references_of(splits, job.heads), config.seed)
    model.cast(torch.float32).to(device)
    heads, elements = model.config.heads, model.config.elements
    table = build_table(splits.train, elements, model.config.cutoff_angstrom, device, heads)
    batches = Batches(table, config.batch_size, config.seed, most_edges=form.most_edges)
    trainer = Trainer(model, table, batches.size, config, Processes())
    order = list(islice(chain.from_iterable(map(batches.epoch, count())), 20))
    if form.compiled is not None:
        trainer.prepare(order[0])
    return trainer, order


def peak_of_step(trainer: Trainer, order: list[Tensor], before: int) -> float:
    """Most memory that a step takes over ``before``, MB; of a CUDA graph while it is captured."""
    if trainer.device.type == "cpu":
        return float("nan")
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    if trainer.cuda_graph is None:
        trainer.step(order[0], 1e-9, trainer.config.energy_weight)
    else:
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            trainer._step()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def measure(
    job: Job, device: torch.device, form: Form, steps: int
) -> tuple[Tensor, Tensor, float, float, str]:
    """Terms and gradient of the first batch, seconds of a step, its peak (MB), and the shares."""
    cuda = device.type == "cuda"
    before = torch.cuda.memory_allocated() if cuda else 0
    trainer, order = prepared(job, device, form)
    before += sum(t.untyped_storage().nbytes() for t in vars(trainer.table).values())
    terms, gradient = trainer.gradient_of(order[0], trainer.config.energy_weight)
    peak = peak_of_step(trainer, order, before)
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        for index in islice(cycle(order), steps):
            trainer.step(index, trainer.config.learning_rate, trainer.config.energy_weight)
        if cuda:
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() - start) / steps)
    size = trainer.objective.size
    return terms, gradient, float(np.median(seconds)), peak, f"{size.shares} × {size.edges}"


def main() -> None:
    """Measure each form and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--share-edges", type=int, nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    device, job = resolve_device(options.device), read_config(options.config)
    if options.batch_size:
        job = replace(job, training=replace(job.training, batch_size=options.batch_size))
    on = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    print(f"{options.config.name}, batch {job.training.batch_size}; nemp_sim "
          f"{nemp_sim.__version__}, torch {torch.__version__}, {on}\n")  # fmt: skip
    print("| form | shares × edges | ms a step | peak (MB) | loss | gradient |")
    print("|---|---:|---:|---:|---:|---:|")
    reference: tuple[Tensor, Tensor] | None = None
    cuda = device.type == "cuda"
    shared = [Form("in shares", True if cuda else None, most) for most in options.share_edges]
    for form in (PLAIN, *(ON_GPU if cuda else ()), *shared):
        terms, gradient, seconds, peak, shares = measure(job, device, form, options.steps)
        loss, reference = float(terms[-1]), reference or (terms, gradient)
        of_loss = loss / float(reference[0][-1]) - 1
        of_gradient = float((gradient - reference[1]).norm() / reference[1].norm())
        row = f"{1e3 * seconds:.2f} | {peak:.0f} | {of_loss:+.1e} | {of_gradient:.1e}"
        print(f"| {form.name} | {shares} | {row} |", flush=True)


if __name__ == "__main__":
    main()
