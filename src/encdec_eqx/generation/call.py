"""The types of a generation call's options, for editors and type checkers. Knows nothing of what they do.

`GenerationConfig` says what each one means, `settings_checks` what it may be.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from .._typing import ArrayLike
from .constraints.constraint import AbstractConstraint
from .processors import Processor


class WarmupOptions(TypedDict, total=False):
    """What `generate` and its kin take besides their inputs and `max_new_tokens`. None is as good as leaving it out.

    Those of `GenerationConfig` have the same meaning, but that `decoder_start_token_id` may also be a list or an array
    with one id a row. Four can be given in a call only:

    Attributes:
        logits_processor: a rule of your own, or a sequence of them: each an `equinox.Module` that is called as
            `processor(logits, prefix, length)` in the compiled loop: logits (rows, vocab), and ids (rows, width) of
            which the first `length` columns count. They come after all rules but those of sampling.
        constraint: an automaton that the generated tokens have to obey, from `encdec_eqx.generation.constraints`.
        assistant_model: a small `Decoder` (or an `EncoderDecoder`, whose decoder and projection are used) that attends
            to this model's encoder states and proposes tokens: the same result in fewer passes of the large decoder.
        output_cross_attentions: whether the result has `cross_attentions`; one pass more over the finished sequences.
    """

    min_length: int | None
    min_new_tokens: int | None
    do_sample: bool | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    epsilon_cutoff: float | None
    eta_cutoff: float | None
    num_beams: int | None
    num_beam_groups: int | None
    diversity_penalty: float | None
    num_return_sequences: int | None
    length_penalty: float | None
    early_stopping: bool | Literal["never"] | None
    penalty_alpha: float | None
    force_words_ids: Sequence[Any] | None
    num_assistant_tokens: int | None
    prompt_lookup_num_tokens: int | None
    max_matching_ngram_size: int | None
    sequence_bias: Mapping[Sequence[int], float] | Sequence[Any] | None
    encoder_repetition_penalty: float | None
    repetition_penalty: float | None
    no_repeat_ngram_size: int | None
    encoder_no_repeat_ngram_size: int | None
    bad_words_ids: Sequence[Sequence[int]] | None
    remove_invalid_values: bool | None
    exponential_decay_length_penalty: Sequence[float] | None
    suppress_tokens: int | Sequence[int] | None
    begin_suppress_tokens: int | Sequence[int] | None
    renormalize_logits: bool | None
    forced_bos_token_id: int | None
    forced_eos_token_id: int | Sequence[int] | None
    bos_token_id: int | None
    eos_token_id: int | Sequence[int] | None
    pad_token_id: int | None
    decoder_start_token_id: int | Sequence[int] | ArrayLike | None
    logits_processor: Processor | Sequence[Processor] | None
    constraint: AbstractConstraint | None
    assistant_model: Any
    output_cross_attentions: bool | None


class GenerationOptions(WarmupOptions, total=False):
    """The options of `generate`. One of these two is needed, here or in a config."""

    max_length: int | None
    max_new_tokens: int | None
