"""Makes `src/encdec_eqx/verification_numbers.json`: what torch says of the pairs of `encdec-eqx verify`, in float64.

Run it where the `parity` extra is installed: `python tests/parity/make_verification.py`. It is deterministic but for
the last digits of sums, which depend on the machine; `test_verification.py` holds the stored file to it.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoConfig

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE)]

from encdec_eqx import verification  # noqa: E402
from hf import as_torch, random_pair  # noqa: E402

MARGIN = 0.02
"""Least distance, in nats, of the best choice from the next one: a hundred times what float32 can move it."""


def torch_pair(name: str) -> Any:
    """The pair in torch, in float64, with the weights that the library's formula gives it."""
    encoder, decoder = (AutoConfig.for_model(**config) for config in verification.MODELS[name])
    tokens = {"decoder_start_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    model = random_pair(encoder, decoder, **tokens)
    with tempfile.TemporaryDirectory() as folder:
        verification.build(name).save_pretrained(folder)
        missing, unexpected = model.load_state_dict(load_file(Path(folder) / "model.safetensors"), strict=False)
    tied = ("lm_head", "predictions.decoder", "embed_tokens", "pooler")  # the same arrays as others, or of no use
    assert not unexpected and all(any(part in key for part in tied) for key in missing), (missing, unexpected)
    model.tie_weights()
    return model.double().eval()


def numbers_of(name: str) -> dict[str, Any]:
    """What is stored of one pair."""
    model, batch = torch_pair(name), as_torch(verification.example_batch())
    labels = batch.pop("labels")
    out = model(**batch, use_cache=False)
    loss = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1), labels.flatten(), reduction="sum")
    loss.backward()
    squares = {"encoder": 0.0, "decoder": 0.0, "enc_to_dec_proj": 0.0}
    for key, parameter in model.named_parameters():
        if parameter.grad is not None:
            squares[key.split(".")[0]] += parameter.grad.square().sum().item()
    norms = [squares["encoder"], squares["decoder"], sum(squares.values())]
    source = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    told = {"max_new_tokens": verification.NEW_TOKENS, "min_new_tokens": verification.NEW_TOKENS, "do_sample": False}
    told |= {"output_scores": True, "return_dict_in_generate": True}
    with torch.no_grad():
        greedy = model.generate(**source, **told, num_beams=1)
        beams = model.generate(**source, **told, num_beams=verification.BEAMS, num_return_sequences=verification.BEAMS)
    best = torch.stack(greedy.scores).topk(2).values
    scores = beams.sequences_scores.reshape(2, verification.BEAMS)
    assert (best[..., 0] - best[..., 1]).min() > MARGIN, f"{name}: a greedy choice is too close"
    assert (scores[:, 0] - scores[:, 1]).min() > MARGIN / verification.NEW_TOKENS, f"{name}: two beams are too close"
    return {
        "logits": rounded(out.logits),
        "loss": rounded(loss),
        "gradient_norms": rounded(torch.tensor(norms, dtype=torch.float64).sqrt()),
        "greedy ids": greedy.sequences.tolist(),
        "beam ids": beams.sequences[:: verification.BEAMS].tolist(),
        "beam scores": rounded(scores[:, 0]),
    }


def rounded(value: torch.Tensor) -> Any:
    """Nine digits: more than float32 has."""
    return np.vectorize(lambda number: float(f"{number:.9g}"))(value.detach().numpy()).tolist()


def everything() -> dict[str, Any]:
    """The content of the file."""
    versions = f"torch {torch.__version__.split('+')[0]} in float64, transformers {transformers.__version__}"
    return {"made_with": versions, "models": {name: numbers_of(name) for name in verification.MODELS}}


def as_text(content: dict[str, Any]) -> str:
    """JSON with a line per entry of a pair."""
    pairs = []
    for name, numbers in content["models"].items():
        lines = ",\n".join(f"{json.dumps(what)}: {json.dumps(value)}" for what, value in numbers.items())
        pairs.append(f"{json.dumps(name)}: {{\n{lines}\n}}")
    models = ",\n".join(pairs)
    return f'{{"made_with": {json.dumps(content["made_with"])}, "models": {{\n{models}\n}}}}\n'


if __name__ == "__main__":
    target = Path(verification.__file__).with_name(verification.NUMBERS)
    target.write_text(as_text(everything()), encoding="utf-8")
