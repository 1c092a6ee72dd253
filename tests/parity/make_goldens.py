"""Makes `tests/goldens/`: tiny random models in Hugging Face's format, with what torch says of them.

A few pairs are stored with everything that a call returns; in `families/` every family is stored once as an encoder and
once as a decoder, and once whole where it has such checkpoints, in float16 and with less beside it. A family that torch
joins to no encoder is stored alone.

Run it where the `parity` extra is installed: `python tests/parity/make_goldens.py`, with folders' names behind it, such
as `bert_gpt2 ernie+xglm bart`, for those alone. It is deterministic; the files are committed, so that the default test
run compares with torch's numbers without torch.
"""

import functools
import inspect
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent.parent
sys.path[:0] = [str(HERE / "parity"), str(HERE)]

from tiny import BARTS, CAUSAL, DECODERS, ENCODERS, T5GEMMAS, T5S  # noqa: E402
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM  # noqa: E402
from transformers.modeling_utils import no_init_weights  # noqa: E402

from compositions import STORED  # noqa: E402
from hf import as_torch, random_batch, random_pair, randomise, saved, tiny_bert, tiny_gpt2, tiny_roberta  # noqa: E402

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


def make_family_pair(encoder: str, decoder: str, seed: int) -> None:
    """One family as an encoder, one as a decoder."""
    model = random_pair(ENCODERS[encoder](), DECODERS[decoder](), seed=seed, **TOKENS)
    _store(model, HERE / "goldens" / "families" / f"{encoder}+{decoder}", seed)


def make_whole(family: str, seed: int) -> None:
    """A checkpoint of both pieces, with a bias of the logits where the family has one."""
    one_each = ("num_layers", "num_decoder_layers") if family in T5S else ("encoder_layers", "decoder_layers")
    config = {**BARTS, **T5S}[family](**dict.fromkeys(one_each, 1))
    config._attn_implementation = "eager"
    model = randomise(AutoModelForSeq2SeqLM.from_config(config, attn_implementation="eager"), seed)
    for bias in (buffer for name, buffer in model.named_buffers() if name == "final_logits_bias"):
        bias.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(seed))
    folder = HERE / "goldens" / "families" / family
    saved(model, folder)
    # read back, so that what no file holds (Marian's positions) is as the class makes it
    model = type(model).from_pretrained(folder, attn_implementation="eager").eval()
    _store(model, folder, seed, unsaved=("embed_positions",) if family == "marian" else ())


def make_t5gemma() -> None:
    """A checkpoint of T5Gemma whose pieces are as wide as each other."""
    config = T5GEMMAS["t5gemma_even"]()
    model = randomise(AutoModelForSeq2SeqLM.from_config(config, attn_implementation="eager"), 0)
    _store(model, HERE / "goldens" / "families" / "t5gemma", 0)


def make_causal(family: str) -> None:
    """A causal language model alone, its batch padded on the left."""
    with no_init_weights():  # which fails for StableLM's norms
        model = AutoModelForCausalLM.from_config(CAUSAL[family](), attn_implementation="eager")
    model = randomise(model, 1)
    batch = random_batch(1, batch=2, source=6, target=5, padding="left")
    mask = batch["decoder_attention_mask"]
    arrays = {"input_ids": batch["decoder_input_ids"], "attention_mask": mask}
    positions = {"position_ids": np.maximum(np.cumsum(mask, axis=1) - 1, 0).astype(np.int32)}
    if "position_ids" not in inspect.signature(model.forward).parameters:
        positions = {}  # Bloom has them from the mask alone
    folder = HERE / "goldens" / "families" / family
    _rounded(model, folder)
    with torch.no_grad():
        out = model(**as_torch(arrays | positions), use_cache=False, output_hidden_states=True)
    expected = {"logits": out.logits.numpy(), "embeddings": out.hidden_states[0].numpy()}
    np.savez_compressed(folder / "expected.npz", **arrays, **expected)


def _store(model, folder: Path, seed: int, *, unsaved: tuple[str, ...] = ()) -> None:
    """The model in float16, and what torch says of those numbers in float32; what no file holds stays in float32."""
    _rounded(model, folder, unsaved=unsaved)
    arrays = random_batch(seed, batch=2, source=6, target=5)
    with torch.no_grad():
        out = model(**as_torch(arrays), use_cache=False, output_hidden_states=True)
    expected = {
        "logits": out.logits,
        "encoder_last_hidden_state": out.encoder_last_hidden_state,
        "decoder_embeddings": out.decoder_hidden_states[0],
    }
    expected = {name: tensor.numpy() for name, tensor in expected.items()}
    np.savez_compressed(folder / "expected.npz", **arrays, **expected)


def _rounded(model, folder: Path, *, unsaved: tuple[str, ...] = ()) -> None:
    """Save the model in float16, and give it those numbers; what no file holds stays in float32."""
    shutil.rmtree(folder, ignore_errors=True)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not any(part in name for part in unsaved):
                tensor.copy_(torch.zeros_like(tensor) if name.endswith("_float_tensor") else tensor.half())
    saved(model, folder)
    file = folder / "model.safetensors"
    halves = {name: t if name.endswith("_float_tensor") else t.half() for name, t in load_file(file).items()}
    save_file(halves, file, metadata={"format": "pt"})


def cases() -> dict[str, Callable[[], None]]:
    """Every folder, and what makes it."""
    every: dict[str, Callable[[], None]] = {name: functools.partial(make, name) for name in CASES}
    every |= {"+".join(pair): functools.partial(make_family_pair, *pair, at) for at, pair in enumerate(STORED)}
    every |= {name: functools.partial(make_whole, name, at) for at, name in enumerate({**BARTS, **T5S})}
    every["t5gemma"] = make_t5gemma
    return every | {name: functools.partial(make_causal, name) for name in CAUSAL}


if __name__ == "__main__":
    found = cases()
    for name in sys.argv[1:] or found:
        found[name]()
    size = sum(file.stat().st_size for file in (HERE / "goldens").rglob("*") if file.is_file())
    print(f"{len(list((HERE / 'goldens').rglob('expected.npz')))} cases, {size / 1e6:.2f} MB")
