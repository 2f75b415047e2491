"""Runs ``nemp_sim/workflows/evaluate.py``, as ``nemp evaluate`` does."""

from nemp_sim.workflows.evaluate import app

if __name__ == "__main__":
    app()
