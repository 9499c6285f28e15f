"""
What `python3 -m mitogen demo` shows: a small tree of contexts, and functions that run in each.
"""
