"""Where the checkout is: tests find its files from here, in whatever folder they are themselves."""

import pathlib

__all__ = ["ROOT"]

ROOT = pathlib.Path(__file__).resolve().parents[1]
