"""Settings of decoder-only families that torch's classes do not get right by themselves, and what is compared then."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quick import quick_jit
from safetensors.torch import load_file
from tiny import CAUSAL, OLD_FALCON
from transformers import AutoModelForCausalLM
from transformers.models.opt.modeling_opt import OPTPreTrainedModel

from encdec_eqx import Decoder
from hf import as_torch, random_batch, randomise, saved
from tolerances import FAMILY_HIDDEN, PARITY_LOGITS

CHUNK = 3


def _made(family: str, attention: str = "eager", **changes: Any) -> Any:
    made: Any = randomise(AutoModelForCausalLM.from_config(CAUSAL[family](**changes), attn_implementation=attention), 0)
    return made


def _batch() -> dict[str, np.ndarray]:
    batch = random_batch(3, target=9, padding="left")
    return {"input_ids": batch["decoder_input_ids"], "attention_mask": batch["decoder_attention_mask"]}


def _call(reference: Any, arrays: dict[str, np.ndarray], **options: Any) -> Any:
    with torch.no_grad():
        return reference(**as_torch(arrays), use_cache=False, output_hidden_states=True, **options)


@quick_jit
def _everything(model: Decoder, arrays: dict[str, np.ndarray], cache: Any) -> tuple[Any, list[Any]]:
    """A whole call, and the logits of chunks."""
    logits = []
    for start in range(0, arrays["input_ids"].shape[1], CHUNK):
        part = {name: array[:, start : start + CHUNK] for name, array in arrays.items()}
        out = model(**part, cache=cache)
        cache = out.cache
        logits.append(out.logits)
    return model(**arrays, output_hidden_states=True), logits


def _compare(model: Decoder, arrays: dict[str, np.ndarray], theirs: Any) -> None:
    rows, length = arrays["input_ids"].shape
    whole, chunks = _everything(model, arrays, model.init_cache(None, None, rows=rows, slots=length))
    valid = arrays["attention_mask"] == 1
    for ours, reference, tolerance in (
        (whole.logits, theirs.logits, PARITY_LOGITS),
        (np.concatenate(chunks, axis=1), theirs.logits, PARITY_LOGITS),
        *((ours, other, FAMILY_HIDDEN) for ours, other in zip(whole.hidden_states, theirs.hidden_states, strict=True)),
    ):
        np.testing.assert_allclose(np.asarray(ours)[valid], reference.numpy()[valid], rtol=0, atol=tolerance)


FALCONS = [
    {**OLD_FALCON, "parallel_attn": False, "multi_query": False, "bias": True},
    {**OLD_FALCON, "num_attention_heads": 4},
    {},
]


@pytest.mark.parametrize("changes", FALCONS, ids=["7B of RefinedWeb", "7B", "40B"])
def test_falcons_alibi_counts_once(changes: dict[str, Any], tmp_path: Path) -> None:
    """So it does where torch attends as it does by default, or eagerly with a mask of heads; eagerly else, twice."""
    reference, arrays = _made("falcon", "sdpa", alibi=True, **changes), _batch()
    # large enough slopes and weights to tell
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter *= 2 if parameter.ndim > 1 else 1
    theirs, valid = _call(reference, arrays), arrays["attention_mask"] == 1
    heads = torch.ones(2, reference.config.num_attention_heads)
    reference.config._attn_implementation = "eager"
    masked, eager = _call(reference, arrays, head_mask=heads), _call(reference, arrays)
    np.testing.assert_allclose(masked.logits[valid], theirs.logits[valid], rtol=0, atol=PARITY_LOGITS)
    assert (eager.logits - theirs.logits)[torch.from_numpy(valid)].abs().max() > 100 * PARITY_LOGITS
    model = Decoder.from_pretrained(saved(reference, tmp_path / "torch"), add_cross_attention=False)
    assert "ALiBi is added once" in str(model.load_report)
    _compare(model, arrays, theirs)
    model.save_pretrained(tmp_path / "ours")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="sdpa").eval()
    assert torch.equal(_call(again, arrays).logits, theirs.logits)


@pytest.mark.parametrize("before", [True, False])
def test_opts_norms_may_learn_nothing(before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch loads such models, and cannot initialise one."""
    changes = {"layer_norm_elementwise_affine": False, "do_layer_norm_before": before}
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'data'"):
        _made("opt", **changes)
    monkeypatch.setattr(OPTPreTrainedModel, "_init_weights", lambda self, module: None)
    reference, arrays = _made("opt", **changes), _batch()
    monkeypatch.undo()
    model = Decoder.from_pretrained(saved(reference, tmp_path / "torch"), add_cross_attention=False)
    _compare(model, arrays, _call(reference, arrays))
    model.save_pretrained(tmp_path / "ours")
    theirs, ours = (load_file(tmp_path / place / "model.safetensors") for place in ("torch", "ours"))
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    again, found = AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(found.values())
    assert torch.equal(_call(again.eval(), arrays).logits, _call(reference, arrays).logits)
