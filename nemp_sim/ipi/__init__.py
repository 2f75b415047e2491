"""The client for i-PI: forces of a potential for whatever i-PI propagates.

Read ``client.py`` first; ``wire.py`` knows the bytes, ``server.py`` the addresses, ``guard.py``
what must not be evaluated. ``pes.py`` is the other way in: i-PI loads it by its path.
"""
