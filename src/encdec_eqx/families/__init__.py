"""The families by `model_type`, and the readers that `StackConfig.from_hf` looks up. Knows nothing of files."""

from ..config import READERS
from ._family import Family as Family
from ._family import Role as Role
from .bert import BERT
from .gpt2 import GPT2
from .pair import MODEL_TYPE as PAIR_MODEL_TYPE
from .pair import PairConfig as PairConfig
from .pair import read_pair as read_pair
from .pair import write_pair as write_pair
from .roberta import ROBERTA

FAMILIES: dict[str, Family] = {family.model_type: family for family in (BERT, ROBERTA, GPT2)}

READERS.update({name: family.from_hf for name, family in FAMILIES.items()})

__all__ = ["FAMILIES", "PAIR_MODEL_TYPE", "Family", "PairConfig", "Role", "read_pair", "write_pair"]
