"""Loading and saving encoder and decoder together: a pair of any two pieces, or a whole checkpoint of one family."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx

from .._quoting import printable, quoted
from ..config import StackConfig
from .families import FAMILIES, WHOLES
from .files.folder import CONFIG, open_tensors, read_config, read_generation_config
from .load import POSITIONS, check_size, load
from .model_types import PAIRS, family_of, stack_config, with_model_type
from .names import NameTable, linear, merge, split_tied
from .pair_config import MODEL_TYPE as PAIR
from .pair_config import PairConfig, WholeFormat, read_pair, write_pair
from .piece import HubOptions, hf_config, log
from .report import LoadReport, choices, refuse_unknown
from .save import recorded_dtype, save

_PROJECTION = NameTable(groups={"projection": linear("enc_to_dec_proj", "enc_to_dec_proj")})


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedPair:
    """A pair as it came from a checkpoint.

    Attributes:
        model: the filled model.
        report: the pair's report; the pieces' have only what saving them needs.
        encoder_report: of the encoder.
        decoder_report: of the decoder.
        config: content of `config.json`, with its class's defaults for generating.
        decoder_options: what a pair's decoder says about generating, its class's defaults included.
        class_options: the defaults of the decoder's class for generating.
        generation_config: content of `generation_config.json`, or None.
    """

    model: Any
    report: LoadReport
    encoder_report: LoadReport
    decoder_report: LoadReport
    config: Mapping[str, Any]
    decoder_options: Mapping[str, Any]
    class_options: Mapping[str, Any]
    generation_config: Mapping[str, Any] | None


def load_pair(
    path: str | os.PathLike,
    build: Callable[[StackConfig, StackConfig, tuple[str, ...], str], Any],
    *,
    dtype: Any,
    hub: HubOptions,
    strict_config: bool,
    model_types: Mapping[str, str | None],
) -> LoadedPair:
    """Load encoder and decoder; nothing may be missing.

    Args:
        path: a folder or a Hub id.
        build: makes a new model from the encoder's config, the decoder's, the paths that they share, and the name of
            the format; only traced.
        dtype: dtype of all arrays; None keeps each tensor's own.
        hub: where to look for a Hub id.
        strict_config: whether attributes that nothing is known of are an error.
        model_types: what the caller says of `config.json`, and of its parts, by the name of the argument.
    """
    folder = hub.folder(path)
    place = folder / CONFIG
    hf, named = _with_model_types(read_config(folder), model_types, place)
    whole = _whole(hf, place)
    try:
        pair = read_pair(hf) if whole is None else whole.read(hf)
    except ValueError as error:
        raise ValueError(f"{place}: {error}.") from None
    nested = ("", "") if whole is not None else (", 'encoder'", ", 'decoder'")
    encoder_family = family_of(pair.encoder, f"{place}{nested[0]}", "encoder")
    decoder_family = family_of(pair.decoder, f"{place}{nested[1]}", "decoder")
    encoder = stack_config(encoder_family, pair.encoder, f"{place}{nested[0]}")
    decoder = stack_config(decoder_family, pair.decoder, f"{place}{nested[1]}")
    try:
        options = decoder_family.generation_options(pair.decoder)
    except ValueError as error:
        raise ValueError(f"{place}{nested[1]}: {error}.") from None
    unknown = dict(pair.unknown)
    if whole is None:
        unknown |= {f"encoder.{name}": value for name, value in encoder_family.unknown(pair.encoder).items()}
        unknown |= {f"decoder.{name}": value for name, value in decoder_family.unknown(pair.decoder).items()}
    if strict_config:
        refuse_unknown(place, unknown)
    what = f"a {encoder.model_type} to {decoder.model_type} pair" if whole is None else f"a {encoder.model_type} model"
    tensors = open_tensors(folder)
    positions = {
        f"{piece}.{POSITIONS}": config.positions.max_positions
        for piece, config in (("encoder", encoder), ("decoder", decoder))
    }
    if whole is None:
        tables = _tables(encoder, decoder)
        ties = shared_paths(*tables, encoder, decoder) if pair.tied else ()
        check_size(pair_table(*tables, tied=pair.tied, projection=False), tensors, what=what, positions=positions)
        skeleton = eqx.filter_eval_shape(lambda: build(encoder, decoder, ties, PAIR))
        table = pair_table(*tables, tied=pair.tied, projection=skeleton.enc_to_dec_proj is not None)
    else:
        ties = whole.ties(pair.tied)
        table = whole.table(encoder, decoder, shared=pair.tied)
        check_size(table, tensors, what=what, positions=positions)
        skeleton = eqx.filter_eval_shape(lambda: build(encoder, decoder, ties, encoder.model_type))
    model, loaded = load(
        skeleton,
        table,
        tensors,
        what=what,
        dtype=dtype,
    )
    remarks = (*encoder_family.remarks(pair.encoder), *decoder_family.remarks(pair.decoder))
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
    log(report)
    return LoadedPair(
        model=model,
        report=report,
        encoder_report=_piece_report(path, what, "encoder", encoder_family.unused_attributes(pair.encoder)),
        decoder_report=_piece_report(path, what, "decoder", decoder_family.unused_attributes(pair.decoder)),
        config=hf if whole is None else {**hf, **options},
        decoder_options=options if whole is None else {},
        class_options=decoder_family.generation_options({}),
        generation_config=read_generation_config(folder),
    )


def save_pair(
    folder: str | os.PathLike,
    model: Any,
    *,
    tokens: Mapping[str, Any],
    generation_config: Mapping[str, Any],
) -> None:
    """Save encoder and decoder as torch's class for them would: `EncoderDecoderModel`, or that of their family.

    Args:
        folder: see `save.save`.
        model: an unrolled pair of library pieces; shared arrays are in the decoder only.
        tokens: the model's special tokens.
        generation_config: content of `generation_config.json`.
    """
    encoder, decoder, tied = model.encoder.config, model.decoder.config, bool(model.ties)
    others = json.loads(model.load_report.attributes)
    if model.model_type == PAIR:
        pieces = {
            "encoder": hf_config(model.encoder, "encoder"),
            "decoder": hf_config(model.decoder, "decoder"),
        }
        config = write_pair(PairConfig(**pieces, tied=tied, tokens=tokens, others=others))
        projection = model.enc_to_dec_proj is not None
        table = pair_table(*_tables(encoder, decoder), tied=tied, projection=projection)
    else:
        whole = WHOLES[model.model_type]
        config = whole.write(encoder, decoder, shared=tied, tokens=tokens, others=others)
        table = whole.table(encoder, decoder, shared=tied)
    save(folder, model, table, config={**config, **recorded_dtype(model)}, generation_config=generation_config)


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


def _whole(hf: Mapping[str, Any], place: Any) -> WholeFormat | None:
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


def _tables(encoder: StackConfig, decoder: StackConfig) -> tuple[NameTable, NameTable]:
    return (
        FAMILIES[encoder.model_type].table(encoder, "encoder"),
        FAMILIES[decoder.model_type].table(decoder, "decoder"),
    )


def pair_table(encoder: NameTable, decoder: NameTable, *, tied: bool, projection: bool) -> NameTable:
    """The name table of a whole pair, from those of its pieces."""
    copies: dict[str, str] = {}
    if tied:
        encoder, copies = _without_namesakes(encoder, decoder)
    whole = merge(encoder.under("encoder"), decoder.under("decoder"), *([_PROJECTION] if projection else []))
    settings = {**whole.settings, **dict.fromkeys(copies, "tie_encoder_decoder")}
    return dataclasses.replace(whole, duplicates={**whole.duplicates, **copies}, settings=settings)


def shared_paths(
    encoder_table: NameTable, decoder_table: NameTable, encoder: StackConfig, decoder: StackConfig
) -> tuple[str, ...]:
    """Paths of the arrays that a tied encoder takes from its decoder.

    Raises:
        ValueError: shared arrays would have two shapes.
    """
    _, pairs = split_tied(encoder_table, decoder_table)
    ours, theirs = _sizes(encoder), _sizes(decoder)
    differing = [f"{name} ({ours[name]} and {theirs[name]})" for name in ours if ours[name] != theirs[name]]
    if pairs and differing:
        raise ValueError(
            f"tie_encoder_decoder is true, but the pieces differ in {', '.join(differing)}; expected the same "
            "architecture in both. If the file holds the tensors of both pieces, set it to false in config.json."
        )
    return tuple(sorted(pairs))


def _sizes(config: StackConfig) -> dict[str, int]:
    return {
        "vocabulary": config.vocab_size,
        "width": config.hidden_size,
        "heads": config.attention.num_heads,
        "inner width": config.feed_forward.size,
        "positions": config.positions.max_positions,
        "token types": config.embeddings.token_type_size,
    }


def _without_namesakes(encoder: NameTable, decoder: NameTable) -> tuple[NameTable, dict[str, str]]:
    """The encoder's table without tied rows, and the copies of them that a file may hold all the same."""
    reduced, pairs = split_tied(encoder, decoder)
    copies = {
        f"encoder.{encoder.canonical(theirs)}": f"decoder.{encoder.canonical(theirs)}"
        for _, (ours, theirs, _) in encoder.rows()
        if ours in pairs
    }
    return reduced, copies


def _piece_report(path: str | os.PathLike, what: str, role: str, attributes: Mapping[str, Any]) -> LoadReport:
    return LoadReport(source=str(path), what=f"the {role} of {what}", attributes=json.dumps(dict(attributes)))
