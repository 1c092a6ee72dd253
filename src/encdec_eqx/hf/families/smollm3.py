"""SmolLM3: Llama with layers that have no positions, every fourth unless its config says another rule.

Bakouch et al. 2025; the layers are those of Yang et al. 2025, arXiv:2501.18795.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..._quoting import quoted
from ...config import StackConfig
from ..attributes import ABSENT, Attribute, variant, write_only
from ..layer_types import LAYER_TYPES, window_of, window_row, with_windows
from . import llama
from .llama import LLAMA


def _rotated(config: StackConfig, hf: Mapping[str, Any]) -> list[bool]:
    """Which layers rotate: those at 1 in `no_rope_layers`, whatever its name says."""
    said, interval, count = hf["no_rope_layers"], hf["no_rope_layer_interval"], len(config.layers)
    if said is None:
        if interval < 1:
            raise ValueError(f"no_rope_layer_interval is {interval}; expected at least 1")
        return [(at + 1) % interval != 0 for at in range(count)]
    if len(said) != count or not all(isinstance(flag, int) for flag in said):
        raise ValueError(f"no_rope_layers is {quoted(said)}; expected 0 or 1 for each of the {count} layers")
    return [bool(flag) for flag in said]


def _in_turn(config: StackConfig, hf: Mapping[str, Any]) -> StackConfig:
    """The config with rotations in some layers; of the others each slides, if any do."""
    rotated = _rotated(config, hf)
    layers = tuple(
        dataclasses.replace(layer, rotary=0 if rotates else None)
        for layer, rotates in zip(config.layers, rotated, strict=True)
    )
    slide = hf["use_sliding_window"] and hf["sliding_window"] is not None
    return with_windows(config.replace(layers=layers), hf, usual=[slide and not rotates for rotates in rotated])


SMOLLM3 = dataclasses.replace(
    LLAMA,
    model_type="smollm3",
    architectures={"decoder": "SmolLM3ForCausalLM"},
    config_rows=variant(
        llama.ATTRIBUTES,
        Attribute("use_sliding_window", (), False, write_only(lambda config: window_of(config) is not None)),
        window_row(None),
        LAYER_TYPES,
        Attribute(
            "no_rope_layers",
            (),
            None,
            write_only(lambda config: [int(layer.rotary is not None) for layer in config.layers]),
            kinds=(list, type(None)),
        ),
        # what is written says it of every layer
        Attribute("no_rope_layer_interval", (), 4, write_only(lambda config: ABSENT)),
        tie_word_embeddings=True,
        vocab_size=128256,
        hidden_size=2048,
        num_hidden_layers=36,
        num_attention_heads=16,
        num_key_value_heads=4,
        max_position_embeddings=32768,
        rope_theta=2000000.0,
        pad_token_id=128004,
        bos_token_id=128000,
        eos_token_id=128001,
    ),
    finish=_in_turn,
    ignored={
        "pretraining_tp": llama.IGNORED["pretraining_tp"],
        "max_window_layers": "of SmolLM3's configs, whose class does not read it",
    },
)
"""SmolLM3: some layers have no positions; a tied head"""
