"""ELECTRA: BERT's layers over embeddings that may be narrower, and the generator's head (`ElectraModel` and its kin).

Clark et al. 2020, arXiv:2003.10555. The discriminator's head is not used: a discriminator as a decoder gets a
fresh one. Data only.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...config import StackConfig
from . import bert
from .bert import BERT

ATTRIBUTES = {
    **bert.ATTRIBUTES,
    "embedding_size": 128,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
}

_SUMMARY = ("type", "use_proj", "activation", "proj_to_labels", "last_dropout", "first_dropout")
SUMMARY = dict.fromkeys((f"summary_{name}" for name in _SUMMARY), "of heads for other tasks")

PROJECTION = (
    ("embeddings.projection.weight", "embeddings_project.weight", "transposed"),
    ("embeddings.projection.bias", "embeddings_project.bias", "same"),
)

ROWS = {
    **bert.ROWS,
    "base": (*bert.ROWS["base"], *PROJECTION),
    "pooler": (),
    "head": (
        ("head.dense.weight", "generator_predictions.dense.weight", "transposed"),
        ("head.dense.bias", "generator_predictions.dense.bias", "same"),
        ("head.norm.weight", "generator_predictions.LayerNorm.weight", "same"),
        ("head.norm.bias", "generator_predictions.LayerNorm.bias", "same"),
        ("head.projection.weight", "generator_lm_head.weight", "transposed"),
        ("head.bias", "generator_lm_head.bias", "same"),
    ),
}


def factorised(config: StackConfig, size: int) -> StackConfig:
    """The config with embeddings, and a head that leads back to them, of another width than the layers."""
    own = None if size == config.hidden_size else size
    head = None if config.head is None else dataclasses.replace(config.head, size=own)
    embeddings = dataclasses.replace(config.embeddings, size=own, projection=own is not None)
    return config.replace(embeddings=embeddings, head=head, pooler=False)


def read(hf: Mapping[str, Any]) -> StackConfig:
    """An ELECTRA config, all attributes present, as a `StackConfig`."""
    config = factorised(bert.read(hf), hf["embedding_size"])
    # The head's activation is fixed in the reference, whatever `hidden_act` says.
    return config.replace(head=None if config.head is None else dataclasses.replace(config.head, activation="gelu"))


def write(config: StackConfig) -> dict[str, Any]:
    """The attributes that express a `StackConfig`, as far as ELECTRA's can."""
    return {**bert.write(config), "embedding_size": config.embedding_size}


ELECTRA = dataclasses.replace(
    BERT,
    model_type="electra",
    architectures={"encoder": "ElectraModel", "decoder": "ElectraForCausalLM"},
    prefixes={"encoder": ("electra",), "decoder": ("electra",)},
    attributes=ATTRIBUTES,
    ignored={**bert.IGNORED, **SUMMARY, "generator_size": "how large the generator of its training was"},
    rows=ROWS,
    unused=(
        *bert.UNUSED,
        (r"discriminator_predictions\..*", "the discriminator's head"),
        (r"sequence_summary\..*", "the head of another task"),
    ),
    duplicates={},
    tied_copy=("generator_lm_head.weight", "embeddings.word_embeddings.weight"),
    read=read,
    write=write,
)
