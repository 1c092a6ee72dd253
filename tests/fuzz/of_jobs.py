"""Damaged TOML files that describe a run: read as Python's own `tomllib` reads them, or refused by name.

Knows no model: what a job names is not looked for.
"""

import dataclasses
import random
import shutil
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from judging import attempt
from mutations import HOSTILE_TEXTS, change_bytes, encoded

from encdec_eqx.training.job import TrainJob, read_job

LINES = {
    "model": (
        *('model_name_or_path = "pair"', 'source_tokenizer = "letters.json"', "eos_token_id = 2", "model_seed = 3"),
    ),
    "data": (
        *('train_file = "train.jsonl"', 'validation_file = "dev.jsonl"'),
        *('source_column = "word"', 'on_bad_records = "report"'),
    ),
    "train": (
        *("max_steps = 24", "learning_rate = 1e-2", "batch_size = 8", "seed = 1", "eval_steps = 12"),
        *('metrics = ["exact_match", "cer"]', 'lr_scheduler_type = "linear"', "max_target_length = 9"),
    ),
}

VALUES = [
    *("0", "-1", "1", "2.5", "true", "false", '""', '"x"', "[]", "[1, 2]", '["a", 1]', "{}", "{a = 1}", "1e999", "inf"),
    *(
        "nan",
        "-inf",
        "1979-05-27",
        "07:32:00",
        "'''\nlong\n'''",
        "9" * 5_000,
        "0x" + "f" * 5_000,
        "[" * 5_000,
        "1_0",
        "+1",
    ),
    *(
        "[" * 90 + "]" * 90,
        "{a.b.c = 1}",
        '"\\u001b[31m"',
        '"' + "n" * 5_000 + '"',
        "2" + "0" * 18,
        "2" + "0" * 400,
        "1__0",
    ),
    *('"\\uD800"', "[{}]", "1e-400", "-0.0"),
]


class Jobs:
    """Job files, line by line and byte by byte."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, rng: random.Random, tell: Callable[[str], None]) -> tuple[str, list[str]]:
        """One mutation."""
        content, what = _damaged(rng)
        tell(what)
        folder = self.folder / "job"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        path = folder / "job.toml"
        path.write_bytes(content)
        result = attempt(lambda: read_job(path), names=[str(path)], unchanged=[folder])
        if result.value is None:
            return "refused", result.faults
        return "read", result.faults + _unlike(content, result.value)


def _damaged(rng: random.Random) -> tuple[bytes, str]:
    lines = []
    for table, own in LINES.items():
        lines += [f"[{table}]", *rng.sample(own, rng.randrange(1, len(own) + 1))]
    told = []
    for _ in range(rng.choice([0, 1, 1, 1, 2])):
        told.append(_change_lines(rng, lines))
    content = encoded("\n".join(lines) + "\n")
    if rng.random() < 0.15:
        content, what = change_bytes(rng, content)
        told.append(what)
    if rng.random() < 0.05:
        content = rng.choice(
            [
                b"\xef\xbb\xbf" + content,
                content.replace(b"\n", b"\r\n"),
                content.decode("utf-8", "replace").encode("utf-16"),
            ]
        )
        told.append("another encoding")
    return content, "; ".join(told)


def _change_lines(rng: random.Random, lines: list[str]) -> str:
    at = rng.randrange(len(lines))
    name, _, _ = lines[at].partition(" = ")
    what = rng.choice(["value", "value", "value", "name", "double", "drop", "insert", "dotted"])
    value = rng.choice(VALUES)
    if what == "drop":
        del lines[at]
        return f"dropped line {at + 1}"
    if what == "double":
        lines.insert(at, lines[at])
    elif what == "value":
        lines[at] = f"{name} = {value}"
    elif what == "name":
        new = rng.choice(
            [name + "s", name.upper(), f'"{rng.choice(HOSTILE_TEXTS[:10])}"', name.replace("_", "-"), "a.b"]
        )
        lines[at] = f"{new} = {value}"
    elif what == "dotted":
        count = rng.choice([3, 100, 1_000, 20_000])
        news = [
            ".".join(["a"] * count) + " = 1",
            "\n".join(f"a{i}.b.c = 1" for i in range(count)),
            "[" + "a." * count + "b]",
        ]
        lines.insert(at, rng.choice([*news, "[[" + "a." * count + "b]]", "x = " + "{a = " * count + "1" + "}" * count]))
    else:
        lines.insert(
            at,
            rng.choice(
                [
                    "[model]",
                    "[[data]]",
                    "[other]",
                    "x",
                    "= 1",
                    "# note",
                    "[]",
                    "[model.more]",
                    '["train"]',
                    "\x00",
                    "\x1b",
                ]
            ),
        )
    return f"{what} at line {at + 1}: {lines[min(at, len(lines) - 1)]!r:.100}"


def _unlike(content: bytes, job: TrainJob) -> list[str]:
    """Where the job says something else than the file."""
    try:
        said = tomllib.loads(content.decode("utf-8").removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        return [f"read what tomllib refuses: {error!s:.200}"]
    faults = []
    for table, values in said.items():
        made = {
            field.name: getattr(getattr(job, table), field.name) for field in dataclasses.fields(getattr(job, table))
        }
        faults += [
            f"[{table}] {name} is {made.get(name)!r:.100} where the file says {value!r:.100}"
            for name, value in values.items()
            if name not in made or not _same(made[name], value)
        ]
    return faults


def _same(made: Any, said: Any) -> bool:
    if isinstance(made, Path):
        return str(made) == str(Path(said))
    if isinstance(made, tuple) and isinstance(said, list):
        return list(made) == said
    if isinstance(made, Mapping) or isinstance(said, Mapping):
        return dict(made) == dict(said)
    return made == said


KINDS = {"jobs": Jobs}
