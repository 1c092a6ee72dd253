"""The demo's parts, and a run of three steps from loading to reloading.

Quick: pieces of one tiny layer stand in for the packaged ones, which are tested only for what they are.
"""

import dataclasses
import io
import itertools
import json
from importlib import resources
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from examples.pronounce.pretraining import muon, orthogonalised, shuffled
from rich.console import Console

from encdec_eqx import Decoder, Encoder, EncoderDecoder, StackConfig
from encdec_eqx.demo import lexicon, pieces, run
from encdec_eqx.text import TextToText

ASSETS = resources.files("encdec_eqx.demo").joinpath("assets")
TINY = run.Recipe(
    steps=3,
    tokens_per_batch=68,
    evaluate_every=2,
    dev_words=3,
)


@pytest.fixture
def tiny_pieces(monkeypatch) -> None:
    """Makes the demo load pieces of one layer and width 8 and 12."""

    def tiny(*, seed: int = 0):
        encoder, decoder = _configs()
        keys = jax.random.split(jax.random.key(seed))
        return Encoder.init(encoder, key=keys[0]), Decoder.init(decoder, key=keys[1])

    monkeypatch.setattr(run, "load_pieces", tiny)
    monkeypatch.setattr(pieces, "load_pieces", tiny)


def _configs() -> tuple[StackConfig, StackConfig]:
    bert = {"model_type": "bert", "vocab_size": 31, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert |= {"intermediate_size": 16, "max_position_embeddings": 32, "hidden_dropout_prob": 0.0}
    gpt2 = {"model_type": "gpt2", "vocab_size": 42, "n_embd": 12, "n_layer": 1, "n_head": 2, "n_positions": 32}
    gpt2 |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "add_cross_attention": True, "is_decoder": True}
    gpt2 |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    bert["attention_probs_dropout_prob"] = 0.0
    return StackConfig.from_hf(bert), StackConfig.from_hf(gpt2)


@pytest.fixture
def small_lexicon(monkeypatch) -> lexicon.Lexicon:
    """A dictionary of a few dozen words that the demo then uses."""
    real = lexicon.load_lexicon()
    chosen = dict(itertools.islice(real.pronunciations.items(), 5000, 5400))
    small = lexicon.Lexicon(pronunciations=chosen, dropped=0)
    monkeypatch.setattr(run, "load_lexicon", lambda: small)
    return small


def _console() -> Console:
    return Console(file=io.StringIO(), width=120)


def _printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# --- the dictionary


def test_dictionary_lines_are_read_as_documented():
    text = "abc AH0 B K # a note\nabc(2) EY1 B\nabc(3) AH1 B K\nx-ray EH1 K S\nit's IH1 T S\n\n"
    read = lexicon.parse_lexicon(text)
    # the third variant differs from the first in stress alone
    assert read.pronunciations == {"abc": (("AH", "B", "K"), ("EY", "B")), "it's": (("IH", "T", "S"),)}
    assert read.dropped == 1


def test_a_word_without_phonemes_is_an_error():
    with pytest.raises(ValueError, match=r"line 2 .*'def # note'"):
        lexicon.parse_lexicon("abc AH0 B\ndef # note\n")


def test_packaged_dictionary():
    words = lexicon.load_lexicon()
    assert len(words.pronunciations) == 124_926
    assert words.dropped == 1_193
    assert words.pronunciations["read"] == (("R", "EH", "D"), ("R", "IY", "D"))
    known = set(lexicon.PHONEME_TOKENS[3:])
    assert len(known) == 39
    assert all(set(p) <= known for variants in words.pronunciations.values() for p in variants)


def test_splits_are_fixed():
    words = lexicon.load_lexicon()
    sizes = {split: len(words.words(split)) for split in ("train", "dev", "test")}
    assert sizes == {"train": 112_391, "dev": 6_277, "test": 6_258}
    assert [lexicon.split_of(word) for word in ("hello", "world", "zebra")] == ["train", "train", "train"]


def test_fixed_sample_does_not_depend_on_order():
    words = ["one", "two", "three", "four", "five"]
    assert lexicon.fixed_sample(words, 3) == lexicon.fixed_sample(words[::-1], 3)
    assert lexicon.fixed_sample(words, 9) == lexicon.fixed_sample(words, 5)


def test_licence_and_size_of_the_dictionary():
    folder = ASSETS.joinpath("cmudict")
    assert "Carnegie Mellon University" in folder.joinpath("LICENSE").read_text(encoding="utf-8")
    assert len(folder.joinpath("cmudict.dict.xz").read_bytes()) < 1_000_000


# --- vocabularies


def test_words_become_ids():
    ids = lexicon.encode_word("It\u2019s", max_letters=4)
    assert [lexicon.LETTER_TOKENS[i] for i in ids] == ["i", "t", "'", "s", "[END]"]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("", "it is empty"),
        ("na\u00efve", "character 3 is '\u00ef'"),
        ("a-b", "character 2 is '-'"),
        ("4th", "character 1 is '4'"),
        ("abcdef", "it has 6 letters; at most 5"),
        # lower() turns this one letter into two characters
        ("\u0130", "character 2 is"),
    ],
)
def test_words_that_cannot_be_read(word, says):
    with pytest.raises(lexicon.WordError, match="cannot pronounce") as caught:
        lexicon.encode_word(word, max_letters=5)
    assert says in str(caught.value)


def test_pronunciations_survive_the_round_trip():
    phonemes = ("HH", "AH", "L", "OW")
    ids = lexicon.encode_pronunciation(phonemes)
    assert lexicon.decode_pronunciation([lexicon.PHONEME_START, *ids, 0, 0, 5]) == phonemes
    with pytest.raises(ValueError, match="unknown phoneme 'AH0'"):
        lexicon.encode_pronunciation(["AH0"])


# --- error rates


def test_error_rates_take_the_closest_reference():
    predictions = [("A", "B"), ("X",)]
    references = [[("C", "C", "C"), ("A", "B")], [("X", "Y"), ("Z", "Z", "Z")]]
    rates = run.error_rates(predictions, references)
    assert rates == run.ErrorRates(phoneme=1 / 4, word=1 / 2, words=2)


@pytest.mark.parametrize(("predictions", "references"), [([], []), ([("A",)], []), ([("A",)], [[]])])
def test_error_rates_of_nothing_are_errors(predictions, references):
    with pytest.raises(ValueError, match=r"prediction|reference"):
        run.error_rates(predictions, references)


# --- batches


def test_the_longest_pairs_are_left_out_of_training():
    said = {"ab": (("B",),), "a" * 16: (("B",),), "cd": (("K",) * 15, ("K",))}
    whole = lexicon.Lexicon(pronunciations=said, dropped=0)
    assert len(whole.words("train")) == 3
    assert run.training_pairs(whole) == [("ab", ("B",))]


def test_order_of_batches_depends_on_the_seed_alone():
    rows = ({"input_ids": np.arange(40).reshape(20, 2)}, 4)

    def first(seed: int) -> list[list[int]]:
        batches = shuffled([rows], seed=seed)
        return [batch["input_ids"].tolist() for batch in itertools.islice(batches, 5)]

    assert first(0) == first(0)
    assert first(0) != first(1)


def test_too_little_data_for_a_batch_is_an_error():
    with pytest.raises(ValueError, match="fills one batch"):
        next(shuffled([({"input_ids": np.zeros((1, 3))}, 2)], seed=0))


# --- the optimiser


def test_orthogonalised_matrices_have_singular_values_near_one():
    wide = jax.random.normal(jax.random.key(0), (6, 10))
    fused = jax.random.normal(jax.random.key(1), (6, 3, 2, 2))
    done = jax.jit(orthogonalised)({"wide": wide, "fused": fused})
    values = np.linalg.svd(np.asarray(done["wide"]) / (10 / 6) ** 0.5, compute_uv=False)
    np.testing.assert_allclose(values, 1.0, atol=0.35)
    for part in range(3):
        matrix = np.asarray(done["fused"][:, part]).reshape(6, 4)
        np.testing.assert_allclose(np.linalg.svd(matrix, compute_uv=False), 1.0, atol=0.35)
        direction = np.asarray(fused[:, part]).reshape(6, 4)
        assert np.sum(matrix * direction) > 0


def test_muon_is_for_matrices_of_the_layers_only():
    encoder, _ = _configs()
    params = Encoder.init(encoder.replace(pooler=False), key=jax.random.key(0))
    optimizer = muon(0.1, steps=10, adam_learning_rate=0.0, warmup=0.1)

    @jax.jit
    def second_update(params):
        grads = jax.tree.map(jnp.ones_like, params)
        _, state = optimizer.update(grads, optimizer.init(params), params)  # the first rate is zero
        return optimizer.update(grads, state, params)[0]

    with jax.numpy_dtype_promotion("standard"):
        updates = second_update(params)
    moved = {
        jax.tree_util.keystr(path) for path, leaf in jax.tree_util.tree_leaves_with_path(updates) if jnp.any(leaf != 0)
    }
    names = ("self_attention.qkv", "self_attention.out", "feed_forward.up", "feed_forward.down")
    assert moved == {f".stack.blocks[0].{name}.weight" for name in names}


# --- the whole run


def test_demo_from_loading_to_reloading(tiny_pieces, small_lexicon, tmp_path):
    console = _console()
    result = run.run_demo(tmp_path / "out", console=console, recipe=TINY, test_words=5)
    text = _printed(console)
    assert result.reload_agrees
    assert result.steps == 3
    assert "Held-out words: phoneme error rate" in text
    assert "generates the same ids" in text
    assert "projection" in text  # the LoadReport
    saved = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert saved["test"]["phoneme"] == pytest.approx(result.test.phoneme)
    model = EncoderDecoder.from_pretrained(tmp_path / "out")
    assert model.enc_to_dec_proj is not None
    # A second demo may write over the first; something else's folder is refused.
    run.check_output(tmp_path / "out")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds files that are not an earlier demo's"):
        run.check_output(tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        run.check_output(tmp_path / "notes.txt")
    again = _console()
    run.say_words(["hello", "World"], tmp_path / "out", console=again)
    assert "World" in _printed(again)


def test_training_stops_at_the_time_limit_and_says_so(tiny_pieces, small_lexicon, tmp_path):
    console = _console()
    hurried = dataclasses.replace(TINY, time_limit=0.0)
    result = run.run_demo(tmp_path / "out", console=console, recipe=hurried, cold=True, test_words=3)
    assert result.steps == 1
    text = _printed(console)
    assert "stopped after 0 s" in text
    assert "1 of 3 steps" in text


def test_fine_tuning_learns(tiny_pieces, small_lexicon):
    model = pieces.join(*pieces.load_pieces())
    losses = []
    longer = dataclasses.replace(TINY, steps=60, evaluate_every=1000)
    run_ = run.finetune(model, small_lexicon, longer, on_progress=lambda step: losses.append(step.loss))
    assert run_.steps == len(losses) == 60
    assert losses[-1] < losses[0] - 0.3


def test_pronouncing_does_not_depend_on_company():
    encoder, decoder = _configs()
    model = pieces.join(
        Encoder.init(encoder.replace(initializer_range=0.5), key=jax.random.key(3)),
        Decoder.init(decoder.replace(initializer_range=0.5), key=jax.random.key(4)),
    )
    words = ["cat", "extraordinarily", "incomprehensibilities", "dog"]
    together = run.pronounce(model, words)
    assert together == [run.pronounce(model, [word])[0] for word in words]
    with pytest.raises(lexicon.WordError, match="at most 31"):
        run.pronounce(model, ["a" * 32])


def test_unreadable_words_fail_before_any_work(tmp_path):
    with pytest.raises(lexicon.WordError, match="'9'"):
        run.say_words(["9"], tmp_path / "none", console=_console())
    with pytest.raises(ValueError, match=r"'9'.*'8'"):
        run.say_words(["9", "8"], tmp_path / "none", console=_console())
    with pytest.raises(ValueError, match="no words"):
        run.say_words([], tmp_path / "none", console=_console())
    with pytest.raises(ValueError, match="holds no model of a demo: run encdec-eqx demo --output"):
        run.say_words(["ok"], tmp_path / "none", console=_console())


# --- the packaged pieces


def test_packaged_pieces_are_what_the_documentation_says():
    encoder, decoder = pieces.load_pieces()
    assert (encoder.config.model_type, decoder.config.model_type) == ("bert", "gpt2")
    assert encoder.hidden_size != decoder.hidden_size
    assert encoder.config.vocab_size == len(lexicon.LETTER_TOKENS)
    assert decoder.config.vocab_size == len(lexicon.PHONEME_TOKENS)
    assert decoder.load_report.new
    assert all("cross" in name for name, _ in decoder.load_report.new)
    model = pieces.join(encoder, decoder)
    tokens = model.special_tokens
    assert (tokens.decoder_start_token_id, tokens.pad_token_id) == (lexicon.PHONEME_START, lexicon.PHONEME_PAD)


@pytest.mark.parametrize("name", ["letters", "phonemes"])
def test_packaged_pieces_are_small_and_half_precision(name):
    with resources.as_file(ASSETS.joinpath(name)) as folder:
        assert Path(folder, "model.safetensors").stat().st_size < 3_000_000
        assert json.loads(Path(folder, "config.json").read_text())["dtype"] == "float16"


def test_packaged_pieces_have_learned_something():
    """The decoder alone finds real pronunciations likelier than shuffled ones; random weights do not."""
    words = lexicon.fixed_sample(lexicon.load_lexicon().words("dev"), 64)
    real = [lexicon.encode_pronunciation(lexicon.load_lexicon().pronunciations[word][0]) for word in words]
    shuffled = [[*row[-2::-1], row[-1]] for row in real]
    _, decoder = pieces.load_pieces()
    assert _loss(decoder, real) < _loss(decoder, shuffled) - 0.2


def _loss(decoder: Decoder, rows: list[list[int]]) -> float:
    ids = pieces.padded(rows, 20, lexicon.PHONEME_PAD)
    previous = np.concatenate([np.full_like(ids[:, :1], lexicon.PHONEME_START), ids[:, :-1]], axis=1)
    log_probabilities = jax.nn.log_softmax(decoder(previous).logits)
    taken = np.take_along_axis(np.asarray(log_probabilities), ids[..., None], axis=-1)[..., 0]
    return float(-(taken * (ids != lexicon.PHONEME_PAD)).sum() / (ids != lexicon.PHONEME_PAD).sum())


# --- the packaged model


def test_the_packaged_model_is_small_and_holds_its_tokenizers():
    with resources.as_file(ASSETS.joinpath("pronounce")) as folder:
        names = {path.name for path in Path(folder).iterdir()}
        assert sum(path.stat().st_size for path in Path(folder).iterdir()) < 8_000_000
        assert json.loads(Path(folder, "config.json").read_text())["dtype"] == "float16"
    assert names == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "source_tokenizer.json",
        "target_tokenizer.json",
    }


@pytest.fixture(scope="module")
def dev_words():
    return lexicon.fixed_sample(lexicon.load_lexicon().words("dev"), 200)


def test_the_packaged_model_pronounces_words_it_has_not_seen(dev_words):
    """Of all 6,277 development words it gets 29.3 % wrong, of these 24.5 %."""
    spoken = run.pronounce(pieces.load_trained(), dev_words)
    rates = run.error_rates(spoken, [lexicon.load_lexicon().pronunciations[word] for word in dev_words])
    assert rates.word < 0.26


def test_the_packaged_model_speaks_through_its_tokenizers(dev_words):
    with resources.as_file(ASSETS.joinpath("pronounce")) as folder:
        speaker = TextToText.from_pretrained(folder)
    said = speaker(dev_words[:40], max_new_tokens=32)
    assert [tuple(text.split()) for text in said] == run.pronounce(pieces.load_trained(), dev_words[:40])
