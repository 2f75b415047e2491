"""Error tables of a potential's card, measured anew from its weights and its data.

    python benchmarks/card.py potentials/pdh.toml

Reads the frames that the TOML file names (the same split as in training), evaluates
potentials/<name>.pt on the held-out and test frames and prints Markdown: errors by head and kind of
structure, and how far the predicted uncertainties can be trusted. With --all also the training
frames (2000 at most).
"""

import argparse
from pathlib import Path

import numpy as np

from nemp_sim import load_potential
from nemp_sim.training.accuracy import ErrorRow, Reliability, error_rows, predict, reliability
from nemp_sim.training.job import read_config, read_splits

MAX_FRAMES = 2000


def error_table(rows: list[ErrorRow]) -> str:
    """Markdown table of error rows."""
    lines = [
        "| head | config_type | frames | E RMSE | E MAE | F RMSE | F MAE | σ RMSE |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        forces = row.force_rmse_meV_per_A, row.force_mae_meV_per_A
        shown = ["" if v is None else f"{v:.1f}" for v in forces]
        stress = row.stress_rmse_meV_per_A3
        lines.append(
            f"| {row.head} | {row.config_type} | {row.n_frames} "
            f"| {row.energy_rmse_meV_per_atom:.2f} | {row.energy_mae_meV_per_atom:.2f} "
            f"| {shown[0]} | {shown[1]} "
            f"| {'' if stress is None else f'{stress:.2f}'} |"
        )
    return "\n".join(lines)


def uncertainty_line(split: str, values: Reliability) -> str:
    """Markdown row of what the uncertainties are worth."""
    return (
        f"| {split} | {values.force_spearman:.2f} | {values.force_ratio:.2f} "
        f"| {values.energy_spearman:.2f} | {values.energy_ratio:.2f} |"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--potential", help="default: <name>.pt beside the TOML file")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--all", action="store_true", help="the training frames too")
    options = parser.parse_args()
    job = read_config(options.config)
    file = options.potential or options.config.parent / f"{job.training.name}.pt"
    potentials = {head: load_potential(file, options.device, head=head) for head in job.heads}
    splits = read_splits(job.heads, with_stress=True)
    first = next(iter(potentials.values()))
    print(f"`{first.name}`, sha256 `{first.sha256}`, {first.dtype} on {first.device}\n")
    print("Energies in meV/atom, force components in meV/Å, stress components in meV/Å³.")
    uncertain = []
    for split, frames in splits.parts.items():
        if split == "train" and not options.all:
            continue
        chosen = np.random.default_rng(0).permutation(len(frames))[:MAX_FRAMES]
        predictions = predict(potentials, [frames[k] for k in sorted(chosen)])
        print(f"\n{split} ({len(chosen)} of {len(frames)} frames):\n")
        print(error_table(error_rows(predictions)))
        values = reliability(predictions)
        if values is not None:
            uncertain.append(uncertainty_line(split, values))
    if uncertain:
        print("\n| uncertainties | Spearman, forces | true/predicted | energies | true/predicted |")
        print("|---|---:|---:|---:|---:|")
        print("\n".join(uncertain))
    for head, fit in first.metadata.training.get("uncertainties", {}).items():
        if fit.get("crossed_spearman") is not None:
            print(
                f"\n{head}, forces, either half of the validation frames fitted to the other: "
                f"Spearman {fit['crossed_spearman']:.2f}, true/predicted {fit['crossed_ratio']:.2f}"
            )


if __name__ == "__main__":
    main()
