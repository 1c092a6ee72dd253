"""The demo from beginning to end: load, join, fine-tune, pronounce, score, save, reload.

Reads as the tour of the library that it is. Knows no details of any part.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from encdec_eqx import EncoderDecoder

from .lexicon import fixed_sample, load_lexicon
from .metrics import ErrorRates, error_rates
from .pieces import join, load_pieces, load_trained, random_pieces
from .recipe import MAX_LETTERS, Recipe, finetune, pronounce, same_ids
from .show import Show
from .vocabulary import WordError, encode_word

TEST_WORDS = 2000
"""Held-out words that are scored: a fixed sample of the test split, small enough for the demo's two minutes."""

_SHOWN = 12
_NUMBERS = "demo.json"


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What a run found.

    Attributes:
        test: error rates on the held-out words.
        steps: training steps taken.
        folder: where the model was saved.
        seconds: the whole run, compilation included.
        reload_agrees: whether the reloaded model generated the same ids.
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
        output: folder for the saved model; may hold an earlier demo's.
        console: where to print.
        recipe: settings of the fine-tuning; default: those of the published numbers.
        cold: start from random pieces instead of the pretrained ones, all else equal.
        seed: draws whatever is new: cross-attention and projection, or, for a cold start, everything.
        test_words: held-out words to score.

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
    show.rates("Held-out words", rates)

    show.heading("4. Saved in Hugging Face's format, and loaded back")
    model.save_pretrained(output)
    (output / _NUMBERS).write_text(
        json.dumps({"steps": run.steps, "cold": cold, "seed": seed, "test": asdict(rates)}, indent=2) + "\n"
    )
    agrees = same_ids(model, EncoderDecoder.from_pretrained(output), held_out)
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
        words: what to pronounce.
        folder: holds the model of an earlier demo; default: the package's own, trained to the end.
        console: where to print.

    Raises:
        WordError: none of the words can be read; before any work is done.
        ValueError: no words, or `folder` holds no demo's model.
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
    show.pronunciations(readable, pronounce(model, readable))
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
        ValueError: a file, or a folder with files that no demo wrote.
    """
    if folder.is_file():
        raise ValueError(f"--output {folder} is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()) and not is_demo_folder(folder):
        raise ValueError(f"--output {folder} holds files that are not an earlier demo's; give an empty or new folder")
