"""`encdec-eqx generate`: texts of arguments, a file or a pipe to texts on stdout or in a file."""

import argparse
import contextlib
import importlib.util
import json
import math
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import whole_number

if TYPE_CHECKING:
    from ..text import TextToText
    from ..text.lines import LineReader

DESCRIPTION = (
    "Writes what a model generates for texts: those that are given, the lines of a file, or the lines of stdin, which "
    "may come without end. A line for a line, in their order; a blank line stays blank."
)

_BATCHES = 16  # of a portion: enough to put texts of one length together, few enough to be held
_QUIET_SECONDS = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    from .generation_options import add_generation_options

    parser.usage = "%(prog)s [options] MODEL [TEXT ...]"
    parser.add_argument("model", metavar="MODEL", help="folder or Hub id of a saved pair with its two tokenizers")
    parser.add_argument("text", nargs="*", metavar="TEXT", help="a source; default: the lines of --input")
    parser.add_argument("--input", metavar="FILE", help="UTF-8, a source per line; - is stdin (default)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: stdout")
    parser.add_argument(
        "--jsonl",
        action="store_true",
        help="write a JSON object per output: index of its source, source, generated_text, score, finish_reason",
    )
    parser.add_argument(
        "--batch-size", type=whole_number(1, 2**20), default=32, metavar="N", help="texts at once (default: 32)"
    )
    parser.add_argument(
        "--max-source-length",
        type=whole_number(1, 2**31 - 1),
        metavar="N",
        help="most tokens of a source; longer ones are cut (default: what the encoder can read)",
    )
    parser.add_argument(
        "--source-tokenizer", metavar="PATH", help="folder, tokenizer.json or Hub id, for a model without"
    )
    parser.add_argument("--target-tokenizer", metavar="PATH", help="the same for what is generated")
    parser.add_argument(
        "--src-lang", metavar="CODE", help="language of the sources, of a model of several: eng_Latn, ..."
    )
    parser.add_argument("--tgt-lang", metavar="CODE", help="language of the outputs")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the arrays")
    parser.add_argument("--seed", type=whole_number(0, 2**32 - 1), metavar="N", help="of sampling (default: 0)")
    parser.add_argument(
        "--constraint",
        metavar="KIND:VALUE",
        help="only outputs of a list, choices:FILE (one per line), or of a pattern, regex:PATTERN",
    )
    parser.add_argument(
        "--assistant-model",
        metavar="PATH",
        help="small pair or decoder that proposes tokens: the same outputs, faster",
    )
    add_generation_options(parser)


def run(chosen: argparse.Namespace) -> int:
    """Generate."""
    from .._writing import open_growing
    from .generation_options import given_options, speaking_options

    with contextlib.ExitStack() as stack:
        stack.enter_context(speaking_options())
        options = given_options(chosen)
        _check(chosen)
        choices = _read_constraint(chosen.constraint)
        reader = None if chosen.text else stack.enter_context(_reader(chosen.input))
        write = _print
        if chosen.output is not None:
            write = stack.enter_context(open_growing(chosen.output, "--output"))
        speaker = _load(chosen)
        options |= {"key": _key(chosen, options, speaker)}
        if chosen.assistant_model is not None:
            options["assistant_model"] = _load_assistant(chosen.assistant_model, chosen.dtype)
        if choices is not None:
            options["constraint"] = choices(speaker)
        portions = [chosen.text] if reader is None else reader.portions(chosen.batch_size * _BATCHES)
        _write_all(speaker, portions, write, chosen, options, reader)
    return 0


def _check(chosen: argparse.Namespace) -> None:
    if chosen.text and chosen.input is not None:
        raise ValueError("--input and texts among the arguments are two sources: leave one out.")
    if blank := [text for text in chosen.text if not text.strip()]:
        raise ValueError(f"a text among the arguments is blank: {blank[0]!r}.")
    if (chosen.source_tokenizer is None) != (chosen.target_tokenizer is None):
        raise ValueError("--source-tokenizer and --target-tokenizer go together: give both, or neither.")


def _read_constraint(said: str | None) -> "Callable[[TextToText], Any] | None":
    """What makes the constraint of a model; a file is read here, before the model is."""
    if said is None:
        return None
    from ..text import constrain_to_pattern, constrain_to_texts

    kind, _, value = said.partition(":")
    if kind == "regex" and value:
        return lambda speaker: constrain_to_pattern(speaker, value)
    if kind == "choices" and value:
        with _reader(value) as reader:
            texts = reader.texts()
        if not texts:
            raise ValueError(f"--constraint: {value} has no output in it; expected one per line.")
        return lambda speaker: constrain_to_texts(speaker, texts)
    raise ValueError(f"--constraint is {said!r}; expected choices:FILE or regex:PATTERN.")


@contextlib.contextmanager
def _reader(path: str | None) -> "Iterator[LineReader]":
    from ..text.lines import LineReader

    if path in (None, "-"):
        if sys.stdin.isatty():
            print("encdec-eqx: reading a text per line; Ctrl-D ends.", file=sys.stderr)
        yield LineReader(sys.stdin.buffer, "stdin")
        return
    with Path(path).open("rb") as file:
        yield LineReader(file, path)


def _load(chosen: argparse.Namespace) -> "TextToText":
    from ..encoder_decoder import EncoderDecoder
    from ..text import TextToText, TokenizerPair

    languages = {"src_lang": chosen.src_lang, "tgt_lang": chosen.tgt_lang}
    if chosen.source_tokenizer is not None:
        tokenizers = TokenizerPair.from_pretrained(chosen.source_tokenizer, chosen.target_tokenizer)
        if any(languages.values()):
            tokenizers = tokenizers.with_languages(**languages)
        return TextToText(EncoderDecoder.from_pretrained(chosen.model, dtype=chosen.dtype), tokenizers)
    try:
        return TextToText.from_pretrained(chosen.model, **languages, dtype=chosen.dtype)
    except FileNotFoundError as error:
        if not Path(chosen.model).is_dir() and "there is no folder" in str(error):
            raise
        raise FileNotFoundError(
            f"{chosen.model} has no tokenizers, which turn texts into ids: name them with --source-tokenizer and "
            "--target-tokenizer, each a folder, a tokenizer.json or a Hub id, such as those of the two pieces that it "
            f"was made of. ({str(error).partition('. ')[0]}.)"
        ) from None


def _load_assistant(path: str, dtype: str) -> Any:
    from ..decoder import Decoder
    from ..encoder_decoder import EncoderDecoder
    from ..inspection import inspect_checkpoint

    both = inspect_checkpoint(path).kind in ("pair", "whole")
    return (EncoderDecoder if both else Decoder).from_pretrained(path, dtype=dtype)


def _key(chosen: argparse.Namespace, options: dict[str, Any], speaker: "TextToText") -> Any:
    import jax

    samples = options.get("do_sample")
    if samples is None:
        samples = getattr(speaker.model.generation_config, "do_sample", None)
    if chosen.seed is not None and not samples:
        raise ValueError("--seed draws nothing without sampling: add --do-sample, or leave it out.")
    return jax.random.key(chosen.seed or 0) if samples else None


def _write_all(
    speaker: "TextToText",
    portions: Iterable[Sequence[str]],
    write: Callable[[str], None],
    chosen: argparse.Namespace,
    options: dict[str, Any],
    reader: "LineReader | None",
) -> None:
    """What is generated for each portion, written before the next one is read."""
    pending: list[Sequence[str]] = []  # the portion that is being worked on
    index = 0

    def written(lines: Sequence[str], outputs: Iterator[list[dict[str, Any]]]) -> None:
        nonlocal index
        write("".join(f"{line}\n" for line in _lines(lines, outputs, chosen.jsonl, index)))
        index += len(lines)

    def without_blanks() -> Iterator[list[str]]:
        for lines in portions:
            if texts := [line for line in lines if line.strip()]:
                pending.append(lines)
                yield texts
            else:
                written(lines, iter(()))

    sizes = {"batch_size": chosen.batch_size, "max_source_length": chosen.max_source_length}
    with _progress(chosen, reader) as update:
        for result in speaker.generate_in_portions(without_blanks(), **sizes, **options):
            written(pending.pop(), _outputs(result))
            update(index)


def _outputs(result: Any) -> Iterator[list[dict[str, Any]]]:
    """Of every text what was generated, the best first."""
    cut = set(result.truncated_sources)
    for at, texts in enumerate(result.texts):
        yield [
            {
                "generated_text": text,
                "score": float(score) if math.isfinite(score) else None,
                "finish_reason": "length" if unfinished else "eos",
                **({"source_truncated": True} if at in cut else {}),
            }
            for text, score, unfinished in zip(texts, result.scores[at], result.unfinished[at], strict=True)
        ]


def _lines(sources: Sequence[str], outputs: Iterator[list[dict[str, Any]]], as_json: bool, first: int) -> Iterator[str]:
    for index, source in enumerate(sources, first):
        made = next(outputs) if source.strip() else [{"generated_text": "", "score": None, "finish_reason": None}]
        for one in made:
            if as_json:
                yield json.dumps({"index": index, "source": source, **one}, ensure_ascii=False)
            else:  # a line per output, whatever it holds
                yield " ".join(one["generated_text"].splitlines())


def _print(text: str) -> None:
    print(text, end="", flush=True)


@contextlib.contextmanager
def _progress(chosen: argparse.Namespace, reader: "LineReader | None") -> Iterator[Callable[[int], None]]:
    """A bar on stderr if that is a terminal, the outputs go elsewhere, and a second has passed; what moves it."""
    shown = sys.stderr.isatty() and (chosen.output is not None or not sys.stdout.isatty())
    if not shown or importlib.util.find_spec("rich") is None:
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    total = len(chosen.text) if reader is None else reader.size
    task = bar.add_task("0 texts", total=total)
    timer = threading.Timer(_QUIET_SECONDS, bar.start)
    timer.start()

    def update(count: int) -> None:
        bar.update(task, completed=count if reader is None else reader.consumed, description=f"{count:,} texts")

    try:
        yield update
    finally:
        timer.cancel()
        bar.stop()
