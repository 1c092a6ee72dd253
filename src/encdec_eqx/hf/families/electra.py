"""ELECTRA and RoFormer: BERT's layers over embeddings that may be narrower than they are.

ELECTRA's discriminator head is not used: a discriminator as a decoder gets a newly initialised one. RoFormer's table of
angles is a constant that its files hold all the same.
"""

import dataclasses

from ..attributes import Attribute, Convert, own_width, read_only, variant
from ..names import linear, norm
from . import bert
from .bert import BERT


def _embedding_size(default: int | None) -> tuple[Attribute, ...]:
    """The width of the embeddings, and of a head that leads back to them."""
    theirs, paths = "embedding_size", ("embeddings.size", "head.size")
    return (
        Attribute(theirs, paths, default, Convert(own_width, lambda size, config: config.embedding_size)),
        Attribute(theirs, "embeddings.projection", default, read_only(lambda n, hf: own_width(n, hf) is not None)),
    )


_SUMMARY = ("type", "use_proj", "activation", "proj_to_labels", "last_dropout", "first_dropout")
_IGNORED = {**bert.IGNORED, **dict.fromkeys((f"summary_{name}" for name in _SUMMARY), "of heads for other tasks")}
_UNUSED = (*bert.UNUSED, (r"sequence_summary\..*", "the head of another task"))

_PROJECTION = (*linear("embeddings.projection", "embeddings_project"),)

ELECTRA = dataclasses.replace(
    BERT,
    model_type="electra",
    architectures={"encoder": "ElectraModel", "decoder": "ElectraForCausalLM"},
    prefixes={"encoder": ("electra",), "decoder": ("electra",)},
    config_rows=variant(
        bert.ATTRIBUTES, *_embedding_size(128), hidden_size=256, num_attention_heads=4, intermediate_size=1024
    ),
    # The head's activation is fixed in the reference, whatever `hidden_act` says.
    constants={**bert.CONSTANTS, "head.activation": "gelu", "pooler": False},
    ignored={**_IGNORED, "generator_size": "how large the generator of its training was"},
    rows={
        **bert.ROWS,
        "base": (*bert.ROWS["base"], *_PROJECTION),
        "pooler": (),
        "head": (
            *linear("head.dense", "generator_predictions.dense"),
            *norm("head.norm", "generator_predictions.LayerNorm"),
            ("head.projection.weight", "generator_lm_head.weight", "transposed"),
            ("head.bias", "generator_lm_head.bias", "same"),
        ),
    },
    unused=(*_UNUSED, (r"discriminator_predictions\..*", "the discriminator's head")),
    duplicates={},
    tied_copy=("generator_lm_head.weight", "embeddings.word_embeddings.weight"),
)
"""ELECTRA: BERT's layers over embeddings that may be narrower, and the generator's head

Clark et al. 2020, arXiv:2003.10555.
"""

_POSITIONS = "embeddings.positions.weight"

ROFORMER = dataclasses.replace(
    BERT,
    model_type="roformer",
    architectures={"encoder": "RoFormerModel", "decoder": "RoFormerForCausalLM"},
    prefixes={"encoder": ("roformer",), "decoder": ("roformer",)},
    config_rows=variant(
        bert.ATTRIBUTES,
        *_embedding_size(None),
        Attribute("rotary_value", "attention.rotate_values", False),
        without=["position_embedding_type"],
        vocab_size=50000,
        max_position_embeddings=1536,
    ),
    constants={**bert.CONSTANTS, "positions.kind": "sinusoidal_halves", "positions.use": "rotated", "pooler": False},
    ignored=_IGNORED,
    fixed=bert.ABSOLUTE,
    rows={
        **bert.ROWS,
        "base": (
            *(row for row in bert.ROWS["base"] if row[0] != _POSITIONS),
            (_POSITIONS, "encoder.embed_positions.weight", "same"),
            *_PROJECTION,
        ),
        "pooler": (),
    },
    optional={_POSITIONS: True},
    unused=_UNUSED,
)
"""RoFormer: BERT's layers with positions that rotate queries and keys

Su et al. 2021, arXiv:2104.09864.
"""
