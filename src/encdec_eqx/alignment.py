"""What each token of a target attends to in its source, with the tokens written out: for pictures and for measures."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from ._inputs import IGNORED, host_mask
from ._quoting import quoted
from .encoder_decoder import EncoderDecoder
from .generation.source_and_prompt import host_level
from .targets import TargetForm
from .text import TextToText, TokenizerPair
from .text.display_tokens import display_tokens, stands_apart

Weights = Float32[np.ndarray, "heads target source"]


@dataclass(frozen=True, eq=False)
class Alignment:
    """Cross-attention of one target to its source.

    Attributes:
        source_tokens: the source's tokens as people read them, padding left out.
        target_tokens: the target's, the end included: what the model says, not what it reads.
        cross_attentions: of each layer the weights (heads, target, source), `None` for a layer that has none. The row
            of a token is what was read when it was chosen, before the decoder itself had read it.
        merged: whether target and source are read in one softmax: a row is then what is left beside the target's own
            weights, and does not sum to 1.
    """

    source_tokens: tuple[str, ...]
    target_tokens: tuple[str, ...]
    cross_attentions: tuple[Weights | None, ...]
    merged: bool = False

    @property
    def layers(self) -> tuple[int, ...]:
        """Numbers of the layers that have cross-attention."""
        return tuple(at for at, layer in enumerate(self.cross_attentions) if layer is not None)

    @property
    def heads(self) -> int:
        """How many heads each of them has."""
        return self._of_layers(None)[0].shape[0]

    def weights(self, layer: int | None = None, head: int | None = None) -> Float32[np.ndarray, "target source"]:
        """The weights of one layer and head, or means.

        Args:
            layer: number of a layer, from 0, or from the last with -1; `None` for the mean of those that have any.
            head: likewise.

        Raises:
            TypeError: one is no whole number.
            ValueError: there is no such layer or head, or the layer has no cross-attention; says which have.
        """
        reads = [weights is not None for weights in self.cross_attentions]
        layer, head = layer_and_head(reads, self.heads, layer, head)
        weights = np.stack(self._of_layers(layer))
        return (weights if head is None else weights[:, [head]]).mean(axis=(0, 1), dtype=np.float32)

    def _of_layers(self, layer: int | None) -> list[Weights]:
        layers = self.cross_attentions if layer is None else (self.cross_attentions[layer],)
        return [weights for weights in layers if weights is not None]


def layer_and_head(
    reads_source: Sequence[bool], heads: int, layer: int | None, head: int | None
) -> tuple[int | None, int | None]:
    """The layer and the head that a caller asks for, counted from 0; `None` for means.

    Args:
        reads_source: of each layer of the decoder whether it has cross-attention.
        heads: how many heads each has.
        layer: number of a layer, perhaps counted from the end.
        head: likewise.

    Raises:
        TypeError: one is no whole number.
        ValueError: there is no such layer or head, or the layer has no cross-attention; says which have.
    """
    count = len(reads_source)
    if layer is not None:
        layer = _index("layer", layer, count, f"the decoder has {count}")
        if not reads_source[layer]:
            having = ", ".join(str(at) for at, reads in enumerate(reads_source) if reads)
            raise ValueError(f"layer {layer} has no cross-attention; layers {having} of {count} have.")
    return layer, None if head is None else _index("head", head, heads, f"each layer has {heads}")


def align(
    model: TextToText | EncoderDecoder,
    source: Any,
    target: Any,
    *,
    attention_mask: Any = None,
    source_tokens: Sequence[str] | None = None,
    target_tokens: Sequence[str] | None = None,
    skip_special_tokens: bool = False,
) -> Alignment:
    """What each token of a target attends to in a source, by one pass; compiled once per bucket of lengths.

    Args:
        model: a model with its tokenizers (`TextToText`), or a model alone, of which source and target are ids.
        source: a text, or one sequence of ids with all its special tokens, (source) or (1, source).
        target: a text, or ids: labels, or a row of `result.sequences`. A start token in front, -100, and what stands
            behind the end are left out.
        attention_mask: with a source of ids, 0 (or False) at its padding, which is not shown; default all real.
        source_tokens: with a source of ids, what to show for each of them; default as the tokenizer writes it, or the
            number.
        target_tokens: the same of the target.
        skip_special_tokens: whether special tokens ([CLS], the end, …) are left out: of the result, not of what the
            model reads, so that rows no longer sum to 1. For a model with tokenizers.

    Returns:
        The weights of all layers, and the tokens.

    Raises:
        RuntimeError: called inside `jit` or another transformation.
        TypeError: the model or an argument is of another kind.
        ValueError: source or target are empty or too long, an option would do nothing, labels are not as many as ids,
            or the model has no start token.
    """
    pair = pair_of(model)
    tokenizers = model.tokenizers if isinstance(model, TextToText) else None
    host_level(source, target, attention_mask)
    if skip_special_tokens and tokenizers is None:
        raise ValueError("skip_special_tokens would do nothing: which are special a TextToText's tokenizers know.")
    read = _source(tokenizers, source, attention_mask)
    said, start = _target(pair, tokenizers, target)
    sequence = np.concatenate([[start], said.ids])[None].astype(np.int32)
    mask = None if attention_mask is None else read.real[None]
    layers = pair.cross_attentions(sequence, read.ids[None], attention_mask=mask)
    columns = read.shown("source", source_tokens, skip_special_tokens)
    rows = said.shown("target", target_tokens, skip_special_tokens)
    width = next(layer for layer in layers if layer is not None).shape[-1]
    if width != len(read.ids):
        raise ValueError(
            f"the encoder makes {width} states of {len(read.ids)} ids, so that weights are not of ids: "
            "model.cross_attentions has them."
        )
    return Alignment(
        source_tokens=tuple(columns.values()),
        target_tokens=tuple(rows.values()),
        cross_attentions=tuple(
            None if layer is None else layer[0][:, list(rows)][:, :, list(columns)] for layer in layers
        ),
        merged=any(spec.cross_attention and spec.cross_kind == "merged" for spec in pair.decoder.config.layers),
    )


def pair_of(model: TextToText | EncoderDecoder) -> EncoderDecoder:
    """The model, without its tokenizers if it has some.

    Raises:
        TypeError: it is neither.
    """
    if not isinstance(model, TextToText | EncoderDecoder):
        raise TypeError(f"model must be a TextToText or an EncoderDecoder, got {type(model).__name__}.")
    return model if isinstance(model, EncoderDecoder) else model.model


class _Side(NamedTuple):
    """Source or target.

    Attributes:
        ids: the ids that weights are of.
        real: which of them are shown, as they are no padding.
        places: where each stood in what the caller gave; `None` for a text.
        given: how many ids the caller gave.
        tokenizer: what knows the ids, if there is one.
    """

    ids: np.ndarray
    real: np.ndarray
    places: np.ndarray | None
    given: int
    tokenizer: Any

    def shown(self, name: str, labels: Sequence[str] | None, skip_special_tokens: bool) -> dict[int, str]:
        """What to write for the ids that are shown, by their place among the weights."""
        tokenizer, ids = self.tokenizer, self.ids.tolist()
        if labels is None:
            tokens = [str(one) for one in ids] if tokenizer is None else display_tokens(tokenizer, ids)
        elif self.places is None:
            raise ValueError(f"{name}_tokens are for a {name} of ids; those of a text are its tokenizer's.")
        elif len(labels) != self.given:
            raise ValueError(f"{name}_tokens are {len(labels)} for {self.given} ids of the {name}; give one for each.")
        else:
            tokens = [str(labels[at]) for at in self.places]
        skipped = [skip_special_tokens and stands_apart(tokenizer, one) for one in ids]
        shown = {at: token for at, token in enumerate(tokens) if self.real[at] and not skipped[at]}
        if not shown:
            raise ValueError(f"the {name} has special tokens alone: leave out skip_special_tokens.")
        return shown


def _source(tokenizers: TokenizerPair | None, source: Any, mask: Any) -> _Side:
    if isinstance(source, str):
        if mask is not None:
            raise ValueError("attention_mask is for a source of ids; a text has no padding: leave it out.")
        ids = _by_tokenizer("source", tokenizers).encode_source([source])[0]
        if not len(ids):
            raise ValueError(f"the source is empty: {quoted(source)}.")
        return _Side(ids, np.ones(len(ids), bool), None, len(ids), tokenizers and tokenizers.source)
    ids = _row("source", source)
    mask = mask if mask is None or np.ndim(mask) != 1 else np.asarray(mask)[None]
    real = host_mask("attention_mask", mask, shape=(1, len(ids)), of="the source")[0]
    return _Side(ids, real, np.arange(len(ids)), len(ids), tokenizers and tokenizers.source)


def _target(model: EncoderDecoder, tokenizers: TokenizerPair | None, target: Any) -> tuple[_Side, int]:
    """What is said, and the token that the decoder reads first."""
    start = model.special_tokens.require("decoder_start_token_id")
    if isinstance(target, str):
        ids = _by_tokenizer("target", tokenizers).encode_target([target])[0]
        return _Side(ids, np.ones(len(ids), bool), None, len(ids), tokenizers and tokenizers.target), start
    ids, form = _row("target", target), TargetForm.of(model)
    start = int(np.ravel(form.starts(ids[None]))[0])
    places = np.flatnonzero(ids != IGNORED)
    if len(places) > 1 and ids[places[0]] == form.start:
        places = places[1:]
    ends = np.flatnonzero(np.isin(ids[places], form.ends or ()))
    places = places[: ends[0] + 1] if len(ends) else places
    if not len(places):
        raise ValueError(f"the target has no token: {quoted(ids)}.")
    side = _Side(ids[places], np.ones(len(places), bool), places, len(ids), tokenizers and tokenizers.target)
    return side, start


def _by_tokenizer(name: str, tokenizers: TokenizerPair | None) -> TokenizerPair:
    if tokenizers is None:
        raise TypeError(
            f"the {name} is a text, and an EncoderDecoder alone reads ids: give TextToText(model, tokenizers), or ids."
        )
    return tokenizers


def _row(name: str, ids: Any) -> np.ndarray:
    """One sequence of ids."""
    row = np.asarray(ids)
    row = row[0] if row.ndim == 2 and len(row) == 1 else row
    if row.ndim != 1 or row.dtype.kind not in "iu" or not row.size:
        raise TypeError(f"the {name} must be a text or one sequence of ids, got {_described(ids)}.")
    return row.astype(np.int32)


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return quoted(value) if shape is None else f"an array of shape {tuple(shape)} and dtype {value.dtype}"


def _index(name: str, value: Any, count: int, of: str) -> int:
    """A number of a layer or a head, counted from 0."""
    try:
        if isinstance(value, bool):
            raise TypeError
        index = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, or None for the mean; got {quoted(value)}.") from None
    if not -count <= index < count:
        raise ValueError(f"there is no {name} {index}: {of}, numbered from 0 to {count - 1}.")
    return index % count
