"""Constraints on generated tokens against Python's `re`, sets of sequences and plain tables. Runs no model."""

import itertools
import random
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from encdec_eqx.generation.constraints import (
    AbstractConstraint,
    TokenDFA,
    TokenTrie,
    dfa,
    from_regex,
    from_sequences,
    from_token_regex,
    trie,
)
from encdec_eqx.generation.constraints.constraint import DEAD, END, START
from encdec_eqx.generation.constraints.dfa import Table, least_to_end, minimised, trimmed

SECONDS = 20.0
"""Two, but that tests check every annotation."""
CHARACTERS = "ab0 _\n-"
SPELLED: list[str | None] = [None, *CHARACTERS]  # the end token, then a token a character
TEXTS = ["".join(text) for size in range(5) for text in itertools.product(CHARACTERS, repeat=size)]


@jax.jit
def allowed(constraint: AbstractConstraint, states: jax.Array, remaining: jax.Array) -> jax.Array:
    return constraint.allowed(states, remaining)


@jax.jit
def advance(constraint: AbstractConstraint, states: jax.Array, tokens: jax.Array) -> jax.Array:
    return constraint.advance(states, tokens)


def programs(jitted: Any) -> int:
    return jitted._cache_size()


def padded(values: np.ndarray) -> jax.Array:
    """Up to a power of 8, so that few programs serve."""
    size = 16
    while size < values.size:
        size *= 8
    return jnp.asarray(np.resize(values, size), jnp.int32)


def outputs(constraint: AbstractConstraint, most: int) -> set[tuple[int, ...]]:
    """All outputs of at most so many tokens that `allowed` and `advance` lead to; no row may get stuck."""
    frontier = {(): START}
    found = set()
    for remaining in range(most, 0, -1):
        ids, states = list(frontier), np.asarray(list(frontier.values()))
        rows, tokens = np.nonzero(np.asarray(allowed(constraint, padded(states), jnp.int32(remaining)))[: len(ids)])
        assert set(rows) == set(range(len(ids))), "a row has nowhere to go"
        behind = np.asarray(advance(constraint, padded(states[rows]), padded(tokens)))[: rows.size]
        assert (behind != DEAD).all()
        longer = {(*ids[row], int(token)): state for row, token, state in zip(rows, tokens, behind, strict=True)}
        found |= {output for output, state in longer.items() if state == END}
        frontier = {output: state for output, state in longer.items() if state != END}
        if not frontier:
            break
    assert not frontier, "rows are left without an end"
    return found


def spelled(text: str) -> list[int]:
    return [SPELLED.index(character) for character in text]


PATTERNS = [
    *("", "a", "()", "a|b", "a|", "(ab|a)*", "(a|)b", "((a*)b)*", "(?:a|b){2,3}", "(a+)+", "(a?){2,3}", "(){3}a"),
    *("a{2}", "a{2,}", "a{1,3}b?", "a{0}b", "(a{0,2}){0,2}b", "(a{2}){1,2}", "(ab?){2,}", "(a|b*){3}0"),
    *("[a-b]+0", "[^a]*", ".*", ".", "[-a]+", "[a-]+", "[^-a]", r"[a\]]", "[.*+(]|a", "]|}|a", "[ab^]*", r"\-\ "),
    *(
        r"\w+\s\w+",
        r"[\d_-]+",
        r"\D\W",
        r"[\W]{2}",
        r"[^\s\w]",
        r"\S*\n",
        *("(a?){3}", "(a{0,2}){1,2}b", "(b*){3}a", "(a?){0}b", "((a?){2}){2}", "(a{0}){3}b", "(a*){0}", "((ab)?){2,}"),
        *("(a?b?){2}", "(a?|b?){2,3}", "a{003}"),
        r"\x61+\u0062",
        r"\U00000061?_",
        "(a|b)*a(a|b)",
    ),
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_pattern_matches_what_re_matches(pattern: str):
    constraint = from_regex(pattern, SPELLED, eos_token_id=0)
    matching = {text for text in TEXTS if re.fullmatch(pattern, text)}
    assert {text for text in TEXTS if constraint.accepts([*spelled(text), 0])} == matching
    assert constraint.least_new_tokens == 1 + min(map(len, matching))


def random_pattern(rng: random.Random, depth: int) -> str:
    kind = rng.randrange(5 if depth else 1)
    if kind == 1:
        return "".join(random_pattern(rng, depth - 1) for _ in range(rng.randint(2, 3)))
    if kind == 2:
        return "(" + "|".join(random_pattern(rng, depth - 1) for _ in range(rng.randint(1, 3))) + ")"
    if kind >= 3:
        return f"({random_pattern(rng, depth - 1)})" + rng.choice(
            ["*", "+", "?", "{2}", "{1,}", "{0,2}", "{1,3}", "{0}"]
        )
    return rng.choice(["a", "b", "0", r"\w", r"\s", ".", "[ab]", "[^b]", r"[^\d-]", "", "_", r"\n", "[0-b]"])


@pytest.mark.parametrize("seed", range(4))
def test_random_patterns_match_what_re_matches(seed: int):
    rng = random.Random(seed)
    for _ in range(30):
        pattern = random_pattern(rng, 4)
        matching = {text for text in TEXTS[:400] if re.fullmatch(pattern, text)}
        constraint = from_regex(pattern, SPELLED, eos_token_id=0)
        assert {text for text in TEXTS[:400] if constraint.accepts([*spelled(text), 0])} == matching, pattern


def test_kinds_of_characters_are_those_of_re():
    characters = [chr(code) for code in [*range(0x250), *range(0x660, 0x66A), 0xB2, 0x2160, 0x3000, 0x4E2D, 0x1F600]]
    for pattern in (r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", ".", "[é-\u0669]", "[^\\s\u4e2d]"):
        constraint = from_regex(pattern, [*characters, None], eos_token_id=len(characters))
        got = [character for id_, character in enumerate(characters) if constraint.accepts([id_, len(characters)])]
        assert got == [character for character in characters if re.fullmatch(pattern, character)], pattern


@pytest.mark.parametrize("pattern", ["(ab|a)*", "a{2,5}b?", "[^a]*|aab", "(aa)*b{0,3}", "ab*a", ".{0,4}"])
def test_every_way_to_cut_a_text_into_tokens_is_reached_and_no_other(pattern: str):
    tokens = ["</s>", "a", None, "ab", "b", "", "aab", "bb", "b", "ba", "c"]
    ends = [0, 5]
    constraint = from_regex(pattern, tokens, eos_token_id=ends)
    texts = {id_: text for id_, text in enumerate(tokens) if text and id_ not in ends}
    for most in range(constraint.least_new_tokens, 6):
        bodies = itertools.chain.from_iterable(itertools.product(texts, repeat=size) for size in range(most))
        valid = {body for body in bodies if re.fullmatch(pattern, "".join(texts[id_] for id_ in body))}
        assert outputs(constraint, most) == {(*body, end) for body in valid for end in ends}


def test_tokens_without_any_text_leave_only_the_empty_output():
    constraint = from_regex("a*", [None, "", None], eos_token_id=2)
    assert outputs(constraint, 4) == {(2,)}


def test_the_automaton_of_a_pattern_is_the_smallest():
    few = from_regex("(a|b)*a(a|b)", SPELLED, eos_token_id=0)
    assert repr(few) == "TokenDFA: 4 states, 4 classes of 8 tokens, shortest output 3 with its end token"
    same = from_regex("(ab|aab|aaab)|(a{1,3})b", SPELLED, eos_token_id=0)
    assert "5 states" in same.describe()


@pytest.mark.parametrize("seed", range(20))
def test_minimised_is_as_small_as_states_told_apart_pair_by_pair(seed: int):
    rng = np.random.default_rng(seed)
    states = int(rng.integers(1, 30))
    next_state = np.where(rng.random((states, 2)) < 0.7, rng.integers(0, states, (states, 2)), -1).astype(np.int32)
    if seed % 2:  # a chain, which splits one state at a time
        next_state[:, 0] = np.append(np.arange(1, states), -1)
    accepting = rng.random(states) < 0.4 + seed % 2
    accepting[-1 if seed % 2 else 0] = True  # some way to an end
    table = trimmed(Table(next_state, accepting))
    assert table is not None
    apart = table.accepting[:, None] != table.accepting[None, :]
    while True:
        behind = np.pad(apart, (0, 1), constant_values=True)
        behind[-1, -1] = False
        further = apart | behind[table.next_state[:, None], table.next_state[None, :]].any(axis=-1)
        if (further == apart).all():
            break
        apart = further
    small = minimised(table)
    assert small.accepting.size == len({row.tobytes() for row in apart})
    # the same language: both are followed side by side
    pairs, seen = [(table.start, small.start)], set()
    while pairs:
        one, other = pair = pairs.pop()
        if pair in seen:
            continue
        seen.add(pair)
        assert table.accepting[one] == small.accepting[other]
        assert ((table.next_state[one] < 0) == (small.next_state[other] < 0)).all()
        pairs += [(a, b) for a, b in zip(table.next_state[one], small.next_state[other], strict=True) if a >= 0]


TOKEN_PATTERNS = {
    "<3><4>*": lambda ids: ids[:1] == (3,) and set(ids[1:]) <= {4},
    " [<1>-<3> <5>]{2}\n| . ": lambda ids: len(ids) == 1 or (len(ids) == 2 and set(ids) <= {1, 3, 5}),
    "[^<5>]* <5>": lambda ids: ids[-1:] == (5,) and 5 not in ids[:-1],
    "(?:<0><1>)+|": lambda ids: ids == (0, 1) * (len(ids) // 2),
    ".{2,}": lambda ids: len(ids) >= 2,
}


@pytest.mark.parametrize("pattern", TOKEN_PATTERNS)
def test_patterns_over_ids(pattern: str):
    constraint = from_token_regex(pattern, eos_token_id=2, vocab_size=6)
    bodies = itertools.chain.from_iterable(itertools.product((0, 1, 3, 4, 5), repeat=size) for size in range(5))
    assert outputs(constraint, 5) == {(*body, 2) for body in bodies if TOKEN_PATTERNS[pattern](body)}


def random_sequences(rng: np.random.Generator, *, vocab_size: int, end: int) -> set[tuple[int, ...]]:
    ids = [id_ for id_ in range(vocab_size) if id_ != end]
    return {tuple(rng.choice(ids, rng.integers(0, 6)).tolist()) for _ in range(40)}


@pytest.mark.parametrize("seed", range(3))
def test_trie_holds_exactly_the_sequences(seed: int):
    sequences = random_sequences(np.random.default_rng(seed), vocab_size=5, end=3)
    constraint = from_sequences([*sequences, *sequences], eos_token_id=3, vocab_size=5)
    for most in range(constraint.least_new_tokens, 8):
        assert outputs(constraint, most) == {(*ids, 3) for ids in sequences if len(ids) < most}
    bodies = itertools.chain.from_iterable(itertools.product((0, 1, 2, 4), repeat=size) for size in range(6))
    assert {body for body in bodies if constraint.accepts([*body, 3])} == sequences


def test_trie_with_several_ends_beginnings_and_arrays():
    constraint = from_sequences([np.asarray([4]), (4, 5), [], [6, 6, 6]], eos_token_id=[1, 0], vocab_size=7)
    bodies = [(), (4,), (4, 5), (6, 6, 6)]
    assert outputs(constraint, 9) == {(*body, end) for body in bodies for end in (0, 1)}
    assert repr(constraint) == "TokenTrie: 6 states, 13 edges, 7 tokens, shortest output 1 with its end token"
    assert constraint.end_ids == (0, 1)
    assert constraint.vocab_size == 7


def test_wide_states_are_allowed_what_narrow_ones_are(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    sequences = rng.integers(1, 90, (400, 3)).tolist()
    narrow = from_sequences(sequences, eos_token_id=0, vocab_size=90)
    monkeypatch.setattr(trie, "_NARROW", 6)
    wide = from_sequences(sequences, eos_token_id=0, vocab_size=90)
    monkeypatch.setattr(trie, "_MOST_WIDE_ENTRIES", 180)
    two_wide = from_sequences(sequences, eos_token_id=0, vocab_size=90)
    assert narrow.wide_needs.shape[0] == 0
    assert narrow.window >= 88
    assert wide.window == 16
    assert wide.wide_needs.shape[0] > 2 >= two_wide.wide_needs.shape[0] > 0
    states = jnp.arange(START, START + 500, dtype=jnp.int32)
    for remaining in (1, 2, 3, 4):
        expected = allowed(narrow, states, jnp.int32(remaining))
        assert (allowed(wide, states, jnp.int32(remaining)) == expected).all()
        assert (allowed(two_wide, states, jnp.int32(remaining)) == expected).all()


def random_table(rng: np.random.Generator) -> np.ndarray:
    """(states, vocab), some columns alike, none for the end token 3."""
    table = rng.integers(-4, 6, (6, 5))
    table = np.maximum(table, -1)[:, rng.integers(0, 5, 9)]
    table[:, 3] = -1
    return table


@pytest.mark.parametrize("seed", range(8))
def test_dfa_follows_the_dense_table(seed: int):
    rng = np.random.default_rng(seed)
    table, start, accepting = random_table(rng), int(rng.integers(0, 6)), [1, 4]
    if seed == 0:
        start = 4
    constraint = TokenDFA.from_dense(table, start=start, accepting=accepting, eos_token_id=3)
    # every output of at most four tokens, straight from the table
    valid = set()
    for size in range(4):
        for body in itertools.product(range(9), repeat=size):
            state = start
            for token in body:
                state = table[state, token] if state >= 0 else -1
            if state in accepting:
                valid.add((*body, 3))
    assert all(constraint.accepts(ids) for ids in valid)
    if constraint.least_new_tokens <= 4:
        assert outputs(constraint, 4) == valid
    else:
        assert not valid


def test_alike_tokens_share_a_column():
    table = np.full((3, 1000), -1, np.int64)
    table[0, 10:500], table[1, 10:500], table[1, 500:] = 1, 2, 0
    constraint = TokenDFA.from_dense(table, accepting=[2], eos_token_id=5)
    assert repr(constraint) == "TokenDFA: 3 states, 4 classes of 1,000 tokens, shortest output 3 with its end token"
    assert constraint.transitions.shape == (64, 16)


def constraints() -> dict[str, AbstractConstraint]:
    names = [["ab", "b"], ["ab"], ["a", "b", "ab", "ab"], ["b", "b"]]
    tokens = ["</s>", "a", "ab", "b", None]
    return {
        "trie": from_sequences([[tokens.index(part) for part in name] for name in names], eos_token_id=0, vocab_size=5),
        "pattern": from_regex("(ab){2,}b?|b{3}", tokens, eos_token_id=0),
        "ids": from_token_regex("(<1><2>)+<3>?", eos_token_id=[0, 4], vocab_size=5),
    }


@pytest.mark.parametrize("name", ["trie", "pattern", "ids"])
def test_random_walks_end_in_time_in_one_program(name: str):
    constraint = constraints()[name]
    rows, most = 16, constraint.least_new_tokens + 6

    @jax.jit
    def walk(constraint: AbstractConstraint, new: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        def step(states: jax.Array, at: jax.Array) -> tuple[jax.Array, jax.Array]:
            possible = constraint.allowed(states, new - at)
            drawn = jax.random.categorical(jax.random.fold_in(key, at), jnp.where(possible, 0.0, -jnp.inf))
            tokens = jnp.where(states == END, 4, drawn.astype(jnp.int32))  # 4 stands for padding
            states = constraint.advance(states, tokens)
            return states, tokens

        states, tokens = jax.lax.scan(step, constraint.start(rows), jnp.arange(most, dtype=jnp.int32))
        return states, tokens.T

    for new in range(constraint.least_new_tokens, most + 1):
        states, tokens = walk(constraint, jnp.int32(new), jax.random.key(new))
        # also with padding fed long after the end, where the row stays
        assert (np.asarray(states) == END).all()
        for ids in np.asarray(tokens)[:, :new].tolist():
            assert constraint.accepts(ids)
    assert programs(walk) == 1


@pytest.mark.parametrize("name", ["trie", "pattern", "ids"])
def test_ended_and_dead_rows_are_allowed_nothing_and_stay(name: str):
    constraint = constraints()[name]
    states = jnp.asarray([END, DEAD], jnp.int32)
    assert not np.asarray(allowed(constraint, states, jnp.int32(1000))).any()
    for token in range(5):
        assert advance(constraint, states, jnp.full(2, token, jnp.int32)).tolist() == [END, DEAD]


@pytest.mark.parametrize("name", ["trie", "pattern", "ids"])
def test_a_token_that_the_state_lacks_leads_to_the_dead_state(name: str):
    constraint = constraints()[name]
    states = constraint.start(5)
    possible = np.asarray(allowed(constraint, states, jnp.int32(1000)))[0]
    behind = np.asarray(advance(constraint, states, jnp.arange(5, dtype=jnp.int32)))
    assert ((behind == DEAD) == ~possible).all()
    assert possible.any() and not possible.all()


@pytest.mark.parametrize("name", ["trie", "pattern", "ids"])
def test_too_few_tokens_allow_nothing_at_the_start(name: str):
    constraint = constraints()[name]
    least = constraint.least_new_tokens
    assert allowed(constraint, constraint.start(1), jnp.int32(least)).any()
    assert not allowed(constraint, constraint.start(1), jnp.int32(least - 1)).any()


def test_states_move_with_their_beams():
    constraint = constraints()["trie"]
    states = advance(constraint, constraint.start(2), jnp.asarray([1, 2], jnp.int32))  # "a", "ab"
    parents = jnp.asarray([1, 1, 0])
    states = advance(constraint, states[parents], jnp.asarray([0, 3, 3], jnp.int32))
    assert states[0] == END
    assert allowed(constraint, states, jnp.int32(9)).tolist()[1] == [True, False, False, False, False]
    assert allowed(constraint, states, jnp.int32(9)).tolist()[2] == [False, False, True, False, False]


def test_accepts_wants_an_end_and_ignores_what_follows_it():
    for constraint in (
        from_sequences([[3, 4]], eos_token_id=1, vocab_size=6),
        from_token_regex("<3><4>", eos_token_id=1, vocab_size=6),
    ):
        assert constraint.accepts([3, 4, 1])
        assert constraint.accepts(np.asarray([3, 4, 1, 0, 0, 99]))
        for ids in ([], [3, 4], [3, 1], [3, 4, 4], [1], [3, -2, 1], [3, 99, 1], [-1]):
            assert not constraint.accepts(ids)


def test_padding_to_a_bucket_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(5)
    sequences = random_sequences(rng, vocab_size=6, end=0)
    small, pattern = from_sequences(sequences, eos_token_id=0, vocab_size=6), "(a|b_){2,3}-?"
    small_dfa = from_regex(pattern, SPELLED, eos_token_id=0)
    for name in ("_LEAST_SIZE", "_LEAST_WINDOW"):
        monkeypatch.setattr(trie, name, 1000)
    for name in ("_LEAST_STATES", "_LEAST_CLASSES"):
        monkeypatch.setattr(dfa, name, 1000)
    large, large_dfa = (
        from_sequences(sequences, eos_token_id=0, vocab_size=6),
        from_regex(pattern, SPELLED, eos_token_id=0),
    )
    assert (large.edge_tokens.shape, large.window) == ((1000,), 1000)
    assert outputs(large, 6) == outputs(small, 6)
    assert large_dfa.transitions.shape == (1000, 1000)
    assert outputs(large_dfa, 8) == outputs(small_dfa, 8)
    assert (repr(large), repr(large_dfa)) == (repr(small), repr(small_dfa))


def test_constraints_of_one_bucket_shareprograms():
    step = jax.jit(lambda constraint, states: constraint.allowed(states, jnp.int32(5)))
    step(from_regex("a+b", SPELLED, eos_token_id=0), jnp.full(3, START, jnp.int32))
    step(from_regex(r"(\w{2}-){1,9}", SPELLED, eos_token_id=0), jnp.full(3, START, jnp.int32))
    step(from_token_regex(".<4>?", eos_token_id=2, vocab_size=8), jnp.full(3, START, jnp.int32))
    assert programs(step) == 1
    step(from_sequences([[1, 2], [1, 3]], eos_token_id=0, vocab_size=8), jnp.full(3, START, jnp.int32))
    step(from_sequences([[4], [4, 4, 4], [5, 6, 5], [7]], eos_token_id=2, vocab_size=8), jnp.full(3, START, jnp.int32))
    assert programs(step) == 2


def test_leaves_are_arrays_and_repr_survives_tracing():
    for constraint in constraints().values():
        assert all(isinstance(leaf, jax.Array) and leaf.dtype == jnp.int32 for leaf in jax.tree.leaves(constraint))
        assert "ShapeDtypeStruct" in repr(jax.eval_shape(lambda constraint=constraint: constraint))
        seen = []
        jax.make_jaxpr(lambda traced, seen=seen: seen.append(repr(traced)))(constraint)
        assert "i32[" in seen[0]


def test_distances_by_hand():
    # 0 -> 1 -> 2 -> 0, 1 -> 3 (accepting), 4 leads nowhere
    sources, targets = np.asarray([0, 1, 2, 1, 1]), np.asarray([1, 2, 0, 3, 3])
    least = least_to_end(sources, targets, np.asarray([False, False, False, True, False]))
    assert least.tolist() == [3, 2, 4, 1, 2**30]


def test_large_vocabularies_and_long_lists():
    rng = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789 .,"
    tokens: list[str | None] = [
        None,
        *dict.fromkeys("".join(rng.choices(letters, k=rng.randint(1, 7))) for _ in range(30_000)),
    ]
    pattern = r"[a-z ]{0,300}(\d+|x{3}y)\.?"
    constraint = from_regex(pattern, tokens, eos_token_id=0)
    assert constraint.vocab_size == len(tokens)
    first = np.asarray(allowed(constraint, constraint.start(1), jnp.int32(500)))[0]
    # what may begin a match, and what is one
    assert not first[0]
    for id_, token in enumerate(tokens[1:], start=1):
        assert first[id_] == bool(re.fullmatch(r"[a-z ]*(\d+\.?|x{3}y\.)?", token or "")), token
        assert constraint.accepts([id_, 0]) == bool(re.fullmatch(pattern, token or "")), token
    sequences = np.random.default_rng(0).integers(1, 50_000, (20_000, 6)).tolist()
    constraint = from_sequences(sequences, eos_token_id=0, vocab_size=50_000)
    assert constraint.accepts([*sequences[-1], 0])
    assert isinstance(constraint, TokenTrie)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("^a", r"position 0: anchors are not supported"),
        ("ab$", r"position 2: anchors"),
        ("a*?", r"position 2: lazy"),
        ("a{2}+", r"position 4: lazy"),
        ("b(a**)", r"position 2: a repetition cannot be repeated again directly"),
        ("a|*", r"position 2: there is nothing before \* to repeat"),
        ("a{,3}", r"position 1: expected \{m\}, \{m,\} or \{m,n\}"),
        ("a{x}", r"position 1: expected \{m\}"),
        ("a{3,2}", r"position 1: at least 3 and at most 2"),
        ("a(?=b)", r"position 1: of the groups that begin with \(\? only \(\?: \)"),
        ("(?P<n>a)", r"position 0: of the groups"),
        (r"(a)\1", r"position 3: \\1 is not supported"),
        (r"\ba", r"position 0: \\b is not supported"),
        ("a\\", r"position 1: \\ is not supported"),
        (r"\x6", r"position 0: expected 2 hexadecimal digits"),
        (r"\UFFFFFFFF", r"position 0: expected 8 hexadecimal digits"),
        ("(a", r"position 0: this \( is never closed"),
        ("a)", r"position 1: this \) closes nothing"),
        ("[ab", r"position 0: this \[ is never closed"),
        ("a[]", r"position 1: a class must hold something"),
        ("[b-a]", r"position 1: this range runs backwards"),
        (r"[\d-a]", r"position 1: a range needs a character on both sides"),
        ("(" * 200 + ")" * 200, r"position 50: more than 50 groups"),
        ("(a{100}){101}", r"10,100 symbols when its repetitions are written out; at most 10,000"),
        ("(a|b)*a(a|b){20}", r"too large: it needs an automaton of more than 10,000 states"),
        ("(a?b?){4999}", r"too large: too many of its symbols may stand at the same place"),
        ("a?" * 5000, r"too large: too many of its symbols may stand at the same place"),
        ("((a?){100}|(b?){50}){66}", r"too large: too many of its symbols may stand at the same place"),
        ("(" + "()" * 500 + "a){9999}", r"too large: too many of its symbols"),
        ("(" + "|" * 500 + "a){9999}", r"too large: too many of its symbols"),
        ("a{" + "9" * 9000 + "}", r"position 2: this number has 9,000 digits, at most 9 are read"),
        ("a" * 10**7, r"10,000,000 characters long; at most 200,000"),
    ],
    ids=lambda text: text[:30],
)
def test_what_is_not_understood_is_told_with_its_place_and_soon(pattern: str, message: str):
    began = time.process_time()
    with pytest.raises(ValueError, match=message) as raised:
        from_regex(pattern, SPELLED, eos_token_id=0)
    assert time.process_time() - began < SECONDS
    assert all(len(line) < 300 for line in str(raised.value).splitlines())


@pytest.mark.parametrize(
    ("pattern", "longest"),
    [
        ("(a?){9999}", 9999),
        ("(a{0,99}){0,99}", 99**2),
        ("((a?){90}){100}", 9000),
        ("(" * 50 + "a?" + "){1}" * 50, 1),
        ("[" + "ab0" * 10_000 + "]{9999}", 9999),
        ("[a-b]{0,9999}", 9999),
    ],
    ids=lambda value: str(value)[:30],
)
def test_repetitions_of_what_may_be_missing_are_built_soon(pattern: str, longest: int):
    began = time.process_time()
    constraint = from_regex(pattern, SPELLED, eos_token_id=0)
    assert time.process_time() - began < SECONDS
    a = SPELLED.index("a")
    assert constraint.accepts([*[a] * longest, 0])
    assert not constraint.accepts([*[a] * (longest + 1), 0])


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("<1>a", r"position 3: expected a token, as <17>"),
        ("<1", r"position 0: expected a token"),
        ("[<1>", r"position 0: this \[ is never closed"),
        ("[ ]", r"position 0: a class must hold something"),
        ("[<4>-<1>]", r"position 0: the range from 4 to 1 runs backwards"),
        ("<1><6>", r"position 3: the vocabulary has ids from 0 to 5"),
        ("<1><2>", r"position 3: 2 is an end token"),
        (r"<1>\d", r"position 3: expected a token"),
        ("[^<0>-<5>]", r"No output can be valid: nothing matches"),
    ],
)
def test_patterns_over_ids_are_judged(pattern: str, message: str):
    with pytest.raises(ValueError, match=message):
        from_token_regex(pattern, eos_token_id=2, vocab_size=6)


def test_a_pattern_that_the_vocabulary_cannot_spell_is_refused():
    with pytest.raises(ValueError, match=r"cannot spell .* No token has the characters \[xy\], z in its text"):
        from_regex("(a[xy])+z?z", SPELLED, eos_token_id=0)
    with pytest.raises(ValueError, match=r"cannot spell any text that matches `pattern`\.$"):
        from_regex("aab", [None, "aa", "bb"], eos_token_id=0)


@pytest.mark.usefixtures("unchecked")
def test_wrong_vocabularies_are_refused():
    with pytest.raises(TypeError, match=r"`tokens` must be a list with the text of each id in turn, got dict"):
        from_regex("a", {"a": 0}, eos_token_id=0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"`tokens\[1\]` must be a string, or None .*; got b'a'"):
        from_regex("a", ["a", b"a"], eos_token_id=0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="`tokens` is empty"):
        from_regex("a", [], eos_token_id=0)
    with pytest.raises(TypeError, match="`pattern` must be a string, got bytes"):
        from_regex(b"a", ["a", None], eos_token_id=1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="`eos_token_id` holds 2; expected ids from 0 to 1"):
        from_regex("a", ["a", None], eos_token_id=[1, 2])
    with pytest.raises(ValueError, match="`eos_token_id` is empty"):
        from_regex("a", ["a", None], eos_token_id=[])
    with pytest.raises(TypeError, match="`eos_token_id` must be an id or a list of ids, got True"):
        from_regex("a", ["a", None], eos_token_id=True)
    with pytest.raises(ValueError, match="`vocab_size` must be at least 1, got 0"):
        from_token_regex("<0>", eos_token_id=0, vocab_size=0)
    with pytest.raises(TypeError, match="`vocab_size` must be an integer"):
        from_token_regex("<0>", eos_token_id=0, vocab_size=6.0)  # pyright: ignore[reportArgumentType]
    for size in (10**9, 10**5000, 2**21 + 1):
        with pytest.raises(ValueError, match="`vocab_size` must be at most 2,097,152"):
            from_token_regex("<0>", eos_token_id=0, vocab_size=size)
        with pytest.raises(ValueError, match="`vocab_size` must be at most 2,097,152"):
            from_sequences([[1]], eos_token_id=0, vocab_size=size)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("array", [np.asarray, jnp.asarray, np.int64])
def test_sizes_and_ends_may_be_arrays_without_axes(array: Any):
    builders: list[tuple[Any, Any]] = [(from_token_regex, "<3>"), (from_sequences, [[3]])]
    for build, of in builders:
        constraint = build(of, eos_token_id=array(2), vocab_size=array(6))
        assert (constraint.vocab_size, constraint.end_ids) == (6, (2,))
        assert constraint.accepts([3, 2])


@pytest.mark.usefixtures("unchecked")
def test_wrong_sequences_are_refused():
    def build(sequences: object) -> None:
        from_sequences(sequences, eos_token_id=2, vocab_size=6)  # pyright: ignore[reportArgumentType]

    with pytest.raises(ValueError, match="`sequences` is empty"):
        build([])
    with pytest.raises(ValueError, match=r"`sequences\[1\]` holds 6; expected ids from 0 to 5"):
        build([[], [1, 6], [7]])
    with pytest.raises(ValueError, match=r"`sequences\[2\]` holds -1"):
        build([[1], [], [3, -1]])
    with pytest.raises(ValueError, match=r"`sequences\[2\]` holds the end token 2; .*add_special_tokens=False"):
        build([[1], [], [1, 2]])
    with pytest.raises(TypeError, match=r"`sequences\[0\]` is 1; expected a sequence of token ids"):
        build([1, 3])
    with pytest.raises(TypeError, match=r"`sequences\[0\]` is 'text'; expected a sequence of token ids"):
        build(["text"])
    with pytest.raises(TypeError, match="must hold sequences of integer ids; as an array they are float64"):
        build([[1.0]])


@pytest.mark.usefixtures("unchecked")
def test_wrong_tables_are_refused():
    table = np.asarray([[1, -1, -1], [1, 0, -1]])

    def build(table: np.ndarray = table, **changes: object) -> TokenDFA:
        return TokenDFA.from_dense(table, **{"accepting": [1], "eos_token_id": 2, **changes})

    assert build().least_new_tokens == 2
    with pytest.raises(TypeError, match=r"integer array \(states, vocab\), got float64 of shape \(2, 3\)"):
        build(table.astype(np.float64))
    with pytest.raises(ValueError, match=r"`next_state` holds 2; expected states from 0 to 1 \(or -1 for forbidden\)"):
        build(table + (table == 1))
    with pytest.raises(ValueError, match="`start` holds 5; expected states from 0 to 1"):
        build(start=5)
    with pytest.raises(TypeError, match=r"`accepting` must hold numbers of states, integers .*np.flatnonzero"):
        build(accepting=[False, True])
    with pytest.raises(ValueError, match="transitions for the end token 0; its column must be all -1"):
        build(eos_token_id=0)
    with pytest.raises(ValueError, match="No output can be valid: no way leads from the state `start`"):
        build(accepting=[])
