"""Logits processors against formulas in NumPy. The comparison with transformers' own is among the parity tests."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from encdec_eqx.generation import processors
from encdec_eqx.generation.plan import Settings
from generation_stand_in import generate, stand_in, states
from tolerances import PROCESSED_LOG_PROBS, PROCESSED_LOGITS

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


def test_only_what_has_an_effect_is_built():
    nothing = Settings(max_new_tokens=3, do_sample=True)
    source = (np.zeros((1, 8), np.int32), 8)
    assert (
        processors.build(nothing, min_length=0, eos_ids=(2,), prompt_width=1, rows_per_sentence=1, source=source) == ()
    )


def test_forced_tokens_stand_at_both_ends():
    chain = _chain(forced_bos_token_id=4, forced_eos_token_ids=(2,))
    assert [int(processor.at) for processor in chain if isinstance(processor, processors.ForcedToken)] == [1, 9]


# --- repetition ------------------------------------------------------------------------------------------------------


def _prefix(seed: int, ids: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, ids, (3, 9), dtype=np.int32)


def _at(length: int) -> jax.Array:
    return jnp.asarray(length, jnp.int32)


@pytest.mark.parametrize("penalty", [1.5, 0.5])
@pytest.mark.parametrize("length", [1, 4, 9])
def test_each_token_of_the_sequence_is_penalised_once(penalty, length):
    logits, prefix = _logits(1), _prefix(1)
    module = processors.RepetitionPenalty(np.asarray(penalty, np.float32))
    got = module(logits, jnp.asarray(prefix), _at(length))
    for row, ids, new in zip(np.asarray(logits), prefix, np.asarray(got), strict=True):
        expected = row.copy()
        for id_ in set(ids[:length].tolist()):
            expected[id_] = row[id_] * penalty if row[id_] < 0 else row[id_] / penalty
        np.testing.assert_allclose(new, expected, rtol=PROCESSED_LOGITS, atol=0)


@pytest.mark.parametrize("samples", [1, 2])
def test_tokens_of_the_source_are_penalised_and_the_bucket_s_padding_is_not(samples):
    source = np.array([[1, 2, 2, 9, 9], [3, 3, 3, 9, 9], [4, 0, 40, 9, 9]], np.int32)
    module = processors.SourcePenalty(source, np.asarray(3, np.int32), np.asarray(0.5, np.float32), samples)
    logits = jnp.repeat(_logits(2), samples, axis=0)
    got = np.asarray(module(logits, jnp.zeros((3 * samples, 4), jnp.int32), _at(1)))
    for row, new in enumerate(got):
        old = np.asarray(logits[row])
        touched = {id_ for id_ in source[row // samples, :3].tolist() if id_ < old.size}
        assert set(np.flatnonzero(new != old)) == touched
        for id_ in touched:
            assert new[id_] == (old[id_] / 2 if old[id_] < 0 else old[id_] * 2)


@pytest.mark.parametrize("size", [1, 2, 3, 12])
def test_no_run_comes_twice(size):
    for seed in range(4):
        prefix = _prefix(seed, ids=3)
        for length in (1, 2, 5, 9):
            kept = _kept(processors.NGrams(size)(jnp.zeros((3, 6)), jnp.asarray(prefix), _at(length)))
            for row in range(3):
                text = prefix[row, :length].tolist()
                runs = [text[at : at + size] for at in range(length - size + 1)]
                ending = text[length - size + 1 :] if size <= length else None
                assert set(np.flatnonzero(~kept[row])) == {run[-1] for run in runs if run[:-1] == ending}


# --- certain ids -----------------------------------------------------------------------------------------------------


def _biased(sequences, logits, prefix, length) -> np.ndarray:
    result = np.array(logits)
    for row, ids in enumerate(prefix):
        for sequence, bias in sequences:
            before = list(sequence[:-1])
            if len(sequence) <= length and ids[length - len(before) : length].tolist() == before:
                result[row, sequence[-1]] += bias
    return result


def test_biases_are_added_behind_the_rest_of_their_sequence():
    rng = np.random.default_rng(0)
    pairs = [((int(rng.integers(5)),), 0.5)]
    pairs += [(tuple(rng.integers(0, 3, size).tolist()), float(bias)) for size in (2, 2, 3, 3, 4) for bias in range(3)]
    pairs += [((1,) * 12, 99.0), ((30,), -np.inf)]
    pairs = list(dict(pairs).items())
    module = processors.SequenceBias.of_sequences(pairs)
    changed = 0
    for seed in range(4):
        logits, prefix = _logits(seed), _prefix(seed, ids=3)
        for length in (1, 2, 4, 9):
            expected = _biased(pairs, logits, prefix, length)
            got = module(logits, jnp.asarray(prefix), _at(length))
            np.testing.assert_allclose(got, expected, rtol=PROCESSED_LOGITS, atol=PROCESSED_LOGITS)
            changed += int((expected != np.asarray(logits)).sum())
    assert changed > 50


def test_a_sequence_longer_than_the_prefix_does_not_count_as_in_torch():
    module = processors.SequenceBias.of_sequences([((0, 7), 1.0)])
    logits = jnp.zeros((3, 31))
    assert not np.asarray(module(logits, PREFIX, _at(1))).any()
    assert np.asarray(module(logits, PREFIX, _at(2)))[:, 7].all()


def test_suppressed_ids():
    logits = _logits(0)
    ids = np.array([3, 30, 3, 3], np.int32)
    never = processors.Suppressed(ids)
    once = processors.SuppressedAt(np.asarray(4, np.int32), ids)
    for module, length, forbidden in ((never, 4, [3, 30]), (never, 5, [3, 30]), (once, 4, [3, 30]), (once, 5, [])):
        kept = _kept(module(logits, PREFIX, _at(length)))
        for row in kept:
            np.testing.assert_array_equal(np.flatnonzero(~row), forbidden)


@pytest.mark.parametrize("forced_first", [None, 6])
def test_the_beginning_is_behind_a_forced_first_token(forced_first):
    settings = Settings(max_new_tokens=5, begin_suppress_tokens=(4,), forced_bos_token_id=forced_first)
    chain = processors.build(settings, min_length=0, eos_ids=(2,), prompt_width=1, rows_per_sentence=1)
    for length in (1, 2, 3):
        kept = _kept(processors.apply(chain, _logits(0), PREFIX, _at(length)))[0]
        if forced_first is not None and length == 1:
            np.testing.assert_array_equal(np.flatnonzero(kept), [6])
        else:
            assert kept[4] == (length != (1 if forced_first is None else 2))


def test_ends_grow_from_their_start_on_and_forbidden_ones_do_not():
    settings = Settings(max_new_tokens=40, exponential_decay_length_penalty=(3, 1.25))
    (module,) = processors.build(settings, min_length=0, eos_ids=(2, 5, 2), prompt_width=4, rows_per_sentence=1)
    logits = np.zeros((3, 31), np.float32)
    logits[:, 2], logits[:, 5] = [-2.0, 0.0, 3.0], -np.inf
    for length in (4, 7, 8, 20, 43):
        got = np.asarray(module(jnp.asarray(logits), PREFIX, _at(length)))
        expected = logits.copy()
        expected[:, 2] += np.abs(logits[:, 2]) * (1.25 ** max(length - 7, 0) - 1)
        np.testing.assert_allclose(got, expected, rtol=PROCESSED_LOGITS, atol=0)


# --- numbers and shares ----------------------------------------------------------------------------------------------


def test_invalid_values_become_finite():
    logits = jnp.asarray([[np.nan, np.inf, -np.inf, 2.0]], jnp.float32)
    largest = np.finfo(np.float32).max
    np.testing.assert_array_equal(processors.Finite()(logits, PREFIX[:1], LENGTH), [[0, largest, -largest, 2]])


def test_normalised_logits_are_log_probabilities():
    logits = _logits(0)
    shares = np.exp(np.asarray(processors.Normalised()(logits, PREFIX, LENGTH), np.float64))
    exponentials = np.exp(np.asarray(logits, np.float64))
    np.testing.assert_allclose(shares, exponentials / exponentials.sum(1, keepdims=True), rtol=PROCESSED_LOG_PROBS)


def _shares(logits) -> np.ndarray:
    exponentials = np.exp(np.asarray(logits, np.float64))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def _typical(shares: np.ndarray, mass: float) -> np.ndarray:
    logs = np.log(shares)
    distances = np.abs(-logs + (shares * logs).sum(axis=1, keepdims=True))
    kept = np.zeros(shares.shape, bool)
    for row, order in enumerate(np.argsort(distances, axis=1)):
        needed = 1 + int(np.sum(np.cumsum(shares[row, order])[:-1] < mass))
        kept[row, order[:needed]] = True
    return kept


def _eta(shares: np.ndarray, least: float) -> np.ndarray:
    entropy = -(shares * np.log(shares)).sum(axis=1, keepdims=True)
    return shares >= np.minimum(least, np.sqrt(least) * np.exp(-entropy))


SHARES = {
    "min_p": (processors.MinP, lambda shares, bound: shares >= bound * shares.max(axis=1, keepdims=True)),
    "typical_p": (processors.Typical, _typical),
    "epsilon_cutoff": (processors.Epsilon, lambda shares, bound: shares >= bound),
    "eta_cutoff": (processors.Eta, _eta),
}


@pytest.mark.parametrize("name", SHARES)
@pytest.mark.parametrize("bound", [0.001, 0.03, 0.4, 0.9])
def test_shares_decide_which_tokens_may_be_drawn(name, bound):
    module, rule = SHARES[name]
    for seed in range(5):
        logits = _logits(seed)
        got = np.asarray(module(np.asarray(bound, np.float32))(logits, PREFIX, LENGTH))
        kept, shares = rule(_shares(logits), bound), _shares(logits)
        # the best one stays in any case
        kept |= (shares == shares.max(axis=1, keepdims=True)) & (name != "typical_p")
        np.testing.assert_array_equal(_kept(got), kept)
        np.testing.assert_array_equal(got[kept], np.asarray(logits)[kept])


@pytest.mark.parametrize("name", ["top_k", "top_p", *SHARES])
def test_as_many_tokens_stay_as_are_asked_for(name):
    strictest = {"top_k": 1, "top_p": 0.0, "min_p": 1.0, "typical_p": 1e-6, "epsilon_cutoff": 0.99, "eta_cutoff": 0.99}
    settings = Settings(max_new_tokens=3, do_sample=True, **{name: strictest[name]})
    for keep in (1, 3, 31, 40):
        (module,) = processors.build(
            settings, min_length=0, eos_ids=(2,), prompt_width=1, rows_per_sentence=1, min_tokens_to_keep=keep
        )
        np.testing.assert_array_equal(_kept(module(10 * _logits(3), PREFIX, LENGTH)).sum(axis=1), min(keep, 31))


def test_what_is_forbidden_stays_so_and_weighs_nothing():
    logits = _logits(0)
    forbidden = jnp.arange(31) % 3 == 0
    some = jnp.where(forbidden[None], -jnp.inf, logits)
    few = logits[:, ~np.asarray(forbidden)]
    for name, bound in {"top_k": 5, "top_p": 0.7, "min_p": 0.1, "typical_p": 0.7, "epsilon_cutoff": 0.02}.items():
        settings = Settings(max_new_tokens=3, do_sample=True, **{name: bound})
        (module,) = processors.build(settings, min_length=0, eos_ids=(2,), prompt_width=1, rows_per_sentence=1)
        kept = _kept(module(some, PREFIX, LENGTH))
        assert not kept[:, np.asarray(forbidden)].any()
        np.testing.assert_array_equal(kept[:, ~np.asarray(forbidden)], _kept(module(few, PREFIX, LENGTH)))


# --- chains ----------------------------------------------------------------------------------------------------------


class Doubled(eqx.Module):
    """A user's own processor: one id's logit times a number, as often as it is there already."""

    id_: int = eqx.field(static=True)
    factor: jax.Array

    def __call__(self, logits, prefix, length):
        """The processed logits."""
        counts = jnp.arange(prefix.shape[1])[None] < length
        times = jnp.sum((prefix == self.id_) & counts, axis=1)
        return logits.at[:, self.id_].multiply(self.factor ** times.astype(jnp.float32))


EVERYTHING = {
    "sequence_bias": (((5,), 1.0), ((1, 6), 2.0)),
    "encoder_repetition_penalty": 1.2,
    "repetition_penalty": 1.1,
    "no_repeat_ngram_size": 3,
    "encoder_no_repeat_ngram_size": 2,
    "bad_words_ids": ((7,), (1, 8)),
    "min_new_tokens": 2,
    "forced_bos_token_id": 4,
    "forced_eos_token_ids": (2,),
    "remove_invalid_values": True,
    "exponential_decay_length_penalty": (4, 1.1),
    "suppress_tokens": (9,),
    "begin_suppress_tokens": (10,),
    "do_sample": True,
    "temperature": 2.0,
    "top_k": 30,
    "top_p": 0.99,
    "min_p": 0.001,
    "typical_p": 0.99,
    "epsilon_cutoff": 0.0001,
    "eta_cutoff": 0.0001,
    "renormalize_logits": True,
}
OTHERS = {
    "sequence_bias": (((6,), -1.0), ((2, 6), 0.5), ((3, 7), 0.25)),
    "encoder_repetition_penalty": 0.9,
    "repetition_penalty": 1.3,
    "bad_words_ids": ((3,), (2, 9), (4, 4)),
    "min_new_tokens": 3,
    "forced_bos_token_id": 5,
    "exponential_decay_length_penalty": (2, 1.3),
    "suppress_tokens": (3, 11, 12),
    "begin_suppress_tokens": (5, 6),
    "temperature": 0.7,
    "top_k": 12,
    "top_p": 0.9,
    "min_p": 0.01,
    "typical_p": 0.9,
    "epsilon_cutoff": 0.001,
    "eta_cutoff": 0.001,
}


def _chain(own=(), **options):
    settings = Settings(max_new_tokens=9, logits_processors=own, **options)
    source = (np.arange(24, dtype=np.int32).reshape(3, 8) % 13, 7)
    return processors.build(settings, min_length=2, eos_ids=(2,), prompt_width=1, rows_per_sentence=1, source=source)


def test_the_order_is_torch_s_with_users_own_before_sampling():
    own = Doubled(3, jnp.asarray(2.0))
    names = [type(processor).__name__ for processor in _chain((own,), **EVERYTHING)]
    assert names == [
        "SequenceBias",
        "SourcePenalty",
        "RepetitionPenalty",
        "NGrams",
        "SourceNGrams",
        "SequenceBias",
        "MinLength",
        "MinNewTokens",
        "ForcedToken",
        "ForcedToken",
        "Finite",
        "DecayingLength",
        "Suppressed",
        "SuppressedAt",
        "Doubled",
        "Temperature",
        "TopK",
        "TopP",
        "MinP",
        "Typical",
        "Epsilon",
        "Eta",
        "Normalised",
    ]
    greedy = [type(processor).__name__ for processor in _chain((own,), **{**EVERYTHING, "do_sample": False})]
    assert greedy == [*names[: names.index("Doubled") + 1], "Normalised"]


def test_other_values_are_no_other_program():
    traces = []

    @eqx.filter_jit
    def run(chain, logits, prefix, length):
        traces.append(None)
        return processors.apply(chain, logits, prefix, length)

    first, second = (
        _chain((Doubled(3, jnp.asarray(f)),), **{**EVERYTHING, **o}) for f, o in ((2.0, {}), (3.0, OTHERS))
    )
    prefix = jnp.asarray(_prefix(0))
    results = [run(chain, _logits(0), prefix, _at(length)) for chain in (first, second) for length in (2, 6)]
    assert len(traces) == 1
    assert all(np.isfinite(np.asarray(result)).any(axis=1).all() for result in results)
    assert not np.array_equal(results[0], results[2])
    np.testing.assert_allclose(
        results[3],
        processors.apply(second, _logits(0), prefix, _at(6)),
        rtol=0,
        atol=PROCESSED_LOG_PROBS,
    )


def test_what_lies_beyond_the_length_does_not_count():
    chain = _chain(**{**EVERYTHING, **OTHERS, "do_sample": False})
    prefix = _prefix(0)
    for length in (1, 3, 6):
        other = prefix.copy()
        other[:, length:] = (prefix[:, length:] + 5) % 13
        ours, same = (processors.apply(chain, _logits(0), jnp.asarray(ids), _at(length)) for ids in (prefix, other))
        np.testing.assert_array_equal(ours, same)


class OfAnotherForm(eqx.Module):
    """A user's mistake."""

    kind: str = eqx.field(static=True)

    def __call__(self, logits, prefix, length):
        """Something that is no logits."""
        return {"dtype": logits.astype(jnp.bfloat16), "shape": logits[:, :5], "type": 3.0}[self.kind]


@pytest.mark.parametrize(
    ("kind", "got"), [("dtype", r"bfloat16\[3, 31\]"), ("shape", r"float32\[3, 5\]"), ("type", "f")]
)
def test_what_a_user_s_own_returns_is_checked(kind, got):
    with pytest.raises(TypeError, match=rf"OfAnotherForm returned {got}.*expected float32\[3, 31\]"):
        processors.apply((OfAnotherForm(kind),), _logits(0), PREFIX, LENGTH)


def test_generate_with_a_rule_of_one_s_own(key):
    """Each id may come once, said in two ways: by a rule of the library and by one written here."""

    class Once(eqx.Module):
        def __call__(self, logits, prefix, length):
            seen = jnp.where(jnp.arange(prefix.shape[1])[None] < length, prefix, logits.shape[-1])
            return logits.at[jnp.arange(seen.shape[0])[:, None], seen].set(-jnp.inf, mode="drop")

    decoder, source = stand_in(), states(3)
    for options in ({}, {"do_sample": True, "num_return_sequences": 2, "key": key, "top_k": 9}):
        theirs = generate(decoder, source, max_new_tokens=8, no_repeat_ngram_size=1, **options)
        ours = generate(decoder, source, max_new_tokens=8, logits_processor=Once(), **options)
        np.testing.assert_array_equal(ours.sequences, theirs.sequences)
        free = generate(decoder, source, max_new_tokens=8, **options)
        assert free.sequences.shape != ours.sequences.shape or (free.sequences != ours.sequences).any()
        again = generate(decoder, source, max_new_tokens=8, logits_processor=[Once()], **options)
        assert again.compilations == 0


def test_ids_at_left_padding_count():
    """A row behind left padding repeats no id of the padding: it is the row alone with those ids suppressed."""
    decoder, source = stand_in(), states(2)
    prompts, mask = np.array([[5, 6, 1, 3], [1, 4, 4, 3]]), np.array([[0, 0, 1, 1], [1, 1, 1, 1]])
    options = {"max_new_tokens": 6, "no_repeat_ngram_size": 1, "eos_token_id": ()}
    both = generate(decoder, source, decoder_input_ids=prompts, decoder_attention_mask=mask, **options)
    alone = generate(decoder, source[:1], decoder_input_ids=prompts[:1, 2:], suppress_tokens=[5, 6], **options)
    np.testing.assert_array_equal(both.sequences[0, 2:], alone.sequences[0])
