"""Imported by facts.py inside a function."""

ANSWER = 42
