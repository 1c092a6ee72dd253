"""Makes `tests/goldens/`: tiny random pairs in Hugging Face's format, with what torch says of them.

Run it where the `parity` extra is installed: `python tests/make_goldens.py`. It is deterministic; the files are
committed, so that the default test run compares with torch's numbers without torch.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "parity"))

from hf import as_torch, random_batch, random_pair, saved, tiny_bert, tiny_gpt2, tiny_roberta  # noqa: E402

CASES = {
    "bert_gpt2": lambda: (tiny_bert(), tiny_gpt2()),
    "bert_bert_untied": lambda: (tiny_bert(hidden_size=16), tiny_bert(tie_word_embeddings=False)),
    "roberta_roberta": lambda: (tiny_roberta(), tiny_roberta(num_hidden_layers=3)),
    "gpt2_bert_relative": lambda: (
        tiny_gpt2(scale_attn_by_inverse_layer_idx=True),
        tiny_bert(position_embedding_type="relative_key_query"),
    ),
}
TOKENS = {"decoder_start_token_id": 5, "pad_token_id": 1, "eos_token_id": 3}
NEW_TOKENS = 12


def make(name: str) -> None:
    """One case: the pair's folder, and `expected.npz` in it."""
    folder = HERE / "goldens" / name
    shutil.rmtree(folder, ignore_errors=True)
    seed = sorted(CASES).index(name)
    model = random_pair(*CASES[name](), seed=seed, **TOKENS)
    saved(model, folder)
    arrays = random_batch(seed)
    np.savez_compressed(folder / "expected.npz", **arrays, **_call(model, arrays), **_greedy(model, arrays))


def _call(model, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    labels = np.where(arrays["decoder_attention_mask"] == 1, np.roll(arrays["decoder_input_ids"], -1, 1), -100)
    with torch.no_grad():
        out = model(**as_torch(arrays), use_cache=False, output_attentions=True, output_hidden_states=True)
    loss = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1), torch.from_numpy(labels).long().flatten())
    return {
        "logits": out.logits.numpy(),
        "encoder_last_hidden_state": out.encoder_last_hidden_state.numpy(),
        "encoder_hidden_states": torch.stack(out.encoder_hidden_states).numpy(),
        "decoder_hidden_states": torch.stack(out.decoder_hidden_states).numpy(),
        "encoder_attentions": torch.stack(out.encoder_attentions).numpy(),
        "decoder_attentions": torch.stack(out.decoder_attentions).numpy(),
        "cross_attentions": torch.stack(out.cross_attentions).numpy(),
        "labels": labels,
        "loss": np.asarray(loss.item()),
    }


def _greedy(model, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    source = {name: array for name, array in as_torch(arrays).items() if not name.startswith("decoder")}
    found = model.generate(**source, max_new_tokens=NEW_TOKENS, do_sample=False, num_beams=1)
    longer = model.generate(
        **source, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, num_beams=1
    )
    return {"greedy": found.numpy(), "greedy_without_end": longer.numpy()}


if __name__ == "__main__":
    for case in CASES:
        make(case)
    size = sum(file.stat().st_size for file in (HERE / "goldens").rglob("*") if file.is_file())
    print(f"{len(CASES)} cases, {size / 1e6:.2f} MB")
