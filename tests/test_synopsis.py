"""`examples/synopsis`: descriptions read, cleaned, freed of near-duplicates and split; a model trained and scored."""

import importlib
import json
import lzma
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import jax
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from encdec_eqx import Decoder, Encoder, EncoderDecoder, StackConfig

FOLDER = Path(__file__).parent.parent / "examples" / "synopsis"
NAMES = ("descriptions", "duplicates", "prepare", "train", "score", "smollm2")
COMMON = "This paragraph stands in all of the packages and says nothing of any of them."


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    """The example's files, which import each other by their bare names."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in NAMES}
    finally:
        sys.path.remove(str(FOLDER))
        for name in NAMES:
            sys.modules.pop(name, None)


def _stanza(package: str, synopsis: str, *paragraphs: str) -> str:
    text = "\n .\n".join("\n".join(f" {line}" for line in paragraph.split("\n")) for paragraph in paragraphs)
    return f"Package: {package}\nDescription-md5: 0\nDescription-en: {synopsis}\n{text}\n"


def _words(seed: str, number: int = 24) -> str:
    return " ".join(f"{seed}{at}" for at in range(number))


def test_wrapped_lines_bullets_and_links(modules):
    text = _stanza("a", "One  line", "Wrapped\nlines here:\n * first\n   more\n - second", "Homepage: http://x.org/a")
    (stanza,) = modules["descriptions"].parse(text)
    assert (stanza.package, stanza.synopsis) == ("a", "One line")
    assert stanza.paragraphs == ("Wrapped lines here: first more second",)


def test_what_says_nothing_is_dropped_and_counted(modules):
    rows = [_stanza(f"p{i}", "A fine tool", COMMON, _words(f"p{i}x")) for i in range(20)]
    rows += [_stanza("old", "transitional package of it", _words("old"))]
    rows += [_stanza("short", "A short one", "Too short."), _stanza("bare", "Two words", _words("bare"))]
    kept, dropped = modules["descriptions"].clean(modules["descriptions"].parse("\n".join(rows)))
    assert [one.package for one in kept] == [f"p{i}" for i in range(20)]
    assert not any(COMMON in one.source for one in kept)
    assert sorted(dropped.values()) == [1, 1, 1]


def test_near_duplicates_are_one_group(modules):
    make = modules["descriptions"].Description
    own, other = _words("a"), _words("b")
    rows = [
        make("tool", own, "A tool for things"),
        make("tool-doc", _words("c"), "A tool for things - documentation"),  # the same synopsis but for its end
        make("tool-data", f"{_words('d', 20)} {own}", "Data of it all"),  # half of its runs are the tool's
        make("unlike", other, "Something quite unlike"),
        make("opening", " ".join(other.split()[:12]) + " " + _words("e"), "The same beginning only"),
        make("free", f"{_words('f', 40)} {own[:30]}", "A short overlap only"),
    ]
    groups = modules["duplicates"].groups(rows)
    assert groups == [[0, 1, 2], [3, 4], [5]]
    assert [one.package for one in modules["duplicates"].one_of_each(rows)] == ["tool-data", "unlike", "free"]


def test_the_split_depends_on_the_salt_and_the_opening_alone(modules):
    make = modules["descriptions"].Description
    rows = [make(f"p{i}", _words(f"p{i}x"), f"Tool number {i}") for i in range(400)]
    splits = modules["prepare"].split(rows, "salt")
    assert sum(map(len, splits.values())) == 400
    assert len(splits["train"]) > 330
    assert min(len(splits["dev"]), len(splits["test"])) > 5
    renamed = [make("other", row.source + " more", "Another") for row in reversed(rows)]
    again = modules["prepare"].split(renamed, "salt")
    assert [row.source for row in again["test"][::-1]] == [row.source + " more" for row in splits["test"]]
    assert modules["prepare"].split(rows, "pepper") != splits


@pytest.mark.parametrize("name", ["Translation-en", "Translation-en.xz"])
def test_the_script_writes_three_files_that_can_be_read(modules, tmp_path, capsys, name):
    pytest.importorskip("rouge_score")
    text = "\n".join(_stanza(f"p{i}", f"Tool number {i} of many", _words(f"p{i}x")) for i in range(200))
    raw = text.encode()
    (tmp_path / name).write_bytes(lzma.compress(raw) if name.endswith("xz") else raw)
    modules["prepare"].main(["--index", str(tmp_path / name), "--output", str(tmp_path / "out")])
    about = json.loads((tmp_path / "out" / "about.json").read_text())
    assert json.loads(capsys.readouterr().out) == about
    assert sum(about["kept"].values()) == about["packages"] == 200
    assert about["baselines"]["test"]["first 8 words"]["rouge1"] == 0
    from encdec_eqx.training.data import read_pairs

    for split, number in about["kept"].items():
        pairs = read_pairs(tmp_path / "out" / f"{split}.jsonl")
        assert len(pairs) == number
        assert pairs.bad == ()


def test_baselines_are_rouge_of_the_first_words(modules):
    pytest.importorskip("rouge_score")
    row = modules["descriptions"].Description("p", "one two three four five six seven eight nine ten", "one two x y")
    values = modules["prepare"].baselines([row])
    assert values["first 8 words"]["rouge1"] == pytest.approx(100 * 2 * (2 / 8) * (2 / 4) / (2 / 8 + 2 / 4), abs=0.05)
    assert values["first 12 words"]["rouge1"] < values["first 8 words"]["rouge1"]


WORDS = [f"w{at}" for at in range(20)]


def _tokenizer() -> Tokenizer:
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 101, "[SEP]": 102} | {word: 2 + at for at, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [("[CLS]", 101), ("[SEP]", 102)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer


def _tiny_bert(folder: Path) -> Path:
    bert = {"model_type": "bert", "vocab_size": 103, "hidden_size": 8, "num_hidden_layers": 1, "pad_token_id": 0}
    bert |= {"intermediate_size": 16, "max_position_embeddings": 40, "num_attention_heads": 2}
    Encoder.init(StackConfig.from_hf(bert), key=jax.random.key(0)).save_pretrained(folder)
    _tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def _write_data(folder: Path) -> None:
    rng = random.Random(0)
    for name, count in (("train", 24), ("dev", 4)):
        texts = [" ".join(rng.choices(WORDS, k=9)) for _ in range(count)]
        rows = [json.dumps({"source": text, "target": text[:8]}) for text in texts]
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")


def test_a_model_is_trained_and_scored(modules, tmp_path, capsys):
    """With a tiny BERT in place of the real one."""
    _write_data(tmp_path)
    bert = _tiny_bert(tmp_path / "bert")
    folders = ["--data", str(tmp_path), "--output", str(tmp_path / "out"), "--model", str(bert)]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as in a user's process
        model = modules["train"].main([*folders, "--length", "0.5"])
        assert model == tmp_path / "out" / "run2" / "model"  # written only by a run that has finished
        results = modules["score"].main([str(model), "--data", str(tmp_path / "dev.jsonl"), "--shown", "1"])
    assert set(results) == {"first 8 words", "first 12 words", "greedy", "beam 4"}
    assert results["first 8 words"]["rouge1"] > 0
    assert "Debian: w" in capsys.readouterr().out


def test_a_llama_learns_to_read_what_is_grafted_alone(modules, tmp_path):
    """With a tiny BERT and a tiny Llama in place of the real ones."""
    _write_data(tmp_path)
    llama = {"model_type": "llama", "vocab_size": 23, "hidden_size": 12, "num_hidden_layers": 4, "is_decoder": True}
    llama |= {"intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "eos_token_id": 2}
    plain = Decoder.init(StackConfig.from_hf(llama), key=jax.random.key(1))
    plain.save_pretrained(tmp_path / "out" / "smollm2")
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {word: at for at, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=special[0]))
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(tmp_path / "out" / "smollm2" / "tokenizer.json"))
    folders = [
        "--data",
        str(tmp_path),
        "--output",
        str(tmp_path / "out"),
        "--encoder",
        str(_tiny_bert(tmp_path / "bert")),
    ]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as in a user's process
        model = EncoderDecoder.from_pretrained(modules["smollm2"].main([*folders, "--steps", "2"]))
    assert [spec.cross_attention for spec in model.decoder.config.layers] == [False, False, True, False]
    own = jax.tree.leaves(model.decoder.stack.blocks[2].self_attention)
    first = modules["smollm2"].joined(tmp_path / "bert", tmp_path / "out" / "smollm2", seed=0).decoder.stack.blocks[2]
    assert all((new == old).all() for new, old in zip(own, jax.tree.leaves(first.self_attention), strict=True))
    moved = jax.tree.leaves(model.decoder.stack.blocks[2].cross_attention)
    assert all((new != old).any() for new, old in zip(moved, jax.tree.leaves(first.cross_attention), strict=True))
