"""A run that reports its log to services, that breaks off on the way and goes on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encdec_eqx.training import Callback, Example, FitResult, TrainConfig, fit
from models import VOCAB, decoder_config, encoder_config, tiny_pair

END = 2
STEPS, SAVED, BROKEN = 6, 3, 5
"""Steps of the run, the step of the checkpoint that it goes on from, and that in which it breaks off."""


class Breaking(Callback):
    """Ends the run by an exception in a step."""

    def on_step(self, event: Any) -> None:
        """Raises."""
        if event.step == BROKEN:
            raise RuntimeError("the machine is gone")


def examples(number: int, seed: int) -> list[Example]:
    """Targets that are their sources backwards."""
    random = np.random.default_rng(seed)
    sources = random.integers(3, VOCAB, (number, 4)).astype(np.int32)
    return [Example(input_ids=row, labels=np.array([*row[::-1], END], np.int32)) for row in sources]


def run(folder: Path, report_to: list[str], *, resume: bool = False, callbacks: Any = ()) -> FitResult:
    """A session of the run."""
    config = TrainConfig(
        output_dir=folder,
        resume=resume,
        report_to=report_to,
        max_steps=STEPS,
        eval_steps=SAVED,
        logging_steps=1,
        metrics=["exact_match"],
        learning_rate=1e-2,
        max_shapes=1,
    )
    pair = tiny_pair(encoder_config(depth=1), decoder_config(depth=1))
    return fit(pair, examples(16, 0), config, eval_data=examples(4, 1), callbacks=callbacks)


def broken(folder: Path, report_to: list[str]) -> None:
    """The first session, which breaks off."""
    with pytest.raises(RuntimeError, match="the machine is gone"):
        run(folder, report_to, callbacks=[Breaking()])


def losses(result: FitResult, event: str) -> dict[int, float]:
    """What the run's own log says, by step."""
    return {line["step"]: line["loss"] for line in result.log if line["event"] == event}
