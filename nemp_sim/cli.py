"""The ``nemp`` command."""

import ast
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from nemp_sim import __version__
from nemp_sim.console import Command

WORKFLOWS = (
    *("evaluate", "relax", "adsorption", "neb", "vibrations", "diffusion"),
    *("md", "phonons", "pimd", "umbrella", "label"),
)
CHECKED_AT_ONCE = 64  # structures of ``nemp check`` between two lines that are printed


class _Commands(typer.core.TyperGroup):
    """The workflows, imported when one of them is called, and the commands of this file."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 (of typer)
        super().__init__(**options)
        self.commands = {name: _described(name) for name in WORKFLOWS} | dict(self.commands)

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> tuple:
        """The command itself, which runs."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in WORKFLOWS:
            module = import_module(f"nemp_sim.workflows.{name}")
            command = typer.main.get_command(module.app)
        return name, command, rest


def _described(name: str) -> typer.core.TyperCommand:
    """What help and completion show of a workflow: its docstring, without its imports."""
    source = Path(__file__).with_name("workflows") / f"{name}.py"
    text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    first = text.partition("\n\n")[0]
    return typer.core.TyperCommand(name, help=first, rich_help_panel="Workflows")


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="NEMP interatomic potentials: compute, train, inspect, convert and serve.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"nemp_sim {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Version.")
    ] = False,
) -> None:
    """NEMP interatomic potentials: compute, train, inspect, convert and serve."""


@app.command(cls=Command, rich_help_panel="Potentials")
def info(
    potential: Annotated[str, typer.Argument(help="A path, or the name of a potential.")],
    as_json: Annotated[bool, typer.Option("--json", help="All metadata as JSON.")] = False,
) -> None:
    """Print what a potential file says of itself."""
    from nemp_sim.checkpoint import find_potential, load_potential, read_header

    path = find_potential(potential)
    header = read_header(path)
    if as_json:
        print(json.dumps(header, indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(overflow="fold")
    model = header["model"]
    rows = {
        "file": header["file"],
        "sha256": header["sha256"],
        "elements": ", ".join(header["elements"]),
        "form": f"{model['form']}, cutoff {model['cutoff_angstrom']} Å, L = {model['max_l']}, "
        f"P = {model['pmax_l']}, K = {model['n_channels']}, T = {model['n_message_passing']}",
        "parameters": f"{header['n_parameters']} ({header['dtype']})",
        "training": json.dumps(header["training"].get("frames", header["training"])),
        "licence": header["licence"],
        "created by": f"{header['created_by']}, format {header['format_version']}",
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    for head in model["heads"]:
        for name, value in _head_rows(header, head).items():
            table.add_row(f"{head}: {name}", value)
        domain = load_potential(path, "cpu", head=head, on_extrapolation="ignore").domain
        table.add_row(f"{head}: domain", str(domain))
    console.print(table)
    for split, errors in header["errors"].items():
        console.print(_error_table(split, errors))


def _head_rows(header: dict, head: str) -> dict[str, str]:
    """What a file says of one head."""
    energies = header["reference_energies_eV"][head]
    known = header["heads"].get(head, {})
    n_members = header["n_members"][head]
    return {
        "level of theory": known.get("level_of_theory", "not stated"),
        "elements": ", ".join(known.get("elements", energies)),
        "lone atoms": ", ".join(f"{e} {v:.4f} eV" for e, v in energies.items()),
        "uncertainties": f"ensemble of {n_members} read-outs" if n_members else "none",
    }


def _error_table(split: str, errors: list[dict]) -> Table:
    """Errors of one split by head and config_type."""
    table = Table(title=f"errors on the {split} frames", title_justify="left")
    heads = ("head", "config_type", "frames", "E RMSE", "E MAE", "F RMSE", "F MAE", "σ RMSE")
    units = ("", "", "", "meV/atom", "meV/atom", "meV/Å", "meV/Å", "meV/Å³")
    for head, unit in zip(heads, units, strict=True):
        table.add_column(f"{head}\n{unit}", justify="right" if unit else "left")
    for row in errors:
        values = [v for k, v in row.items() if k.startswith(("energy", "force", "stress"))]
        numbers = ["" if v is None else f"{v:.1f}" for v in values]
        table.add_row(row["head"], row["config_type"], str(row["n_frames"]), *numbers)
    return table


@app.command("list", cls=Command, rich_help_panel="Potentials")
def list_potentials() -> None:
    """List the potentials that a name finds: those in $NEMP_POTENTIALS and the shipped ones."""
    from nemp_sim.checkpoint import potential_directories, read_header

    table = Table("name", "head", "elements", "level of theory", "file")
    for directory in potential_directories():
        for path in sorted(directory.glob("*.pt")):
            header = read_header(path)
            for head in header["model"]["heads"]:
                rows = _head_rows(header, head)
                table.add_row(path.name, head, rows["elements"], rows["level of theory"], str(path))
    Console(highlight=False).print(table)


@app.command(cls=Command, rich_help_panel="Potentials")
def train(
    config: Annotated[Path, typer.Argument(help=r"TOML file: \[model], \[data], \[training].")],
    out: Annotated[
        Path | None, typer.Option(help="Directory of the run; default: results/train-<name>.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda …")] = None,
    start_from: Annotated[
        str | None, typer.Option("--from", help="Potential whose weights the run starts from.")
    ] = None,
) -> None:
    """Train a potential; an interrupted run in the same directory goes on.

    On several GPUs: torchrun --nproc-per-node 2 -m nemp_sim.cli train CONFIG
    """
    from nemp_sim.training.job import read_config
    from nemp_sim.training.train import train

    directory = out or Path("results") / f"train-{read_config(config).training.name}"
    result = train(config, directory, device=device, start_from=start_from)
    if result is None:  # not the first of several processes
        return
    console = Console(highlight=False)
    for split, rows in result.errors.items():
        console.print(_error_table(split, [vars(row) for row in rows]))
    console.print(f"written: {directory}", soft_wrap=True)


@app.command("import-jax", cls=Command, rich_help_panel="Potentials")
def import_jax(
    directory: Annotated[Path, typer.Argument(help="Directory with full_config.json.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Potential file to write.")],
) -> None:
    """Convert a checkpoint of the published JAX code; nothing in it is executed."""
    from nemp_sim.checkpoint import save_potential
    from nemp_sim.jax_import import read_checkpoint

    potential = read_checkpoint(directory)
    path = save_potential(potential.model, potential.metadata, output)
    print(f"written: {path}")


@app.command(cls=Command, rich_help_panel="Potentials")
def check(
    potential: Annotated[str, typer.Argument(help="A path, or the name of a potential.")],
    structures: Annotated[Path, typer.Argument(help="Structures, any format that ASE reads.")],
    head: Annotated[str | None, typer.Option(help="Read-out (level of theory).")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda …")] = "auto",
    dtype: Annotated[str | None, typer.Option(help="float32 or float64.")] = None,
) -> None:
    """Say of each structure whether it lies inside what the potential was trained on.

    Exit codes: 0 all are inside; 1 some are outside; 2 something to correct.
    """
    from nemp_sim.checkpoint import load_potential
    from nemp_sim.files import read_structures

    engine = load_potential(potential, device, dtype, head, on_extrapolation="ignore")
    frames = read_structures(structures, "structures")
    for start in range(0, len(frames), CHECKED_AT_ONCE):
        part = frames[start : start + CHECKED_AT_ONCE]
        outside = engine.evaluate(part, uncertainty=engine.n_members > 0).outside
        for index, (atoms, found) in enumerate(zip(part, outside, strict=True), start):
            said = f"OUTSIDE: {'; '.join(map(str, found))}" if found else "inside"
            print(f"{index} {atoms.get_chemical_formula()}: {said}")
    print(engine.watch.verdict())
    if engine.watch.n_outside:
        raise typer.Exit(1)


@app.command(cls=Command, rich_help_panel="Potentials")
def validate(
    potential: Annotated[str, typer.Argument(help="A path, or the name of a potential.")],
    structure: Annotated[
        Path | None, typer.Option(help="Structures to use, any format that ASE reads.")
    ] = None,
    head: Annotated[str | None, typer.Option(help="Read-out (level of theory).")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda …")] = "auto",
    dtype: Annotated[str | None, typer.Option(help="float32 or float64.")] = None,
) -> None:
    """Run the physics list on a potential: invariances, derivatives, cutoff, dimers, dynamics.

    Exit codes: 0 all passed; 1 something failed; 2 something to correct.
    """
    from nemp_sim.checkpoint import load_potential
    from nemp_sim.files import read_structures
    from nemp_sim.validation.run import validate

    engine = load_potential(potential, device, dtype, head)
    given = None if structure is None else read_structures(structure, "structure")
    failed = count = 0
    for check in validate(engine, given):
        print(check.line, flush=True)
        failed, count = failed + (not check.passed), count + 1
    where = f"{engine.device}, {str(engine.dtype).removeprefix('torch.')}"
    print(f"{engine.name} ({where}): {count - failed} passed, {failed} failed")
    if failed:
        raise typer.Exit(1)


@app.command(cls=Command, rich_help_panel="Potentials")
def ipi(  # noqa: PLR0913 (options of a command)
    potential: Annotated[str, typer.Option(help="A path, or the name of a potential.")],
    template: Annotated[
        Path, typer.Option(help="Structure with the atoms in the order of i-PI's file.")
    ],
    address: Annotated[str, typer.Option(help="<address> of i-PI's <ffsocket>.")],
    unix: Annotated[bool, typer.Option("--unix", help="A unix socket (the default).")] = False,
    inet: Annotated[bool, typer.Option("--inet", help="A TCP port.")] = False,
    shm: Annotated[bool, typer.Option("--shm", help="Shared memory (mode='shm').")] = False,
    port: Annotated[int | None, typer.Option(help="<port>, for inet.")] = None,
    prefix: Annotated[
        str | None, typer.Option(help="Directory of the socket, as i-PI's -S; unix and shm.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda …")] = "auto",
    dtype: Annotated[str | None, typer.Option(help="float32 or float64.")] = None,
    head: Annotated[str | None, typer.Option(help="Read-out (level of theory).")] = None,
    deadline_s: Annotated[float, typer.Option(help="Longest wait for the server, s.")] = 60.0,
    reconnect: Annotated[
        bool, typer.Option("--reconnect", help="Wait for a new server where one dies.")
    ] = False,
    tolerance_angstrom: Annotated[
        float, typer.Option(help="Farthest from the template in the first frames, Å.")
    ] = 1.0,
    max_step_angstrom: Annotated[
        float, typer.Option(help="Farthest that an atom moves between frames, Å.")
    ] = 2.0,
    committee_forces: Annotated[
        bool, typer.Option("--committee-forces", help="Forces of the ensemble's members in extras.")
    ] = False,
    on_extrapolation: Annotated[
        str, typer.Option(help="Outside the trained domain: warn, raise or ignore.")
    ] = "warn",
) -> None:
    """Compute forces for i-PI (3.3 or newer), all beads of a request in one call.

    Exit codes: 0 the server said EXIT; 2 something to correct (wrong structure, unit or order,
    not-a-number results, broken protocol, outside the trained domain with --on-extrapolation
    raise); 3 no server until the deadline, or it died.
    """
    from nemp_sim.checkpoint import load_potential
    from nemp_sim.files import read_structure
    from nemp_sim.ipi.client import BeadEvaluator, run_client
    from nemp_sim.ipi.server import Server

    modes = [name for name, on in (("unix", unix), ("inet", inet), ("shm", shm)) if on]
    server = Server(" and ".join(modes) or "unix", address, port, prefix)
    engine = load_potential(potential, device, dtype, head, on_extrapolation=on_extrapolation)
    evaluator = BeadEvaluator(
        engine,
        read_structure(template, "template"),
        tolerance_angstrom=tolerance_angstrom,
        max_step_angstrom=max_step_angstrom,
        committee_forces=committee_forces,
    )
    client = run_client(evaluator, server, deadline_s, reconnect=reconnect)
    print(f"i-PI said EXIT: {client.n_frames} frames in {client.n_requests} requests answered")
    print(engine.watch.verdict())


@app.command(cls=Command, rich_help_panel="Workflows")
def many(
    file: Annotated[
        Path, typer.Argument(help=r"TOML file: workflow, \[settings], \[vary], \[\[jobs]].")
    ],
    workers: Annotated[int, typer.Option(help="Processes on this machine.")] = 1,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a running Dask scheduler, tcp://host:8786.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the jobs, do nothing.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors alone.")] = False,
) -> None:
    """Run many jobs of one workflow, several at once; only those that are not done.

    Exit codes: 0; 1 where a job failed or its result is not to be trusted; 2 something to correct;
    130 after Ctrl-C: the same command goes on.
    """
    from nemp_sim.command import STOPPED, print_outcome
    from nemp_sim.console import status_line, terminated_like_interrupted
    from nemp_sim.many import Workers, run_many
    from nemp_sim.sweep import is_done, read_sweep

    sweep = read_sweep(file)
    if dry_run:
        for job in sweep.jobs:
            print(f"{job.directory}: {'done' if is_done(job) else job.plan()}")
        return
    try:
        with terminated_like_interrupted(), status_line(quiet) as show:
            result = run_many(sweep, Workers(workers, scheduler), show)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise typer.Exit(STOPPED) from None
    if not quiet:
        print_outcome(result, ("Jobs",))
    if not result.trusted:
        raise typer.Exit(1)


@app.command("export-lammps", cls=Command, rich_help_panel="Potentials")
def export_lammps(
    potential: Annotated[str, typer.Argument(help="A path, or the name of a potential.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write; default: <name>.mliap.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where the ranks evaluate: auto, cpu …")] = "auto",
    dtype: Annotated[str | None, typer.Option(help="float32 or float64.")] = None,
    head: Annotated[str | None, typer.Option(help="Read-out (level of theory).")] = None,
    memory_gb: Annotated[
        float | None, typer.Option(help="What one rank may take, GB; default: what is free.")
    ] = None,
) -> None:
    """Write a potential for LAMMPS (pair_style mliap unified) and print the input lines."""
    from nemp_sim.lammps import export_lammps, input_lines

    file = output or Path(potential).with_suffix(".mliap").name
    model = export_lammps(potential, file, device, dtype, head, memory_gb)
    print(f"written: {file}\n")
    print(input_lines(model, file))


@app.command("export-metatomic", cls=Command, rich_help_panel="Potentials")
def export_metatomic(
    potential: Annotated[str, typer.Argument(help="A path, or the name of a potential.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Default: <name>-metatomic.pt.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or float64.")] = None,
    head: Annotated[str | None, typer.Option(help="Read-out (level of theory).")] = None,
) -> None:
    """Write a potential as the file that metatomic's engines load (extra: metatomic)."""
    from nemp_sim.checkpoint import load_potential
    from nemp_sim.errors import InputError

    engine = load_potential(potential, "cpu", dtype, head)
    try:
        from nemp_sim.metatomic import export_metatomic
    except ModuleNotFoundError as error:
        raise InputError(
            f"{error.name} is not installed. Install it: pip install 'nemp_sim[metatomic]'."
        ) from None
    file = output or Path(f"{Path(potential).stem}-metatomic.pt")
    print(f"written: {export_metatomic(engine, file)}")


if __name__ == "__main__":
    app()
