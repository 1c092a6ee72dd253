"""Each of BERT's relatives alone, as torch's classes write it: base model, masked and causal language model, variants.

Each is read as an encoder and, where the family has them, as a decoder; what is written again torch reads.
"""

import inspect
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from quick import quick_jit
from safetensors.torch import load_file, save_file
from tiny import BARTS, DECODERS, ENCODERS
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForTextEncoding,
    PreTrainedModel,
)
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from encdec_eqx import Decoder, Encoder, EncoderDecoder
from encdec_eqx.hf.families import FAMILIES
from encdec_eqx.layers.context import relative_positions
from encdec_eqx.layers.relative_bias import RelativeBias, RelativeBiasConfig
from hf import T5_ENCODERS, as_torch, random_batch, random_pair, randomise, saved
from tolerances import EXACT, PARITY_ATTENTION, PARITY_HIDDEN, PARITY_LOGITS

RELATIVES = [name for name in ENCODERS if name not in (*BARTS, "bert", "roberta", "gpt2")]
WEIGHTS = "model.safetensors"

RELATIVE = {"position_embedding_type": "relative_key"}
BOTH_WAYS = {"position_embedding_type": "relative_key_query"}

# Settings that the pairs do not have.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("xlm-roberta", BOTH_WAYS),
    ("data2vec-text", RELATIVE),
    ("xlm-roberta-xl", RELATIVE),
    ("roberta-prelayernorm", {**BOTH_WAYS, "hidden_act": "relu"}),
    ("ernie", {**RELATIVE, "use_task_id": False}),
    ("megatron-bert", BOTH_WAYS),
    ("rembert", {"input_embedding_size": 16, "output_embedding_size": 16, "hidden_act": "relu"}),
    ("electra", {**RELATIVE, "embedding_size": 16, "hidden_act": "relu"}),
    ("electra", {"hidden_act": "relu", "tie_word_embeddings": False}),
    ("bert-generation", {**BOTH_WAYS, "tie_word_embeddings": False}),
    ("big_bird", {"use_bias": True, "rescale_embeddings": False}),
    ("roformer", {"embedding_size": None, "rotary_value": False, "tie_word_embeddings": False}),
    ("distilbert", {"sinusoidal_pos_embds": True, "activation": "relu"}),
    ("albert", {"inner_group_num": 2}),
    ("albert", {"num_hidden_groups": 4, "embedding_size": 16}),
    ("albert", {"num_hidden_layers": 5}),
    ("mpnet", {"relative_attention_num_buckets": 32, "pad_token_id": 3}),
    ("deberta-v2", {"relative_attention": False, "norm_rel_ebd": "none", "conv_kernel_size": 0, "embedding_size": 16}),
    ("deberta-v2", {"relative_attention": False, "pos_att_type": "c2p", "norm_rel_ebd": "none", "conv_act": "gelu"}),
    ("deberta-v2", {"pos_att_type": ["p2c"], "position_biased_input": False, "conv_kernel_size": 5}),
    ("deberta-v2", {"pos_att_type": "c2p", "share_att_key": True, "norm_rel_ebd": "none", "type_vocab_size": 0}),
    ("deberta-v2", {"pos_att_type": ["c2p", "p2c"], "share_att_key": True, "position_buckets": -1}),
    ("deberta-v2", {"position_buckets": -1, "max_relative_positions": 5, "num_hidden_layers": 1}),
    ("deberta-v2", {"max_relative_positions": 7, "position_buckets": 7, "attention_head_size": 8}),
    ("deberta-v2", {"pos_att_type": None, "conv_groups": 1, "hidden_act": "relu"}),
    ("deberta-v2", {"position_buckets": 80, "share_att_key": True, "conv_kernel_size": 0, "legacy": False}),
    ("deberta-v2", {"position_buckets": 2, "num_hidden_layers": 3, "initializer_range": 0.1}),
    ("modernbert", {"norm_bias": True, "attention_bias": True, "mlp_bias": True}),
    ("modernbert", {"local_rope_theta": None, "local_attention": 3, "hidden_activation": "silu"}),
    ("modernbert", {"num_hidden_layers": 5, "global_attn_every_n_layers": 4, "local_attention": 0}),
    ("modernbert", {"num_hidden_layers": 2, "global_attn_every_n_layers": 1}),
    ("modernbert", {"num_hidden_layers": 2, "global_attn_every_n_layers": 7, "local_attention": 10}),
]


def _torch_model(auto: Any, family: str, **changes: Any) -> PreTrainedModel:
    tiny = {**ENCODERS, **DECODERS}[family]
    return randomise(auto.from_config(tiny(**changes), attn_implementation="eager"), 0)


def _base_class(family: str) -> Any:
    """T5's base model has both pieces: its encoder alone is another class."""
    return AutoModelForTextEncoding if family in T5_ENCODERS else AutoModel


def _from_ours(auto: Any, folder: Path) -> PreTrainedModel:
    """Torch's model of what was written here, which must be just what it expects."""
    model, info = auto.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    assert not any(info.values()), info
    return model.eval()


def _base(model: PreTrainedModel) -> PreTrainedModel:
    return getattr(model, model.base_model_prefix, model)


def _run_torch(model: PreTrainedModel, arrays: dict[str, np.ndarray], **options: Any) -> Any:
    with torch.no_grad():
        return model(**as_torch(arrays), output_hidden_states=True, **options)


@quick_jit
def _run(piece: Any, arrays: dict[str, np.ndarray]) -> Any:
    return piece(**arrays, output_hidden_states=True, output_attentions=True)


def _source() -> dict[str, np.ndarray]:
    batch = random_batch(1, low=0)
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def _target() -> dict[str, np.ndarray]:
    batch = random_batch(2, low=0)
    return {"input_ids": batch["decoder_input_ids"], "attention_mask": batch["decoder_attention_mask"]}


def _close(ours: Any, theirs: Any, tolerance: float, valid: np.ndarray) -> None:
    ours, theirs = np.asarray(ours), theirs.numpy()
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours[valid == 1], theirs[valid == 1], rtol=0, atol=tolerance)


def _same_layers(ours: Any, theirs: Any, valid: np.ndarray) -> None:
    for mine, reference in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        _close(mine, reference, PARITY_HIDDEN, valid)
    if theirs.attentions is None:
        return  # torch cannot give a decoder's without encoder states
    for mine, reference in zip(ours.attentions, theirs.attentions, strict=True):
        _close(np.moveaxis(np.asarray(mine), 1, 2), reference.transpose(1, 2), PARITY_ATTENTION, valid)


def _same_files(left: Path, right: Path) -> bool:
    a, b = load_file(left / WEIGHTS), load_file(right / WEIGHTS)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _classes(family: str) -> list[Any]:
    """Torch's class that puts no prefix before the base model's names, and those that do."""
    config = type(ENCODERS[family]())
    heads = (AutoModelForMaskedLM, AutoModelForCausalLM)
    return [_base_class(family), *(auto for auto in heads if config in auto._model_mapping)]


def _check_encoder(torch_model: PreTrainedModel, folder: Path) -> Encoder:
    encoder = Encoder.from_pretrained(saved(torch_model, folder / "torch"))
    arrays = _source()
    theirs = _run_torch(_base(torch_model), arrays, output_attentions=True)
    ours = _run(encoder, arrays)
    _close(ours.last_hidden_state, theirs.last_hidden_state, PARITY_HIDDEN, arrays["attention_mask"])
    _same_layers(ours, theirs, arrays["attention_mask"])
    encoder.save_pretrained(folder / "ours")
    base = _base_class(encoder.config.model_type)
    again = _run_torch(_from_ours(base, folder / "ours"), arrays)
    assert torch.equal(again.last_hidden_state, theirs.last_hidden_state)
    return encoder


@pytest.mark.parametrize("family", RELATIVES)
def test_every_class_as_an_encoder(family: str, tmp_path: Path) -> None:
    for auto in _classes(family):
        folder = tmp_path / auto.__name__
        _check_encoder(_torch_model(auto, family), folder)
        assert auto is not _base_class(family) or _same_files(folder / "torch", folder / "ours")


@pytest.mark.parametrize(("family", "changes"), VARIANTS, ids=str)
def test_variants_as_encoders(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    _check_encoder(_torch_model(AutoModel, family, **changes), tmp_path)
    assert _same_files(tmp_path / "torch", tmp_path / "ours")


def _check_decoder(torch_model: PreTrainedModel, folder: Path, *, new: tuple[str, ...]) -> None:
    decoder = Decoder.from_pretrained(saved(torch_model, folder / "torch"))
    found = {"cross" if "cross" in name else name.split(".")[0] for name, _ in decoder.load_report.new}
    assert found == set(new)
    arrays = _target()
    auto = AutoModel if "head" in new else AutoModelForCausalLM
    reference = auto.from_pretrained(folder / "torch", attn_implementation="eager", is_decoder=True).eval()
    theirs = _run_torch(reference, arrays, use_cache=False)
    ours = _run(decoder, arrays)
    _same_layers(ours, theirs, arrays["attention_mask"])
    if "head" not in new:
        _close(ours.logits, theirs.logits, PARITY_LOGITS, arrays["attention_mask"])
    decoder.save_pretrained(folder / "ours")
    again = _run_torch(_from_ours(AutoModelForCausalLM, folder / "ours"), arrays, use_cache=False)
    _close(ours.logits, again.logits, PARITY_LOGITS, arrays["attention_mask"])


@pytest.mark.parametrize("family", [name for name in RELATIVES if name in DECODERS])
def test_every_class_as_a_decoder(family: str, tmp_path: Path) -> None:
    for auto in _classes(family):
        settings = {"is_decoder": True, "add_cross_attention": True} if auto is AutoModelForCausalLM else {}
        missing = {AutoModel: ("cross", "head"), AutoModelForMaskedLM: ("cross",), AutoModelForCausalLM: ()}[auto]
        folder = tmp_path / auto.__name__
        _check_decoder(_torch_model(auto, family, **settings), folder, new=missing)
        assert auto is not AutoModelForCausalLM or _same_files(folder / "torch", folder / "ours")


# Megatron-BERT's relative positions are in cross-attention, too.
AS_DECODERS = [case for case in VARIANTS if case[0] in DECODERS and case[0] != "megatron-bert"]


@pytest.mark.parametrize(("family", "changes"), AS_DECODERS, ids=str)
def test_variants_as_decoders(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    settings = {"is_decoder": True, "add_cross_attention": True, **changes}
    _check_decoder(_torch_model(AutoModelForCausalLM, family, **settings), tmp_path, new=())
    assert _same_files(tmp_path / "torch", tmp_path / "ours")


@quick_jit
def _logits(model: EncoderDecoder, arrays: dict[str, np.ndarray]) -> Any:
    return model(**arrays).logits


@pytest.mark.parametrize("family", [name for name in RELATIVES if name in DECODERS])
def test_pairs_that_share_their_weights(family: str, tmp_path: Path) -> None:
    reference = random_pair(ENCODERS[family](), DECODERS[family](), tie_encoder_decoder=True)
    model = EncoderDecoder.from_pretrained(saved(reference, tmp_path / "torch"))
    arrays = random_batch(3)
    with torch.no_grad():
        theirs = reference(**as_torch(arrays), use_cache=False).logits
    _close(_logits(model, arrays), theirs, PARITY_LOGITS, arrays["decoder_attention_mask"])
    model.save_pretrained(tmp_path / "ours")
    assert _same_files(tmp_path / "torch", tmp_path / "ours")


def test_relative_positions_in_cross_attention_are_refused(tmp_path: Path) -> None:
    saved(_torch_model(AutoModel, "megatron-bert", **RELATIVE), tmp_path)
    with pytest.raises(ValueError, match="'relative_key' in a decoder with cross-attention"):
        Decoder.from_pretrained(tmp_path)


@pytest.mark.parametrize("family", RELATIVES)
def test_embeddings_positions_and_types_given(family: str, tmp_path: Path) -> None:
    """As far as torch takes them."""
    torch_model = _torch_model(_base_class(family), family)
    encoder = Encoder.from_pretrained(saved(torch_model, tmp_path))
    rng = np.random.default_rng(4)
    arrays = _source()
    shape = arrays.pop("input_ids").shape
    arrays["inputs_embeds"] = rng.normal(size=(*shape, encoder.config.embedding_size)).astype(np.float32)
    takes = inspect.signature(torch_model.forward).parameters
    if "position_ids" in takes:
        arrays["position_ids"] = rng.integers(0, 30, shape)
    if encoder.config.embeddings.token_type_size:
        arrays["token_type_ids"] = rng.integers(0, encoder.config.embeddings.token_type_size, shape)
    theirs = _run_torch(torch_model, arrays, output_attentions=True)
    _same_layers(_run(encoder, arrays), theirs, arrays["attention_mask"])


@pytest.mark.parametrize(
    ("family", "name", "changes"),
    [
        ("roformer", "encoder.embed_positions.weight", {}),
        ("distilbert", "embeddings.position_embeddings.weight", {"sinusoidal_pos_embds": True}),
    ],
)
def test_constants_that_a_file_lacks_are_torchs(
    family: str, name: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    torch_model = AutoModel.from_config(ENCODERS[family](**changes), attn_implementation="eager").eval()
    tensors = load_file(saved(torch_model, tmp_path / "torch") / WEIGHTS)
    table = tensors.pop(name)
    save_file(tensors, tmp_path / "torch" / WEIGHTS, {"format": "pt"})
    encoder = Encoder.from_pretrained(tmp_path / "torch")
    np.testing.assert_allclose(encoder.embeddings.positions.weight, table, rtol=0, atol=EXACT)
    encoder.save_pretrained(tmp_path / "ours")
    assert torch.equal(load_file(tmp_path / "ours" / WEIGHTS)[name], table)


def test_sparse_attention_is_full_and_said_to_be(tmp_path: Path) -> None:
    sparse = {"attention_type": "block_sparse", "block_size": 2, "num_random_blocks": 1}
    torch_model = _torch_model(AutoModel, "big_bird", **sparse)
    encoder = Encoder.from_pretrained(saved(torch_model, tmp_path / "torch"))
    (note,) = encoder.load_report.notes
    assert "attention_type is 'block_sparse'" in note
    assert "up to 14 tokens" in note
    encoder.save_pretrained(tmp_path / "ours")
    again = _from_ours(AutoModel, tmp_path / "ours")
    assert {name: getattr(again.config, name) for name in sparse} == sparse
    ids = random_batch(3, source=17)["input_ids"]
    again.set_attention_type("original_full")
    theirs = _run_torch(again, {"input_ids": ids}, output_attentions=True)
    _same_layers(_run(encoder, {"input_ids": ids}), theirs, np.ones_like(ids))


def test_no_remark_where_attention_is_full(tmp_path: Path) -> None:
    folder = saved(_torch_model(AutoModel, "big_bird"), tmp_path)
    assert not Encoder.from_pretrained(folder).load_report.notes
    (note,) = Decoder.from_pretrained(folder).load_report.notes
    assert "self-attention attends to earlier target tokens" in note


def test_every_distance_has_torchs_bucket() -> None:
    """Rows that are their own numbers, so that a bias is the bucket's number."""
    numbers = np.arange(32, dtype=np.float32)[:, None]
    length = 600
    ours = RelativeBias(jnp.asarray(numbers), RelativeBiasConfig())(relative_positions(length, length, 0))
    places = torch.arange(length)
    theirs = MPNetEncoder.relative_position_bucket(places[None, :] - places[:, None])
    np.testing.assert_array_equal(np.asarray(ours)[0, 0], theirs.numpy())


@pytest.mark.parametrize("family", RELATIVES)
def test_every_attribute_of_the_reference_is_known(family: str) -> None:
    """Whatever the pinned version of transformers writes, whole or as a difference, can be read."""
    read = FAMILIES[family].from_hf
    config = ENCODERS[family]()
    assert read(config.to_dict()) == read(config.to_diff_dict())
    assert read(type(config)().to_dict()) == read({"model_type": family})
