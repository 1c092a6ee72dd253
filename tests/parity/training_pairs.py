"""Tiny pairs in torch and here, a batch, the loss by torch, and arrays under torch's names. Knows no test."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from encdec_eqx import EncoderDecoder, shift_tokens_right
from hf import VOCAB, random_pair, saved, tiny_bert, tiny_gpt2, tiny_roberta

STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
GPT2_STILL = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
PAIRS = {
    "bert_gpt2_projected": lambda: (tiny_bert(**STILL), tiny_gpt2(**GPT2_STILL)),
    "bert_bert_untied": lambda: (tiny_bert(**STILL), tiny_bert(tie_word_embeddings=False, **STILL)),
    "roberta_roberta": lambda: (tiny_roberta(**STILL), tiny_roberta(**STILL)),
    "gpt2_bert_relative": lambda: (tiny_gpt2(**GPT2_STILL), tiny_bert(position_embedding_type="relative_key", **STILL)),
}
SMOOTHING = 0.1


def both(pair: str, folder: Path) -> tuple[Any, EncoderDecoder]:
    """The pair in torch, and loaded here."""
    encoder, decoder = PAIRS[pair]()
    reference = random_pair(encoder, decoder, pad_token_id=1, decoder_start_token_id=2, eos_token_id=3)
    return reference, EncoderDecoder.from_pretrained(saved(reference, folder))


def batch(seed: int = 0) -> dict[str, np.ndarray]:
    """With ids equal to the padding id on both sides, inside the masks and outside."""
    rng = np.random.default_rng(seed)
    lengths = np.array([9, 6, 2])
    mask = (np.arange(9) < lengths[:, None]).astype(np.int32)
    labels = rng.integers(0, VOCAB, (3, 7), dtype=np.int32)
    labels[1, 4:] = labels[2, 2] = -100
    return {
        "input_ids": np.where(mask == 1, rng.integers(0, VOCAB, (3, 9), dtype=np.int32), 1),
        "attention_mask": mask,
        "labels": labels,
    }


def torch_loss(model: Any, given: dict[str, np.ndarray]) -> torch.Tensor:
    """Not `labels=`, which hides decoder inputs that equal the padding id."""
    ids = np.array(shift_tokens_right(given["labels"], 1, 2))
    logits = model(
        input_ids=torch.from_numpy(given["input_ids"]).long(),
        attention_mask=torch.from_numpy(given["attention_mask"]).long(),
        decoder_input_ids=torch.from_numpy(ids).long(),
        decoder_attention_mask=torch.ones(ids.shape, dtype=torch.long),
        use_cache=False,
    ).logits
    labels = torch.from_numpy(given["labels"]).long()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=SMOOTHING)


def by_torch_names(model: EncoderDecoder, folder: Path) -> dict[str, np.ndarray]:
    """A tree of the model's shape under Hugging Face's names: it is saved as if it were a model."""
    model.with_layout("unrolled").save_pretrained(folder)
    return load_file(folder / "model.safetensors")
