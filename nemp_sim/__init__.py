"""NEMP machine-learned interatomic potential: an ASE calculator and workflows for catalysis."""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "NEMP": "calculator",
    "Evaluation": "evaluation",
    "MLPShape": "config",
    "ModelConfig": "config",
    "Potential": "potential",
    "from_arrays": "jax_import",
    "load_potential": "checkpoint",
    "read_checkpoint": "jax_import",
    "save_potential": "checkpoint",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use.

    So the parts without a network (``nemp_sim.labelling``) run where torch is not installed.
    """
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted({*globals(), *_HOME})
