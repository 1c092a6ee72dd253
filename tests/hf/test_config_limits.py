"""Sizes that no machine holds, and depths that no file has, are told of at once."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_families import SMALL

from checkpoints import BERT_CONFIG, GPT2_CONFIG, bert_tensors, gpt2_tensors, pair_config, pair_tensors, write
from encdec_eqx import Decoder, Encoder, EncoderDecoder, StackConfig
from encdec_eqx.config import MAX_LAYERS, MAX_SIZE
from encdec_eqx.hf.families import FAMILIES

SIZES = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("max_position_embeddings", "type_vocab_size", "embedding_size", "input_embedding_size", "output_embedding_size"),
    *("n_embd", "n_layer", "n_head", "n_positions", "n_inner", "dim", "n_layers", "n_heads", "hidden_dim", "d_model"),
    *("encoder_layers", "encoder_ffn_dim", "encoder_attention_heads", "num_layers", "attention_heads", "ffn_dim"),
    *("decoder_layers", "decoder_ffn_dim", "decoder_attention_heads", "inner_group_num", "num_hidden_groups"),
    *("relative_attention_num_buckets", "decoder_vocab_size", "cross_attention_hidden_size"),
)


@contextmanager
def _at_once() -> Iterator[None]:
    """Two seconds, which a machine that is busy with other tests may take three times over."""
    start = time.process_time()
    yield
    assert time.process_time() - start < 2


def _cases() -> list[tuple[str, str, str]]:
    cases = []
    for family, small in SMALL.items():
        known = {**FAMILIES[family].attributes, **small}
        for role in FAMILIES[family].architectures:
            unread = FAMILIES[family].other_role.get(role, ())
            cases += [(family, role, name) for name in SIZES if name in known and name not in unread]
    return cases


@pytest.mark.parametrize(("family", "role", "name"), _cases())
def test_an_absurd_size_is_refused_by_its_config(family: str, role: str, name: str):
    flags = {"is_decoder": role == "decoder", "add_cross_attention": role == "decoder"}
    if name == "decoder_vocab_size":
        flags["share_encoder_decoder_embeddings"] = False
    if name == "decoder_vocab_size" and role == "encoder":
        return  # only a decoder reads it
    hf = {"model_type": family, **SMALL[family], **flags}
    for value in (10**9, 10**300):
        with _at_once(), pytest.raises(ValueError, match=r"expected at most|above|multiple|groups of at least"):
            StackConfig.from_hf({**hf, name: value})


def test_what_is_honest_passes():
    deepest = StackConfig.from_hf({"model_type": "bert", **SMALL["bert"], "num_hidden_layers": MAX_LAYERS})
    assert len(deepest.layers) == MAX_LAYERS
    assert StackConfig.from_hf({"model_type": "gpt2", **SMALL["gpt2"], "vocab_size": MAX_SIZE}).vocab_size == MAX_SIZE
    long = StackConfig.from_hf({"model_type": "xglm", **SMALL["xglm"], "max_position_embeddings": 2**20})
    assert long.positions.longest == 2**20
    with pytest.raises(ValueError, match="which are computed; expected at most"):
        StackConfig.from_hf({"model_type": "xglm", **SMALL["xglm"], "d_model": 256, "max_position_embeddings": 2**21})


LOADS: dict[str, tuple[Callable[..., Any], dict[str, Any], Callable[[], Any], str]] = {
    "encoder": (Encoder.from_pretrained, BERT_CONFIG, bert_tensors, "num_hidden_layers"),
    "decoder": (Decoder.from_pretrained, GPT2_CONFIG, gpt2_tensors, "n_layer"),
}


@pytest.mark.parametrize("depth", [100, MAX_LAYERS, 2000, 10**6, 10**9])
@pytest.mark.parametrize("load", LOADS)
def test_a_depth_that_the_file_does_not_have_is_told_from_its_names(load: str, depth: int, tmp_path: Path):
    from_pretrained, config, tensors, name = LOADS[load]
    folder = write(tmp_path, {**config, name: depth}, tensors())
    few = f"says {depth} layers, and the file has tensors of 2\\. Does that config belong to these weights"
    message = few if depth <= MAX_LAYERS else f"the number of layers is {depth}; expected at most {MAX_LAYERS}"
    with _at_once(), pytest.raises(ValueError, match=message):
        from_pretrained(folder)


def test_a_pairs_depths_are_told_by_piece(tmp_path: Path):
    for piece, other in (
        ("encoder", {**BERT_CONFIG, "num_hidden_layers": 500}),
        ("decoder", {**GPT2_CONFIG, "n_layer": 500}),
    ):
        folder = write(tmp_path / piece, pair_config(**{piece: other}), pair_tensors())
        with (
            _at_once(),
            pytest.raises(ValueError, match=f"says 500 layers of the {piece}, and the file has tensors of 2"),
        ):
            EncoderDecoder.from_pretrained(folder)


@pytest.mark.parametrize("name", ["vocab_size", "hidden_size", "max_position_embeddings", "intermediate_size"])
def test_sizes_that_the_file_does_not_have_are_told_at_once(name: str, tmp_path: Path):
    folder = write(tmp_path, {**BERT_CONFIG, name: MAX_SIZE}, bert_tensors())
    with _at_once(), pytest.raises(ValueError, match="wrong shape of"):
        Encoder.from_pretrained(folder)
