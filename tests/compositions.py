"""Which encoder is joined to which decoder, and how thoroughly each pair is checked. Knows no torch and no numbers.

Every encoder can be joined to every decoder. All of them are traced; a pair that is picked here is also run, so that
each encoder is run with several decoders and each decoder with several encoders.
"""

from encdec_eqx.hf.families import FAMILIES

ENCODERS = sorted(name for name, family in FAMILIES.items() if "encoder" in family.architectures)
DECODERS = sorted(name for name, family in FAMILIES.items() if "decoder" in family.architectures)


def pairs(shift: int) -> list[tuple[str, str]]:
    """Every encoder and every decoder at least once: each with the decoder that stands `shift` places further on."""
    count = max(len(ENCODERS), len(DECODERS))
    return [(ENCODERS[at % len(ENCODERS)], DECODERS[(at + shift) % len(DECODERS)]) for at in range(count)]


LIVE = pairs(4)
"""Compared with live torch in everything: calls, cached decoding, gradients, generated ids, files."""

STORED = pairs(9)
"""Compared with torch's stored numbers in the default run."""

RUN = pairs(13)
"""Run without torch: forward, gradient, three generated tokens, save, load."""
