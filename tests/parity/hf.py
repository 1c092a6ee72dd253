"""Tiny random Hugging Face models to compare with. Knows nothing of this library.

Every parameter is randomised: what an initialiser leaves at 0 or 1 (biases, norms, token types) hides errors.
"""

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModel,
    BertConfig,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    GPT2Config,
    MT5EncoderModel,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    T5EncoderModel,
    UMT5EncoderModel,
)

# A thread is enough for tiny models; several, in several workers, would wait for each other most of the time.
torch.set_num_threads(1)

VOCAB = 61
"""Ids of the tiny models; prime, so that no other size is taken for it."""


T5_ENCODERS = {"t5": T5EncoderModel, "mt5": MT5EncoderModel, "umt5": UMT5EncoderModel}
"""Torch's classes for encoders alone, of families that have one beside those of both pieces."""


def tiny_bert(**changes: Any) -> BertConfig:
    """Three layers of width 24."""
    settings = {
        "vocab_size": VOCAB,
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 40,
        "max_position_embeddings": 32,
        "type_vocab_size": 3,
        "layer_norm_eps": 3e-6,
    }
    return BertConfig(**{**settings, **changes})


def tiny_roberta(**changes: Any) -> RobertaConfig:
    """Two layers of width 24; padding is 1, so positions start at 2."""
    settings = {
        "vocab_size": VOCAB,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 36,
        "max_position_embeddings": 34,
        "type_vocab_size": 1,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    return RobertaConfig(**{**settings, **changes})


def tiny_gpt2(**changes: Any) -> GPT2Config:
    """Three layers of width 20."""
    settings = {
        "vocab_size": VOCAB,
        "n_embd": 20,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": 32,
        "bos_token_id": 3,
        "eos_token_id": 3,
    }
    return GPT2Config(**{**settings, **changes})


def randomise(model: PreTrainedModel, seed: int, spread: float = 0.15) -> PreTrainedModel:
    """Normal noise on every parameter, around 1 for the scales of norms; the model is put in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_scale = parameter.ndim == 1 and name.endswith("weight")
            parameter.normal_(1.0 if is_scale else 0.0, spread, generator=generator)
    model.tie_weights()
    return model.eval()


def random_pair(
    encoder: PretrainedConfig, decoder: PretrainedConfig, *, seed: int = 0, **settings: Any
) -> EncoderDecoderModel:
    """An encoder and a decoder joined, randomised, with eager attention (which alone honours every option)."""
    decoder.is_decoder = True
    decoder.add_cross_attention = True
    config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder, **settings)
    config._attn_implementation = "eager"
    config.encoder._attn_implementation = "eager"
    config.decoder._attn_implementation = "eager"
    model = EncoderDecoderModel(config, encoder=_encoder_alone(config.encoder))
    for name, value in settings.items():
        if name.endswith("_token_id"):
            setattr(model.generation_config, name, value)
    randomised: Any = randomise(mended(model), seed)
    return randomised


def mended(model: EncoderDecoderModel) -> EncoderDecoderModel:
    """The same model, with attention that attends to what it should if it is BigBird's decoder.

    Torch hands that decoder's self-attention the encoder's states too, to which it then attends in place of the target
    (no position sees the ones before it); its cross-attention gets no mask of the source; and one cache serves both.
    """
    if model.config.decoder.model_type == "big_bird":
        for layer in model.decoder.bert.encoder.layer:
            layer.attention.forward = functools.partial(_without_states, layer.attention.forward)
            layer.crossattention.forward = functools.partial(_with_mask, layer.crossattention.forward)
    return model


def _without_states(
    attend: Callable[..., Any], *args: Any, encoder_hidden_states: Any, encoder_attention_mask: Any, **others: Any
) -> Any:
    del encoder_hidden_states, encoder_attention_mask
    return attend(*args, **others)


def _with_mask(attend: Callable[..., Any], *args: Any, attention_mask: Any, **others: Any) -> Any:
    return attend(*args, attention_mask=attention_mask, encoder_attention_mask=attention_mask, **others)


def _encoder_alone(config: PretrainedConfig) -> PreTrainedModel | None:
    """The encoder of a family whose base model holds a decoder as well; None where the base model is the encoder."""
    if not config.is_encoder_decoder:
        return None
    if config.model_type in T5_ENCODERS:
        return T5_ENCODERS[config.model_type](config)
    base = AutoModel.from_config(config, attn_implementation="eager")
    return base.get_encoder()


def saved(model: PreTrainedModel, folder: Path) -> Path:
    """The folder with the model's files in it."""
    with warnings.catch_warnings():
        # a pair's own config says 0 where Blenderbot's class says 3, of generation without repeated runs
        warnings.filterwarnings("ignore", message="Moving the following attributes in the config")
        model.save_pretrained(folder)
    return folder


def random_batch(
    seed: int, *, batch: int = 3, source: int = 9, target: int = 7, padding: str = "right", low: int = 4
) -> dict[str, np.ndarray]:
    """Ids and masks: the first row full, the others padded more and more, on the side named."""
    rng = np.random.default_rng(seed)

    def mask(length: int) -> np.ndarray:
        lengths = np.maximum(length - 2 * np.arange(batch), 2)
        right = (np.arange(length)[None] < lengths[:, None]).astype(np.int32)
        return right if padding == "right" else right[:, ::-1].copy()

    return {
        "input_ids": rng.integers(low, VOCAB, (batch, source), dtype=np.int32),
        "attention_mask": mask(source),
        "decoder_input_ids": rng.integers(low, VOCAB, (batch, target), dtype=np.int32),
        "decoder_attention_mask": mask(target),
    }


def as_torch(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The same arrays for torch; ids and masks as int64."""
    return {
        name: torch.from_numpy(array.astype(np.int64) if array.dtype.kind in "iub" else array)
        for name, array in arrays.items()
    }
