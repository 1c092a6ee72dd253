"""Seeded damage to bytes and to JSON. Knows nothing of what the files mean.

JSON is kept as text-faithful trees: an object is a list of pairs, so that a key may come twice, and `Raw` stands for
text that no `json.dumps` would write.
"""

import json
import math
import random
from typing import Any

LONG = 200_000
"""Characters of what is long, and depth of what is deep: small as a file, too much for a careless reader."""


class Pairs(list):
    """A JSON object: pairs of a key and a value, in order, of which a key may come twice."""


class Raw(str):
    """Text that stands in the file as it is."""


HOSTILE_TEXTS = (
    "",
    " ",
    "x",
    "true",
    "1",
    "null",
    "../../etc/passwd",
    "/dev/zero",
    "a\x00b",
    "\x1b[31mred\x1b]0;title\x07",
    "line\nbreak\r\x85\u2028",
    "\u202eright to left",
    "\ud800",
    "é" * 200,
    "{x!r:>99}%s%(a)s",
    "n" * 5_000,
)
"""Texts for keys, names and values."""


def parsed(text: str) -> Any:
    """A tree of a JSON text."""
    return json.loads(text, object_pairs_hook=Pairs)


def written(tree: Any) -> str:
    """The JSON text of a tree."""
    if isinstance(tree, Raw):
        return str(tree)
    if isinstance(tree, Pairs):
        return "{" + ", ".join(f"{json.dumps(str(key))}: {written(value)}" for key, value in tree) + "}"
    if isinstance(tree, list | tuple):
        return "[" + ", ".join(map(written, tree)) + "]"
    return json.dumps(tree)


def encoded(text: str) -> bytes:
    """The bytes of a text, half a surrogate included."""
    return text.encode("utf-8", "surrogatepass")


def any_value(rng: random.Random) -> Any:
    """A value of any kind, hostile ones among them."""
    kind = rng.randrange(12)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind <= 3:
        return rng.choice([0, -1, 1, 2, 3, 7, 100, 2_000, 2**31 - 1, 2**31, 2**32 - 1, -(2**63), 2**63, 10**9, 10**30])
    if kind <= 5:
        return rng.choice([0.0, -0.0, 1.0, 0.5, -1.5, 1e-45, 1e-320, 1e300, -1e300, 3.4e38])
    if kind <= 7:
        return rng.choice(HOSTILE_TEXTS)
    if kind == 8:
        return rng.choice([[], Pairs(), [1], [1, 2], ["a"], [None], [[]], Pairs([("a", 1)]), [0] * 1_000])
    if kind == 9:
        return rng.choice([Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("1e999"), Raw("-1e999")])
    if kind == 10:
        return Raw(rng.choice(["1", "-7", "0.", "1e", "12."]) + rng.choice("1279") * rng.choice([20, 400, 5_000]))
    return Raw(rng.choice(["[", '{"a":']) * rng.choice([50, 2_000, LONG]) + rng.choice(["", "1", "}"]))


def nudged(rng: random.Random, value: Any) -> Any:
    """A value near another, and of its kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice([value + 1, value - 1, -value, value * 2, value // 2, float(value), str(value), [value]])
    if isinstance(value, float):
        return rng.choice([value * 2, -value, value / 10, int(value) if math.isfinite(value) else 0, str(value)])
    if isinstance(value, str):
        return rng.choice([value + "x", value[:-1], value.upper(), value.replace("_", "-"), value + "\n", [value]])
    if isinstance(value, Pairs):
        return Pairs(rng.sample(value, len(value)))
    if isinstance(value, list):
        return rng.choice([value[:-1], value * 2, value[::-1], [*value, None]])
    return any_value(rng)


def objects(tree: Any) -> list[Pairs]:
    """All objects of a tree, itself included."""
    found = [tree] if isinstance(tree, Pairs) else []
    children = [value for _, value in tree] if isinstance(tree, Pairs) else tree if isinstance(tree, list) else []
    return found + [below for child in children for below in objects(child)]


def change_object(rng: random.Random, target: Pairs) -> str:
    """Change one object in place.

    Returns:
        What was done.
    """
    if not target:
        target.append((rng.choice(HOSTILE_TEXTS), any_value(rng)))
        return "filled an empty object"
    at = rng.randrange(len(target))
    key, value = target[at]
    what = rng.randrange(10)
    if what == 0:
        del target[at]
        return f"dropped {key!r}"
    if what == 1:
        new = rng.choice([key + "s", key.upper(), key[:-1], "_" + key, rng.choice(HOSTILE_TEXTS), f"{key}.{key}"])
        target[at] = (new, value)
        return f"renamed {key!r} to {new!r:.60}"
    if what == 2:
        new = nudged(rng, value) if rng.random() < 0.5 else any_value(rng)
        target.insert(rng.randrange(len(target) + 1), (key, new))
        return f"doubled {key!r} with {new!r:.60}"
    if what == 3:
        other = rng.randrange(len(target))
        target[at], target[other] = (key, target[other][1]), (target[other][0], value)
        return f"swapped {key!r} and {target[other][0]!r}"
    if what == 4:
        key, new = rng.choice([rng.choice(HOSTILE_TEXTS), f"unknown_{rng.randrange(9)}"]), any_value(rng)
        target.append((key, new))
        return f"added {key!r:.60}: {new!r:.60}"
    if what <= 6:
        new = nudged(rng, value)
        target[at] = (key, new)
        return f"nudged {key!r} from {value!r:.60} to {new!r:.60}"
    new = any_value(rng)
    target[at] = (key, new)
    return f"set {key!r} from {value!r:.60} to {new!r:.60}"


def change_json(rng: random.Random, text: str) -> tuple[bytes, str]:
    """One to three changes to a JSON text, mostly to its tree, at times to its bytes.

    Returns:
        The bytes, and what was done.
    """
    if rng.random() < 0.15:
        return change_bytes(rng, text.encode())
    if rng.random() < 0.05:
        return change_encoding(rng, text)
    try:
        tree = parsed(text)
    except (ValueError, RecursionError):  # damaged before
        return change_bytes(rng, text.encode("utf-8", "surrogatepass"))
    told = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        found = objects(tree)
        told.append(change_object(rng, rng.choice(found) if rng.random() < 0.7 else found[0]))
    return encoded(written(tree)), "; ".join(told)


def change_encoding(rng: random.Random, text: str) -> tuple[bytes, str]:
    """The same text in another encoding or with something around it."""
    changed = {
        "a byte order mark": b"\xef\xbb\xbf" + text.encode(),
        "UTF-16": text.encode("utf-16"),
        "a NUL behind": text.encode() + b"\0",
        "twice": 2 * text.encode(),
        "in a list": b"[" + text.encode() + b"]",
        "a list": b"[1]",
        "a number": b"3",
        "null": b"null",
        "nothing": b"",
        "spaces": b" " * 50_000 + text.encode(),
    }
    what = rng.choice(list(changed))
    return changed[what], what


def change_bytes(rng: random.Random, data: bytes, *, start: int = 0) -> tuple[bytes, str]:
    """Flip, cut, insert, repeat or overwrite bytes from `start` on."""
    size = len(data)
    at = rng.randrange(start, size) if size > start else size
    what = rng.randrange(7)
    if what == 0 or at == size:
        return data[:at], f"cut at byte {at}"
    if what <= 2:
        changed = bytearray(data)
        places = [rng.randrange(start, size) for _ in range(rng.choice([1, 1, 2, 8]))]
        for place in places:
            changed[place] ^= 1 << rng.randrange(8)
        return bytes(changed), f"flipped a bit at {places}"
    if what == 3:
        new = rng.randbytes(rng.choice([1, 2, 8, 100]))
        return data[:at] + new + data[at:], f"inserted {len(new)} bytes at {at}"
    if what == 4:
        count = rng.choice([1, 2, 8, 100])
        return data[:at] + data[at + count :], f"removed {count} bytes at {at}"
    if what == 5:
        count = rng.choice([1, 4, 64])
        new = rng.choice([b"\0", b"\xff", b"\x80", b'"', b"{", b"9"]) * count
        return data[:at] + new + data[at + count :], f"overwrote {count} bytes at {at} with {new[:1]!r}"
    end = min(size, at + rng.choice([1, 16, 256]))
    return data[:end] + data[at:end] + data[end:], f"repeated bytes {at} to {end}"
