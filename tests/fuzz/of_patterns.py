"""Random patterns against Python's `re`, and hostile ones against the clock. Knows no automaton.

A walk takes allowed tokens at random until the end: what it spells must match, and it must end in time.
"""

import itertools
import random
import re
import string
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from judging import attempt

from encdec_eqx.generation.constraints import TokenDFA, from_regex, from_sequences, from_token_regex

Tell = Callable[[str], None]
LETTERS = "ab0"
TEXTS = ["".join(text) for size in range(5) for text in itertools.product(LETTERS, repeat=size)]
EXTRA = " _\n-é"

_allowed = jax.jit(lambda constraint, states, remaining: constraint.allowed(states, remaining))
_advance = jax.jit(lambda constraint, states, tokens: constraint.advance(states, tokens))


def random_pattern(rng: random.Random, depth: int, symbol: Callable[[random.Random], str]) -> str:
    """A pattern that can be read, mostly."""
    kind = rng.randrange(6 if depth else 1)
    if kind == 0:
        return symbol(rng)
    if kind <= 2:
        return "".join(random_pattern(rng, depth - 1, symbol) for _ in range(rng.randint(1, 3)))
    if kind == 3:
        inside = "|".join(random_pattern(rng, depth - 1, symbol) for _ in range(rng.randint(1, 3)))
        return rng.choice(["(", "(?:"]) + inside + ")"
    part = symbol(rng) if rng.random() < 0.3 else f"({random_pattern(rng, depth - 1, symbol)})"
    return part + rng.choice(["*", "+", "?", "{2}", "{0,2}", "{1,}", "{1,3}", "{0}", "{0,}", "{3}"])


def _character(rng: random.Random) -> str:
    classes = ["[ab]", "[^b]", "[^\\d]", "[a-b]", "[0-9a]", "[^\\w]", "[-a]", "[a\\-b]", "[\\s_]", "[^a0]", "[.]"]
    return rng.choice(
        [*LETTERS, *LETTERS, ".", "\\w", "\\d", "\\s", "\\D", "\\W", "\\S", "\\x61", "_", "\\n", "", *classes]
    )


def _matcher(pattern: str) -> re.Pattern | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return re.compile(pattern)
        except (re.error, OverflowError, RecursionError):
            return None


class Patterns:
    """`from_regex` over vocabularies whose tokens are one character or several."""

    def __init__(self, folder: Any):
        del folder

    def __call__(self, rng: random.Random, tell: Tell) -> tuple[str, list[str]]:
        """One pattern."""
        pattern = random_pattern(rng, rng.randint(1, 4), _character)
        if rng.random() < 0.15:
            at = rng.randrange(len(pattern) + 1)
            pattern = (
                pattern[:at]
                + rng.choice(["(", ")", "[", "]", "{", "}", "\\", "^", "$", "|", "?", "*", "-", ","])
                + pattern[at:]
            )
        longer = [
            "".join(rng.choice(LETTERS + EXTRA) for _ in range(rng.randint(2, 4))) for _ in range(rng.randrange(8))
        ]
        tokens: list[str | None] = [None, *LETTERS, *EXTRA, *longer, "", rng.choice([None, "a"])]
        tell(f"{pattern!r} over {longer}")
        matcher = _matcher(pattern)
        result = attempt(lambda: from_regex(pattern, tokens, eos_token_id=0))
        if result.value is None:
            empty = "No output can be valid" in str(result.error)
            faults = [
                f"said that nothing matches, and {text!r} does"
                for text in TEXTS
                if empty and matcher and matcher.fullmatch(text)
            ]
            return "refused", result.faults + faults[:1]
        if matcher is None:
            return "read", [*result.faults, "read what `re` refuses"]
        constraint, faults = result.value, result.faults
        for text in TEXTS:
            matches = matcher.fullmatch(text) is not None
            if constraint.accepts([*_spelled(rng, text, tokens), 0]) != matches:
                faults.append(f"{text!r} {'matches and is not' if matches else 'does not match and is'} accepted")
                break
        shortest = min((len(text) for text in TEXTS if matcher.fullmatch(text)), default=None)
        if shortest is not None and constraint.least_new_tokens > shortest + 1:
            faults.append(f"least_new_tokens is {constraint.least_new_tokens}; {shortest + 1} are enough")
        said, ids = _walked(rng, constraint, room=constraint.least_new_tokens + rng.randrange(4))
        if said or matcher.fullmatch("".join(tokens[id_] or "" for id_ in ids)) is None:
            faults.append(said or f"a walk spelled {[tokens[id_] for id_ in ids]}, which does not match")
        return "read", faults


def _spelled(rng: random.Random, text: str, tokens: list[str | None]) -> list[int]:
    """Ids that spell a text, one way of several."""
    ids: list[int] = []
    while text:
        fits = [id_ for id_, token in enumerate(tokens) if id_ and token and text.startswith(token)]
        chosen = rng.choice(fits)
        ids.append(chosen)
        text = text[len(tokens[chosen] or "") :]
    return ids


def _walked(rng: random.Random, constraint: TokenDFA, *, room: int) -> tuple[str, list[int]]:
    """A walk of at most so many tokens: what went wrong, and its ids without the end."""
    states, ids = constraint.start(1), []
    for remaining in range(room, 0, -1):
        allowed = np.flatnonzero(np.asarray(_allowed(constraint, states, np.int32(remaining)))[0])
        if not allowed.size:
            return f"nothing is allowed behind {ids} with {remaining} to go", ids
        token = int(rng.choice(allowed.tolist()))
        if token in constraint.end_ids:
            accepted = constraint.accepts([*ids, token])
            return ("" if accepted else f"the walk {ids} ended and is not accepted"), ids
        ids.append(token)
        states = _advance(constraint, states, np.asarray([token], np.int32))
    return f"the walk {ids} did not end within {room} tokens", ids


def _token(rng: random.Random) -> str:
    space = rng.choice(["", "", " "])
    return (
        space
        + rng.choice(["<3>", "<4>", "<5>", "<3>", "[<3><5>]", "[^<4>]", "[<3>-<4>]", ".", "[ <4> - <5> ]", ""])
        + space
    )


AS_CHARACTERS = {"<3>": "a", "<4>": "b", "<5>": "c"}


class TokenPatterns:
    """`from_token_regex`, whose ids stand for characters to `re`."""

    def __init__(self, folder: Any):
        del folder

    def __call__(self, rng: random.Random, tell: Tell) -> tuple[str, list[str]]:
        """One pattern."""
        pattern = random_pattern(rng, rng.randint(1, 4), _token)
        if rng.random() < 0.1:
            at = rng.randrange(len(pattern) + 1)
            pattern = (
                pattern[:at]
                + rng.choice(["(", ")", "[", "<", ">", "{", "<2>", "<99>", "a", "^", "<0>", "-", "<-1>"])
                + pattern[at:]
            )
        tell(repr(pattern))
        result = attempt(lambda: from_token_regex(pattern, eos_token_id=[2, 0], vocab_size=6))
        if result.value is None:
            return "refused", result.faults
        translated = pattern
        for token, letter in AS_CHARACTERS.items():
            translated = translated.replace(token, letter)
        matcher = _matcher("".join(letter for letter in translated if letter not in string.whitespace))
        if matcher is None:
            return "read", [*result.faults, "read what `re` refuses"]
        ids = {letter: int(token[1:-1]) for token, letter in AS_CHARACTERS.items()}
        texts = [text.replace("0", "c") for text in TEXTS]
        said = {text: result.value.accepts([*(ids[letter] for letter in text), 2]) for text in texts}
        wrong = [text for text in texts if said[text] != bool(matcher.fullmatch(text))]
        return "read", result.faults + [f"{text!r} is taken otherwise than by `re`" for text in wrong[:1]]


class HostilePatterns:
    """Patterns, vocabularies and tables that are small and ask for much."""

    def __init__(self, folder: Any):
        del folder
        rng = random.Random(0)
        self.tokens = [
            None,
            *(
                "".join(rng.choice(string.ascii_lowercase + " 0é") for _ in range(rng.randint(1, 6)))
                for _ in range(2_000)
            ),
        ]

    def __call__(self, rng: random.Random, tell: Tell) -> tuple[str, list[str]]:
        """One of them."""
        what = rng.choice(["characters", "characters", "tokens", "sequences", "table", "sizes"])
        call, said = getattr(self, f"_{what}")(rng)
        tell(f"{what}: {said:.200}")
        result = attempt(call)
        return ("refused" if result.error is not None else "built"), result.faults

    def _characters(self, rng: random.Random) -> tuple[Callable[[], Any], str]:
        pattern = _hostile(rng, lambda r: r.choice(["a", ".", "[a-z]", "\\w", "b?", "[^a]", "é", "\\d"]))
        return lambda: from_regex(pattern, self.tokens, eos_token_id=0), pattern

    def _tokens(self, rng: random.Random) -> tuple[Callable[[], Any], str]:
        pattern = _hostile(rng, lambda r: r.choice(["<3>", ".", "[<3>-<900>]", "<4>?", "[^<3>]"]))
        return lambda: from_token_regex(pattern, eos_token_id=0, vocab_size=1_000), pattern

    def _sequences(self, rng: random.Random) -> tuple[Callable[[], Any], str]:
        values: list[Any] = [
            *(
                [],
                [[]],
                [[0]],
                [[1], [1, 2]],
                [[-1]],
                [["a"]],
                ["ab"],
                [[2**31]],
                [[1.5]],
                [None],
                3,
                "ab",
                [[[1]]],
                [[True]],
            ),
            *([list(range(1, 900))] * 2, [[1] * 20_000], [[i % 900 + 1] for i in range(20_000)], [np.arange(3.0)]),
        ]
        value: Any = rng.choice(values)
        end: Any = rng.choice([0, [0], [], [0, 0], -1, 10**9, "0", True, None, 1.0])
        return lambda: from_sequences(value, eos_token_id=end, vocab_size=1_000), f"{value!r:.80} {end!r}"

    def _table(self, rng: random.Random) -> tuple[Callable[[], Any], str]:
        shape = rng.choice([(1, 4), (3, 4), (0, 4), (4, 0), (4,), (2, 2, 2), (300, 300)])
        table = np.random.default_rng(rng.getrandbits(32)).integers(-1, max(shape[0], 1) + 1, shape)
        table = rng.choice([table, table.astype(float), table.tolist(), table > 0, np.minimum(table, shape[0] - 1)])
        start: Any = rng.choice([0, 1, -1, 99, None, "a", 0.0])
        accepting: Any = rng.choice([[0], [], [99], [-1], [True], None, "a", [0.5], 0])
        return (
            lambda: TokenDFA.from_dense(
                table, start=start, accepting=accepting, eos_token_id=rng.choice([0, 3, [1, 2]])
            ),
            f"{shape} {start!r} {accepting!r}",
        )

    def _sizes(self, rng: random.Random) -> tuple[Callable[[], Any], str]:
        size: Any = rng.choice(
            [10**9, 2**31, 2**40, 2**63, 10**30, 0, -1, 1, None, "9", 2.0, True, np.int64(50), 300_000]
        )
        if rng.random() < 0.5:
            return lambda: from_token_regex("<3>*", eos_token_id=0, vocab_size=size), f"vocab_size={size!r}"
        return lambda: from_sequences([[3, 4]], eos_token_id=0, vocab_size=size), f"vocab_size={size!r}"


def _hostile(rng: random.Random, symbol: Callable[[random.Random], str]) -> str:
    count = rng.choice([2, 10, 99, 999, 9_999, 10**6, 10**9, 10**20])
    digits = "9" * rng.choice([30, 5_000])
    one, other = symbol(rng), symbol(rng)
    shapes = [
        f"({one}?){{{count}}}",
        f"({one}*){{{count}}}",
        f"(({one}?){{{count}}}){{{count}}}",
        f"({one}|{other}?){{0,{count}}}",
        f"(({one}{{0,9}}){{0,9}}){{0,{count}}}",
        f"({one}|{other})*{one}({one}|{other}){{{count}}}",
        f"({one}?{other}?){{{count},}}",
        f"{one}{{{digits}}}",
        f"{one}{{0,{digits}}}",
        "(" * count if count < 10**6 else "(" * 10**5,
        "(" * 49 + one + "?){2}" * 49,
        "(" * 40 + one + "*)*" * 40,
        "|".join(f"{one}{{{i}}}{other}" for i in range(min(count, 300))),
        "|".join(one * i for i in range(min(count, 200))),
        one * min(count, 100_000),
        f"{other}?" * min(count, 5_000),
        f"({one}?" * 45 + ")?" * 45,
        "()" * min(count, 50_000),
        "(){" + str(count) + "}",
        f"((){{{count}}}){{{count}}}",
        "|" * min(count, 100_000),
        "[" + "a" * min(count, 100_000) + "]",
        "[" + "".join(chr(c) for c in range(0x100, 0x100 + min(count, 20_000))) + "]*",
        "\\U" + "F" * 8,
        "\\x",
        "\ud800",
        "\x00*",
    ]
    return rng.choice(shapes)


KINDS = {"patterns": Patterns, "token_patterns": TokenPatterns, "hostile_patterns": HostilePatterns}
