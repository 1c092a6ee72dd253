"""BigBird with full attention.

Zaheer et al. 2020, arXiv:2007.14062. Block-sparse attention is not built: such a model attends to everything, as the
reference itself does with inputs of up to (5 + 2 * num_random_blocks) * block_size tokens, and `remarks` says so.

A decoder attends to the target in its self-attention and not to padding in either, as the Flax class does. The PyTorch
class, when it is given encoder states, attends to those in self-attention, too (and knows nothing of earlier target
tokens), and to their padding; without encoder states it is right. The reference drops out before the norm of the
embeddings; here it is after, as in BERT.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..._quoting import quoted
from ..attributes import Attribute, read_only, root_of, variant
from . import bert
from .bert import BERT

_SPARSE = {"attention_type": "block_sparse", "block_size": 64, "num_random_blocks": 3}


def remarks(hf: Mapping[str, Any]) -> tuple[str, ...]:
    """That attention which would be sparse is full, and whose self-attention a decoder has."""
    kind, block, random = ({**_SPARSE, **hf}[name] for name in _SPARSE)
    if hf.get("is_decoder"):
        return (
            "self-attention attends to earlier target tokens; in PyTorch's class it attends to the encoder's states "
            "whenever there are any, and to their padding, so that its results differ",
        )
    if kind == "original_full":
        return ()
    return (
        f"attention_type is {quoted(kind)}: every token attends to every other, as in the reference up to "
        f"{(5 + 2 * random) * block} tokens; beyond, its attention is sparse and its results differ",
    )


BIG_BIRD = dataclasses.replace(
    BERT,
    model_type="big_bird",
    architectures={"encoder": "BigBirdModel", "decoder": "BigBirdForCausalLM"},
    config_rows=variant(
        bert.ATTRIBUTES,
        Attribute("use_bias", "attention.qkv_bias", True),
        Attribute("rescale_embeddings", "embeddings.scale_inputs_embeds", False),
        Attribute("rescale_embeddings", "embeddings.scale", False, read_only(root_of("hidden_size").read)),
        without=["position_embedding_type"],
        vocab_size=50358,
        hidden_act="gelu_new",
        max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=2,
    ),
    constants={**bert.CONSTANTS, "pooler": True},  # torch's decoder has one, too
    ignored={**bert.IGNORED, **dict.fromkeys(_SPARSE, "attention is always full here")},
    when_new={"attention_type": "original_full"},
    fixed=bert.ABSOLUTE,
    rows=bert.rename_modules(bert.ROWS, {"pooler.dense": "pooler"}),
    unused=(*BERT.unused, (r"qa_classifier\..*", "the head of another task")),
    remarks=remarks,
)
"""BigBird with full attention"""
