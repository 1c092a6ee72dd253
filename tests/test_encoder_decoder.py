"""The composed model: properties that hold of any pair, the cache, positions, and what the entrances refuse."""

from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from encdec_eqx import (
    Decoder,
    Encoder,
    EncoderDecoder,
    EncoderOutput,
    HeadConfig,
    PositionsConfig,
    SpecialTokens,
)
from encdec_eqx._typing import check_key
from models import VOCAB, decoder_config, encoder_config, random_ids, right_mask, tiny_pair
from tolerances import SAME_MODEL

MASK = right_mask([7, 4], 7)


@pytest.fixture(scope="module")
def model() -> EncoderDecoder:
    return tiny_pair()


def _inputs() -> tuple[np.ndarray, np.ndarray]:
    return random_ids(0, 2, 7), random_ids(1, 2, 6)


def _close(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours, theirs, atol=SAME_MODEL, rtol=0)


def test_a_row_does_not_depend_on_its_batch_mates(model: EncoderDecoder) -> None:
    ids, target = _inputs()
    together = model(ids, target, attention_mask=MASK).logits
    for row in range(2):
        alone = model(ids[row : row + 1], target[row : row + 1], attention_mask=MASK[row : row + 1]).logits
        _close(together[row : row + 1], alone)


def test_source_padding_changes_nothing(model: EncoderDecoder) -> None:
    ids, target = _inputs()
    short = model(ids[1:, :4], target[1:]).logits
    _close(model(ids[1:], target[1:], attention_mask=MASK[1:]).logits, short)
    _close(model(ids[1:], target[1:], attention_mask=jnp.asarray(MASK[1:], bool)).logits, short)


def test_left_padding_with_explicit_positions_changes_nothing(model: EncoderDecoder) -> None:
    ids, target = _inputs()
    plain = model(ids[:1, :5], target[:1, :4]).logits
    padded_ids, padded_target = np.pad(ids[:1, :5], ((0, 0), (2, 0))), np.pad(target[:1, :4], ((0, 0), (3, 0)))
    mask, target_mask = (padded_ids > 0).astype(np.int32), (padded_target > 0).astype(np.int32)
    padded = model(
        padded_ids,
        padded_target,
        attention_mask=mask,
        position_ids=np.maximum(mask.cumsum(1) - 1, 0),
        decoder_attention_mask=target_mask,
        decoder_position_ids=np.maximum(target_mask.cumsum(1) - 1, 0),
    ).logits
    _close(padded[:, 3:], plain)


def test_later_targets_do_not_change_earlier_logits(model: EncoderDecoder) -> None:
    ids, target = _inputs()
    changed = target.copy()
    changed[:, 4:] = random_ids(9, 2, 2)
    ours, theirs = model(ids, target).logits, model(ids, changed).logits
    _close(ours[:, :4], theirs[:, :4])
    assert float(jnp.abs(ours[:, 4:] - theirs[:, 4:]).max()) > 100 * SAME_MODEL


def test_the_source_matters(model: EncoderDecoder) -> None:
    ids, target = _inputs()
    assert float(jnp.abs(model(ids, target).logits - model(ids[::-1], target).logits).max()) > 100 * SAME_MODEL


def test_encode_then_decode_is_the_call(model: EncoderDecoder) -> None:
    ids, target = _inputs()
    encoded = model.encode(ids, attention_mask=MASK)
    assert encoded.last_hidden_state.shape == (2, 7, 16), "not projected"
    ours = model.decode(target, encoded, encoder_attention_mask=MASK).logits
    np.testing.assert_array_equal(ours, model(ids, target, attention_mask=MASK).logits)


@pytest.mark.parametrize("chunks", [(1, 1, 1, 1, 1, 1), (2, 4), (5, 1)])
def test_decoding_in_chunks_equals_the_whole(model: EncoderDecoder, chunks: tuple[int, ...]) -> None:
    ids, target = _inputs()
    target_mask = np.asarray([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])
    options: dict[str, Any] = {"output_attentions": True, "output_hidden_states": True}
    whole: Any = model(ids, target, attention_mask=MASK, decoder_attention_mask=target_mask, **options)
    encoded = model.encode(ids, attention_mask=MASK)
    cache = model.init_cache(encoded, 9, encoder_attention_mask=MASK)
    start = 0
    for size in chunks:
        part = slice(start, start + size)
        out: Any = model.decode(target[:, part], cache=cache, decoder_attention_mask=target_mask[:, part], **options)
        cache, start = out.cache, start + size
        _close(out.logits, whole.logits[:, part])
        for mine, theirs in zip(out.decoder_hidden_states, whole.decoder_hidden_states, strict=True):
            _close(mine, theirs[:, part])
        for mine, theirs in zip(out.decoder_attentions, whole.decoder_attentions, strict=True):
            assert mine.shape[-1] == 9
            _close(mine[..., :start], theirs[:, :, part, :start])
            np.testing.assert_array_equal(mine[..., start:], 0)
        for mine, theirs in zip(out.cross_attentions, whole.cross_attentions, strict=True):
            _close(mine, theirs[:, :, part])
    assert int(cache.length) == 6


def test_the_old_cache_stays_valid(model: EncoderDecoder) -> None:
    ids, target = _inputs()
    cache = model.init_cache(model.encode(ids), 8)
    first = model.decode(target[:, :2], cache=cache)
    model.decode(target[:, 2:4], cache=first.cache)
    again = model.decode(target[:, :2], cache=cache)
    assert int(cache.length) == 0
    np.testing.assert_array_equal(again.logits, first.logits)
    branch = model.decode(target[:, 3:4], cache=first.cache).logits
    whole = model(ids, np.concatenate([target[:, :2], target[:, 3:4]], 1)).logits[:, 2:]
    _close(branch, whole)


def test_with_a_cache_states_are_accepted_and_not_read(model: EncoderDecoder) -> None:
    ids, target = _inputs()
    encoded = model.encode(ids)
    cache = model.init_cache(encoded, 6)
    other = EncoderOutput(encoded.last_hidden_state + 1)
    np.testing.assert_array_equal(
        model.decode(target, other, cache=cache).logits, model.decode(target, cache=cache).logits
    )


def test_a_full_cache_is_an_error_eager_and_jitted(model: EncoderDecoder) -> None:
    ids, target = _inputs()
    cache = model.init_cache(model.encode(ids), 5)
    with pytest.raises(ValueError, match="max_length of at least 6"):
        model.decode(target, cache=cache)
    cache = model.decode(target[:, :4], cache=cache).cache
    step = eqx.filter_jit(lambda ids, cache: model.decode(ids, cache=cache).cache)
    cache = step(target[:, :1], cache)
    with pytest.raises(RuntimeError, match="the cache is full"):
        jax.block_until_ready(step(target[:, :1], cache).length)


def test_several_rows_share_one_sentence(model: EncoderDecoder) -> None:
    ids, _ = _inputs()
    encoded = model.encode(ids, attention_mask=MASK)
    states, mask = model.for_cross_attention(encoded, MASK)
    cache = model.decoder.init_cache(states, mask, rows=6, slots=6)
    rows = random_ids(5, 6, 6)
    hidden, cache = model.decoder.advance(jnp.asarray(rows), cache)
    assert cache.cross_kv[0].k.shape[0] == 2, "keys and values are stored per sentence"
    repeated = model(np.repeat(ids, 3, 0), rows, attention_mask=np.repeat(MASK, 3, 0)).logits
    _close(model.decoder.logits(hidden), repeated)


def test_jit_gives_the_same(model: EncoderDecoder) -> None:
    ids, target = _inputs()
    jitted = eqx.filter_jit(lambda m, *ids: m(*ids, attention_mask=MASK).logits)
    _close(jitted(model, ids, target), model(ids, target, attention_mask=MASK).logits)


def test_equal_widths_need_no_projection(key: jax.Array) -> None:
    assert tiny_pair(decoder=decoder_config(16, depth=1, attention=encoder_config().attention)).enc_to_dec_proj is None
    reads = decoder_config(cross_attention_hidden_size=16)
    model = tiny_pair(decoder=reads)
    assert model.enc_to_dec_proj is None
    assert model.decoder.stack.blocks[0].cross_attention.kv.weight.shape[0] == 16
    with pytest.raises(ValueError, match=r"cross_attention_hidden_size is 16.*hidden_size is 20"):
        EncoderDecoder.from_pieces(Encoder.init(encoder_config(20), key=key), Decoder.init(reads, key=key), key=key)


def test_special_tokens_fail_at_first_use_not_when_joining(key: jax.Array) -> None:
    nothing = decoder_config(bos_token_id=None, eos_token_id=None, pad_token_id=None)
    model = tiny_pair(decoder=nothing)
    assert model.special_tokens == SpecialTokens()
    fixed = model.with_special_tokens(eos_token_id=[4, 5], decoder_start_token_id=3)
    assert (fixed.special_tokens.eos_token_id, fixed.special_tokens.pad_token_id) == ((4, 5), 4)
    with pytest.raises(TypeError, match="unknown special token"):
        model.with_special_tokens(eos=4)


class Patches(eqx.Module):
    """An encoder of anything: features in, two states a feature out, with a mask of its own."""

    weight: jax.Array

    @property
    def hidden_size(self) -> int:
        return self.weight.shape[1]

    def __call__(self, inputs: Any, *, attention_mask: Any, position_ids: Any, key: Any) -> EncoderOutput:
        states = jnp.repeat(jnp.asarray(inputs) @ self.weight, 2, axis=1)
        mask = None if attention_mask is None else jnp.repeat(jnp.asarray(attention_mask), 2, axis=1)
        return EncoderOutput(states, attention_mask=mask)


def test_any_module_that_meets_the_protocol_is_an_encoder(key: jax.Array) -> None:
    encoder = Patches(jax.random.normal(key, (5, 8)))
    model = EncoderDecoder.from_pieces(encoder, Decoder.init(decoder_config(), key=key), key=key)
    inputs, target = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32), random_ids(1, 2, 6)
    out = model(inputs, target, output_attentions=False)
    assert out.encoder_last_hidden_state.shape == (2, 6, 8)
    masked = model(inputs, target, attention_mask=np.asarray([[1, 1, 0], [1, 1, 1]])).logits
    _close(masked[:1], model(inputs[:1, :2], target[:1]).logits)
    cache = model.init_cache(model.encode(inputs), 6)
    _close(model.decode(target, cache=cache).logits, out.logits)


class Bare(eqx.Module):
    """Meets the protocol as far as anyone can see before it is called."""

    hidden_size: int = eqx.field(static=True, default=16)

    def __call__(self, inputs: Any, *, attention_mask: Any, position_ids: Any, key: Any) -> Any:
        return inputs


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (lambda: 3, "the encoder is a int"),
        (lambda: eqx.nn.Lambda(jnp.tanh), "no integer `hidden_size`"),
        (lambda: Bare(cast(Any, "wide")), "no integer `hidden_size`"),
    ],
)
def test_an_encoder_that_is_none(encoder: Any, message: str, key: jax.Array) -> None:
    with pytest.raises(TypeError, match=message):
        EncoderDecoder.from_pieces(encoder(), Decoder.init(decoder_config(), key=key))


def test_an_encoder_that_returns_something_else(key: jax.Array) -> None:
    model = EncoderDecoder.from_pieces(Bare(), Decoder.init(decoder_config(), key=key))
    with pytest.raises(TypeError, match="must return an EncoderOutput"):
        model.encode(random_ids(0, 2, 3))


def test_a_decoder_without_cross_attention(key: jax.Array) -> None:
    alone = Decoder.init(decoder_config().replace(layers=encoder_config().layers), key=key)
    encoder = Encoder.init(encoder_config(), key=key)
    with pytest.raises(ValueError, match="with_cross_attention"):
        EncoderDecoder.from_pieces(encoder, alone)
    with pytest.raises(ValueError, match="would ignore them"):
        alone(random_ids(0, 2, 3), encoder_hidden_states=jnp.ones((2, 4, 12)))
    crossing = alone.with_cross_attention(key=key)
    _close(crossing(random_ids(0, 2, 3)).logits, alone(random_ids(0, 2, 3)).logits)
    EncoderDecoder.from_pieces(encoder, crossing)
    with pytest.raises(ValueError, match="already"):
        crossing.with_cross_attention(key=key)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"input_ids": random_ids(0, 3, 7)}, TypeError, "batch"),
        ({"input_ids": random_ids(0, 7)}, TypeError, "`input_ids`"),
        ({"input_ids": random_ids(0, 2, 7).astype(np.float32)}, TypeError, r"f32\[2,7\]"),
        ({"input_ids": [[1, 2], [3, 4]]}, TypeError, "`input_ids`"),
        ({"input_ids": random_ids(0, 2, 7) + VOCAB}, ValueError, "vocab_size is 53"),
        ({"input_ids": random_ids(0, 2, 7) - VOCAB}, ValueError, "expected values from 0 to 52"),
        ({"input_ids": random_ids(0, 2, 0)}, ValueError, "empty"),
        ({"input_ids": random_ids(0, 0, 7)}, ValueError, "empty"),
        ({"input_ids": random_ids(0, 2, 25)}, ValueError, "at most 24"),
        ({"input_ids": None}, ValueError, "got neither"),
        ({"inputs_embeds": np.ones((2, 7, 16), np.float32)}, ValueError, "got both"),
        ({"input_ids": None, "inputs_embeds": np.ones((2, 7, 15), np.float32)}, TypeError, "width 15"),
        ({"decoder_input_ids": None}, TypeError, "shift_tokens_right"),
        ({"decoder_input_ids": np.full((2, 6), -100)}, ValueError, "shift_tokens_right"),
        ({"decoder_input_ids": random_ids(0, 2, 25)}, ValueError, "at most 24"),
        ({"attention_mask": MASK[:, :5]}, TypeError, "source=7"),
        ({"attention_mask": MASK.astype(np.float32)}, TypeError, "attention_mask"),
        ({"attention_mask": MASK * 2}, ValueError, "holds 2"),
        ({"decoder_attention_mask": MASK}, TypeError, "target"),
        ({"decoder_attention_mask": MASK[:, :6] - 1}, ValueError, "holds -1"),
        ({"position_ids": np.full((2, 7), 24)}, ValueError, "0 to 23"),
        ({"position_ids": np.arange(7)}, TypeError, "position_ids"),
        ({"decoder_position_ids": np.full((2, 6), -1)}, ValueError, "0 to 23"),
        ({"token_type_ids": np.full((2, 7), 2)}, ValueError, "type_vocab_size is 2"),
        ({"token_type_ids": np.zeros((2, 6), np.int32)}, TypeError, "token_type_ids"),
        ({"output_attentions": "yes"}, TypeError, "output_attentions"),
        ({"labels": random_ids(0, 2, 6)}, TypeError, "labels"),
    ],
)
def test_bad_input_is_refused(
    model: EncoderDecoder, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    ids, target = _inputs()
    with pytest.raises(error, match=message):
        model(**{"input_ids": ids, "decoder_input_ids": target, "attention_mask": None, **arguments})


def test_decode_refuses_what_does_not_fit(model: EncoderDecoder) -> None:
    ids, target = _inputs()
    encoded = model.encode(ids)
    with pytest.raises(TypeError, match="batch 1; the encoder's states have batch 2"):
        model.decode(target[:1], encoded)
    with pytest.raises(TypeError, match="width 12; the encoder's hidden_size is 16"):
        model.decode(target, EncoderOutput(jnp.ones((2, 7, 12))))
    with pytest.raises(TypeError, match="source=7"):
        model.decode(target, encoded, encoder_attention_mask=MASK[:, :6])
    with pytest.raises(TypeError, match="encoder_outputs"):
        model.decode(target, cast(Any, encoded.last_hidden_state))
    with pytest.raises(ValueError, match="needs `encoder_outputs`"):
        model.decode(target)
    with pytest.raises(TypeError, match="1 rows; the cache was made for 2"):
        model.decode(target[:1], cache=model.init_cache(encoded, 8))
    with pytest.raises(ValueError, match="expected 1 to 24"):
        model.init_cache(encoded, 25)
    with pytest.raises(ValueError, match="expected 1 to 24"):
        model.init_cache(encoded, 0)


def test_a_failed_call_loses_nothing(model: EncoderDecoder) -> None:
    ids, target = _inputs()
    before = model(ids, target).logits
    with pytest.raises(TypeError):
        model(ids[:1], target)
    np.testing.assert_array_equal(model(ids, target).logits, before)


def test_a_fully_masked_sentence_is_finite(model: EncoderDecoder) -> None:
    ids, target = _inputs()
    out = model(ids, target, attention_mask=np.asarray([[1] * 7, [0] * 7]), output_attentions=True)
    assert bool(jnp.isfinite(out.logits).all())
    np.testing.assert_array_equal(out.cross_attentions[0][1], 0)


def test_positions_by_counting_real_tokens() -> None:
    counting = PositionsConfig(max_positions=24, counting="non_padding", padding_idx=0)
    model = tiny_pair(encoder_config(positions=counting), decoder_config(positions=counting))
    ids, target = _inputs()
    target[0, 2] = 0
    explicit = np.where(target == 0, 0, np.cumsum(target != 0, axis=1))
    _close(model(ids, target).logits, model(ids, target, decoder_position_ids=explicit).logits)
    cache = model.init_cache(model.encode(ids), 6)
    for at in range(6):
        out = model.decode(target[:, at : at + 1], cache=cache)
        cache = out.cache
        _close(out.logits, model(ids, target).logits[:, at : at + 1])
    with pytest.raises(ValueError, match="at most 23"):
        model(random_ids(0, 2, 24), target)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_whole_or_in_part(model: EncoderDecoder, dtype: Any) -> None:
    ids, target = _inputs()
    full = model(ids, target).logits
    half = model.astype(dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype(dtype)}
    part = eqx.tree_at(lambda m: m.decoder, model, model.decoder.astype(dtype))
    for other in (half, part):
        logits = other(ids, target, attention_mask=np.asarray([[1] * 7, [0] * 7])).logits
        assert logits.dtype == jnp.float32
        assert bool(jnp.isfinite(logits).all())
        assert float(jnp.abs(other(ids, target).logits - full).max()) < 0.1
    np.testing.assert_array_equal(model.astype(jnp.float32)(ids, target).logits, full)
    with pytest.raises(TypeError, match="floating-point"):
        model.astype(jnp.int32)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("number", [VOCAB + 5, VOCAB - 5])
def test_resizing_keeps_the_rows_that_stay(tied: bool, number: int, key: jax.Array) -> None:
    model = tiny_pair(decoder=decoder_config(head=HeadConfig(tied=tied, bias=True)))
    ids, target = random_ids(0, 2, 7) % 40, random_ids(1, 2, 6) % 40
    encoder = model.encoder.resize_token_embeddings(number, key=key)
    decoder = model.decoder.resize_token_embeddings(number, key=key)
    resized = eqx.tree_at(lambda m: (m.encoder, m.decoder), model, (encoder, decoder))
    logits = resized(ids, target).logits
    assert logits.shape[-1] == number
    kept = min(number, VOCAB)
    _close(logits[..., :kept], model(ids, target).logits[..., :kept])
    assert encoder.config.vocab_size == decoder.config.vocab_size == number
    with pytest.raises(ValueError, match="vocab_size is 0"):
        decoder.resize_token_embeddings(0, key=key)


def test_a_tied_head_is_one_leaf() -> None:
    tied, untied = tiny_pair(), tiny_pair(decoder=decoder_config(head=HeadConfig(tied=False)))
    assert len(jax.tree.leaves(untied)) == len(jax.tree.leaves(tied)) + 1
    grad = eqx.filter_grad(lambda m: m(*_inputs()).logits.sum())(tied)
    unused = np.setdiff1d(np.arange(VOCAB), _inputs()[1])
    assert bool((grad.decoder.embeddings.tokens.weight[unused] != 0).any()), "the head's gradient reaches the table"


def test_every_leaf_of_a_model_is_an_array(model: EncoderDecoder) -> None:
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(model))


def test_gradients_reach_every_leaf_that_is_used(model: EncoderDecoder) -> None:
    ids, target = _inputs()
    grad = eqx.filter_grad(lambda m: jnp.sum(jnp.sin(m(ids, target).logits)))(model)
    silent = [
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, leaf in jax.tree_util.tree_leaves_with_path(grad)
        if not bool((leaf != 0).any())
    ]
    assert silent == ["encoder.pooler.weight", "encoder.pooler.bias"]


@pytest.mark.usefixtures("unchecked")
def test_pieces_in_the_wrong_place_are_named(key: jax.Array) -> None:
    encoder, decoder = Encoder.init(encoder_config(), key=key), Decoder.init(decoder_config(), key=key)
    with pytest.raises(TypeError, match="the encoder is a Decoder"):
        EncoderDecoder.from_pieces(cast(Any, decoder), decoder)
    with pytest.raises(TypeError, match="the decoder is a Encoder"):
        EncoderDecoder.from_pieces(cast(Any, decoder), cast(Any, encoder))


def test_seeds_for_keys_and_dicts_for_configs_are_named(key: jax.Array) -> None:
    encoder, decoder = Encoder.init(encoder_config(), key=key), Decoder.init(decoder_config(), key=key)
    with pytest.raises(TypeError, match="argument `key`"):
        Encoder.init(encoder_config(), key=cast(Any, 0))
    with pytest.raises(TypeError, match="argument `config`"):
        Decoder.init(cast(Any, {"model_type": "gpt2"}), key=key)
    with pytest.raises(TypeError, match="argument `new_num_tokens`"):
        encoder.resize_token_embeddings(cast(Any, 60.0), key=key)
    with pytest.raises(ValueError, match="would mask nothing"):
        decoder(random_ids(0, 2, 3), encoder_attention_mask=MASK)


@pytest.mark.parametrize("key", [0, np.zeros(2, np.uint32), "key"])
def test_a_seed_in_place_of_a_key_is_named(key: Any) -> None:
    with pytest.raises(TypeError, match="argument `key`"):
        check_key(key)
