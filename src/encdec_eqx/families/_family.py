"""What a family is: how its Hugging Face config reads and writes, and the names of its tensors.

Data and the few functions that interpret it. Knows nothing of files, arrays or model classes.

A config's attribute is handled (it has a default in `Family.attributes`), ignored for a reason (`IGNORED` here, or the
family's own), or allowed only at one value (`FIXED`): anything else is an error that names it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from ..config import LayerSpec, StackConfig

Row = tuple[str, str, str]
Role = Literal["encoder", "decoder"]

COMMON: Mapping[str, Any] = {
    "model_type": None,
    "is_decoder": False,
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "decoder_start_token_id": None,
}
"""Attributes of every family that are handled, with their defaults."""

FIXED: Mapping[str, tuple[Any, str]] = {
    "pruned_heads": ({}, "pruned attention heads are not supported; load the model before it was pruned"),
    "quantization_config": (None, "quantised weights are not supported; load the model before it was quantised"),
    "auto_map": (
        None,
        "the model comes with code of its own, which is never run; its architecture is not this family's",
    ),
    "is_encoder_decoder": (False, "one encoder or decoder is expected here, not a pair"),
}
"""Attributes that are accepted only at the value given, and why."""


def _all(names: str, reason: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), reason)


IGNORED: Mapping[str, str] = {
    **_all("output_hidden_states output_attentions return_dict use_return_dict", "an argument of the call here"),
    **_all("use_cache output_past", "caching is chosen by the call here"),
    **_all("torchscript gradient_checkpointing xla_device use_bfloat16 tf_legacy_loss", "how torch or TensorFlow runs"),
    **_all("chunk_size_feed_forward", "saves torch memory and changes no number"),
    **_all("attn_implementation _attn_implementation _attn_implementation_autoset", "how torch computes attention"),
    **_all("dtype torch_dtype", "the tensors' own dtype and the `dtype` argument decide"),
    **_all("tie_encoder_decoder", "read from the pair's config"),
    **_all("architectures finetuning_task transformers_version _name_or_path name_or_path _commit_hash", "history"),
    **_all("_from_model_config model_card tags", "history"),
    **_all("id2label label2id num_labels _num_labels problem_type classifier_dropout", "of classification heads"),
    **_all("tokenizer_class prefix sep_token_id cls_token_id mask_token_id unk_token_id", "of the tokenizer"),
    **_all("task_specific_params max_length max_new_tokens min_length do_sample early_stopping", "of generation"),
    **_all("num_beams temperature top_k top_p typical_p repetition_penalty length_penalty", "of generation"),
    **_all("no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids", "of generation"),
    **_all("num_return_sequences output_scores return_dict_in_generate forced_bos_token_id", "of generation"),
    **_all("forced_eos_token_id remove_invalid_values exponential_decay_length_penalty", "of generation"),
    **_all("suppress_tokens begin_suppress_tokens num_beam_groups diversity_penalty", "of generation"),
}
"""Attributes of any family that are not used, and why."""

_OF_THE_FILE = ("architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "_commit_hash")

_WHY_ABSENT = {
    "cross": "cross-attention, which this model does not have",
    "pooler": "the pooler, which a decoder does not have",
    "head": "the language-model head, which an encoder does not have",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """One family of models.

    Attributes:
        model_type: its name in configs.
        base: name of the base model inside models with a head: the prefix of its tensors there.
        architectures: torch's classes for an encoder and for a decoder, as a saved config names them.
        attributes: attributes that are handled, with the family's defaults.
        ignored: attributes of this family that are not used, and why.
        spellings: other names of handled attributes.
        layer: the checkpoint's name of layer `{i}`.
        rows: groups of rows: `base`, `layer` (below one layer), `cross` (likewise), and those that a model may lack:
            `token_types`, `distances` (below one layer), `pooler`, `head`, `projection`.
        unused: patterns of tensors that are not used, and why.
        duplicates: a tensor that repeats another in some files, and the one that it repeats.
        tied_copy: the output matrix's name and the token table's, of which files with tied weights may hold either.
        read: attributes, all present, to a `StackConfig`.
        write: a `StackConfig` to the attributes that express it.
    """

    model_type: str
    base: str
    architectures: Mapping[Role, str]
    attributes: Mapping[str, Any]
    ignored: Mapping[str, str]
    layer: str
    rows: Mapping[str, tuple[Row, ...]]
    unused: tuple[tuple[str, str], ...]
    duplicates: Mapping[str, str]
    tied_copy: tuple[str, str]
    read: Callable[[Mapping[str, Any]], StackConfig]
    write: Callable[[StackConfig], dict[str, Any]]
    spellings: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def from_hf(self, hf: Mapping[str, Any]) -> StackConfig:
        """Read a Hugging Face config.

        Raises:
            ValueError: an attribute is unknown, or has a value that is not supported.
        """
        try:
            return self.read(self._attributes(hf))
        except (TypeError, ValueError) as error:
            raise ValueError(f"the {self.model_type} config cannot be used: {error}") from None

    def to_hf(self, config: StackConfig, role: Role) -> dict[str, Any]:
        """Write a Hugging Face config that reads back as the same `StackConfig`.

        Raises:
            ValueError: the format cannot express the config; the message names the field.
        """
        written = {"model_type": self.model_type, **_common(config, role), **self.write(config)}
        again = self.from_hf(written)
        if again != config:
            differing = [
                f"{field.name} = {getattr(config, field.name)!r} (it would read back as {getattr(again, field.name)!r})"
                for field in dataclasses.fields(config)
                if getattr(config, field.name) != getattr(again, field.name)
            ]
            raise ValueError(f"a {self.model_type} config.json cannot express {'; '.join(differing)}.")
        return written

    def handles(self, name: str) -> bool:
        """Whether an attribute of this name has an effect."""
        return self.spellings.get(name, name) in {**COMMON, **self.attributes}

    def unused_attributes(self, hf: Mapping[str, Any]) -> dict[str, Any]:
        """The attributes of a config that reading it ignores, to be written back on saving."""
        return {name: value for name, value in hf.items() if name in self.ignored} | unused_attributes(hf)

    def table(self, config: StackConfig, role: Role) -> dict[str, Any]:
        """The name table of one model: the keyword arguments of the loader's `NameTable`.

        Args:
            config: the model's config.
            role: `"encoder"`, or `"decoder"` with a language-model head.
        """
        groups = {"base": self._base(config), "cross": self._layers(config, "cross")}
        absent = []
        if role == "decoder":
            groups["base"] = _with_prefix(self.base, groups["base"])
            groups["cross"] = _with_prefix(self.base, groups["cross"])
            untied = config.head is not None and not config.head.tied
            groups["head"] = self.rows.get("head", ()) + (self.rows["projection"] if untied else ())
            absent += [("pooler", self.rows.get("pooler", ()))]
        else:
            untied = False
            groups["pooler"] = self.rows.get("pooler", ()) if config.pooler else ()
            absent += [("head", self.rows.get("head", ()) + self.rows["projection"])]
        if not config.cross_attention:
            every = config.replace(
                layers=tuple(dataclasses.replace(layer, cross_attention=True) for layer in config.layers)
            )
            absent += [("cross", self._layers(every, "cross"))]
        duplicates = dict(self.duplicates)
        if role == "decoder" and not untied:
            duplicates[self.tied_copy[0]] = self.tied_copy[1]
        return {
            "groups": {group: rows for group, rows in groups.items() if rows},
            "scopes": (("", self.base),),
            "duplicates": duplicates,
            "unused": tuple(("", pattern, reason) for pattern, reason in self.unused)
            + tuple(("", _literal(row[1]), _WHY_ABSENT[group]) for group, rows in absent for row in rows),
        }

    def _base(self, config: StackConfig) -> tuple[Row, ...]:
        rows = self.rows["base"]
        if config.embeddings.token_type_size:
            rows += self.rows["token_types"]
        rows += self._layers(config, "layer")
        if config.attention.relative_positions != "none":
            rows += self._layers(config, "distances")
        return rows

    def _layers(self, config: StackConfig, group: str) -> tuple[Row, ...]:
        return tuple(
            (f"stack.blocks.{i}.{ours}", f"{self.layer.format(i=i)}.{theirs}", transform)
            for i, layer in enumerate(config.layers)
            if group != "cross" or layer.cross_attention
            for ours, theirs, transform in self.rows[group]
        )

    def _attributes(self, hf: Mapping[str, Any]) -> dict[str, Any]:
        result = {**COMMON, **self.attributes}
        for name, value in hf.items():
            own = self.spellings.get(name, name)
            if own != name and own in hf and hf[own] != value:
                raise ValueError(f"{name!r} is {value!r} and {own!r} is {hf[own]!r}, two names of one attribute")
            if own in result:
                _check_kind(name, value, result[own])
                result[own] = value
            elif name in FIXED:
                allowed, why = FIXED[name]
                if value and value != allowed:
                    raise ValueError(f"attribute {name!r} is {value!r}; expected {allowed!r}: {why}")
            elif name not in IGNORED and name not in self.ignored:
                raise ValueError(
                    f"attribute {name!r} = {value!r} is not known; expected one that every {self.model_type} "
                    "implementation has. If it changes no number, remove it from config.json"
                )
        if isinstance(result["eos_token_id"], list):
            result["eos_token_id"] = tuple(result["eos_token_id"])
        return result


def _check_kind(name: str, value: Any, default: Any) -> None:
    """JSON says what kind a value is: it must be that of the default, and token ids may be null."""
    if name == "model_type":
        return
    if name == "eos_token_id" and isinstance(value, list | tuple):
        values, kinds, expected = value, (int,), "whole numbers"
    elif name.endswith("_token_id") or default is None:
        values, kinds, expected = [value], (int, type(None)), "a whole number or null"
    else:
        kind = type(default)
        kinds = (int, float) if kind is float else (kind,)
        values, expected = [value], {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "text")
    fits = all(isinstance(item, kinds) and (bool in kinds or not isinstance(item, bool)) for item in values)
    if not fits:
        raise ValueError(f"attribute {name!r} is {value!r}; expected {expected}")


def unused_attributes(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of any config that reading it ignores, but for those that say how the file came to be."""
    return {name: value for name, value in hf.items() if name in IGNORED and name not in _OF_THE_FILE}


def layers(count: int, *, cross_attention: bool, score_scales: Callable[[int], float | None] = lambda i: None):
    """`count` layers of one kind."""
    if count < 1:
        raise ValueError(f"the number of layers is {count}; expected at least 1")
    return tuple(LayerSpec(cross_attention=bool(cross_attention), score_scale=score_scales(i)) for i in range(count))


def head_dim(hidden_size: int, num_heads: int) -> int:
    """Width of one head.

    Raises:
        ValueError: the heads do not divide the width.
    """
    if num_heads < 1:
        raise ValueError(f"the width is {hidden_size} and the number of heads {num_heads}; expected at least 1")
    if hidden_size % num_heads:
        raise ValueError(f"the width {hidden_size} is not a multiple of the number of heads {num_heads}")
    return hidden_size // num_heads


def tokens(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The token ids, as `StackConfig` names them."""
    return {name: attributes[name] for name in COMMON if name.endswith("_token_id")}


def _common(config: StackConfig, role: Role) -> dict[str, Any]:
    eos = config.eos_token_id
    return {
        "is_decoder": role == "decoder",
        "add_cross_attention": config.cross_attention,
        "cross_attention_hidden_size": config.cross_attention_hidden_size,
        "tie_word_embeddings": config.head is None or config.head.tied,
        **tokens(dataclasses.asdict(config)),
        "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
    }


def _with_prefix(base: str, rows: tuple[Row, ...]) -> tuple[Row, ...]:
    return tuple((ours, f"{base}.{theirs}", transform) for ours, theirs, transform in rows)


def _literal(name: str) -> str:
    return name.replace(".", r"\.")
