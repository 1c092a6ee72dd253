"""Pegasus: BART with norms in front of each sub-layer, one after the last, and sinusoidal positions (`PegasusModel`).

Zhang et al. 2020, arXiv:1912.08777. Data only; what it shares with BART is taken from there.
"""

from ..family import Whole
from . import bart

STYLE = bart.Style(placement="pre", final_norm=True, embedding_norm=False, positions="sinusoidal_halves", offset=0)

ATTRIBUTES = {
    **bart.ATTRIBUTES,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}

PEGASUS = bart.relative(
    "Pegasus",
    STYLE,
    ATTRIBUTES,
    Whole(architecture="PegasusForConditionalGeneration"),
    model_type="pegasus",
    generation={"forced_eos_token_id": 1},
)
