"""The model card: metadata that the Hub's client reads, examples that run, and whose card is never overwritten."""

import json
import re
from pathlib import Path
from typing import Any

import huggingface_hub
import jax
import numpy as np
import pytest
from huggingface_hub import ModelCard

from checkpoints import BERT_CONFIG, GPT2_CONFIG, bert_tensors, gpt2_tensors, pair_config, pair_tensors, write
from encdec_eqx import CrossAttention, Decoder, Encoder, EncoderDecoder, StackConfig, quantize
from encdec_eqx.hf.model_card import TO_FILL, CardData
from encdec_eqx.text import TextToText, TokenizerPair
from models import tiny_pair
from tokenizers_of import word_pieces


def _model(folder: Path) -> EncoderDecoder:
    return EncoderDecoder.from_pretrained(write(folder, pair_config(), pair_tensors()))


def _card(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def examples(card: str) -> list[str]:
    """The pieces of Python on a card."""
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def _run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> str:
    """What our example prints in the folder of the card."""
    monkeypatch.chdir(folder)
    exec(compile(examples(_card(folder))[0], "README.md", "exec"), {})
    return capsys.readouterr().out


def test_the_metadata_are_what_the_hub_reads_and_what_is_missing_is_marked(tmp_path: Path):
    _model(tmp_path / "model").save_pretrained(tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    said = card.data.to_dict()
    assert (said["license"], said["library_name"], said["pipeline_tag"]) == (
        "unknown",
        "encdec_eqx",
        "text2text-generation",
    )
    assert {"encoder-decoder", "bert", "gpt2", "jax"} <= set(said["tags"])
    front = _card(tmp_path / "out").split("---")[1]
    for name in ("license", "language", "base_model", "datasets", "metrics"):
        assert re.search(rf"^{name}: .*# {TO_FILL}: ", front, re.MULTILINE), name


def test_what_is_said_is_no_longer_to_be_filled_in(tmp_path: Path):
    data = CardData(
        license="apache-2.0",
        language=["en", "no"],
        base_model="me/bert",
        datasets="cmudict",
        metrics=("bleu",),
        tags=["a: b"],
        training="Trained on `x`.",
    )
    _model(tmp_path / "model").save_pretrained(tmp_path / "out", card_data=data)
    said = ModelCard.load(tmp_path / "out" / "README.md").data.to_dict()
    assert said["license"] == "apache-2.0"
    assert (said["language"], said["base_model"], said["metrics"]) == (["en", "no"], ["me/bert"], ["bleu"])
    assert said["datasets"] == ["cmudict"]
    assert "a: b" in said["tags"]
    card = _card(tmp_path / "out")
    assert "Trained on `x`." in card
    assert card.count(TO_FILL) == 1  # what it is for


def test_what_was_joined_and_what_was_new(tmp_path: Path):
    encoder = Encoder.from_pretrained(write(tmp_path / "a-bert", BERT_CONFIG, bert_tensors()))
    decoder = Decoder.from_pretrained(write(tmp_path / "a-gpt2", GPT2_CONFIG, gpt2_tensors()))
    EncoderDecoder.from_pieces(encoder, decoder).save_pretrained(tmp_path / "out")
    card = _card(tmp_path / "out")
    count = sum(array.size for name, array in bert_tensors().items())
    assert f"| encoder | bert | 2 | 8 | 17 | {count:,} | `{tmp_path / 'a-bert'}` |" in card
    assert f"`{tmp_path / 'a-gpt2'}` |" in card
    assert re.search(r"- \d+ arrays: cross-attention, absent from the checkpoint", card)
    assert "eos_token_id = 5" in card
    assert "base_model: []" in card  # folders of this machine are no names of the Hub


def test_hub_ids_are_base_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = write(tmp_path / "bert", BERT_CONFIG, bert_tensors())
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    Encoder.from_pretrained("google-bert/bert-base-uncased").save_pretrained(tmp_path / "out")
    assert ModelCard.load(tmp_path / "out" / "README.md").data.base_model == ["google-bert/bert-base-uncased"]


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    model = _model(tmp_path / "model")
    model.save_pretrained(tmp_path / "pair")
    assert "[[" in _run(tmp_path / "pair", monkeypatch, capsys)
    encoder, decoder = model.pieces()
    encoder.save_pretrained(tmp_path / "encoder")
    assert "[[[" in _run(tmp_path / "encoder", monkeypatch, capsys)
    decoder.save_pretrained(tmp_path / "decoder")
    assert "tensors loaded" in _run(tmp_path / "decoder", monkeypatch, capsys)


def test_beside_tokenizers_the_example_takes_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    model = tiny_pair().with_special_tokens(pad_token_id=0, eos_token_id=3, decoder_start_token_id=2)
    TextToText(model, TokenizerPair(word_pieces(), word_pieces())).save_pretrained(tmp_path / "out")
    assert "TextToText" in examples(_card(tmp_path / "out"))[0]
    _run(tmp_path / "out", monkeypatch, capsys)


def test_int8_and_grafted_models_say_that_torch_does_not_load_them(tmp_path: Path):
    model = _model(tmp_path / "model")
    quantize(model, "int8").save_pretrained(tmp_path / "int8")
    assert "transformers does not load it: its weights are int8" in _card(tmp_path / "int8")
    bare = Decoder.from_pretrained(
        write(tmp_path / "gpt2", GPT2_CONFIG, gpt2_tensors()), cross_attention=CrossAttention(init="zero_gate")
    )
    bare.save_pretrained(tmp_path / "gated")
    assert "it has no such cross-attention" in _card(tmp_path / "gated")
    llama = {"model_type": "llama", "vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8}
    config = StackConfig.from_hf({**llama, "num_attention_heads": 2, "is_decoder": True, "add_cross_attention": True})
    Decoder.init(config, key=jax.random.key(0)).save_pretrained(tmp_path / "llama")
    assert "its llama has no cross-attention" in _card(tmp_path / "llama")


@pytest.mark.parametrize("content", [b"# mine\n", b"\xff\xfe", b""])
def test_a_readme_of_somebody_is_kept(tmp_path: Path, content: bytes):
    model = _model(tmp_path / "model")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_bytes(content)
    model.save_pretrained(tmp_path / "out")
    assert (tmp_path / "out" / "README.md").read_bytes() == content
    assert np.array_equal(
        EncoderDecoder.from_pretrained(tmp_path / "out").decoder.embeddings.tokens.weight,
        model.decoder.embeddings.tokens.weight,
    )


def test_a_card_of_ours_is_renewed_until_somebody_edits_it(tmp_path: Path):
    model, out = _model(tmp_path / "model"), tmp_path / "out"
    model.save_pretrained(out)
    first = _card(out)
    model.save_pretrained(out)
    assert _card(out) == first
    model.with_special_tokens(pad_token_id=3).save_pretrained(out)
    assert "pad_token_id = 3" in _card(out)
    edited = _card(out).replace("license: unknown  # ", "license: mit  # was: ")
    (out / "README.md").write_text(edited)
    model.save_pretrained(out)
    assert _card(out) == edited


def test_names_of_folders_cannot_break_the_card(tmp_path: Path):
    folder = write(tmp_path / "a|`b`\n---\nlicense: x", BERT_CONFIG, bert_tensors())
    Encoder.from_pretrained(folder).save_pretrained(tmp_path / "out")
    said: dict[str, Any] = ModelCard.load(tmp_path / "out" / "README.md").data.to_dict()
    assert said["license"] == "unknown"
    row = next(line for line in _card(tmp_path / "out").splitlines() if line.startswith("| encoder"))
    assert row.count("|") == 8
    assert json.dumps(said)
