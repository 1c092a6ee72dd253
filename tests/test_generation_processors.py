"""Logits processors against formulas in NumPy. The comparison with transformers' own is among the parity tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from encdec_eqx.generation import processors
from encdec_eqx.generation.resolve import Settings
from tolerances import PROCESSED_LOGITS

PREFIX = jnp.zeros((3, 9), jnp.int32)
LENGTH = jnp.asarray(4, jnp.int32)


def _logits(seed: int, *, ties: bool = False) -> jax.Array:
    logits = 3 * np.random.default_rng(seed).standard_normal((3, 31)).astype(np.float32)
    return jnp.asarray(np.round(logits) if ties else logits)


def _kept(processed) -> np.ndarray:
    return np.isfinite(np.asarray(processed))


@pytest.mark.parametrize("mass", [0.0, 0.2, 0.5, 0.9, 0.999])
def test_top_p_is_the_shortest_head_that_reaches_the_mass(mass):
    for seed in range(5):
        logits = _logits(seed)
        got = processors.TopP(np.asarray(1 - mass, np.float32))(logits, PREFIX, LENGTH)
        for row, kept, new in zip(np.asarray(logits, np.float64), _kept(got), np.asarray(got), strict=True):
            shares = np.exp(row) / np.exp(row).sum()
            order = np.argsort(-row)
            needed = 1 + int(np.sum(np.cumsum(shares[order])[:-1] < mass)) if mass else 1
            assert set(np.flatnonzero(kept)) == set(order[:needed])
            np.testing.assert_array_equal(new[kept], row[kept].astype(np.float32))


def test_top_p_drops_the_smaller_ids_among_equals_and_keeps_one():
    logits = jnp.zeros((1, 8))
    kept = _kept(processors.TopP(np.asarray(0.5, np.float32))(logits, PREFIX[:1], LENGTH))
    np.testing.assert_array_equal(np.flatnonzero(kept), [4, 5, 6, 7])
    kept = _kept(processors.TopP(np.asarray(1.0, np.float32))(logits, PREFIX[:1], LENGTH))
    np.testing.assert_array_equal(np.flatnonzero(kept), [7])


@pytest.mark.parametrize("k", [1, 4, 31, 100])
def test_top_k_keeps_all_that_tie_with_the_kth(k):
    for seed in range(5):
        logits = _logits(seed, ties=True)
        got = processors.TopK(np.asarray(k, np.int32))(logits, PREFIX, LENGTH)
        for row, kept in zip(np.asarray(logits), _kept(got), strict=True):
            np.testing.assert_array_equal(kept, row >= np.sort(row)[-min(k, 31)])
    assert _kept(processors.TopK(np.asarray(4, np.int32))(_logits(0, ties=True), PREFIX, LENGTH)).sum() > 12


def test_least_lengths_forbid_every_end_and_nothing_else():
    ends = np.array([3, 30, 3], np.int32)
    logits = _logits(0)
    for module, holds in (
        (processors.MinLength(np.asarray(5, np.int32), ends), True),
        (processors.MinLength(np.asarray(4, np.int32), ends), False),
        (processors.MinNewTokens(np.asarray(3, np.int32), np.asarray(2, np.int32), ends), True),
        (processors.MinNewTokens(np.asarray(2, np.int32), np.asarray(2, np.int32), ends), False),
    ):
        kept = _kept(module(logits, PREFIX, LENGTH))
        np.testing.assert_array_equal(np.flatnonzero(~kept[0]), [3, 30] if holds else [])


def test_temperature_divides():
    logits = _logits(0)
    got = processors.Temperature(np.asarray(0.3, np.float32))(logits, PREFIX, LENGTH)
    np.testing.assert_allclose(got, np.asarray(logits, np.float64) / 0.3, rtol=PROCESSED_LOGITS, atol=0)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("samples", [1, 2])
def test_no_run_of_the_source_is_repeated(size, samples):
    rng = np.random.default_rng(size)
    source = rng.integers(0, 4, (3, 16), dtype=np.int32)
    prefix = rng.integers(0, 4, (3 * samples, 9), dtype=np.int32)
    logits = jnp.zeros((3 * samples, 6))
    module = processors.SourceNGrams(source, np.asarray(13, np.int32), size, samples)
    for length in (1, 4, 9):
        kept = _kept(module(logits, jnp.asarray(prefix), jnp.asarray(length, jnp.int32)))
        for row in range(3 * samples):
            ending = prefix[row, max(length - size + 1, 0) : length].tolist()
            words = source[row // samples, :13].tolist()
            runs = [words[at : at + size] for at in range(14 - size)]
            forbidden = {run[-1] for run in runs if length + 1 >= size and run[:-1] == ending}
            assert set(np.flatnonzero(~kept[row])) == forbidden


def test_a_source_shorter_than_the_run_forbids_nothing():
    module = processors.SourceNGrams(np.zeros((3, 2), np.int32), np.asarray(2, np.int32), 3, 1)
    assert _kept(module(_logits(0), PREFIX, LENGTH)).all()


def test_a_forced_token_leaves_nothing_else_at_its_place():
    module = processors.ForcedToken(np.asarray(4, np.int32), np.array([3, 7], np.int32))
    np.testing.assert_array_equal(np.flatnonzero(_kept(module(_logits(0), PREFIX, LENGTH))[1]), [3, 7])
    logits = _logits(0)
    np.testing.assert_array_equal(module(logits, PREFIX, LENGTH + 1), logits)


def test_only_what_has_an_effect_is_built_and_in_torch_s_order():
    nothing = Settings(max_new_tokens=3, do_sample=True)
    assert processors.build(nothing, min_length=0, eos_ids=(2,), prompt_width=1, rows_per_sentence=1) == ()
    everything = Settings(
        max_new_tokens=9,
        min_new_tokens=2,
        do_sample=True,
        temperature=2.0,
        top_k=3,
        top_p=0.5,
        encoder_no_repeat_ngram_size=2,
        forced_bos_token_id=4,
        forced_eos_token_ids=(2,),
    )
    source = (np.zeros((1, 8), np.int32), 8)
    chain = processors.build(everything, min_length=2, eos_ids=(2,), prompt_width=1, rows_per_sentence=1, source=source)
    names = [type(processor).__name__ for processor in chain]
    forced = ["ForcedToken", "ForcedToken"]
    assert names == ["SourceNGrams", "MinLength", "MinNewTokens", *forced, "Temperature", "TopK", "TopP"]
    assert [int(processor.at) for processor in chain if isinstance(processor, processors.ForcedToken)] == [1, 9]
