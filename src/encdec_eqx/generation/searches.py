"""From what was asked to the search of one run: greedy, sampling, beams of some kind, contrastive; and its options.

Must not know: models, arrays, and how lengths and other rules are settled (`resolve`, `rules`).
"""

from typing import Any, Literal

from .asked import FILE, Asked

Search = Literal["greedy", "sample", "beams", "contrastive", "constrained"]

# Options of drawing, and the values at which they do nothing.
SAMPLING: dict[str, Any] = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
# Options of beam search, likewise.
_BEAMS: dict[str, Any] = {"length_penalty": 1.0, "early_stopping": False, "num_beam_groups": 1, "force_words_ids": ()}


def search_settings(asked: Asked, has_key: bool, vocab_size: int) -> dict[str, Any]:
    """The fields of `Settings` that stand for the search.

    Args:
        asked: what was asked for; what is dropped from a file is added to its notes.
        has_key: whether a PRNG key is at hand.
        vocab_size: of the decoder.

    Raises:
        ValueError: for options that contradict each other or would do nothing, and for drawing without a key.
    """
    sample, beams = asked.get("do_sample", False), asked.get("num_beams", 1)
    if sample and not has_key:
        raise ValueError(
            f"do_sample=True ({asked.origin('do_sample')}) draws random numbers: pass key=jax.random.key(seed), "
            "another seed for other samples."
        )
    search = _search(asked, sample, beams, vocab_size)
    return {
        "search": search,
        "do_sample": sample,
        "num_return_sequences": _returned(asked, search, beams),
        **_sampling(asked, search, sample),
        **_of_beams(asked, search, beams),
    }


def _search(asked: Asked, sample: bool, beams: int, vocab_size: int) -> Search:
    """Which search it is; options that choose another one and cannot apply are refused or dropped."""
    if asked.get("penalty_alpha", 0.0) > 0:
        if not sample and beams == 1:
            return _contrastive(asked, vocab_size)
        why = "contrastive search takes the best of top_k tokens, without do_sample and with num_beams=1"
        asked.refuse_or_drop("penalty_alpha", 0.0, why)
    if beams == 1:
        for name, neutral in _BEAMS.items():
            asked.refuse_or_drop(name, neutral, "it belongs to beam search, and num_beams is 1")
        asked.refuse_or_drop("diversity_penalty", 0.0, "it belongs to groups of beams, and num_beams is 1")
        return "sample" if sample else "greedy"
    return "constrained" if asked.get("force_words_ids", ()) else "beams"


def _contrastive(asked: Asked, vocab_size: int) -> Search:
    top_k = asked.get("top_k", 0)
    if top_k < 2:
        raise ValueError(
            f"penalty_alpha={asked.get('penalty_alpha')} ({asked.origin('penalty_alpha')}) asks for contrastive search,"
            " which needs top_k, the number of tokens to compare: pass top_k=4, or any number from 2 on."
        )
    if top_k > vocab_size:
        raise ValueError(
            f"top_k={top_k} ({asked.origin('top_k')}) asks contrastive search to compare more tokens than the decoder's"
            f" vocabulary has ({vocab_size}). Pass top_k=4, or any number from 2 on that is not larger."
        )
    for name, neutral in {**_BEAMS, "diversity_penalty": 0.0}.items():
        asked.refuse_or_drop(name, neutral, "it belongs to beam search, and penalty_alpha asks for contrastive search")
    return "contrastive"


def _sampling(asked: Asked, search: Search, sample: bool) -> dict[str, Any]:
    if not sample:
        for name, neutral in SAMPLING.items():
            if not (search == "contrastive" and name == "top_k"):
                asked.refuse_or_drop(name, neutral, "it shapes sampling, and do_sample is not True")
        if search == "contrastive":
            return {"top_k": asked.get("top_k"), "penalty_alpha": asked.get("penalty_alpha")}
        return {}
    if "do_sample" not in asked.arguments and asked.base_origin == FILE and asked.get("top_k") is None:
        asked.notes.append(
            f"do_sample=True of {FILE} names no top_k: all tokens are sampled from. (transformers would silently "
            "apply its default; pass top_k=50 for that.)"
        )
    return {name: asked.get(name, neutral) for name, neutral in SAMPLING.items()}


def _returned(asked: Asked, search: Search, beams: int) -> int:
    wanted = asked.get("num_return_sequences", 1)
    if search in ("greedy", "contrastive") and wanted > 1:
        why = f"{search} search has one result per sentence; pass do_sample=True and a key, or num_beams, for several"
        asked.refuse_or_drop("num_return_sequences", 1, why)
        return 1
    if search in ("beams", "constrained") and wanted > beams:
        raise ValueError(
            f"num_return_sequences={wanted} ({asked.origin('num_return_sequences')}) is more than num_beams={beams}: "
            "beam search has no more results. Raise num_beams."
        )
    return wanted


def _of_beams(asked: Asked, search: Search, beams: int) -> dict[str, Any]:
    if search not in ("beams", "constrained"):
        return {}
    groups = asked.get("num_beam_groups", 1)
    chosen = {
        "num_beams": beams,
        "num_beam_groups": groups,
        "length_penalty": asked.get("length_penalty", 1.0),
        "early_stopping": asked.get("early_stopping", False),
        "diversity_penalty": _diversity(asked, groups),
        "force_words_ids": asked.get("force_words_ids", ()),
    }
    if groups > 1:
        _check_groups(asked, beams, groups)
    if search == "constrained":
        _check_constrained(asked, groups)
    return chosen


def _diversity(asked: Asked, groups: int) -> float:
    if groups == 1:
        asked.refuse_or_drop("diversity_penalty", 0.0, "it sets groups of beams apart, and num_beam_groups is 1")
        return 0.0
    penalty = asked.get("diversity_penalty", 0.0)
    if penalty <= 0:
        raise ValueError(
            f"num_beam_groups={groups} ({asked.origin('num_beam_groups')}) needs a diversity_penalty above 0, got "
            f"{penalty}: without it all groups find the same. Pass for example diversity_penalty=0.5."
        )
    return penalty


def _check_groups(asked: Asked, beams: int, groups: int) -> None:
    origin = asked.origin("num_beam_groups")
    if beams % groups:
        raise ValueError(
            f"num_beams={beams} cannot be shared out evenly among num_beam_groups={groups} ({origin}); pass a multiple "
            f"of it, such as num_beams={groups * (beams // groups + 1)}."
        )
    if asked.get("do_sample", False):
        raise ValueError(
            f"num_beam_groups={groups} ({origin}) and do_sample=True contradict each other: groups of beams take the "
            "best tokens. Pass do_sample=False, or num_beam_groups=1."
        )


def _check_constrained(asked: Asked, groups: int) -> None:
    origin = asked.origin("force_words_ids")
    if groups > 1 or asked.get("do_sample", False):
        other = "num_beam_groups" if groups > 1 else "do_sample=True"
        raise ValueError(
            f"force_words_ids ({origin}) and {other} ({asked.origin(other.split('=')[0])}) contradict each other: "
            "words are forced in plain beam search. Leave one of them out."
        )
