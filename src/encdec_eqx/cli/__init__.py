"""The command `encdec-eqx`: `main.py` has the table of its commands, each of which is a file beside it."""

from .main import main as main
