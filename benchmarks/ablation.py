"""What each setting of a training is worth: one change at a time, the same seeds for all.

    python benchmarks/ablation.py benchmarks/accuracy/acac.toml --seeds 3 --device cuda \
        --set time_limit_s=120 --change learning_rate=0.01 --change n_channels=32 --parallel 6

`--set` holds for all runs, base included; each `--change` (several keys joined by ";") is a row.
Runs stand side by side in `--parallel` processes: with a time limit compare only rows of one call.
Prints Markdown: errors on the validation and test frames, mean ± standard deviation over seeds.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from nemp_sim.checkpoint import resolve_device
from nemp_sim.config import ModelConfig, require
from nemp_sim.training.config import DataConfig, TrainConfig
from nemp_sim.training.job import Job, read_config
from nemp_sim.training.train import train_job


def changed(job: Job, changes: str) -> Job:
    """``job`` with "key=value;key=value", values in JSON; a key names its section by itself."""
    model, training, heads = dict(job.model), {}, dict(job.heads)
    known = [{f.name for f in fields(c)} for c in (ModelConfig, TrainConfig, DataConfig)]
    for change in filter(None, changes.split(";")):
        key, _, text = change.partition("=")
        value = json.loads(text)
        require(any(key in names for names in known), "change", key, "a key of the TOML sections")
        if key in known[0]:
            model[key] = value
        elif key in known[1]:
            training[key] = value
        else:
            heads = {head: replace(data, **{key: value}) for head, data in heads.items()}
    return Job(model, heads, replace(job.training, **training))


def run(job: Job, directory: Path, device: str) -> dict[str, float]:
    """Train and return the errors by split: meV/atom, meV/Å."""
    result = train_job(job, directory, resolve_device(device))
    measured = {"epochs": result.epochs, "seconds": result.seconds}
    for split in ("train", "validation", "test"):
        for row in result.errors.get(split, []):
            if row.config_type == "all":
                measured[f"{split} {row.head} E"] = row.energy_rmse_meV_per_atom
                measured[f"{split} {row.head} F"] = row.force_rmse_meV_per_A
    return measured


def share_memory(processes: int) -> None:
    """Give each process of a GPU its share of the memory."""
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(0.9 / processes)


def main() -> None:
    """Train all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--change", action="append", default=[])
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("results/ablation"))
    options = parser.parse_args()
    base = changed(read_config(options.config), ";".join(options.set))
    runs = {}
    context = get_context("spawn")
    with ProcessPoolExecutor(options.parallel, context, share_memory, (options.parallel,)) as pool:
        for row, change in enumerate(["", *options.change]):
            for seed in range(options.seeds):
                job = changed(base, f"{change};seed={seed}")
                place = options.out / f"{row}-{seed}"
                runs.setdefault(change, []).append(pool.submit(run, job, place, options.device))
        table = {change: [f.result() for f in futures] for change, futures in runs.items()}
    columns = list(next(iter(table.values()))[0])
    print(
        f"\nRMSE in meV/atom (E) and meV/Å (F), mean ± standard deviation of {options.seeds} seeds"
    )
    print(f"base: {options.config.name} with {'; '.join(options.set) or 'no change'}\n")
    print("| change | " + " | ".join(columns) + " |")
    print("|---|" + "---:|" * len(columns))
    for change, measured in table.items():
        values = [np.array([m[c] for m in measured]) for c in columns]
        cells = [f"{v.mean():.3g} ± {v.std(ddof=min(1, len(v) - 1)):.2g}" for v in values]
        print(f"| {change or 'base'} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
