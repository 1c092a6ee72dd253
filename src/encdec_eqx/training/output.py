"""The folder of a run: what lies where, and what may be written into it.

Knows file names; must not know how their contents come about.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..plotting import loss_curve
from ..text import TokenizerPair
from .config import TrainConfig
from .lora import merge_lora, save_lora

_CONFIG, _LOG, _CURVE = "config.json", "log.jsonl", "loss.png"
_CHECKPOINTS, _MODEL, _ADAPTERS = "checkpoints", "model", "lora"
_ASIDE = ".new"


@dataclasses.dataclass(frozen=True)
class Output:
    """The folder `config.output_dir`.

    Attributes:
        folder: Its path.
    """

    folder: Path

    @classmethod
    def opened(cls, config: TrainConfig) -> "Output":
        """The folder, made if need be. A new one has the settings written into it before anything else.

        Raises:
            ValueError: It is a file, holds something that no run wrote, or a run and `resume` is not set.
        """
        folder = config.output_dir
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"output_dir {folder} is a file; give a folder.")
        held = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        held = [name for name in held if name != _CONFIG + _ASIDE]  # a run that was killed at once
        if held and _CONFIG not in held:
            raise ValueError(f"output_dir {folder} holds {', '.join(held[:5])}, which no run wrote: give a new folder.")
        if held and not config.resume:
            raise ValueError(
                f"output_dir {folder} holds a run already: go on with it by resume=True (--resume), or give another "
                "folder."
            )
        folder.mkdir(parents=True, exist_ok=True)
        output = cls(folder)
        if not held:
            output.write_settings(config)
        return output

    def write_settings(self, config: TrainConfig) -> None:
        """Writes the settings down, in place of earlier ones."""
        settings = {name: value for name, value in config.to_dict().items() if name not in ("output_dir", "resume")}
        _write_aside(self.folder / _CONFIG, json.dumps(settings, indent=2) + "\n")

    @property
    def checkpoints(self) -> Path:
        """Folder of the run's checkpoints."""
        return self.folder / _CHECKPOINTS

    @property
    def log(self) -> Path:
        """The log, a JSON object a line."""
        return self.folder / _LOG

    @property
    def model(self) -> Path:
        """Folder of the finished model."""
        return self.folder / _MODEL

    def save_model(self, model: Any, tokenizers: TokenizerPair | None, *, has_lora: bool) -> None:
        """Saves the finished model, and the tokenizers with it; adapters merged, and once more by themselves."""
        if has_lora:
            save_lora(model, self.folder / _ADAPTERS)
            model = merge_lora(model)
        model.save_pretrained(self.model)
        if tokenizers is not None:
            tokenizers.save(self.model)

    def draw(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Draws the curve of the log's lines."""
        loss_curve(list(records), self.folder / _CURVE)


def _write_aside(path: Path, text: str) -> None:
    aside = path.with_name(path.name + _ASIDE)
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
