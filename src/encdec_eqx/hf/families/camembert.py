"""CamemBERT: RoBERTa under another name (`CamembertModel`, `CamembertForCausalLM`).

Martin et al. 2020, arXiv:1911.03894. Data only.
"""

import dataclasses

from .roberta import ROBERTA

CAMEMBERT = dataclasses.replace(
    ROBERTA,
    model_type="camembert",
    architectures={"encoder": "CamembertModel", "decoder": "CamembertForCausalLM"},
    attributes={**ROBERTA.attributes, "vocab_size": 30522},
)
