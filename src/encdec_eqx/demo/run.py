"""The demo from beginning to end: load, join, fine-tune with `fit`, pronounce, score, save, reload.

Uses the library's public names, as a user's script would, but for what keeps Ctrl-C from leaving anything behind.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from encdec_eqx import EncoderDecoder
from encdec_eqx.training import Callback, EvaluationEvent, Example, StartEvent, StepEvent, TrainConfig, fit
from encdec_eqx.training.metrics import score

from .._signals import keeping_nothing
from .._writing import in_one_go, temporary_folder, write_whole
from .lexicon import (
    Lexicon,
    Pronunciation,
    WordError,
    decode_pronunciation,
    encode_pronunciation,
    encode_word,
    fixed_sample,
    load_lexicon,
)
from .pieces import encode_words, join, load_pieces, load_trained, random_pieces

TEST_WORDS = 2000
"""Held-out words that are scored: a fixed sample of the test split, small enough for the demo's two minutes."""

SOURCE_WIDTHS = (16, 32)
"""Widths words are padded to when they are pronounced, EOS included: few, so that few programs are compiled."""

MAX_LETTERS = SOURCE_WIDTHS[-1] - 1
_MAX_PHONEMES = 31
_TRAIN_LETTERS, _TRAIN_PHONEMES = 15, 14  # longer pairs, one in four hundred, would need wider batches
_ROWS, _FEW = 256, 16
_SHOWN = 12
_NUMBERS = "demo.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the result of a fine-tuning run.

    Attributes:
        steps: Optimizer steps: about a minute on two quiet CPU cores.
        learning_rate: The peak of Muon's, for the matrices of the layers.
        tokens_per_batch: Letters and phonemes of a step, with their padding.
        seed: Order of the training words.
        evaluate_every: Steps from one development error rate to the next.
        dev_words: How many development words those error rates are taken over.
        time_limit: Seconds of training after which it stops early, before all steps are taken.
    """

    steps: int = 280
    learning_rate: float = 8e-3
    tokens_per_batch: int = 3300
    seed: int = 0
    evaluate_every: int = 85
    dev_words: int = 256
    time_limit: float = 90.0

    def config(self, output_dir: Path) -> TrainConfig:
        """The settings of `fit`."""
        return TrainConfig(
            output_dir=output_dir,
            max_steps=self.steps,
            tokens_per_batch=self.tokens_per_batch,
            max_shapes=4,
            optim="muon",
            learning_rate=self.learning_rate,
            learning_rates={"embeddings | bias | norm": 3e-3},
            adam_beta2=0.98,
            warmup_ratio=0.05,
            max_grad_norm=None,
            eval_steps=self.evaluate_every,
            per_device_eval_batch_size=_ROWS,
            predict_with_generate=False,
            save_steps=self.steps,
            seed=self.seed,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ErrorRates:
    """Errors over a set of words.

    Attributes:
        phoneme: Edits (substitutions, insertions, deletions) divided by the reference phonemes.
        word: Fraction of the words whose pronunciation is not one of the accepted ones.
        words: How many words were scored.
    """

    phoneme: float
    word: float
    words: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepProgress:
    """What is known after a step.

    Attributes:
        step: Steps taken.
        loss: Mean cross-entropy of the last few steps, in nats per phoneme.
        tokens_per_second: Letters and phonemes per second, padding not counted, compilation and evaluation not either.
        dev: The newest development error rates, if there are any.
    """

    step: int
    loss: float
    tokens_per_second: float
    dev: ErrorRates | None


class _Watch(Callback):
    """Shows each step, pronounces development words at evaluations, and ends the run at the time limit."""

    def __init__(self, recipe: Recipe, score: Callable[[Any], ErrorRates], show: Callable[[StepProgress], None]):
        self._recipe, self._score, self._show = recipe, score, show
        self._shapes: set[tuple[int, ...]] = set()
        self._losses: list[float] = []
        self._dev: ErrorRates | None = None
        self._tokens, self._mark = 0, time.perf_counter()
        self.compile_seconds = self.train_seconds = 0.0

    def on_start(self, event: StartEvent) -> None:
        self._mark = time.perf_counter()

    def on_step(self, event: StepEvent) -> bool:
        self._losses.append(float(event.metrics["loss"]))  # waits for the step
        now, shape = time.perf_counter(), event.batch["input_ids"].shape
        if shape in self._shapes:
            self.train_seconds += now - self._mark
            self._tokens += int(event.batch["attention_mask"].sum()) + int((event.batch["labels"] >= 0).sum())
        else:
            self.compile_seconds += now - self._mark
        self._shapes.add(shape)
        recent = self._losses[-20:]
        speed = self._tokens / max(self.train_seconds, 1e-9)
        self._show(
            StepProgress(step=event.step, loss=sum(recent) / len(recent), tokens_per_second=speed, dev=self._dev)
        )
        self._mark = time.perf_counter()
        return self.train_seconds >= self._recipe.time_limit

    def on_evaluation(self, event: EvaluationEvent) -> None:
        self._dev = self._score(event.model.with_layout("unrolled"))
        self._mark = time.perf_counter()


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTuned:
    """A finished run.

    Attributes:
        model: The trained model.
        steps: Steps taken; fewer than the recipe's if the time limit stopped it.
        compile_seconds: Time spent in the first step of each shape, most of it compiling.
        train_seconds: Time spent in the other steps (evaluation on the development words not counted).
    """

    model: EncoderDecoder
    steps: int
    compile_seconds: float
    train_seconds: float


def finetune(
    model: EncoderDecoder,
    lexicon: Lexicon,
    recipe: Recipe,
    *,
    on_progress: Callable[[StepProgress], None] = lambda _: None,
) -> FineTuned:
    """Fine-tune `model` on the training words.

    Args:
        model: A character encoder joined to a phoneme decoder.
        lexicon: The dictionary; its training and development words are used, never its test words.
        recipe: The settings.
        on_progress: Called after every step.
    """
    dev = fixed_sample(lexicon.words("dev"), recipe.dev_words)
    watch = _Watch(recipe, lambda trained: evaluate(trained, lexicon, dev), on_progress)
    with temporary_folder() as folder, keeping_nothing():
        result = fit(
            model,
            [_example(word, said) for word, said in training_pairs(lexicon)],
            recipe.config(folder),
            eval_data=[_example(word, lexicon.pronunciations[word][0]) for word in dev],
            console=Console(quiet=True),
            callbacks=[watch],
        )
    return FineTuned(
        model=result.model,
        steps=result.step,
        compile_seconds=watch.compile_seconds,
        train_seconds=watch.train_seconds,
    )


def training_pairs(lexicon: Lexicon) -> list[tuple[str, Pronunciation]]:
    """Each training word with its first pronunciation, but for the longest."""
    pairs = [(word, lexicon.pronunciations[word][0]) for word in lexicon.words("train")]
    return [(word, said) for word, said in pairs if len(word) <= _TRAIN_LETTERS and len(said) <= _TRAIN_PHONEMES]


def _example(word: str, said: Pronunciation) -> Example:
    ids = encode_word(word, max_letters=MAX_LETTERS)
    return Example(input_ids=np.array(ids, np.int32), labels=np.array(encode_pronunciation(said), np.int32))


def pronounce(model: EncoderDecoder, words: Sequence[str]) -> list[Pronunciation]:
    """The model's pronunciation of each word, by greedy decoding.

    Raises:
        WordError: A word that cannot be read.
    """
    places: dict[int, list[int]] = {}
    for place, word in enumerate(words):  # too long ones go to the widest and fail there
        width = next((w for w in SOURCE_WIDTHS if len(word) < w), SOURCE_WIDTHS[-1])
        places.setdefault(width, []).append(place)
    spoken: dict[int, Pronunciation] = {}
    for width, of_width in places.items():
        for start in range(0, len(of_width), _ROWS):
            chosen = of_width[start : start + _ROWS]
            ids = _generated(model, [words[at] for at in chosen], width)
            spoken |= zip(chosen, map(decode_pronunciation, ids.tolist()), strict=True)
    return [spoken[at] for at in range(len(words))]


def _generated(model: EncoderDecoder, words: Sequence[str], width: int) -> np.ndarray:
    """Ids for one batch, padded to one of two sizes: few programs are compiled."""
    inputs = encode_words(words, width=width, rows=_ROWS if len(words) > _FEW else _FEW)
    return np.asarray(model.generate(**inputs, max_new_tokens=_MAX_PHONEMES).sequences)[: len(words)]


def evaluate(model: EncoderDecoder, lexicon: Lexicon, words: Sequence[str]) -> ErrorRates:
    """Error rates of greedy pronunciations of some of the dictionary's words."""
    return error_rates(pronounce(model, words), [lexicon.pronunciations[word] for word in words])


def error_rates(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> ErrorRates:
    """Score each prediction against the closest of its accepted pronunciations (of equally close ones, the first).

    Raises:
        ValueError: No words, as many references as predictions are not given, or a word without a reference.
    """
    texts = [" ".join(prediction) for prediction in predictions]
    found = score(("per", "ser"), texts, [[" ".join(one) for one in accepted] for accepted in references])
    return ErrorRates(phoneme=found["per"] / 100, word=found["ser"] / 100, words=len(texts))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What a run found.

    Attributes:
        test: Error rates on the held-out words.
        steps: Training steps taken.
        folder: Where the model was saved.
        seconds: The whole run, compilation included.
        reload_agrees: Whether the reloaded model generated the same ids.
    """

    test: ErrorRates
    steps: int
    folder: Path
    seconds: float
    reload_agrees: bool


def run_demo(
    output: Path,
    *,
    console: Console,
    recipe: Recipe | None = None,
    cold: bool = False,
    seed: int = 0,
    test_words: int = TEST_WORDS,
) -> DemoResult:
    """Fine-tune the pair on English spelling → pronunciation, show what it learned, save it and load it back.

    Args:
        output: Folder for the saved model; may hold an earlier demo's.
        console: Where to print.
        recipe: Settings of the fine-tuning; default: those of the published numbers.
        cold: Start from random pieces instead of the pretrained ones, all else equal.
        seed: Draws whatever is new: cross-attention and projection, or, for a cold start, everything.
        test_words: Held-out words to score.

    Raises:
        ValueError: `output` is a folder of something else.
    """
    check_output(output)
    start = time.perf_counter()
    show, recipe = Show(console), recipe or Recipe()

    show.heading("1. Two pieces" + (" with random weights (cold start)" if cold else ", pretrained apart"))
    encoder, decoder = random_pieces(seed=seed) if cold else load_pieces(seed=seed)
    model = join(encoder, decoder, seed=seed)
    show.text(model.load_report)

    show.heading("2. Fine-tuning the pair: English spelling → pronunciation (CMUdict)")
    lexicon = load_lexicon()
    with show.training(recipe) as bar:
        run = finetune(model, lexicon, recipe, on_progress=bar)
    show.finished(run, recipe)
    model = run.model

    show.heading("3. Words it has never seen")
    held_out = fixed_sample(lexicon.words("test"), test_words)
    said = pronounce(model, held_out)
    show.comparison(held_out[:_SHOWN], said[:_SHOWN], lexicon.pronunciations)
    rates = error_rates(said, [lexicon.pronunciations[word] for word in held_out])
    show.text(
        f"Held-out words: phoneme error rate {rates.phoneme:.2%}, word error rate {rates.word:.2%} "
        f"({rates.words} words)."
    )

    show.heading("4. Saved in Hugging Face's format, and loaded back")
    numbers = {"steps": run.steps, "cold": cold, "seed": seed, "test": dataclasses.asdict(rates)}
    with in_one_go():
        model.save_pretrained(output)
        write_whole(output / _NUMBERS, (json.dumps(numbers, indent=2) + "\n").encode())
    short = [word for word in held_out if len(word) < SOURCE_WIDTHS[0]][:_ROWS]
    ours, reloaded = (
        _generated(one, short, SOURCE_WIDTHS[0]) for one in (model, EncoderDecoder.from_pretrained(output))
    )
    agrees = np.array_equal(ours, reloaded)
    show.text(f"Saved in {output}: config.json, generation_config.json, model.safetensors.")
    show.text(
        "The reloaded model generates the same ids for held-out words."
        if agrees
        else "The reloaded model generates DIFFERENT ids: please report this."
    )
    seconds = time.perf_counter() - start
    show.text(f"{seconds:.0f} s in all.")
    return DemoResult(test=rates, steps=run.steps, folder=output, seconds=seconds, reload_agrees=agrees)


def say_words(words: Sequence[str], folder: Path | None = None, *, console: Console) -> None:
    """Pronounce the user's words.

    Args:
        words: What to pronounce.
        folder: Holds the model of an earlier demo; default: the package's own, trained to the end.
        console: Where to print.

    Raises:
        WordError: None of the words can be read; before any work is done.
        ValueError: No words, or `folder` holds no demo's model.
    """
    if not words:
        raise ValueError('there are no words to pronounce: give some, as in --words "hello world"')
    readable, errors = _readable(words)
    if not readable:
        raise errors[0] if len(errors) == 1 else ValueError("; ".join(map(str, errors)))
    if folder is not None and not is_demo_folder(folder):
        raise ValueError(
            f"{folder} holds no model of a demo: run encdec-eqx demo --output {folder} first, or leave --output out "
            "for the package's own model"
        )
    show = Show(console)
    model = load_trained() if folder is None else EncoderDecoder.from_pretrained(folder)
    show.heading("Your words, by the " + ("package's own model" if folder is None else f"model in {folder}"))
    said = map(" ".join, pronounce(model, readable))
    show.table(("word", "pronunciation (ARPAbet, without stress)"), zip(readable, said, strict=True))
    for error in errors:
        show.text(error)


def _readable(words: Sequence[str]) -> tuple[list[str], list[WordError]]:
    """The words that can be read, and what is wrong with the others."""
    readable: list[str] = []
    errors: list[WordError] = []
    for word in words:
        try:
            encode_word(word, max_letters=MAX_LETTERS)
        except WordError as error:
            errors.append(error)
        else:
            readable.append(word)
    return readable, errors


def is_demo_folder(folder: Path) -> bool:
    """Whether an earlier demo saved its model there."""
    return (folder / _NUMBERS).is_file() and (folder / "model.safetensors").is_file()


def check_output(folder: Path) -> None:
    """Refuse to write into a place that holds something else.

    Raises:
        ValueError: A file, or a folder with files that no demo wrote.
    """
    if folder.is_file():
        raise ValueError(f"--output {folder} is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()) and not is_demo_folder(folder):
        raise ValueError(f"--output {folder} holds files that are not an earlier demo's; give an empty or new folder")


class Show:
    """What the demo prints; give it a `rich.console.Console` to write to."""

    def __init__(self, console: Console):
        self._console = console

    def heading(self, text: str) -> None:
        """Announce the next part."""
        self._console.print(f"\n[bold]{text}[/bold]")

    def text(self, text: object) -> None:
        """Plain lines, not marked up or coloured."""
        self._console.print(str(text), markup=False, highlight=False, soft_wrap=True)

    def table(self, head: Sequence[str], rows: Any) -> None:
        """Rows below their headings."""
        table = Table(*head)
        for row in rows:
            table.add_row(*row)
        self._console.print(table)

    @contextlib.contextmanager
    def training(self, recipe: Recipe) -> Iterator[Callable[[StepProgress], None]]:
        """A progress bar for a fine-tuning run; yields what shows a step."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task("compiling  ", total=recipe.steps, numbers="")

            def show(at: StepProgress) -> None:
                dev = "" if at.dev is None else f"  dev phoneme errors {at.dev.phoneme:.1%}"
                numbers = f"loss {at.loss:.3f}  {at.tokens_per_second:,.0f} tokens/s{dev}"
                progress.update(task, description="fine-tuning", completed=at.step, numbers=numbers)

            yield show

    def finished(self, run: FineTuned, recipe: Recipe) -> None:
        """How long training took, and whether it was cut short."""
        self.text(f"{run.steps} steps in {run.train_seconds:.0f} s, after {run.compile_seconds:.0f} s of compiling.")
        if run.steps < recipe.steps:
            self.text(
                f"This machine was too slow or too busy: training stopped after {recipe.time_limit:.0f} s, before its "
                f"learning rate had come down. The error rates below, of {run.steps} of {recipe.steps} steps, are "
                "worse than the published ones."
            )

    def comparison(
        self, words: Sequence[str], said: Sequence[Pronunciation], accepted: Mapping[str, Sequence[Pronunciation]]
    ) -> None:
        """Words beside what the model and the dictionary say."""
        rows = []
        for word, phonemes in zip(words, said, strict=True):
            truth = " | ".join(" ".join(variant) for variant in accepted[word])
            mark = "[green]right[/green]" if phonemes in accepted[word] else "[red]wrong[/red]"
            rows.append((word, " ".join(phonemes), truth, mark))
        self.table(("word", "the model says", "the dictionary says", ""), rows)
