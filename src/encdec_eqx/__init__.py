"""Encoder–decoder models on JAX: any pretrained encoder joined to any pretrained causal decoder.

The public names, each imported when it is first asked for: a command is there at once, without jax, and a model without
optax or any optional dependency.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from ._moved import install as _find_moved_modules

if TYPE_CHECKING:
    from ._padding import RightPadding as RightPadding
    from ._trees import astype as astype
    from .cache import DecoderCache as DecoderCache
    from .config import AlibiConfig as AlibiConfig
    from .config import AttentionConfig as AttentionConfig
    from .config import CrossAttention as CrossAttention
    from .config import EmbeddingsConfig as EmbeddingsConfig
    from .config import FeedForwardConfig as FeedForwardConfig
    from .config import GatedMLPConfig as GatedMLPConfig
    from .config import HeadConfig as HeadConfig
    from .config import LayerNormConfig as LayerNormConfig
    from .config import LayerSpec as LayerSpec
    from .config import MLPConfig as MLPConfig
    from .config import NormConfig as NormConfig
    from .config import PositionsConfig as PositionsConfig
    from .config import QKNormConfig as QKNormConfig
    from .config import RelativeBiasConfig as RelativeBiasConfig
    from .config import RMSNormConfig as RMSNormConfig
    from .config import RotaryConfig as RotaryConfig
    from .config import StackConfig as StackConfig
    from .decoder import Decoder as Decoder
    from .decoder import DecoderOutput as DecoderOutput
    from .encoder import Encoder as Encoder
    from .encoder import EncoderOutput as EncoderOutput
    from .encoder import EncoderProtocol as EncoderProtocol
    from .encoder_decoder import EncoderDecoder as EncoderDecoder
    from .encoder_decoder import Seq2SeqOutput as Seq2SeqOutput
    from .generation.export.artefact import load_exported as load_exported
    from .generation.generation_config import GenerationConfig as GenerationConfig
    from .generation.special_tokens import SpecialTokens as SpecialTokens
    from .hf import families as families
    from .hf.report import LoadReport as LoadReport
    from .inspection import CheckpointSummary as CheckpointSummary
    from .inspection import inspect_checkpoint as inspect_checkpoint
    from .params.quantize import quantize as quantize
    from .params.sharding import make_mesh as make_mesh
    from .params.sharding import with_mesh as with_mesh
    from .training.loss import seq2seq_loss as seq2seq_loss
    from .training.loss import shift_tokens_right as shift_tokens_right
    from .training.step import init_train_state as init_train_state
    from .training.step import make_train_step as make_train_step

__version__ = "0.1.0"

_NAMES = {
    "_padding": "RightPadding",
    "_trees": "astype",
    "cache": "DecoderCache",
    "config": "AlibiConfig AttentionConfig CrossAttention EmbeddingsConfig FeedForwardConfig GatedMLPConfig HeadConfig "
    "LayerNormConfig LayerSpec MLPConfig NormConfig PositionsConfig QKNormConfig RMSNormConfig RelativeBiasConfig "
    "RotaryConfig StackConfig",
    "decoder": "Decoder DecoderOutput",
    "encoder": "Encoder EncoderOutput EncoderProtocol",
    "encoder_decoder": "EncoderDecoder Seq2SeqOutput",
    "generation.export.artefact": "load_exported",
    "generation.generation_config": "GenerationConfig",
    "generation.special_tokens": "SpecialTokens",
    "hf.report": "LoadReport",
    "inspection": "CheckpointSummary inspect_checkpoint",
    "params.quantize": "quantize",
    "params.sharding": "make_mesh with_mesh",
    "training.loss": "seq2seq_loss shift_tokens_right",
    "training.step": "init_train_state make_train_step",
}
_PLACES = {name: f".{place}" for place, names in _NAMES.items() for name in names.split()}
"""Where each public name is defined."""

__all__ = sorted([*_PLACES, "families"])  # pyright: ignore[reportUnsupportedDunderAll]

_find_moved_modules()


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        value = getattr(importlib.import_module(_PLACES[name], __name__), name)
    elif not name.startswith("__") and importlib.util.find_spec(f".{name}", __name__) is not None:
        value = importlib.import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
