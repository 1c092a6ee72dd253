"""Whether a `generation_config.json` that was made from `config.json` still counts: transformers' rule, and no other.

Must not know: models, files, and what the options mean.
"""

from collections.abc import Mapping
from typing import Any

DEFAULTS: Mapping[str, Any] = {
    "max_length": 20,
    "min_length": 0,
    "do_sample": False,
    "early_stopping": False,
    "num_beams": 1,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "num_return_sequences": 1,
    "output_scores": False,
    "return_dict_in_generate": False,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "remove_invalid_values": False,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
}
"""The options that older versions keep in `config.json`, with the values that every config has of itself."""

MARK = "_from_model_config"
"""What a `generation_config.json` says of itself that was made from `config.json`."""


def outdated(file: Mapping[str, Any], config: Mapping[str, Any], class_options: Mapping[str, Any]) -> bool:
    """Whether transformers makes the options anew from `config.json` and does not use those of the file.

    It does if the file says that it was made from there and `config.json` has an option that is not its class's
    default.

    Args:
        file: content of `generation_config.json`.
        config: content of `config.json`.
        class_options: defaults of the config's class, or, for a pair, of its decoder's.
    """
    if not file.get(MARK):
        return False
    usual = {**DEFAULTS, **class_options}
    own = {name: config.get(name, default) for name, default in DEFAULTS.items()}
    return any(value is not None and value != usual[name] for name, value in own.items())
