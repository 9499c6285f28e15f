#!/usr/bin/python
"""Never run: the action plugin of the same name is."""
