"""Imported by a function only after its context has left the tree that has this."""
