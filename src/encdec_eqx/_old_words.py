"""Words of `FlaxEncoderDecoderModel` and of transformers, and what is said here instead: errors that teach.

A decorated method keeps its signature; `TaughtAttributes` is for classes that
had attributes which are gone. `docs/migrating_from_flax.md` has the whole story.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import equinox as eqx

from ._typing import refusing

_Function = TypeVar("_Function", bound=Callable[..., Any])
_PAGE = "docs/migrating_from_flax.md has all that differs."

_NO_PARAMS = (
    "there are no parameters beside the model: the model itself is the pytree that holds them. Leave it out, and "
    "pass another model to use other values (equinox.tree_at makes one)."
)
_KEY = "pass a PRNG key as key= to turn dropout on; without one the call is deterministic. There is no train mode."
_DRAW_KEY = "pass the PRNG key as key=."
_DTYPE = "pass dtype= (a jax dtype; None keeps each tensor's own)."
_ONE_FORMAT = (
    "leave it out: config.json with model.safetensors is the one format, torch's own, read and written alike; "
    "flax_model.msgpack is read without being asked for."
)
_ALWAYS = "leave it out: results are always objects with named fields."

_CALL = {
    "labels": "shift them with shift_tokens_right(labels, pad_token_id, decoder_start_token_id) to make "
    "decoder_input_ids, and compare out.logits with them by seq2seq_loss(out.logits, labels).",
    "train": _KEY,
    "deterministic": _KEY,
    "dropout_rng": "pass it as key=.",
    "rngs": "pass one PRNG key as key=.",
    "params": _NO_PARAMS,
    "return_dict": _ALWAYS,
    "past_key_values": "pass cache= to model.decode(...): model.init_cache(...) makes one, out.cache is the next.",
    "use_cache": "pass cache=, which model.init_cache(...) makes, to model.decode(...).",
    "decoder_inputs_embeds": "the decoder takes ids alone: decoder_input_ids.",
    "head_mask": "it is not built.",
    "decoder_head_mask": "it is not built.",
    "cross_attn_head_mask": "it is not built.",
}
_GENERATE = {
    "prng_key": _DRAW_KEY,
    "rng": _DRAW_KEY,
    "seed": "pass a PRNG key as key=jax.random.key(seed).",
    "params": _NO_PARAMS,
    "train": "leave it out: generating never has dropout.",
    "trace": "leave it out: the loop is always compiled, once per bucket.",
}
_LOAD = {
    "from_pt": _ONE_FORMAT,
    "from_flax": _ONE_FORMAT,
    "from_tf": _ONE_FORMAT,
    "use_safetensors": _ONE_FORMAT,
    "params": _NO_PARAMS,
    "_do_init": "leave it out: a model always holds its arrays.",
    "config": "leave it out: config.json beside the weights is read. Single attributes can be set by their names.",
    "torch_dtype": _DTYPE,
    "seed": "pass a PRNG key as key=jax.random.key(seed); it initialises what is new.",
    "input_shape": "leave it out: nothing is traced when a model is loaded.",
    "use_auth_token": "pass token=.",
    "trust_remote_code": "leave it out: no code of a repository is ever run.",
    "ignore_mismatched_sizes": "load as it is, and use resize_token_embeddings(n, key=key) for another vocabulary.",
    "device_map": "leave it out: encdec_eqx.with_mesh(model, mesh) spreads a model over devices.",
    "load_in_8bit": 'encdec_eqx.quantize(model, "int8") rounds a loaded model, for CPUs.',
}
_SAVE = {
    "params": _NO_PARAMS,
    "push_to_hub": "call model.push_to_hub(repo_id), which saves and uploads; or upload a folder that was saved, with "
    "huggingface_hub.upload_folder(...).",
    "safe_serialization": _ONE_FORMAT,
    "state_dict": _NO_PARAMS,
}
_METHODS: Mapping[str, Mapping[str, str]] = {
    "__call__": _CALL,
    "encode": {**_CALL, "labels": "they belong to the decoder's side."},
    "decode": {**_CALL, "encoder_hidden_states": "pass what model.encode(...) returned as encoder_outputs."},
    "init_cache": {
        "batch_size": "leave it out: model.init_cache(encoder_outputs, max_length) knows the batch from the states.",
        "decoder_input_ids": "leave it out: model.init_cache(encoder_outputs, max_length).",
    },
    "generate": _GENERATE,
    "stream": _GENERATE,
    "from_pretrained": _LOAD,
    "from_encoder_decoder_pretrained": {
        **_LOAD,
        **{
            name: f"name the two by position: from_encoder_decoder_pretrained(encoder, decoder, key=key); not {name}=."
            for name in ("encoder_pretrained_model_name_or_path", "decoder_pretrained_model_name_or_path")
        },
        **{f"{side}_{name}": said for side in ("encoder", "decoder") for name, said in _LOAD.items()},
        **{f"{side}_model": "load from folders here, or join loaded pieces with EncoderDecoder.from_pieces(encoder, "
           "decoder, key=key)." for side in ("encoder", "decoder")},
    },
    "save_pretrained": _SAVE,
}  # fmt: skip

_ATTRIBUTES = {
    "params": "the model itself is the pytree of its arrays: jax.tree.map, equinox.tree_at and optimizer.init(model) "
    "take it as it is",
    "params_shape_tree": "the model itself is the pytree: jax.tree.map(jnp.shape, model)",
    "config": "each piece has its own: model.encoder.config and model.decoder.config; token ids are in "
    "model.special_tokens, and model.with_special_tokens(...) sets them",
    "module": "the model is the module: call it",
    "init_weights": "from_pretrained, from_pieces and Encoder.init make arrays; the model holds them",
    "to_bf16": "model.astype(jnp.bfloat16) returns another model",
    "to_fp16": "model.astype(jnp.float16) returns another model",
    "to_fp32": "model.astype(jnp.float32) returns another model",
    "dtype": "arrays have one each: model.decoder.embeddings.tokens.weight.dtype; model.astype(...) converts",
    "enable_gradient_checkpointing": 'model.with_layout("scanned", remat=True) recomputes in the backward pass',
    "gradient_checkpointing_enable": 'model.with_layout("scanned", remat=True) recomputes in the backward pass',
    "train": "there is no mode: dropout acts where a call is given key=",
    "eval": "there is no mode: dropout acts where a call is given key=",
    "to": "jax.device_put(model, device) places the arrays",
    "parameters": "jax.tree.leaves(model) lists the arrays",
    "named_parameters": "jax.tree_util.tree_leaves_with_path(model) lists the arrays with their places",
    "state_dict": "the model itself is the pytree of its arrays",
    "num_parameters": "sum(x.size for x in jax.tree.leaves(model)) counts them",
    "get_encoder": "model.encoder is the encoder, and model.encode(...) runs it",
    "get_decoder": "model.decoder is the decoder, and model.decode(...) runs it",
    "loss": "seq2seq_loss(out.logits, labels) computes it",
    "past_key_values": "out.cache is the cache after a call of decode with cache=",
}


def taught(method: _Function) -> _Function:
    """A method of a name in this file's table that meets an old word with what is said now, before anything happens."""
    return refusing(method, _METHODS[method.__name__], refuse_old_words)


def refuse_old_words(method: Callable, args: Sequence[Any], names: Iterable[str]) -> None:
    """Raise a `TypeError` if one of the names of arguments is an old word, or `args` are of the old form."""
    words = _METHODS[method.__name__]
    for name in names:
        if name in words:
            raise TypeError(f"{method.__qualname__} takes no {name}=: {words[name]} {_PAGE}")
    if method.__name__ == "init_cache":
        raise TypeError(
            f"{method.__qualname__} takes what model.encode(...) returned first, got {args[1]}: "
            f"model.init_cache(encoder_outputs, max_length). {_PAGE}"
        )


class TaughtAttributes(eqx.Module):
    """A module whose old attributes say where things are now. Type checkers are told of none."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            said = f": {_ATTRIBUTES[name]}. {_PAGE}" if name in _ATTRIBUTES else ""
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{said}", name=name, obj=self)
