"""From records to encoded examples: tokenized, cut to length, counted.

Knows tokenizers only by what `text.TokenizerPair` offers. Must not know models or batches.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from ..._quoting import quoted
from ...text import Encoded, TokenizerPair, report_cut
from .examples import Examples, Ragged, ragged_fields
from .fields import SOURCE_FIELDS, TARGET_FIELDS, cut, cut_ids, source_length, target_length
from .records import BadRecord, OnBad, Pairs, Record, settle


def encode_pairs(
    pairs: Pairs,
    tokenizers: TokenizerPair | None = None,
    *,
    max_source_length: int | None = None,
    max_target_length: int | None = None,
    vocab_sizes: tuple[int, int] | None = None,
    too_long: Literal["truncate", "bad"] = "truncate",
    every_target: bool = False,
    on_bad: OnBad = "error",
) -> Examples:
    """Encode records. Ids that a record brings along are taken as they are; where they are cut, the last one is kept.

    With ids come the fields of the model's own call (`attention_mask`, `decoder_input_ids`, ...), cut as the ids are.
    What a mask hides at a source's end, and labels of -100 at a target's, are left out: they change no number.

    Args:
        pairs: from `read_pairs` or `pairs_from`.
        tokenizers: from `TokenizerPair.for_model(model)`; not needed if all records are encoded.
        max_source_length: most source ids, special tokens included.
        max_target_length: most labels, the end included.
        vocab_sizes: the encoder's and the decoder's: ids outside are bad records.
        too_long: "truncate" cuts what is longer (counted, and logged); "bad" makes it a bad record.
        every_target: one example for each accepted target, not only for the first.
        on_bad: see `read_pairs`; here for records that are too long, that hold ids out of range, or whose target has
            the end token inside.

    Returns:
        The examples; `bad` has the records put aside here and before, and the counts say how many were cut.

    Raises:
        BadRecordsError: there are bad records.
        ValueError: an option is out of its range, there is text and no tokenizers, or some records have a field that
            cannot be filled in for the others.
    """
    if too_long not in ("truncate", "bad"):
        raise ValueError(f'too_long must be "truncate" or "bad", got {quoted(too_long)}.')
    records = _one_target_each(pairs.records) if every_target else pairs.records
    texts = sum(record.input_ids is None for record in records)
    if texts and tokenizers is None:
        raise ValueError(
            f"{texts} of {len(records)} records are text, which needs tokenizers: "
            "encode_pairs(pairs, tokenizers.for_model(model), ...)."
        )
    cuts = too_long == "truncate"
    sources = _Side(
        "source", SOURCE_FIELDS, [record.input_ids for record in records], [record.fields for record in records]
    )
    targets = _Side(
        "target", TARGET_FIELDS, [record.labels for record in records], [record.fields for record in records]
    )
    if tokenizers is not None:
        most_source, most_target = (max_source_length, max_target_length) if cuts else (None, None)
        sources.fill(lambda at: tokenizers.encode_source([records[i].source or "" for i in at], most_source))
        targets.fill(
            lambda at: tokenizers.encode_target([records[i].targets[0] for i in at], most_target, on_bad="report")
        )
    sources.judge(max_source_length, cuts, vocab_sizes and vocab_sizes[0])
    targets.judge(max_target_length, cuts, vocab_sizes and vocab_sizes[1])
    reasons = {**targets.bad, **sources.bad}
    kept = [at for at in range(len(records)) if at not in reasons]
    bad = [BadRecord(records[at].file, records[at].line, reasons[at]) for at in sorted(reasons)]
    settle(len(kept), bad, on_bad)
    fields = [{**sources.fields[at], **targets.fields[at]} for at in kept]
    return Examples(
        sources.ragged(kept),
        targets.ragged(kept),
        tuple(records[at] for at in kept),
        fields=ragged_fields(fields, sources.lengths(kept), targets.lengths(kept)),
        bad=(*pairs.bad, *bad),
        truncated_sources=len(sources.cut - set(reasons)),
        truncated_targets=len(targets.cut - set(reasons)),
    )


class _Side:
    """The ids of all records on one side, and what became of them.

    Attributes:
        rows: the ids; None until they are made from text.
        fields: of every row what it holds beside them on this side.
        cut: which rows were cut.
        bad: which rows cannot be used, and why.
    """

    def __init__(self, name: str, fields: tuple[str, ...], rows: list[Any], beside: list[Mapping[str, np.ndarray]]):
        self._name = name
        self.rows = rows
        self.fields = [{one: row[one] for one in fields if one in row} for row in beside]
        self.cut: set[int] = set()
        self.bad: dict[int, str] = {}

    def fill(self, encode: Callable[[list[int]], Encoded]) -> None:
        """Encode the rows that are text."""
        text = [at for at, row in enumerate(self.rows) if row is None]
        made = encode(text)
        for at, row in zip(text, made, strict=True):
            self.rows[at] = row
        self.cut = {text[i] for i in made.truncated}
        self.bad = {text[i]: reason for i, reason in made.bad.items()}

    def judge(self, max_length: int | None, cuts: bool, vocab_size: int | None) -> None:
        """Find rows that are empty, too long or out of range; cut the long ones if that is wanted."""
        name = self._name
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_{name}_length must be at least 1, got {max_length}.")
        before = len(self.cut)
        for at, row in enumerate(self.rows):
            if at in self.bad:
                continue
            if not len(row):
                self.bad[at] = f"the {name} has no tokens"
                continue
            row = self._trim(at)
            if vocab_size is not None and row.max() >= vocab_size:
                self.bad[at] = f"the {name} holds the id {row.max()}; its vocabulary has {vocab_size}"
            elif vocab_size is not None and (read := self._decoder_inputs(at)) >= vocab_size:
                self.bad[at] = f"'decoder_input_ids' holds the id {read}; its vocabulary has {vocab_size}"
            elif max_length is not None and len(row) > max_length:
                if cuts:
                    self._cut(at, max_length)
                else:
                    self.bad[at] = f"the {name} has {len(row)} tokens, more than {max_length}"
        report_cut(name, len(self.cut) - before, len(self.rows), max_length)

    def _decoder_inputs(self, at: int) -> int:
        """The largest id that the decoder is given to read."""
        given = self.fields[at].get("decoder_input_ids")
        return -1 if given is None else int(given.max())

    def _trim(self, at: int) -> np.ndarray:
        """The row without what changes no number at its end."""
        row, fields = self.rows[at], self.fields[at]
        length = source_length(row, fields) if self._name == "source" else target_length(row)
        if length < len(row):
            self.rows[at] = row[:length]
            self.fields[at] = {name: field[:length] for name, field in fields.items()}
        return self.rows[at]

    def _cut(self, at: int, length: int) -> None:
        self.rows[at] = cut_ids(self.rows[at], length)
        self.fields[at] = {name: cut(name, field, length) for name, field in self.fields[at].items()}
        self.cut.add(at)

    def lengths(self, kept: list[int]) -> list[int]:
        return [len(self.rows[at]) for at in kept]

    def ragged(self, kept: list[int]) -> Ragged:
        return Ragged.of([self.rows[at] for at in kept])


def _one_target_each(records: Sequence[Record]) -> list[Record]:
    each: list[Record] = []
    for record in records:
        encoded = record.labels is not None
        each += [record] if encoded else [replace(record, targets=(target,)) for target in record.targets]
    return each
