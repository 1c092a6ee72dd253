"""data2vec for text: RoBERTa under another name and prefix (`Data2VecTextModel`, `Data2VecTextForCausalLM`).

Baevski et al. 2022, arXiv:2202.03555. Data only.
"""

import dataclasses

from .roberta import ROBERTA

DATA2VEC_TEXT = dataclasses.replace(
    ROBERTA,
    model_type="data2vec-text",
    architectures={"encoder": "Data2VecTextModel", "decoder": "Data2VecTextForCausalLM"},
    prefixes={"encoder": ("data2vec_text",), "decoder": ("data2vec_text",)},
    attributes={**ROBERTA.attributes, "vocab_size": 30522},
)
