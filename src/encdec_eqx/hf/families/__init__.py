"""The families by `model_type`: data, one architecture a file."""

from ..family import Family as Family
from ..family import Role as Role
from ..nested_config import NestedFormat, NestedText
from ..pair_config import PairConfig as PairConfig
from ..pair_config import WholeFormat as WholeFormat
from ..pair_config import read_pair as read_pair
from ..pair_config import write_pair as write_pair
from .albert import ALBERT
from .bart import BART, BLENDERBOT, BLENDERBOT_SMALL, MARIAN, MBART, PEGASUS, PLBART
from .bart_decoders import TROCR, XGLM
from .bert import BERT, BERT_GENERATION, ERNIE, MEGATRON_BERT
from .big_bird import BIG_BIRD
from .bloom import BLOOM, FALCON
from .deberta import DEBERTA_V2
from .distilbert import DISTILBERT
from .electra import ELECTRA, ROFORMER
from .gemma import GEMMA, GEMMA2, GEMMA3_TEXT, GEMMA3_WITH_IMAGES
from .gpt2 import GPT2
from .gpt_neox import GPT_NEOX, GPTJ, PHI
from .llama import LLAMA, MISTRAL
from .m2m_100 import M2M_100
from .modernbert import MODERNBERT
from .mpnet import MPNET
from .olmo2 import OLMO2
from .opt import OPT
from .phi3 import PHI3
from .qwen import QWEN2, QWEN3
from .rembert import REMBERT
from .roberta import CAMEMBERT, DATA2VEC_TEXT, ROBERTA, ROBERTA_PRELAYERNORM, XLM_ROBERTA, XLM_ROBERTA_XL
from .smollm3 import SMOLLM3
from .stablelm import STABLELM
from .t5 import MT5, T5, UMT5
from .t5gemma import T5_GEMMA_MODULE, T5GEMMA

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        *(BERT, ROBERTA, XLM_ROBERTA, CAMEMBERT, DATA2VEC_TEXT, XLM_ROBERTA_XL, ROBERTA_PRELAYERNORM),
        *(ERNIE, MEGATRON_BERT, REMBERT, ELECTRA, BERT_GENERATION, BIG_BIRD, ROFORMER, DISTILBERT, ALBERT, MPNET),
        *(MODERNBERT, DEBERTA_V2),
        *(GPT2, BART, MBART, MARIAN, PEGASUS, BLENDERBOT, XGLM, TROCR),
        *(BLENDERBOT_SMALL, PLBART, M2M_100),
        *(GPT_NEOX, GPTJ, PHI, OPT, FALCON, BLOOM),
        *(LLAMA, MISTRAL, QWEN2, QWEN3, SMOLLM3, OLMO2, STABLELM, PHI3),
        *(T5, MT5, UMT5),
        *(GEMMA, GEMMA2, GEMMA3_TEXT, T5_GEMMA_MODULE),
    )
}

WHOLES: dict[str, WholeFormat | NestedFormat] = {
    **{name: WholeFormat(one, one.whole) for name, one in FAMILIES.items() if one.whole is not None},
    T5GEMMA.model_type: T5GEMMA,
}
"""The formats of checkpoints that hold both pieces of one family, by `model_type`."""

NESTED: dict[str, NestedFormat | NestedText] = {form.model_type: form for form in (T5GEMMA, GEMMA3_WITH_IMAGES)}
"""Models whose config holds that of a piece, by `model_type`."""
