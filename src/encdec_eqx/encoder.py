"""The encoder piece, its output, and the protocol that any other encoder must meet."""

import os
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Float, Integer

from . import _trees
from ._old_words import TaughtAttributes, taught
from ._padding import RightPadding
from ._typing import Array, ArrayLike, PRNGKey, SourceIds, SourceMask, checked
from .config import StackConfig
from .hf.files.hub import HubOptions
from .hf.files.shards import DEFAULT_SIZE
from .hf.model_card import CardData
from .hf.on_mesh import mesh_to_load_on
from .hf.piece import load_piece, save_piece
from .hf.report import LoadReport
from .hf.upload import PushesToHub
from .inputs.tokens import Embeddings
from .layers.attention import with_backends
from .layers.attention_backend import AttentionBackend
from .layers.context import AttentionContext, AttentionMask
from .layers.linear import AbstractLinear, Linear, split_key
from .params.sharding import Rules
from .stack import Layout, Remat, to_layout
from .stack.unrolled import AbstractStack, UnrolledStack
from .surgery.resize import resize_embedding


class EncoderOutput(eqx.Module):
    """What an encoder returns.

    Attributes:
        last_hidden_state: states for the decoder to attend to, not projected.
        hidden_states: embeddings, then each layer's output; `None` unless asked for.
        attentions: attention weights of each layer; `None` unless asked for.
        attention_mask: which of the states may be attended. If set, it replaces the input's mask in cross-attention,
            for encoders whose states do not correspond one to one to their inputs.
    """

    last_hidden_state: Float[ArrayLike, "batch source hidden"]
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None
    attention_mask: SourceMask | RightPadding | None = None


@runtime_checkable
class EncoderProtocol(Protocol):
    """What `EncoderDecoder` needs of an encoder: any `eqx.Module` that has these two.

    The inputs may be anything with a leading batch axis: ids, image patches, audio features. `attention_mask`,
    `position_ids` and `key` are always passed (as `None` where the caller gave none), other arguments only if given.
    One that takes token ids may say so by a property `token_config`, a `StackConfig`: ids are then checked and padded.
    One that has `save_pretrained(folder)` is saved with its pair: see `EncoderDecoder.save_pretrained`.
    """

    @property
    def hidden_size(self) -> int:
        """Width of the states it returns."""
        ...

    def __call__(self, inputs: Any, /, *, attention_mask: Any, position_ids: Any, key: Any) -> EncoderOutput:
        """Encode a batch of inputs."""
        ...


def token_config(encoder: Any) -> StackConfig | None:
    """The config of an encoder that takes token ids; `None` for one that takes, or may take, anything else.

    An encoder says that it takes token ids by a property of this name, whoever wrote it.
    """
    return getattr(encoder, "token_config", None)


class Encoder(TaughtAttributes, PushesToHub):
    """A transformer encoder: embeddings and a stack of layers.

    Attributes:
        embeddings: token, position and type embeddings.
        stack: the layers.
        pooler: BERT's pooler, carried through checkpoints; nothing uses or trains it.
        config: the architecture.
        load_report: what `from_pretrained` found; empty for a newly initialised encoder.
    """

    embeddings: Embeddings
    stack: AbstractStack
    pooler: AbstractLinear | None
    config: StackConfig = eqx.field(static=True)
    load_report: LoadReport = eqx.field(static=True, default=LoadReport())

    @property
    def token_config(self) -> StackConfig | None:
        """What numbers and ids it takes, as its input side is a token table."""
        return self.config if isinstance(self.embeddings, Embeddings) else None

    @property
    def takes_right_padding(self) -> bool:
        """Whether its `attention_mask` may be a `RightPadding`, as its input side is a token table."""
        return isinstance(self.embeddings, Embeddings)

    @property
    def hidden_size(self) -> int:
        """Width of the states."""
        return self.config.hidden_size

    @taught
    @checked
    def __call__(
        self,
        input_ids: SourceIds | None = None,
        *,
        attention_mask: SourceMask | RightPadding | None = None,
        position_ids: Integer[ArrayLike, "batch source"] | None = None,
        token_type_ids: Integer[ArrayLike, "batch source"] | None = None,
        inputs_embeds: Float[ArrayLike, "batch source embedding"] | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        key: PRNGKey | None = None,
    ) -> EncoderOutput:
        """Encode a batch.

        Args:
            input_ids: token ids. Give these or `inputs_embeds`.
            attention_mask: 1 for real tokens, 0 for padding, or `RightPadding`. Without it every position is attended,
                padding included.
            position_ids: rows of the position table; default by the family's rule, whatever the mask.
            token_type_ids: segment of each token; default 0.
            inputs_embeds: token embeddings instead of ids.
            output_attentions: whether to return attention weights.
            output_hidden_states: whether to return every layer's output.
            key: turns dropout on; `None` is deterministic.

        Raises:
            TypeError: a shape or dtype is wrong.
            ValueError: an id, a position, the length or a mask is out of range.
        """
        embed_key, stack_key = split_key(key, 2)
        with jax.named_scope("encoder"):
            given = self.embeddings.embed(
                self.config,
                input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                token_type_ids=token_type_ids,
                inputs_embeds=inputs_embeds,
                key=embed_key,
            )
            mask = AttentionMask(given.mask, causal=self.config.causal)
            out = self.stack(
                given.hidden,
                AttentionContext(mask, positions=given.positions, rotations=given.rotations),
                output_hidden_states=output_hidden_states,
                output_attentions=output_attentions,
                key=stack_key,
            )
        return EncoderOutput(out.last_hidden_state, out.hidden_states, out.self_attentions)

    @classmethod
    @checked
    def init(cls, config: StackConfig, *, key: PRNGKey) -> "Encoder":
        """Newly initialised: normal weights of standard deviation `config.initializer_range`, zero biases, unit norms.

        Args:
            config: of a stack without cross-attention.
            key: draws the weights.

        Raises:
            ValueError: the config is a decoder's: its layers have cross-attention.
        """
        if config.cross_attention:
            raise ValueError(
                "this StackConfig has layers with cross-attention: it describes a decoder, not an encoder."
            )
        embed_key, stack_key, pooler_key = jax.random.split(key, 3)
        size = config.hidden_size
        return cls(
            embeddings=Embeddings.init(config, key=embed_key),
            stack=UnrolledStack.init(config, key=stack_key),
            pooler=Linear.init(size, size, scale=config.initializer_range, key=pooler_key) if config.pooler else None,
            config=config,
        )

    @classmethod
    @taught
    def from_pretrained(
        cls,
        path: str | os.PathLike,
        *,
        dtype: DTypeLike | None = jnp.float32,
        key: PRNGKey | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        strict_config: bool = False,
        model_type: str | None = None,
        mesh: Mesh | None = None,
        rules: Rules | None = None,
        **attributes: Any,
    ) -> "Encoder":
        """Load an encoder from a checkpoint of any of the family's models.

        Args:
            path: a folder with `config.json` and the weights, or a Hub id such as `"bert-base-uncased"` (with the `hub`
                extra), or `"letters"`, which ships with the package.
            dtype: dtype of all arrays; `None` keeps each tensor's own.
            key: draws what the checkpoint lacks: at most a pooler, which nothing uses; default `jax.random.key(0)`.
            revision: branch, tag or commit of a Hub repository.
            cache_dir: where Hub downloads are kept.
            local_files_only: never use the network.
            token: access token of a private Hub repository.
            strict_config: whether attributes of the config that nothing is known of are an error. If not, the report
                and one warning name them, and they are saved again.
            model_type: the family's name in configs, such as `"bert"`, for a `config.json` that has none and whose
                `architectures` do not tell, or that has another name for it.
            mesh: devices to spread the encoder over, as `with_mesh` does; `encdec_eqx.make_mesh` makes one. Each reads
                its part of the files, and the host has one part at a time.
            rules: how arrays lie on the mesh, as of `with_mesh`; default its own.
            **attributes: attributes of the config to set, such as a dropout rate, under Hugging Face's names.

        Returns:
            The encoder; its `load_report` says what was loaded, what is new and what was left aside.

        Raises:
            MissingFileError: the checkpoint or one of its files is not there (a FileNotFoundError and a ValueError).
            NotImplementedError: its weights are in a format that is not read, such as `pytorch_model.bin`.
            ValueError: a file is damaged, or does not fit the config: all problems in one message. Or an axis of
                an array does not divide by the mesh.
            TypeError: an attribute has no effect, or `mesh` is no mesh.
        """
        return load_piece(
            path,
            "encoder",
            cls.init,
            dtype=dtype,
            key=key,
            hub=HubOptions(revision=revision, cache_dir=cache_dir, local_files_only=local_files_only, token=token),
            strict_config=strict_config,
            model_type=model_type,
            overrides=attributes,
            spread=mesh_to_load_on(mesh, rules),
        )

    @taught
    def save_pretrained(
        self, folder: str | os.PathLike, *, max_shard_size: int | str = DEFAULT_SIZE, card_data: CardData | None = None
    ) -> None:
        """Save `config.json` and `model.safetensors` as torch's class for the family's encoders would.

        Args:
            folder: made if it does not exist. A save that fails changes nothing in it.
            max_shard_size: most bytes of tensors in a file, as a number or as `"200MB"`; beyond, the weights are shards
                `model-00001-of-00002.safetensors`, ... with an index. A larger tensor has a shard of its own.
            card_data: what the model card, `README.md`, says besides what the model knows. A card that somebody wrote
                or edited is kept as it is.

        Raises:
            ValueError: the family's format cannot express this encoder, or the folder is a file, or the size no size.
        """
        save_piece(folder, self.with_layout("unrolled"), "encoder", max_shard_size=max_shard_size, card_data=card_data)

    def with_layout(self, layout: Layout, *, remat: Remat | bool = False, unroll: int = 1) -> "Encoder":
        """The same weights in the "scanned" or "unrolled" layout; see `stack.to_layout`.

        Args:
            layout: "unrolled" (fastest decoding) or "scanned" (fastest and smallest training and compilation).
            remat: with "scanned": what the backward pass finds kept: "keep_all", "keep_products" (False), "keep_linear"
                or "keep_nothing" (True); see `EncoderDecoder.with_layout`.
            unroll: with "scanned": repeating groups of layers that one iteration of the loop runs; at least 1.
        """
        return eqx.tree_at(lambda e: e.stack, self, to_layout(self.stack, layout, remat=remat, unroll=unroll))

    def attention_backends(self, *, right_padded: bool = True, dropout: bool = False) -> dict[str, str]:
        """Which backend attends in each layer, and why no other: see `EncoderDecoder.attention_backends`.

        Args:
            right_padded: whether all padding is known to be on the right before a program is traced.
            dropout: whether dropout of attention weights is on, as in training with a rate above 0.
        """
        said = self.stack.attention_backends(causal=self.config.causal, right_padded=right_padded, dropout=dropout)
        return {f"encoder/{name}": backend for name, backend in said.items()}

    def with_attention_backends(self, *backends: AttentionBackend) -> "Encoder":
        """The same weights, attention by other backends: see `EncoderDecoder.with_attention_backends`.

        Args:
            *backends: asked in this order; the reference does what all of them refuse.
        """
        return with_backends(self, backends)

    def astype(self, dtype: DTypeLike) -> "Encoder":
        """The same encoder with its arrays cast to a floating-point dtype.

        Args:
            dtype: float32, bfloat16 or float16.
        """
        return _trees.astype(self, dtype)

    @checked
    def resize_token_embeddings(self, new_num_tokens: int, *, key: PRNGKey) -> "Encoder":
        """The same encoder with more or fewer rows in its token table.

        Args:
            new_num_tokens: rows of the new table. Rows that both tables have are kept.
            key: draws the new rows: normal, of standard deviation `config.initializer_range`.

        Raises:
            ValueError: the number is below 1 or does not leave room for the padding row.
        """
        config = self.config.replace(vocab_size=new_num_tokens)
        table = resize_embedding(self.embeddings.tokens, new_num_tokens, config.initializer_range, key)
        resized = eqx.tree_at(lambda e: e.embeddings.tokens, self, table)
        return Encoder(resized.embeddings, resized.stack, resized.pooler, config, self.load_report)
