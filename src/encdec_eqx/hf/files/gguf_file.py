"""GGUF, llama.cpp's files of quantized models: one is made a folder of Hugging Face's format, tokenizer included."""

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..._installing import install
from ..._quoting import printable, quoted
from ..._writing import whole_folder
from . import MissingFileError
from .folder import CONFIG, WEIGHTS, check_new_folder
from .safetensors_file import write_file

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"

_ATTRIBUTES = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "vocab_size": "vocab_size",
}
_REAL = ("attention.layer_norm_rms_epsilon", "rope.freq_base")
"""The keys of numbers that are not whole."""

_IMPLIED = ("rope.dimension_count", "attention.value_length")
"""Keys whose values follow from others in every Llama."""

_TOKENS = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "padding_token_id": "pad_token_id"}

_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ROTATED = {"self_attn.q_proj": "num_attention_heads", "self_attn.k_proj": "num_key_value_heads"}

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_DIGITS = {"type": "Digits", "individual_digits": True}
_SPLITS = {
    "gpt-2": _BYTE_LEVEL,
    "default": _BYTE_LEVEL,
    "smollm": {"type": "Sequence", "pretokenizers": [_DIGITS, _BYTE_LEVEL]},
}
"""How text is split before pairs are merged, by the name that llama.cpp has for it."""

_INSTEAD = "Convert with tokenizer=False, and put the tokenizer.json of the model it was made from into the folder."

_CONTROL, _USER_DEFINED = 3, 4
"""Types of tokens that are never split."""


def convert_gguf(file: str | os.PathLike, folder: str | os.PathLike, *, tokenizer: bool = True) -> Path:
    """Make a GGUF file a folder that everything here, and transformers, loads.

    Quantized weights become float32, four bytes a number: Q4_1's become six times as large on disk. One tensor is in
    memory at a time. Queries and keys are put back into the order in which Hugging Face rotates them. The format is
    described in github.com/ggml-org/ggml/blob/master/docs/gguf.md.

    Args:
        file: a `.gguf` file of a Llama (`general.architecture` is `"llama"`).
        folder: where `config.json`, `model.safetensors`, `tokenizer.json` and `tokenizer_config.json` go: a new or an
            empty folder.
        tokenizer: whether to make `tokenizer.json`. Byte-level BPE as GPT-2 and SmolLM split text can be made.

    Returns:
        The folder.

    Raises:
        ImportError: the `gguf` package is not installed.
        MissingFileError: there is no such file.
        ValueError: it is damaged, holds what no Llama has, or the folder is not empty.
        NotImplementedError: another architecture, scaled rotations, experts, or another kind of tokenizer.
    """
    source, target = Path(file).expanduser(), Path(folder).expanduser().resolve()
    check_new_folder(target)
    fields, tensors, dequantize = _opened(source)
    config = _config(fields, source)
    named = {_name(name, source): tensor for name, tensor in tensors.items()}
    said = {**config, "tie_word_embeddings": "lm_head.weight" not in named}
    texts = {CONFIG: said}
    if tokenizer:
        texts |= {TOKENIZER: _tokenizer(fields, source), TOKENIZER_CONFIG: _tokenizer_config(fields)}

    with whole_folder(target) as aside:
        float32 = np.dtype(np.float32)
        write_file(
            aside / WEIGHTS,
            (
                (
                    name,
                    _shape(tensor),
                    float32,
                    lambda name=name, tensor=tensor: _array(name, tensor, config, dequantize),
                )
                for name, tensor in named.items()
            ),
        )
        for name, value in texts.items():
            (aside / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return target


def _opened(source: Path) -> tuple[dict[str, Any], dict[str, Any], Callable[..., np.ndarray]]:
    """The file's values and its tensors by their names, and what makes a tensor float32."""
    try:
        import gguf
        from gguf.quants import dequantize
    except ImportError:
        raise ImportError(
            f"reading {printable(source)} needs gguf, which is not installed: {install('gguf')}"
        ) from None
    if not source.is_file():
        raise MissingFileError(f"there is no file {printable(source)} (looked from {Path.cwd()}).")
    try:
        reader = gguf.GGUFReader(source)
        values = {name: field.contents() for name, field in reader.fields.items()}
        return values, {tensor.name: tensor for tensor in reader.tensors}, dequantize
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, MemoryError) as error:
        raise ValueError(
            f"{printable(source)} is no GGUF file, or it is damaged ({printable(str(error), 200)}): download or copy "
            "it again."
        ) from None


def _config(fields: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """The attributes of a Llama's config that the file states."""
    kind = fields.get("general.architecture")
    if kind != "llama":
        raise NotImplementedError(
            f"{printable(source)}: general.architecture is {quoted(kind)}; expected 'llama'. Others are not read from "
            "GGUF: take the model in Hugging Face's format."
        )
    own = {name.removeprefix("llama."): value for name, value in fields.items() if name.startswith("llama.")}
    unread = {
        name: value
        for name, value in own.items()
        if name not in _ATTRIBUTES and name not in _IMPLIED and not (name == "rope.scaling.type" and value == "none")
    }
    if unread:
        named = ", ".join(f"llama.{name} = {quoted(value)}" for name, value in sorted(unread.items()))
        raise NotImplementedError(
            f"{printable(source)} states {printable(named, 500)}, which is not read from GGUF and would change the "
            "model: take it in Hugging Face's format."
        )
    required = ("block_count", "embedding_length", "feed_forward_length", "attention.head_count")
    if absent := [name for name in required if name not in own]:
        raise ValueError(f"{printable(source)} lacks llama.{', llama.'.join(absent)}: no Llama can be made of it.")
    stated = {name: value for name, value in own.items() if name in _ATTRIBUTES}
    for name, value in stated.items():
        real = name in _REAL
        if not isinstance(value, (int, float) if real else int) or not (value > 0 if real else value >= 1):
            expected = "a number above 0" if real else "a whole number of at least 1, the same for all layers"
            raise ValueError(f"{printable(source)} states llama.{name} = {quoted(value)}; expected {expected}.")
    config = {_ATTRIBUTES[name]: _shortest(value) for name, value in stated.items()}
    config.setdefault("num_key_value_heads", config["num_attention_heads"])
    config |= {
        ours: fields[f"tokenizer.ggml.{theirs}"]
        for theirs, ours in _TOKENS.items()
        if f"tokenizer.ggml.{theirs}" in fields
    }
    if "vocab_size" not in config:
        config["vocab_size"] = _vocab_size(fields)
    return {**config, "model_type": "llama", "architectures": ["LlamaForCausalLM"], "dtype": "float32"}


def _vocab_size(fields: Mapping[str, Any]) -> int:
    tokens = fields.get("tokenizer.ggml.tokens")
    return len(tokens) if isinstance(tokens, list) else 0


def _shortest(value: Any) -> Any:
    """A float32 as people write it: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _name(theirs: str, source: Path) -> str:
    """Hugging Face's name of a tensor."""
    found = re.fullmatch(r"(?:blk\.(?P<layer>\d+)\.)?(?P<part>\w+)\.weight", theirs)
    if found is not None:
        layer, part = found["layer"], found["part"]
        if layer is None and part in _NAMES:
            return f"{_NAMES[part]}.weight"
        if layer is not None and part in _IN_LAYER:
            return f"model.layers.{int(layer)}.{_IN_LAYER[part]}.weight"
    raise NotImplementedError(
        f"{printable(source)} has a tensor {quoted(theirs)}, which no plain Llama has: take the model in Hugging "
        "Face's format."
    )


def _shape(tensor: Any) -> tuple[int, ...]:
    """The last axis comes first in the file."""
    return tuple(int(size) for size in reversed(tensor.shape))


def _array(name: str, tensor: Any, config: Mapping[str, Any], dequantize: Callable[..., np.ndarray]) -> np.ndarray:
    """A tensor in float32, queries and keys in the order of Hugging Face."""
    array = dequantize(tensor.data, tensor.tensor_type).reshape(_shape(tensor))
    heads = next((config[count] for part, count in _ROTATED.items() if f".{part}." in name), None)
    if heads is None:
        return array
    if array.shape[0] % (2 * heads):
        raise ValueError(f"{name} has {array.shape[0]} rows, which {heads} heads cannot share in pairs: it is damaged.")
    # there the two numbers that rotate together are neighbours, here they stand half a head apart
    pairs = array.reshape(heads, -1, 2, array.shape[-1])
    return pairs.swapaxes(1, 2).reshape(array.shape)


def _tokenizer(fields: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """The content of `tokenizer.json`, as the tokenizers library reads it."""
    kind, split = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or not isinstance(split, str) or split not in _SPLITS:
        raise NotImplementedError(
            f"{printable(source)} has a tokenizer of kind {quoted(kind)} that splits text as {quoted(split)}; expected "
            f"kind 'gpt2' and one of {', '.join(_SPLITS)}. {_INSTEAD}"
        )
    _check_vocabulary(fields, source)
    tokens = fields["tokenizer.ggml.tokens"]
    types = fields.get("tokenizer.ggml.token_type", [1] * len(tokens))
    whole = [at for at, kind in enumerate(types) if kind in (_CONTROL, _USER_DEFINED)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": at, "content": tokens[at], **flags, "special": types[at] == _CONTROL} for at in whole],
        "normalizer": None,
        "pre_tokenizer": _SPLITS[split],
        "post_processor": _begins_with(fields, tokens),
        "decoder": {**_BYTE_LEVEL, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: at for at, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in fields["tokenizer.ggml.merges"]],
        },
    }


def _check_vocabulary(fields: Mapping[str, Any], source: Path) -> None:
    """That the parts of a tokenizer are there and fit each other.

    Raises:
        ValueError: one does not.
    """
    kinds = {"tokens": (str, None), "merges": (str, None), "token_type": (int, [])}
    for part, (kind, default) in kinds.items():
        listed = fields.get(f"tokenizer.ggml.{part}", default)
        if not isinstance(listed, list) or not all(isinstance(entry, kind) for entry in listed):
            raise ValueError(f"{printable(source)} has tokenizer.ggml.{part} = {quoted(listed)}. {_INSTEAD}")
    count = len(fields["tokenizer.ggml.tokens"])
    if len(fields.get("tokenizer.ggml.token_type", range(count))) != count:
        raise ValueError(f"{printable(source)} has another number of token types than of tokens, {count}. {_INSTEAD}")
    for name in (f"tokenizer.ggml.{theirs}" for theirs in _TOKENS):
        at = fields.get(name, 0)
        if not isinstance(at, int) or not 0 <= at < count:
            raise ValueError(f"{printable(source)} has {name} = {quoted(at)}, and {count} tokens. {_INSTEAD}")
    first = fields.get("tokenizer.ggml.add_bos_token", False)
    if first and "tokenizer.ggml.bos_token_id" not in fields:
        raise ValueError(f"{printable(source)} puts a token in front of texts that it does not name. {_INSTEAD}")


def _tokenizer_config(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers wants to know besides, or it would make a tokenizer of Llama 1 of the file."""
    tokens = fields["tokenizer.ggml.tokens"]
    special = {
        ours.removesuffix("_id"): tokens[fields[f"tokenizer.ggml.{theirs}"]]
        for theirs, ours in _TOKENS.items()
        if f"tokenizer.ggml.{theirs}" in fields
    }
    template = fields.get("tokenizer.chat_template")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special,
        **({} if template is None else {"chat_template": template}),
    }


def _begins_with(fields: Mapping[str, Any], tokens: list[str]) -> dict[str, Any] | None:
    """What puts the first token in front of every text, where the file says that one stands there."""
    if not fields.get("tokenizer.ggml.add_bos_token", False):
        return None
    at = fields["tokenizer.ggml.bos_token_id"]
    first = {"SpecialToken": {"id": tokens[at], "type_id": 0}}
    sequences = [{"Sequence": {"id": name, "type_id": kind}} for kind, name in enumerate("AB")]
    return {
        "type": "TemplateProcessing",
        "single": [first, sequences[0]],
        "pair": [first, sequences[0], {"SpecialToken": {"id": tokens[at], "type_id": 1}}, sequences[1]],
        "special_tokens": {tokens[at]: {"id": tokens[at], "ids": [at], "tokens": [tokens[at]]}},
    }
