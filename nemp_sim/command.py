"""A workflow as a command: its options are the fields of its Settings, and are declared there."""

import inspect
import re
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from nemp_sim.console import (
    Command,
    plain_warnings,
    status_line,
    terminated_like_interrupted,
)
from nemp_sim.domain_report import UNTRUSTED, is_outside
from nemp_sim.options import Option, options_of, read_settings, to_toml
from nemp_sim.report import plain

STOPPED = 130  # exit code after Ctrl-C of a run that the same command takes up
SHARED = ("potential", "head", "device", "dtype", "on_extrapolation", "out", "name")
Parameter = inspect.Parameter
BESIDES = {  # what every workflow understands besides its settings
    "config": (Path, "TOML file of settings; the command line wins."),
    "dry_run": (bool, "Print the settings and what would be done, and do nothing."),
    "quiet": (bool, "Print errors alone."),
}


def workflow_app(
    settings: type,
    run: Callable[..., Any],
    *,
    goes_on: bool = False,
    sections: Sequence[str] = (),
) -> typer.Typer:
    """The command of a workflow, described by the docstring of its module.

    Exit codes: 0; 1 where the result is not to be trusted or lies outside the trained domain; 2
    for what the user can correct; 130 after Ctrl-C of a run that goes on.

    Args:
        settings: its frozen settings, with ``directory`` and ``plan()``.
        run: ``run(settings, show=...)``; its result is a ``workflow.WorkflowResult``.
        goes_on: the same command goes on after Ctrl-C.
        sections: headings of the report's sections that are printed too.
    """
    options = options_of(settings)
    names = [option.name for option in options]

    def main(
        context: typer.Context, config: Path | None, dry_run: bool, quiet: bool, **given: object
    ) -> None:
        values = {} if config is None else read_settings(config, settings)
        for option in options:
            if getattr(context.get_parameter_source(option.name), "name", "") == "COMMANDLINE":
                values[option.name] = option.from_text(given[option.name])
        chosen = settings(**values)
        if dry_run:
            print(f"{to_toml(plain(chosen))}\n{chosen.plan()}\nfiles in {chosen.directory}/")
            return
        try:
            with plain_warnings(), terminated_like_interrupted(), status_line(quiet) as show:
                result = run(chosen, show=show)
        except KeyboardInterrupt:
            print(_stopped(chosen, goes_on), file=sys.stderr)
            raise typer.Exit(STOPPED) from None
        if not quiet:
            print_outcome(result, sections)
        if is_outside(result.report) or not result.trusted:
            raise typer.Exit(UNTRUSTED)

    signature = inspect.Signature(
        [
            Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context),
            *(_parameter(option, names) for option in options),
            *(_besides(name, kind, text) for name, (kind, text) in BESIDES.items()),
        ]
    )
    vars(main)["__signature__"] = signature
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(cls=Command, help=_reflowed(sys.modules[run.__module__].__doc__ or ""))(main)
    return app


def _stopped(chosen: Any, goes_on: bool) -> str:  # noqa: ANN401 (settings of any workflow)
    """What to say after Ctrl-C, and how to go on."""
    if goes_on:
        return "stopped; the same command goes on from here"
    if not chosen.directory.is_dir():
        return "stopped; nothing was written"
    restart = " --restart goes on from it;" if hasattr(chosen, "restart") else ""
    return (
        f"stopped; the last complete step is in {chosen.directory}/.{restart} the same command "
        "begins anew"
    )


def print_outcome(result: Any, sections: Sequence[str]) -> None:  # noqa: ANN401 (any workflow's)
    """Title, verdict and notes of a report, the wanted sections, and where the files are."""
    report = result.report
    print(f"{report.title}\n{report.verdict}")
    for note in report.notes:
        print(f"- {note}")
    for heading in sections:
        print(f"\n{report.sections[heading]}")
    print(f"files in {result.directory}/")


def _parameter(option: Option, names: Collection[str]) -> Parameter:
    """A field as typer wants it; several values are one text, several files several options."""
    panel = "Potential and results" if option.name in SHARED else "Options"
    text = escape(_help(option.text, names))
    kind: Any = option.kind
    default, metavar = option.default, None
    if option.several and kind is Path:
        kind, default, metavar = list[Path], [], "<path>"
    elif option.several:
        metavar = "<words>" if kind is str else "<numbers>"
        default = ",".join(str(value) for value in default) if default else None
        kind = str
    if default is None:
        kind = kind | None
    completion = _potentials if option.name == "potential" else None
    declared = typer.Option(
        help=text, rich_help_panel=panel, metavar=metavar, autocompletion=completion
    )
    annotation = Annotated[kind, declared]
    return Parameter(option.name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _besides(name: str, kind: type, text: str) -> Parameter:
    flag = "--" + name.replace("_", "-")
    declared = typer.Option(flag, help=text, rich_help_panel="Command")
    wanted: Any = bool if kind is bool else kind | None
    default = False if kind is bool else None
    annotation = Annotated[wanted, declared]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _help(text: str, names: Collection[str]) -> str:
    """What a docstring says of a field, in the words of the command line."""

    def named(match: re.Match[str]) -> str:
        name = match[1]
        if name in ("out", "name"):
            return name.upper()
        return f"--{name.replace('_', '-')}" if name in names else name

    return re.sub(r"``([^`]+)``", named, text).replace("None:", "default:")


def _reflowed(text: str) -> str:
    """A docstring with a line for each paragraph; the terminal breaks it again."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _potentials(incomplete: str) -> list[str]:
    """Names of potentials that complete a word on the command line."""
    from nemp_sim.checkpoint import potential_directories

    found = (path.name for folder in potential_directories() for path in folder.glob("*.pt"))
    return sorted(name for name in found if name.startswith(incomplete))
