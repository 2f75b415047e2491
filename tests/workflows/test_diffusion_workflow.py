import json

import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write
from typer.testing import CliRunner

from nemp_sim.reactions.diffusion import hollow_diffusion
from nemp_sim.workflows.diffusion import Settings, app, run


def test_default_job_compares_with_hops(emt, tmp_path):
    settings = Settings(picoseconds=0.1, timestep=1.0, replicas=2, out=tmp_path)
    result = run(settings, emt)
    names = sorted(path.name for path in result.directory.iterdir())
    assert names == sorted(result.report.files)
    report = json.loads((result.directory / "report.json").read_text(encoding="utf-8"))
    assert report["diffusion_A2_per_ps"] == result.found.constant_A2_per_ps
    assert not result.trusted and report["verdict"].startswith("NO DIFFUSION CONSTANT: the replic")
    hops = result.hops_A2_per_ps
    assert set(hops) == {"classical", "quantum", "wigner", "eckart"} and min(hops.values()) > 0
    frames = read(result.directory / "final.extxyz", ":")
    assert len(frames) == 2 and np.ptp([f.positions[-1] for f in frames], axis=0).max() > 0


def test_detailed_balance_of_the_hops():
    """D is the same seen from either hollow."""
    assert hollow_diffusion(1e11, 3e11, 2.8) == pytest.approx(hollow_diffusion(3e11, 1e11, 2.8))


def test_structure_of_a_file_is_measured_against_the_others(emt, tmp_path):
    write(tmp_path / "pair.extxyz", Atoms("Al2", [[0, 0, 0], [0, 0, 2.8]]))
    settings = Settings(
        tmp_path / "pair.extxyz",
        atom=0,
        dimensions=3,
        picoseconds=0.2,
        timestep=2.0,
        replicas=3,
        out=tmp_path,
    )
    result = run(settings, emt)
    assert result.hops_A2_per_ps is None and "Al0" in result.report.notes[0]
    assert result.directory.name == "diffusion-pair-600K"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--replicas", "1"), "replicas is 1"),
        (("--dimensions", "4"), "dimensions is 4"),
        (("--picoseconds", "0.001"), "picoseconds is 0.001, but must be 100 time steps or more"),
        (("--structure", "none.xyz"), "there is no such file"),
        (("--name", "a/b"), "name is 'a/b'"),
    ],
)
def test_bad_options_end_with_one_clear_line(options, message, random_file, tmp_path):
    done = CliRunner().invoke(
        app, ["--potential", str(random_file), "--out", str(tmp_path), *options]
    )
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ") and message in done.stderr
