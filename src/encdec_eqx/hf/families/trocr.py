"""TrOCR's text decoder: BART's, with a norm after the embeddings or none, learned or sinusoidal positions.

Li et al. 2023, arXiv:2109.10282 (`TrOCRForCausalLM`). Data only; what it shares with BART is taken from there.
"""

from collections.abc import Mapping
from typing import Any

from ...config import PositionsConfig, StackConfig
from ..family import Family
from . import bart

ATTRIBUTES = {
    **{name: value for name, value in bart.ATTRIBUTES.items() if not name.startswith("encoder_")},
    "max_position_embeddings": 512,
    "use_learned_position_embeddings": True,
    "layernorm_embedding": True,
}


def read(hf: Mapping[str, Any]) -> StackConfig:
    """A TrOCR config, all attributes present, as a `StackConfig`."""
    style = bart.Style(embedding_norm=hf["layernorm_embedding"], fixed_bias=False)
    config = bart.read_role({**hf, "is_decoder": True}, style)
    return config if hf["use_learned_position_embeddings"] else config.replace(positions=_counted(hf))


def _counted(hf: Mapping[str, Any]) -> PositionsConfig:
    """Sinusoidal positions count the ids that are not padding, from the row after padding's on."""
    padding = hf["pad_token_id"]
    return PositionsConfig(
        max_positions=hf["max_position_embeddings"] + padding + 1,
        kind="sinusoidal_tensor2tensor",
        counting="non_padding",
        padding_idx=padding,
    )


def write(config: StackConfig) -> dict[str, Any]:
    """The attributes that express a `StackConfig`, as far as TrOCR's can."""
    return {
        **bart.write_role(config),
        "max_position_embeddings": config.positions.longest,
        "use_learned_position_embeddings": config.positions.kind == "learned",
        "layernorm_embedding": config.embeddings.norm,
    }


def buffers(config: StackConfig) -> Mapping[str, tuple[int, ...]]:
    """Sinusoidal positions come with a buffer of one number that says nothing."""
    return {} if config.positions.kind == "learned" else {"embed_positions._float_tensor": (1,)}


TROCR = Family(
    model_type="trocr",
    architectures={"decoder": "TrOCRForCausalLM"},
    prefixes={"decoder": ("model.decoder", "decoder")},
    attributes=ATTRIBUTES,
    ignored={"decoder_layerdrop": bart.IGNORED["decoder_layerdrop"]},
    remarks=bart.no_layerdrop("decoder_layerdrop"),
    spellings={
        "hidden_size": "d_model",
        "num_attention_heads": "decoder_attention_heads",
        "num_hidden_layers": "decoder_layers",
    },
    layer="layers.{i}",
    rows={**bart.ROWS, "head": (("head.projection.weight", "output_projection.weight", "transposed"),)},
    optional={"embeddings.positions.weight": False},
    buffers=buffers,
    unused=bart.UNUSED,
    duplicates={},
    tied_copy=("output_projection.weight", "embed_tokens.weight"),
    read=read,
    write=write,
)
