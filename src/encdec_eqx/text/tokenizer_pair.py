"""The tokenizer of the encoder and that of the decoder, kept together."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .._quoting import quoted
from ..encoder_decoder import EncoderDecoder
from ..generation.special_tokens import SpecialTokens
from ..targets import TargetForm
from . import tokenizer_files as files
from .languages import Languages
from .rust_errors import as_value_error
from .texts import Encoded, check_texts, report_cut
from .tokenizer_fit import check, keeps_all, looks_special, unknown_id

_PORTION = 4096


@dataclass(frozen=True, eq=False)
class TokenizerPair:
    """Two tokenizers: what the encoder reads, and what the decoder says.

    Both are copied, without padding and truncation.

    Attributes:
        source: a `tokenizers.Tokenizer`.
        target: another, or the same.
        special_tokens: the model's; from `for_model`. Targets end with its `eos_token_id`.
        target_form: what targets begin and end with; from `for_model`. By the special tokens alone if it is not given.
        languages: of a tokenizer of several languages; from `with_languages`, or `tokenizer_config.json`.
    """

    source: Any
    target: Any
    special_tokens: SpecialTokens | None = None
    target_form: TargetForm | None = None
    languages: Languages | None = None

    def __post_init__(self):
        same = self.source is self.target
        object.__setattr__(self, "source", files.copy_bare(self.source))
        if self.languages is not None and self.languages.src_lang is not None:
            files.put_around(self.source, *self.languages.around(self.source, self.languages.src_lang))
        object.__setattr__(self, "target", self.source if same else files.copy_bare(self.target))
        if self.target_form is None and self.special_tokens is not None:
            object.__setattr__(self, "target_form", TargetForm.of_tokens(self.special_tokens))

    @classmethod
    def from_files(cls, source: str | os.PathLike, target: str | os.PathLike | None = None) -> "TokenizerPair":
        """From two `tokenizer.json` files, or from one for both.

        Args:
            source: the encoder's `tokenizer.json`.
            target: the decoder's; default: the same file.

        Raises:
            FileNotFoundError: a file is not there.
            ImportError: tokenizers is not installed.
            ValueError: a file is damaged.
        """
        first = files.read(Path(source))
        return cls(first, first if target is None else files.read(Path(target)))

    @classmethod
    def from_pretrained(cls, encoder: str | os.PathLike, decoder: str | os.PathLike) -> "TokenizerPair":
        """Each piece's own: from its folder, or by its Hub id.

        Args:
            encoder: a folder or a Hub id.
            decoder: a folder or a Hub id.

        Raises:
            FileNotFoundError: a tokenizer cannot be found.
            ImportError: tokenizers is not installed.
            ValueError: a file is damaged.
        """
        first = files.read_pretrained(encoder)
        if encoder != decoder:
            return cls(first, files.read_pretrained(decoder))
        return cls(first, first, languages=Languages.of_config(files.read_config(encoder), first))

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "TokenizerPair":
        """From the folder that `save` wrote to: `tokenizer.json`, or `source_…` and `target_tokenizer.json`.

        Args:
            folder: of a saved pair.

        Raises:
            FileNotFoundError: they are not there.
            ImportError: tokenizers is not installed.
            ValueError: a file is damaged, or there are too many.
        """
        source, target = files.read_folder(Path(folder))
        return cls(source, target, languages=Languages.of_config(files.read_config(Path(folder)), source))

    def save(self, folder: str | os.PathLike) -> None:
        """Save both: `tokenizer.json` if they are the same, else `source_tokenizer.json` and `target_tokenizer.json`.

        What is known of languages goes into `tokenizer_config.json`, as transformers writes it.

        Args:
            folder: made if it does not exist; usually the one that the model is saved in.
        """
        config = None if self.languages is None else self.languages.to_config()
        files.write_folder(Path(folder), self.source, self.target, config)

    def with_languages(
        self, src_lang: str | None = None, tgt_lang: str | None = None, *, kind: str | None = None
    ) -> "TokenizerPair":
        """The same for texts of two languages: their codes stand where transformers' tokenizers put them.

        A target's language is the model's to write, so the model is told too: `model = tokenizers.configure(model)`,
        which `TextToText` does by itself.

        Args:
            src_lang: language of sources, as the tokenizer writes it: `"eng_Latn"` (NLLB), `"en"` (M2M100), `"en_XX"`
                (mBART). Default: the one that it has.
            tgt_lang: language of targets. Default: the one that it has, or what the model says.
            kind: transformers' class of the tokenizer, such as `"NllbTokenizer"`; default: what `tokenizer_config.json`
                said, if there was one.

        Raises:
            ValueError: the tokenizer has no such language, or its kind is not known.
        """
        known = self._known() if kind is None else Languages(kind=kind)
        languages = known.replace(src_lang=src_lang, tgt_lang=tgt_lang)
        if languages.tgt_lang is not None:
            languages.option(self.target, languages.tgt_lang)
        return TokenizerPair(self.source, self.target, languages=languages)

    def language_option(self, tgt_lang: str | None = None) -> dict[str, int]:
        """The option of `generate` for a target language: `forced_bos_token_id`, or an mBART-25's start token.

        Args:
            tgt_lang: the language; default the pair's own, and no option if that is None.

        Raises:
            ValueError: the tokenizer has no such language, or where it puts codes is not known (`with_languages`).
        """
        if tgt_lang is not None:
            return self._known().option(self.target, tgt_lang)
        languages = self.languages
        return (
            {} if languages is None or languages.tgt_lang is None else languages.option(self.target, languages.tgt_lang)
        )

    def configure(self, model: EncoderDecoder) -> EncoderDecoder:
        """The model, made to write the pair's target language: in labels, decoder inputs, generation and its files.

        Args:
            model: of the family that the languages are of.
        """
        option = self.language_option()
        return model.with_special_tokens(**option) if option else model

    def check(self, model: EncoderDecoder) -> None:
        """Raise where the tokenizers do not fit the model.

        Args:
            model: the one that the tokenizers are to speak to.

        Raises:
            ValueError: ids reach beyond the embeddings, a special token of the model is no special token of the
                tokenizer, or the two end a text differently; all of it in one message.
        """
        check(model, self.source, self.target)

    def for_model(self, model: EncoderDecoder) -> "TokenizerPair":
        """The same, checked against a model and knowing what its targets begin and end with.

        Args:
            model: the one whose special tokens count.

        Raises:
            ValueError: see `check`.
        """
        self.check(model)
        form = TargetForm.of(model)
        for name, code in self.language_option().items():
            if code not in (form.first, form.start):
                raise ValueError(
                    f"the tokenizers' targets are in {quoted(self.languages and self.languages.tgt_lang)}; the model's "
                    f"{name} is not {code}, so it would not write it. model = tokenizers.configure(model) tells it."
                )
        return replace(self, special_tokens=model.special_tokens, target_form=form)

    def encode_source(
        self, texts: Sequence[str], max_length: int | None = None, *, src_lang: str | None = None
    ) -> Encoded:
        """Ids for the encoder, with the special tokens that its tokenizer adds.

        Args:
            texts: what to encode.
            max_length: most ids, special tokens included; texts are cut in front of the closing ones.
            src_lang: their language, if it is not the pair's.

        Returns:
            A list of int32 arrays; `truncated` has the indices of the texts that were cut (logged too).

        Raises:
            TypeError: `texts` is one string, or one of them is none; says which.
            ValueError: `max_length` leaves no room for text, or there is no such language.
        """
        around = None if src_lang is None else self._known().around(self.source, src_lang)
        before, after = ([self.source.token_to_id(token) for token in side] for side in around or ((), ()))
        added = len(before) + len(after) if around else self.source.num_special_tokens_to_add(False)
        room = _room(max_length, added, "source")
        ids: list[np.ndarray] = []
        cut: list[int] = []
        for encoding in _encodings(self.source, check_texts(texts)):
            if room is not None and len(encoding.ids) > room:
                cut.append(len(ids))
                encoding.truncate(room)
            if around:
                ids.append(np.asarray([*before, *encoding.ids, *after], np.int32))
                continue
            with as_value_error("the tokenizer cannot put its special tokens around a text"):
                ids.append(np.asarray(self.source.post_process(encoding).ids, np.int32))
        report_cut("source", len(cut), len(ids), max_length)
        return Encoded(ids, tuple(cut))

    def encode_target(
        self, texts: Sequence[str], max_length: int | None = None, *, on_bad: Literal["error", "report"] = "error"
    ) -> Encoded:
        """Labels: what the model generates for these texts, from after its start token to its EOS token.

        A token that generation forces first (`forced_bos_token_id`: BART's `<s>`, mBART-50's language code) stands in
        front. What the tokenizer itself would put around a text (BERT's [CLS] and [SEP]) is left out, so tokenizers of
        every kind give what a decoder should say.

        Args:
            texts: what to encode. A text that already begins or ends so is not given a second token, and one that
                brings the start token along (Llama's `<s>`) loses it: the decoder reads it anyway.
            max_length: most ids, the forced first one and EOS included; what is cut gets its EOS too.
            on_bad: of texts with the EOS token inside: "error", or "report" them in the result's `bad`.

        Returns:
            A list of int32 arrays; `truncated` has the indices of the texts that were cut (logged too).

        Raises:
            TypeError: `texts` is one string, or one of them is none; says which.
            ValueError: no model was given (`for_model`), `max_length` leaves no room for text, or a text has the EOS
                token inside.
        """
        form = self._form_with_eos()
        room = _room(max_length, form.added, "target")
        ids: list[np.ndarray] = []
        cut: list[int] = []
        bad: dict[int, str] = {}
        for at, encoding in enumerate(_encodings(self.target, check_texts(texts))):
            content = form.bare(self._without_start(encoding.ids, form))
            if inside := set(form.ends or ()).intersection(content):
                bad[at] = f"the target has the end token {quoted(self.target.id_to_token(min(inside)))} inside"
            elif room is not None and len(content) > room:
                cut.append(at)
            ids.append(np.asarray([] if at in bad else form.labels(content, room), np.int32))
        if bad and on_bad == "error":
            at, reason = next(iter(bad.items()))
            raise ValueError(f"text {at} ({len(bad)} of {len(ids)} such): {reason}: {quoted(texts[at], 80)}")
        report_cut("target", len(cut), len(ids), max_length)
        return Encoded(ids, tuple(cut), bad)

    def decode_target(
        self, ids: Iterable[Iterable[int] | np.ndarray] | np.ndarray, *, form: TargetForm | None = None
    ) -> list[str]:
        """Text of what a model generated, or of labels.

        A start token in front, a forced first token after it, all from the first EOS token on, padding, -100 and
        other special tokens are left out. A forced first token that is an ordinary word stays.

        Args:
            ids: rows of ids, such as `result.sequences`, or a list of arrays.
            form: of what was generated, if the call of `generate` used another than the model's own.
        """
        form = form or self.target_form or TargetForm()
        keep_first = form.first is not None and not looks_special(self.target, form.first)
        rows = [form.content(np.asarray(row), keep_first=keep_first).tolist() for row in ids]
        return self.target.decode_batch(rows, skip_special_tokens=True)

    def round_trip(self, texts: Sequence[str]) -> list[str]:
        """Target texts as they come back from ids: what a model that makes no mistake would say.

        A tokenizer may write them otherwise than they were (BERT's separates "2021-03-03" into "2021 - 03 - 03", and
        its uncased one knows no capitals). A text of which something is lost, because the tokenizer does not know it,
        or that has the EOS token inside, is returned as it is: no model can say it.

        Args:
            texts: what targets should say.

        Raises:
            TypeError: `texts` is one string.
            ValueError: no model was given (`for_model`).
        """
        encoded = self.encode_target(texts, on_bad="report")
        unknown = unknown_id(self.target)
        whole = [at not in encoded.bad and (unknown is None or unknown not in row) for at, row in enumerate(encoded)]
        said = zip(texts, self.decode_target(encoded), whole, strict=True)
        return [again if sound and keeps_all(self.target, text, again) else text for text, again, sound in said]

    def _known(self) -> Languages:
        if self.languages is None:
            raise ValueError(
                "where this tokenizer puts a language's code is not known: there was no tokenizer_config.json that "
                "names its class in transformers. tokenizers.with_languages(..., kind='NllbTokenizer') names it; also "
                "'M2M100Tokenizer', 'MBart50Tokenizer', 'MBartTokenizer', 'PLBartTokenizer'. (Where a tokenizer has no "
                "languages, as T5's and BERT's, leave them out.)"
            )
        return self.languages

    def _without_start(self, ids: list[int], form: TargetForm) -> list[int]:
        """A text's ids without the start token that it brings along, as what a chat template makes does."""
        start = form.start
        if not ids or start is None or ids[0] != start or start in (form.ends or ()):
            return ids
        return ids[1:] if looks_special(self.target, start) else ids

    def _form_with_eos(self) -> TargetForm:
        form = self.target_form
        if form is None or form.ends is None:
            why = "it was not given" if self.special_tokens is None else "the model has no eos_token_id"
            raise ValueError(
                f"targets end with the model's EOS token, but {why}: tokenizers.for_model(model) takes it from a "
                "model, model.with_special_tokens(eos_token_id=...) gives it one."
            )
        return form


def _encodings(tokenizer: Any, texts: list[str]) -> Iterator[Any]:
    """Of every text, without special tokens; in portions, because an encoding takes far more room than its ids."""
    for start in range(0, len(texts), _PORTION):
        with as_value_error("the tokenizer cannot encode these texts"):
            made = tokenizer.encode_batch_fast(texts[start : start + _PORTION], add_special_tokens=False)
        yield from made


def _room(max_length: int | None, special: int, side: str) -> int | None:
    """Ids left for text."""
    if max_length is None:
        return None
    if max_length <= special:
        raise ValueError(
            f"max_length of a {side} is {max_length}; its {special} special tokens leave no room for text."
        )
    return max_length - special
