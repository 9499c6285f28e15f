"""What the tests call in other contexts. Python 3.6, imports nothing but mitogen and the stdlib."""
