"""Encoded examples, and `encode_pairs`, which makes them of records: tokenized, cut to length, counted.

They are stored as two long rows of ids with offsets: a million of them take the memory of their ids.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

import numpy as np
from jaxtyping import Int32

from ..._quoting import quoted
from ...text import Encoded, TokenizerPair, report_cut
from .records import (
    FIELDS,
    MASKS,
    SOURCE_FIELDS,
    TARGET_FIELDS,
    BadRecord,
    OnBad,
    Pairs,
    Ragged,
    Record,
    alongside,
    cut,
    cut_ids,
    ragged_fields,
    settle,
    source_length,
    target_length,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """One example.

    Attributes:
        input_ids: the source's ids, special tokens included.
        labels: the target's ids, EOS included, without a start token.
        source: the source text, where it is known.
        targets: the accepted target texts, where they are known.
        attention_mask: 1 for source ids that may be attended, 0 for others; default 1.
        token_type_ids: segment of each source id.
        position_ids: position of each source id; default by the family's rule.
        decoder_input_ids: what the decoder reads at each label; default the labels moved right.
        decoder_attention_mask: 1 for decoder inputs that may be attended, 0 for others; default 1.
        decoder_position_ids: position of each decoder input; default by the family's rule.
    """

    input_ids: Int32[np.ndarray, " source"]
    labels: Int32[np.ndarray, " target"]
    source: str | None = None
    targets: tuple[str, ...] = ()
    attention_mask: np.ndarray | None = None
    token_type_ids: np.ndarray | None = None
    position_ids: np.ndarray | None = None
    decoder_input_ids: np.ndarray | None = None
    decoder_attention_mask: np.ndarray | None = None
    decoder_position_ids: np.ndarray | None = None

    @property
    def fields(self) -> dict[str, np.ndarray]:
        """What is given beside ids and labels, by name."""
        given = {name: getattr(self, name) for name in FIELDS}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def source_fields(self) -> dict[str, np.ndarray]:
        """Those that go with the source: what `generate` takes beside it."""
        return {name: value for name, value in self.fields.items() if name in SOURCE_FIELDS}


class Examples(Sequence[Example]):
    """Encoded examples, in the order of their records.

    Attributes:
        inputs: the sources' ids.
        labels: the targets' ids.
        fields: what examples hold beside these, by name: one number per id (`attention_mask`, ...) or per
            label (`decoder_input_ids`, ...). A field that only some have gets its default for the others.
        bad: records that were put aside, while reading or encoding.
        truncated_sources: how many sources were cut.
        truncated_targets: how many targets were cut.
    """

    def __init__(
        self,
        inputs: Ragged,
        labels: Ragged,
        records: Sequence[Record | Example],
        *,
        fields: Mapping[str, Ragged] | None = None,
        bad: tuple[BadRecord, ...] = (),
        truncated_sources: int = 0,
        truncated_targets: int = 0,
    ):
        self.inputs = inputs
        self.labels = labels
        self.fields = dict(fields or {})
        self.bad = bad
        self.truncated_sources = truncated_sources
        self.truncated_targets = truncated_targets
        self._records = records

    @classmethod
    def of(cls, examples: Iterable[Example]) -> "Examples":
        """From single ones. What a mask hides at a source's end, and -100 at a target's, are left out.

        Raises:
            TypeError: ids, labels or a field of one are no integers.
            ValueError: one has no source id or no label, or a field of another length; or a field is given for some
                examples only, and what it would be for the others depends on the model.
        """
        kept = list(examples)
        sources, targets = [], []
        for index, example in enumerate(kept):
            _check(index, example)
            sources.append(source_length(example.input_ids, example.fields))
            targets.append(target_length(example.labels))
        return cls(
            Ragged.of([example.input_ids[:length] for example, length in zip(kept, sources, strict=True)]),
            Ragged.of([example.labels[:length] for example, length in zip(kept, targets, strict=True)]),
            kept,
            fields=ragged_fields([example.fields for example in kept], sources, targets),
        )

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        record = self._records[at]
        fields = {name: rows[at] for name, rows in self.fields.items()}
        return Example(
            input_ids=self.inputs[at], labels=self.labels[at], source=record.source, targets=record.targets, **fields
        )

    @property
    def longest_target(self) -> int:
        """The most labels of an example."""
        return int(self.labels.lengths.max())

    @property
    def sources(self) -> list[str | None]:
        """The source texts; None where a record had only ids."""
        return [record.source for record in self._records]

    @property
    def references(self) -> list[list[str]]:
        """The accepted target texts, as the metrics read them; empty where a record had only ids."""
        return [list(record.targets) for record in self._records]


def _check(index: int, example: Example) -> None:
    if not len(example.input_ids) or not len(example.labels):
        raise ValueError(f"example {index} is empty; expected at least one input id and one label.")
    for name, row in {"input_ids": example.input_ids, "labels": example.labels, **example.fields}.items():
        kind = np.asarray(row).dtype
        if kind.kind not in ("iub" if name in MASKS else "iu"):
            raise TypeError(f"example {index} has {name} of dtype {kind}; expected integers.")
        beside = alongside(name) if name in FIELDS else name
        expected = len(getattr(example, beside))
        if np.shape(row) != (expected,):
            raise ValueError(
                f"example {index} has {name} of shape {np.shape(row)}; expected one number for each of its {expected} "
                f"{beside}."
            )


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
        max_target_length: most labels, EOS included.
        vocab_sizes: the encoder's and the decoder's: ids outside are bad records.
        too_long: "truncate" cuts what is longer (counted, and logged); "bad" makes it a bad record.
        every_target: one example for each accepted target, not only for the first.
        on_bad: see `read_pairs`; here for records that are too long, that hold ids out of range, or whose target has
            the EOS token inside.

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
    made = EncodedRecords.of(
        records,
        tokenizers,
        max_source_length=max_source_length,
        max_target_length=max_target_length,
        vocab_sizes=vocab_sizes,
        too_long=too_long,
    )
    settle(len(made.kept), made.bad, on_bad)
    return made.examples(pairs.bad)


class EncodedRecords:
    """Records with the ids made of them, and which of them can be used: `encode_pairs` before it says what is bad.

    Attributes:
        kept: indices of the records that can be used.
        bad: the others.
    """

    def __init__(self, records: Sequence[Record], sources: "_Side", targets: "_Side"):
        reasons = {**targets.bad, **sources.bad}
        self.kept = [at for at in range(len(records)) if at not in reasons]
        self.bad = [BadRecord(records[at].file, records[at].line, reasons[at]) for at in sorted(reasons)]
        self._records, self._sources, self._targets = records, sources, targets
        self._reasons = set(reasons)

    @classmethod
    def of(
        cls,
        records: Sequence[Record],
        tokenizers: TokenizerPair | None,
        *,
        max_source_length: int | None,
        max_target_length: int | None,
        vocab_sizes: tuple[int, int] | None,
        too_long: Literal["truncate", "bad"] = "truncate",
    ) -> "EncodedRecords":
        """Encode records; see `encode_pairs` for the arguments.

        Raises:
            ValueError: a length is below 1, or there is text and no tokenizers.
        """
        texts = sum(record.input_ids is None for record in records)
        if texts and tokenizers is None:
            raise ValueError(
                f"{texts} of {len(records)} records are text, which needs tokenizers: "
                "encode_pairs(pairs, tokenizers.for_model(model), ...)."
            )
        cuts = too_long == "truncate"
        sources = _Side("source", SOURCE_FIELDS, [(record.input_ids, record.fields) for record in records])
        targets = _Side("target", TARGET_FIELDS, [(record.labels, record.fields) for record in records])
        if tokenizers is not None:
            most_source, most_target = (max_source_length, max_target_length) if cuts else (None, None)
            sources.fill(lambda at: tokenizers.encode_source([records[i].source or "" for i in at], most_source))
            targets.fill(
                lambda at: tokenizers.encode_target([records[i].targets[0] for i in at], most_target, on_bad="report")
            )
        sources.validate(max_source_length, cuts, vocab_sizes and vocab_sizes[0])
        targets.validate(max_target_length, cuts, vocab_sizes and vocab_sizes[1])
        return cls(records, sources, targets)

    def examples(self, bad_before: Sequence[BadRecord] = ()) -> Examples:
        """Those that can be used.

        Raises:
            ValueError: some have a field that cannot be filled in for the others.
        """
        inputs, labels = (Ragged.of([side.rows[at] for at in self.kept]) for side in (self._sources, self._targets))
        fields = [self.fields(at) for at in self.kept]
        return Examples(
            inputs,
            labels,
            tuple(self._records[at] for at in self.kept),
            fields=ragged_fields(fields, inputs.lengths.tolist(), labels.lengths.tolist()),
            bad=(*bad_before, *self.bad),
            truncated_sources=self.truncated[0],
            truncated_targets=self.truncated[1],
        )

    @property
    def truncated(self) -> tuple[int, int]:
        """How many sources and targets were cut, of those that can be used."""
        return len(self._sources.cut - self._reasons), len(self._targets.cut - self._reasons)

    @property
    def lengths(self) -> tuple[list[int], list[int]]:
        """Numbers of source ids and of labels, of those that can be used."""
        sources, targets = ([len(side.rows[at]) for at in self.kept] for side in (self._sources, self._targets))
        return sources, targets

    def length_of(self, at: int) -> tuple[int, int] | None:
        """Numbers of source ids and of labels of a record; None if it is bad."""
        return None if at in self._reasons else (len(self._sources.rows[at]), len(self._targets.rows[at]))

    def arrays(self) -> Iterator[np.ndarray]:
        """All numbers of those that can be used: of each its ids, its labels, and what goes with them by name."""
        for at in self.kept:
            yield self._sources.rows[at]
            yield self._targets.rows[at]
            for name, row in sorted(self.fields(at).items()):
                yield np.frombuffer(name.encode(), np.uint8)
                yield row

    def fields(self, at: int) -> dict[str, np.ndarray]:
        """What a record holds beside ids and labels, cut as they are."""
        return {**self._sources.fields[at], **self._targets.fields[at]}


class _Side:
    """The ids of all records on one side, and what became of them.

    Attributes:
        rows: the ids; None until they are made from text.
        fields: of every row what it holds beside them on this side.
        cut: which rows were cut.
        bad: which rows cannot be used, and why.
    """

    def __init__(self, name: str, fields: tuple[str, ...], rows: list[tuple[Any, Mapping[str, np.ndarray]]]):
        self._name = name
        self.rows: list[Any] = [row for row, _ in rows]
        self.fields = [{one: beside[one] for one in fields if one in beside} for _, beside in rows]
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

    def validate(self, max_length: int | None, cuts: bool, vocab_size: int | None) -> None:
        """Find rows that are empty, too long or out of range; cut the long ones if `cuts`."""
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
            elif vocab_size is not None and (read := self.fields[at].get("decoder_input_ids", row)).max() >= vocab_size:
                self.bad[at] = f"'decoder_input_ids' holds the id {read.max()}; its vocabulary has {vocab_size}"
            elif max_length is not None and len(row) > max_length:
                if cuts:
                    self._cut(at, max_length)
                else:
                    self.bad[at] = f"the {name} has {len(row)} tokens, more than {max_length}"
        report_cut(name, len(self.cut) - before, len(self.rows), max_length)

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


def _one_target_each(records: Sequence[Record]) -> list[Record]:
    each: list[Record] = []
    for record in records:
        encoded = record.labels is not None
        each += [record] if encoded else [replace(record, targets=(target,)) for target in record.targets]
    return each
