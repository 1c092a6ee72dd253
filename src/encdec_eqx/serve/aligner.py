"""What `/alignment` answers: cross-attention of a target to its source, in shapes that are compiled beforehand."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._inputs import whole
from .._quoting import quoted
from ..alignment import Alignment
from ..generation.source_and_prompt import LEAST_SLOTS, longest_sequence
from ..text.display_tokens import display_tokens
from ..text.texts import check_texts
from .offer import Offer
from .refusals import too_large


@dataclass(frozen=True, eq=False)
class Asked:
    """A request that has been checked: the ids of both sides, and what of the attention is wanted."""

    source: np.ndarray
    target: np.ndarray
    layer: int | None
    head: int | None


class Aligner:
    """One pass over source and target."""

    def __init__(self, offer: Offer):
        self._offer = offer
        model = offer.speaker.model
        # a target is as long as what is generated, its end and the start token; tables of positions may end there
        most = min(offer.max_new_tokens + 1, longest_sequence(model.decoder.config))
        self._targets = tuple(sorted({size for size in (most // 4,) if size > LEAST_SLOTS} | {most}))
        self._start = model.special_tokens.require("decoder_start_token_id")

    def prepare(self, body: Any) -> Asked:
        """Check a request, on the host alone.

        Raises:
            RefusalError: source or target are too long.
            TypeError: the body is not what it should be.
            ValueError: a text is empty, or there is no such layer or head.
        """
        if not isinstance(body, dict):
            raise TypeError(f"the request must be a JSON object with source and target, got {quoted(body)}.")
        if unknown := sorted(map(str, body.keys() - {"source", "target", "layer", "head"})):
            raise TypeError(f"the request has no field {quoted(unknown[0])}: it has source, target, layer and head.")
        for name in ("source", "target"):
            if not isinstance(body.get(name), str):
                raise TypeError(f"{name} must be a text, got {quoted(body.get(name))}.")
        [source] = self._offer.tokenized([body["source"]], None)
        [target] = self._offer.speaker.tokenizers.encode_target(check_texts([body["target"]]))
        most = self._targets[-1] - 1
        if len(target) > most:
            raise too_large(f"the target is {len(target)} tokens long; at most {most} are served. Shorten it.")
        config = self._offer.speaker.model.decoder.config
        layers, heads = len(config.layers), config.attention.num_heads
        chosen = [
            None if body.get(name) is None else whole(name, body[name], least=0, most=count - 1)
            for name, count in (("layer", layers), ("head", heads))
        ]
        if chosen[0] is not None and not config.layers[chosen[0]].cross_attention:
            has = [str(at) for at, layer in enumerate(config.layers) if layer.cross_attention]
            raise ValueError(f"layer {chosen[0]} has no cross-attention; layers {', '.join(has)} have.")
        return Asked(source, target, *chosen)

    def align(self, asked: Asked) -> dict[str, Any]:
        """What the endpoint answers."""
        source, target = asked.source, asked.target
        tokenizers = self._offer.speaker.tokenizers
        alignment = Alignment(
            source_tokens=tuple(display_tokens(tokenizers.source, source.tolist())),
            target_tokens=tuple(display_tokens(tokenizers.target, target.tolist())),
            cross_attentions=tuple(
                None if layer is None else layer[0][:, : len(target), : len(source)]
                for layer in self._cross_attentions(source, target)
            ),
        )
        return {
            "source_tokens": alignment.source_tokens,
            "target_tokens": alignment.target_tokens,
            "layers": len(alignment.cross_attentions),
            "heads": alignment.heads,
            "weights": alignment.weights(asked.layer, asked.head).tolist(),
        }

    def warm(self, report: Callable[[str], None]) -> None:
        """Compile every shape."""
        shapes = list(itertools.product(self._offer.source_lengths, self._targets))
        for done, (source, target) in enumerate(shapes, start=1):
            self._cross_attentions(np.zeros(source, np.int32), np.zeros(target - 1, np.int32))
            report(f"{done} of {len(shapes)}: alignment, source {source}, target {target}")

    def _cross_attentions(self, source: np.ndarray, target: np.ndarray) -> tuple[Any, ...]:
        """Weights of both padded: a decoder is causal, so what stands behind a target changes nothing in front."""
        width = next(size for size in self._targets if size > len(target))
        sequence = np.zeros((1, width), np.int32)
        sequence[0, : len(target) + 1] = [self._start, *target]
        ids, mask = self._offer.padded([source])
        return self._offer.speaker.model.cross_attentions(sequence, ids, attention_mask=mask)
