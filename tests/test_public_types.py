"""What the public calls return, as type checkers are told: pyright reads this file, and pytest runs it."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, assert_type

import jax
import jax.numpy as jnp
import numpy as np
import optax

from encdec_eqx import (
    Decoder,
    DecoderCache,
    DecoderOutput,
    Encoder,
    EncoderDecoder,
    EncoderOutput,
    GenerationConfig,
    LoadReport,
    Seq2SeqOutput,
    SpecialTokens,
    StackConfig,
    init_train_state,
    make_train_step,
    seq2seq_loss,
    shift_tokens_right,
)
from encdec_eqx.doctor import Diagnosis, diagnose
from encdec_eqx.generation.result import GenerationResult, StreamChunk
from encdec_eqx.text import TextToText, TokenizerPair
from encdec_eqx.training import FitResult, TrainConfig, TrainState, TrainStep, add_lora, fit, merge_lora, trainable
from models import decoder_config, encoder_config, random_ids, tiny_pair

KEY = jax.random.key(0)
IDS = random_ids(0, 2, 5)


def test_pieces_and_pairs(tmp_path: Path):
    encoder = assert_type(Encoder.init(encoder_config(depth=1), key=KEY), Encoder)
    decoder = assert_type(Decoder.init(decoder_config(depth=1), key=KEY), Decoder)
    assert_type(encoder.config, StackConfig)
    assert_type(encoder.hidden_size, int)
    model = assert_type(EncoderDecoder.from_pieces(encoder, decoder, key=KEY), EncoderDecoder)
    assert_type(model.decoder, Decoder)
    assert_type(model.special_tokens, SpecialTokens)
    assert_type(model.generation_config, GenerationConfig | None)
    assert_type(model.with_special_tokens(pad_token_id=0, decoder_start_token_id=1), EncoderDecoder)
    assert_type(model.resize_token_embeddings(60, key=KEY), EncoderDecoder)
    assert_type(model.resize_encoder_token_embeddings(60, key=KEY), EncoderDecoder)
    assert_type(model.resize_decoder_token_embeddings(60, key=KEY), EncoderDecoder)
    assert_type(model.with_layout("scanned", remat=True), EncoderDecoder)
    assert_type(model.astype(jnp.bfloat16), EncoderDecoder)
    assert_type(encoder.with_layout("scanned").astype(jnp.bfloat16), Encoder)
    assert_type(decoder.with_layout("scanned").astype(jnp.bfloat16), Decoder)

    model.save_pretrained(tmp_path / "pair")
    decoder.save_pretrained(tmp_path / "decoder")
    encoder.save_pretrained(tmp_path / "encoder")
    assert_type(EncoderDecoder.from_pretrained(tmp_path / "pair"), EncoderDecoder)
    assert_type(Encoder.from_pretrained(tmp_path / "encoder", dtype=None), Encoder)
    loaded = assert_type(Decoder.from_pretrained(tmp_path / "decoder", key=KEY), Decoder)
    assert_type(loaded.load_report, LoadReport)
    paths = (tmp_path / "encoder", tmp_path / "decoder")
    joined = assert_type(EncoderDecoder.from_encoder_decoder_pretrained(*paths, key=KEY), EncoderDecoder)
    assert isinstance(joined, EncoderDecoder) and isinstance(joined.load_report, LoadReport)


def test_passes():
    model = tiny_pair(encoder_config(depth=1), decoder_config(depth=1))
    out = assert_type(model(IDS, IDS, attention_mask=np.ones_like(IDS)), Seq2SeqOutput)
    assert_type(out.logits, jax.Array)
    assert_type(out.decoder_hidden_states, tuple[jax.Array, ...] | None)
    encoded = assert_type(model.encode(IDS), EncoderOutput)
    cache = assert_type(model.init_cache(encoded, 6), DecoderCache)
    step = assert_type(model.decode(IDS[:, :1], cache=cache), Seq2SeqOutput)
    assert_type(step.cache, DecoderCache | None)
    assert_type(model.encoder(IDS).last_hidden_state, Any)
    assert_type(model.decoder(IDS, encoder_hidden_states=jnp.ones((2, 5, 12))), DecoderOutput)
    inputs = assert_type(shift_tokens_right(IDS, 0, 1), jax.Array)
    assert_type(seq2seq_loss(model(IDS, inputs).logits, IDS), tuple[jax.Array, jax.Array])
    assert isinstance(out, Seq2SeqOutput) and isinstance(step.cache, DecoderCache)


def test_generation():
    model = tiny_pair(encoder_config(depth=1), decoder_config(depth=1)).with_special_tokens(decoder_start_token_id=1)
    result = assert_type(model.generate(IDS, max_new_tokens=2), GenerationResult)
    assert_type(result.compilations, int)
    assert_type(result.notes, tuple[str, ...])
    chunks = assert_type(model.stream(IDS, max_new_tokens=2), Iterator[StreamChunk])
    last = [assert_type(chunk, StreamChunk) for chunk in chunks][-1]
    assert_type(last.result, GenerationResult | None)
    assert isinstance(result.sequences, np.ndarray) and isinstance(last.result, GenerationResult)


def test_training():
    model = tiny_pair(encoder_config(depth=1), decoder_config(depth=1)).with_special_tokens(decoder_start_token_id=1)
    optimizer = optax.sgd(0.1)
    state = assert_type(init_train_state(model, optimizer), TrainState[EncoderDecoder])
    assert_type(state.model, EncoderDecoder)
    assert_type(make_train_step(optimizer), TrainStep)
    adapted = assert_type(add_lora(model, "cross_attention", rank=2, key=KEY), EncoderDecoder)
    assert_type(merge_lora(adapted), EncoderDecoder)
    assert all(isinstance(leaf, bool) for leaf in jax.tree.leaves(trainable(adapted, "lora")))
    assert isinstance(state.model, EncoderDecoder)


def test_calls_that_take_long_are_annotated():
    if TYPE_CHECKING:
        pair = tiny_pair()
        result = assert_type(fit(pair, "train.jsonl", TrainConfig(output_dir=Path("run"))), FitResult)
        assert_type(result.ending, Literal["finished", "early stopping", "stopped", "interrupted"])
        assert_type(diagnose(pair, {"input_ids": IDS, "labels": IDS}), Diagnosis)
        text = assert_type(TextToText.from_pretrained("folder"), TextToText)
        assert_type(TextToText(pair, TokenizerPair.load("folder")), TextToText)
        assert_type(text("one"), str)
        assert_type(text(["one", "two"]), list[str])
        assert_type(text.stream("one"), Iterator[str])
    annotated = [(fit, FitResult), (diagnose, Diagnosis), (TextToText.stream, Iterator[str])]
    for call, returned in annotated:
        assert inspect.signature(call).return_annotation == returned
