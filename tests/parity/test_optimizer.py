"""Schedules and optimisers against live torch and transformers."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import get_scheduler
from transformers.optimization import get_inverse_sqrt_schedule

from encdec_eqx.training.schedules import make_schedule
from tolerances import SCHEDULE_SHARE

RATE, STEPS = 3e-4, 60
SCHEDULES = {
    "linear": ("linear", 7, {}),
    "linear without warm-up": ("linear", 0, {}),
    "cosine": ("cosine", 7, {}),
    "cosine twice": ("cosine", 7, {"num_cycles": 1.5}),
    "restarts": ("cosine_with_restarts", 5, {"num_cycles": 4}),
    "a floor": ("cosine_with_min_lr", 7, {"min_lr": 3e-5}),
    "a floor as a share": ("cosine_with_min_lr", 0, {"min_lr_rate": 0.2}),
    "polynomial": ("polynomial", 7, {}),
    "polynomial squared": ("polynomial", 0, {"lr_end": 1e-5, "power": 2.0}),
    "constant": ("constant", 0, {}),
    "constant after a warm-up": ("constant_with_warmup", 7, {}),
    "inverse root": ("inverse_sqrt", 7, {}),
    "inverse root without warm-up": ("inverse_sqrt", 0, {}),
    "inverse root of its own scale": ("inverse_sqrt", 7, {"timescale": 20}),
    "stable": ("warmup_stable_decay", 7, {"num_decay_steps": 20}),
    "stable, other curves": (
        "warmup_stable_decay",
        7,
        {
            "num_decay_steps": 20,
            "num_stable_steps": 10,
            "decay_type": "1-sqrt",
            "warmup_type": "cosine",
            "min_lr_ratio": 0.1,
        },
    ),
    "stable, straight": (
        "warmup_stable_decay",
        7,
        {"num_decay_steps": 20, "decay_type": "linear", "warmup_type": "1-sqrt"},
    ),
}


@pytest.mark.filterwarnings("ignore:Both num_training_steps and num_stable_steps")
@pytest.mark.parametrize(("name", "warmup", "options"), SCHEDULES.values(), ids=SCHEDULES)
def test_a_schedule_is_that_of_transformers(name: str, warmup: int, options: dict[str, Any]) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    if "timescale" in options:  # which get_scheduler does not pass on
        theirs: Any = get_inverse_sqrt_schedule(optimizer, num_warmup_steps=warmup, **options)
    else:
        theirs = get_scheduler(
            name, optimizer, num_warmup_steps=warmup, num_training_steps=STEPS, scheduler_specific_kwargs=options
        )
    schedule = make_schedule(
        learning_rate=RATE,
        lr_scheduler_type=name,
        num_training_steps=STEPS,
        warmup_steps=warmup,
        lr_scheduler_kwargs=options,
    )
    expected = []
    for _ in range(STEPS + 5):
        expected.append(theirs.get_last_lr()[0] / RATE)
        optimizer.step()
        theirs.step()
    assert len(set(expected)) > 1 or name == "constant"
    shares = [float(schedule(step)) / RATE for step in range(STEPS + 5)]
    np.testing.assert_allclose(shares, expected, rtol=0, atol=SCHEDULE_SHARE)
