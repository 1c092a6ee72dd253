"""`export_generate`: what its program says is what `generate` says, and jax alone runs it."""

import dataclasses
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from compositions import FAMILY_GOLDENS
from encdec_eqx import (
    CrossAttention,
    Decoder,
    EncoderDecoder,
    GenerationConfig,
    astype,
    load_exported,
    quantize,
)
from encdec_eqx.generation.constraints import from_sequences
from encdec_eqx.generation.export.stand_alone import Exported
from models import VOCAB, random_ids, tiny_pair
from tolerances import SEQUENCE_SCORES

BATCH, SOURCE, NEW, PROMPT = 2, 9, 6, 3
SIZES: dict[str, Any] = {
    "batch": BATCH,
    "source": SOURCE,
    "max_new_tokens": NEW,
    "prompt": PROMPT,
    "platforms": ("cpu",),
}

OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 2.0, "early_stopping": "never"},
    "sampling": {"do_sample": True, "num_return_sequences": 2, "temperature": 0.7, "top_k": 20, "top_p": 0.9},
    "beam sampling": {"num_beams": 3, "do_sample": True},
    "groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "rules": {
        "repetition_penalty": 1.3,
        "encoder_repetition_penalty": 1.2,
        "no_repeat_ngram_size": 2,
        "encoder_no_repeat_ngram_size": 3,
        "min_length": 4,
        "exponential_decay_length_penalty": (2, 1.5),
        "forced_bos_token_id": 7,
        "forced_eos_token_id": 2,
        "suppress_tokens": [5],
        "begin_suppress_tokens": [6],
        "bad_words_ids": [[9, 10]],
        "sequence_bias": [[[5, 6], -2.0]],
    },
}


def _rows(seed: int, *lengths: int, vocab: int = VOCAB) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(3, vocab, length).tolist() for length in lengths]


def _padded(rows: list[list[int]], *, left: bool = False, fill: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask as `generate` takes them, as wide as the longest row."""
    ids = np.full((len(rows), max(map(len, rows))), fill, np.int32)
    mask = np.zeros_like(ids)
    for row, values in enumerate(rows):
        where = slice(ids.shape[1] - len(values), None) if left else slice(len(values))
        ids[row, where], mask[row, where] = values, 1
    return ids, mask


def _expect_equal(
    exported: Exported,
    model: EncoderDecoder,
    sources: list[list[int]],
    prompts: list[list[int]] | None = None,
    *,
    options: dict[str, Any],
    tolerance: float = SEQUENCE_SCORES,
    **limits: Any,
) -> None:
    """A call of the program is one of the model, in everything that both return."""
    draws: dict[str, Any] = {"key": jax.random.key(5)} if options.get("do_sample") else {}
    asked: dict[str, Any] = {"max_new_tokens": NEW, **options, **limits, **draws}
    fill = exported.manifest["source_pad_id"]
    ids, mask = _padded(sources, fill=fill)
    prompt, seen = (None, None) if prompts is None else _padded(prompts, left=True)
    expected = model.generate(
        ids,
        attention_mask=mask,
        decoder_input_ids=prompt,
        decoder_attention_mask=seen,
        **asked,
    )
    found = exported.generate(sources, decoder_input_ids=prompts, **limits, **draws)
    for name in ("sequences", "lengths", "truncated", "beam_indices"):
        if getattr(expected, name) is not None:
            np.testing.assert_array_equal(found[name], getattr(expected, name), err_msg=name)
    for name in ("scores", "normalized_scores", "log_probs", "processed_log_probs"):
        np.testing.assert_allclose(found[name], getattr(expected, name), rtol=0, atol=tolerance, err_msg=name)


@pytest.fixture(scope="module")
def model() -> EncoderDecoder:
    return tiny_pair()


@pytest.fixture(scope="module")
def greedy(model: EncoderDecoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a greedy program for several platforms."""
    folder = tmp_path_factory.mktemp("exported") / "greedy"
    model.export_generate(folder, BATCH, SOURCE, NEW, "greedy", prompt=PROMPT)
    return folder


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_program_says_what_generate_says(options: dict[str, Any], model: EncoderDecoder, tmp_path: Path) -> None:
    """Fewer rows than there is room for, as many, and more; with and without prompts; with other limits."""
    model.export_generate(tmp_path / "exported", **SIZES, **options)
    exported = load_exported(tmp_path / "exported")
    prompts = [[1, 8], [1], [1, 9]]
    for rows in (1, 2, 3):
        sources = _rows(rows, 7, 4, SOURCE)[:rows]
        _expect_equal(exported, model, sources, options=options)
        _expect_equal(exported, model, sources, prompts[:rows], options=_without_forced(options), max_new_tokens=4)
    if "min_length" not in options:  # `generate` takes one of the two
        _expect_equal(exported, model, _rows(4, 5), options=options, min_new_tokens=NEW)
    assert cast(Any, exported._call)._cache_size() == 1, "one program, compiled once"


def _without_forced(options: dict[str, Any]) -> dict[str, Any]:
    """Behind a prompt of several tokens no first one is forced, and `generate` says so of an argument."""
    return {name: value for name, value in options.items() if name != "forced_bos_token_id"}


@pytest.mark.parametrize("beams", [1, 3])
def test_a_constraint_and_own_processors_travel_along(beams: int, model: EncoderDecoder, tmp_path: Path) -> None:
    outputs = from_sequences([[5, 6, 7], [5, 9], [11, 12, 13, 14]], eos_token_id=2, vocab_size=VOCAB)
    own = Favoured(np.eye(VOCAB, dtype=np.float32)[5])
    options: dict[str, Any] = {"constraint": outputs, "logits_processor": own, "num_beams": beams}
    manifest = model.export_generate(tmp_path / "exported", **SIZES, **options)
    assert "TokenTrie" in manifest["options"]["constraint"]
    assert manifest["options"]["logits_processor"] == ["Favoured"]
    _expect_equal(load_exported(tmp_path / "exported"), model, _rows(0, 5, 9), options=options)


class Favoured(eqx.Module):
    """Adds to some logits."""

    bias: np.ndarray

    def __call__(self, logits: Any, prefix: Any, length: Any) -> Any:
        return logits + jnp.asarray(self.bias)[None]


class Printing(eqx.Module):
    """Calls back into Python."""

    def __call__(self, logits: Any, prefix: Any, length: Any) -> Any:
        jax.debug.print("{}", length)
        return logits


FEW = ("bart", "t5", "distilbert+roformer", "gpt2+xlm-roberta")
STORED = sorted(folder.name for folder in FAMILY_GOLDENS.iterdir() if "+" in folder.name)
WHOLE = ("bart", "blenderbot", "m2m_100", "marian", "mbart", "mt5", "pegasus", "plbart", "t5", "t5gemma", "umt5")


@pytest.mark.parametrize("case", FEW)
def test_a_program_of_another_family(case: str, tmp_path: Path) -> None:
    _check_family(EncoderDecoder.from_pretrained(FAMILY_GOLDENS / case), tmp_path, {})


@pytest.mark.parametrize("case", sorted({*STORED, *WHOLE} - {*FEW}))
def test_a_program_of_every_family(case: str, tmp_path: Path) -> None:
    _check_family(EncoderDecoder.from_pretrained(FAMILY_GOLDENS / case), tmp_path, {"num_beams": 2})


@pytest.mark.parametrize("name", ["bloom", "gemma2"])
def test_a_program_of_a_grafted_decoder(name: str, tmp_path: Path) -> None:
    """Bloom's biases by distance (ALiBi), Gemma 2's windows and caps."""
    encoder, _ = EncoderDecoder.from_pretrained(FAMILY_GOLDENS / "modernbert+bert-generation").pieces()
    decoder = Decoder.from_pretrained(FAMILY_GOLDENS / name, cross_attention=CrossAttention())
    _check_family(EncoderDecoder.from_pieces(encoder, decoder), tmp_path, {})


def _check_family(model: EncoderDecoder, tmp_path: Path, options: dict[str, Any], **other: Any) -> None:
    options = {"eos_token_id": 2, "decoder_start_token_id": 1, "pad_token_id": 0, "forced_eos_token_id": None} | options
    base = GenerationConfig()
    model.export_generate(tmp_path / "exported", **SIZES, search=base, **options)
    exported = load_exported(tmp_path / "exported")
    vocab = min(exported.manifest["vocab_sizes"].values())
    options["generation_config"] = base
    _expect_equal(exported, model, _rows(1, 6, SOURCE, vocab=vocab), options=options, **other)
    _expect_equal(exported, model, _rows(2, 4, vocab=vocab), [[1, 5, 6]], options=options, **other)


@pytest.mark.parametrize("kind", ["scanned", "bfloat16", "int8", "tied"])
def test_a_program_of_a_model_in_another_form(kind: str, model: EncoderDecoder, tmp_path: Path) -> None:
    forms = {
        "scanned": lambda: model.with_layout("scanned"),
        "bfloat16": lambda: astype(model, jnp.bfloat16),
        "int8": lambda: quantize(model, "int8"),
        "tied": lambda: EncoderDecoder.from_pretrained(FAMILY_GOLDENS / "t5").with_layout("scanned"),
    }
    # one bfloat16 step is 2^-8 of a logit; programs may round at other places
    _check_family(forms[kind](), tmp_path, {}, tolerance=0.1 if kind == "bfloat16" else SEQUENCE_SCORES)


@pytest.fixture(scope="module")
def jax_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to import from that has what `pip install jax` brings, and nothing else."""
    folder = tmp_path_factory.mktemp("jax_alone")
    packages = Path(np.__file__).parent.parent
    for name in ("jax", "jaxlib", "ml_dtypes", "numpy", "numpy.libs", "opt_einsum", "scipy", "scipy.libs"):
        if (packages / name).exists():
            (folder / name).symlink_to(packages / name)
    return folder


def _run_alone(jax_alone: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`run.py` in an interpreter without any other package: no equinox, no flatbuffers, nothing of the library."""
    environment = {**os.environ, "PYTHONPATH": str(jax_alone)}
    command = [sys.executable, "-S", str(folder / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_nothing_but_jax_is_there(jax_alone: Path, tmp_path: Path) -> None:
    """What the tests below stand on."""
    code = "import importlib.util, jax\n"
    code += "print([name for name in ('encdec_eqx', 'equinox', 'flatbuffers') if importlib.util.find_spec(name)])"
    (tmp_path / "run.py").write_text(code)
    assert _run_alone(jax_alone, tmp_path).stdout.strip() == "[]"


def test_the_script_runs_where_jax_alone_is(jax_alone: Path, greedy: Path, model: EncoderDecoder) -> None:
    sources = _rows(3, 7, 4, 5)
    lines = [" ".join(map(str, row)) for row in sources]
    done = _run_alone(jax_alone, greedy, "--ids", "--json", "--max-new-tokens", "5", "--prompt", "1 8", *lines)
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    ids, mask = _padded(sources)
    prompt = np.asarray([[1, 8]] * 3)
    expected = model.generate(ids, attention_mask=mask, decoder_input_ids=prompt, max_new_tokens=5)
    for row, one in enumerate(said):
        assert one["input"] == row
        assert one["ids"] == expected.sequences[row, 2 : 2 + expected.lengths[row]].tolist()
        assert one["score"] == pytest.approx(expected.scores[row], abs=SEQUENCE_SCORES)


def test_what_the_script_says_of_wrong_input(jax_alone: Path, greedy: Path) -> None:
    for arguments, message in (
        (["--ids", "5 6", "--seed", "1"], "--seed would do nothing"),
        (["--ids", "5 99"], "expected 0 to 52"),
        (["some text"], "has no tokenizers: pass token ids"),
        (["--ids", "5", "--max-new-tokens", "7"], "the program takes 1 to 6"),
    ):
        done = _run_alone(jax_alone, greedy, *arguments)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_wrong_calls_of_a_program(greedy: Path) -> None:
    exported = load_exported(greedy)
    with pytest.raises(ValueError, match=r"input_ids have 10 columns; the program takes 9"):
        exported.generate(random_ids(0, 1, SOURCE + 1))
    with pytest.raises(ValueError, match=r"Export one with prompt=4"):
        exported.generate([[5, 6]], decoder_input_ids=[[4, 5, 6]])
    with pytest.raises(ValueError, match="padded on the left"):
        exported.generate([[5, 6]], decoder_input_ids=[[1, 5]], decoder_attention_mask=[[1, 0]])
    with pytest.raises(ValueError, match="key would do nothing"):
        exported.generate([[5, 6]], key=jax.random.key(0))
    with pytest.raises(ValueError, match="min_new_tokens=5; expected 0 to 4"):
        exported.generate([[5, 6]], max_new_tokens=4, min_new_tokens=5)
    with pytest.raises(TypeError, match="must hold integers"):
        exported.generate([[0.5]])


def test_the_manifest_and_the_program_agree(greedy: Path) -> None:
    """And jax's own reader is all that a caller needs."""
    manifest = json.loads((greedy / "manifest.json").read_text(encoding="utf-8"))
    program = export.deserialize(bytearray((greedy / manifest["program"]).read_bytes()))
    assert program.platforms == ("cpu", "cuda") == tuple(manifest["platforms"])
    assert program.calling_convention_version == manifest["calling_convention_version"]
    (weights, inputs), _ = jax.tree.unflatten(program.in_tree, program.in_avals)
    outputs = jax.tree.unflatten(program.out_tree, program.out_avals)
    for told, arrays in ((manifest["inputs"], inputs), (manifest["outputs"], outputs)):
        assert {one["name"]: (tuple(one["shape"]), one["dtype"]) for one in told} == {
            name: (array.shape, array.dtype.name) for name, array in arrays.items()
        }
    assert weights.keys() == load_exported(greedy)._weights.keys()


def test_nothing_in_a_program_belongs_to_one_machine(model: EncoderDecoder, greedy: Path, tmp_path: Path) -> None:
    """No kernel of one platform, no file name; so two exports are the same, byte for byte."""
    model.export_generate(tmp_path / "again", BATCH, SOURCE, NEW, "greedy", prompt=PROMPT)
    for path in sorted(greedy.iterdir()):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name
    content = (greedy / "generate.stablehlo").read_bytes()
    assert b".py" not in content
    targets = re.findall(r"custom_call @(\w+)", export.deserialize(bytearray(content)).mlir_module())
    assert not targets


@pytest.mark.parametrize("platform", ["cuda", "tpu", "rocm"])
def test_a_program_for_elsewhere_is_lowered_here(platform: str, model: EncoderDecoder, tmp_path: Path) -> None:
    options: dict[str, Any] = {**OPTIONS["beam sampling"], "repetition_penalty": 1.2}
    model.export_generate(tmp_path / "exported", 1, 4, 3, platforms=(platform,), **options)
    with pytest.raises(ValueError, match=f"this program is for {platform}, and jax runs on cpu here"):
        load_exported(tmp_path / "exported")


def test_what_cannot_be_exported_says_so_first(model: EncoderDecoder, tmp_path: Path) -> None:
    def refused(error: type[Exception], message: str, **options: Any) -> None:
        asked: dict[str, Any] = {**SIZES, **options}
        with pytest.raises(error, match=message):
            model.export_generate(tmp_path / "exported", **asked)
        assert not list(tmp_path.iterdir())

    refused(NotImplementedError, "contrastive search. cannot be exported", penalty_alpha=0.6, top_k=4)
    refused(NotImplementedError, "force_words_ids cannot be exported", num_beams=2, force_words_ids=[[5]])
    refused(NotImplementedError, "prompt_lookup_num_tokens cannot be exported", prompt_lookup_num_tokens=3)
    refused(NotImplementedError, "assistant_model", assistant_model=model)
    refused(NotImplementedError, "output_cross_attentions cannot", output_cross_attentions=True)
    refused(NotImplementedError, "Printing calls back into Python", logits_processor=Printing())
    refused(NotImplementedError, "get their ids as decoder_input_ids", decoder_start_token_id=[1, 5])
    refused(ValueError, "search must be 'greedy'", search="best")
    refused(ValueError, "contradict each other", search="greedy", num_beams=3)
    refused(ValueError, "platforms must be some of", platforms=("gpu",))
    refused(ValueError, "source is 25 tokens long", source=25)
    refused(ValueError, "Lower max_new_tokens or prompt", max_new_tokens=23)
    refused(ValueError, "batch must be at least 1", batch=0)
    refused(TypeError, "TokenizerPair", tokenizers="a folder")
    refused(TypeError, "num_beam", num_beam=3)
    blocked = tmp_path / "file"
    blocked.write_text("kept")
    with pytest.raises(ValueError, match="is a file; give a folder"):
        model.export_generate(blocked, **SIZES)
    assert blocked.read_text() == "kept"


def test_an_own_encoder_is_refused(model: EncoderDecoder, tmp_path: Path) -> None:
    class Own(eqx.Module):
        hidden_size: int = 16

        def __call__(self, inputs: Any, **_: Any) -> Any:
            raise AssertionError("never called")

    pair = EncoderDecoder.from_pieces(Own(), model.decoder)
    with pytest.raises(NotImplementedError, match="Own is none of the library's encoders"):
        pair.export_generate(tmp_path / "exported", **SIZES)


def test_searches_by_name_and_by_config(model: EncoderDecoder, tmp_path: Path) -> None:
    """What each of them fixes is in the manifest."""
    own = GenerationConfig(num_beams=2, length_penalty=1.5)
    configured = dataclasses.replace(model, generation_config=own)
    cases = itertools.count()
    given: tuple[Any, ...] = (
        (model, "beam_search", {}, ("beams", 4)),
        (configured, None, {}, ("beams", 2)),
        (configured, "greedy", {}, ("greedy", None)),
        (model, {"num_beams": 3}, {}, ("beams", 3)),
        (model, own, {"num_beams": 5}, ("beams", 5)),
    )
    for pair, search, options, expected in given:
        folder = tmp_path / str(next(cases))
        manifest = pair.export_generate(folder, 1, 3, 2, search, platforms=("cpu",), **options)
        assert (manifest["search"], manifest["options"].get("num_beams")) == expected
