"""XLM-RoBERTa: RoBERTa under another name (`XLMRobertaModel`, `XLMRobertaForCausalLM`).

Conneau et al. 2020, arXiv:1911.02116. Data only.
"""

import dataclasses

from .roberta import ROBERTA

XLM_ROBERTA = dataclasses.replace(
    ROBERTA,
    model_type="xlm-roberta",
    architectures={"encoder": "XLMRobertaModel", "decoder": "XLMRobertaForCausalLM"},
    attributes={**ROBERTA.attributes, "vocab_size": 30522},
)
