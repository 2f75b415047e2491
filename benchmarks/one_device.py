"""One device: the same bits each time, several processes on it, too little memory.

    python benchmarks/one_device.py --device cuda
    python benchmarks/one_device.py --device cpu --repeats 20 --processes 2

Checks, each a line with its verdict, exit code 1 where one fails: the evaluation of a list,
repeated, by every form of the network that the device has; each structure alone against the list;
the same where others have set a lower precision in torch; the same in several processes at once,
against this one alone; on a GPU, a list beside a process that has taken all of the device but half
of what the list takes. Where it took that before the list was dealt into batches, these are
smaller, and mostly fit; where it does so just after that, a batch must be evaluated in halves, and
say so; the numbers are the same.
"""

import argparse
import hashlib
import multiprocessing
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import numpy as np
import torch
from ase import Atoms

import nemp_sim.batches as batches_module
from nemp_sim.checkpoint import load_potential
from nemp_sim.evaluation import Evaluation
from nemp_sim.memory import MemoryWarning, free_memory
from nemp_sim.potential import Potential
from nemp_sim.systems import choose_potential, read_system
from nemp_sim.torch_state import PrecisionWarning

SYSTEM = "h-pd111"
STRUCTURES = 16
CROWD = 512  # structures of the list that does not fit
TOLERANCE = {"float64": 1e-10, "float32": 2e-4}  # eV and eV/Å between other batches


def structures(count: int) -> list[Atoms]:
    """H on Pd(111), every atom moved a little, the same at every call."""
    rng, start = np.random.default_rng(0), read_system(SYSTEM)
    moved = []
    for _ in range(count):
        atoms = start.copy()
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        moved.append(atoms)
    return moved


def bits(result: Evaluation) -> str:
    """Checksum of all numbers."""
    parts = [result.energy, *result.energies, *result.forces, result.stress, result.energy_std]
    return hashlib.sha256(b"".join(p.tobytes() for p in parts if p is not None)).hexdigest()


def farthest(one: Evaluation, other: Evaluation) -> tuple[float, float]:
    """Largest difference of energies (eV) and forces (eV/Å)."""
    forces = [np.abs(a - b).max() for a, b in zip(one.forces, other.forces, strict=True)]
    return float(np.abs(one.energy - other.energy).max()), float(max(forces))


def load(form: str, device: str) -> Potential:
    """The potential in a form "dtype kernel"."""
    dtype, kernel = form.split()
    name, head = choose_potential(SYSTEM, None, None)
    return load_potential(name, device, dtype, head, on_extrapolation="ignore", kernel=kernel)


def in_process(form: str, device: str, repeats: int) -> list[str]:
    """Checksums of the list, evaluated again and again in a process of its own."""
    potential, many = load(form, device), structures(STRUCTURES)
    return [bits(potential.evaluate(many, stress=True)) for _ in range(repeats)]


def take_all(device: str, left: int, pipe: Connection) -> None:
    """Take the memory of a device but ``left`` bytes, and hold it until told."""
    size = torch.cuda.mem_get_info(device)[0] - left
    held = torch.empty(max(0, size), dtype=torch.uint8, device=device)
    pipe.send(held.numel())
    pipe.recv()


@contextmanager
def neighbour(device: str, left: int) -> Iterator[float]:
    """Another process that holds all memory of the device but ``left`` bytes; yields its GB."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=take_all, args=(device, left, theirs))
    process.start()
    try:
        yield ours.recv() / 1e9
    finally:
        ours.send(None)
        process.join()


class Verdicts:
    """Lines of the table, and whether all are good."""

    good = True

    def add(self, what: str, good: bool, found: str) -> None:
        """Print a line."""
        self.good = self.good and good
        print(f"{'ok  ' if good else 'FAIL'} {what:44} {found}", flush=True)


def check_bits(form: str, device: str, repeats: int, verdicts: Verdicts) -> str:
    """Repeats, and single against batch; the checksum of the first evaluation."""
    potential, many = load(form, device), structures(STRUCTURES)
    first = potential.evaluate(many, stress=True)
    began = time.perf_counter()
    seen = {bits(first)} | {bits(potential.evaluate(many, stress=True)) for _ in range(repeats)}
    took = 1e3 * (time.perf_counter() - began) / repeats
    name = f"{form} ({potential.kernel.split(' (')[0]})"
    verdicts.add(
        f"{name}: repeated",
        len(seen) == 1,
        f"{len(seen)} of {repeats} differ in bits, {took:.1f} ms"
        if len(seen) > 1
        else f"{repeats} times the same bits, {took:.1f} ms each",
    )
    single = [potential.evaluate([atoms], stress=True) for atoms in many]
    same = sum(
        one.energy[0] == first.energy[k] and np.array_equal(one.forces[0], first.forces[k])
        for k, one in enumerate(single)
    )
    energy = max(abs(one.energy[0] - first.energy[k]) for k, one in enumerate(single))
    forces = max(np.abs(one.forces[0] - first.forces[k]).max() for k, one in enumerate(single))
    verdicts.add(
        f"{name}: alone against in a list",
        max(energy, forces) <= TOLERANCE[form.split()[0]],
        f"{same} of {STRUCTURES} the same bits; at most {energy:.1e} eV, {forces:.1e} eV/Å apart",
    )
    return bits(first)


def check_settings(form: str, device: str, alone: str, verdicts: Verdicts) -> None:
    """Precision that others have set in torch: the same bits, or a warning."""
    potential, many = load(form, device), structures(STRUCTURES)
    wanted, kind = potential.evaluate(many, stress=True), torch.device(device).type
    before = torch.get_float32_matmul_precision()
    for name in ("autocast", "medium", "high"):
        torch.set_float32_matmul_precision(before if name == "autocast" else name)
        try:
            with (
                torch.autocast(kind, torch.bfloat16, enabled=name == "autocast"),
                warnings.catch_warnings(record=True) as told,
            ):
                warnings.simplefilter("always")
                got = potential.evaluate(many, stress=True)
        finally:
            torch.set_float32_matmul_precision(before)
        off, warned = farthest(got, wanted), any(w.category is PrecisionWarning for w in told)
        said = f"{off[0]:.1e} eV, {off[1]:.1e} eV/Å from those without it"
        said += ", with a warning" * warned
        verdicts.add(f"{form}: {name} set by others", warned or bits(got) == alone, said)


def check_processes(
    form: str, device: str, alone: str, options: argparse.Namespace, verdicts: Verdicts
) -> None:
    """Several processes at once: all the numbers of one alone."""
    began = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        work = [(form, device, options.repeats)] * options.processes
        seen = [each for part in pool.starmap(in_process, work, 1) for each in part]
    same = sum(each == alone for each in seen)
    verdicts.add(
        f"{form}: {options.processes} processes at once",
        same == len(seen),
        f"{same} of {len(seen)} the bits of one alone, {time.perf_counter() - began:.1f} s",
    )


def check_memory(form: str, device: str, verdicts: Verdicts) -> None:
    """A neighbour leaves half of what a list takes: before it is planned, and just after that."""
    potential, many = load(form, device), structures(CROWD)
    potential.evaluate(many[:8])
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    wanted = potential.evaluate(many)
    peak = torch.cuda.max_memory_allocated() - before
    torch.cuda.empty_cache()
    free = free_memory(potential.device)
    with neighbour(device, left=peak // 2) as held:
        for when, memory in (("before", free_memory), ("after", lambda _: free)):
            batches_module.free_memory = memory
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                got = potential.evaluate(many)
            said = [str(w.message) for w in told if w.category is MemoryWarning]
            off = farthest(got, wanted)
            torch.cuda.empty_cache()
            verdicts.add(
                f"{form}: a neighbour took all but {peak / 2e9:.2f} of {peak / 1e9:.2f} GB {when}",
                (bool(said) or when == "before") and max(off) <= TOLERANCE[form.split()[0]],
                f"the plan; halved {len(said)} times; at most {off[0]:.1e} eV, {off[1]:.1e} eV/Å "
                f"apart; the neighbour held {held:.1f} GB",
            )
            for line in said[:1]:
                print(f"     {line}")
    batches_module.free_memory = free_memory


def main() -> None:
    """Run all checks of a device."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--processes", type=int, default=4)
    options = parser.parse_args()
    is_gpu = torch.device(options.device).type == "cuda"
    forms = ["float64 reference", "float32 reference", *["float32 fused"] * is_gpu]
    verdicts = Verdicts()
    for form in forms:
        alone = check_bits(form, options.device, options.repeats, verdicts)
        check_settings(form, options.device, alone, verdicts)
    check_processes(forms[-1], options.device, alone, options, verdicts)
    if is_gpu:
        for form in forms[1:]:
            check_memory(form, options.device, verdicts)
    raise SystemExit(0 if verdicts.good else 1)


if __name__ == "__main__":
    main()
