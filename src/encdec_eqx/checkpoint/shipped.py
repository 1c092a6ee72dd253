"""The two small pretrained pieces that ship with the package, by their names.

Knows names and where the folders are; must not know what is in them.
"""

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
        _logger.warning(
            "%r is read from %s; the piece of that name that ships with the package is not (it is where there is no "
            "such file or folder).",
            path,
            Path(path).absolute(),
        )
        return None
    return Path(str(resources.files("encdec_eqx").joinpath("demo", "assets", path)))
