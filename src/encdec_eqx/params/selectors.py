"""Selectors: short texts that pick arrays by their readable names."""

import dataclasses
import difflib
import fnmatch
import functools
import re
from collections.abc import Mapping, Sequence

from .._quoting import quoted

Selectors = str | Sequence[str]
"""Parts joined by `|`, or a sequence of such texts: `"cross_attention | decoder.layers.6- | !bias"`."""

_RANGE = re.compile(r"(\d*)(-?)(\d*)")

GRAMMAR = (
    "A part is a name, or any run of its components, such as 'encoder', 'decoder.layers.6-', 'layers.0-3', "
    "'cross_attention', 'norm', '*.bias'; parts are joined by '|', and '!' before a part takes it away."
)


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a selector.

    Attributes:
        text: as it was written.
        components: patterns of successive components of a name.
        takes_away: whether it began with `!`.
    """

    text: str
    components: tuple[str, ...]
    takes_away: bool

    def matches(self, name: str) -> bool:
        """Whether some run of the name's components fits."""
        return self._matches(name, _fits)

    def matches_but_for_numbers(self, name: str) -> bool:
        """Whether it would match with other numbers of layers."""
        return self._matches(name, lambda pattern, word: word.isdigit() if _is_range(pattern) else _fits(pattern, word))

    def numbers(self) -> set[int]:
        """The numbers that it names."""
        ranges = [_RANGE.fullmatch(pattern) for pattern in self.components if _is_range(pattern)]
        return {int(end) for found in ranges if found for end in (found[1], found[3]) if end}

    def _matches(self, name: str, fits) -> bool:
        words = name.split(".")
        starts = range(len(words) - len(self.components) + 1)
        return any(all(map(fits, self.components, words[start:])) for start in starts)


def parse(selectors: Selectors) -> tuple[Part, ...]:
    """The parts of a selector.

    Raises:
        TypeError: it is neither a text nor a sequence of texts.
        ValueError: a part is empty, or its layers are written the wrong way round.
    """
    texts = [selectors] if isinstance(selectors, str) else selectors
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise TypeError(
            f"selectors must be a text such as 'decoder | !bias', or a list of such, got {quoted(selectors)}."
        )
    parts = tuple(_part(text.strip()) for whole in texts for text in whole.split("|"))
    if not parts:
        raise ValueError(f"the list of selectors is empty. {GRAMMAR}")
    return parts


def select(
    selectors: Selectors, names: Sequence[tuple[str, ...]], *, unpickable: Mapping[str, str] | None = None
) -> list[bool]:
    """Which things are picked: those that any part matches (all, if every part takes away), without those taken away.

    Args:
        selectors: see `Selectors`.
        names: of each thing; several if it is shared by several layers, which are then picked together.
        unpickable: names of things that cannot be picked, and why, for the message.

    Raises:
        TypeError: the selectors are no text.
        ValueError: a part matches nothing, takes nothing away, or matches some of the layers that share an array.
    """
    parts = parse(selectors)
    hits = {part: [_hit(part, group) for group in names] for part in parts}
    for part, found in hits.items():
        if not any(found) or not part.numbers() <= _known_numbers(part, names):
            raise ValueError(_no_match(part, names, unpickable or {}))
    adding = [hits[part] for part in parts if not part.takes_away]
    picked = [any(column) for column in zip(*adding, strict=True)] if adding else [True] * len(names)
    for part in parts:
        if part.takes_away:
            if not any(one and other for one, other in zip(picked, hits[part], strict=True)):
                raise ValueError(f"the selector {quoted(part.text)} takes nothing away from what the other parts pick.")
            picked = [one and not other for one, other in zip(picked, hits[part], strict=True)]
    return picked


def _part(text: str) -> Part:
    takes_away = text.startswith("!")
    components = tuple(text.removeprefix("!").strip().split("."))
    if not all(components):
        raise ValueError(f"a selector has an empty part or component: {quoted(text)}. {GRAMMAR}")
    for pattern in components:
        found = _RANGE.fullmatch(pattern)
        if found and found[1] and found[3] and int(found[1]) > int(found[3]):
            raise ValueError(f"the selector {quoted(text)} counts backwards; write {found[3]}-{found[1]}.")
    return Part(text, components, takes_away)


@functools.cache  # the same few words are compared for every array
def _fits(pattern: str, word: str) -> bool:
    if not _is_range(pattern):
        return fnmatch.fnmatchcase(word, pattern)
    if not word.isdigit():
        return False
    found = _RANGE.fullmatch(pattern)
    assert found is not None
    low, dash, high = found.groups()
    if not dash:
        return int(word) == int(low)
    return int(low or 0) <= int(word) and (not high or int(word) <= int(high))


@functools.cache
def _is_range(pattern: str) -> bool:
    return any(letter.isdigit() for letter in pattern) and _RANGE.fullmatch(pattern) is not None


def _hit(part: Part, names: tuple[str, ...]) -> bool:
    found = [name for name in names if part.matches(name)]
    if found and len(found) < len(names):
        other = next(name for name in names if name not in found)
        raise ValueError(
            f"the selector {quoted(part.text)} matches {found[0]} but not {other}, and these layers share their "
            "weights: select all of them or none."
        )
    return bool(found)


def _known_numbers(part: Part, names: Sequence[tuple[str, ...]]) -> set[int]:
    matched = [name for group in names for name in group if part.matches_but_for_numbers(name)]
    return {int(word) for name in matched for word in name.split(".") if word.isdigit()}


def _no_match(part: Part, names: Sequence[tuple[str, ...]], unpickable: Mapping[str, str]) -> str:
    for name, why in unpickable.items():
        if part.matches(name):
            return f"the selector {quoted(part.text)} matches only what cannot be picked: {quoted(name)} {why}."
    known = _known_numbers(part, names)
    if known and part.numbers():
        there = f"they go from {min(known)} to {max(known)}"
        return f"the selector {quoted(part.text)} names layers that are not there: {there}."
    return f"the selector {quoted(part.text)} matches no array of the model; {_hint(part, names)}. {GRAMMAR}"


def _hint(part: Part, names: Sequence[tuple[str, ...]]) -> str:
    for group in names:
        whole = _with_what_is_left_out(part, group[0].split("."))
        if whole is not None:
            return f"components must follow one another, so perhaps {quoted(whole)} is meant"
    near = difflib.get_close_matches(".".join(part.components), _candidates(part, names), n=3, cutoff=0.6)
    if near:
        return f"the nearest names are {', '.join(map(repr, near))}"
    words = {word: None for group in names for word in group[0].split(".") if not word.isdigit()}
    return f"its names are made of {', '.join(words)}"


def _with_what_is_left_out(part: Part, words: list[str]) -> str | None:
    """The components with those between them, any layer standing for all, if a name has them in this order."""
    found, start = [], 0
    for pattern in part.components:
        at = next((at for at in range(start, len(words)) if _fits(pattern, words[at])), None)
        if at is None:
            return None
        between = ["*" if word.isdigit() else word for word in words[start:at]] if found else []
        found += [*between, pattern]
        start = at + 1
    return ".".join(found)


def _candidates(part: Part, names: Sequence[tuple[str, ...]]) -> list[str]:
    """Runs of components, as long as the part, with its own range of layers in place of their numbers."""
    ranges = [pattern for pattern in part.components if _is_range(pattern)]
    number = ranges[0] if ranges else "0"
    runs = {}
    for group in names:
        words = [number if word.isdigit() else word for word in group[0].split(".")]
        for start in range(len(words) - len(part.components) + 1):
            runs[".".join(words[start : start + len(part.components)])] = None
    return list(runs)
