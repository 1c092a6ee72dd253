"""The demo's fine-tuning: its settings, its optimiser, the run itself, and pronouncing words with the result.

Uses only the library's public names, as a user's script would. Must not print: progress goes to a callback.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import optax

from encdec_eqx import EncoderDecoder
from encdec_eqx.training import init_train_state, make_train_step

from .batches import Bucket, TrainingData, encode_words
from .lexicon import Lexicon, Pronunciation, fixed_sample
from .metrics import ErrorRates, error_rates
from .muon import muon
from .vocabulary import decode_pronunciation

SOURCE_WIDTHS = (16, 32)
"""Widths words are padded to when they are pronounced, the end mark included: few, so that few programs are
compiled."""

MAX_LETTERS = SOURCE_WIDTHS[-1] - 1
_MAX_PHONEMES = 31
_ROWS, _FEW = 256, 16


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the result of a fine-tuning run.

    Attributes:
        steps: optimiser steps: about a minute on two quiet CPU cores.
        learning_rate: the peak of Muon's, for the matrices of the layers.
        buckets: shapes of the training batches.
        seed: order of the training words.
        evaluate_every: steps from one development error rate to the next.
        dev_words: how many development words those error rates are taken over.
        time_limit: seconds after which training stops early, before all steps are taken.
    """

    steps: int = 280
    learning_rate: float = 0.02
    buckets: tuple[Bucket, ...] = (
        Bucket(source=8, target=7, rows=192),
        Bucket(source=10, target=9, rows=144),
        Bucket(source=16, target=15, rows=96),
    )
    seed: int = 0
    evaluate_every: int = 85
    dev_words: int = 256
    time_limit: float = 90.0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What is known after a step.

    Attributes:
        step: steps taken.
        loss: mean cross-entropy of the last few steps, in nats a phoneme.
        tokens_per_second: letters and phonemes a second, padding not counted, compilation and evaluation not either.
        dev: the newest development error rates, if there are any.
    """

    step: int
    loss: float
    tokens_per_second: float
    dev: ErrorRates | None


@dataclass(frozen=True, kw_only=True)
class FineTuned:
    """A finished run.

    Attributes:
        model: the trained model.
        steps: steps taken; fewer than the recipe's if the time limit stopped it.
        compile_seconds: time spent compiling the training step.
        train_seconds: time spent in steps (evaluation on the development words not counted).
    """

    model: EncoderDecoder
    steps: int
    compile_seconds: float
    train_seconds: float


def training_pairs(lexicon: Lexicon) -> list[tuple[str, Pronunciation]]:
    """Each training word with its first pronunciation."""
    return [(word, lexicon.pronunciations[word][0]) for word in lexicon.words("train")]


def finetune(
    model: EncoderDecoder,
    lexicon: Lexicon,
    recipe: Recipe,
    *,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> FineTuned:
    """Fine-tune `model` on the training words.

    Args:
        model: a character encoder joined to a phoneme decoder.
        lexicon: the dictionary; its training and development words are used, never its test words.
        recipe: the settings.
        on_progress: called after every step.
    """
    data = TrainingData(training_pairs(lexicon), recipe.buckets)
    dev = fixed_sample(lexicon.words("dev"), recipe.dev_words)
    optimizer = muon(recipe.learning_rate, steps=recipe.steps)
    step = make_train_step(optimizer)
    compile_seconds = _compile(step, model, optimizer, data)
    state = init_train_state(model, optimizer)
    clock = _Clock()
    rates = None
    for batch in data.batches(seed=recipe.seed):
        with clock.running(batch):
            state, metrics = step(state, batch, None)
            clock.losses.append(float(metrics["loss"]))
        taken = len(clock.losses)
        if taken % recipe.evaluate_every == 0 and taken < recipe.steps:
            rates = evaluate(state.model, lexicon, dev)
        on_progress(clock.progress(rates))
        if taken == recipe.steps or clock.seconds > recipe.time_limit:
            break
    return FineTuned(
        model=state.model,
        steps=len(clock.losses),
        compile_seconds=compile_seconds,
        train_seconds=clock.seconds,
    )


def pronounce(model: EncoderDecoder, words: Sequence[str]) -> list[Pronunciation]:
    """The model's pronunciation of each word, by greedy decoding.

    Raises:
        WordError: a word that cannot be read.
    """
    spoken: dict[int, Pronunciation] = {}
    for width, places in _by_width(words).items():
        for start in range(0, len(places), _ROWS):
            chosen = places[start : start + _ROWS]
            spoken |= zip(chosen, _pronounce_batch(model, [words[i] for i in chosen], width), strict=True)
    return [spoken[i] for i in range(len(words))]


def evaluate(model: EncoderDecoder, lexicon: Lexicon, words: Sequence[str]) -> ErrorRates:
    """Error rates of greedy pronunciations of some of the dictionary's words."""
    return error_rates(pronounce(model, words), [lexicon.pronunciations[word] for word in words])


def same_ids(left: EncoderDecoder, right: EncoderDecoder, words: Sequence[str]) -> bool:
    """Whether two models generate the same ids for one batch of the words that fit the narrowest width."""
    short = [word for word in words if len(word) < SOURCE_WIDTHS[0]][:_ROWS]
    inputs = encode_words(short, width=SOURCE_WIDTHS[0], rows=_rows(short))
    first, second = (model.generate(**inputs, max_new_tokens=_MAX_PHONEMES).sequences for model in (left, right))
    return np.array_equal(first, second)


def _by_width(words: Sequence[str]) -> dict[int, list[int]]:
    """Places of the words, by the width each is padded to; too long ones go to the widest and fail there."""
    places: dict[int, list[int]] = {}
    for place, word in enumerate(words):
        width = next((w for w in SOURCE_WIDTHS if len(word) < w), SOURCE_WIDTHS[-1])
        places.setdefault(width, []).append(place)
    return places


def _rows(words: Sequence[str]) -> int:
    """Rows that a batch of words is filled up to: one of two sizes, so that few programs are compiled."""
    return _ROWS if len(words) > _FEW else _FEW


def _pronounce_batch(model: EncoderDecoder, words: Sequence[str], width: int) -> list[Pronunciation]:
    result = model.generate(**encode_words(words, width=width, rows=_rows(words)), max_new_tokens=_MAX_PHONEMES)
    return [decode_pronunciation(row) for row in result.sequences[: len(words)].tolist()]


def _compile(step: Any, model: EncoderDecoder, optimizer: optax.GradientTransformation, data: TrainingData) -> float:
    """Take a step of each shape with a state that is thrown away, so that the run's clock counts no compilation."""
    start = time.perf_counter()
    state = init_train_state(model, optimizer)
    for batch in data.one_of_each_shape():
        state, _ = step(state, batch, None)
    jax.block_until_ready(state.step)
    return time.perf_counter() - start


@dataclass
class _Clock:
    """Time spent in steps, and what they saw."""

    seconds: float = 0.0
    tokens: int = 0
    losses: list[float] = field(default_factory=list)
    _start: float = 0.0

    def running(self, batch: dict[str, np.ndarray]) -> "_Clock":
        self.tokens += int(batch["attention_mask"].sum()) + int((batch["labels"] >= 0).sum())
        return self

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._start

    def progress(self, dev: ErrorRates | None) -> Progress:
        recent = self.losses[-20:]
        return Progress(
            step=len(self.losses),
            loss=sum(recent) / len(recent),
            tokens_per_second=self.tokens / self.seconds,
            dev=dev,
        )
