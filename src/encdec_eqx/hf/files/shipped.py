"""The two small pretrained pieces that ship with the package, by their names.

Knows names and where the folders are; must not know what is in them.
"""

import functools
import logging
import os
from importlib import resources
from pathlib import Path

SHIPPED = ("letters", "phonemes")
"""A BERT that knows English spelling and a GPT-2 that knows English pronunciation, each with its tokenizer."""

_logger = logging.getLogger("encdec_eqx")


def shipped(path: str | os.PathLike) -> Path | None:
    """The folder of a piece that ships with the package, if that is what a string names.

    What lies in the current folder under the same name wins, and that is logged. A repository of the Hub is not meant
    by such a name: it has its owner's in front.
    """
    if not isinstance(path, str) or path not in SHIPPED:
        return None
    if Path(path).exists():
        _say_who_wins(Path(path).absolute())
        return None
    return Path(str(resources.files("encdec_eqx").joinpath("demo", "assets", path)))


@functools.cache
def _say_who_wins(place: Path) -> None:
    """Once, however often the name is looked up."""
    _logger.warning("%r is read from %s, not from the package, which ships a piece of that name.", place.name, place)
