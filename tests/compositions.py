"""Which encoder is joined to which decoder, and how thoroughly each pair is checked. Knows no torch and no numbers.

Every encoder can be joined to every decoder. All of them are traced; a pair that is picked here is also run, so that
each encoder is run with several decoders and each decoder with several encoders.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from encdec_eqx.hf.families import FAMILIES, WHOLES

ENCODERS = sorted(name for name, family in FAMILIES.items() if "encoder" in family.architectures)
DECODERS = sorted(name for name, family in FAMILIES.items() if "decoder" in family.architectures)

WHOLE_OF = {form.family.model_type: name for name, form in WHOLES.items()}
"""The `model_type` of the whole checkpoints that families are stored in."""

FAMILY_GOLDENS = Path(__file__).parent / "goldens" / "families"


class Partners(NamedTuple):
    """With whom a family is checked that came after the first twenty-five, which make up pairs among themselves.

    Attributes:
        live: its partner in comparisons with live torch; `None` where torch joins it to nothing: it is then compared
            alone, or whole.
        stored: its partner in the comparison with torch's stored numbers; likewise.
        run: its partners where it is run without torch: two, if there is none above.
    """

    live: str | None
    stored: str | None
    run: tuple[str, ...]


ENCODER_PARTNERS: dict[str, Partners] = {
    "t5_gemma_module": Partners(None, None, ("gpt2", "bert")),
    "deberta-v2": Partners(live="gpt2", stored="electra", run=("bert",)),
    "modernbert": Partners(live="bert", stored="bert-generation", run=("gpt2",)),
    "blenderbot-small": Partners("ernie", None, ("xglm",)),
    "m2m_100": Partners("gpt2", None, ("roformer",)),
    "plbart": Partners("electra", None, ("mbart",)),
    "t5": Partners(live="gpt2", stored="bert", run=("umt5",)),
    "mt5": Partners(live="bart", stored="roberta", run=("t5",)),
    "umt5": Partners(live="ernie", stored="gpt2", run=("mt5",)),
}
"""Decoders for each later encoder."""

DECODER_PARTNERS: dict[str, Partners] = {
    "t5_gemma_module": Partners(None, None, ("roberta", "distilbert")),
    "gemma": Partners(None, None, ("albert", "mpnet")),
    "gemma2": Partners(None, None, ("bert", "ernie")),
    "gemma3_text": Partners(None, None, ("electra", "roformer")),
    "llama": Partners(None, None, ("bert", "electra")),
    "gpt_neox": Partners(None, None, ("roberta", "albert")),
    "gptj": Partners(None, None, ("mpnet", "bart")),
    "phi": Partners(None, None, ("ernie", "modernbert")),
    "opt": Partners(None, None, ("distilbert", "camembert")),
    "falcon": Partners(None, None, ("rembert", "xlm-roberta")),
    "bloom": Partners(None, None, ("gpt2", "roformer")),
    "mistral": Partners(None, None, ("roberta", "albert")),
    "qwen2": Partners(None, None, ("xlm-roberta", "distilbert")),
    "qwen3": Partners(None, None, ("mpnet", "bart")),
    "smollm3": Partners(None, None, ("bert", "gpt2")),
    "olmo2": Partners(None, None, ("ernie", "mbart")),
    "phi3": Partners(None, None, ("pegasus", "bert")),
    "stablelm": Partners(None, None, ("rembert", "camembert")),
    "blenderbot-small": Partners("distilbert", None, ("m2m_100",)),
    "m2m_100": Partners(None, None, ("mpnet", "plbart")),
    "plbart": Partners("gpt2", None, ("albert",)),
    "t5": Partners(live=None, stored=None, run=("bert", "mt5")),
    "mt5": Partners(live=None, stored=None, run=("roberta", "umt5")),
    "umt5": Partners(live=None, stored=None, run=("distilbert", "t5")),
}
"""Encoders for each later decoder."""


def pairs(shift: int) -> list[tuple[str, str]]:
    """Each of the first families at least once: every encoder with the decoder `shift` places further on."""
    encoders = [name for name in ENCODERS if name not in ENCODER_PARTNERS]
    decoders = [name for name in DECODERS if name not in DECODER_PARTNERS]
    count = max(len(encoders), len(decoders))
    return [(encoders[at % len(encoders)], decoders[(at + shift) % len(decoders)]) for at in range(count)]


def _later(way: str) -> list[tuple[str, str]]:
    """The pairs of the later families in one of the three ways."""
    joined = [(name, other) for name, them in ENCODER_PARTNERS.items() for other in _chosen(them, way)]
    return joined + [(other, name) for name, them in DECODER_PARTNERS.items() for other in _chosen(them, way)]


def _chosen(partners: Partners, way: str) -> tuple[str, ...]:
    chosen = getattr(partners, way)
    return chosen if isinstance(chosen, tuple) else () if chosen is None else (chosen,)


LIVE = [*pairs(4), *_later("live")]
"""Compared with live torch in everything: calls, cached decoding, gradients, generated ids, files."""

STORED = [*pairs(9), *_later("stored")]
"""Compared with torch's stored numbers in the default run."""

RUN = [*pairs(13), *_later("run")]
"""Run without torch: forward, gradient, three generated tokens, save, load."""


def joined_by_torch(role: str, way: str) -> set[str]:
    """The encoders or decoders that torch joins to another family: those in the pairs of a way, "live" or "stored"."""
    names, later = (ENCODERS, ENCODER_PARTNERS) if role == "encoder" else (DECODERS, DECODER_PARTNERS)
    return {name for name in names if name not in later or getattr(later[name], way) is not None}


def stored_config(role: str, family: str) -> dict[str, Any]:
    """The stored tiny Hugging Face config of a family in a role, from its pair, or from its own folder."""
    at = 0 if role == "encoder" else 1
    pair = next((f for f in FAMILY_GOLDENS.iterdir() if "+" in f.name and f.name.split("+")[at] == family), None)
    hf = json.loads(((pair or FAMILY_GOLDENS / WHOLE_OF.get(family, family)) / "config.json").read_text())
    hf = hf.get(role, hf)
    return hf | ({"is_decoder": True, "add_cross_attention": True} if role == "decoder" else {"is_decoder": False})
