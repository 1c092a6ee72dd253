"""A batch as the checks on the host read it, and whether its ids are in range, fit the positions, and are masked."""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from .._inputs import IGNORED
from ..config import StackConfig
from ..inputs.tokens import longest
from ..surgery.resize import resizing_call
from ..text.texts import source_config
from .catalogue import found
from .finding import Finding

SOME = 0.1
"""Fraction of the rows from which on something is no accident. In good data none of what is looked for happens."""


@dataclasses.dataclass(frozen=True, eq=False)
class Ids:
    """The arrays of a batch by their names, `labels` among them.

    Attributes:
        given: all of them, as NumPy arrays.
    """

    given: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, batch: Mapping[str, Any]) -> "Ids":
        """From jax or NumPy arrays."""
        return cls({name: np.asarray(value) for name, value in batch.items()})

    @property
    def labels(self) -> Int[np.ndarray, "batch target"]:
        """As they are, -100 included."""
        return self.given["labels"]

    @property
    def source(self) -> Int[np.ndarray, "batch source"] | None:
        """The encoder's ids; None where it reads something else."""
        ids = self.given["input_ids"]
        return ids if ids.ndim == 2 and np.issubdtype(ids.dtype, np.integer) else None

    @property
    def mask(self) -> Bool[np.ndarray, "batch source"] | None:
        """Which source ids may be attended, if the batch says so."""
        mask = self.given.get("attention_mask")
        return None if mask is None else mask.astype(bool)

    @property
    def decoder_inputs(self) -> Int[np.ndarray, "batch target"] | None:
        """The decoder's inputs, if the batch has them."""
        return self.given.get("decoder_input_ids")

    @cached_property
    def counted(self) -> Bool[np.ndarray, "batch target"]:
        """Which labels carry loss."""
        return self.labels != IGNORED

    @cached_property
    def rows(self) -> Int[np.ndarray, " labelled"]:
        """The rows that have a label. The others have weight 0: they pad a batch."""
        return np.flatnonzero(self.counted.any(axis=1))

    @cached_property
    def targets(self) -> list[np.ndarray]:
        """The labels that count, row by row."""
        return [self.labels[row][self.counted[row]] for row in self.rows]

    @cached_property
    def full(self) -> Bool[np.ndarray, " labelled"]:
        """Which of the labelled rows reach the last column."""
        return self.counted[self.rows, -1]


def tail(row: np.ndarray) -> tuple[int, int]:
    """The last id of a row that has one, and how often it is repeated there."""
    others = np.flatnonzero(row != row[-1])
    return int(row[-1]), len(row) - (int(others[-1]) + 1 if len(others) else 0)


def fraction(values: Any) -> float:
    """The mean of some truths; 0 of none."""
    values = np.asarray(values)
    return float(values.mean()) if values.size else 0.0


_CAUSAL = ("gpt2", "xglm")
"""Families whose models are pretrained to continue text."""

_MASKED = ("bert", "roberta", "electra", "distilbert", "albert", "camembert", "xlm-roberta", "mpnet", "ernie")
"""Families whose models are pretrained to fill in masked tokens."""


def ids_out_of_range(ids: Ids, model: Any) -> Iterator[Finding]:
    """Ids that are no rows of an embedding table. If each side fits the other's table, the sides are swapped."""
    encoder = source_config(model)
    sizes = {"source": None if encoder is None else encoder.vocab_size, "target": model.decoder.config.vocab_size}
    wrong = [
        (name, value, size)
        for name, side in (("input_ids", "source"), ("labels", "target"), ("decoder_input_ids", "target"))
        for value, size in [(ids.source if name == "input_ids" else ids.given.get(name), sizes[side])]
        if value is not None and size is not None and not _fits(value, size)
    ]
    for name, value, size in wrong:
        real = value[value != IGNORED] if name == "labels" else value
        worst = int(real.min()) if real.min() < 0 else int(real.max())
        piece = "encoder" if name == "input_ids" else "decoder"
        yield found(
            "ids_out_of_range",
            also={"piece": piece, "last": size - 1, "resizing": resizing_call(model, piece, "n")},
            name=name,
            id=worst,
            vocab_size=size,
        )
    source, target = sizes["source"], sizes["target"]
    if not wrong or ids.source is None or source is None or target is None:
        return
    if _fits(ids.source, target) and _fits(ids.labels, source):
        yield found("roles_swapped", encoder_vocab_size=source, decoder_vocab_size=target)


def too_long(ids: Ids, model: Any) -> Iterator[Finding]:
    """Sequences that run past a table of positions."""
    sides = [("labels", "decoder", model.decoder.config, ids.labels, "decoder_position_ids", "max_target_length")]
    if (config := source_config(model)) is not None and ids.source is not None:
        sides.append(("input_ids", "encoder", config, ids.source, "position_ids", "max_source_length"))
    for name, piece, config, value, positions, option in sides:
        most = longest(config, ids.given.get(positions))
        if value.shape[1] > most:
            yield found(
                "sequence_too_long",
                also={"piece": piece, "option": option, "a_piece": f"{'an' if piece == 'encoder' else 'a'} {piece}"},
                name=name,
                length=value.shape[1],
                max_positions=most,
            )


def mask_values(ids: Ids) -> Iterator[Finding]:
    """Masks that hold something else than 0 and 1, such as 0 and -10000."""
    for name in ("attention_mask", "decoder_attention_mask"):
        mask = ids.given.get(name)
        if mask is not None and mask.size and not np.isin(mask, (0, 1)).all():
            odd = mask[~np.isin(mask, (0, 1))].flat[0]
            yield found("mask_values", also={"other": odd}, name=name, value=int(odd))


def pieces_swapped(model: Any) -> Iterator[Finding]:
    """A model pretrained to continue text as the encoder, and one pretrained to fill in gaps as the decoder."""
    encoder = source_config(model)
    if encoder is None:
        return
    families = encoder.model_type, model.decoder.config.model_type
    report = getattr(model.encoder, "load_report", model.decoder.load_report)
    loaded = report.loaded and model.decoder.load_report.loaded
    if loaded and families[0] in _CAUSAL and families[1] in _MASKED:
        yield found("roles_swapped/pieces", encoder=families[0], decoder=families[1])


def is_causal_lm(model: Any) -> bool:
    """Whether the decoder's family is pretrained to continue text, on its own."""
    return model.decoder.config.model_type in _CAUSAL


def _fits(ids: np.ndarray, size: int) -> bool:
    real = ids[ids != IGNORED]
    return not real.size or (int(real.min()) >= 0 and int(real.max()) < size)


def padding_of(config: StackConfig) -> int | None:
    """The id that the encoder's config calls padding, if it names one."""
    return config.embeddings.padding_idx if config.pad_token_id is None else config.pad_token_id


def has_no_mask(ids: Ids, model: Any) -> Iterator[Finding]:
    """Padding that may be attended: there is no mask, or it shows padding at an end of a row.

    Where the encoder's config does not name its padding, equal ids at the ends of several rows are taken for it, if
    there are at least two in each and their numbers differ. An error only where the padding of the config looks like
    padding: a config may name an id that is a letter of one's own vocabulary, in which a sorted file's words may end.
    """
    source, mask, encoder = ids.source, ids.mask, source_config(model)
    if source is None or encoder is None or _is_inverted(ids, encoder):
        return
    pad = padding_of(encoder)
    rows = [source[row] for row in ids.rows]
    seen = [np.ones(len(row), bool) for row in rows] if mask is None else [mask[row] for row in ids.rows]
    bare = [row[shown] for row, shown in zip(rows, seen, strict=True) if shown.any()]
    if pad is not None:
        least = 2 if pad in _ends(encoder) else 1
        padded = [_at_an_end(row, pad) >= least for row in bare]
    else:
        padded, pad = _unnamed_padding(bare)
    if any(padded):
        named = padding_of(encoder) is not None
        certain = named and mask is None and _is_no_text(rows, int(pad or 0))
        yield found(
            "attention_mask_missing" if mask is None else "attention_mask_missing/shown",
            "error" if certain else "warning",
            rows=sum(padded),
            of=len(padded),
            pad=int(pad or 0),
        )


def mask_is_inverted(ids: Ids, model: Any) -> Iterator[Finding]:
    """A mask that hides tokens and shows padding: nine tenths of what it hides is text, of what it shows padding."""
    encoder = source_config(model)
    if encoder is not None and _is_inverted(ids, encoder):
        yield found("attention_mask_inverted")


def nothing_is_shown(ids: Ids) -> Iterator[Finding]:
    """Labelled rows whose mask is all 0: their decoder can learn nothing from the source."""
    if ids.mask is None or not len(ids.rows):
        return
    empty = np.asarray(~ids.mask[ids.rows].any(axis=tuple(range(1, ids.mask.ndim))))
    if empty.any():
        yield found("nothing_to_attend", rows=int(empty.sum()), of=len(empty))


def hidden_ids_are_odd(ids: Ids, model: Any) -> Iterator[Finding]:
    """What the mask hides is not the encoder's padding.

    One other id everywhere is the padding of another tokenizer (a warning); several are tokens that were hidden on
    purpose, or by the mask of another batch (an info, for nothing here can tell).
    """
    source, mask, encoder = ids.source, ids.mask, source_config(model)
    if source is None or mask is None or encoder is None or _is_inverted(ids, encoder):
        return
    pad = padding_of(encoder)
    hidden = source[ids.rows][~mask[ids.rows]]
    if pad is None or fraction(hidden != pad) < 0.5:
        return
    kinds = np.unique(hidden)
    if len(kinds) == 1:
        yield found("padding_of_another_tokenizer", padded_with=int(kinds[0]), pad_token_id=pad)
    elif len(hidden) > 1:
        yield found("mask_hides_tokens", also={"pad": pad}, hidden=len(hidden), kinds=len(kinds))


def is_mostly_padding(ids: Ids) -> Iterator[Finding]:
    """More padding than tokens, on either side: nothing is wrong, but most of the computation is wasted."""
    padded = {"target": 1 - fraction(ids.counted)}
    if ids.mask is not None:
        padded["source"] = 1 - fraction(ids.mask)
    for side, padding in padded.items():
        if padding > 0.5:
            yield found("mostly_padding", side=side, share=padding)


def _is_inverted(ids: Ids, encoder: StackConfig) -> bool:
    source, mask = ids.source, ids.mask
    if source is None or mask is None:
        return False
    hidden, shown = source[ids.rows][~mask[ids.rows]], source[ids.rows][mask[ids.rows]]
    if not hidden.size or not shown.size:
        return False
    pad = padding_of(encoder)
    if pad is None:
        # as often shown in every row, it may be the one token that is to be read
        varies = len(set(mask[ids.rows].sum(axis=1).tolist())) > 1
        return varies and len(np.unique(shown)) == 1 and len(np.unique(hidden)) > 2 and shown.flat[0] not in hidden
    return fraction(hidden == pad) <= 0.1 and fraction(shown == pad) >= 0.9


def _is_no_text(rows: list[np.ndarray], pad: int) -> bool:
    """Whether an id stands at the ends of rows alone, and not equally often at each."""
    ends = [_at_an_end(row, pad) for row in rows]
    at_ends_alone = all((row == pad).sum() == run for row, run in zip(rows, ends, strict=True))
    return at_ends_alone and len(set(ends)) > 1


def _at_an_end(row: np.ndarray, token: int) -> int:
    """How often a token is repeated at the end, or else the beginning, of a row."""
    for one in (row, row[::-1]):
        last, run = tail(one)
        if last == token:
            return run
    return 0


def _unnamed_padding(rows: list[np.ndarray]) -> tuple[list[bool], int | None]:
    tails = [tail(row) for row in rows]
    long = [last for last, run in tails if run > 1]
    if not long:
        return [], None
    token = max(set(long), key=long.count)
    runs = [run if last == token else 0 for last, run in tails]
    if long.count(token) < 2 or len(set(runs)) < 2:
        return [], None
    return [run > 1 for run in runs], token


def _ends(encoder: StackConfig) -> tuple[int, ...]:
    ends = encoder.eos_token_id
    return ends if isinstance(ends, tuple) else () if ends is None else (ends,)
