"""mBART: BART with norms in front of each sub-layer and one after the last (`MBartModel` and its kin).

Liu et al. 2020, arXiv:2001.08210. Data only; what it shares with BART is taken from there.
"""

from ..family import Whole
from . import bart

MBART = bart.relative(
    "MBart",
    bart.Style(placement="pre", final_norm=True),
    {**bart.ATTRIBUTES, "decoder_start_token_id": None},
    Whole(architecture="MBartForConditionalGeneration"),
    model_type="mbart",
    generation={"forced_eos_token_id": 2},
)
