"""Path integrals: from Atoms to quantum averages with error bars, through i-PI.

Read ``input.py`` first: it says what i-PI propagates and writes its files. ``run.py`` starts i-PI
and the clients, ``averages.py``, ``dynamics.py`` and ``structure.py`` read what they left, and
``free_energy.py`` joins umbrellas.
"""
