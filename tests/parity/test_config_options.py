"""What a `config.json` says about generating, in old words and new, at any level: the ids are live torch's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import BARTS, DECODERS
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertModel,
    BlenderbotForConditionalGeneration,
    EncoderDecoderModel,
    MBartForConditionalGeneration,
)

from encdec_eqx import Decoder, EncoderDecoder
from hf import VOCAB, as_torch, random_batch, random_pair, randomise, saved, tiny_bert

# Torch says that what is old here will be gone one day.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Please make sure the config includes `forced_bos_token_id="),
    pytest.mark.filterwarnings("ignore:You have modified the pretrained model configuration"),
]

WHOLES = {
    "bart": BartForConditionalGeneration,
    "mbart": MBartForConditionalGeneration,
    "blenderbot": BlenderbotForConditionalGeneration,
}
STARTS = {"bos_token_id": 3, "decoder_start_token_id": 2}
# Torch gives the cache of a BART decoder in a pair as many layers as the encoder beside it has, and may overrun it.
DEPTH = {"encoder_layers": 3}


def _whole(kind: str, folder: Path, **config: Any) -> Path:
    """A tiny whole checkpoint with these attributes in its config and no `generation_config.json`."""
    model = randomise(WHOLES[kind](BARTS[kind](**STARTS, **DEPTH)), 4, spread=0.4)
    return _with_config(saved(model, folder), lambda hf: {**hf, **config})


def _pair(decoder: str, folder: Path, *, outer: dict[str, Any], inner: dict[str, Any]) -> Path:
    ids = {"decoder_start_token_id": 5, "pad_token_id": 1, "eos_token_id": 2}
    model = random_pair(tiny_bert(), DECODERS[decoder](**DEPTH if decoder in BARTS else {}), seed=3, **ids)
    randomise(model, 3, spread=0.4)
    return _with_config(saved(model, folder), lambda hf: {**hf, **outer, "decoder": {**hf["decoder"], **inner}})


def _with_config(folder: Path, change: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    (folder / "generation_config.json").unlink(missing_ok=True)
    return folder


def _both(folder: Path, kind: Any, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Ids of ours and of torch's; rows of torch's are padded to the width of ours."""
    batch = random_batch(3)
    source: dict[str, Any] = {name: batch[name] for name in ("input_ids", "attention_mask")}
    theirs = kind.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        expected = theirs.generate(**as_torch(source), **options).numpy()
    return np.asarray(EncoderDecoder.from_pretrained(folder).generate(**source, **options).sequences), expected


@pytest.mark.parametrize("kind", ["bart", "mbart"])
def test_the_first_token_of_2020s_bart(kind: str, tmp_path: Path):
    """`force_bos_token_to_be_generated` changes what BART generates, and what mBART does not."""
    folder = _whole(kind, tmp_path / "old", force_bos_token_to_be_generated=True)
    ours, theirs = _both(folder, WHOLES[kind], max_length=8)
    np.testing.assert_array_equal(ours, theirs)
    plain, _ = _both(_whole(kind, tmp_path / "plain"), WHOLES[kind], max_length=8)
    assert (ours[:, 1] == STARTS["bos_token_id"]).all() == (kind == "bart")
    assert (plain[:, 1] != STARTS["bos_token_id"]).any()
    # saved again, the rule stands in generation_config.json, too
    EncoderDecoder.from_pretrained(folder).save_pretrained(tmp_path / "again")
    again, theirs = _both(tmp_path / "again", WHOLES[kind], max_length=8)
    np.testing.assert_array_equal(again, theirs)
    np.testing.assert_array_equal(again, ours)


@pytest.mark.parametrize("forced", [None, 7])
def test_a_forced_first_token_of_today_wins_over_the_old_words(forced: int | None, tmp_path: Path):
    old = {"force_bos_token_to_be_generated": True, "forced_bos_token_id": forced, "bos_token_id": 6}
    ours, theirs = _both(_whole("bart", tmp_path, **old), WHOLES["bart"], max_length=6)
    np.testing.assert_array_equal(ours, theirs)
    assert (ours[:, 1] == (6 if forced is None else 7)).all()


OPTIONS: dict[str, dict[str, Any]] = {
    "lengths": {"max_length": 9, "min_length": 7, "forced_eos_token_id": 8},
    "beams": {"num_beams": 3, "length_penalty": 0.3, "early_stopping": True, "max_length": 9},
    "rules": {"no_repeat_ngram_size": 2, "repetition_penalty": 1.4, "bad_words_ids": [[11]], "max_length": 12}
    | {"encoder_no_repeat_ngram_size": 1},
    "tokens": {
        "forced_bos_token_id": 9,
        "suppress_tokens": [10, 12],
        "begin_suppress_tokens": [9],
        "max_length": 8,
        "encoder_repetition_penalty": 1.3,
    }
    | {"exponential_decay_length_penalty": [2, 1.2]},
    "new": {"max_new_tokens": 6, "min_new_tokens": 4, "renormalize_logits": True, "num_beams": 2},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("place", ["whole", "pair", "its decoder"])
def test_options_of_a_config_count_where_there_is_no_other_file(place: str, name: str, tmp_path: Path):
    if place == "whole":
        folder, kind = _whole("bart", tmp_path, **OPTIONS[name]), BartForConditionalGeneration
    else:
        where = {"outer": OPTIONS[name], "inner": {}} if place == "pair" else {"outer": {}, "inner": OPTIONS[name]}
        folder, kind = _pair("gpt2", tmp_path, **where), EncoderDecoderModel
    ours, theirs = _both(folder, kind)
    np.testing.assert_array_equal(ours, theirs)


def test_a_pairs_own_options_win_over_its_decoders(tmp_path: Path):
    inner = {"max_length": 12, "num_beams": 2, "no_repeat_ngram_size": 1, "suppress_tokens": [4]}
    outer = {"max_length": 8, "num_beams": 1, "repetition_penalty": 1.3, "suppress_tokens": None}
    folder = _pair("gpt2", tmp_path, outer=outer, inner=inner)
    ours, theirs = _both(folder, EncoderDecoderModel)
    np.testing.assert_array_equal(ours, theirs)
    options = EncoderDecoder.from_pretrained(folder).generation_config
    assert options is not None
    assert (options.max_length, options.num_beams, options.no_repeat_ngram_size) == (8, 2, 1)


@pytest.mark.parametrize("decoder", ["bart", "blenderbot"])
@pytest.mark.parametrize("inner", [{}, {"force_bos_token_to_be_generated": True}])
def test_defaults_of_a_decoders_class_count_in_a_pair(decoder: str, inner: dict[str, Any], tmp_path: Path):
    """BART's decoder ends with a forced token, Blenderbot's repeats nothing of the source."""
    folder = _pair(decoder, tmp_path, outer={}, inner=inner)
    path = folder / "config.json"
    hf = json.loads(path.read_text())
    for name in ("forced_eos_token_id", "encoder_no_repeat_ngram_size"):
        hf["decoder"].pop(name, None)
    path.write_text(json.dumps(hf))
    ours, theirs = _both(folder, EncoderDecoderModel, max_length=7)
    np.testing.assert_array_equal(ours, theirs)


FILES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"_from_model_config": True, "max_length": 6}, {"max_length": 9, "num_beams": 2}),
    ({"_from_model_config": True, "max_length": 6, "num_beams": 2}, {}),
    ({"max_length": 6}, {"max_length": 9, "num_beams": 2}),
    ({"_from_model_config": True, "max_length": 6}, {"force_bos_token_to_be_generated": True, "max_length": 7}),
    (
        {"_from_model_config": True, "max_length": 6, "forced_bos_token_id": 7},
        {"forced_eos_token_id": 9, "max_length": 5},
    ),
    ({"_from_model_config": True, "max_length": 6}, {"max_new_tokens": 3}),
]


@pytest.mark.parametrize(("file", "config"), FILES)
def test_a_file_that_was_made_from_the_config_gives_way_to_it_as_in_torch(
    file: dict[str, Any], config: dict[str, Any], tmp_path: Path
):
    folder = _whole("bart", tmp_path / "in", **{"forced_eos_token_id": 2, **config})
    ids = {"bos_token_id": 3, "eos_token_id": 2, "pad_token_id": 1, "decoder_start_token_id": 2}
    (folder / "generation_config.json").write_text(json.dumps({**ids, **file}))
    ours, theirs = _both(folder, BartForConditionalGeneration)
    np.testing.assert_array_equal(ours, theirs)
    # what is saved counts by itself
    model = EncoderDecoder.from_pretrained(folder)
    assert model.generation_config is not None
    model.save_pretrained(tmp_path / "out")
    assert "_from_model_config" not in json.loads((tmp_path / "out" / "generation_config.json").read_text())
    again = EncoderDecoder.from_pretrained(tmp_path / "out").generation_config
    assert again is not None
    assert (again.max_length, again.max_new_tokens) == (
        model.generation_config.max_length,
        model.generation_config.max_new_tokens,
    )


@pytest.mark.parametrize("config", [{"force_bos_token_to_be_generated": True}, {"num_beams": 2, "min_length": 4}])
def test_a_decoders_config_counts_in_a_pair_that_is_put_together(config: dict[str, Any], tmp_path: Path):
    """As torch makes the options of a new pair: from its decoder's config, its class's defaults included."""
    # torch's decoder does not find the shared table of a whole checkpoint: one of the decoder alone
    decoder = tmp_path / "decoder"
    Decoder.from_pretrained(_whole("bart", tmp_path / "bart", **config)).save_pretrained(decoder)
    path = decoder / "config.json"
    hf = json.loads(path.read_text())
    del hf["forced_eos_token_id"]
    path.write_text(json.dumps(hf))
    encoder = saved(randomise(BertModel(tiny_bert()), 2, spread=0.4), tmp_path / "bert")
    source: dict[str, Any] = {name: random_batch(3)[name] for name in ("input_ids", "attention_mask")}
    theirs = EncoderDecoderModel.from_encoder_decoder_pretrained(str(encoder), str(decoder)).eval()
    ours = EncoderDecoder.from_encoder_decoder_pretrained(encoder, decoder)
    assert ours.generation_config is not None
    assert "generation: " in str(ours.load_report)
    with torch.no_grad():
        expected = theirs.generate(**as_torch(source), max_length=7).numpy()
    np.testing.assert_array_equal(ours.generate(**source, max_length=7).sequences, expected)
    assert (expected[:, -1] == 2).all()
    ours.save_pretrained(tmp_path / "pair")
    assert EncoderDecoder.from_pretrained(tmp_path / "pair").generation_config == ours.generation_config


def test_heads_have_another_name_in_barts_configs(tmp_path: Path):
    """`num_attention_heads` is the encoder's number, as torch's `attribute_map` has it; the decoder's is its own."""
    folder = _whole("bart", tmp_path, num_attention_heads=6)
    path = folder / "config.json"
    hf = json.loads(path.read_text())
    del hf["encoder_attention_heads"]
    path.write_text(json.dumps(hf))
    assert BartConfig.from_pretrained(folder).encoder_attention_heads == 6
    model = EncoderDecoder.from_pretrained(folder)
    assert (model.encoder.config.attention.num_heads, model.decoder.config.attention.num_heads) == (6, 4)
    ours, theirs = _both(folder, BartForConditionalGeneration, max_length=7)
    np.testing.assert_array_equal(ours, theirs)
    assert int(ours.max()) < VOCAB
