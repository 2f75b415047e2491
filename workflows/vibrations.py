"""Runs ``nemp_sim/workflows/vibrations.py``, as ``nemp vibrations`` does."""

from nemp_sim.workflows.vibrations import app

if __name__ == "__main__":
    app()
