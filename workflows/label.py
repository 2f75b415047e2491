"""Runs ``nemp_sim/workflows/label.py``, as ``nemp label`` does."""

from nemp_sim.workflows.label import app

if __name__ == "__main__":
    app()
