"""Single encoders and decoders: the files people really have, what is new, and what each misfit says."""

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from checkpoints import (
    BERT_CONFIG,
    GPT2_CONFIG,
    HEADS,
    HIDDEN,
    LAYERS,
    POSITIONS,
    VOCAB,
    Tensors,
    bert_head,
    bert_tensors,
    gpt2_tensors,
    read_back,
    same_tensors,
    write,
    write_shards,
)
from encdec_eqx import Decoder, Encoder
from encdec_eqx._trees import path_name
from encdec_eqx.hf.files import MissingFileError

HEAD_DIM = HIDDEN // HEADS
IDS = np.array([[3, 4, 5, 6], [7, 8, 9, 1]], np.int32)


def _arrays(module: Any) -> dict[str, np.ndarray]:
    return {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(module)[0]}


def _equal(left: Any, right: Any) -> bool:
    a, b = _arrays(left), _arrays(right)
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_bert_tensors_go_where_they_belong(tmp_path: Path):
    tensors = bert_tensors("")
    encoder = Encoder.from_pretrained(write(tmp_path, BERT_CONFIG, tensors))
    arrays = _arrays(encoder)
    assert np.array_equal(arrays["embeddings.tokens.weight"], tensors["embeddings.word_embeddings.weight"])
    for i in range(LAYERS):
        for k, part in enumerate(("query", "key", "value")):
            theirs = tensors[f"encoder.layer.{i}.attention.self.{part}.weight"]
            ours = arrays[f"stack.blocks.{i}.self_attention.qkv.weight"][:, k]
            assert np.array_equal(ours, theirs.T.reshape(HIDDEN, HEADS, HEAD_DIM))
            theirs = tensors[f"encoder.layer.{i}.attention.self.{part}.bias"]
            assert np.array_equal(arrays[f"stack.blocks.{i}.self_attention.qkv.bias"][k].ravel(), theirs)
        theirs = tensors[f"encoder.layer.{i}.intermediate.dense.weight"]
        assert np.array_equal(arrays[f"stack.blocks.{i}.feed_forward.up.weight"], theirs.T)
    assert len(encoder.load_report.loaded) == len(tensors)
    assert encoder.load_report.loaded_bytes == sum(array.nbytes for array in tensors.values())
    assert (encoder.load_report.new, encoder.load_report.ignored) == ((), ())


def test_gpt2_tensors_go_where_they_belong(tmp_path: Path):
    tensors = gpt2_tensors("", cross=True)
    arrays = _arrays(Decoder.from_pretrained(write(tmp_path, GPT2_CONFIG, tensors)))
    for i in range(LAYERS):
        theirs = tensors[f"h.{i}.attn.c_attn.weight"]
        ours = arrays[f"stack.blocks.{i}.self_attention.qkv.weight"]
        assert np.array_equal(ours, theirs.reshape(HIDDEN, 3, HEADS, HEAD_DIM))
        theirs = tensors[f"h.{i}.crossattention.c_attn.weight"]
        ours = arrays[f"stack.blocks.{i}.cross_attention.kv.weight"]
        assert np.array_equal(ours, theirs.reshape(HIDDEN, 2, HEADS, HEAD_DIM))
    assert np.array_equal(arrays["stack.shared.final_norm.weight"], tensors["ln_f.weight"])


def test_bert_base_uncased_as_it_is_published(tmp_path: Path):
    """Old names of norms under `bert.`, the pretraining heads, the position ids of older versions."""
    modern = bert_tensors() | bert_head()
    old = {}
    for name, array in modern.items():
        old[name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")] = array
    old["bert.embeddings.position_ids"] = np.arange(POSITIONS)[None]
    old["cls.predictions.decoder.weight"] = modern["bert.embeddings.word_embeddings.weight"].copy()
    old["cls.predictions.decoder.bias"] = modern["cls.predictions.bias"].copy()
    old |= {
        "cls.seq_relationship.weight": np.ones((2, HIDDEN), np.float32),
        "cls.seq_relationship.bias": np.ones(2, np.float32),
    }
    old_folder = write(tmp_path / "old", {**BERT_CONFIG, "architectures": ["BertForMaskedLM"]}, old)
    modern_folder = write(tmp_path / "modern", BERT_CONFIG, modern)
    encoder = Encoder.from_pretrained(old_folder)
    assert _equal(encoder, Encoder.from_pretrained(modern_folder))
    decoder = Decoder.from_pretrained(old_folder)
    assert _equal(decoder, Decoder.from_pretrained(modern_folder))
    ignored = dict(decoder.load_report.ignored)
    assert ignored["cls.predictions.decoder.weight"] == "a second copy of a tied tensor"
    assert ignored["cls.predictions.decoder.bias"] == "a second copy of a tied tensor"
    assert "next-sentence" in ignored["cls.seq_relationship.weight"]
    assert "buffer" in ignored["bert.embeddings.position_ids"]
    assert "pooler" in ignored["bert.pooler.dense.weight"]


def test_gpt2_as_it_is_published(tmp_path: Path):
    """No prefix, causal buffers in every layer, `n_ctx` and the like in the config."""
    clean = gpt2_tensors("")
    old = dict(clean)
    for i in range(LAYERS):
        old[f"h.{i}.attn.bias"] = np.tril(np.ones((1, 1, POSITIONS, POSITIONS), np.float32))
        old[f"h.{i}.attn.masked_bias"] = np.array(-1e4, np.float32)
    config = {**GPT2_CONFIG, "summary_type": "cls_index", "task_specific_params": {}, "_num_labels": 1}
    decoder = Decoder.from_pretrained(write(tmp_path / "old", config, old))
    assert _equal(decoder, Decoder.from_pretrained(write(tmp_path / "clean", GPT2_CONFIG, clean)))
    assert len(decoder.load_report.ignored) == 2 * LAYERS
    assert all("buffer" in why for _, why in decoder.load_report.ignored)


def test_prefixes_may_be_there_or_not(tmp_path: Path):
    for prefix in ("", "bert."):
        encoder = Encoder.from_pretrained(write(tmp_path / f"b{prefix}", BERT_CONFIG, bert_tensors(prefix)))
        assert len(encoder.load_report.loaded) == len(bert_tensors())
    with_prefix = write(tmp_path / "with", GPT2_CONFIG, gpt2_tensors())
    without = write(tmp_path / "without", GPT2_CONFIG, gpt2_tensors(""))
    assert _equal(Decoder.from_pretrained(with_prefix), Decoder.from_pretrained(without))
    assert _equal(Encoder.from_pretrained(with_prefix), Encoder.from_pretrained(without))


def test_one_name_in_two_spellings_is_an_error(tmp_path: Path):
    tensors = gpt2_tensors("")
    folder = write(tmp_path, GPT2_CONFIG, {**tensors, "transformer.ln_f.bias": tensors["ln_f.bias"].copy()})
    with pytest.raises(ValueError, match=r"'transformer\.ln_f\.bias' and 'ln_f\.bias' are two spellings of one name"):
        Decoder.from_pretrained(folder)


def test_a_tied_head_may_stand_in_for_the_token_table(tmp_path: Path):
    tensors = gpt2_tensors()
    moved = {**tensors, "lm_head.weight": tensors["transformer.wte.weight"]}
    del moved["transformer.wte.weight"]
    decoder = Decoder.from_pretrained(write(tmp_path / "moved", GPT2_CONFIG, moved))
    assert _equal(decoder, Decoder.from_pretrained(write(tmp_path / "whole", GPT2_CONFIG, tensors)))


def test_a_second_copy_with_other_values_is_reported(tmp_path: Path):
    tensors = gpt2_tensors()
    copy = tensors["transformer.wte.weight"] + 1
    decoder = Decoder.from_pretrained(write(tmp_path, GPT2_CONFIG, {**tensors, "lm_head.weight": copy}))
    assert np.array_equal(decoder.embeddings.tokens.weight, tensors["transformer.wte.weight"])
    assert dict(decoder.load_report.ignored)["lm_head.weight"].endswith("whose values differ and are the ones used")


def test_an_untied_head_is_its_own_array(tmp_path: Path):
    projection = np.arange(VOCAB * HIDDEN, dtype=np.float32).reshape(VOCAB, HIDDEN)
    config = {**GPT2_CONFIG, "tie_word_embeddings": False}
    decoder = Decoder.from_pretrained(write(tmp_path, config, {**gpt2_tensors(), "lm_head.weight": projection}))
    assert decoder.head.projection is not None
    assert np.array_equal(_arrays(decoder)["head.projection.weight"], projection.T)


def test_cross_attention_is_added_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = write(tmp_path, GPT2_CONFIG, gpt2_tensors())
    with caplog.at_level(logging.INFO, "encdec_eqx"):
        decoder = Decoder.from_pretrained(folder, key=jax.random.key(3))
    assert decoder.config.cross_attention
    new = dict(decoder.load_report.new)
    assert len(new) == 8 * LAYERS
    assert all("cross" in name for name in new)
    assert all("standard deviation 0.02 from the key given" in why for why in new.values())
    arrays = _arrays(decoder)
    assert 0.01 < arrays["stack.blocks.0.cross_attention.kv.weight"].std() < 0.03
    assert not arrays["stack.blocks.0.cross_attention.kv.bias"].any()
    assert (arrays["stack.blocks.1.cross_norm.weight"] == 1).all()
    first, second = (arrays[f"stack.blocks.{i}.cross_attention.q.weight"] for i in range(2))
    assert not np.array_equal(first, second)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "cross-attention, absent from the checkpoint" in record.getMessage()
    assert len(str(decoder.load_report).splitlines()) <= 5
    again = Decoder.from_pretrained(folder, key=jax.random.key(3))
    assert _equal(decoder, again)
    assert not _equal(decoder, Decoder.from_pretrained(folder, key=jax.random.key(4)))


def test_without_a_key_the_report_says_which_was_used(tmp_path: Path):
    folder = write(tmp_path, GPT2_CONFIG, gpt2_tensors())
    decoder = Decoder.from_pretrained(folder)
    assert "jax.random.key(0), as no key was given" in str(decoder.load_report)
    assert _equal(decoder, Decoder.from_pretrained(folder, key=jax.random.key(0)))


def test_a_decoder_can_be_loaded_without_cross_attention(tmp_path: Path):
    decoder = Decoder.from_pretrained(write(tmp_path, GPT2_CONFIG, gpt2_tensors()), add_cross_attention=False)
    assert not decoder.config.cross_attention
    assert decoder.load_report.new == ()


def test_a_base_model_gets_a_head(tmp_path: Path):
    decoder = Decoder.from_pretrained(write(tmp_path, BERT_CONFIG, bert_tensors("", cross=True)))
    assert {name for name, _ in decoder.load_report.new} == {
        "head.dense.weight",
        "head.dense.bias",
        "head.norm.weight",
        "head.norm.bias",
        "head.bias",
    }
    assert decoder(IDS).logits.shape == (2, 4, VOCAB)


def test_a_missing_pooler_is_new_and_quiet(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = write(tmp_path, BERT_CONFIG, bert_tensors(pooler=False) | bert_head())
    with caplog.at_level(logging.INFO, "encdec_eqx"):
        encoder = Encoder.from_pretrained(folder)
    assert {name for name, _ in encoder.load_report.new} == {"pooler.weight", "pooler.bias"}
    assert "nothing uses" in str(encoder.load_report)
    assert caplog.records[0].levelno == logging.INFO


def test_new_arrays_have_the_dtype_of_the_others(tmp_path: Path):
    tensors = {name: array.astype(np.float16) for name, array in gpt2_tensors().items()}
    folder = write(tmp_path, GPT2_CONFIG, tensors)
    for dtype, expected in ((None, jnp.float16), (jnp.float32, jnp.float32), ("bfloat16", jnp.bfloat16)):
        decoder = Decoder.from_pretrained(folder, dtype=dtype)
        assert {leaf.dtype for leaf in jax.tree.leaves(decoder)} == {jnp.dtype(expected)}
        converted = () if dtype is None else (f"converted from float16 to {jnp.dtype(expected)}",)
        assert decoder.load_report.notes == converted


def test_reports_are_equal_and_cost_no_recompilation(tmp_path: Path):
    first = Encoder.from_pretrained(write(tmp_path / "a", BERT_CONFIG, bert_tensors()))
    second = Encoder.from_pretrained(write(tmp_path / "b", BERT_CONFIG, bert_tensors(pooler=False)))
    assert first.load_report == second.load_report
    assert hash(first.load_report) == hash(second.load_report)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    fresh = eqx.filter_eval_shape(Encoder.init, first.config, key=jax.random.key(0))
    assert jax.tree.structure(first) == jax.tree.structure(fresh)


MISFITS: list[tuple[str, Any, str]] = [
    ("missing", lambda t: t.pop("transformer.h.1.mlp.c_fc.bias"), r"missing 'transformer\.h\.1\.mlp\.c_fc\.bias'"),
    ("extra", lambda t: t.update({"surprise": np.ones(3, np.float32)}), r"unexpected 'surprise' of shape \(3,\)"),
    (
        "a layer too many",
        lambda t: t.update({"transformer.h.2.ln_1.bias": np.ones(HIDDEN, np.float32)}),
        r"unexpected 'transformer\.h\.2\.ln_1\.bias'",
    ),
    (
        "wrong shape",
        lambda t: t.update({"transformer.wte.weight": np.ones((VOCAB + 1, HIDDEN), np.float32)}),
        rf"wrong shape of 'transformer\.wte\.weight': got \({VOCAB + 1}, {HIDDEN}\), expected \({VOCAB}, {HIDDEN}\)",
    ),
    (
        "transposed",
        lambda t: t.update({"transformer.h.0.mlp.c_fc.weight": t["transformer.h.0.mlp.c_fc.weight"].T.copy()}),
        r"wrong shape of 'transformer\.h\.0\.mlp\.c_fc\.weight': got \(32, 8\), expected \(8, 32\)",
    ),
    (
        "whole numbers",
        lambda t: t.update({"transformer.ln_f.bias": np.ones(HIDDEN, np.int8)}),
        r"'transformer\.ln_f\.bias' has dtype int8: expected a floating-point one",
    ),
    (
        "partial cross-attention",
        lambda t: t.update({"transformer.h.0.crossattention.q_attn.bias": np.ones(HIDDEN, np.float32)}),
        r"missing 'transformer\.h\.0\.ln_cross_attn\.weight'.* \(the rest of cross-attention is present\)",
    ),
]


@pytest.mark.parametrize(("name", "change", "message"), MISFITS)
def test_tensors_that_do_not_fit_are_named(tmp_path: Path, name: str, change: Any, message: str):
    tensors = gpt2_tensors()
    change(tensors)
    with pytest.raises(ValueError, match=message) as error:
        Decoder.from_pretrained(write(tmp_path, GPT2_CONFIG, tensors))
    assert str(tmp_path / "model.safetensors") in str(error.value)
    assert "\n" not in str(error.value)


def test_all_misfits_are_in_one_error(tmp_path: Path):
    tensors = gpt2_tensors()
    for _, change, _ in MISFITS:
        change(tensors)
    with pytest.raises(ValueError, match="problems") as error:
        Decoder.from_pretrained(write(tmp_path, GPT2_CONFIG, tensors))
    for _, _, message in MISFITS[:4]:
        assert re.search(message, str(error.value))
    assert "(21 problems)" in str(error.value)
    assert "and 11 more" in str(error.value)


def test_parts_of_one_array_must_agree_in_dtype(tmp_path: Path):
    tensors = bert_tensors()
    name = "bert.encoder.layer.0.attention.self.key.weight"
    tensors[name] = tensors[name].astype(np.float16)
    folder = write(tmp_path, BERT_CONFIG, tensors)
    with pytest.raises(ValueError, match="are parts of one array: expected one dtype; pass a dtype to convert"):
        Encoder.from_pretrained(folder, dtype=None)
    assert Encoder.from_pretrained(folder).stack.blocks[0].self_attention.qkv.weight.dtype == jnp.float32


def test_float64_is_converted_only_when_asked(tmp_path: Path):
    tensors = {name: array.astype(np.float64) for name, array in bert_tensors().items()}
    folder = write(tmp_path, BERT_CONFIG, tensors)
    with pytest.raises(ValueError, match="has dtype float64: expected at most float32"):
        Encoder.from_pretrained(folder, dtype=None)
    assert Encoder.from_pretrained(folder).embeddings.tokens.weight.dtype == jnp.float32


@pytest.mark.parametrize(("dtype", "error"), [(jnp.int32, TypeError), ("float64", ValueError)])
def test_an_unusable_dtype_is_named(tmp_path: Path, dtype: Any, error: type[Exception]):
    with pytest.raises(error, match="dtype is"):
        Encoder.from_pretrained(write(tmp_path, BERT_CONFIG, bert_tensors()), dtype=dtype)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**BERT_CONFIG, "model_type": "mamba"}, "model_type is 'mamba'; expected one of albert, bart, bert, "),
        ({**BERT_CONFIG, "model_type": ["bert"]}, "model_type is "),
        ({}, "model_type is None"),
        ({"model_type": "encoder-decoder"}, "describes a pair"),
    ],
)
def test_a_config_that_does_not_fit_is_named_with_its_file(tmp_path: Path, config: dict, message: str):
    with pytest.raises(ValueError, match=message) as error:
        Encoder.from_pretrained(write(tmp_path, config, bert_tensors()))
    assert str(tmp_path / "config.json") in str(error.value)


def test_attributes_can_be_set_and_idle_ones_are_refused(tmp_path: Path):
    folder = write(tmp_path, BERT_CONFIG, bert_tensors())
    encoder = Encoder.from_pretrained(folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.25)
    assert (encoder.config.dropout, encoder.config.attention.dropout) == (0.0, 0.25)
    for idle in ("use_cache", "is_decoder", "surprise"):
        with pytest.raises(TypeError, match=f"from_pretrained got '{idle}'"):
            Encoder.from_pretrained(folder, **dict[str, Any]({idle: True}))
    with pytest.raises(TypeError, match="from_pretrained takes no torch_dtype=: pass dtype="):
        Encoder.from_pretrained(folder, torch_dtype=True)


def test_a_decoders_checkpoint_makes_an_encoder(tmp_path: Path):
    config = {**BERT_CONFIG, "is_decoder": True, "add_cross_attention": True, "cross_attention_hidden_size": 24}
    tensors = bert_tensors(pooler=False, cross=True) | bert_head()
    encoder = Encoder.from_pretrained(write(tmp_path, config, tensors))
    assert not encoder.config.causal
    assert encoder.config.cross_attention_hidden_size is None
    assert encoder(IDS).last_hidden_state.shape == (2, 4, HIDDEN)
    assert sum("cross-attention" in why for _, why in encoder.load_report.ignored) == 10 * LAYERS


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("sharded", [False, True])
def test_load_and_save_keep_every_byte(tmp_path: Path, dtype: str, sharded: bool):
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    tensors = {
        name: array.astype(kind) for name, array in (bert_tensors(cross=True, pooler=False) | bert_head()).items()
    }
    config = {**BERT_CONFIG, "is_decoder": True, "add_cross_attention": True}
    folder = (write_shards if sharded else write)(tmp_path / "in", config, tensors)
    Decoder.from_pretrained(folder, dtype=None).save_pretrained(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == dtype
    if dtype != "bfloat16":  # the library's NumPy reader has no bfloat16
        assert same_tensors(read_back(tmp_path / "out"), tensors)
    again = Decoder.from_pretrained(tmp_path / "out", dtype=None)
    assert _equal(again, Decoder.from_pretrained(folder, dtype=None))


@pytest.mark.parametrize(
    ("build", "config", "tensors", "architecture"),
    [
        (Encoder, BERT_CONFIG, bert_tensors(""), "BertModel"),
        (Encoder, GPT2_CONFIG, gpt2_tensors(""), "GPT2Model"),
        (Decoder, GPT2_CONFIG, gpt2_tensors(cross=True), "GPT2LMHeadModel"),
    ],
)
def test_a_saved_piece_is_what_torchs_class_writes(
    tmp_path: Path, build: Any, config: dict, tensors: Tensors, architecture: str
):
    source = write(tmp_path / "in", {**config, "task_specific_params": {"a": 1}, "torch_dtype": "float32"}, tensors)
    build.from_pretrained(source).save_pretrained(tmp_path / "out")
    assert same_tensors(read_back(tmp_path / "out"), tensors)
    saved = json.loads((tmp_path / "out" / "config.json").read_text())
    assert saved["architectures"] == [architecture]
    assert saved["task_specific_params"] == {"a": 1}
    assert saved["is_decoder"] is (build is Decoder)
    assert "torch_dtype" not in saved
    for name in ("vocab_size", "model_type"):
        assert saved[name] == config[name]


def test_a_scanned_model_saves_as_an_unrolled_one_does(tmp_path: Path):
    decoder = Decoder.from_pretrained(write(tmp_path / "in", GPT2_CONFIG, gpt2_tensors()))
    decoder.with_layout("scanned").save_pretrained(tmp_path / "out")
    assert _equal(Decoder.from_pretrained(tmp_path / "out"), decoder)


def test_a_model_may_be_saved_over_the_folder_it_came_from(tmp_path: Path):
    folder = write(tmp_path, BERT_CONFIG, bert_tensors(""))
    encoder = Encoder.from_pretrained(folder, dtype=None)
    before = {name: array.copy() for name, array in _arrays(encoder).items()}
    doubled = jax.tree.map(lambda leaf: 2 * leaf, encoder)
    doubled.save_pretrained(folder)
    assert all(np.array_equal(_arrays(encoder)[name], array) for name, array in before.items())
    assert _equal(Encoder.from_pretrained(folder, dtype=None), doubled)


def test_nothing_of_a_model_stays_in_the_file(tmp_path: Path):
    folder = write(tmp_path, BERT_CONFIG, bert_tensors(""))
    encoder = Encoder.from_pretrained(folder, dtype=None)
    before = np.asarray(encoder.embeddings.tokens.weight).copy()
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-4000, 2)
        file.write(bytes(4000))
    assert np.array_equal(encoder.embeddings.tokens.weight, before)


def test_a_path_that_is_no_folder_is_named(tmp_path: Path):
    with pytest.raises(MissingFileError, match=re.escape(f"no folder '{tmp_path / 'absent'}'")):
        Encoder.from_pretrained(str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        Encoder.from_pretrained(tmp_path / "absent")
    folder = write(tmp_path / "model", BERT_CONFIG, bert_tensors())
    with pytest.raises(ValueError, match="is a file; give the folder that holds it"):
        Encoder.from_pretrained(folder / "model.safetensors")
    shutil.rmtree(folder)
    with pytest.raises(MissingFileError):
        Encoder.from_pretrained(folder)
