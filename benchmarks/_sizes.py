"""The model sizes that are measured, and what one pass over them costs, counted by hand.

Pure arithmetic: it must not know JAX, torch or the library, so that the floors do not depend on what is measured.
"""

import dataclasses

ENCODER_VOCAB = 30522
DECODER_VOCAB = 50257
FLOAT_BYTES = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """A BERT encoder and a GPT-2 decoder of the same width.

    Attributes:
        name: what the command line and the tables call it.
        layers: layers of each piece.
        hidden: width of both pieces; the feed-forward is four times as wide.
        heads: attention heads of each piece.
    """

    name: str
    layers: int
    hidden: int
    heads: int


SIZES = {
    size.name: size
    for size in (
        Size(name="tiny", layers=2, hidden=128, heads=2),
        Size(name="small", layers=6, hidden=384, heads=6),
        Size(name="base", layers=12, hidden=768, heads=12),
    )
}


def decode_step_bytes(size: Size, *, batch: int, source: int, length: int, beams: int = 1) -> int:
    """Bytes that one decoding step has to read: weights once, and keys and values.

    Those of the source are read once a sentence, however many beams it has; those of self-attention once a beam. The
    cross-attention weights that make keys and values are left out: they are used once per sentence. The tied head is
    read in full; of the input embeddings only `batch * beams` rows are, which is neglected, like norms and biases.

    Args:
        size: the model.
        batch: sentences decoded at once.
        source: source positions that cross-attention reads.
        length: target positions that self-attention reads.
        beams: rows decoded for each sentence.
    """
    width = size.hidden
    per_layer = 4 * width**2 + 2 * width**2 + 8 * width**2  # self-attention, cross-attention's q and out, feed-forward
    weights = size.layers * per_layer + DECODER_VOCAB * width
    keys_and_values = size.layers * 2 * width * (source + beams * length) * batch
    return FLOAT_BYTES * (weights + keys_and_values)


def decode_step_flops(size: Size, *, batch: int, source: int, length: int, beams: int = 1) -> int:
    """Floating-point operations of the matrix products of one decoding step of `batch * beams` rows."""
    width = size.hidden
    weights = size.layers * 14 * width**2 + DECODER_VOCAB * width
    attention = size.layers * 2 * width * (source + length)
    return 2 * batch * beams * (weights + attention)


def encode_flops(size: Size, *, batch: int, source: int) -> int:
    """FLOPs of the encoder's matrix products, and of the cross-attention keys and values made once per sentence."""
    width = size.hidden
    per_token = 12 * width**2 + 2 * source * width  # projections and feed-forward; scores and weighted sums
    cross = 2 * width**2
    return 2 * batch * source * size.layers * (per_token + cross)


def train_step_flops(size: Size, *, batch: int, source: int, target: int) -> int:
    """FLOPs of a training step's matrix products: the forward pass, and twice as many for the backward pass."""
    width = size.hidden
    per_token = size.layers * (14 * width**2 + 2 * target * width + 2 * source * width) + DECODER_VOCAB * width
    forward = encode_flops(size, batch=batch, source=source) + 2 * batch * target * per_token
    return 3 * forward


def generate_floor(
    size: Size, *, batch: int, source: int, new_tokens: int, bandwidth: float, peak: float, beams: int = 1
) -> float:
    """Seconds that `generate` cannot go below: the encoder at peak, then each step at bandwidth or peak.

    Args:
        size: the model.
        batch: sentences.
        source: source positions of each.
        new_tokens: tokens generated for each.
        bandwidth: measured bytes per second.
        peak: measured FLOPs per second.
        beams: rows decoded for each sentence.
    """
    length = (new_tokens + 1) // 2  # the mean number of cached target positions
    shape = {"batch": batch, "source": source, "length": length, "beams": beams}
    step = max(decode_step_bytes(size, **shape) / bandwidth, decode_step_flops(size, **shape) / peak)
    return encode_flops(size, batch=batch, source=source) / peak + new_tokens * step


def train_floor(size: Size, *, batch: int, source: int, target: int, peak: float) -> float:
    """Seconds that a training step cannot go below: its matrix products at peak. AdamW's traffic is left out."""
    return train_step_flops(size, batch=batch, source=source, target=target) / peak
