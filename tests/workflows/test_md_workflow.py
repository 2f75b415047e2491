import json

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write
from typer.testing import CliRunner

from nemp_sim.workflows.md import Settings, app, run
from tests.engines import StressEMT


def short(tmp_path, **options):
    given = {"picoseconds": 0.06, "equilibration": 0.01, "timestep": 1.0, "every": 5}
    return Settings(**{**given, "frames_every": 10, "out": tmp_path, **options})


def test_default_job_with_two_temperatures_and_replicas(emt, tmp_path):
    settings = short(tmp_path, temperature=(300.0, 600.0), replicas=2)
    result = run(settings, emt)
    assert result.trusted and result.directory.name == "md-h-pd111-nvt-300K-600K"
    names = sorted(path.name for path in result.directory.iterdir())
    assert names == sorted(result.report.files)
    assert set(emt.batches[-60:]) == {4}  # one call a step for all
    report = json.loads((result.directory / "report.json").read_text(encoding="utf-8"))
    for kelvins in (300, 600):
        assert report[f"kinetic_temperature_K_at_{kelvins}K"] > 0
    assert "NVT: 2 replicas of 0.06 ps at 300, 600 K" in report["verdict"]
    assert len(report["averages"]) == 2 and set(report["pairs"][0]) == {"H–Pd"}
    frames = read(result.directory / "trajectory-600K-1.extxyz", ":")
    assert [f.info["step"] for f in frames] == [0, 10, 20, 30, 40, 50, 60]
    assert len(frames[0].constraints) == 1 and frames[-1].get_momenta().any()
    final = read(result.directory / "final.extxyz", ":")
    assert len(final) == 4
    np.testing.assert_allclose(final[-1].positions, result.final[-1].positions, atol=1e-7)


def test_it_goes_on_with_more_picoseconds_and_anew_with_fresh(emt, tmp_path):
    first = run(short(tmp_path), emt)
    calls = len(emt.batches)
    longer = run(short(tmp_path, picoseconds=0.1), emt)
    assert len(emt.batches) == calls + 40
    assert "The start is that of the earlier run here." in longer.report.notes
    log = (longer.directory / "log.csv").read_text().splitlines()
    assert log[0].startswith("step,time_ps,replica,temperature_K") and len(log) == 22
    again = run(short(tmp_path, fresh=True), emt)
    np.testing.assert_array_equal(again.final[0].positions, first.final[0].positions)


class Noisy(StressEMT):
    """Forces that are no derivatives: they heat."""

    def evaluate(self, structures, **wanted):
        found = super().evaluate(structures, **wanted)
        rng = np.random.default_rng(len(self.batches))
        found.forces = tuple(f + rng.normal(0, 0.5, f.shape) for f in found.forces)
        return found


def test_energy_that_is_not_conserved_is_said_first(tmp_path):
    write(tmp_path / "cu.extxyz", bulk("Cu", cubic=True))
    options = {"structure": tmp_path / "cu.extxyz", "potential": "emt", "ensemble": "nve"}
    options |= {"repeat": (2, 1, 1), "picoseconds": 0.2, "timestep": 2.0}
    good = run(short(tmp_path, **options), StressEMT())
    keys = {q.key for q in good.report.quantities}
    assert good.trusted and {"drift_meV_per_ps", "pressure_MPa", "bond_Cu_Cu_A"} <= keys
    assert len(good.final[0]) == 8 and "volume_A3" not in keys
    bad = run(short(tmp_path, **options, name="noisy"), Noisy())
    assert not bad.trusted and bad.report.verdict.startswith("ENERGY NOT CONSERVED")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--repeat", "2 2"), "repeat is (2, 2)"),
        (("--temperature", "300 300"), "must be different numbers"),
        (("--replicas", "0"), "replicas is 0"),
        (("--ensemble", "nph"), "ensemble is 'nph'"),
        (("--ensemble", "npt"), "the structure has a surface or held atoms"),
        (("--equilibration", "2"), "equilibration is 2.0, but must be 0 or more, below 1 ps"),
        (("--picoseconds", "0.21"), "longer than the equilibration of 0.2"),
        (("--frames-every", "5000"), "a frame falls between 0.2 and 1 ps"),
        (("--structure", "none.xyz"), "neither built in"),
        (("--velocities", "file"), "the structure has no momenta"),
        (("--name", "a/b"), "name is 'a/b'"),
    ],
)
def test_bad_options_end_with_one_clear_line(options, message, random_file, tmp_path):
    done = CliRunner().invoke(
        app, ["--potential", str(random_file), "--out", str(tmp_path), *options]
    )
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ") and message in done.stderr
