"""Loading and saving a whole encoder-decoder pair.

Knows nothing of the families or of the pair's config format (both are handed in), nor of the model classes.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax

from ..config import StackConfig
from .folder import CONFIG, open_tensors, read_config, read_generation_config
from .load import load
from .piece import Families, HubOptions, family_of, hf_config, log, recorded_dtype, stack_config
from .report import LoadReport
from .save import save
from .table import NameTable, merged, tied

_PROJECTION = NameTable(
    groups={
        "projection": (
            ("enc_to_dec_proj.weight", "enc_to_dec_proj.weight", "transposed"),
            ("enc_to_dec_proj.bias", "enc_to_dec_proj.bias", "same"),
        )
    },
    scopes=(),
    duplicates={},
    unused=(),
)


@runtime_checkable
class PairData(Protocol):
    """A pair's config, taken apart; see `families.pair.PairConfig`."""

    @property
    def encoder(self) -> Mapping[str, Any]:
        """The encoder's config."""
        ...

    @property
    def decoder(self) -> Mapping[str, Any]:
        """The decoder's config."""
        ...

    @property
    def tied(self) -> bool:
        """Whether the pieces share tensors."""
        ...

    @property
    def others(self) -> Mapping[str, Any]:
        """Attributes that are not used."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedPair:
    """A pair as it came from a checkpoint.

    Attributes:
        model: the filled model.
        report: the pair's report; the pieces' have only what saving them needs.
        encoder_report: of the encoder.
        decoder_report: of the decoder.
        config: content of `config.json`.
        generation_config: content of `generation_config.json`, or None.
    """

    model: Any
    report: LoadReport
    encoder_report: LoadReport
    decoder_report: LoadReport
    config: Mapping[str, Any]
    generation_config: Mapping[str, Any] | None


def load_pair(
    path: str | os.PathLike,
    build: Callable[[StackConfig, StackConfig, tuple[str, ...]], Any],
    *,
    families: Families,
    read: Callable[[Mapping[str, Any]], PairData],
    dtype: Any,
    hub: HubOptions,
) -> LoadedPair:
    """Load a pair; nothing may be missing.

    Args:
        path: a folder or a Hub id.
        build: makes a fresh model from the encoder's config, the decoder's, and the paths that they share; only traced.
        families: by `model_type`.
        read: takes a pair's config apart.
        dtype: dtype of all arrays; None keeps each tensor's own.
        hub: where to look for a Hub id.
    """
    folder = hub.folder(path)
    hf = read_config(folder)
    place = folder / CONFIG
    if hf.get("model_type") not in ("encoder-decoder", "encoder_decoder"):
        raise ValueError(
            f"{place}: model_type is {hf.get('model_type')!r}; expected 'encoder-decoder'. A single encoder or decoder "
            "is loaded with Encoder.from_pretrained or Decoder.from_pretrained."
        )
    try:
        pair = read(hf)
    except ValueError as error:
        raise ValueError(f"{place}: {error}.") from None
    encoder_family = family_of(pair.encoder, families, f"{place}, 'encoder'")
    decoder_family = family_of(pair.decoder, families, f"{place}, 'decoder'")
    encoder = stack_config(encoder_family, pair.encoder, f"{place}, 'encoder'")
    decoder = stack_config(decoder_family, pair.decoder, f"{place}, 'decoder'")
    encoder_table = NameTable(**encoder_family.table(encoder, "encoder"))
    decoder_table = NameTable(**decoder_family.table(decoder, "decoder"))
    ties = shared_paths(encoder_table, decoder_table, encoder, decoder) if pair.tied else ()
    skeleton = eqx.filter_eval_shape(lambda: build(encoder, decoder, ties))
    what = f"a {encoder.model_type} to {decoder.model_type} pair"
    table = pair_table(encoder_table, decoder_table, tied=pair.tied, projection=skeleton.enc_to_dec_proj is not None)
    model, loaded = load(
        skeleton,
        table,
        open_tensors(folder),
        what=what,
        dtype=dtype,
        key=jax.random.key(0),
        initializer_range=decoder.initializer_range,
    )
    report = LoadReport(
        source=str(path),
        what=what,
        loaded=tuple(loaded.names),
        loaded_bytes=loaded.nbytes,
        ignored=tuple(loaded.ignored),
        notes=tuple(loaded.notes),
        tied=tuple((f"encoder.{tie}", f"decoder.{tie}") for tie in ties),
        attributes=json.dumps(dict(pair.others)),
    )
    log(report, loud=False)
    return LoadedPair(
        model=model,
        report=report,
        encoder_report=_piece_report(path, what, "encoder", encoder_family.unused_attributes(pair.encoder)),
        decoder_report=_piece_report(path, what, "decoder", decoder_family.unused_attributes(pair.decoder)),
        config=hf,
        generation_config=read_generation_config(folder),
    )


def save_pair(
    folder: str | os.PathLike,
    model: Any,
    *,
    families: Families,
    write: Callable[..., dict[str, Any]],
    generation_config: Mapping[str, Any],
) -> None:
    """Save a pair as torch's `EncoderDecoderModel` would.

    Args:
        folder: see `save.save`.
        model: an unrolled pair of library pieces; shared arrays are in the decoder only.
        families: by `model_type`.
        write: from the two configs, whether arrays are shared, and other attributes, to the pair's config.
        generation_config: content of `generation_config.json`.
    """
    encoder, decoder = model.encoder, model.decoder
    encoder_hf = hf_config(encoder, "encoder", families)
    decoder_hf = hf_config(decoder, "decoder", families)
    table = pair_table(
        NameTable(**families[encoder.config.model_type].table(encoder.config, "encoder")),
        NameTable(**families[decoder.config.model_type].table(decoder.config, "decoder")),
        tied=bool(model.ties),
        projection=model.enc_to_dec_proj is not None,
    )
    others = json.loads(model.load_report.attributes)
    config = write(encoder=encoder_hf, decoder=decoder_hf, tied=bool(model.ties), others=others)
    save(folder, model, table, config={**config, **recorded_dtype(model)}, generation_config=generation_config)


def pair_table(encoder: NameTable, decoder: NameTable, *, tied: bool, projection: bool) -> NameTable:
    """The name table of a whole pair, from those of its pieces."""
    copies: dict[str, str] = {}
    if tied:
        encoder, copies = _without_namesakes(encoder, decoder)
    whole = merged(encoder.under("encoder"), decoder.under("decoder"), *([_PROJECTION] if projection else []))
    return dataclasses.replace(whole, duplicates={**whole.duplicates, **copies})


def shared_paths(
    encoder_table: NameTable, decoder_table: NameTable, encoder: StackConfig, decoder: StackConfig
) -> tuple[str, ...]:
    """Paths of the arrays that a tied encoder takes from its decoder.

    Raises:
        ValueError: shared arrays would have two shapes.
    """
    _, pairs = tied(encoder_table, decoder_table)
    ours, theirs = _sizes(encoder), _sizes(decoder)
    differing = [f"{name} ({ours[name]} and {theirs[name]})" for name in ours if ours[name] != theirs[name]]
    if pairs and differing:
        raise ValueError(
            f"tie_encoder_decoder is true, but the pieces differ in {', '.join(differing)}; expected the same "
            "architecture in both."
        )
    return tuple(pairs)


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
    reduced, pairs = tied(encoder, decoder)
    copies = {
        f"encoder.{encoder.canonical(theirs)}": f"decoder.{encoder.canonical(theirs)}"
        for _, (ours, theirs, _) in encoder.rows()
        if ours in pairs
    }
    return reduced, copies


def _piece_report(path: str | os.PathLike, what: str, role: str, attributes: Mapping[str, Any]) -> LoadReport:
    return LoadReport(source=str(path), what=f"the {role} of {what}", attributes=json.dumps(dict(attributes)))
