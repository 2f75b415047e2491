"""What a refusal looks like: exit code 2, one line, nothing written, no traceback."""

from pathlib import Path

from typer.testing import CliRunner

EXECUTED = "executed"  # name of the file that a live payload would make


def files_under(directory):
    """Every file below ``directory`` with its bytes."""
    return {path: path.read_bytes() for path in Path(directory).rglob("*") if path.is_file()}


def assert_refused(app, arguments, directory, message=""):
    """Run a command that must refuse: exit code 2, one line of error, the files as they were."""
    before = files_under(directory)
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    said = result.output.strip()
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2, (result.exit_code, said)
    assert said.startswith("error: ") and "Traceback" not in said
    assert len(said.splitlines()) == 1, said
    assert message in said, said
    assert files_under(directory) == before
    return said
