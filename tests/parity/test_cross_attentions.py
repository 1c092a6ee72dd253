"""`align` against torch's `cross_attentions`: pairs and whole checkpoints of several families.

Torch is called with what the decoder reads; a row of ours is of what it says there.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_model import PAIRS
from test_whole import CASES, _torch_model

from encdec_eqx import EncoderDecoder
from encdec_eqx.alignment import align
from encdec_eqx.targets import TargetForm
from hf import random_pair, saved
from tolerances import PARITY_ATTENTION

TOKENS = {"decoder_start_token_id": 5, "eos_token_id": 6, "pad_token_id": 0}
SOURCE, SAID = [7, 11, 13, 8, 17, 9, 21], [12, 19, 31, 10]


def _reference(case: str) -> Any:
    if case in CASES:
        return _torch_model(case)
    return random_pair(*PAIRS[case](), seed=1, **TOKENS)


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
@pytest.mark.parametrize(
    "case",
    [
        "bert_gpt2_projected",
        "roberta_roberta",
        "gpt2_bert",
        "scaled_by_layer",
        "bart",
        "marian",
        "m2m_100",
        "t5",
        "umt5",
    ],
)
def test_an_alignment_is_torchs_cross_attention(case: str, layout: Any, tmp_path: Path) -> None:
    reference = _reference(case)
    model = EncoderDecoder.from_pretrained(saved(reference, tmp_path)).with_layout(layout)
    tokens = model.special_tokens
    labels = [*SAID, *TargetForm.of(model).end]
    ours = align(model, [*SOURCE, 3, 3], [*labels, -100], attention_mask=[1] * len(SOURCE) + [0, 0])
    with torch.no_grad():
        theirs = reference(
            input_ids=torch.tensor([SOURCE]),
            decoder_input_ids=torch.tensor([[tokens.decoder_start_token_id, *SAID]]),
            output_attentions=True,
            use_cache=False,
        ).cross_attentions
    assert len(ours.cross_attentions) == len(theirs)
    for mine, other in zip(ours.cross_attentions, theirs, strict=True):
        assert mine is not None
        np.testing.assert_allclose(mine, other[0].numpy(), rtol=0, atol=PARITY_ATTENTION)
    mean = torch.stack(theirs)[:, 0].mean(dim=(0, 1)).numpy()
    np.testing.assert_allclose(ours.weights(), mean, rtol=0, atol=PARITY_ATTENTION)
