"""Pairs that generate, in torch and here, for the tests of generation. Knows no option of it.

Their logits are far enough apart that another order of summation does not change which token is the largest.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from encdec_eqx import EncoderDecoder
from hf import VOCAB, as_torch, random_batch, random_pair, saved, tiny_bert, tiny_gpt2, tiny_roberta

PAIRS = {
    "bert-gpt2": (tiny_bert, tiny_gpt2),
    "bert-bert": (tiny_bert, tiny_bert),
    "roberta-roberta": (tiny_roberta, tiny_roberta),
    "gpt2-gpt2": (tiny_gpt2, tiny_gpt2),
    "bert-relative": (tiny_bert, functools.partial(tiny_bert, position_embedding_type="relative_key_query")),
}
START, PAD = 5, 7
FIRST_FREE = 8
"""The first id that means nothing."""


@functools.cache
def _torch_model(pair: str, seed: int, **ids: int):
    encoder, decoder = PAIRS[pair]
    ids = {"decoder_start_token_id": START, "pad_token_id": PAD, "eos_token_id": VOCAB - 1, **ids}
    model = random_pair(encoder(), decoder(), seed=seed, **ids)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 2 if parameter.ndim > 1 else 1
    return model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """From a pair's name, a seed and special ids to torch's model and ours with the same weights."""
    folders: dict[tuple, Path] = {}

    def both(pair: str, seed: int = 0, **ids: int):
        theirs = _torch_model(pair, seed, **ids)
        name = (pair, seed, *ids.items())
        if name not in folders:
            folders[name] = saved(theirs, tmp_path_factory.mktemp(pair))
        return theirs, EncoderDecoder.from_pretrained(folders[name])

    return both


def sentences(seed: int) -> dict[str, np.ndarray]:
    """Ids and mask of three sentences."""
    batch = random_batch(seed, low=FIRST_FREE)
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def likely_ends(model: PreTrainedModel, arrays: dict[str, np.ndarray], most: int, **options: Any) -> list[int]:
    """A few tokens from the middle of what torch generates, so that its rows end there."""
    with torch.no_grad():
        free = model.generate(**as_torch(arrays), min_new_tokens=12, max_new_tokens=12, do_sample=False, **options)
    found = np.unique(free[:, -9:-3].numpy())
    return [int(end) for end in np.random.default_rng(0).permutation(found)[:most]]


def prompts(seed: int, width: int = 4) -> np.ndarray:
    """A prompt for each of the three, the start token in front."""
    ids = np.random.default_rng(seed).integers(FIRST_FREE, VOCAB - 1, (3, width), dtype=np.int32)
    ids[:, 0] = START
    return ids
