"""Connection method `buildah`: a working container, by buildah(1); a row of containers.TABLE."""

from __future__ import annotations

from mitogen.methods import containers

__all__ = ["Connection", "Options"]

Options, Connection = containers.method("buildah")
