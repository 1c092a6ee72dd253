"""The folder of a run: what lies where, and what may be written into it."""

import dataclasses
import functools
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ... import _processes as processes
from ..._writing import check_writable, clear_asides, is_aside, write_whole
from ...hf.adapter import ADAPTER_SETTINGS, ADAPTER_WEIGHTS
from ...hf.files.folder import CONFIG, GENERATION_CONFIG, WEIGHTS
from ...hf.gathering import spans_processes
from ...hf.model_card import CardData
from ...params.lora import merge_lora, save_lora
from ...plotting import loss_curve
from ...text import TokenizerPair
from ...text.tokenizer_files import BOTH, SOURCE, TARGET
from ..train_config import TrainConfig

_CONFIG, _LOG, _CURVE = "config.json", "log.jsonl", "loss.png"
_CHECKPOINTS, _MODEL, _ADAPTERS = "checkpoints", "model", "lora"
_FOLDERS, _FILES = (_CHECKPOINTS, _MODEL, _ADAPTERS), (_CONFIG, _LOG, _CURVE)


@dataclasses.dataclass(frozen=True)
class Output:
    """The folder `config.output_dir`. Of several processes the first one writes into it, and all call the same methods.

    Attributes:
        folder: Its path.
    """

    folder: Path

    @classmethod
    def opened(cls, config: TrainConfig) -> "Output":
        """The folder, made if need be. A new one has the settings written into it before anything else.

        Raises:
            ValueError: It is a file, cannot be written to, holds something that no run wrote, or a run and `resume` is
                not set; or a file is where a folder of the run belongs, or the other way round.
        """
        folder = config.output_dir
        held = cls.check(config)
        folder.mkdir(parents=True, exist_ok=True)
        output = cls(folder)
        if not held:
            output.write_settings(config)
        return output

    @staticmethod
    def check(config: TrainConfig) -> list[str]:
        """What the folder holds already; writes nothing that stays.

        Raises:
            ValueError: As `opened`.
            OtherProcessError: The same, in other processes than the first.
        """
        return processes.on_first("looking at output_dir", lambda: Output._look(config))

    @staticmethod
    def _look(config: TrainConfig) -> list[str]:
        folder = config.output_dir
        check_writable(folder, "output_dir")
        held = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        held = [name for name in held if not is_aside(name, _CONFIG)]  # of a run that was killed at once
        if held and _CONFIG not in held:
            raise ValueError(f"output_dir {folder} holds {', '.join(held[:5])}, which no run wrote: give a new folder.")
        if held and not config.resume:
            raise ValueError(
                f"output_dir {folder} holds a run already: go on with it by resume=True (--resume), or give another "
                "folder."
            )
        # refused at once, as it would otherwise fail at the end of the run
        for name in _FOLDERS:
            if os.path.lexists(folder / name) and not (folder / name).is_dir():
                raise ValueError(f"{folder / name} is not a folder, which the run needs there: move it away.")
        for name in _FILES:
            if (folder / name).is_dir():
                raise ValueError(f"{folder / name} is a folder, and the run needs a file of that name: move it away.")
        return held

    def write_settings(self, config: TrainConfig) -> None:
        """Writes the settings down, in place of earlier ones."""
        if not processes.is_first():
            return
        settings = {name: value for name, value in config.to_dict().items() if name not in ("output_dir", "resume")}
        write_whole(self.folder / _CONFIG, (json.dumps(settings, indent=2) + "\n").encode())

    @property
    def checkpoints(self) -> Path:
        """Folder of the run's checkpoints."""
        return self.folder / _CHECKPOINTS

    @property
    def log(self) -> Path:
        """The log, one JSON object per line."""
        return self.folder / _LOG

    @property
    def model(self) -> Path:
        """Folder of the finished model."""
        return self.folder / _MODEL

    def clear(self) -> None:
        """Removes what a killed process left half written; to be called while no other one is at the folder."""
        if not processes.is_first():
            return
        clear_asides(self.folder, [*_FOLDERS, *_FILES])
        clear_asides(self.model, [CONFIG, GENERATION_CONFIG, WEIGHTS, BOTH, SOURCE, TARGET])
        clear_asides(self.folder / _ADAPTERS, [ADAPTER_WEIGHTS, ADAPTER_SETTINGS])

    def save_model(self, model: Any, tokenizers: TokenizerPair | None, *, has_lora: bool, card: CardData) -> None:
        """Saves the finished model with its card, and the tokenizers; adapters merged, and once more by themselves.

        All processes that a model is spread over take part in it.
        """
        save = functools.partial(self._save_model, model, tokenizers, has_lora=has_lora, card=card)
        if spans_processes(model):
            save()
        else:
            processes.on_first("saving the model", save)

    def _save_model(self, model: Any, tokenizers: TokenizerPair | None, *, has_lora: bool, card: CardData) -> None:
        if has_lora:
            save_lora(model, self.folder / _ADAPTERS)
            model = merge_lora(model)
        model.save_pretrained(self.model, card_data=card)
        if tokenizers is not None and processes.is_first():
            tokenizers.save(self.model)

    def draw(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Draws the curve of the log's lines."""
        if processes.is_first():
            loss_curve(list(records), self.folder / _CURVE)
