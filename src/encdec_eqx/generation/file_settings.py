"""What a checkpoint's files say about generating, the strongest place first.

Must not know: models, and where the files' contents come from: it is handed plain mappings.
"""

import logging
from collections.abc import Mapping
from typing import Any

from .derived import DEFAULTS, outdated
from .settings import GenerationConfig, option_names
from .special_tokens import SpecialTokens

_logger = logging.getLogger("encdec_eqx")


def file_settings(
    place: str,
    *,
    file: Mapping[str, Any] | None,
    config: Mapping[str, Any],
    decoder_options: Mapping[str, Any],
    class_options: Mapping[str, Any],
    decoder_ids: Mapping[str, Any],
) -> tuple[SpecialTokens, GenerationConfig]:
    """The special tokens and the options of a checkpoint.

    Args:
        place: the checkpoint, for messages.
        file: content of `generation_config.json`, or None.
        config: content of `config.json`, with the defaults of its class.
        decoder_options: what the decoder's config in it says about generating, where it has one.
        class_options: defaults of the config's class, or, for a pair, of its decoder's.
        decoder_ids: the special tokens that the decoder's config names.

    Raises:
        ValueError: an option or an id is not what it should be.
    """
    places = [("config.json", config), ("the decoder's config", decoder_ids)]
    remade = file is not None and outdated(file, config, class_options)
    if file is not None:
        places.insert(len(places) if remade else 0, ("generation_config.json", file))
    try:
        tokens = SpecialTokens.resolve(*places)
        options = GenerationConfig.from_hf(None if remade else file, config, decoder_options)
        if remade and (differing := _differing(options, GenerationConfig.from_hf(file))):
            _logger.warning(
                "%s: generation_config.json says that it was made from config.json, which says otherwise of %s: "
                "config.json counts, as in transformers. Remove '_from_model_config' there to let "
                "generation_config.json count.",
                place,
                ", ".join(differing),
            )
        return tokens, options
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{place}, {places[0][0]}: {error} Correct it there, or remove it and pass it to generate."
        ) from None


def _differing(one: GenerationConfig, other: GenerationConfig) -> list[str]:
    """The options that two configs have at different values, a default counting as nothing said."""

    def said(config: GenerationConfig, name: str) -> Any:
        value = getattr(config, name)
        return None if value == DEFAULTS.get(name) else value

    return [name for name in option_names() if said(one, name) != said(other, name)]
