import re
import subprocess
import sys
import threading

import numpy as np
import pytest
from ase import Atoms
from ase.units import Bohr, Hartree, _amu, _me, kB

from nemp_sim.errors import InputError
from nemp_sim.files import private_directory
from nemp_sim.ipi.client import BeadEvaluator, run_client
from nemp_sim.ipi.server import Server
from nemp_sim.potential import Evaluation
from nemp_sim.reactions.instanton import HBAR, TIME_S, _log_partition, instanton
from nemp_sim.reactions.kinetics import crossover_temperature_K, eckart
from nemp_sim.vibrations import vibrations
from tests.ipi_server import ENVIRONMENT, RealServer

HEIGHT, ACROSS = 0.4, 6.0  # eV, eV/Å²


class Eckart1D:
    """V / cosh²(x/a) along x, harmonic across, for one atom."""

    cutoff_angstrom = 3.0

    def __init__(self, width):
        self.width = width

    def evaluate(self, structures, forces=True, stress=False, neighbors=None):
        energy, forces = [], []
        for atoms in structures:
            x, y, z = atoms.positions[0]
            cosh = np.cosh(x / self.width)
            energy.append(HEIGHT / cosh**2 + 0.5 * ACROSS * (y**2 + z**2))
            slope = -2 * HEIGHT / self.width * np.tanh(x / self.width) / cosh**2
            forces.append(-np.array([[slope, ACROSS * y, ACROSS * z]]))
        return Evaluation(np.array(energy), (), tuple(forces), None)


def saddle_of(engine):
    top = Atoms("H", [[0.0, 0.0, 0.0]])
    return vibrations(engine, top, molecule=False, displacement_angstrom=1e-3)


@pytest.fixture(scope="module")
def saddle():
    return saddle_of(Eckart1D(0.4))


def ln_kappa(found, saddle):
    """ln of the flux over the classical one."""
    t, n_beads = found.temperature_K, found.n_beads
    kt = kB * t
    free = np.log(kt / (2 * np.pi * HBAR * TIME_S)) - HEIGHT / kt  # classical flux, 1/s
    across = _log_partition(saddle.energies_eV[1:], n_beads * kt / HBAR, n_beads, t)
    return found.log_flux - free - across


@pytest.mark.parametrize("cold", [0.75, 0.5])
def test_flux_is_that_of_the_semiclassical_integral(cold, saddle):
    """∫ exp(−W(E)/ħ − βE) dE / 2πħ by steepest descent, W = 2πa √(2m) (√V − √E)."""
    quantum = -saddle.energies_eV[0]
    assert quantum == pytest.approx(HBAR * np.sqrt(2 * HEIGHT / 1.008) / 0.4, rel=1e-4)
    t = cold * crossover_temperature_K(quantum)
    found = instanton(Eckart1D(0.4), saddle, saddle, 0.0, t, 96)
    beta = 1 / (kB * t)
    slope = np.pi * 0.4 * np.sqrt(2 * 1.008)
    root = slope / (beta * HBAR)  # √E of the path
    action = 2 * slope * (np.sqrt(HEIGHT) - root) / HBAR + beta * root**2
    curvature = slope / (2 * root**3)
    integral = np.sqrt(2 * np.pi * HBAR / curvature) * np.exp(-action)
    kappa = integral * beta * np.exp(beta * HEIGHT)  # over the classical kT exp(−βV)
    assert found.converged and found.action == pytest.approx(action, rel=3e-3)
    assert np.exp(ln_kappa(found, saddle)) == pytest.approx(kappa, rel=0.02)


@pytest.mark.parametrize("cold", [0.75, 0.5])
def test_rate_through_the_symmetric_eckart_barrier(cold):
    """A broad barrier (α = 61): the semiclassical error, exp(−π²/4α), is 4 %."""
    engine = Eckart1D(1.4)
    saddle = saddle_of(engine)
    quantum = -saddle.energies_eV[0]
    t = cold * crossover_temperature_K(quantum)
    found = instanton(engine, saddle, saddle, 0.0, t, 64)
    exact = eckart(quantum, HEIGHT, HEIGHT, t)
    assert found.converged and exact > 100
    assert np.exp(ln_kappa(found, saddle)) == pytest.approx(exact, rel=0.05)


def test_more_beads_change_little(saddle):
    t = 0.6 * crossover_temperature_K(-saddle.energies_eV[0])
    few, many = (instanton(Eckart1D(0.4), saddle, saddle, 0.0, t, n) for n in (32, 64))
    assert few.action == pytest.approx(many.action, rel=0.01)
    assert few.path_A == pytest.approx(many.path_A, rel=0.05)
    energies = [bead.get_potential_energy() for bead in many.beads]
    assert max(energies) < HEIGHT and len(energies) == 32
    xs = [bead.positions[0, 0] for bead in many.beads]
    assert xs[0] == pytest.approx(-xs[-1], abs=1e-3)  # symmetric


def test_partition_function_of_many_beads_is_that_of_the_oscillator():
    energy, t, n = np.array([0.05]), 200.0, 4096
    kt = kB * t
    exact = -np.log(2 * np.sinh(0.5 * energy[0] / kt))
    assert _log_partition(energy, n * kt / HBAR, n, t) == pytest.approx(exact, abs=1e-5)


def test_no_instanton_above_the_crossover(saddle):
    t = crossover_temperature_K(-saddle.energies_eV[0])
    with pytest.raises(InputError, match="an instanton exists only below the crossover"):
        instanton(Eckart1D(0.4), saddle, saddle, 0.0, t)
    with pytest.raises(InputError, match="n_beads is 7, but must be even"):
        instanton(Eckart1D(0.4), saddle, saddle, 0.0, 0.5 * t, 7)


IPI_INSTANTON = """<simulation verbosity='low'>
<output prefix='run'><properties filename='out'>[step, potential]</properties></output>
<total_steps>100</total_steps>
<ffsocket name='ff' mode='unix'><address>ring</address><latency>1e-3</latency>
<batch_size>{half}</batch_size></ffsocket>
<system><initialize nbeads='{half}'><file mode='xyz'>init.xyz</file></initialize>
<forces><force forcefield='ff'/></forces>
<ensemble><temperature units='kelvin'>{temperature}</temperature></ensemble>
<motion mode='instanton'><instanton mode='rate'>
<tolerances><energy>1e-7</energy><force>1e-7</force><position>1e-4</position></tolerances>
<alt_out>-1</alt_out><opt>nichols</opt><delta>0.5</delta><biggest_step>0.2</biggest_step>
<hessian_update>recompute</hessian_update><hessian_final>True</hessian_final>
<hessian shape='(3,3)'>[{hessian}]</hessian>
</instanton></motion></system></simulation>"""


def ipi_instanton(directory, engine, temperature_K, n_beads):
    """ln k Q_r (1/s) and S/ħ by i-PI's own instanton and post-processing."""
    curvatures = np.array([-2 * HEIGHT / engine.width**2, ACROSS, ACROSS]) * Bohr**2 / Hartree
    text = IPI_INSTANTON.format(
        half=n_beads // 2,
        temperature=temperature_K,
        hessian=", ".join(f"{x:.10f}" for x in np.diag(curvatures).ravel()),
    )
    top = Atoms("H", [[0.0, 0.0, 0.0]])
    evaluator = BeadEvaluator(engine, top, max_step_angstrom=np.inf)
    server = Server("unix", "ring", prefix=f"{directory}/")
    with RealServer(directory, top, text=text) as ipi:
        client = threading.Thread(target=run_client, args=(evaluator, server, 30), daemon=True)
        client.start()
        assert ipi.process.wait(timeout=60) == 0, ipi.log()
        client.join(5)
    command = [sys.executable, "-m", "ipi.utils.tools.instanton_postproc", "RESTART"]
    command += ["-c", "instanton", "-t", str(temperature_K), "-asr", "none"]
    said = subprocess.run(
        command, cwd=directory, env=ENVIRONMENT, capture_output=True, text=True, check=True
    ).stdout
    (line,) = re.findall(r"S2/hbar *\) \|\s+(.*)", said)
    stretch, _, _, _, log_modes, action, *_ = map(float, re.findall(r"-?[\d.]+", line))
    stretch *= Bohr**2 * _me / _amu  # amu Å²
    beta_n = 1 / (n_beads * kB * temperature_K)
    flux = -np.log(beta_n * HBAR * TIME_S) + 0.5 * np.log(stretch / (2 * np.pi * beta_n * HBAR**2))
    return flux + log_modes - np.log(n_beads) - action, action


def test_agrees_with_the_instanton_of_ipi(saddle):
    """i-PI finds the ring polymer and its post-processing gives action, B_N and the modes."""
    engine = Eckart1D(0.4)
    t = round(0.5 * crossover_temperature_K(-saddle.energies_eV[0]), 3)
    with private_directory() as directory:
        flux, action = ipi_instanton(directory, engine, t, 32)
    found = instanton(engine, saddle, saddle, 0.0, t, 32)
    assert found.converged
    assert found.action == pytest.approx(action, abs=2e-3)  # three digits are printed
    assert found.log_flux == pytest.approx(flux, abs=5e-3)
