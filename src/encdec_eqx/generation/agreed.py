"""Whether a constraint and the run that shall obey it speak of the same tokens and leave room for an output.

Must not know: how a constraint works inside, and the loops.
"""

from typing import Any

from .constraints.constraint import AbstractConstraint

_SEARCHES = ("greedy", "sample", "beams")


def agreed_constraint(
    constraint: Any, search: str, *, vocab_size: int, eos_ids: tuple[int, ...], longest: int
) -> AbstractConstraint | None:
    """The constraint, if it can be obeyed.

    Args:
        constraint: what the caller passed, or None.
        search: the search of the run.
        vocab_size: of the decoder.
        eos_ids: ids that end a row.
        longest: most tokens that may be generated.

    Raises:
        TypeError: if it is no constraint.
        ValueError: if it speaks of another vocabulary or other end ids, needs more tokens, or the search has none.
    """
    if constraint is None:
        return None
    if not isinstance(constraint, AbstractConstraint):
        raise TypeError(
            f"constraint must come from encdec_eqx.generation.constraints (from_sequences, from_regex, "
            f"from_token_regex, TokenDFA), got {type(constraint).__name__}."
        )
    if search not in _SEARCHES:
        raise ValueError(
            f"a constraint works with greedy search, sampling and beam search; the options ask for {search} search."
            " Leave penalty_alpha or force_words_ids out."
        )
    if constraint.vocab_size != vocab_size:
        raise ValueError(
            f"the constraint speaks of {constraint.vocab_size} tokens, the decoder's vocabulary has {vocab_size}. "
            f"Build it with vocab_size={vocab_size} (or one text per id of the vocabulary)."
        )
    if set(constraint.end_ids) != set(eos_ids):
        raise ValueError(
            f"the constraint's end tokens are {constraint.end_ids}, the run's eos_token_id is {tuple(sorted(eos_ids))}."
            " Build the constraint with the same eos_token_id, or pass eos_token_id=... to generate."
        )
    if constraint.least_new_tokens > longest:
        raise ValueError(
            f"the shortest output that the constraint allows has {constraint.least_new_tokens} tokens, its end"
            f" included; at most {longest} may be generated. Raise max_new_tokens (or max_length)."
        )
    return constraint
