"""Tiny checkpoint folders in Hugging Face's format, spelled out by hand. Knows nothing of this library's tables."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

HIDDEN, INNER, VOCAB, POSITIONS, LAYERS, HEADS = 8, 12, 17, 10, 2, 2

BERT_CONFIG = {
    "model_type": "bert",
    "architectures": ["BertForMaskedLM"],
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "max_position_embeddings": POSITIONS,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "pad_token_id": 0,
}
GPT2_CONFIG = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "vocab_size": VOCAB,
    "n_embd": HIDDEN,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_positions": POSITIONS,
    "n_ctx": POSITIONS,
    "bos_token_id": 5,
    "eos_token_id": 5,
}

Tensors = dict[str, np.ndarray]


def _filled(shapes: dict[str, tuple[int, ...]], seed: int) -> Tensors:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def _both(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (HIDDEN,), f"{name}.bias": (HIDDEN,)}


def bert_tensors(prefix: str = "bert.", *, pooler: bool = True, cross: bool = False, seed: int = 0) -> Tensors:
    """A BERT base model's tensors."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (VOCAB, HIDDEN),
        "embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
        **_norm("embeddings.LayerNorm"),
    }
    for i in range(LAYERS):
        for attention in ("attention", "crossattention") if cross else ("attention",):
            for part in ("query", "key", "value"):
                shapes |= _both(f"encoder.layer.{i}.{attention}.self.{part}", HIDDEN, HIDDEN)
            shapes |= _both(f"encoder.layer.{i}.{attention}.output.dense", HIDDEN, HIDDEN)
            shapes |= _norm(f"encoder.layer.{i}.{attention}.output.LayerNorm")
        shapes |= _both(f"encoder.layer.{i}.intermediate.dense", INNER, HIDDEN)
        shapes |= _both(f"encoder.layer.{i}.output.dense", HIDDEN, INNER)
        shapes |= _norm(f"encoder.layer.{i}.output.LayerNorm")
    if pooler:
        shapes |= _both("pooler.dense", HIDDEN, HIDDEN)
    return {prefix + name: array for name, array in _filled(shapes, seed).items()}


def bert_head(seed: int = 1) -> Tensors:
    """BERT's masked-language-model head, tied."""
    transform = "cls.predictions.transform"
    shapes = {"cls.predictions.bias": (VOCAB,), **_both(f"{transform}.dense", HIDDEN, HIDDEN)}
    return _filled({**shapes, **_norm(f"{transform}.LayerNorm")}, seed)


def gpt2_tensors(prefix: str = "transformer.", *, cross: bool = False, seed: int = 2) -> Tensors:
    """A GPT-2 base model's tensors; its linear weights are (in, out)."""
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (VOCAB, HIDDEN),
        "wpe.weight": (POSITIONS, HIDDEN),
        **_norm("ln_f"),
    }

    def conv(name: str, into: int, out: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (into, out), f"{name}.bias": (out,)}

    for i in range(LAYERS):
        shapes |= _norm(f"h.{i}.ln_1") | _norm(f"h.{i}.ln_2")
        shapes |= conv(f"h.{i}.attn.c_attn", HIDDEN, 3 * HIDDEN) | conv(f"h.{i}.attn.c_proj", HIDDEN, HIDDEN)
        shapes |= conv(f"h.{i}.mlp.c_fc", HIDDEN, 4 * HIDDEN) | conv(f"h.{i}.mlp.c_proj", 4 * HIDDEN, HIDDEN)
        if cross:
            shapes |= _norm(f"h.{i}.ln_cross_attn") | conv(f"h.{i}.crossattention.q_attn", HIDDEN, HIDDEN)
            shapes |= conv(f"h.{i}.crossattention.c_attn", HIDDEN, 2 * HIDDEN)
            shapes |= conv(f"h.{i}.crossattention.c_proj", HIDDEN, HIDDEN)
    return {prefix + name: array for name, array in _filled(shapes, seed).items()}


def pair_config(**changes: Any) -> dict[str, Any]:
    """BERT to GPT-2, as a recent version of transformers writes it."""
    return {
        "model_type": "encoder-decoder",
        "is_encoder_decoder": True,
        "architectures": ["EncoderDecoderModel"],
        "encoder": BERT_CONFIG,
        "decoder": {**GPT2_CONFIG, "is_decoder": True, "add_cross_attention": True},
        **changes,
    }


def pair_tensors() -> Tensors:
    """BERT to GPT-2, of equal widths."""
    return bert_tensors("encoder.") | gpt2_tensors("decoder.transformer.", cross=True)


def write_tied_pair(folder: Path, **settings: Any) -> Path:
    """BERT to BERT with `tie_encoder_decoder`, as torch writes it: the decoder's tensors, and the encoder's pooler."""
    bert = {**BERT_CONFIG, "bos_token_id": 2, "eos_token_id": 3}
    decoder = {**bert, "is_decoder": True, "add_cross_attention": True}
    config = {"model_type": "encoder-decoder", "encoder": bert, "decoder": decoder, "tie_encoder_decoder": True}
    tensors = bert_tensors("decoder.bert.", pooler=False, cross=True)
    tensors |= {f"decoder.{name}": value for name, value in bert_head().items()}
    tensors |= {f"encoder.{name}": value for name, value in bert_tensors("").items() if name.startswith("pooler.")}
    return write(folder, config, tensors, generation_config={"num_beams": 2, "max_length": 9, **settings})


def write(folder: Path, config: dict[str, Any] | None, tensors: Tensors, **files: dict[str, Any]) -> Path:
    """A folder with `config.json`, `model.safetensors` and further JSON files."""
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_shards(folder: Path, config: dict[str, Any], tensors: Tensors, count: int = 2) -> Path:
    """The same in several files with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    weight_map = {}
    for shard in range(count):
        file = f"model-{shard + 1:05}-of-{count:05}.safetensors"
        part = dict(list(tensors.items())[shard::count])
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def read_back(folder: Path) -> Tensors:
    """The tensors of a saved folder, by the reference implementation of the format."""
    return load_file(folder / "model.safetensors")


def same_tensors(left: Tensors, right: Tensors) -> bool:
    """Whether names, dtypes, shapes and bytes are all equal."""
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and left[name].tobytes() == right[name].tobytes()
        for name in left
    )
