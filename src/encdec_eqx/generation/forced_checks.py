"""Whether the words that have to come can come in the run at hand. Must not know: arrays, loops."""

from .asked import FILE, Asked

_NAME = "force_words_ids"
_Word = tuple[tuple[int, ...], ...]


def refuse_impossible_words(asked: Asked, *, vocab_size: int, eos_ids: tuple[int, ...]) -> None:
    """Refuse words with ids that cannot stand inside a sequence; those of a file are dropped with a note.

    Args:
        asked: what was asked for; what is dropped is taken out of it.
        vocab_size: of the decoder.
        eos_ids: ids that end a sequence.

    Raises:
        ValueError: for ids that the decoder does not have, and for ends.
    """
    words: tuple[_Word, ...] = asked.get(_NAME, ())
    for word in words:
        ids = {token for phrase in word for token in phrase}
        if max(ids) >= vocab_size:
            why = f"goes beyond the decoder's vocabulary of {vocab_size}"
            how = "Pass ids of the decoder's own tokenizer, or give the model more ids with resize_token_embeddings."
        elif ids.intersection(eos_ids):
            why = f"holds an end-of-sequence id ({sorted(ids.intersection(eos_ids))}), behind which nothing comes"
            how = "Tokenize words without special tokens (add_special_tokens=False)."
        else:
            continue
        beyond = f"{_NAME}: {_shown(word)} ({asked.origin(_NAME)}) {why}"
        if asked.origin(_NAME) != FILE:
            raise ValueError(f"{beyond}. {how}")
        asked.notes.append(f"{beyond}: dropped.")
        asked.base[_NAME] = tuple(other for other in asked.base[_NAME] if other != word)


def check_room(asked: Asked, words: tuple[_Word, ...], *, prompt_width: int, longest: int) -> None:
    """Refuse more words than fit, or note it where a file asks for them.

    Args:
        asked: what was asked for; a note is added to it.
        words: what has to come, the alternatives of each.
        prompt_width: tokens of the prompt, or 1 for the start token. What stands behind the start token may hold words.
        longest: most tokens that may be generated.

    Raises:
        ValueError: if the shortest alternatives together are too long.
    """
    least = sum(min(len(phrase) for phrase in word) for word in words)
    if least <= longest + prompt_width - 1:
        return
    origin = asked.origin(_NAME)
    beyond = f"the words of {_NAME} ({origin}) take {least} tokens, and at most {longest} may be generated"
    if origin != FILE:
        raise ValueError(f"{beyond}. Raise max_new_tokens (or max_length), or force fewer words.")
    asked.notes.append(f"{beyond}: not all of them will come.")


def _shown(word: _Word) -> list[int] | list[list[int]]:
    """As a user writes it."""
    return list(word[0]) if len(word) == 1 else [list(phrase) for phrase in word]
