"""Classical molecular dynamics: many replicas, ASE's integrators, one engine call a step.

Start reading in ``run``; ``joined`` shows the replicas to the integrator as one structure,
``files`` holds what a run writes on its way, and ``averages`` what it found.
"""
