"""Every example runs as a user would run it."""

import subprocess
import sys
from pathlib import Path

import pytest

from nemp_sim.checkpoint import shipped_directory

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(script, tmp_path):
    if "pdh.pt" in script.read_text() and not (shipped_directory() / "pdh.pt").is_file():
        pytest.skip("potentials/pdh.pt is not here")
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
