"""Runs ``nemp_sim/workflows/adsorption.py``, as ``nemp adsorption`` does."""

from nemp_sim.workflows.adsorption import app

if __name__ == "__main__":
    app()
