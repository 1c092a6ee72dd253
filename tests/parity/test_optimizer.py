"""Schedules and optimisers against live torch and transformers."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_pairs import SMOOTHING, batch, both, by_torch_names, torch_loss
from transformers import Adafactor, Trainer, get_scheduler
from transformers.optimization import get_inverse_sqrt_schedule

from encdec_eqx.training import init_train_state, make_optimizer, make_schedule, make_train_step
from tolerances import MUON_WEIGHTS_AFTER_STEPS, PARITY_LOSS, PARITY_WEIGHTS_AFTER_STEPS, SCHEDULE_SHARE

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


def _groups(model: Any, rate_of: Callable[[str], float], decay: float) -> list[dict[str, Any]]:
    """A group for each parameter: its rate, and weight decay where the Trainer has it."""
    decaying = Trainer.get_decay_parameter_names(None, model)  # pyright: ignore[reportArgumentType]
    return [
        {"params": [parameter], "lr": rate_of(name), "weight_decay": decay if name in decaying else 0.0}
        for name, parameter in model.named_parameters()
    ]


def _by_depth(name: str) -> float:
    """The rate of BERT with GPT-2, three layers each: 0.01, times 0.8 a layer; 0.03 for what is new."""
    if re.search(r"crossattention|ln_cross_attn|enc_to_dec_proj", name):
        return 0.03
    number = re.search(r"\.(?:layer|h)\.(\d)\.", name)
    depth = 3 - int(number[1]) if number else 4 * bool(re.search(r"embeddings|wte|wpe", name))
    return 0.01 * 0.8**depth


def _compare(pair: str, folder: Path, theirs: Callable[[Any], list[Any]], optimizer: Any, steps: int) -> dict[str, Any]:
    """Weights by name, ours and theirs, after steps with a linear schedule, warm-up, and clipped gradients."""
    reference, model = both(pair, folder / "model")
    optimizers = theirs(reference)
    schedules = [get_scheduler("linear", each, num_warmup_steps=2, num_training_steps=6) for each in optimizers]
    state, step = (
        init_train_state(model.with_layout("scanned"), optimizer),
        make_train_step(optimizer, label_smoothing=SMOOTHING),
    )
    for number in range(steps):
        reference.zero_grad()
        expected = torch_loss(reference, batch(number))
        expected.backward()
        norm = torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
        assert norm > 0.6
        for each in (*optimizers, *schedules):
            each.step()
        state, metrics = step(state, batch(number), None)
        np.testing.assert_allclose(metrics["loss"], expected.item(), rtol=0, atol=20 * PARITY_LOSS)
    ours = by_torch_names(state.model, folder / "after")
    return {name: (ours[name], parameter.detach().numpy()) for name, parameter in reference.named_parameters()}


SETTINGS: dict[str, Any] = {
    "num_training_steps": 6,
    "warmup_steps": 2,
    "learning_rate": 0.01,
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
}
ADAM: dict[str, Any] = {"adam_beta1": 0.8, "adam_beta2": 0.98, "adam_epsilon": 1e-4}
CASES: dict[str, tuple[str, Callable[[Any], list[Any]], dict[str, Any]]] = {
    "adamw, rates by depth and selector": (
        "bert_gpt2_projected",
        lambda model: [torch.optim.AdamW(_groups(model, _by_depth, 0.1), betas=(0.8, 0.98), eps=1e-4)],
        {**ADAM, "layer_wise_lr_decay": 0.8, "learning_rates": {"cross_attention | enc_to_dec_proj": 0.03}},
    ),
    "sgd": (
        "bert_bert_untied",
        lambda model: [torch.optim.SGD(_groups(model, lambda _: 0.01, 0.1))],
        {"optim": "sgd"},
    ),
    "adafactor": (
        "bert_bert_untied",
        lambda model: [Adafactor(_groups(model, lambda _: 0.01, 0.1), scale_parameter=False, relative_step=False)],
        {"optim": "adafactor"},
    ),
}


@pytest.mark.parametrize(("pair", "theirs", "settings"), CASES.values(), ids=CASES)
def test_steps_equal_torch(
    pair: str, theirs: Callable[[Any], list[Any]], settings: dict[str, Any], tmp_path: Path
) -> None:
    weights = _compare(pair, tmp_path, theirs, make_optimizer(**SETTINGS, **settings), steps=5)
    for name, (ours, expected) in weights.items():
        # the softmax ignores the biases of keys: their gradient is rounding noise, which Adafactor magnifies
        if settings.get("optim") == "adafactor" and name.endswith("key.bias"):
            continue
        np.testing.assert_allclose(ours, expected, rtol=0, atol=PARITY_WEIGHTS_AFTER_STEPS, err_msg=name)


def _is_hidden(name: str) -> bool:
    return re.search(r"layer\.\d.*weight", name) is not None and "LayerNorm" not in name


def _muon_and_adamw(model: Any) -> list[Any]:
    groups = _groups(model, lambda _: 0.01, 0.1)
    names = [name for name, _ in model.named_parameters()]
    hidden = [_is_hidden(name) for name in names]
    return [
        torch.optim.Muon(
            [group for group, is_hidden in zip(groups, hidden, strict=True) if is_hidden],
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(
            [group for group, is_hidden in zip(groups, hidden, strict=True) if not is_hidden],
            betas=(0.8, 0.98),
            eps=1e-4,
        ),
    ]


def test_steps_of_muon_equal_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch iterates in bfloat16, whose rounding the iterations magnify: here it is made to do so in float32."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self.clone())
    optimizer = make_optimizer(**SETTINGS, **ADAM, optim="muon")
    weights = _compare("bert_bert_untied", tmp_path, _muon_and_adamw, optimizer, steps=3)
    for name, (ours, expected) in weights.items():
        np.testing.assert_allclose(ours, expected, rtol=0, atol=MUON_WEIGHTS_AFTER_STEPS, err_msg=name)
