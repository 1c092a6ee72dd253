"""What the loss itself tells: how it compares with guessing, with the order of words lost, with another first token.

Knows numbers; must not know how they were made.
"""

from collections.abc import Iterator, Mapping

from .finding import Finding

ByLabel = Mapping[int, float]
"""A mean loss for each of some labels."""


def is_above_uniform(loss: float, uniform: float, logits_spread: float, *, may_be_high: bool) -> Iterator[Finding]:
    """A loss well above that of predicting all tokens alike: the model is sure, and wrong.

    A fresh head starts within 0.25 of ln V, and trained models lie below it, so more than half a nat (or a tenth of
    ln V) above it is a fault. Not so where a decoder that never learned to continue a text, or one that learned to
    read another encoder, was just joined: those begin high, and come down. A trained model may also meet rows that are
    unlike all that it has learned, so it is an error only where the logits themselves are out of all proportion.

    Args:
        loss: mean over the labels.
        uniform: ln V.
        logits_spread: standard deviation of the logits at a place.
        may_be_high: whether the decoder was just joined, and is of such a kind.
    """
    if loss <= uniform + max(0.5, 0.1 * uniform):
        return
    numbers = {"loss": loss, "ln_vocab": uniform, "logits_spread": logits_spread}
    if may_be_high:
        yield Finding(
            code="loss_starts_high",
            severity="info",
            message=f"the loss is {loss:.2f}, above the {uniform:.2f} of guessing: usual for this kind of decoder "
            "before its first steps.",
            fix="nothing to do, if it falls below that within the first hundred steps.",
            evidence=numbers,
        )
        return
    scale = logits_spread > 15
    yield Finding(
        code="loss_above_uniform",
        severity="error" if scale else "warning",
        message=f"the loss is {loss:.2f}, but predicting all tokens alike would give {uniform:.2f}: the model is sure "
        "and wrong" + (f" (its logits spread by {logits_spread:.3g}, where 1 to 5 is usual)." if scale else "."),
        fix="look at the sizes of head and embeddings: something has multiplied them."
        if scale
        else "look whether the labels come from the decoder's own tokenizer and are not shifted, and whether the "
        "weights are those of this model.",
        evidence=numbers,
    )


def order_does_not_matter(loss: float, scrambled: float, uniform: float) -> Iterator[Finding]:
    """A pretrained language model finds the labels no likelier than the same tokens in another order.

    Text in its own language it finds likelier by far: the demo's phoneme model by 1.8 nats, and with its ids permuted
    by -0.3 to 0.6. More than that is asked for only where the loss is near guessing. For decoders that are pretrained
    to continue text and have just been joined. Targets may also be no text at all (codes, numbers): a warning.

    Args:
        loss: mean over the labels of the rows that have been put into another order.
        scrambled: the same in that order.
        uniform: ln V.
    """
    if scrambled - loss < 0.7 and loss > 0.8 * uniform:
        yield Finding(
            code="labels_of_another_vocabulary",
            severity="warning",
            message="the pretrained decoder finds the labels hardly likelier than the same tokens in a random "
            f"order ({loss:.2f} and {scrambled:.2f} nats): they are no text of its vocabulary.",
            fix="encode the targets with the decoder's own tokenizer (TokenizerPair.from_pretrained reads it).",
            evidence={"loss": loss, "scrambled": scrambled},
        )


def another_start_is_better(own: ByLabel, others: dict[int, ByLabel], start: int) -> Iterator[Finding]:
    """With another special token in front, a trained model finds first labels likelier, by a whole nat or more.

    In a trained model the start token that it was trained with is far the best one. Every label counts once, however
    many rows begin with it, and nearly all must be likelier: behind a token that the model has never read first it may
    favour some label or other, and a sorted file's targets may all begin with that one. A warning, because a model
    with another start token than its own is spoiled.

    Args:
        own: mean loss of each different first label.
        others: the same with these ids as the start token.
        start: the model's.
    """
    if not others:
        return
    first, costs = _mean(own), {token: _mean(by_label) for token, by_label in others.items()}
    best = min(costs, key=lambda token: costs[token])
    likelier = sum(others[best][label] < own[label] for label in own) / len(own)
    if costs[best] < first - 1.0 and likelier >= 0.75:
        yield Finding(
            code="wrong_start_token",
            severity="warning",
            message=f"with {best} as the start token the first label costs {costs[best]:.2f} nats, with the model's "
            f"own ({start}) {first:.2f}, over {len(own)} different ones: was it trained with {best}?",
            fix=f"if it was: model = model.with_special_tokens(decoder_start_token_id={best}). Its checkpoint's "
            "config.json may say, or how its decoder inputs were made before.",
            evidence={"first": first, "best": best, "with_best": costs[best], "decoder_start_token_id": start},
        )


def _mean(by_label: ByLabel) -> float:
    return sum(by_label.values()) / len(by_label)
