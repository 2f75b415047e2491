"""The physics list: what every potential must satisfy, measured on any potential and device.

Read ``run.py`` first; ``invariance.py``, ``derivatives.py``, ``approach.py``, ``hydrogen.py`` and
``dynamics.py`` measure, for ``nemp validate``, for the tests in tests/physics and for
benchmarks/sanity.py.
"""
