"""M2M100, and whatever is stored in its format: NLLB-200, SMaLL-100, SONAR's encoder and decoder.

Fan et al. 2020, arXiv:2010.11125; NLLB Team 2022, arXiv:2207.04672.
"""

import dataclasses

from ..attributes import Attribute, Convert, variant
from ..family import Whole
from . import bart
from .bart import BART
from .bart_decoders import POSITIONS_BUFFER

M2M_100 = dataclasses.replace(
    BART,
    model_type="m2m_100",
    # torch has no class for a decoder with its head, which is tied: the decoder's own class reads what is written
    architectures={"encoder": "M2M100Encoder", "decoder": "M2M100Decoder"},
    prefixes=bart.PREFIXES | {"decoder": ("", *bart.PREFIXES["decoder"])},
    config_rows=variant(
        bart.ATTRIBUTES,
        Attribute("pad_token_id", "positions.padding_idx"),
        Attribute(
            "max_position_embeddings",
            "positions.max_positions",
            1024,
            Convert(
                lambda longest, hf: longest + 1 + (hf["pad_token_id"] or 0),
                lambda rows, config: config.positions.longest,
            ),
        ),
        without=["max_position_embeddings"],
        vocab_size=128112,
        activation_function="relu",
        attention_dropout=0.1,
        scale_embedding=True,
    ),
    constants={
        **{path: value for path, value in bart.PRE_NORM.items() if path != "positions.offset"},
        "embeddings.norm": False,
        "positions.kind": "sinusoidal_tensor2tensor",
        "positions.counting": "non_padding",
        "head.bias": False,
        "head.fixed_bias": False,
    },
    ignored=bart.IGNORED | {"force_bos_token_to_be_generated": bart.BARTS_ALONE},
    rows={
        **bart.ROWS,
        "base": tuple(POSITIONS_BUFFER if row[0] == POSITIONS_BUFFER[0] else row for row in bart.ROWS["base"]),
        "head": bart.ROWS["head"][:1],
    },
    optional={"embeddings.positions.weight": False},
    generation={},
    old_generation=lambda hf: {},
    whole=Whole(architecture="M2M100ForConditionalGeneration", saves_positions=False),
)
"""M2M100 and NLLB-200: BART with norms in front of sub-layers, and sinusoidal positions that count what is not padding

SMaLL-100 is stored so, too, and SONAR's text encoder and decoder, which load as pieces.
"""
