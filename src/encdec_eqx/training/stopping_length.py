"""How many tokens a trained model may generate where nobody has said so: as many as its targets have, and some more.

Knows lengths and a model's generation settings; must not know runs.
"""

import dataclasses
import math
from collections.abc import Iterable

from ..encoder_decoder import EncoderDecoder
from ..generation.settings import GenerationConfig
from ..inputs.tokens import longest

MARGIN, LEAST_MARGIN = 0.25, 8
"""Of the longest target, and in tokens: texts that the model has not seen may be somewhat longer."""


def with_length(model: EncoderDecoder, targets: Iterable[int], chosen: int | None = None) -> EncoderDecoder:
    """The model, its `generation_config` with a `max_new_tokens` if it has no length to stop at.

    Args:
        model: the model; a `max_length` or `max_new_tokens` of its own stays.
        targets: lengths of the targets seen, the end-of-sequence token included.
        chosen: the length that evaluations were given, which is then the model's too. Default: that of the longest
            target and a quarter, at least 8 tokens, more, as far as the decoder has positions.
    """
    options = model.generation_config or GenerationConfig()
    if own_length(model) is not None:
        return model
    most = max(targets)
    wanted = most + max(LEAST_MARGIN, math.ceil(MARGIN * most))
    # one position is the start token's
    limit = max(longest(model.decoder.config, None) - 1, most)
    options = dataclasses.replace(options, max_new_tokens=chosen or min(wanted, limit))
    return dataclasses.replace(model, generation_config=options)


def own_length(model: EncoderDecoder) -> tuple[str, int] | None:
    """The length that the model's generation settings give, by the name of the option; None if they give none."""
    options = model.generation_config or GenerationConfig()
    given = {name: getattr(options, name) for name in ("max_new_tokens", "max_length")}
    return next(((name, value) for name, value in given.items() if value is not None), None)


def too_short(model: EncoderDecoder, targets: Iterable[int]) -> str | None:
    """What is to be said of a model whose own length cuts targets that it is trained on; None: it cuts none."""
    own, most = own_length(model), max(targets)
    if own is None or own[1] - (own[0] == "max_length") >= most:  # which counts the start token
        return None
    return (
        f"the model's generation settings have {own[0]}={own[1]}, and the longest target has {most} tokens: what it "
        "generates will be cut. Pass max_new_tokens to generate, or change generation_config.json in model/."
    )
