"""What a `StackConfig` refuses, and that it is a value."""

import dataclasses

import jax
import pytest

from encdec_eqx import (
    AttentionConfig,
    Decoder,
    EmbeddingsConfig,
    Encoder,
    FeedForwardConfig,
    HeadConfig,
    LayerSpec,
    NormConfig,
    PositionsConfig,
    StackConfig,
)
from models import decoder_config, encoder_config


def test_configs_are_hashable_values() -> None:
    assert encoder_config() == encoder_config()
    assert hash(encoder_config()) == hash(encoder_config())
    assert encoder_config() != encoder_config(dropout=0.1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        encoder_config().vocab_size = 3  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: encoder_config(vocab_size=0), "vocab_size is 0"),
        (lambda: encoder_config(dropout=1.0), "dropout is 1.0"),
        (lambda: encoder_config(initializer_range=-0.1), "initializer_range"),
        (lambda: encoder_config().replace(layers=()), "layers is empty"),
        (lambda: AttentionConfig(num_heads=0, head_dim=4), "num_heads is 0"),
        (lambda: AttentionConfig(num_heads=True, head_dim=4), "num_heads is True"),
        (lambda: FeedForwardConfig(size=4, activation="gelo"), "'gelo'; expected one of"),
        (lambda: NormConfig(eps=0.0), "above 0"),
        (lambda: NormConfig(eps=1e-60), "in float32"),
        (lambda: NormConfig(eps=1e300), "in float32"),
        (lambda: NormConfig(eps=float("nan")), "above 0"),
        (lambda: encoder_config(initializer_range=1e300), "initializer_range"),
        (lambda: PositionsConfig(max_positions=4, counting="non_padding"), "give `padding_idx`"),
        (lambda: EmbeddingsConfig(token_type_size=-1), "cannot be negative"),
        (lambda: EmbeddingsConfig(token_type_size=2, token_types_from_tokens=True), "choose one"),
        (
            lambda: EmbeddingsConfig(projected="types"),  # pyright: ignore[reportArgumentType]
            "'types'; expected one of sum, tokens",
        ),
        (lambda: EmbeddingsConfig(projected="tokens", token_types_from_tokens=True), "Project the 'sum', or leave one"),
        (lambda: EmbeddingsConfig(padding_idx=-(10**20)), "padding_idx is -1000.*; expected a token id"),
        (lambda: HeadConfig(input_size=0), "input_size is 0"),
        (lambda: decoder_config(head=HeadConfig(input_size=8)), "takes states of width 8; set"),
        (
            lambda: encoder_config().replace(layers=(LayerSpec(weights=0), LayerSpec(weights=0, cross_attention=True))),
            "layer 1 shares weights 0",
        ),
        (lambda: StackConfig.from_hf({"model_type": "perceiver"}), "unknown model_type 'perceiver'.*bert"),
        (lambda: StackConfig.from_hf({}), "unknown model_type None"),
    ],
)
def test_contradictions_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_piece_of_the_wrong_kind_is_refused(key: jax.Array) -> None:
    with pytest.raises(ValueError, match="describes a decoder"):
        Encoder.init(decoder_config(), key=key)
    with pytest.raises(ValueError, match="not causal"):
        Decoder.init(encoder_config(), key=key)
    with pytest.raises(ValueError, match="no `head`"):
        Decoder.init(decoder_config(head=None), key=key)


def test_fresh_weights_follow_the_reference_initialisers(key: jax.Array) -> None:
    decoder = Decoder.init(decoder_config(48, attention=AttentionConfig(num_heads=4, head_dim=12)), key=key)
    weight = decoder.stack.blocks[0].self_attention.qkv.weight
    assert abs(float(weight.std()) - 0.02) < 0.002
    assert not bool(decoder.stack.blocks[1].cross_attention.kv.bias.any())
    assert bool((decoder.stack.shared.final_norm.weight == 1).all())
    encoder = Encoder.init(encoder_config(), key=key)
    assert not bool(encoder.embeddings.tokens.weight[0].any()), "the padding row starts at zero"
