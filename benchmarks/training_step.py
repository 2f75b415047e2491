"""Time of one training step: eager, as a CUDA graph, compiled and as a CUDA graph.

    python benchmarks/training_step.py benchmarks/accuracy/acac.toml --device cuda

A step is the loss of a batch, its gradient (second derivatives included) and the optimizer. Before
it is timed, the loss of the first batch is compared with the eager one. On a CPU: eager alone.
Prints one table: ms for each step (median), the peak of memory beyond the tables of the frames,
and the relative difference of the loss.
"""

import argparse
import gc
import platform
import time
from dataclasses import replace
from itertools import chain, count, islice
from pathlib import Path

import numpy as np
import torch

import nemp_sim
from nemp_sim.checkpoint import resolve_device
from nemp_sim.training.job import Job, read_config, read_splits
from nemp_sim.training.processes import Processes
from nemp_sim.training.start import initial_model, references_of
from nemp_sim.training.tables import Batches, build_table
from nemp_sim.training.trainer import Trainer

FORMS = {"eager": None, "CUDA graph": False, "compiled, CUDA graph": True}  # value: compile


def measure(
    job: Job, device: torch.device, compiled: bool | None, steps: int
) -> tuple[float, float, float]:
    """Loss of the first batch, the median of the seconds of ``steps`` steps, peak memory (MB)."""
    config = replace(job.training, compile=bool(compiled))
    splits = read_splits(job.heads, config.stress_weight > 0)
    model = initial_model(job.model, splits, references_of(splits, job.heads), config.seed)
    model.cast(torch.float32).to(device)
    heads, elements = model.config.heads, model.config.elements
    table = build_table(splits.train, elements, model.config.cutoff_angstrom, device, heads)
    batches = Batches(table, config.batch_size, config.seed)
    cuda = device.type == "cuda"
    if cuda:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if cuda else 0
    trainer = Trainer(model, table, batches.size, config, Processes())
    order = list(islice(chain.from_iterable(map(batches.epoch, count())), steps + 1))
    if compiled is not None:
        trainer.prepare(order[0])
    trainer.step(order[0], config.learning_rate, config.energy_weight)
    loss = trainer.mean_terms()[-1]
    seconds = []
    for index in order[1:]:
        start = time.perf_counter()
        trainer.step(index, config.learning_rate, config.energy_weight)
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() - before if cuda else 0
    return loss, float(np.median(seconds)), peak / 1e6


def main() -> None:
    """Measure each form and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    device, job = resolve_device(options.device), read_config(options.config)
    on = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor()
    print(f"{options.config.name}, batch {job.training.batch_size}; nemp_sim "
          f"{nemp_sim.__version__}, torch {torch.__version__}, {on}\n")  # fmt: skip
    print("| form | ms a step | peak (MB) | loss, relative to eager |\n|---|---:|---:|---:|")
    forms = FORMS if device.type == "cuda" else {"eager": None}
    reference = 0.0
    for form, compiled in forms.items():
        loss, seconds, peak = measure(job, device, compiled, options.steps)
        reference = reference or loss
        row = f"| {form} | {1e3 * seconds:.2f} | {peak:.0f} | {loss / reference - 1:+.1e} |"
        print(row, flush=True)


if __name__ == "__main__":
    main()
