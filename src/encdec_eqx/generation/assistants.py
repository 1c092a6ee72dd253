"""Who shall propose tokens in a run: an assistant, the source, or nobody; and whether that can be done.

Must not know: how proposals are made and checked.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..config import StackConfig
from .asked import Asked

_AHEAD, _LONGEST = 5, 2
_THEIR_AHEAD = 20
"""transformers' default, which its configs spell out whether there is an assistant or not."""


@dataclass(frozen=True, eq=False)
class Assistant:
    """A decoder that proposes tokens.

    Attributes:
        decoder: a decoder step.
        project: from the encoder's states to the width that its cross-attention reads, or None.
        config: its architecture.
    """

    decoder: Any
    project: Callable | None
    config: StackConfig


def drafting_settings(asked: Asked, search: str, *, vocab_size: int, has_source_ids: bool) -> dict[str, Any]:
    """The fields of `Settings` that stand for proposals.

    Args:
        asked: what was asked for; what is dropped from a file is added to its notes.
        search: the search of the run.
        vocab_size: of the decoder.
        has_source_ids: whether the source came as token ids.

    Raises:
        TypeError: for an assistant that is none.
        ValueError: for proposals that nobody checks, two who propose, another vocabulary, or no source to copy from.
    """
    assistant, lookup = asked.get("assistant_model"), asked.get("prompt_lookup_num_tokens")
    if assistant is None:
        why = "it belongs to assistant_model, which is not given"
        asked.refuse_or_drop("num_assistant_tokens", _THEIR_AHEAD, why)
    if lookup is None:
        why = "it belongs to prompt_lookup_num_tokens, which is not given"
        asked.refuse_or_drop("max_matching_ngram_size", None, why)
    if assistant is None and lookup is None:
        return {}
    if assistant is not None and lookup is not None:
        raise ValueError("assistant_model and prompt_lookup_num_tokens both propose tokens. Leave one of them out.")
    name = "prompt_lookup_num_tokens" if assistant is None else "assistant_model"
    if search not in ("greedy", "sample"):
        asked.refuse_or_drop(name, None, f"greedy search and sampling take proposals, {search} search takes none")
        return {}
    if assistant is not None:
        return {"assistant": _agreed(assistant, vocab_size), "ahead": asked.get("num_assistant_tokens", _AHEAD)}
    if not has_source_ids:
        raise ValueError(
            f"prompt_lookup_num_tokens={lookup} ({asked.origin(name)}) copies from the source's token ids, and there "
            "are none. Pass input_ids (they may stand beside encoder_outputs), or leave it out."
        )
    return {"ahead": lookup, "lookup_longest": asked.get("max_matching_ngram_size", _LONGEST)}


def _agreed(assistant: Any, vocab_size: int) -> Assistant:
    if not isinstance(assistant, Assistant):
        raise TypeError(
            f"assistant_model must be an encdec_eqx.Decoder or an EncoderDecoder, got {type(assistant).__name__}."
        )
    if assistant.config.vocab_size != vocab_size:
        raise ValueError(
            f"assistant_model has a vocabulary of {assistant.config.vocab_size}, the model's decoder one of "
            f"{vocab_size}. It must read and write the same tokens."
        )
    return assistant
