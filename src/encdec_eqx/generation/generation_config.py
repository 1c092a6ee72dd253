"""`GenerationConfig`: what a user or a checkpoint's files ask of `generate`, each value checked on its own."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .._quoting import printable, quoted
from .options import BOOKKEEPING, DEFAULTS, IN_FILES, LENGTHS, NOT_BUILT, OPTIONS, both_lengths, does_nothing
from .options import option_names as option_names
from .special_tokens import TOKEN_NAMES, SpecialTokens

_logger = logging.getLogger("encdec_eqx")

FORCED_TOKENS = ("forced_bos_token_id", "forced_eos_token_id")
"""Options that say what a target begins and ends with, as special tokens do."""

MARK = "_from_model_config"
"""What a `generation_config.json` says of itself that was made from `config.json`."""


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Options of `generate`, `None` where nothing was chosen. Hashable; names are Hugging Face's.

    Passed to `generate`, it takes the place of the model's own (its file's) as a whole; arguments of the call win over
    both.

    Attributes:
        max_length: longest sequence, counting the prompt or start token. Not together with `max_new_tokens`.
        max_new_tokens: most tokens to generate, not counting the prompt.
        min_length: end-of-sequence ids are forbidden while the sequence, prompt included, is shorter.
        min_new_tokens: end-of-sequence ids are forbidden while fewer tokens are generated.
        do_sample: draw tokens (True) or take the most probable one (False, what `None` means).
        temperature: logits are divided by it before sampling; above 0.
        top_k: sample among the k most probable tokens and those tied with the last of them; 0 means all.
        top_p: sample among the fewest tokens whose probabilities add up to this mass, at least one.
        min_p: sample among the tokens that are at least this many times as probable as the most probable one; 0 means
            all.
        typical_p: sample among the tokens whose surprise is closest to the entropy, as many as add up to this mass; 1
            means all.
        epsilon_cutoff: sample among the tokens at least this probable; 0 means all.
        eta_cutoff: the same, with a bound that is lower where the entropy is high; 0 means all.
        num_beams: beams of beam search; 1 means no beam search.
        num_beam_groups: groups of beams that are kept apart by `diversity_penalty`; 1 means one.
        diversity_penalty: taken from a token's log-probability for each beam of an earlier group that has chosen it.
        num_return_sequences: results per source sequence: samples, or the best hypotheses of beam search.
        length_penalty: beam search divides a hypothesis's sum of log-probabilities by its length to this power; above
            0 it favours long ones.
        early_stopping: of beam search: True ends a sequence with as many hypotheses as beams; False (what `None` means)
            also when the best beam, as long as it is, could not enter; "never" when it could not at any length.
        penalty_alpha: contrastive search with this weight of the similarity to earlier tokens; 0 means none.
        num_assistant_tokens: tokens that `assistant_model` proposes at a time; None means 5.
        prompt_lookup_num_tokens: propose that many tokens at a time, copied from the source.
        max_matching_ngram_size: how many of the last tokens are looked for in the source; None means 2.
        force_words_ids: what beam search has to generate: phrases (lists of ids), or lists of alternative phrases.
        sequence_bias: pairs of ids and a number, or a dictionary from tuples of ids: the number is added to the logit
            of the last id where the others stand before it. Stored as a tuple of pairs.
        encoder_repetition_penalty: above 1, logits of tokens of the source are raised: divided by it if negative,
            multiplied if not; 1 for no such rule.
        repetition_penalty: above 1, logits of tokens of the sequence, prompt included, are lowered: multiplied by it if
            negative, divided if not; 1 for no such rule.
        no_repeat_ngram_size: no n-gram of that many tokens may come twice; 0 for no such rule.
        encoder_no_repeat_ngram_size: no n-gram of that many tokens of the source may be generated; 0 for no such rule.
        bad_words_ids: sequences of ids that may not be generated; an end-of-sequence id alone stays allowed.
        remove_invalid_values: NaN becomes 0, infinities the largest finite numbers.
        exponential_decay_length_penalty: (start, factor): after `start` new tokens ends become likelier, at the k-th
            token from there by `factor ** k - 1` times the size of their logit.
        suppress_tokens: ids that may not be generated.
        begin_suppress_tokens: ids that the first generated token (or the one after `forced_bos_token_id`) may not be.
        renormalize_logits: processed logits become log-probabilities.
        forced_bos_token_id: the first token after a start token that stands alone (mBART's target language).
        forced_eos_token_id: the only id, or ids, that the last token allowed by the maximum length may be.
        bos_token_id: see `SpecialTokens`, as for the three below.
        eos_token_id: an id or several, stored as a tuple; empty for "never ends".
        pad_token_id: what fills rows after their end.
        decoder_start_token_id: the first decoder token.
        others: options of a file that this library does not act on, as sorted (name, value) pairs: kept for the round
            trip; one that would change the result is an error when `generate` runs.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or both `max_length` and `max_new_tokens`, or both `min_length` and
            `min_new_tokens`, are set.
    """

    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int | None = None
    min_new_tokens: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float | None = None
    eta_cutoff: float | None = None
    num_beams: int | None = None
    num_beam_groups: int | None = None
    diversity_penalty: float | None = None
    num_return_sequences: int | None = None
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] | None = None
    penalty_alpha: float | None = None
    force_words_ids: Sequence[Any] | None = None
    num_assistant_tokens: int | None = None
    prompt_lookup_num_tokens: int | None = None
    max_matching_ngram_size: int | None = None
    sequence_bias: Mapping[Sequence[int], float] | Sequence[Any] | None = None
    encoder_repetition_penalty: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    encoder_no_repeat_ngram_size: int | None = None
    bad_words_ids: Sequence[Sequence[int]] | None = None
    remove_invalid_values: bool | None = None
    exponential_decay_length_penalty: Sequence[float] | None = None
    suppress_tokens: int | Sequence[int] | None = None
    begin_suppress_tokens: int | Sequence[int] | None = None
    renormalize_logits: bool | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | Sequence[int] | None = None
    bos_token_id: int | None = None
    eos_token_id: int | Sequence[int] | None = None
    pad_token_id: int | None = None
    decoder_start_token_id: int | None = None
    others: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self):
        for name in IN_FILES:
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, OPTIONS[name].check(name, value))
        tokens = SpecialTokens(**{name: getattr(self, name) for name in TOKEN_NAMES})
        for name in TOKEN_NAMES:
            object.__setattr__(self, name, getattr(tokens, name))
        for pair in LENGTHS:
            if None not in (getattr(self, name) for name in pair):
                raise both_lengths(self.__dict__, *pair)

    @classmethod
    def from_hf(
        cls,
        generation_config: Mapping[str, Any] | None,
        config: Mapping[str, Any] | None = None,
        decoder: Mapping[str, Any] | None = None,
    ) -> "GenerationConfig":
        """Read what a checkpoint's files say about generating. Token ids are left to `SpecialTokens.resolve`.

        Args:
            generation_config: the content of `generation_config.json`, or None if there is no such file.
            config: the content of `config.json`; read only where the other file is absent, as transformers does, and
                only for values that differ from transformers' defaults.
            decoder: what the decoder's config in it says, which counts where `config` says nothing.

        Returns:
            The options. Of `max_length` and `max_new_tokens` in one file the latter is kept, as transformers does
            (likewise `min_new_tokens`), and this is logged, as are names that nobody knows.
        """
        if generation_config is not None:
            place, found = "generation_config.json", dict(generation_config)
        else:
            place = "config.json"
            found = {k: v for said in (decoder, config) for k, v in (said or {}).items() if _says_something(k, v)}
        found = {k: v for k, v in found.items() if v is not None and k not in TOKEN_NAMES}
        for weaker, stronger in LENGTHS:
            if weaker in found and stronger in found:
                _logger.warning("%s sets %s and %s; %s is dropped.", place, weaker, stronger, weaker)
                del found[weaker]
        unknown = sorted(set(found) - {*IN_FILES, *NOT_BUILT, *BOOKKEEPING})
        if unknown:
            _logger.warning("%s: not known and not acted on: %s.", place, printable(", ".join(unknown), 400))
        # An empty list asks for nothing.
        ours = {k: v for k in IN_FILES if k in found and not _is_empty(v := found.pop(k))}
        others = tuple((k, _hashable(found[k])) for k in sorted(found))
        try:
            return cls(**ours, others=others)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{place}: {error}") from None

    def said(self) -> str:
        """What is set, in one line."""
        return ", ".join(f"{name} = {quoted(value)}" for name, value in self.to_hf().items())

    def to_hf(self) -> dict[str, Any]:
        """The content of `generation_config.json`: everything that was set, and what was kept for the round trip."""
        result = {name: _plain(getattr(self, name)) for name in (*IN_FILES, *TOKEN_NAMES)}
        result = {name: value for name, value in result.items() if value not in (None, [])}
        if len(forced := result.get("forced_eos_token_id", ())) == 1:
            result["forced_eos_token_id"] = forced[0]
        return dict(sorted({**{k: _plain(v) for k, v in self.others}, **result}.items()))


def check_forced(config: GenerationConfig, vocab_size: int) -> None:
    """Raise a `ValueError` if a token that is forced is no id of the decoder's vocabulary."""
    for name in FORCED_TOKENS:
        value = getattr(config, name)
        for one in value if isinstance(value, tuple) else () if value is None else (value,):
            if one >= vocab_size:
                raise ValueError(
                    f"{name}={one} is not an id of the decoder's vocabulary of {vocab_size}. Pass an id of the "
                    "decoder's own tokenizer, or resize its token table."
                )


def _says_something(name: str, value: Any) -> bool:
    if name in NOT_BUILT:
        return not does_nothing(name, value)
    return name in IN_FILES and value is not None and OPTIONS[name].reference != value


def _is_empty(value: Any) -> bool:
    return isinstance(value, list | tuple | dict) and not value


# Lists and mappings of a JSON file, made hashable and back; a tag tells a mapping from a list of pairs.
_MAPPING = "a JSON object"


def _hashable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return (_MAPPING, tuple((k, _hashable(v)) for k, v in value.items()))
    if isinstance(value, list | tuple):
        return tuple(_hashable(v) for v in value)
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        if len(value) == 2 and value[0] == _MAPPING:
            return {k: _plain(v) for k, v in value[1]}
        return [_plain(v) for v in value]
    return value


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
    remade = file is not None and _outdated(file, config, class_options)
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

    return [name for name in IN_FILES if said(one, name) != said(other, name)]


def _outdated(file: Mapping[str, Any], config: Mapping[str, Any], class_options: Mapping[str, Any]) -> bool:
    """Whether transformers makes the options anew from `config.json` and does not use those of the file.

    It does if the file says that it was made from there and `config.json` has an option that is not its class's
    default.
    """
    if not file.get(MARK):
        return False
    usual = {**DEFAULTS, **class_options}
    own = {name: config.get(name, default) for name, default in DEFAULTS.items()}
    return any(value is not None and value != usual[name] for name, value in own.items())
