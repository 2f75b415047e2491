"""Reactions: from two minima to a path, a proved saddle, and rates.

Read ``neb.py`` first, then ``reaction.py``, which chains the rest: ``transition_state.py`` refines
and proves the saddle, ``kinetics.py`` and ``instanton.py`` make rates of it. ``ends.py``,
``matching.py`` and ``steps.py`` see to the ends of a path and the minima on its way;
``diffusion.py`` is molecular dynamics without a path.
"""
