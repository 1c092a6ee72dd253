"""The command `encdec-eqx`: `main.py` has the table of its commands, each of which is a file beside it."""

from .._signals import SAID_LAST, leaving_while_importing

with leaving_while_importing(SAID_LAST):
    from .main import main as main
