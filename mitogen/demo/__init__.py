"""
The demonstration run by `python3 -m mitogen demo`: a small tree of contexts, and functions to call.
"""
