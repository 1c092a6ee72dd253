"""Every architectural choice of one stack of transformer layers, in small frozen parts, validated here and only here.

A switch is named by its effect and combines freely with the others.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any, Literal, get_args

from ._quoting import quoted
from .layers.alibi import AlibiConfig as AlibiConfig
from .layers.attention import AttentionConfig as AttentionConfig
from .layers.convolution import ConvolutionConfig as ConvolutionConfig
from .layers.feed_forward import ACTIVATIONS as ACTIVATIONS
from .layers.feed_forward import GatedMLPConfig as GatedMLPConfig
from .layers.feed_forward import MLPConfig as MLPConfig
from .layers.norm import LayerNormConfig as LayerNormConfig
from .layers.norm import QKNormConfig as QKNormConfig
from .layers.norm import RMSNormConfig as RMSNormConfig
from .layers.relative_bias import RelativeBiasConfig as RelativeBiasConfig
from .layers.rotary import RotaryConfig as RotaryConfig
from .layers.validation import LARGEST_REAL, one_of, positive, positive_real, rate
from .layers.validation import MAX_SIZE as MAX_SIZE

SINUSOIDS = ("sinusoidal_halves", "sinusoidal_interleaved", "sinusoidal_tensor2tensor")
"""Kinds of position tables that are constants."""

CrossKind = Literal["sublayer", "gated", "merged"]

MAX_LAYERS = 1024
"""Most layers of a stack. Each takes some 10 ms to put together; the deepest that were published have 500."""

UNLIMITED = 2**31 - 1
"""The positions below which tokens can stand where no table numbers them: those of an int32."""

MAX_CONSTANT_TABLE = 2**25
"""Most numbers in a table of positions that is computed and not read: 32,768 rows of width 1,024, about a second."""

NormConfig = LayerNormConfig
"""`LayerNormConfig`, by an older name."""

FeedForwardConfig = MLPConfig
"""`MLPConfig`, by an older name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """What may differ from one layer of a stack to the next.

    Attributes:
        score_scale: factor on the attention scores of the layer's self- and cross-attention;
            `None` means 1 / sqrt(head_dim).
        cross_attention: whether the layer attends to encoder states.
        weights: which set of weights the layer uses; layers that name the same number share them.
            `None` means a set of its own.
        hidden_state: whether its output counts among the `hidden_states` of a call, as the reference counts them.
        window: how many slots a query sees, its own included: those behind it, and in a stack that is not causal as
            many ahead; all, if `None`.
        rotary: which of `AttentionConfig.rotary` rotates queries and keys, if there are any; `None` for none.
        self_norm: whether self-attention has its norm (ModernBERT's first layer has none).
        block: how its sub-layers stand: one after another (`"serial"`), or attention and feed-forward side by side,
            reading the same normed input (`"parallel"`: GPT-J, Phi) or one normed for each (`"parallel_norms"`:
            GPT-NeoX); `"convolved"`: one after another, and a convolution of the layer's input is added to its output
            (DeBERTa v2's first layer).
        cross_kind: how the layer attends to encoder states, if it does: in a sub-layer of its own (`"sublayer"`), in
            one whose output is multiplied by the tanh of a learned gate (`"gated"`: Flamingo), or in self-attention,
            which reads target and source in one softmax (`"merged"`: T5Gemma 2).
    """

    score_scale: float | None = None
    cross_attention: bool = False
    weights: int | None = None
    hidden_state: bool = True
    window: int | None = None
    rotary: int | None = 0
    self_norm: bool = True
    block: Literal["serial", "parallel", "parallel_norms", "convolved"] = "serial"
    cross_kind: CrossKind = "sublayer"

    def __post_init__(self):
        one_of(self, "block", ("serial", "parallel", "parallel_norms", "convolved"))
        one_of(self, "cross_kind", get_args(CrossKind))
        if self.window is not None:
            positive(self, "window")

    @property
    def kind(self) -> tuple[Any, ...]:
        """What layers that share weights have in common."""
        return self.cross_attention, self.window, self.rotary, self.self_norm, self.block, self.cross_kind


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossAttention:
    """How a decoder that was pretrained without cross-attention gets it; `docs/grafting.md` says what to choose.

    Attributes:
        every: in every k-th layer: k, 2k, 3k and so on, counted from 1; the layers after the last whole group of k get
            none.
        init: how it begins. `"random"`: weights drawn as in a new model, in a sub-layer between self-attention and
            feed-forward. `"copy"`: such a sub-layer with the weights and norms of the layer's self-attention.
            `"zero_gate"`: such a sub-layer, drawn, its output multiplied by the tanh of a gate that is 0 at first, so
            that the decoder begins as it was pretrained (Alayrac et al. 2022). `"merged"`: no new array at all:
            self-attention reads target and source in one softmax, by its own projections (T5Gemma 2).
    """

    every: int = 1
    init: Literal["random", "copy", "zero_gate", "merged"] = "random"

    def __post_init__(self):
        positive(self, "every")
        one_of(self, "init", ("random", "copy", "zero_gate", "merged"))

    @property
    def kind(self) -> CrossKind:
        """What `LayerSpec.cross_kind` of its layers is."""
        kinds: dict[str, CrossKind] = {"zero_gate": "gated", "merged": "merged"}
        return kinds.get(self.init, "sublayer")


def with_cross_layers(config: "StackConfig", every: int, kind: CrossKind) -> "StackConfig":
    """The config with cross-attention of this kind in every k-th layer, and in no other.

    Raises:
        ValueError: no layer would have it, or layers that share weights would differ.
    """
    if every > len(config.layers):
        raise ValueError(
            f"cross-attention in every layer of {every} would be in none: the decoder has {len(config.layers)} layers."
        )

    def spec(at: int, layer: LayerSpec) -> LayerSpec:
        has = (at + 1) % every == 0
        return dataclasses.replace(layer, cross_attention=has, cross_kind=kind if has else "sublayer")

    return config.replace(layers=tuple(spec(at, layer) for at, layer in enumerate(config.layers)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PositionsConfig:
    """The table of positions.

    Attributes:
        max_positions: rows of the table: the longest sequence, or that plus what is not used of it. Where there is no
            table, the length of pretraining, which limits nothing.
        kind: what stands in the table: learned rows, or constants: sines and cosines of the position, the sines in the
            first half (`"sinusoidal_halves"`), in turn (`"sinusoidal_interleaved"`; both Vaswani et al. 2017), or in
            the first half with the last frequency exactly 1 / 10000 (`"sinusoidal_tensor2tensor"`). `"none"`: there is
            no table, and positions enter in attention alone.
        use: `"added"` to the embeddings, `"rotated"`: queries and keys are rotated by its angles (Su et al. 2021), or
            `"carried"` through checkpoints and not used (BERT with relative positions).
        counting: default positions: `"arange"`, or `"non_padding"`: ids other than `padding_idx` are counted from
            `padding_idx + 1`, and padding sits at `padding_idx` (RoBERTa), or `"mask"`: tokens that the mask has as
            real are counted from 0, and padding sits at -1 (OPT).
        padding_idx: the id that `"non_padding"` does not count.
        offset: the table's row of position 0 (2 in BART).
    """

    max_positions: int
    kind: Literal["none", "learned", "sinusoidal_halves", "sinusoidal_interleaved", "sinusoidal_tensor2tensor"] = (
        "learned"
    )
    use: Literal["added", "rotated", "carried"] = "added"
    counting: Literal["arange", "non_padding", "mask"] = "arange"
    padding_idx: int | None = None
    offset: int = 0

    def __post_init__(self):
        positive(self, "max_positions")
        one_of(self, "kind", ("learned", "none", *SINUSOIDS))
        one_of(self, "use", ("added", "rotated", "carried"))
        one_of(self, "counting", ("arange", "non_padding", "mask"))
        if self.counting == "non_padding" and self.padding_idx is None:
            raise ValueError("PositionsConfig.counting is 'non_padding': give `padding_idx`, the id not to count.")
        if self.offset < 0 or self.longest < 1:
            raise ValueError(
                f"PositionsConfig has max_positions = {self.max_positions}, offset = {self.offset} and padding_idx = "
                f"{self.padding_idx}, which leaves no position to use."
            )

    @property
    def limit(self) -> int:
        """Explicit positions are below this number."""
        return UNLIMITED if self.kind == "none" else self.max_positions - self.offset

    @property
    def longest(self) -> int:
        """The longest sequence that the table can number."""
        return self.limit - self.first

    @property
    def first(self) -> int:
        """The position of a sequence's first token."""
        return 0 if self.padding_idx is None or self.counting != "non_padding" else self.padding_idx + 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddingsConfig:
    """What surrounds the token and position tables.

    Attributes:
        token_type_size: rows of a table of token types; 0 for none.
        token_types_from_tokens: whether `token_type_ids` are looked up in the token table (GPT-2).
        norm: whether the sum is normalised.
        norm_before_positions: whether that norm is of the token embeddings alone, and the rest is added to what it
            returns (Blenderbot-small's decoder).
        dropout: rate of dropout on the sum.
        padding_idx: row of the token table whose gradient is zero, as in torch.
        size: width of the tables, if it is not that of the layers; needs `projection`.
        projection: whether a linear map leads from the tables' width to the layers' (Lan et al. 2020).
        projected: what it maps: the normalised `"sum"`, the `"tokens"` before positions are added, which then have
            the layers' width (OPT), or the `"unnormed_sum"`, so that the norm has the layers' width (DeBERTa).
        projection_bias: whether it has a bias.
        scale: factor on the looked-up token embeddings.
        scale_inputs_embeds: whether it applies to embeddings that the caller gives, too.
        task_type_size: rows of a table of tasks, of which the first is added (ERNIE); 0 for none.
    """

    token_type_size: int = 0
    token_types_from_tokens: bool = False
    norm: bool = False
    dropout: float = 0.0
    padding_idx: int | None = None
    size: int | None = None
    projection: bool = False
    scale: float = 1.0
    scale_inputs_embeds: bool = False
    task_type_size: int = 0
    norm_before_positions: bool = False
    projected: Literal["sum", "tokens", "unnormed_sum"] = "sum"
    projection_bias: bool = True

    def __post_init__(self):
        rate(self, "dropout")
        one_of(self, "projected", ("sum", "tokens", "unnormed_sum"))
        if self.padding_idx is not None and not -(2**31) <= self.padding_idx < 2**31:
            raise ValueError(f"EmbeddingsConfig.padding_idx is {quoted(self.padding_idx)}; expected a token id.")
        if self.size is not None:
            positive(self, "size")
            if not self.projection:
                raise ValueError(f"EmbeddingsConfig.size is {self.size}: set `projection`, the map to the layers.")
        if self.projected == "tokens" and self.token_types_from_tokens:
            raise ValueError(
                "EmbeddingsConfig.projected is 'tokens' and token_types_from_tokens true: types from the token table "
                "have its width, and are added to what the map makes of tokens. Project the 'sum', or leave one out."
            )
        for name in ("task_type_size", "token_type_size"):
            if not 0 <= (value := getattr(self, name)) <= MAX_SIZE:
                bounds = f"it cannot be negative, nor above {MAX_SIZE}"
                raise ValueError(f"EmbeddingsConfig.{name} is {quoted(value)}; {bounds}.")
        if self.token_type_size and self.token_types_from_tokens:
            raise ValueError("token types come from a table of their own or from the token table: choose one.")
        if self.norm_before_positions and not self.norm:
            raise ValueError("EmbeddingsConfig.norm_before_positions is true and norm false: there is none to place.")
        if self.norm_before_positions and self.projected == "unnormed_sum":
            raise ValueError(
                "EmbeddingsConfig.norm_before_positions is true and projected 'unnormed_sum', of which the norm is: "
                "choose one."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """From hidden states to logits.

    Attributes:
        tied: whether the output matrix is the token table.
        bias: whether the logits have a bias.
        transform: whether a dense layer, the activation and a norm come before the output matrix (BERT).
        activation: activation of the transform, one of `ACTIVATIONS`.
        size: width that the transform leads to, if it is not that of the layers.
        fixed_bias: whether the bias is a constant of the checkpoint, never trained (BART's `final_logits_bias`).
        input_size: width to which a linear map without bias brings the last states, those among `hidden_states` too;
            as they are, if `None` (OPT).
        scale: factor on the states that the output matrix takes (a tied T5 has 1 / sqrt(hidden_size)).
        logit_cap: logits are squashed to stay below it, by cap · tanh(logit / cap) (Gemma 2).
    """

    tied: bool = True
    bias: bool = False
    transform: bool = False
    activation: str = "gelu"
    size: int | None = None
    fixed_bias: bool = False
    scale: float = 1.0
    logit_cap: float | None = None
    input_size: int | None = None

    def __post_init__(self):
        one_of(self, "activation", ACTIVATIONS)
        if self.input_size is not None:
            positive(self, "input_size")
        positive_real(self, *(("scale",) if self.logit_cap is None else ("scale", "logit_cap")))
        if self.size is not None:
            positive(self, "size")
            if not self.transform:
                raise ValueError(f"HeadConfig.size is {self.size}: set `transform`, which leads to that width.")
        if self.fixed_bias and not self.bias:
            raise ValueError("HeadConfig.fixed_bias is true and bias false; a fixed bias is a bias.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StackConfig:
    """One encoder or decoder: embeddings, layers and head.

    Attributes:
        model_type: the Hugging Face family whose format `save_pretrained` writes.
        vocab_size: rows of the token table.
        hidden_size: width of the residual stream.
        layers: one `LayerSpec` per layer, first to last.
        attention: the attention heads.
        feed_forward: the perceptrons.
        norm: the norms.
        positions: the positions.
        embeddings: what surrounds the tables.
        head: the language-model head; `None` for an encoder.
        causal: whether a position sees only itself and those before it.
        cross_attention_hidden_size: width of the states that cross-attention reads; `None` means `hidden_size`.
        convolution: what `"convolved"` layers have; an encoder's only, as it looks ahead.
        dropout: rate of dropout on the output of each sub-layer.
        initializer_range: standard deviation of initial weights.
        pooler: whether BERT's pooler is carried through checkpoints; nothing here uses it.
        bos_token_id: first token of a sequence, if the model has one.
        eos_token_id: the token, or tokens, that end a sequence.
        pad_token_id: the token of padding.
        decoder_start_token_id: the token that starts decoding.

    Raises:
        ValueError: a value is out of range, or two of them contradict each other.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    layers: tuple[LayerSpec, ...]
    attention: AttentionConfig
    feed_forward: MLPConfig | GatedMLPConfig
    norm: LayerNormConfig | RMSNormConfig
    positions: PositionsConfig
    embeddings: EmbeddingsConfig
    head: HeadConfig | None = None
    causal: bool = False
    cross_attention_hidden_size: int | None = None
    convolution: ConvolutionConfig | None = None
    dropout: float = 0.0
    initializer_range: float = 0.02
    pooler: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None
    decoder_start_token_id: int | None = None

    def __post_init__(self):
        positive(self, "vocab_size", "hidden_size")
        rate(self, "dropout")
        if not self.layers:
            raise ValueError("StackConfig.layers is empty: a stack needs at least one LayerSpec.")
        if len(self.layers) > MAX_LAYERS:
            raise ValueError(f"StackConfig.layers has {len(self.layers)} layers; expected at most {MAX_LAYERS}.")
        width = self.attention.head_dim if self.positions.use == "rotated" else self.summed_size
        if self.positions.kind in SINUSOIDS and self.positions.max_positions * width > MAX_CONSTANT_TABLE:
            raise ValueError(
                f"the table of positions has {self.positions.max_positions} rows of {width}, which are computed; "
                f"expected at most {MAX_CONSTANT_TABLE} numbers."
            )
        if self.cross_attention_hidden_size is not None:
            positive(self, "cross_attention_hidden_size")
        if not 0 <= self.initializer_range <= LARGEST_REAL:
            raise ValueError(
                f"StackConfig.initializer_range is {quoted(self.initializer_range)}; it cannot be negative or above "
                f"{LARGEST_REAL:g}."
            )
        _check_shared_layers(self.layers)
        _check_convolution(self)
        if self.head is not None and self.head.tied and self.head_width != self.embedding_size:
            raise ValueError(
                f"the head is tied to the token table, whose width is {self.embedding_size}, but takes states of width "
                f"{self.head_width}; set HeadConfig.size (with `transform`) or HeadConfig.input_size, or untie it."
            )
        rotations = len(self.attention.rotary)
        if rotations and any(layer.rotary is not None and not 0 <= layer.rotary < rotations for layer in self.layers):
            raise ValueError(f"a LayerSpec.rotary names none of the {rotations} rotations of AttentionConfig.rotary.")
        if rotations and self.positions.use == "rotated":
            raise ValueError("queries and keys are rotated by AttentionConfig.rotary or by the table: choose one.")
        if self.positions.use == "rotated" and self.attention.head_dim % 2:
            raise ValueError(f"positions rotate pairs, but AttentionConfig.head_dim is {self.attention.head_dim}: odd.")

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, strict_config: bool = False) -> "StackConfig":
        """Read a Hugging Face `config.json` of one encoder or one decoder.

        Args:
            hf: the config as a mapping; `model_type` names the family.
            strict_config: whether attributes that nothing is known of are an error; otherwise one warning names them.

        Returns:
            The same architecture as a `StackConfig`.

        Raises:
            ValueError: the family is unknown, or an attribute has a value that is not supported.
        """
        # late: the families, which stand above this module, read their configs into the classes here
        return importlib.import_module(".hf.model_types", __package__).read_config(hf, strict=strict_config)

    @property
    def cross_attention(self) -> bool:
        """Whether any layer attends to encoder states."""
        return any(layer.cross_attention for layer in self.layers)

    @property
    def cross_width(self) -> int:
        """Width of the states that cross-attention reads."""
        return self.cross_attention_hidden_size or self.hidden_size

    @property
    def embedding_size(self) -> int:
        """Width of the token table."""
        return self.embeddings.size or self.hidden_size

    @property
    def summed_size(self) -> int:
        """Width of the tables that are added to token embeddings."""
        return self.hidden_size if self.embeddings.projected == "tokens" else self.embedding_size

    @property
    def last_size(self) -> int:
        """Width of the states after the last layer."""
        return (self.head.input_size if self.head is not None else None) or self.hidden_size

    @property
    def head_width(self) -> int:
        """Width of the states that the output matrix takes."""
        return (self.head.size if self.head is not None else None) or self.last_size

    @property
    def num_hidden_layers(self) -> int:
        """Number of layers."""
        return len(self.layers)

    def replace(self, **changes: Any) -> "StackConfig":
        """A copy with some fields changed, validated again.

        Args:
            **changes: fields by name.
        """
        return dataclasses.replace(self, **changes)


def _check_shared_layers(layers: tuple[LayerSpec, ...]) -> None:
    kinds: dict[int, tuple[Any, ...]] = {}
    for index, layer in enumerate(layers):
        if layer.weights is not None and kinds.setdefault(layer.weights, layer.kind) != layer.kind:
            raise ValueError(
                f"layer {index} shares weights {layer.weights} with a layer that differs in `cross_attention`, "
                "`window`, `rotary`, `self_norm`, `block` or `cross_kind`; layers that share weights must be of one "
                "kind."
            )


def _check_convolution(config: StackConfig) -> None:
    convolved = any(layer.block == "convolved" for layer in config.layers)
    if convolved != (config.convolution is not None):
        raise ValueError(
            f"StackConfig.convolution is {config.convolution} and {'some' if convolved else 'no'} LayerSpec.block is "
            "'convolved': give both or neither."
        )
    if config.convolution is None:
        return
    if config.causal or config.cross_attention:
        raise ValueError("StackConfig.convolution looks ahead, which a decoder must not; leave it out.")
    if config.hidden_size % config.convolution.groups:
        raise ValueError(
            f"ConvolutionConfig.groups is {config.convolution.groups}; expected a divisor of hidden_size, "
            f"{config.hidden_size}."
        )
