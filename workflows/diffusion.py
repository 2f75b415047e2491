"""Runs ``nemp_sim/workflows/diffusion.py``, as ``nemp diffusion`` does."""

from nemp_sim.workflows.diffusion import app

if __name__ == "__main__":
    app()
