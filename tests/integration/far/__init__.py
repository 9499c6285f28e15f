"""Functions that tests call in other contexts. Python 3.6; imports only mitogen and the stdlib."""
