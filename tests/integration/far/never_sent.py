"""A module that a function imports only after its context has left the tree that could serve it."""
