"""Attributes of a config that nothing is known of: what is said about them. Knows nothing of configs or families."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from ._quoting import printable, quoted

_logger = logging.getLogger("encdec_eqx")

_SHOWN = 20
_LONGEST_NAME = 60


def not_understood(names: Iterable[str]) -> str:
    """The sentence that a report and a warning say: all names at once."""
    return (
        f"not understood: {_some(printable(name, _LONGEST_NAME) for name in names)}; if it changes numbers, so does "
        "leaving it out (strict_config=True makes this an error)"
    )


def refuse(place: object, attributes: Mapping[str, Any]) -> None:
    """What `strict_config=True` does.

    Raises:
        ValueError: there are attributes that nothing is known of; it names them all.
    """
    if not attributes:
        return
    named = (f"{printable(name, _LONGEST_NAME)} = {quoted(value)}" for name, value in attributes.items())
    raise ValueError(
        f"{printable(str(place))}: not understood: {_some(named)}. strict_config=True makes this an error: without it "
        "they are left out, and saved again. Or remove them from the config, if they change no number."
    )


def say(place: object, attributes: Mapping[str, Any], *, strict: bool) -> None:
    """Refuse the attributes, or name them all in one warning.

    Raises:
        ValueError: `strict`, and there are any.
    """
    if strict:
        refuse(place, attributes)
    if attributes:
        _logger.warning("%s: %s", printable(str(place)), not_understood(attributes))


def _some(items: Iterable[str]) -> str:
    found = list(items)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more
