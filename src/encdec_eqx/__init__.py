"""Encoder–decoder models on JAX: any pretrained encoder joined to any pretrained causal decoder.

The public names. Importing the package imports neither optax nor any optional dependency.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import families as families
from ._trees import astype as astype
from .cache import DecoderCache as DecoderCache
from .checkpoint.report import LoadReport as LoadReport
from .config import AttentionConfig as AttentionConfig
from .config import EmbeddingsConfig as EmbeddingsConfig
from .config import FeedForwardConfig as FeedForwardConfig
from .config import HeadConfig as HeadConfig
from .config import LayerSpec as LayerSpec
from .config import NormConfig as NormConfig
from .config import PositionsConfig as PositionsConfig
from .config import StackConfig as StackConfig
from .decoder import Decoder as Decoder
from .decoder import DecoderOutput as DecoderOutput
from .encoder import Encoder as Encoder
from .encoder import EncoderOutput as EncoderOutput
from .encoder import EncoderProtocol as EncoderProtocol
from .encoder_decoder import EncoderDecoder as EncoderDecoder
from .encoder_decoder import Seq2SeqOutput as Seq2SeqOutput
from .generation.settings import GenerationConfig as GenerationConfig
from .generation.special_tokens import SpecialTokens as SpecialTokens
from .training.loss import seq2seq_loss as seq2seq_loss
from .training.loss import shift_tokens_right as shift_tokens_right

if TYPE_CHECKING:
    from .training.step import init_train_state as init_train_state
    from .training.step import make_train_step as make_train_step

__version__ = "0.1.0"

_NEED_OPTAX = ("init_train_state", "make_train_step")


def __getattr__(name: str) -> Any:
    if name in _NEED_OPTAX:
        return getattr(importlib.import_module(".training", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_NEED_OPTAX})
