"""Under load: does memory grow, do numbers drift, do many clients and threads get the right ones?

    python benchmarks/load.py --system methanol --evaluations 100000   one process, long
    python benchmarks/load.py --evaluations 2000 --device cuda         H on Pd(111), 13 atoms
    python benchmarks/load.py --system methanol --threads 100          threads on one potential
    python benchmarks/load.py --system methanol --clients 100          clients of one i-PI server
    python benchmarks/load.py --system methanol --frames 10000         nemp evaluate of a long file

``--evaluations``: the atoms move between evaluations, so that neighbour lists are rebuilt. CPU
time, memory (and that of the GPU), and whether energy and forces of the start are the same bits as
at the beginning are printed ten times; exit code 1 where they are not, or where the least memory of
the last three tenths is more than 1 % above that of the first. ``--threads``: each has a calculator
of its own on one potential; compared with the same evaluations one after another. ``--clients``:
each serves beads of one simulation of i-PI; the potential energies of the beads at the end are
computed once more from their positions. ``--frames``: peak memory of ``nemp evaluate`` on files of
a tenth, a half and all of the frames, with labels; exit code 1 where the last needs 5 % more than
the first, or where a frame of the output is not what one evaluation of it gives.
"""

import argparse
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch
from ase import Atoms

from nemp_sim import NEMP
from nemp_sim.checkpoint import load_potential
from nemp_sim.files import each_structure, private_directory, writing_structures
from nemp_sim.ipi.client import BeadEvaluator, run_client
from nemp_sim.ipi.server import Server
from nemp_sim.pathintegral.files import Frames, read_properties
from nemp_sim.pathintegral.forces import FORCEFIELD
from nemp_sim.pathintegral.input import PREFIX, Dynamics, prepare_start, write_input
from nemp_sim.potential import Potential
from nemp_sim.systems import choose_potential, read_system, systems_of

GROWTH = 1.01
FRAMES_GROWTH = 1.05  # of the peak; the samples of the figure and of the ranks are of fixed size
TOLERANCE_EV = 1e-5
UNITS_OF_IPI = 2e-7  # its electronvolt differs from that of CODATA 2014 by 7e-8
PER_THREAD = 20  # evaluations
STEPS = 10  # of i-PI


def resident_MB() -> float:  # noqa: N802 (a unit in a name)
    """Resident memory of this process, MB; counted page by page: the sums in statm lag behind."""
    with open("/proc/self/smaps_rollup") as handle:
        return next(int(line.split()[1]) for line in handle if line.startswith("Rss:")) * 1.024e-3


def is_same_long(atoms: Atoms, evaluations: int) -> bool:
    """Evaluate many times, print; whether memory stays and the numbers of the start do too."""
    start, rng = atoms.positions.copy(), np.random.default_rng(0)
    first = (atoms.get_potential_energy(), atoms.get_forces())
    seen, same, began = [], True, time.process_time()
    every = max(1, evaluations // 10)
    for k in range(1, evaluations + 1):
        atoms.positions = start + rng.normal(scale=0.1, size=start.shape)
        atoms.get_forces()
        if k % every == 0:
            pace, began = 1e3 * (time.process_time() - began) / every, time.process_time()
            seen.append(resident_MB())
            gpu = torch.cuda.memory_allocated() / 1e6 if torch.cuda.is_available() else 0.0
            atoms.positions = start
            now = (atoms.get_potential_energy(), atoms.get_forces())
            same = same and now[0] == first[0] and np.array_equal(now[1], first[1])
            said = "the same bits" if same else "OTHER NUMBERS"
            print(
                f"{k:8d} evaluations {pace:7.2f} ms of CPU each {seen[-1]:8.1f} MB "
                f"GPU {gpu:7.1f} MB start: {said}",
                flush=True,
            )
    grown = min(seen[-3:]) / seen[0]  # the allocator keeps a block now and then, and gives it back
    print(f"least memory of the last three tenths over the first: {grown:.4f} (at most {GROWTH})")
    return same and grown <= GROWTH


def do_threads_agree(potential: Potential, atoms: Atoms, count: int) -> bool:
    """Evaluate in many threads at once and one after another; whether all numbers agree."""
    rng = np.random.default_rng(0)
    shape = (count, PER_THREAD, len(atoms), 3)
    places = atoms.positions + rng.normal(scale=0.03, size=shape)
    energies, forces = np.zeros(shape[:2]), np.zeros(shape)

    def work(which: int) -> None:
        mine = atoms.copy()
        mine.calc = NEMP(potential, on_extrapolation="ignore")
        for k in range(PER_THREAD):
            mine.positions = places[which, k]
            energies[which, k] = mine.get_potential_energy()
            forces[which, k] = mine.get_forces()

    seconds = {}
    began = time.perf_counter()
    threads = [threading.Thread(target=work, args=(k,)) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds["threads"] = time.perf_counter() - began
    at_once = energies.copy(), forces.copy()
    began = time.perf_counter()
    for k in range(count):
        work(k)
    seconds["one after another"] = time.perf_counter() - began
    off = [float(np.abs(a - b).max()) for a, b in zip(at_once, (energies, forces), strict=True)]
    took = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    print(f"{count} threads, {PER_THREAD} evaluations each: {took}")
    print(f"largest difference: {off[0]:.1e} eV, {off[1]:.1e} eV/Å")
    return max(off) <= TOLERANCE_EV


def do_clients_agree(potential: Potential, atoms: Atoms, count: int) -> bool:
    """One simulation of i-PI with a bead for each client; whether energies fit the positions."""
    start, done = prepare_start(atoms), []
    dynamics = Dynamics(
        beads=count, steps=STEPS, every=1, frames_every=1, batch_size=1, fix_com=False
    )
    with private_directory() as directory:
        path = write_input(start, dynamics, directory)
        server = Server("unix", FORCEFIELD, prefix=f"{directory}/")

        def work() -> None:
            done.append(run_client(BeadEvaluator(potential, start.atoms), server, 60.0))

        began = time.perf_counter()
        with (directory / "log").open("w") as log:
            program = shutil.which("i-pi", path=str(Path(sys.executable).parent)) or "i-pi"
            process = subprocess.Popen(
                [sys.executable, program, "-S", f"{directory}/", path.name],
                cwd=directory,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        threads = [threading.Thread(target=work) for _ in range(count)]
        for thread in threads:
            thread.start()
        code = process.wait()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - began
        frames = sorted(client.n_frames for client in done)
        print(f"i-PI ended with {code} after {seconds:.1f} s; {len(done)} clients answered")
        print(f"{sum(frames)} frames, {frames[0]} to {frames[-1]} each")
        return code == 0 and len(done) == count and _energies_fit(potential, directory, start.atoms)


def _energies_fit(potential: Potential, directory: Path, template: Atoms) -> bool:
    said = read_properties(directory / f"{PREFIX}.out")["potential"][-1]
    beads = []
    for places in [*Frames(directory, PREFIX)][-1][2]:
        atoms = template.copy()
        atoms.positions = places
        beads.append(atoms)
    again = potential.evaluate(beads, forces=False).energy.mean()
    print(f"{len(beads)} beads: mean potential energy at the end off by {abs(again - said):.1e} eV")
    return abs(again - said) < UNITS_OF_IPI * abs(said)


def is_flat_over_frames(options: argparse.Namespace, potential: Potential, atoms: Atoms) -> bool:
    """Evaluate files of growing length; whether the peak memory stays, and the last frames fit."""
    rng, start, peaks = np.random.default_rng(0), atoms.positions.copy(), []
    with private_directory() as directory:
        for share in (10, 2, 1):
            count = options.frames // share
            path = directory / f"{count}.extxyz"
            with writing_structures(path) as write:
                for _ in range(count):
                    frame = Atoms(atoms.numbers, start, cell=atoms.cell, pbc=atoms.pbc)
                    frame.positions += rng.normal(scale=0.05, size=start.shape)
                    frame.info["REF_energy"] = 0.0
                    frame.arrays["REF_forces"] = np.zeros_like(start)
                    write(frame)
            command = [sys.executable, "-m", "nemp_sim.cli", "evaluate", "--quiet"]
            command += ["--structures", str(path), "--potential", potential.name]
            command += ["--device", str(potential.device), "--head", potential.head]
            command += ["--on-extrapolation", "ignore", "--out", str(directory)]
            began = time.perf_counter()
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            _, code, used = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(code)
            seconds, peak = time.perf_counter() - began, used.ru_maxrss * 1.024e-3
            peaks.append(peak)
            size = path.stat().st_size / 1e6
            print(
                f"{count:7d} frames, {size:6.1f} MB: exit code {child.returncode}, "
                f"{seconds:6.1f} s, peak memory {peak:.1f} MB",
                flush=True,
            )
        last = [*each_structure(directory / f"evaluate-{count}" / "evaluated.extxyz", "", "-5:")]
        energy = potential.evaluate(last, forces=False).energy
        off = max(abs(energy - [a.info["nemp_energy"] for a in last]))
        print(f"peak of the longest over the shortest: {peaks[-1] / peaks[0]:.4f}")
        print(f"largest difference of the last frames, evaluated again: {off:.1e} eV")
    return peaks[-1] < FRAMES_GROWTH * peaks[0] and off < TOLERANCE_EV


def main() -> None:
    """Load the potential, put the load on it, say how it went."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = [*systems_of("slab", "molecule", "liquid")]
    parser.add_argument("--system", default="h-pd111", choices=known)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--evaluations", type=int, default=100_000)
    kinds.add_argument("--threads", type=int)
    kinds.add_argument("--clients", type=int)
    kinds.add_argument("--frames", type=int)
    options = parser.parse_args()
    name, head = choose_potential(options.system, None, None)
    potential = load_potential(name, options.device, head=head, on_extrapolation="ignore")
    atoms = read_system(options.system)
    if options.threads:
        good = do_threads_agree(potential, atoms, options.threads)
    elif options.frames:
        good = is_flat_over_frames(options, potential, atoms)
    elif options.clients:
        good = do_clients_agree(potential, atoms, options.clients)
    else:
        atoms.calc = NEMP(potential, on_extrapolation="ignore")
        good = is_same_long(atoms, options.evaluations)
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
