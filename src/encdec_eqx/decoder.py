"""The decoder piece: logits for whole sequences, and for the next tokens with an explicit cache."""

import dataclasses
import os
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int32, Integer

from . import _trees
from ._inputs import as_ids, as_mask, check_length
from ._old_words import TaughtAttributes, taught
from ._padding import RightPadding, dense_mask
from ._typing import Array, ArrayLike, PRNGKey, SourceMask, TargetIds, TargetMask, checked
from .cache import Branches, DecoderCache
from .config import CrossAttention, StackConfig
from .heads import LMHead
from .hf.files.hub import HubOptions
from .hf.files.shards import DEFAULT_SIZE
from .hf.model_card import CardData
from .hf.on_mesh import mesh_to_load_on
from .hf.piece import how_drawn, load_piece, save_piece
from .hf.report import LoadReport
from .hf.upload import PushesToHub
from .inputs.counting import PositionRule
from .inputs.tokens import Embeddings, as_token_types, check_positions_used, longest
from .layers.attention import with_backends
from .layers.attention_backend import AttentionBackend
from .layers.context import AttentionContext, AttentionMask
from .layers.linear import AbstractLinear, Linear, split_key
from .params.sharding import Rules
from .stack import Layout, Remat, to_layout
from .stack.unrolled import AbstractStack, StackOutput, UnrolledStack
from .surgery.cross_attention import graft, grafting
from .surgery.resize import resize_embedding, resize_head


class DecoderOutput(eqx.Module):
    """What a decoder returns.

    Attributes:
        logits: scores of the next token after each position, in float32.
        hidden_states: embeddings, then each layer's output; `None` unless asked for.
        attentions: self-attention weights of each layer; `None` unless asked for. With a cache they have all slots.
        cross_attentions: cross-attention weights of each layer, `None` for layers that have none.
        cache: the cache with these tokens added; `None` if none was given.
    """

    logits: Float[Array, "batch target vocab"]
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None
    cross_attentions: tuple[Array | None, ...] | None = None
    cache: DecoderCache | None = None


class Decoder(TaughtAttributes, PushesToHub):
    """A causal transformer with a language-model head, and usually cross-attention.

    Attributes:
        embeddings: token, position and type embeddings.
        stack: the layers.
        head: from hidden states to logits.
        config: the architecture.
        load_report: what `from_pretrained` found; empty for a newly initialised decoder.
        pooler: a pooler, where the family's decoders have one, carried through checkpoints; nothing uses or trains it.
    """

    embeddings: Embeddings
    stack: AbstractStack
    head: LMHead
    config: StackConfig = eqx.field(static=True)
    load_report: LoadReport = eqx.field(static=True, default=LoadReport())
    pooler: AbstractLinear | None = None

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return self.config.hidden_size

    @taught
    @checked
    def __call__(
        self,
        input_ids: TargetIds,
        *,
        encoder_hidden_states: Float[ArrayLike, "batch source cross"] | None = None,
        encoder_attention_mask: SourceMask | RightPadding | None = None,
        attention_mask: TargetMask | RightPadding | None = None,
        position_ids: Integer[ArrayLike, "batch target"] | None = None,
        token_type_ids: Integer[ArrayLike, "batch target"] | None = None,
        cache: DecoderCache | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        key: PRNGKey | None = None,
    ) -> DecoderOutput:
        """Logits for every position.

        Args:
            input_ids: token ids; with a cache, only those that follow the tokens already in it.
            encoder_hidden_states: states to attend to, of the width that cross-attention reads; without them (and
                without a cache that holds them) cross-attention is skipped.
            encoder_attention_mask: which states may be attended; default all.
            attention_mask: 1 for real tokens, 0 for padding, or `RightPadding`; with a cache, of the new tokens alone.
            position_ids: rows of the position table; default by the family's rule, continued from the cache.
            token_type_ids: segment of each token; default 0.
            cache: made by `init_cache`, or by an earlier call.
            output_attentions: whether to return attention weights.
            output_hidden_states: whether to return every layer's output.
            key: turns dropout on; `None` is deterministic.

        Raises:
            TypeError: a shape or dtype is wrong.
            ValueError: an id, a position, the length or a mask is out of range, or the cache is full.
        """
        out, cache = self._whole(
            input_ids,
            encoder_hidden_states,
            encoder_attention_mask,
            attention_mask,
            position_ids,
            token_type_ids,
            cache,
            key,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        return DecoderOutput(
            logits=self.logits(out.last_hidden_state),
            hidden_states=out.hidden_states,
            attentions=out.self_attentions,
            cross_attentions=out.cross_attentions,
            cache=cache,
        )

    @checked
    def last_hidden_state(
        self,
        input_ids: TargetIds,
        *,
        encoder_hidden_states: Float[ArrayLike, "batch source cross"] | None = None,
        encoder_attention_mask: SourceMask | RightPadding | None = None,
        attention_mask: TargetMask | RightPadding | None = None,
        position_ids: Integer[ArrayLike, "batch target"] | None = None,
        token_type_ids: Integer[ArrayLike, "batch target"] | None = None,
        key: PRNGKey | None = None,
    ) -> Float[Array, "batch target hidden"]:
        """What the head makes logits of: the states after the last layer and its norm.

        `decoder.logits(states)` are the logits of a call with the same arguments, which are explained there; and
        `training.seq2seq_loss_from_hidden` is their loss, without making all of them.
        """
        out, _ = self._whole(
            input_ids,
            encoder_hidden_states,
            encoder_attention_mask,
            attention_mask,
            position_ids,
            token_type_ids,
            None,
            key,
        )
        return out.last_hidden_state

    def init_cache(
        self,
        encoder_states: Float[Array, "batch source cross"] | None,
        encoder_mask: Bool[Array, "batch source"] | RightPadding | None,
        *,
        rows: int,
        slots: int,
    ) -> DecoderCache:
        """An empty cache, with cross-attention's keys and values computed once per source sequence.

        Args:
            encoder_states: states to attend to, already projected; `None` to skip cross-attention.
            encoder_mask: which of them may be attended; default all.
            rows: sequences to decode, a multiple of `batch`, those of one source sequence side by side.
            slots: capacity in tokens.
        """
        return DecoderCache(
            self_kv=self.stack.empty_self_kv(rows, slots),
            cross_kv=None if encoder_states is None else self.stack.cross_kv(encoder_states),
            self_mask=jnp.ones((rows, slots), jnp.bool_),
            cross_mask=encoder_mask,
            length=jnp.zeros((), jnp.int32),
            counted=jnp.zeros((rows,), jnp.int32),
        )

    def advance(
        self,
        ids: Int32[Array, "rows new"],
        cache: DecoderCache,
        *,
        mask: Bool[Array, "rows new"] | None = None,
        positions: Int32[Array, "rows new"] | None = None,
        branches: Branches | None = None,
    ) -> tuple[Float[Array, "rows new hidden"], DecoderCache]:
        """Hidden states of the next tokens, and the cache with them added. For loops: nothing is validated.

        Args:
            ids: the tokens that follow those in the cache.
            cache: must have room for them.
            mask: False where a slot is padding that nothing may attend to.
            positions: rows of the position table; default by the family's rule, continued from the cache.
            branches: what the tokens attend to where they do not follow one another; `mask` is then not read.
        """
        context, positions, cache = self._continue(ids, cache, mask, positions)
        if branches is not None:
            context = dataclasses.replace(
                context, mask=AttentionMask(start=cache.length, branches=branches, causal=True)
            )
        out = self._run(ids, positions, None, None, context, self_kv=cache.self_kv, cross_kv=cache.cross_kv)
        return out.last_hidden_state, _advanced(cache, out, ids.shape[1])

    def cross_attentions(
        self,
        ids: Int32[ArrayLike, "rows new"],
        cache: DecoderCache,
        *,
        mask: Bool[ArrayLike, "rows new"],
        positions: Int32[ArrayLike, "rows new"],
    ) -> tuple[Float[Array, "rows heads new source"] | None, ...]:
        """What the next tokens attend to in the source, by layer; `None` for layers that have no cross-attention."""
        context, places, cache = self._continue(jnp.asarray(ids), cache, jnp.asarray(mask), jnp.asarray(positions))
        out = self._run(
            jnp.asarray(ids),
            places,
            None,
            None,
            context,
            self_kv=cache.self_kv,
            cross_kv=cache.cross_kv,
            output_attentions=True,
        )
        assert out.cross_attentions is not None
        return out.cross_attentions

    def truncate(self, cache: DecoderCache, length: Int32[Array, ""]) -> DecoderCache:
        """The cache as it was when only its first `length` slots were filled. For loops that give positions themselves.

        What is in the other slots stays, unseen, until it is written over.

        Args:
            cache: any, also a full one.
            length: how many slots stay filled; may be traced.
        """
        return eqx.tree_at(lambda c: c.length, cache, length)

    def logits(self, hidden: Float[Array, "*batch hidden"]) -> Float[Array, "*batch vocab"]:
        """Scores of the next token, in float32.

        Args:
            hidden: states after the last layer and its norm.
        """
        with jax.named_scope("decoder"):
            return self.head(hidden, self.embeddings)

    def _whole(
        self,
        input_ids: Any,
        encoder_hidden_states: Any,
        encoder_attention_mask: Any,
        attention_mask: Any,
        position_ids: Any,
        token_type_ids: Any,
        cache: DecoderCache | None,
        key: PRNGKey | None,
        **outputs: bool,
    ) -> tuple[StackOutput, DecoderCache | None]:
        """A public call up to the head: everything checked, all layers run, the cache with these tokens added."""
        states = self._checked_states(encoder_hidden_states)
        if states is None and cache is None and encoder_attention_mask is not None:
            raise ValueError("`encoder_attention_mask` without `encoder_hidden_states` would mask nothing: give both.")
        ids = as_ids("input_ids", input_ids, self.config.vocab_size, "the decoder's vocab_size")
        positions = self._explicit(position_ids)
        mask = as_mask("attention_mask", attention_mask, ids.shape)
        types = as_token_types(self.config, token_type_ids)
        if cache is None:
            check_length("input_ids", ids.shape[1], longest(self.config, position_ids))
            shape = None if states is None else states.shape[:2]
            source_mask = as_mask("encoder_attention_mask", encoder_attention_mask, shape)
            context = AttentionContext(
                AttentionMask(mask, causal=True),
                cross_mask=None if source_mask is None else AttentionMask(source_mask),
                encoder_states=states,
            )
            options: dict[str, Any] = {"context": context}
            if positions is None:
                counted = jnp.zeros((ids.shape[0],), jnp.int32)
                rule = PositionRule.of(self.config)
                positions, _ = rule.of_call(ids, mask, shape=ids.shape, start=0, counted=counted)
        else:
            cache = _with_room(cache, ids.shape)
            context, positions, cache = self._continue(ids, cache, mask, positions)
            options = {"context": context, "self_kv": cache.self_kv, "cross_kv": cache.cross_kv}
        out = self._run(ids, positions, types, key, **outputs, **options)
        return out, None if cache is None else _advanced(cache, out, ids.shape[1])

    def _run(
        self,
        ids: Int32[Array, "rows new"],
        positions: Int32[Array, "rows new"],
        types: Int32[Array, "rows new"] | None,
        key: PRNGKey | None,
        context: AttentionContext,
        **options: Any,
    ) -> StackOutput:
        embed_key, stack_key = split_key(key, 2)
        with jax.named_scope("decoder"):
            embedded = self.embeddings.look_up(ids)
            x = self.embeddings(embedded, positions=positions, token_type_ids=types, key=embed_key)
            context = dataclasses.replace(context, positions=positions, rotations=self.embeddings.rotations(positions))
            return self.stack(x, context, key=stack_key, **options)

    def _continue(
        self, ids: Array, cache: DecoderCache, mask: Array | RightPadding | None, positions: Array | None
    ) -> tuple[AttentionContext, Array, DecoderCache]:
        """Masks and positions of the tokens that follow those in the cache, which takes note of both."""
        real = dense_mask(mask)
        defaults, counted = PositionRule.of(self.config).of_call(
            ids, real, shape=ids.shape, start=cache.length, counted=cache.counted
        )
        self_mask = cache.self_mask
        if real is not None:
            self_mask = jax.lax.dynamic_update_slice_in_dim(self_mask, real, cache.length, axis=1)
        context = AttentionContext(
            AttentionMask(self_mask, cache.length, causal=True),
            cross_mask=None if cache.cross_mask is None else AttentionMask(cache.cross_mask),
        )
        noted = DecoderCache(cache.self_kv, cache.cross_kv, self_mask, cache.cross_mask, cache.length, counted)
        return context, defaults if positions is None else positions, noted

    def _explicit(self, position_ids: ArrayLike | None) -> Int32[Array, "batch target"] | None:
        if position_ids is None:
            return None
        check_positions_used(self.config)
        return as_ids("position_ids", position_ids, self.config.positions.limit, "the table of positions")

    def _checked_states(self, states: ArrayLike | None) -> Array | None:
        if states is None:
            return None
        if not self.config.cross_attention:
            raise ValueError(
                "`encoder_hidden_states` were given, but this decoder has no cross-attention and would ignore them; "
                "add it with `decoder.with_cross_attention(key=key)`."
            )
        if states.shape[-1] != self.config.cross_width:
            raise TypeError(
                f"`encoder_hidden_states` have width {states.shape[-1]}; this decoder's cross-attention reads "
                f"{self.config.cross_width}. `EncoderDecoder.from_pieces` adds the projection between them."
            )
        return jnp.asarray(states)

    @classmethod
    @checked
    def init(cls, config: StackConfig, *, key: PRNGKey) -> "Decoder":
        """Newly initialised: normal weights of standard deviation `config.initializer_range`, zero biases, unit norms.

        Args:
            config: of a causal stack with a head.
            key: draws the weights.

        Raises:
            ValueError: the config is an encoder's: it is not causal, or has no head.
        """
        if not config.causal:
            raise ValueError("this StackConfig is not causal: it describes an encoder. Set causal=True (is_decoder).")
        embed_key, stack_key, head_key = jax.random.split(key, 3)
        size = config.hidden_size
        pooler_key = jax.random.fold_in(key, 3)
        return cls(
            embeddings=Embeddings.init(config, key=embed_key),
            stack=UnrolledStack.init(config, key=stack_key),
            head=LMHead.init(config, key=head_key),
            config=config,
            pooler=Linear.init(size, size, scale=config.initializer_range, key=pooler_key) if config.pooler else None,
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
        cross_attention: CrossAttention | None = None,
        mesh: Mesh | None = None,
        rules: Rules | None = None,
        **attributes: Any,
    ) -> "Decoder":
        """Load a decoder from a checkpoint of any of the family's models.

        Args:
            path: a folder with `config.json` and the weights, or a Hub id such as `"gpt2"` (with the `hub` extra),
                or `"phonemes"`, which ships with the package.
            dtype: dtype of all arrays; `None` keeps each tensor's own.
            key: draws what the checkpoint lacks: cross-attention, and the head of a base model. Default
                `jax.random.key(0)`.
            revision: branch, tag or commit of a Hub repository.
            cache_dir: where Hub downloads are kept.
            local_files_only: never use the network.
            token: access token of a private Hub repository.
            strict_config: whether attributes of the config that nothing is known of are an error. If not, the report
                and one warning name them, and they are saved again.
            model_type: the family's name in configs, such as `"bert"`, for a `config.json` that has none and whose
                `architectures` do not tell, or that has another name for it.
            cross_attention: how a decoder that was pretrained without cross-attention gets it, as in
                `with_cross_attention`. By default it is loaded where the checkpoint has it, and drawn in every layer
                where it has none.
            mesh: devices to spread the decoder over, as `with_mesh` does; `encdec_eqx.make_mesh` makes one. Each reads
                its part of the files, and the host has one part at a time.
            rules: how arrays lie on the mesh, as of `with_mesh`; default its own.
            **attributes: attributes of the config to set, such as a dropout rate, under Hugging Face's names.

        Returns:
            The decoder; its `load_report` says what was loaded, what is new and what was left aside.

        Raises:
            MissingFileError: the checkpoint or one of its files is not there (a FileNotFoundError and a ValueError).
            NotImplementedError: its weights are in a format that is not read, such as `pytorch_model.bin`.
            ValueError: a file is damaged, or does not fit the config: all problems in one message. Or an axis of
                an array does not divide by the mesh.
            TypeError: an attribute has no effect, or `mesh` is no mesh.
        """
        return load_piece(
            path,
            "decoder",
            cls.init,
            dtype=dtype,
            key=key,
            hub=HubOptions(revision=revision, cache_dir=cache_dir, local_files_only=local_files_only, token=token),
            strict_config=strict_config,
            model_type=model_type,
            overrides=attributes,
            graft=grafting(cross_attention),
            spread=mesh_to_load_on(mesh, rules),
        )

    @taught
    def save_pretrained(
        self, folder: str | os.PathLike, *, max_shard_size: int | str = DEFAULT_SIZE, card_data: CardData | None = None
    ) -> None:
        """Save `config.json` and `model.safetensors` as torch's class for the family's decoders would.

        Args:
            folder: made if it does not exist. A save that fails changes nothing in it.
            max_shard_size: most bytes of tensors in a file, as a number or as `"200MB"`; beyond, the weights are shards
                `model-00001-of-00002.safetensors`, ... with an index. A larger tensor has a shard of its own.
            card_data: what the model card, `README.md`, says besides what the model knows. A card that somebody wrote
                or edited is kept as it is.

        Raises:
            ValueError: the family's format cannot express this decoder, or the folder is a file, or the size no size.
        """
        save_piece(folder, self.with_layout("unrolled"), "decoder", max_shard_size=max_shard_size, card_data=card_data)

    @checked
    def with_cross_attention(
        self,
        cross_attention: CrossAttention | None = None,
        *,
        key: PRNGKey | None = None,
        cross_attention_hidden_size: int | None = None,
    ) -> "Decoder":
        """The same decoder with cross-attention; its own arrays stay, and only what is new is made.

        Args:
            cross_attention: in which layers, and how it begins; default drawn, in every layer.
            key: draws new weights. `init="copy"` and `init="merged"` need none.
            cross_attention_hidden_size: width of the states to attend to; default the decoder's own.

        Raises:
            ValueError: it has cross-attention already, no layer would get any, or it cannot be made of this decoder.
            TypeError: weights are to be drawn, and there is no key.
        """
        how, drawn = cross_attention or CrossAttention(), how_drawn(self.config.initializer_range, key)
        return graft(self, how, key=key, drawn=drawn, width=cross_attention_hidden_size)

    def with_layout(self, layout: Layout, *, remat: Remat | bool = False, unroll: int = 1) -> "Decoder":
        """The same weights in the "scanned" or "unrolled" layout; see `stack.to_layout`.

        Args:
            layout: "unrolled" (fastest decoding) or "scanned" (fastest and smallest training and compilation).
            remat: with "scanned": what the backward pass finds kept: "keep_all", "keep_products" (False), "keep_linear"
                or "keep_nothing" (True); see `EncoderDecoder.with_layout`.
            unroll: with "scanned": repeating groups of layers that one iteration of the loop runs; at least 1.
        """
        return eqx.tree_at(lambda d: d.stack, self, to_layout(self.stack, layout, remat=remat, unroll=unroll))

    def attention_backends(self, *, right_padded: bool = True, dropout: bool = False) -> dict[str, str]:
        """Which backend attends in each layer, and why no other: see `EncoderDecoder.attention_backends`.

        Args:
            right_padded: whether all padding is known to be on the right before a program is traced.
            dropout: whether dropout of attention weights is on, as in training with a rate above 0.
        """
        said = self.stack.attention_backends(causal=True, right_padded=right_padded, dropout=dropout)
        return {f"decoder/{name}": backend for name, backend in said.items()}

    def with_attention_backends(self, *backends: AttentionBackend) -> "Decoder":
        """The same weights, attention by other backends: see `EncoderDecoder.with_attention_backends`.

        Args:
            *backends: asked in this order; the reference does what all of them refuse.
        """
        return with_backends(self, backends)

    def astype(self, dtype: DTypeLike) -> "Decoder":
        """The same decoder with its arrays cast to a floating-point dtype.

        Args:
            dtype: float32, bfloat16 or float16.
        """
        return _trees.astype(self, dtype)

    @checked
    def resize_token_embeddings(self, new_num_tokens: int, *, key: PRNGKey) -> "Decoder":
        """The same decoder with more or fewer token ids, in its table, head and head bias.

        Args:
            new_num_tokens: number of ids. Rows that both sizes have are kept; a new bias is zero.
            key: draws the new rows: normal, of standard deviation `config.initializer_range`.

        Raises:
            TypeError: the head's projection is not a plain `Linear`.
            ValueError: the number is below 1 or does not leave room for the padding row.
        """
        config = self.config.replace(vocab_size=new_num_tokens)
        table_key, head_key = jax.random.split(key)
        scale = config.initializer_range
        embedding = resize_embedding(self.embeddings.tokens, new_num_tokens, scale, table_key)
        embeddings = eqx.tree_at(lambda e: e.tokens, self.embeddings, embedding)
        head = resize_head(self.head, new_num_tokens, scale, head_key)
        return Decoder(embeddings, self.stack, head, config, self.load_report, self.pooler)


def _with_room(cache: DecoderCache, shape: tuple[int, ...]) -> DecoderCache:
    rows, new = shape
    if rows != cache.rows:
        raise TypeError(f"`input_ids` have {rows} rows; the cache was made for {cache.rows}.")
    needed = cache.length + new
    if isinstance(cache.length, Tracer):
        length = eqx.error_if(
            cache.length, needed > cache.slots, "the cache is full: call init_cache with a larger max_length."
        )
        return eqx.tree_at(lambda c: c.length, cache, length)
    if int(needed) > cache.slots:
        raise ValueError(
            f"the cache holds {int(cache.length)} of {cache.slots} tokens, too many for {new} more; call init_cache "
            f"with max_length of at least {int(needed)}."
        )
    return cache


def _advanced(cache: DecoderCache, out: StackOutput, new: int) -> DecoderCache:
    return DecoderCache(
        out.self_kv, cache.cross_kv, cache.self_mask, cache.cross_mask, cache.length + new, cache.counted
    )
