"""A model with its tokenizers: texts in, texts out."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import jax
import numpy as np
from jaxtyping import Bool, Float32, Int32

from .._typing import PRNGKey, check_key
from .._writing import check_writable
from ..encoder_decoder import EncoderDecoder
from ..generation.result import GenerationResult
from ..generation.special_tokens import START, is_per_row
from ..hf.gathering import is_written_here, together_if_spread
from ..hf.model_card import CardData
from ..hf.upload import PushesToHub
from ..targets import TargetForm
from .open_with_tokenizers import open_pair, open_pieces
from .texts import by_length, check_not_empty, check_texts, pad_rows, pad_sources, source_limit, source_pad
from .tokenizer_pair import TokenizerPair

Attended = tuple[Float32[np.ndarray, "_ _ _"] | None, ...]
"""Cross-attention weights of one output, one array (heads, new, source) per layer; sizes differ from text to text."""

_OF_THE_SOURCE = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "encoder_outputs")
_BY_TEXT = ("decoder_input_ids", "decoder_attention_mask", START)


@dataclass(frozen=True, eq=False)
class TextResult:
    """What was generated for each text, in the order they were given in.

    Attributes:
        texts: of every text its outputs: one, or `num_return_sequences`.
        scores: of every text those of its outputs; see `GenerationResult.scores`.
        unfinished: whether an output reached the maximum length without an end.
        truncated_sources: indices of the texts that were cut to `max_source_length`.
        sequences: of every text the ids of its outputs, start token or prompt included, without padding.
        cross_attentions: with `output_cross_attentions=True`: of every text and output, for each layer what was
            attended to in the source when each token was chosen (None for a layer without cross-attention).
        notes: as of `GenerationResult`, of all batches.
        forced_words_met: with `force_words_ids`, whether an output holds all of them; None without them.
    """

    texts: list[list[str]]
    scores: Float32[np.ndarray, "batch each"]
    unfinished: Bool[np.ndarray, "batch each"]
    truncated_sources: tuple[int, ...]
    sequences: list[list[Int32[np.ndarray, " _"]]]
    cross_attentions: list[list[Attended]] | None = None
    notes: tuple[str, ...] = ()
    forced_words_met: Bool[np.ndarray, "batch each"] | None = None


class TextToText(PushesToHub):
    """A model and its two tokenizers.

    Attributes:
        model: the model.
        tokenizers: its tokenizers, checked against it.
    """

    def __init__(self, model: EncoderDecoder, tokenizers: TokenizerPair):
        """Join a model and its tokenizers, whose target language it is then told.

        Raises:
            ValueError: they do not fit; see `TokenizerPair.check`.
        """
        self.model = tokenizers.configure(model)
        self.tokenizers = tokenizers.for_model(self.model)

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike, *, src_lang: str | None = None, tgt_lang: str | None = None, **options: Any
    ) -> "TextToText":
        """Load a model with its tokenizers: what `save_pretrained` saved, or a whole checkpoint such as BART's.

        Special tokens that the model's files do not name are those of the tokenizer, where it has some.

        Args:
            path: a folder, or a Hub id.
            src_lang: language of the sources of a model of several; see `TokenizerPair.with_languages`.
            tgt_lang: language of what it says.
            **options: as for `EncoderDecoder.from_pretrained`.

        Raises:
            FileNotFoundError: the model or a tokenizer is not there.
            TypeError: an option is unknown.
            ValueError: a file is damaged, or they do not fit.
        """
        return cls(*_speaking(*open_pair(path, options), src_lang, tgt_lang))

    @classmethod
    def from_pieces(
        cls,
        encoder: Any,
        decoder: Any,
        *,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        key: PRNGKey | None = None,
        **options: Any,
    ) -> "TextToText":
        """Join two pieces, each with its own tokenizer.

        A decoder that never had cross-attention gets some. Special tokens that the decoder's config does not name are
        those that its tokenizer puts around a text: a BERT begins with [CLS] and ends with [SEP].

        Args:
            encoder: a folder or a Hub id that has a tokenizer too; or (encoder, tokenizer): an `Encoder`, a folder or a
                Hub id, and a `tokenizers.Tokenizer`, a `tokenizer.json`, a folder or a Hub id.
            decoder: the same of the decoder.
            src_lang: language of the sources, where one tokenizer of several languages serves both.
            tgt_lang: language of what is said.
            key: draws what is new; default `jax.random.key(0)`.
            **options: as for `EncoderDecoder.from_encoder_decoder_pretrained`: `dtype`, `strict_config`, `encoder_…`,
                `decoder_…`.

        Raises:
            FileNotFoundError: a piece or its tokenizer is not there.
            TypeError: a piece is of another kind, or an option is unknown or would do nothing.
            ValueError: a file is damaged, or they do not fit.
        """
        return cls(*_speaking(*open_pieces(encoder, decoder, key=key, options=options), src_lang, tgt_lang))

    def save_pretrained(self, folder: str | os.PathLike, **options: Any) -> None:
        """Save the model and beside it the tokenizers, for `from_pretrained`.

        Args:
            folder: made if it does not exist.
            **options: as for `EncoderDecoder.save_pretrained`.

        Raises:
            ValueError: the format cannot express the model, or nothing can be written there.
        """
        saves = is_written_here(self.model)
        with together_if_spread(self.model, "looking at where to save"):
            if saves:
                check_writable(folder)
        card = dataclasses.replace(options.pop("card_data", None) or CardData(), tokenizers=True)
        self.model.save_pretrained(folder, card_data=card, **options)
        with together_if_spread(self.model, "saving tokenizers"):
            if saves:
                self.tokenizers.save(folder)

    def export_generate(
        self,
        folder: str | os.PathLike,
        batch: int,
        source: int,
        max_new_tokens: int,
        search: Any = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Write `EncoderDecoder.export_generate`'s folder with the tokenizers in it, so that its `run.py` takes texts.

        Args:
            folder: made if it does not exist.
            batch: texts at once.
            source: tokens of the longest text, special ones included; longer ones are cut.
            max_new_tokens: most tokens that a call may ask for.
            search: as there.
            **options: as there.

        Returns:
            The manifest.

        Raises:
            ImportError: flatbuffers is not installed.
            NotImplementedError: the encoder or an option cannot be exported; says what to do.
            TypeError: as there.
            ValueError: as there.
        """
        sizes = {"batch": batch, "source": source, "max_new_tokens": max_new_tokens}
        return self.model.export_generate(folder, **sizes, search=search, tokenizers=self.tokenizers, **options)

    @overload
    def __call__(self, texts: str, **options: Any) -> str: ...  # pyright: ignore[reportOverlappingOverload]
    @overload
    def __call__(self, texts: Sequence[str], **options: Any) -> list[str]: ...
    def __call__(self, texts: str | Sequence[str], **options: Any) -> str | list[str]:
        """The best output for each text.

        Args:
            texts: one text, or several.
            **options: as for `generate`, which also returns scores and further outputs.

        Returns:
            A text for one text, else a list in the given order.

        Raises:
            TypeError: as `generate`.
            ValueError: as `generate`; or `num_return_sequences` asks for more than one output.
        """
        if options.get("num_return_sequences", 1) != 1:
            raise ValueError("num_return_sequences asks for several outputs of a text: call .generate(texts, ...).")
        result = self.generate([texts] if isinstance(texts, str) else texts, **options)
        best = [outputs[0] for outputs in result.texts]
        return best[0] if isinstance(texts, str) else best

    def generate(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 32,
        max_source_length: int | None = None,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        key: Any = None,
        **options: Any,
    ) -> TextResult:
        """Generate for each text, in batches of texts of about equal length.

        Args:
            texts: the sources.
            batch_size: texts at once.
            max_source_length: most ids of a source; longer ones are cut (reported). Default: what the encoder can read.
            src_lang: language of the sources; default that of the tokenizers. See `TokenizerPair.with_languages`.
            tgt_lang: language of what is said; default that of the tokenizers, or the model.
            key: a PRNG key for sampling; text `i` draws with `fold_in(key, i)`, whatever it is batched with.
            **options: as for `EncoderDecoder.generate`: `max_new_tokens`, `num_beams`, ... What it takes
                per sequence (`decoder_input_ids`, ...) has one row per text here.

        Raises:
            TypeError: `texts` is one string, one of them is none (says which), or an option is unknown or made from the
                texts (`input_ids`, ...).
            ValueError: there are no texts, one is empty, `batch_size` is below 1, or as `EncoderDecoder.generate`.
        """
        inputs = self._sources(texts, max_source_length, src_lang)
        options |= self._language(tgt_lang, options)
        return self._generate(inputs, batch_size, key, options)

    def generate_in_portions(
        self,
        portions: Iterable[Sequence[str]],
        *,
        batch_size: int = 32,
        max_source_length: int | None = None,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        key: Any = None,
        **options: Any,
    ) -> Iterator[TextResult]:
        """Generate for texts that need not end, as lines of a pipe: a result per portion, in its order.

        Texts are what `generate` would make of all of them at once, sampled ones too: text `i` of all portions draws
        with `fold_in(key, i)`. Portions of some batches each compile no more programs than one call.

        Args:
            portions: lists of texts, each at least one, taken when the result before has been used.
            batch_size: see `generate`, as the following.
            max_source_length: most ids of a source.
            src_lang: language of the sources.
            tgt_lang: language of what is said.
            key: a PRNG key for sampling.
            **options: as for `generate`, but for what is given per sequence.

        Yields:
            A result; its `truncated_sources` count from the portion's first text.

        Raises:
            TypeError: as `generate`.
            ValueError: as `generate`.
        """
        options |= self._language(tgt_lang, options)
        first = widest = 0
        for texts in portions:
            inputs = self._sources(texts, max_source_length, src_lang)
            count = len(inputs[0])
            # few sizes: each is another program
            widest = min(batch_size, max(widest, _next_power_of_2(count)))
            yield self._generate(inputs, batch_size, key, options, first=first, rows=widest)
            first += count

    def _generate(
        self,
        inputs: tuple[list[np.ndarray], tuple[int, ...]],
        batch_size: int,
        key: Any,
        options: Mapping[str, Any],
        *,
        first: int = 0,
        rows: int | None = None,
    ) -> TextResult:
        """Generate for encoded sources and the indices of those that were cut; `rows` is the size of every batch."""
        ids, cut = inputs
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        check_key(key)
        by_text, options = _split_options(options, len(ids))
        outputs: dict[int, tuple[Any, ...]] = {}
        notes: dict[str, None] = {}
        for chosen in by_length(ids, batch_size):
            places = pad_rows(chosen, rows or min(batch_size, len(ids)))
            keys = None if key is None else jax.vmap(lambda i: jax.random.fold_in(key, i))(places + first)
            theirs: dict[str, Any] = {name: value[places] for name, value in by_text.items()}
            result = self.model.generate(**self._batch([ids[i] for i in places]), key=keys, **theirs, **options)
            lengths = [len(ids[i]) for i in places]
            outputs |= zip(chosen.tolist(), self._outputs(result, lengths, {**options, **theirs}), strict=False)
            notes |= dict.fromkeys(result.notes)
        in_order = zip(*(outputs[at] for at in range(len(ids))), strict=True)
        said, sequences, scores, unfinished, met, attended = map(list, in_order)
        return TextResult(
            texts=said,
            scores=np.stack(scores),
            unfinished=np.stack(unfinished),
            truncated_sources=cut,
            sequences=sequences,
            cross_attentions=None if None in attended else attended,
            notes=tuple(notes),
            forced_words_met=None if met[0] is None else np.stack(met),
        )

    def stream(
        self,
        text: str,
        *,
        max_source_length: int | None = None,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        **options: Any,
    ) -> Iterator[str]:
        """Generate for one text, and yield the output so far each time that it grows.

        The whole output is yielded every time, because later tokens may change how earlier ones are written ("do n" is
        "don't" two tokens later). The last one is what a call returns.

        Args:
            text: the source.
            max_source_length: see `generate`.
            src_lang: see `generate`.
            tgt_lang: see `generate`.
            **options: as for `EncoderDecoder.stream`.

        Raises:
            TypeError: an option is unknown.
            ValueError: as `generate`.
        """
        if options.get("num_return_sequences", 1) != 1:
            raise ValueError("num_return_sequences asks for several outputs of a text: call .generate(texts, ...).")
        if options.get("output_cross_attentions"):
            raise ValueError("output_cross_attentions would do nothing in a stream: call .generate([text], ...).")
        _split_options(options, 1)
        ids, _ = self._sources([text], max_source_length, src_lang)
        options |= self._language(tgt_lang, options)
        tokens = np.zeros(0, np.int32)
        said = None
        for chunk in self.model.stream(**self._batch(ids), **options):
            tokens = chunk.done.get(0, np.concatenate([tokens, chunk.tokens[0]]))
            now = self.tokenizers.decode_target([tokens], form=TargetForm.of(self.model, options))[0]
            # half a letter of several bytes is not shown
            if now != said and (0 in chunk.done or not now.endswith("\ufffd")):
                said = now
                yield now

    def _language(self, tgt_lang: str | None, options: Mapping[str, Any]) -> dict[str, int]:
        """The option of a call that makes it write a language."""
        if tgt_lang is None:
            return {}
        option = self.tokenizers.language_option(tgt_lang)
        if given := [name for name in option if name in options]:
            raise ValueError(f"tgt_lang and {given[0]} both say how an output begins: give one of them.")
        return option

    def _sources(
        self, texts: Sequence[str], max_length: int | None, src_lang: str | None
    ) -> tuple[list[np.ndarray], tuple[int, ...]]:
        texts = check_texts(texts)
        limit = source_limit(self.model) if max_length is None else max_length
        encoded = self.tokenizers.encode_source(texts, limit, src_lang=src_lang)
        check_not_empty(texts, encoded)
        return list(encoded), encoded.truncated

    def _batch(self, rows: list[np.ndarray]) -> Mapping[str, np.ndarray]:
        return pad_sources(rows, source_pad(self.model))

    def _outputs(
        self, result: GenerationResult, source_lengths: Sequence[int], options: Mapping[str, Any]
    ) -> Iterator[tuple[Any, ...]]:
        """The result by text, each cut to what it really holds: texts, ids, scores, unfinished, words met, attended."""
        started_apart = is_per_row(options.get(START)) and "decoder_input_ids" not in options
        shown = result.sequences[:, 1:] if started_apart else result.sequences
        said = self.tokenizers.decode_target(shown, form=TargetForm.of(self.model, options))
        each = len(said) // len(source_lengths)
        widths = result.sequences.shape[1] - result.log_probs.shape[1] + result.lengths
        for text, source in enumerate(source_lengths):
            part = slice(text * each, (text + 1) * each)
            ids = [row[:width] for row, width in zip(result.sequences[part], widths[part], strict=True)]
            met = None if result.forced_words_met is None else result.forced_words_met[part]
            attended = _cross_attentions_of(result, range(len(said))[part], source)
            yield said[part], ids, result.scores[part], result.truncated[part], met, attended


def _speaking(
    model: EncoderDecoder, tokenizers: TokenizerPair, src_lang: str | None, tgt_lang: str | None
) -> tuple[EncoderDecoder, TokenizerPair]:
    """The same, with tokenizers of these languages."""
    if src_lang is None and tgt_lang is None:
        return model, tokenizers
    return model, tokenizers.with_languages(src_lang, tgt_lang)


def _cross_attentions_of(result: GenerationResult, rows: range, source: int) -> list[Attended] | None:
    layers = result.cross_attentions
    if layers is None:
        return None
    return [
        tuple(None if layer is None else layer[row, :, : result.lengths[row], :source] for layer in layers)
        for row in rows
    ]


def _split_options(options: Mapping[str, Any], texts: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Options that have one row per text, as arrays; and the others.

    Raises:
        TypeError: an option is made from the texts.
        ValueError: it has another number of rows.
    """
    made = [name for name in _OF_THE_SOURCE if name in options]
    if made:
        raise TypeError(
            f"{', '.join(made)} cannot be given beside texts, from which they are made: leave out, or call "
            "speaker.model.generate(input_ids, ...)."
        )
    by_text = {name: np.asarray(options[name]) for name in _BY_TEXT if np.ndim(options.get(name, 0))}
    for name, value in by_text.items():
        if len(value) != texts:
            raise ValueError(f"{name} must have a row a text: got {len(value)} rows for {texts} texts.")
    return by_text, {name: value for name, value in options.items() if name not in by_text}


def _next_power_of_2(number: int) -> int:
    return 1 << (number - 1).bit_length()
