"""Loading and saving one encoder or one decoder: from a folder and a family's data to a filled model, and back."""

import contextlib
import contextvars
import dataclasses
import functools
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import equinox as eqx
import jax

from .._quoting import printable, quoted
from ..config import StackConfig
from ..layers.int8 import to_int8
from .family import WHY_ABSENT, Family, Role
from .files.folder import CONFIG, Tensors, open_tensors, read_config
from .files.hub import HubOptions
from .int8_files import file_format, open_int8, own_names, paths_as_names, split_int8
from .load import POSITIONS, check_size, initial, load
from .model_card import CardData, piece_card
from .model_types import family_of, part_of, stack_config, with_model_type
from .names import NameTable
from .on_mesh import MeshToLoadOn
from .report import UNUSED_POOLER, LoadReport, choices, refuse_unknown
from .save import recorded_dtype, save

_logger = logging.getLogger("encdec_eqx")
_held_back: contextvars.ContextVar[bool] = contextvars.ContextVar("reports_held_back", default=False)

# Groups of tensors that a checkpoint may lack as a whole, and what they are.
_MAY_BE_NEW: Mapping[Role, Mapping[str, str]] = {
    "encoder": {"pooler": UNUSED_POOLER},
    "decoder": {"cross": "cross-attention", "head": "the language-model head", "pooler": UNUSED_POOLER},
}


def load_piece(
    path: str | os.PathLike,
    role: Role,
    build: Callable[..., Any],
    *,
    dtype: Any,
    key: Any,
    hub: HubOptions,
    strict_config: bool,
    model_type: str | None,
    overrides: Mapping[str, Any],
    graft: Callable[..., Any] | None = None,
    spread: MeshToLoadOn | None = None,
) -> Any:
    """What `Encoder.from_pretrained` and `Decoder.from_pretrained` load: the module, with its `LoadReport`.

    `build` makes a newly initialised one from a config and a key, and is only traced. `key` draws what the checkpoint
    lacks, as `build` would with it; `overrides` are attributes of the config to set. `graft` gives a decoder that
    is loaded without cross-attention some: it takes the decoder, a key, and how it draws in words. `spread` is the mesh
    whose devices read their parts.
    """
    folder = hub.folder(path)
    place = folder / CONFIG
    hf, int8 = split_int8(read_config(folder), place)
    hf, named = with_model_type(hf, model_type, place, "model_type")
    hf = part_of(hf, role, place)
    family = family_of(hf, place, role)
    _check_overrides(family, hf["model_type"], overrides)
    as_role: dict[str, Any] = {"is_decoder": True, "add_cross_attention": graft is None}
    if role == "encoder":
        as_role = {"is_decoder": False, "add_cross_attention": False, "cross_attention_hidden_size": None}
    config = stack_config(family, {**hf, **as_role, **overrides}, place)
    unknown = family.unknown(hf)
    if strict_config:
        refuse_unknown(place, unknown)
    _check_effects(family, {**hf, **as_role}, overrides, role)
    table = family.table(config, role)
    what = f"a {config.model_type} {role}{', int8' if int8 else ''}"
    tensors = open_int8(folder) if int8 else open_tensors(folder)
    if graft is not None:
        check_without_cross(hf, config, table, tensors)
    positions = {POSITIONS: config.positions.max_positions}
    check_size(own_names(table) if int8 else table, tensors, what=what, positions=positions)
    key_used = jax.random.key(0) if key is None else key
    skeleton = eqx.filter_eval_shape(build, config, key=key_used)
    skeleton = eqx.filter_eval_shape(to_int8, skeleton) if int8 else skeleton
    module, loaded = load(
        skeleton,
        paths_as_names(skeleton) if int8 else table,
        tensors,
        what=what,
        dtype=dtype,
        may_be_new=_MAY_BE_NEW[role],
        draw=functools.partial(initial, lambda key: build(config, key=key), key_used),
        shardings=None if spread is None else spread.shardings,
    )
    how = how_drawn(config.initializer_range, key)
    report = LoadReport(
        source=str(path),
        what=what,
        loaded=tuple(loaded.names),
        loaded_bytes=loaded.nbytes,
        new=tuple(
            (name, f"{_MAY_BE_NEW[role][group]}, absent from the checkpoint; {how}") for name, group in loaded.new
        ),
        ignored=tuple(loaded.ignored),
        notes=(*named, *loaded.notes, *family.remarks({**hf, **as_role})),
        warnings=choices(folder, tensors, loaded, argument=True),
        unknown=tuple(unknown),
        attributes=json.dumps(family.unused_attributes({**hf, **as_role})),
    )
    module = dataclasses.replace(module, load_report=report)
    if graft is not None:
        # of the key that a whole new decoder would draw its stack with
        module = graft(module, key=jax.random.split(key_used, 3)[1], drawn=how)
    module = module if spread is None else spread.finished(module)
    log(module.load_report)
    return module


def save_piece(
    folder: str | os.PathLike, module: Any, role: Role, *, max_shard_size: int | str, card_data: CardData | None
) -> None:
    """Save an unrolled encoder or decoder as torch's class for it would."""
    config = module.config
    form = file_format(module, _family(config, role).table(config, role))
    said = {**hf_config(module, role), **form.config, **recorded_dtype(module)}
    card = piece_card(module, role, config=said, data=card_data or CardData())
    save(folder, module, form.table, config=said, weights=form.weights, max_shard_size=max_shard_size, card=card)


def hf_config(module: Any, role: Role) -> dict[str, Any]:
    """The Hugging Face config of a piece, with the attributes that it was loaded with and does not use."""
    family = _family(module.config, role)
    return {
        **family.when_new,
        **json.loads(module.load_report.attributes),
        **family.to_hf(module.config, role),
        "architectures": [family.architectures[role]],
    }


def log(report: LoadReport) -> None:
    """Log a report, unless one of a pair will say the same: as a warning if it has something to warn of."""
    if not _held_back.get():
        _logger.log(logging.WARNING if report.loud else logging.INFO, "%s", report)


@contextlib.contextmanager
def reports_held_back() -> Iterator[None]:
    """Within, reports of pieces are not logged: the pair they are joined to has one of its own."""
    before = _held_back.set(True)
    try:
        yield
    finally:
        _held_back.reset(before)


def how_drawn(initializer_range: float, key: Any) -> str:
    """How new arrays were made, in words."""
    source = "the key given" if key is not None else "jax.random.key(0), as no key was given"
    return f"drawn with standard deviation {initializer_range:g} from {source}"


def check_without_cross(hf: Mapping[str, Any], config: StackConfig, table: NameTable, tensors: Tensors) -> None:
    """That a decoder which is to be given cross-attention has none.

    Raises:
        ValueError: its family's always have it, or the checkpoint does.
    """
    found = [name for name in tensors.entries if table.why_unused(table.canonical(name)) == WHY_ABSENT["cross"]]
    merged = bool(hf.get("add_cross_attention")) and hf.get("cross_attention_kind") == "merged"
    if config.cross_attention or found or merged:
        what = f"has {quoted(found[0])}" if found else "says so"
        what = what if not config.cross_attention else f"is of {config.model_type!r}, whose decoders all have it"
        raise ValueError(
            f"cross_attention= is for decoders that were pretrained without it, but {printable(tensors.path)} {what}: "
            "leave the argument out, and what the checkpoint has is loaded."
        )


def _check_overrides(family: Family, model_type: str, overrides: Mapping[str, Any]) -> None:
    for name in overrides:
        if not family.handles(name) or name in ("model_type", "is_decoder"):
            raise TypeError(
                f"from_pretrained got {quoted(name)}, which is neither an argument nor an attribute of a {model_type} "
                "config that has an effect."
            )


def _check_effects(family: Family, hf: Mapping[str, Any], overrides: Mapping[str, Any], role: Role) -> None:
    """Another value of an attribute must make another model: BART's decoders cannot do without cross-attention."""
    for name, value in overrides.items():
        if name in hf and hf[name] != value and family.from_hf({**hf, name: value}) == family.from_hf(hf):
            raise TypeError(f"{name}={quoted(value)} changes nothing of a {hf['model_type']} {role}: leave it out.")


def _family(config: StackConfig, role: Role) -> Family:
    return family_of({"model_type": config.model_type}, "the StackConfig to save", role)
