"""Rules on logits against torch's: each by its class, whole chains as its `generate` makes them, and end to end.

Torch's classes are the reference for values, its `_get_logits_processor` for which rules there are and in what order.
"""

import functools
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import GenerationConfig as TorchConfig
from transformers import LogitsProcessorList
from transformers.generation import logits_process as theirs

from encdec_eqx import EncoderDecoder, GenerationConfig
from encdec_eqx.generation import processors
from encdec_eqx.generation.plan import resolve_settings
from encdec_eqx.generation.source_and_prompt import bucket
from hf import VOCAB, as_torch, random_batch, random_pair, saved, tiny_bert, tiny_gpt2, tiny_roberta
from tolerances import PROCESSED_LOG_PROBS, PROCESSED_LOGITS

ENDS = [3, 17]
PROMPT, NEW, ROWS, IDS = 3, 9, 4, 50
LENGTHS = (3, 4, 5, 8, 11)


def _logits(rng: np.random.Generator, kind: str) -> np.ndarray:
    logits = (3 * rng.standard_normal((ROWS, IDS))).astype(np.float32)
    if kind == "ties":
        logits = np.round(logits)
    if kind == "forbidden":
        logits[rng.random(logits.shape) < 0.3] = -np.inf
    return logits


def _ours(options: dict, source: np.ndarray, prompt_width: int, *, rows_per_sentence: int = 1, keep: int = 1):
    """The chain as `generate` makes it, the source padded to its bucket with ids that must not count."""
    settings = resolve_settings(
        {"max_new_tokens": NEW, **options},
        None,
        None,
        prompt_width=prompt_width,
        eos_ids=tuple(ENDS),
        has_key=True,
        vocab_size=IDS,
        has_source_ids=True,
    )
    wide = np.full((source.shape[0], bucket(source.shape[1], least=16)), 9, np.int32)
    wide[:, : source.shape[1]] = source
    return processors.build(
        settings,
        min_length=settings.min_length,
        eos_ids=[*ENDS, *ENDS[:1]],
        prompt_width=prompt_width,
        rows_per_sentence=rows_per_sentence,
        source=(wide, source.shape[1]),
        min_tokens_to_keep=keep,
    )


_apply = eqx.filter_jit(processors.apply)


def _by_us(chain, logits: np.ndarray, prefix: np.ndarray) -> np.ndarray:
    # The buffer is wider than what is filled, as in the loop, and the rest of it must not count.
    wide = np.full((prefix.shape[0], 16), 11, np.int32)
    wide[:, : prefix.shape[1]] = prefix
    return np.asarray(_apply(chain, logits, wide, np.asarray(prefix.shape[1], np.int32)))


def _by_torch(chain, logits: np.ndarray, prefix: np.ndarray) -> np.ndarray:
    return chain(torch.from_numpy(prefix.astype(np.int64)), torch.from_numpy(logits)).numpy()


def _assert_same(got: np.ndarray, expected: np.ndarray, *, atol: float = 0.0, unordered: bool = False) -> None:
    if unordered:
        got, expected = np.sort(got, axis=1), np.sort(expected, axis=1)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    np.testing.assert_array_equal(got[np.isinf(got)], got[np.isinf(expected)])
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.isfinite(got), finite)
    np.testing.assert_allclose(got[finite], expected[finite], rtol=PROCESSED_LOGITS, atol=atol)


# --- each rule by torch's class --------------------------------------------------------------------------------------

WORDS = [[5], [7, 8], [1, 2, 3], [5, 6], [30, 8], [2, 8], [4, 3], [3]]
BIASES = [[[5], 1.5], [[7, 8], -2.25], [[30, 8], 0.3], [[6], -0.7], [[1, 2, 3], 4.0], [[2, 8], 0.1], [[4] * 9, 9.0]]


def _alone(name, make, *options):
    return [pytest.param({name: option}, make, id=f"{name}={option}") for option in options]


CLASSES = [
    *_alone(
        "sequence_bias",
        lambda o, _: theirs.SequenceBiasLogitsProcessor({tuple(ids): bias for ids, bias in o}),
        BIASES,
        [[[5], 1.5]],
        [[[7, 8], -np.inf], [[9], -3.0]],
    ),
    *_alone(
        "encoder_repetition_penalty",
        lambda o, source: theirs.EncoderRepetitionPenaltyLogitsProcessor(o, source),
        1.3,
        0.6,
    ),
    *_alone("repetition_penalty", lambda o, _: theirs.RepetitionPenaltyLogitsProcessor(o), 1.3, 0.6),
    *_alone("no_repeat_ngram_size", lambda o, _: theirs.NoRepeatNGramLogitsProcessor(o), 1, 2, 3, 20),
    *_alone(
        "encoder_no_repeat_ngram_size",
        lambda o, source: theirs.EncoderNoRepeatNGramLogitsProcessor(o, source),
        1,
        2,
        3,
        20,
    ),
    *_alone("bad_words_ids", lambda o, _: theirs.NoBadWordsLogitsProcessor(o, ENDS), WORDS, [[9]]),
    *_alone("min_length", lambda o, _: theirs.MinLengthLogitsProcessor(o, ENDS), 6, 5),
    *_alone("min_new_tokens", lambda o, _: theirs.MinNewTokensLengthLogitsProcessor(PROMPT, o, ENDS), 3, 2),
    *_alone("forced_eos_token_id", lambda o, _: theirs.ForcedEOSTokenLogitsProcessor(PROMPT + NEW, o), 6, [3, 6]),
    *_alone("remove_invalid_values", lambda o, _: theirs.InfNanRemoveLogitsProcessor(), True),
    *_alone("suppress_tokens", lambda o, _: theirs.SuppressTokensLogitsProcessor(o), [4], [4, 5, 6, 7, 49]),
    *_alone(
        "begin_suppress_tokens",
        lambda o, _: theirs.SuppressTokensAtBeginLogitsProcessor(o, PROMPT),
        [4],
        [4, 5, 6, 7, 49],
    ),
    *_alone("renormalize_logits", lambda o, _: theirs.LogitNormalization(), True),
]


@pytest.mark.parametrize("kind", ["random", "ties", "forbidden"])
@pytest.mark.parametrize(("option", "make"), CLASSES)
def test_each_rule(option, make, kind):
    changed = False
    for seed in range(3):
        rng = np.random.default_rng(seed)
        source = rng.integers(0, 12, (ROWS, 13), dtype=np.int32)
        for length in LENGTHS:
            logits, prefix = _logits(rng, kind), rng.integers(0, 9, (ROWS, length), dtype=np.int32)
            prefix[0, -3:] = [1, 1, 2]
            prefix[1, -3:] = [0, 4, 7]
            chain = LogitsProcessorList([make(*option.values(), torch.from_numpy(source.astype(np.int64)))])
            expected = _by_torch(chain, logits, prefix)
            atol = PROCESSED_LOG_PROBS if "renormalize_logits" in option else 0.0
            _assert_same(_by_us(_ours(option, source, PROMPT), logits, prefix), expected, atol=atol)
            changed |= bool((expected != logits).any())
    nothing_to_do = option.get("no_repeat_ngram_size", 0) == 20 or option.get("encoder_no_repeat_ngram_size", 0) == 20
    if kind != "forbidden":
        assert changed != (nothing_to_do or "remove_invalid_values" in option)


SHARES = [
    *_alone("temperature", lambda o, keep: theirs.TemperatureLogitsWarper(o), 0.37, 11.0),
    *_alone("top_k", lambda o, keep: theirs.TopKLogitsWarper(o, min_tokens_to_keep=keep), 1, 2, 7, 49, 1000),
    *_alone("top_p", lambda o, keep: theirs.TopPLogitsWarper(o, min_tokens_to_keep=keep), 0.0, 0.3, 0.8, 0.95),
    *_alone("min_p", lambda o, keep: theirs.MinPLogitsWarper(o, min_tokens_to_keep=keep), 1e-3, 0.05, 0.5, 1.0),
    *_alone("typical_p", lambda o, keep: theirs.TypicalLogitsWarper(o, min_tokens_to_keep=keep), 0.05, 0.4, 0.9, 0.999),
    *_alone("epsilon_cutoff", lambda o, keep: theirs.EpsilonLogitsWarper(o, min_tokens_to_keep=keep), 1e-4, 0.01, 0.9),
    *_alone("eta_cutoff", lambda o, keep: theirs.EtaLogitsWarper(o, min_tokens_to_keep=keep), 1e-4, 0.01, 0.9),
]


@pytest.mark.parametrize("keep", [1, 2, 4])
@pytest.mark.parametrize("kind", ["random", "ties", "forbidden"])
@pytest.mark.parametrize(("option", "make"), SHARES)
def test_each_rule_of_sampling(option, make, kind, keep):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        logits, prefix = _logits(rng, kind), rng.integers(0, IDS, (ROWS, 5), dtype=np.int32)
        expected = _by_torch(LogitsProcessorList([make(*option.values(), keep)]), logits, prefix)
        chain = _ours({"do_sample": True, **option}, prefix, PROMPT, keep=keep)
        # Of equal logits torch's sorts, which are not stable, keep arbitrary ones.
        _assert_same(_by_us(chain, logits, prefix), expected, unordered=kind == "ties")


@pytest.mark.parametrize("option", [(0, 1.3), (2, 1.01), (4, 0.8), (30, 1.5)], ids=str)
def test_ends_become_likelier(option):
    rng = np.random.default_rng(0)
    torchs = theirs.ExponentialDecayLengthPenalty(option, ENDS, PROMPT)
    for length in LENGTHS:
        logits, prefix = _logits(rng, "random"), rng.integers(0, IDS, (ROWS, length), dtype=np.int32)
        expected = _by_torch(torchs, logits, prefix)
        assert (expected != logits).any() == (length > PROMPT + option[0])
        chain = _ours({"exponential_decay_length_penalty": option}, prefix, PROMPT)
        _assert_same(_by_us(chain, logits, prefix), expected)


def test_a_forbidden_end_stays_forbidden_where_torch_makes_it_nan():
    logits, prefix = np.zeros((ROWS, IDS), np.float32), np.zeros((ROWS, 8), np.int32)
    logits[:, ENDS] = -np.inf
    assert np.isnan(_by_torch(theirs.ExponentialDecayLengthPenalty((2, 1.1), ENDS, PROMPT), logits, prefix)).any()
    got = _by_us(_ours({"exponential_decay_length_penalty": (2, 1.1)}, prefix, PROMPT), logits, prefix)
    np.testing.assert_array_equal(got, logits)


def test_invalid_values():
    logits = np.zeros((ROWS, IDS), np.float32)
    logits[0, :4] = [np.nan, np.inf, -np.inf, 1.0]
    prefix = np.zeros((ROWS, 5), np.int32)
    expected = _by_torch(theirs.InfNanRemoveLogitsProcessor(), logits, prefix)
    np.testing.assert_array_equal(
        _by_us(_ours({"remove_invalid_values": True}, prefix, PROMPT), logits, prefix), expected
    )


@pytest.mark.parametrize("rows_per_sentence", [2, 3])
def test_rows_of_a_sentence_share_its_source(rows_per_sentence):
    """Torch repeats the source for runs, but not for `encoder_repetition_penalty`: there it meets the wrong rows."""
    rng = np.random.default_rng(1)
    rows = ROWS * rows_per_sentence
    source = rng.integers(0, 12, (ROWS, 13), dtype=np.int32)
    prefix = rng.integers(0, 12, (rows, 6), dtype=np.int32)
    logits = rng.standard_normal((rows, IDS), dtype=np.float32)
    each, repeated = (torch.from_numpy(np.repeat(source, n, axis=0).astype(np.int64)) for n in (1, rows_per_sentence))
    runs = _ours({"encoder_no_repeat_ngram_size": 2}, source, PROMPT, rows_per_sentence=rows_per_sentence)
    expected = _by_torch(theirs.EncoderNoRepeatNGramLogitsProcessor(2, each), logits, prefix)
    _assert_same(_by_us(runs, logits, prefix), expected)
    penalty = _ours({"encoder_repetition_penalty": 1.7}, source, PROMPT, rows_per_sentence=rows_per_sentence)
    expected = _by_torch(theirs.EncoderRepetitionPenaltyLogitsProcessor(1.7, repeated), logits, prefix)
    _assert_same(_by_us(penalty, logits, prefix), expected)
    of_torch = _by_torch(theirs.EncoderRepetitionPenaltyLogitsProcessor(1.7, each), logits, prefix)
    np.testing.assert_array_equal(of_torch[ROWS:], logits[ROWS:])


# --- whole chains as torch makes them --------------------------------------------------------------------------------

POOL = {
    "sequence_bias": [BIASES, [[[5], 1.5], [[7, 8], -3.0]]],
    "encoder_repetition_penalty": [1.4, 0.7],
    "repetition_penalty": [1.2, 0.8],
    "no_repeat_ngram_size": [1, 2, 3],
    "encoder_no_repeat_ngram_size": [2, 3],
    "bad_words_ids": [WORDS, [[9], [3], [8, 17]]],
    "min_length": [4, 6],
    "min_new_tokens": [2, 3],
    "forced_bos_token_id": [6],
    "forced_eos_token_id": [3, [17, 6]],
    "remove_invalid_values": [True],
    "exponential_decay_length_penalty": [(3, 1.2), (4, 1.05)],
    "suppress_tokens": [[4, 5], [17, 20, 21]],
    "begin_suppress_tokens": [[6, 7], [3]],
    "renormalize_logits": [True],
    "temperature": [0.5, 1.7],
    "top_k": [3, 10],
    "top_p": [0.5, 0.9],
    "min_p": [0.02, 0.2],
    "typical_p": [0.6, 0.95],
    "epsilon_cutoff": [0.002, 0.02],
    "eta_cutoff": [0.002, 0.02],
}


class _Mended(theirs.ExponentialDecayLengthPenalty):
    """Torch's, without NaN at ends that are forbidden."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return torch.where(scores == -torch.inf, scores, super().__call__(input_ids, scores))


def _drawn(rng: np.random.Generator, prompt_width: int) -> dict:
    sample, often = bool(rng.random() < 0.6), rng.choice([0.15, 0.35, 0.7])
    options = {name: values[rng.integers(len(values))] for name, values in POOL.items() if rng.random() < often}
    if not sample:
        options = {name: value for name, value in options.items() if list(POOL).index(name) < 15}
    if prompt_width > 1:
        options.pop("forced_bos_token_id", None)
    if "min_new_tokens" in options:
        options.pop("min_length", None)
    return {"do_sample": sample, **options}


@functools.cache
def _any_torch_model():
    return random_pair(tiny_bert(), tiny_gpt2())


def _torchs_chain(options: dict, source: np.ndarray, prompt_width: int, num_beams: int, own: list):
    config = TorchConfig(max_length=prompt_width + NEW, num_beams=num_beams, **{"top_k": None, **options})
    config._eos_token_tensor = torch.tensor(ENDS)
    chain = _any_torch_model()._get_logits_processor(
        config,
        input_ids_seq_length=prompt_width,
        encoder_input_ids=torch.from_numpy(source.astype(np.int64)),
        logits_processor=LogitsProcessorList(own),
        device="cpu",
    )
    for processor in chain:
        if isinstance(processor, theirs.ExponentialDecayLengthPenalty):
            processor.__class__ = _Mended
    return chain


class _TorchsHalf(theirs.LogitsProcessor):
    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return torch.where(scores > 0, scores / 2, scores)


class _Half(processors.Temperature):
    """A user's own processor: positive logits are halved."""

    def __call__(self, logits, prefix, length):
        return jnp.where(logits > 0, logits / self.temperature, logits)


def _stepwise(chain, logits: np.ndarray, prefix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Torch's processed logits, and the rows in which something was left to choose from after every rule.

    Of a row in which all is forbidden softmax is NaN, on which some of torch's classes raise an error; likewise where
    `remove_invalid_values` makes a forbidden end finite, and `exponential_decay_length_penalty` that infinite.
    """
    ids, scores = torch.from_numpy(prefix.astype(np.int64)), torch.from_numpy(logits)
    alive = torch.ones(scores.shape[0], dtype=torch.bool)
    for processor in chain:
        scores = processor(ids, scores)
        alive &= torch.isfinite(scores).any(dim=1) & ~(scores == torch.inf).any(dim=1)
        scores = torch.where(alive[:, None], scores, 0.0)
    return scores.numpy(), alive.numpy()


@pytest.mark.parametrize("seed", range(60))
def test_chains(seed):
    rng = np.random.default_rng(seed)
    prompt_width, beams = int(rng.choice([1, 3])), int(rng.choice([1, 2]))
    options, kind = _drawn(rng, prompt_width), str(rng.choice(["random", "ties", "forbidden"]))
    source = rng.integers(0, 12, (ROWS, 13), dtype=np.int32)
    own = bool(rng.random() < 0.3)
    torchs = _torchs_chain(options, source, prompt_width, beams, [_TorchsHalf()] if own else [])
    more = {"logits_processor": [_Half(np.asarray(2, np.float32))]} if own else {}
    chain = _ours({**options, **more}, source, prompt_width, keep=len(ENDS) + 1 if beams > 1 else 1)
    assert len(chain) == len(torchs)
    # Which of equal logits torch's sorts keep is left open, so in rows with ties only how many is compared.
    unordered = options["do_sample"] and (kind == "ties" or "remove_invalid_values" in options)
    compared = 0
    for length in sorted({prompt_width, prompt_width + 1, 5, 8, prompt_width + NEW - 1}):
        logits, prefix = _logits(rng, kind), rng.integers(0, 12, (ROWS, length), dtype=np.int32)
        expected, alive = _stepwise(torchs, logits, prefix)
        got = _by_us(chain, logits, prefix)
        _assert_same(got[alive], expected[alive], atol=PROCESSED_LOG_PROBS, unordered=unordered)
        compared += int(alive.sum())
    assert compared > ROWS


def test_configs_are_read_as_torch_writes_them(tmp_path):
    rng = np.random.default_rng(5)
    for number in range(5):
        options = _drawn(rng, 1)
        folder = tmp_path / str(number)
        TorchConfig(max_length=12, **options).save_pretrained(folder)
        file = TorchConfig.from_pretrained(folder).to_dict()
        read = GenerationConfig.from_hf(file)
        for name, value in GenerationConfig(**options).to_hf().items():
            assert read.to_hf()[name] == value


def test_a_dictionary_of_biases_is_read_as_torch_writes_it(tmp_path):
    TorchConfig(sequence_bias={(3,): -1.5, (4, 5): 2.0}).save_pretrained(tmp_path)
    read = GenerationConfig.from_hf(TorchConfig.from_pretrained(tmp_path).to_dict())
    assert read.sequence_bias == (((3,), -1.5), ((4, 5), 2.0))


# --- end to end ------------------------------------------------------------------------------------------------------

PAIRS = {
    "bert-gpt2": (tiny_bert, tiny_gpt2),
    "bert-bert": (tiny_bert, tiny_bert),
    "roberta-roberta": (tiny_roberta, tiny_roberta),
    "bert-relative": (tiny_bert, functools.partial(tiny_bert, position_embedding_type="relative_key_query")),
}
START, PAD, END = 5, 7, VOCAB - 1
LONG = 14


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    @functools.cache
    def both(pair: str):
        encoder, decoder = PAIRS[pair]
        ids = {"decoder_start_token_id": START, "pad_token_id": PAD, "eos_token_id": END}
        model = random_pair(encoder(), decoder(), seed=1, **ids)
        with torch.no_grad():
            # Logits far enough apart that a different order of summation cannot change the largest.
            for parameter in model.parameters():
                parameter *= 2 if parameter.ndim > 1 else 1
        return model, EncoderDecoder.from_pretrained(saved(model, tmp_path_factory.mktemp(pair)))

    return both


def _generated(model, arrays: dict[str, np.ndarray], **options) -> np.ndarray:
    with torch.no_grad():
        out = model.generate(**as_torch(arrays), do_sample=False, num_beams=1, max_new_tokens=LONG, **options)
    return out.numpy()


def _greedy_options(free: np.ndarray) -> dict[str, tuple[dict, bool]]:
    """Options that bite, given what is generated without any: (options, whether the result has to change)."""
    first, later = [int(id_) for id_ in free[:, 1] if id_ != END], free[0, 3:6].tolist()
    return {
        "sequence_bias": ({"sequence_bias": [[[first[0]], -30.0], [later[:2], -9.5], [[9], 4.0]]}, True),
        "encoder_repetition_penalty": ({"encoder_repetition_penalty": 3.0}, True),
        "repetition_penalty": ({"repetition_penalty": 4.0}, True),
        "milder repetition_penalty": ({"repetition_penalty": 1.3}, False),
        "no_repeat_ngram_size": ({"no_repeat_ngram_size": 1}, True),
        "no_repeat_ngram_size=2": ({"no_repeat_ngram_size": 2}, False),
        "encoder_no_repeat_ngram_size": ({"encoder_no_repeat_ngram_size": 1}, False),
        "bad_words_ids": ({"bad_words_ids": [[first[0]], later[:2], later[:3], [END]]}, True),
        "suppress_tokens": ({"suppress_tokens": sorted({*first, *later})}, True),
        "begin_suppress_tokens": ({"begin_suppress_tokens": first}, True),
        "begin after a forced one": ({"begin_suppress_tokens": [9, *later], "forced_bos_token_id": 9}, True),
        "exponential_decay_length_penalty": ({"exponential_decay_length_penalty": (4, 1.9)}, True),
        "remove_invalid_values": ({"remove_invalid_values": True}, False),
        "renormalize_logits": ({"renormalize_logits": True}, False),
        "all": (
            {
                "sequence_bias": [[[9], 4.0]],
                "encoder_repetition_penalty": 1.3,
                "repetition_penalty": 1.2,
                "no_repeat_ngram_size": 2,
                "encoder_no_repeat_ngram_size": 3,
                "bad_words_ids": [later[:2]],
                "min_new_tokens": 5,
                "forced_eos_token_id": END,
                "exponential_decay_length_penalty": (7, 1.5),
                "suppress_tokens": [first[-1]],
                "begin_suppress_tokens": [first[0]],
                "renormalize_logits": True,
            },
            True,
        ),
    }


# Each set of options is a program of its own: all of them with one pair, a few with others.
@pytest.mark.parametrize("prompted", [False, True], ids=["", "prompt"])
@pytest.mark.parametrize("pair", ["bert-gpt2", "bert-bert", "roberta-roberta"])
def test_greedy_search_with_each_rule(models, pair, prompted):
    torchs, ours = models(pair)
    batch = random_batch(1, low=8)
    arrays = {name: batch[name] for name in ("input_ids", "attention_mask")}
    if prompted:
        arrays["decoder_input_ids"] = np.random.default_rng(3).integers(8, VOCAB - 1, (3, 4), dtype=np.int32)
        arrays["decoder_input_ids"][:, 0] = START
    width = 4 if prompted else 1
    free = _generated(torchs, arrays)
    for name, (options, changes) in _greedy_options(free[:, width - 1 :]).items():
        if prompted and "forced_bos_token_id" in options:
            continue
        if pair != "bert-gpt2" and name not in ("repetition_penalty", "bad_words_ids", "all"):
            continue
        expected = _generated(torchs, arrays, **options)
        result = ours.generate(**arrays, max_new_tokens=LONG, **options)
        np.testing.assert_array_equal(result.sequences, expected, err_msg=name)
        if changes:
            assert expected.shape != free.shape or (expected != free).any(), name


def test_ids_at_left_padding_count_as_in_torch(models):
    """A mask says what may be attended to; rules look at the ids, those of padding too.

    With relative positions alone, which left padding does not move; without a cache, with which torch counts those of
    cross-attention otherwise.
    """
    torchs, ours = models("bert-relative")
    arrays = {name: random_batch(1, low=8)[name] for name in ("input_ids", "attention_mask")}
    prompts = np.array([[9, 9, START, 10], [START, 11, 12, 13], [START, 14, 15, 16]], np.int32)
    arrays |= {"decoder_input_ids": prompts, "decoder_attention_mask": (prompts != 9).astype(np.int32)}
    free = _generated(torchs, arrays, use_cache=False)
    np.testing.assert_array_equal(ours.generate(**arrays, max_new_tokens=LONG).sequences, free)
    prompts[0, :2] = free[0, 4:6]
    for options in ({"repetition_penalty": 4.0}, {"no_repeat_ngram_size": 1}):
        expected = _generated(torchs, arrays, use_cache=False, **options)
        assert expected[0, 4] != free[0, 4]
        np.testing.assert_array_equal(ours.generate(**arrays, max_new_tokens=LONG, **options).sequences, expected)
