"""Runs ``nemp_sim/workflows/umbrella.py``, as ``nemp umbrella`` does."""

from nemp_sim.workflows.umbrella import app

if __name__ == "__main__":
    app()
