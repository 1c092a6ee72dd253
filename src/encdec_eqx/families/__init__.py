"""The families by `model_type`, and the readers that `StackConfig.from_hf` looks up. Knows nothing of files."""

from ..config import READERS
from ._family import Family as Family
from ._family import Role as Role
from .bart import BART
from .bert import BERT
from .blenderbot import BLENDERBOT
from .gpt2 import GPT2
from .marian import MARIAN
from .mbart import MBART
from .pair import MODEL_TYPE as PAIR_MODEL_TYPE
from .pair import PairConfig as PairConfig
from .pair import read_pair as read_pair
from .pair import write_pair as write_pair
from .pegasus import PEGASUS
from .roberta import ROBERTA
from .trocr import TROCR
from .whole import WholeFormat as WholeFormat
from .xglm import XGLM

FAMILIES: dict[str, Family] = {family.model_type: family for family in (BERT, ROBERTA, GPT2, BART, MBART, MARIAN, PEGASUS, BLENDERBOT, XGLM, TROCR)}

WHOLES: dict[str, WholeFormat] = {
    name: WholeFormat(family) for name, family in FAMILIES.items() if family.whole is not None
}
"""The formats of checkpoints that hold both pieces of one family, by `model_type`."""

READERS.update({name: family.from_hf for name, family in FAMILIES.items()})

__all__ = ["FAMILIES", "PAIR_MODEL_TYPE", "Family", "PairConfig", "Role", "WHOLES", "WholeFormat", "read_pair", "write_pair"]
