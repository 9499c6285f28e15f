#!/usr/bin/python
"""A module that never runs, because of the action plugin with the same name."""
