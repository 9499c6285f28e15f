"""Connection method `jail`: a FreeBSD jail, by jexec(8); a row of containers.TABLE."""

from __future__ import annotations

from mitogen.methods import containers

__all__ = ["Connection", "Options"]

Options, Connection = containers.method("jail")
