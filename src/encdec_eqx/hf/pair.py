"""Loading and saving encoder and decoder together: a pair of any two pieces, or a whole checkpoint of one family.

An encoder of the user's own is no part of the tables: it writes its own files, into `encoder/`, and is given back to be
joined.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax

from .._quoting import printable, quoted
from ..config import StackConfig
from ..layers.int8 import to_int8
from ..layers.linear import Linear
from .families import FAMILIES, WHOLES
from .family import Family, Role
from .files.folder import CONFIG, Tensors, open_tensors, read_config, read_generation_config
from .files.hub import HubOptions
from .int8_files import file_format, open_int8, own_names, paths_as_names, split_int8
from .load import POSITIONS, check_size, initial, load
from .model_card import CardData, pair_card
from .model_types import PAIRS, family_of, stack_config, with_model_type
from .names import NameTable, linear, merge, split_tied, strip_wrappers
from .nested_config import NestedFormat
from .on_mesh import MeshToLoadOn
from .pair_config import MODEL_TYPE as PAIR
from .pair_config import SHARED, PairConfig, WholeFormat, read_pair, write_pair
from .piece import check_without_cross, hf_config, how_drawn, log
from .report import LoadReport, choices, refuse_unknown
from .save import recorded_dtype, save

OWN = "own"
"""What the config of a pair calls an encoder of the user's own, as its `model_type`."""

OWN_FOLDER = "encoder"
"""Where such an encoder's files are, beside the pair's."""

_PROJECTION = NameTable(groups={"projection": linear("enc_to_dec_proj", "enc_to_dec_proj")})


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedPair:
    """A pair as it came from a checkpoint.

    Attributes:
        model: the filled model, with its report; the pieces' reports have only what saving them needs.
        config: content of `config.json`, with its class's defaults for generating.
        decoder_options: what a pair's decoder says about generating, its class's defaults included.
        class_options: the defaults of the decoder's class for generating.
        generation_config: content of `generation_config.json`, or None.
    """

    model: Any
    config: Mapping[str, Any]
    decoder_options: Mapping[str, Any]
    class_options: Mapping[str, Any]
    generation_config: Mapping[str, Any] | None


class _Piece(NamedTuple):
    """One piece of a pair as the config has it, and where that is, for messages."""

    hf: Mapping[str, Any]
    family: Family
    config: StackConfig
    place: str


def load_pair(
    path: str | os.PathLike,
    build: Callable[[Any, StackConfig, tuple[str, ...], str], Any],
    *,
    own: Any,
    dtype: Any,
    hub: HubOptions,
    strict_config: bool,
    model_types: Mapping[str, str | None],
    graft: Callable[..., Any] | None = None,
    key: Any = None,
    spread: MeshToLoadOn | None = None,
) -> LoadedPair:
    """What `EncoderDecoder.from_pretrained` loads; nothing may be missing.

    `build` makes a new model from the encoder's config (or `own`, an encoder of the user's), the decoder's, the paths
    that they share, and the name of the format; it is only traced. `model_types` has the arguments of that name.
    `graft` gives a decoder that was saved without cross-attention some, as in `load_piece`; `key` is for what is drawn;
    `spread` is the mesh whose devices read their parts.
    """
    folder = hub.folder(path)
    place = folder / CONFIG
    hf, int8 = split_int8(read_config(folder), place)
    hf, named = _with_model_types(hf, model_types, place)
    whole = _whole(hf, place)
    try:
        pair = read_pair(hf) if whole is None else whole.read(hf)
    except ValueError as error:
        raise ValueError(f"{place}: {error}.") from None
    if graft is not None:
        pair = dataclasses.replace(pair, decoder={**pair.decoder, "add_cross_attention": False})
    _check_own(own, pair.encoder, folder)
    pieces: dict[Role, _Piece] = {"encoder": _piece("encoder", pair.encoder, place, whole)} if own is None else {}
    pieces["decoder"] = decoder = _piece("decoder", pair.decoder, place, whole)
    try:
        options = decoder.family.generation_options(decoder.hf)
    except ValueError as error:
        raise ValueError(f"{decoder.place}: {error}.") from None
    unknown = dict(pair.unknown)
    for role, piece in pieces.items() if whole is None else ():
        unknown |= {f"{role}.{name}": value for name, value in piece.family.unknown(piece.hf).items()}
    if strict_config:
        refuse_unknown(place, unknown)
    configs: dict[Role, StackConfig] = {role: piece.config for role, piece in pieces.items()}
    first = type(own).__name__ if own is not None else configs["encoder"].model_type
    if whole is None:
        what, model_type = f"a {first} to {decoder.config.model_type} pair", PAIR
        table, ties = _pair_table(configs, tied=pair.tied and own is None)
    else:
        what, model_type = f"a {hf['model_type']} model", hf["model_type"]
        table, ties = whole.table(**configs, shared=pair.tied), (SHARED,) if pair.tied else ()
    what += ", int8" if int8 else ""
    tensors = open_int8(folder) if int8 else open_tensors(folder)
    positions = {f"{role}.{POSITIONS}": config.positions.max_positions for role, config in configs.items()}
    check_size(own_names(table) if int8 else table, tensors, what=what, positions=positions)
    if graft is not None:
        check_without_cross(pair.decoder, decoder.config, table, tensors)
    elif not int8:
        _check_crosses(table, tensors, place)
    skeleton = eqx.filter_eval_shape(lambda: build(configs.get("encoder", own), decoder.config, ties, model_type))
    if own is not None:
        skeleton = dataclasses.replace(skeleton, encoder=None)
    if skeleton.enc_to_dec_proj is not None:
        table = merge(table, _PROJECTION)
    if int8:
        skeleton = eqx.filter_eval_shape(to_int8, skeleton)
        table = paths_as_names(skeleton)
    key_used = jax.random.key(0) if key is None else key
    model, loaded = load(
        skeleton,
        table,
        tensors,
        what=what,
        dtype=dtype,
        may_be_new={} if graft is None else {"projection": "the projection between the widths"},
        draw=functools.partial(initial, lambda key: _new_projection(skeleton, key), jax.random.fold_in(key_used, 1)),
        shardings=None if spread is None else spread.shardings,
    )
    remarks = [remark for piece in pieces.values() for remark in piece.family.remarks(piece.hf)]
    report = LoadReport(
        source=str(path),
        what=what,
        loaded=tuple(loaded.names),
        loaded_bytes=loaded.nbytes,
        ignored=tuple(loaded.ignored),
        notes=(*named, *loaded.notes, *dict.fromkeys(remarks)),
        tied=tuple((f"encoder.{tie}", f"decoder.{tie}") for tie in ties),
        warnings=choices(folder, tensors, loaded, argument=False),
        unknown=tuple(unknown),
        attributes=json.dumps(dict(pair.others)),
    )
    reported = {"encoder": own}
    for role, piece in pieces.items():
        attributes = json.dumps(piece.family.unused_attributes(piece.hf))
        of_piece = LoadReport(source=str(path), what=f"the {role} of {what}", attributes=attributes)
        reported[role] = dataclasses.replace(getattr(model, role), load_report=of_piece)
    if graft is not None:
        drawn = how_drawn(decoder.config.initializer_range, key)
        piece: Any = reported["decoder"]
        grafted = graft(piece, key=key_used, drawn=drawn)
        new = [(name, f"projection between the widths; {drawn}") for name, _ in loaded.new]
        new += [(f"decoder.{name}", why) for name, why in grafted.load_report.new]
        notes = (*report.notes, *grafted.load_report.notes)
        report = dataclasses.replace(report, new=tuple(new), notes=notes)
        reported["decoder"] = dataclasses.replace(grafted, load_report=piece.load_report)
    log(report)
    whole_model = dataclasses.replace(model, **reported, load_report=report)
    return LoadedPair(
        model=whole_model if spread is None else spread.finished(whole_model),
        config=hf if whole is None else {**hf, **options},
        decoder_options=options if whole is None else {},
        class_options=decoder.family.generation_options({}),
        generation_config=read_generation_config(folder),
    )


def save_pair(
    folder: str | os.PathLike,
    model: Any,
    *,
    own: Any,
    tokens: Mapping[str, Any],
    generation_config: Mapping[str, Any],
    max_shard_size: int | str,
    card_data: CardData | None,
) -> None:
    """Save encoder and decoder as torch's class for them would: `EncoderDecoderModel`, or that of their family.

    The model is unrolled, with shared arrays in the decoder only; `own` is its encoder if that saves itself.
    """
    decoder, tied = model.decoder.config, bool(model.ties)
    others = json.loads(model.load_report.attributes)
    if model.model_type == PAIR or own is not None:
        configs: dict[Role, StackConfig] = {} if own is not None else {"encoder": model.encoder.config}
        configs["decoder"] = decoder
        said: dict[str, Any] = {role: hf_config(getattr(model, role), role) for role in configs}
        if own is not None:
            said["encoder"] = {"model_type": OWN, "class": type(own).__name__, "hidden_size": own.hidden_size}
        config = write_pair(PairConfig(**said, tied=tied, tokens=tokens, others=others))
        table, _ = _pair_table(configs, tied=tied)
        table = table if model.enc_to_dec_proj is None else merge(table, _PROJECTION)
    else:
        whole, encoder = WHOLES[model.model_type], model.encoder.config
        config = whole.write(encoder, decoder, shared=tied, tokens=tokens, others=others)
        table = whole.table(encoder, decoder, shared=tied)
    stored = model if own is None else dataclasses.replace(model, encoder=None)
    form = file_format(stored, table)
    config = {**config, **form.config, **recorded_dtype(stored)}
    card = {"config": config, "generation_config": generation_config, "tokens": tokens, "data": card_data or CardData()}
    save(
        folder,
        stored,
        form.table,
        config=config,
        generation_config=generation_config,
        weights=form.weights,
        folders={} if own is None else {OWN_FOLDER: own.save_pretrained},
        max_shard_size=max_shard_size,
        card=pair_card(model, own=own, **card),
    )


def _check_crosses(table: NameTable, tensors: Tensors, place: Path) -> None:
    """That a decoder which came without any cross-attention is not told of array by array.

    Raises:
        ValueError: the file has the rest of the decoder, and nothing of its cross-attention.
    """
    bare, _ = strip_wrappers(tensors, table)
    present = {table.canonical(name) for name in bare.entries}
    found = {
        group: any(table.canonical(theirs) in present for _, theirs, _ in table.groups.get(group, ()))
        for group in ("decoder base", "decoder cross")
    }
    if "decoder cross" in table.groups and found["decoder base"] and not found["decoder cross"]:
        raise ValueError(
            f"{printable(tensors.path)}: the decoder has no cross-attention at all, so it could not read the encoder's "
            f"states (missing {quoted(table.groups['decoder cross'][0][1])} and all that belongs to it). Give it some, "
            "to be trained: EncoderDecoder.from_pretrained(..., cross_attention=CrossAttention(init='zero_gate')), "
            "with encdec_eqx.CrossAttention; docs/grafting.md says which init to choose. (If it was merged into "
            f"self-attention, {printable(place)} lacks 'cross_attention_kind': 'merged' under 'decoder'.)"
        )


def _new_projection(skeleton: Any, key: Any) -> dict[str, Any]:
    like, scale = skeleton.enc_to_dec_proj, skeleton.decoder.config.initializer_range
    return {"enc_to_dec_proj": Linear.init(*like.weight.shape, scale=scale, key=key)}


def _check_own(own: Any, config: Mapping[str, Any], folder: Path) -> None:
    """That an encoder is given where the pair was saved with one of the user's own, and only there.

    Raises:
        TypeError: one is given, but the checkpoint has its own.
        ValueError: none is given, or one of another width.
    """
    said, width, kind = config.get("model_type"), config.get("hidden_size"), type(own).__name__
    if said != OWN and own is not None:
        raise TypeError(
            f"from_pretrained got encoder={kind}(...), but {printable(folder / CONFIG)} has a {quoted(said)} encoder, "
            "which is loaded: leave the argument out. EncoderDecoder.from_pieces(encoder, model.pieces()[1]) joins "
            "another encoder to its decoder."
        )
    given = getattr(own, "hidden_size", None)
    if said == OWN and (own is None or given != width):
        got = f"a {kind}{', which has no hidden_size' if given is None else f' of hidden_size {quoted(given)}'}"
        raise ValueError(
            f"{printable(folder / CONFIG)}: the encoder is one of your own, a {printable(str(config.get('class')))} of "
            f"hidden_size {quoted(width)}; got {'no encoder' if own is None else got}. Load it from "
            f"{printable(folder / OWN_FOLDER)}, where its save_pretrained wrote, and pass it on: "
            "EncoderDecoder.from_pretrained(..., encoder=encoder)."
        )


def _piece(role: Role, hf: Mapping[str, Any], file: Path, whole: WholeFormat | NestedFormat | None) -> _Piece:
    """One piece of a checkpoint's config."""
    place = str(file) if isinstance(whole, WholeFormat) else f"{file}, {role!r}"
    family = family_of(hf, place, role)
    return _Piece(hf, family, stack_config(family, hf, place), place)


def _with_model_types(
    hf: Mapping[str, Any], given: Mapping[str, str | None], place: Path
) -> tuple[dict[str, Any], list[str]]:
    """The config with the `model_type` of the model and, in a pair, of its pieces, and notes on where they are from.

    Raises:
        TypeError: the model type of a piece is given, but what is loaded is no pair.
        ValueError: nothing says one.
    """
    hf, notes = with_model_type(hf, given["model_type"], place, "model_type", pair=True)
    notes = list(notes)
    for piece in ("encoder", "decoder"):
        argument = f"{piece}_model_type"
        if hf["model_type"] not in PAIRS and given[argument] is not None:
            raise TypeError(
                f"from_pretrained got {argument}={quoted(given[argument])}, but {printable(place)} is of "
                f"{quoted(hf['model_type'])}, not of a pair: give model_type instead."
            )
        if hf["model_type"] in PAIRS and isinstance(hf.get(piece), Mapping):
            where = f"{place}, {piece!r}"
            hf[piece], more = with_model_type(hf[piece], given[argument], where, argument)
            notes += [f"{piece}: {note}" for note in more]
    return hf, notes


def _whole(hf: Mapping[str, Any], place: Any) -> WholeFormat | NestedFormat | None:
    """The format of a whole checkpoint; None for a pair.

    Raises:
        ValueError: the config describes neither.
    """
    model_type = hf.get("model_type")
    if model_type in PAIRS:
        return None
    # other kinds than true and false are told of by who reads the config
    both = hf.get("is_decoder") is not True and hf.get("is_encoder_decoder", True) not in (False, None)
    if isinstance(model_type, str) and model_type in WHOLES and both:
        return WHOLES[model_type]
    raise ValueError(
        f"{place}: model_type is {quoted(model_type)}; expected 'encoder-decoder', or a family with both pieces "
        f"({', '.join(sorted(WHOLES))}). A single encoder or decoder is loaded with Encoder.from_pretrained or "
        "Decoder.from_pretrained."
    )


def _pair_table(configs: Mapping[Role, StackConfig], *, tied: bool) -> tuple[NameTable, tuple[str, ...]]:
    """The name table of a pair without a projection, and the paths of what a tied encoder takes from its decoder.

    Raises:
        ValueError: shared arrays would have two shapes.
    """
    tables = {role: FAMILIES[config.model_type].table(config, role) for role, config in configs.items()}
    copies: dict[str, str] = {}
    pairs: dict[str, str] = {}
    if tied:
        whole = tables["encoder"]
        tables["encoder"], pairs = split_tied(whole, tables["decoder"])
        ours, theirs = _sizes(configs["encoder"]), _sizes(configs["decoder"])
        differing = [f"{name} ({ours[name]} and {theirs[name]})" for name in ours if ours[name] != theirs[name]]
        if pairs and differing:
            raise ValueError(
                f"tie_encoder_decoder is true, but the pieces differ in {', '.join(differing)}; expected the same "
                "architecture in both. If the file holds the tensors of both pieces, set it to false in config.json."
            )
        # a file may hold the encoder's all the same
        tied_names = [whole.canonical(theirs) for _, (ours, theirs, _) in whole.rows() if ours in pairs]
        copies = {f"encoder.{name}": f"decoder.{name}" for name in tied_names}
    table = merge(*(table.under(role) for role, table in tables.items()))
    settings = {**table.settings, **dict.fromkeys(copies, "tie_encoder_decoder")}
    table = dataclasses.replace(table, duplicates={**table.duplicates, **copies}, settings=settings)
    return table, tuple(sorted(pairs))


def _sizes(config: StackConfig) -> dict[str, int]:
    return {
        "vocabulary": config.vocab_size,
        "width": config.hidden_size,
        "heads": config.attention.num_heads,
        "inner width": config.feed_forward.size,
        "positions": config.positions.max_positions,
        "token types": config.embeddings.token_type_size,
    }
