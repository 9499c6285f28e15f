"""Interleavings: each test makes one race happen, by an injected pause, error or interruption.

Nothing here depends on luck or on time: the other side acts at a named point of the code.
"""
