"""Runs ``nemp_sim/workflows/relax.py``, as ``nemp relax`` does."""

from nemp_sim.workflows.relax import app

if __name__ == "__main__":
    app()
