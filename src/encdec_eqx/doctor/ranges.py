"""Whether ids are ids of the vocabularies, sequences fit the tables of positions, and sides are not swapped. Host only.

Knows sizes; must not know what the model computes.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..encoder import Encoder
from ..inputs.tokens import longest
from ..surgery.resize import resizing_call
from ..training.loss import IGNORED
from .finding import Finding
from .ids import Ids

_CAUSAL = ("gpt2", "xglm")
"""Families whose models are pretrained to continue text."""

_MASKED = ("bert", "roberta", "electra", "distilbert", "albert", "camembert", "xlm-roberta", "mpnet", "ernie")
"""Families whose models are pretrained to fill in masked tokens."""


def ids_out_of_range(ids: Ids, model: Any) -> Iterator[Finding]:
    """Ids that are no rows of an embedding table. If each side fits the other's table, the sides are swapped."""
    sizes = _vocabularies(model)
    wrong = [
        (name, value, size)
        for name, side in (("input_ids", "source"), ("labels", "target"), ("decoder_input_ids", "target"))
        for value, size in [(ids.source if name == "input_ids" else ids.given.get(name), sizes[side])]
        if value is not None and size is not None and not _fits(value, size)
    ]
    for name, value, size in wrong:
        real = value[value != IGNORED] if name == "labels" else value
        worst = int(real.min()) if real.min() < 0 else int(real.max())
        tokenizer = "encoder" if name == "input_ids" else "decoder"
        yield Finding(
            code="ids_out_of_range",
            severity="error",
            message=f"{name} hold {worst}; the {tokenizer}'s vocabulary has the ids 0 to {size - 1}.",
            fix=f"encode with the {tokenizer}'s own tokenizer (TokenizerPair.from_pretrained), or, if its vocabulary "
            f"grew, {resizing_call(model, tokenizer, 'n')}.",
            evidence={"name": name, "id": worst, "vocab_size": size},
        )
    source, target = sizes["source"], sizes["target"]
    if not wrong or ids.source is None or source is None or target is None:
        return
    if _fits(ids.source, target) and _fits(ids.labels, source):
        yield Finding(
            code="roles_swapped",
            severity="error",
            message="the source's ids fit the decoder's vocabulary and the labels fit the encoder's, not the other way "
            "round.",
            fix="swap source and target in the data, or encoder and decoder in from_pieces.",
            evidence={"encoder_vocab_size": source, "decoder_vocab_size": target},
        )


def too_long(ids: Ids, model: Any) -> Iterator[Finding]:
    """Sequences that run past a table of positions."""
    sides = [("labels", "decoder", model.decoder.config, ids.labels, "decoder_position_ids", "max_target_length")]
    if isinstance(model.encoder, Encoder) and ids.source is not None:
        config = model.encoder.config
        sides.append(("input_ids", "encoder", config, ids.source, "position_ids", "max_source_length"))
    for name, piece, config, value, positions, option in sides:
        most = longest(config, ids.given.get(positions))
        if value.shape[1] > most:
            yield Finding(
                code="sequence_too_long",
                severity="error",
                message=f"{name} are {value.shape[1]} long; the {piece} has positions for {most}.",
                fix=f"cut them ({option}={most}), or take {'an' if piece == 'encoder' else 'a'} {piece} with more "
                "positions.",
                evidence={"name": name, "length": value.shape[1], "max_positions": most},
            )


def mask_values(ids: Ids) -> Iterator[Finding]:
    """Masks that hold something else than 0 and 1, such as 0 and -10000."""
    for name in ("attention_mask", "decoder_attention_mask"):
        mask = ids.given.get(name)
        if mask is not None and mask.size and not np.isin(mask, (0, 1)).all():
            odd = mask[~np.isin(mask, (0, 1))].flat[0]
            yield Finding(
                code="mask_values",
                severity="error",
                message=f"{name} holds {odd}; a mask holds 1 for tokens that may be attended and 0 for the others.",
                fix=f'batch["{name}"] = input_ids != pad_token_id, or what the tokenizer returned.',
                evidence={"name": name, "value": int(odd)},
            )


def pieces_swapped(model: Any) -> Iterator[Finding]:
    """A model pretrained to continue text as the encoder, and one pretrained to fill in gaps as the decoder."""
    if not isinstance(model.encoder, Encoder):
        return
    families = model.encoder.config.model_type, model.decoder.config.model_type
    loaded = model.encoder.load_report.loaded and model.decoder.load_report.loaded
    if loaded and families[0] in _CAUSAL and families[1] in _MASKED:
        yield Finding(
            code="roles_swapped",
            severity="warning",
            message=f"the encoder is a pretrained {families[0]}, which sees only what stands left of a token, and the "
            f"decoder a pretrained {families[1]}, which never learned to continue a text.",
            fix="swap the two paths in from_encoder_decoder_pretrained, unless this is on purpose.",
            evidence={"encoder": families[0], "decoder": families[1]},
        )


def is_causal_lm(model: Any) -> bool:
    """Whether the decoder's family is pretrained to continue text, on its own."""
    return model.decoder.config.model_type in _CAUSAL


def _vocabularies(model: Any) -> dict[str, int | None]:
    source = model.encoder.config.vocab_size if isinstance(model.encoder, Encoder) else None
    return {"source": source, "target": model.decoder.config.vocab_size}


def _fits(ids: np.ndarray, size: int) -> bool:
    real = ids[ids != IGNORED]
    return not real.size or (int(real.min()) >= 0 and int(real.max()) < size)
