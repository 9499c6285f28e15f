"""Imported by facts.py at its top."""

import textwrap


def line(*words):
    return textwrap.shorten(" ".join(map(str, words)), 200)
