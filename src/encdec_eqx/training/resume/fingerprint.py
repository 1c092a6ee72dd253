"""What a run stands on and does not change: its settings, the architecture, the frozen arrays. Two runs compared.

Knows how to describe these in few lines of JSON; must not know files.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax

from ..._trees import path_name
from .snapshot import described, on_host

Fingerprint = dict[str, dict[str, Any]]

_TITLES = {
    "run": "",
    "architecture": "model's ",
    "frozen": "frozen array ",
    "state": "trained or optimiser's array ",
}
_ABSENT = "absent"
_SHOWN = 8


def fingerprint(frozen: eqx.Module, run: Mapping[str, Any]) -> Fingerprint:
    """All that stays as it is during a run and has to be equal for it to be resumed, in values that JSON can hold."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(frozen, eqx.is_array))
    return {
        "run": _flat(run),
        "architecture": _architecture(frozen),
        "frozen": {path_name(path): f"{described(leaf)} {_digest(leaf)}" for path, leaf in leaves},
    }


def differences(then: Fingerprint, now: Fingerprint) -> list[str]:
    """What differs, one line each, a few for each kind; empty if nothing does."""
    lines: list[str] = []
    for kind, title in _TITLES.items():
        old, new = then[kind], now[kind]
        names = [name for name in {**old, **new} if old.get(name, _ABSENT) != new.get(name, _ABSENT)]
        names.sort(key=lambda name: name.startswith("opt_state"))  # which only follows the parameters
        lines += [
            f"{title}{name}: {old.get(name, _ABSENT)!s} in the checkpoint, {new.get(name, _ABSENT)!s} now"
            for name in names[:_SHOWN]
        ]
        if len(names) > _SHOWN:
            lines.append(f"{title}... and {len(names) - _SHOWN} more")
    return lines


def _architecture(model: Any) -> dict[str, str]:
    """The configs and special tokens of a pair: what shapes alone do not tell, such as an activation."""
    facts: dict[str, Any] = {}
    for part in ("encoder.config", "decoder.config", "special_tokens"):
        node = model
        for name in part.split("."):
            node = getattr(node, name, None)
        if dataclasses.is_dataclass(node) and not isinstance(node, type):
            compared = {field.name for field in dataclasses.fields(node) if field.compare}
            values = dataclasses.asdict(node).items()
            facts |= _flat({part: {name: value for name, value in values if name in compared}})
    return {name: str(value) for name, value in facts.items()}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _digest(leaf: jax.Array) -> str:
    return hashlib.sha256(on_host(leaf).tobytes()).hexdigest()[:16]
