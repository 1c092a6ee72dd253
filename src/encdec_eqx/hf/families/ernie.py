"""ERNIE: BERT, with a table of tasks whose first row is added (`ErnieModel`, `ErnieForCausalLM`).

Sun et al. 2020, arXiv:1907.12412. Data only. The reference can be given other tasks; here it is always the first, which
is its default.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...config import StackConfig
from . import bert
from .bert import BERT

ATTRIBUTES = {**bert.ATTRIBUTES, "task_type_vocab_size": 3, "use_task_id": False}

_TASKS = "embeddings.task_type_embeddings.weight"
ROWS = {**bert.ROWS, "base": (*bert.ROWS["base"], ("embeddings.task_types.weight", _TASKS, "same"))}


def read(hf: Mapping[str, Any]) -> StackConfig:
    """An ERNIE config, all attributes present, as a `StackConfig`."""
    config = bert.read(hf)
    tasks = hf["task_type_vocab_size"] if hf["use_task_id"] else 0
    return config.replace(embeddings=dataclasses.replace(config.embeddings, task_type_size=tasks))


def write(config: StackConfig) -> dict[str, Any]:
    """The attributes that express a `StackConfig`, as far as ERNIE's can."""
    tasks = config.embeddings.task_type_size
    return {**bert.write(config), "use_task_id": tasks > 0, **({"task_type_vocab_size": tasks} if tasks else {})}


ERNIE = dataclasses.replace(
    BERT,
    model_type="ernie",
    architectures={"encoder": "ErnieModel", "decoder": "ErnieForCausalLM"},
    prefixes={"encoder": ("ernie",), "decoder": ("ernie",)},
    attributes=ATTRIBUTES,
    rows=ROWS,
    unused=(*BERT.unused, (_TASKS.replace(".", r"\."), "use_task_id is false")),
    read=read,
    write=write,
)
