"""The model card of a finished run: its data, settings and results, and the versions that it ran with.

It says nothing that differs between a run and the same one resumed: no times, no places.
"""

import importlib.metadata
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..._installing import PACKAGE
from ..._quoting import printable
from ...hf.model_card import CardData
from ..data import Pairs, PairStream
from ..train_config import TrainConfig

_PACKAGES = (PACKAGE, "jax", "equinox", "optax")
_NOT_OF_THE_RUN = ("output_dir", "resume")


def training_card(
    config: TrainConfig,
    *,
    data: Any,
    eval_data: Any,
    examples: tuple[int, int],
    steps: tuple[int, int],
    own: Iterable[str],
    results: Mapping[str, Any] | None,
    tokenizers: bool,
) -> CardData:
    """What a run says of the model that it ends with.

    Args:
        config: the settings.
        data: what it was trained on, as `fit` was given it.
        eval_data: what it was evaluated on, likewise; None if it was not.
        examples: how many there are to train and to evaluate on.
        steps: how many were taken, and after how many of them the model was what is saved.
        own: what the user gave in place of settings: an optimizer, a loss.
        results: the line of the log with the evaluation of the model that is saved, if there is one.
        tokenizers: whether the tokenizers are saved with it.
    """
    taken, at = steps
    said = f"Fine-tuned by `encdec_eqx.training.fit` for {taken:,} steps"
    said += "." if at == taken else f"; this is the model after step {at:,}, which was the best by `{config.best_by}`."
    rows = [f"| training | {examples[0]:,} | {_origin(data)} |"]
    rows += [] if eval_data is None else [f"| evaluation | {examples[1]:,} | {_origin(eval_data)} |"]
    parts = [said, "\n".join(["| data | examples | from |", "|---|---|---|", *rows])]
    if results:
        values = {name: value for name, value in results.items() if name not in ("event", "step")}
        numbers = (f"| {name} | {_number(value)} |" for name, value in values.items())
        parts.append("\n".join(["| evaluation | value |", "|---|---|", *numbers]))
    settings = {name: value for name, value in config.to_dict().items() if name not in _NOT_OF_THE_RUN}
    parts.append(f"Settings:\n\n```json\n{json.dumps(settings, indent=2)}\n```")
    if own:
        parts.append(f"Given in Python, in place of settings: {', '.join(sorted(own))}.")
    parts.append(f"Versions: {', '.join(_versions())}.")
    return CardData(metrics=tuple(config.metrics), training="\n\n".join(parts), tokenizers=tokenizers)


def _origin(data: Any) -> str:
    """The names of files, without the folders that they lie in: the card may be published."""
    files: Iterable[Any] = data.files if isinstance(data, Pairs | PairStream) else [data]
    if isinstance(data, list | tuple):
        files = data
    files = [file for file in files if isinstance(file, str | os.PathLike)]
    names = [f"`{printable(Path(file).name).replace('`', '').replace('|', '/')}`" for file in files]
    return ", ".join(names) or "no file: given in Python"


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _versions() -> Iterable[str]:
    for name in _PACKAGES:
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            yield name
