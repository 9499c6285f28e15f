"""From a program at the end of a pipe to a context: start it, talk to it, send it the library."""

from __future__ import annotations
