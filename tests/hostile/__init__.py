"""Attacks by a child on the tree that it belongs to.

`forged.py` is the forged child: it speaks the wire, frame by frame, and does as each test wishes.
Each test attacks a master and then shows that an honest child of the same master is served. Limits
are asserted as counts (bytes queued, threads, entries of tables), not as times. The limits
themselves are listed in docs/design/trust.rst. `python -m tests.hostile` prints memory and waits.
"""
