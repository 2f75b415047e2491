"""NEMP machine-learned interatomic potential: an ASE calculator and workflows for catalysis."""

from nemp_sim.calculator import NEMP
from nemp_sim.checkpoint import load_potential, save_potential
from nemp_sim.config import MLPShape, ModelConfig
from nemp_sim.jax_import import from_arrays, read_checkpoint
from nemp_sim.potential import Evaluation, Potential

__version__ = "0.1.0"

__all__ = [
    "NEMP",
    "Evaluation",
    "MLPShape",
    "ModelConfig",
    "Potential",
    "from_arrays",
    "load_potential",
    "read_checkpoint",
    "save_potential",
]
