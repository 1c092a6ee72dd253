"""An encoder and a decoder joined: composition, loading and saving, `encode`, `decode`, `__call__` and the cache.

`Generates` (in `generation`) and `Reshapes` (in `surgery`) bring the public calls that generate and that change a pair.
"""

import dataclasses
import os
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Integer

from ._inputs import as_mask
from ._old_words import TaughtAttributes, taught
from ._padding import RightPadding, dense_mask
from ._quoting import printable
from ._typing import Array, ArrayLike, PRNGKey, SourceMask, TargetIds, TargetMask, check_key, checked
from .cache import DecoderCache
from .config import CrossAttention, StackConfig
from .decoder import Decoder
from .encoder import Encoder, EncoderOutput, EncoderProtocol
from .generation.generation_config import FORCED_TOKENS, MARK, GenerationConfig, check_forced, file_settings
from .generation.interface import Generates
from .generation.special_tokens import BY_USER, SpecialTokens
from .hf.files.hub import HubOptions
from .hf.files.shards import DEFAULT_SIZE
from .hf.model_card import CardData
from .hf.on_mesh import mesh_to_load_on
from .hf.pair import PAIR, load_pair, save_pair
from .hf.piece import log, reports_held_back
from .hf.report import LoadReport, join_reports
from .hf.upload import PushesToHub
from .joining import check_pieces, decoder_settings, projection, special_token_ids
from .layers.attention import with_backends
from .layers.attention_backend import AttentionBackend
from .layers.linear import AbstractLinear, split_key
from .params.sharding import Rules
from .surgery.cross_attention import grafting
from .surgery.resize import Reshapes
from .surgery.ties import Ties, tie, untie


class Seq2SeqOutput(TaughtAttributes):
    """What `EncoderDecoder.__call__` and `.decode` return; tuples have one entry per layer (hidden states one more).

    Attributes:
        logits: scores of the next token after each target position, in float32.
        encoder_last_hidden_state: the encoder's states, not projected; `None` from `decode`.
        encoder_hidden_states: the encoder's embeddings, then each layer's output; `None` unless asked for.
        encoder_attentions: the encoder's attention weights; `None` unless asked for.
        decoder_hidden_states: the decoder's embeddings, then each layer's output; `None` unless asked for.
        decoder_attentions: the decoder's self-attention weights; `None` unless asked for.
        cross_attentions: the decoder's attention to the source, `None` for layers that have none.
        cache: from `decode` with a cache: the cache with these tokens added.
    """

    logits: Float[Array, "batch target vocab"]
    encoder_last_hidden_state: Float[ArrayLike, "batch source encoder_hidden"] | None = None
    encoder_hidden_states: tuple[Array, ...] | None = None
    encoder_attentions: tuple[Array, ...] | None = None
    decoder_hidden_states: tuple[Array, ...] | None = None
    decoder_attentions: tuple[Array, ...] | None = None
    cross_attentions: tuple[Array | None, ...] | None = None
    cache: DecoderCache | None = None


class EncoderDecoder(Generates, Reshapes, PushesToHub):
    """A sequence-to-sequence model: any encoder joined to a decoder with cross-attention.

    Make one with `from_pieces`, `from_pretrained` or `from_encoder_decoder_pretrained`.

    Attributes:
        encoder: the encoder.
        decoder: the decoder.
        enc_to_dec_proj: from the encoder's width to the decoder's, where they differ.
        special_tokens: the ids generation needs, with where each came from.
        generation_config: defaults for `generate`, from `generation_config.json`.
        load_report: what was loaded and what is new.
        ties: paths of arrays that the encoder shares with the decoder, which keeps them.
        model_type: the format that `save_pretrained` writes: "encoder-decoder", or the family ("bart", …) of a whole
            checkpoint that was loaded.
    """

    encoder: Any
    decoder: Decoder
    enc_to_dec_proj: AbstractLinear | None
    special_tokens: SpecialTokens = eqx.field(static=True)
    generation_config: GenerationConfig | None = eqx.field(static=True, default=None)
    load_report: LoadReport = eqx.field(static=True, default=LoadReport())
    ties: Ties = eqx.field(static=True, default=())
    model_type: str = eqx.field(static=True, default=PAIR)

    @classmethod
    def from_pieces(cls, encoder: EncoderProtocol, decoder: Decoder, *, key: PRNGKey | None = None) -> "EncoderDecoder":
        """Join two pieces.

        A projection is added where the encoder's width differs from the decoder's and the decoder's config does not set
        `cross_attention_hidden_size`; if it does, cross-attention reads the encoder's states as they are.

        Args:
            encoder: an `Encoder`, or any `eqx.Module` that meets `EncoderProtocol`.
            decoder: a decoder with cross-attention.
            key: draws the projection, normal with the decoder's `initializer_range`; default `jax.random.key(0)`.

        Returns:
            The model. Special tokens come from the decoder's config; missing ones fail at first use, not here. What the
            config of a decoder that was loaded says about generating counts, as in torch; the report names it.

        Raises:
            TypeError: a piece is not what it should be.
            ValueError: the decoder has no cross-attention, or reads states of another width, or its config says
                something of generating that cannot be.
        """
        check_pieces(encoder, decoder)
        return cls._joined(encoder, decoder, key=key)

    @classmethod
    def _joined(cls, encoder: Any, decoder: Decoder, *, key: PRNGKey | None = None) -> "EncoderDecoder":
        """`from_pieces`, also of a decoder that is to be given cross-attention when it is filled."""
        check_key(key)
        linear, new = projection(encoder.hidden_size, decoder, key=key)
        options = decoder_settings(decoder)
        reports = getattr(encoder, "load_report", LoadReport()), decoder.load_report
        notes = () if options is None else (f"generation: {options.said()}, from the decoder's config",)
        return cls(
            encoder=encoder,
            decoder=decoder,
            enc_to_dec_proj=linear,
            special_tokens=SpecialTokens.resolve(("the decoder's config", special_token_ids(decoder))),
            generation_config=options,
            load_report=join_reports(*reports, new=new, notes=notes),
        )

    @classmethod
    @taught
    def from_pretrained(
        cls,
        path: str | os.PathLike,
        *,
        encoder: EncoderProtocol | None = None,
        dtype: DTypeLike | None = jnp.float32,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        strict_config: bool = False,
        model_type: str | None = None,
        encoder_model_type: str | None = None,
        decoder_model_type: str | None = None,
        cross_attention: CrossAttention | None = None,
        key: PRNGKey | None = None,
        mesh: Mesh | None = None,
        rules: Rules | None = None,
    ) -> "EncoderDecoder":
        """Load a pair saved by `save_pretrained`, by torch's `EncoderDecoderModel` or by the old Flax class.

        Whole checkpoints of BART and its variants (mBART, Marian, NLLB, …), of T5's (Flan-T5, ByT5, mT5, UMT5) and of
        T5Gemma load too; `pieces()` takes them apart.

        Args:
            path: a folder with `config.json` and the weights, or a Hub id (with the `hub` extra).
            encoder: for a pair whose encoder was the caller's own when it was saved: that encoder, made again of the
                files that its `save_pretrained` wrote into the folder `encoder`. It is taken as it is.
            dtype: dtype of all arrays; `None` keeps each tensor's own.
            revision: branch, tag or commit of a Hub repository.
            cache_dir: where Hub downloads are kept.
            local_files_only: never use the network.
            token: access token of a private Hub repository.
            strict_config: whether attributes of the config that nothing is known of are an error. If not, the report
                and one warning name them, and they are saved again.
            model_type: `"encoder-decoder"`, or the family of a whole checkpoint, for a `config.json` that has no such
                attribute and whose `architectures` do not tell, or that has another name for it.
            encoder_model_type: the same for the encoder's part of a pair's config.
            decoder_model_type: the same for the decoder's.
            cross_attention: for a pair that was saved with a decoder without cross-attention: how it gets some, as in
                `Decoder.with_cross_attention`. A projection that is missing, too, is drawn.
            key: draws what is new then; default `jax.random.key(0)`.
            mesh: devices to spread the model over, as `with_mesh` does; `encdec_eqx.make_mesh` makes one. Each reads
                its part of the files, and the host has one part at a time.
            rules: how arrays lie on the mesh, as of `with_mesh`; default its own.

        Returns:
            The model; its `load_report` says what was loaded and what was left aside.

        Raises:
            MissingFileError: the checkpoint or one of its files is not there (a FileNotFoundError and a ValueError).
            NotImplementedError: its weights are in a format that is not read, such as `pytorch_model.bin`.
            TypeError: an encoder is given, and the checkpoint has its own; or a key, and nothing is drawn; or `mesh` is
                no mesh.
            ValueError: a file is damaged, or does not fit the config: all problems in one message. No array may be new,
                unless `cross_attention` says so. Or an encoder is missing, or has another width than the saved one; or
                an axis of an array does not divide by the mesh.
        """
        if key is not None and cross_attention is None:
            raise TypeError("from_pretrained got a key, but draws nothing without cross_attention=; leave it out.")
        loaded = load_pair(
            path,
            cls._skeleton,
            own=encoder,
            dtype=dtype,
            hub=HubOptions(revision=revision, cache_dir=cache_dir, local_files_only=local_files_only, token=token),
            strict_config=strict_config,
            model_types={
                "model_type": model_type,
                "encoder_model_type": encoder_model_type,
                "decoder_model_type": decoder_model_type,
            },
            graft=grafting(cross_attention),
            key=key,
            spread=mesh_to_load_on(mesh, rules),
        )
        model: EncoderDecoder = loaded.model
        tokens, options = file_settings(
            printable(path),
            file=loaded.generation_config,
            config=loaded.config,
            decoder_options=loaded.decoder_options,
            class_options=loaded.class_options,
            decoder_ids=special_token_ids(model.decoder),
        )
        return dataclasses.replace(model, special_tokens=tokens, generation_config=options)

    @classmethod
    @taught
    def from_encoder_decoder_pretrained(
        cls,
        encoder_path: str | os.PathLike,
        decoder_path: str | os.PathLike,
        *,
        key: PRNGKey | None = None,
        dtype: DTypeLike | None = jnp.float32,
        strict_config: bool = False,
        mesh: Mesh | None = None,
        rules: Rules | None = None,
        **options: Any,
    ) -> "EncoderDecoder":
        """Load two pieces and join them: `Encoder.from_pretrained`, `Decoder.from_pretrained`, then `from_pieces`.

        Args:
            encoder_path: a folder or a Hub id.
            decoder_path: a folder or a Hub id; cross-attention is added where it has none.
            key: draws what is new; default `jax.random.key(0)`.
            dtype: dtype of all arrays; `None` keeps each tensor's own.
            strict_config: whether attributes of either config that nothing is known of are an error.
            mesh: devices to spread the pair over, as `with_mesh` does; `encdec_eqx.make_mesh` makes one. Each reads
                its part of the files, and the host has one part at a time.
            rules: how arrays lie on the mesh, as of `with_mesh`; default its own.
            **options: `encoder_…` and `decoder_…`: further arguments of the two `from_pretrained`s.

        Raises:
            TypeError: an option begins with neither prefix, or one piece is given a mesh of its own.
        """
        given: dict[str, dict[str, Any]] = {"encoder": {}, "decoder": {}}
        for name, value in options.items():
            piece, _, argument = name.partition("_")
            if piece not in given:
                raise TypeError(f"got the option {name!r}; expected one that begins with encoder_ or decoder_.")
            if argument in ("mesh", "rules"):
                raise TypeError(f"got {name}, but both pieces lie on one mesh: give {argument}= instead.")
            given[piece][argument] = value
        keys = split_key(key, 3)
        spread = mesh_to_load_on(mesh, rules)
        both = {"dtype": dtype, "strict_config": strict_config, "mesh": mesh, "rules": rules}
        with reports_held_back():
            encoder = Encoder.from_pretrained(encoder_path, **{**both, "key": keys[0], **given["encoder"]})
            decoder = Decoder.from_pretrained(decoder_path, **{**both, "key": keys[1], **given["decoder"]})
        model = cls.from_pieces(encoder, decoder, key=keys[2])
        model = model if spread is None else spread.finished(model)
        log(model.load_report)
        return model

    @taught
    def save_pretrained(
        self, folder: str | os.PathLike, *, max_shard_size: int | str = DEFAULT_SIZE, card_data: CardData | None = None
    ) -> None:
        """Save `config.json`, `generation_config.json` and `model.safetensors` as torch's class would.

        That is `EncoderDecoderModel`, or, for a whole checkpoint that was loaded, the family's own. An encoder that is
        none of the library's writes its own files: its `save_pretrained(folder)` is called with an empty folder, which
        becomes `encoder` beside the others. `from_pretrained(folder, encoder=...)` loads such a pair; torch does not.

        Args:
            folder: made if it does not exist. A save that fails changes nothing in it.
            max_shard_size: most bytes of tensors in a file, as a number or as `"200MB"`; beyond, the weights are shards
                `model-00001-of-00002.safetensors`, ... with an index. A larger tensor has a shard of its own.
            card_data: what the model card, `README.md`, says besides what the model knows. A card that somebody wrote
                or edited is kept as it is.

        Raises:
            TypeError: the encoder is not one of the library's, and has no `save_pretrained`.
            ValueError: the format cannot express the model, the folder is a file, or the size no size.
        """
        own = own_encoder(self)
        tokens = self.special_tokens.to_hf()
        options = {} if self.generation_config is None else self.generation_config.to_hf()
        options.pop(MARK, None)  # what is saved counts by itself, whatever config.json says
        save_pair(
            folder,
            self.with_layout("unrolled"),
            own=own,
            tokens=tokens,
            generation_config={**options, **tokens},
            max_shard_size=max_shard_size,
            card_data=card_data,
        )

    @classmethod
    def _skeleton(
        cls, encoder: StackConfig | EncoderProtocol, decoder: StackConfig, ties: Ties, model_type: str
    ) -> "EncoderDecoder":
        """A model of these shapes, to be traced and filled; an encoder of the caller's own is there already."""
        key = jax.random.key(0)
        piece = Encoder.init(encoder, key=key) if isinstance(encoder, StackConfig) else encoder
        model = cls._joined(piece, Decoder.init(decoder, key=key))
        return dataclasses.replace(model, encoder=tie(model.encoder, ties), ties=ties, model_type=model_type)

    def pieces(self) -> tuple[Any, Decoder]:
        """The encoder and the decoder, whole and independent of each other: shared arrays stand in both."""
        return untie(self.encoder, self.decoder, self.ties), self.decoder

    @taught
    def encode(
        self,
        input_ids: Any = None,
        *,
        attention_mask: Any = None,
        position_ids: Any = None,
        token_type_ids: Any = None,
        inputs_embeds: Any = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        key: PRNGKey | None = None,
    ) -> EncoderOutput:
        """Run the encoder.

        Args:
            input_ids: what the encoder takes: token ids for an `Encoder`; passed through as it is.
            attention_mask: 1 for real positions, 0 for padding, or `RightPadding`; default all real.
            position_ids: explicit positions; default by the encoder's rule.
            token_type_ids: segment of each token.
            inputs_embeds: token embeddings instead of ids.
            output_attentions: whether to return attention weights.
            output_hidden_states: whether to return every layer's output.
            key: turns dropout on.

        Returns:
            The states, not projected.

        Raises:
            TypeError: a shape or dtype is wrong, or the encoder returned something else than an `EncoderOutput`.
            ValueError: a value is out of range.
        """
        given = {
            "token_type_ids": token_type_ids,
            "inputs_embeds": inputs_embeds,
            "output_attentions": output_attentions or None,
            "output_hidden_states": output_hidden_states or None,
        }
        options = {name: value for name, value in given.items() if value is not None}
        inputs = () if input_ids is None else (input_ids,)
        encoder = untie(self.encoder, self.decoder, self.ties)
        if not getattr(encoder, "takes_right_padding", False):
            attention_mask = dense_mask(attention_mask)
        out = encoder(*inputs, attention_mask=attention_mask, position_ids=position_ids, key=key, **options)
        if not isinstance(out, EncoderOutput):
            raise TypeError(
                f"the encoder returned {type(out).__name__}; an encoder must return an EncoderOutput with its states "
                "in `last_hidden_state`."
            )
        return out

    @taught
    @checked
    def init_cache(
        self,
        encoder_outputs: EncoderOutput,
        max_length: int,
        *,
        encoder_attention_mask: SourceMask | RightPadding | None = None,
    ) -> DecoderCache:
        """An empty cache for `decode`, with cross-attention's keys and values computed.

        Args:
            encoder_outputs: what `encode` returned.
            max_length: capacity in tokens, prompt or start token included.
            encoder_attention_mask: 1 for real source positions; default all. A mask inside `encoder_outputs` wins.

        Raises:
            TypeError: a shape or dtype is wrong.
            ValueError: `max_length` is below 1 or exceeds the decoder's table of positions.
        """
        longest = self.decoder.config.positions.longest
        if not 1 <= max_length <= longest:
            raise ValueError(
                f"max_length is {max_length}; expected 1 to {longest}, the positions of this decoder's table."
            )
        states, mask = self.for_cross_attention(encoder_outputs, encoder_attention_mask)
        return self.decoder.init_cache(states, mask, rows=states.shape[0], slots=max_length)

    @taught
    @checked
    def decode(
        self,
        decoder_input_ids: TargetIds,
        encoder_outputs: EncoderOutput | None = None,
        *,
        encoder_attention_mask: SourceMask | RightPadding | None = None,
        decoder_attention_mask: TargetMask | RightPadding | None = None,
        decoder_position_ids: Integer[ArrayLike, "batch target"] | None = None,
        cache: DecoderCache | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        key: PRNGKey | None = None,
    ) -> Seq2SeqOutput:
        """Run the decoder over encoder states.

        Args:
            decoder_input_ids: target ids; with a cache, only those that follow the tokens in it.
            encoder_outputs: what `encode` returned. With a cache it may be given and is not read.
            encoder_attention_mask: 1 for real source positions; default all. With a cache it is not read.
            decoder_attention_mask: 1 for real target positions; with a cache, of the new tokens alone.
            decoder_position_ids: explicit positions; default by the decoder's rule, continued from the cache.
            cache: made by `init_cache` or by an earlier call; it stays valid.
            output_attentions: whether to return attention weights; with a cache, self-attention's have all slots.
            output_hidden_states: whether to return every layer's output.
            key: turns dropout on.

        Raises:
            TypeError: a shape or dtype is wrong.
            ValueError: a value is out of range, the cache is full, or there are neither states nor a cache.
        """
        states = mask = None
        if cache is None:
            if encoder_outputs is None:
                raise ValueError("`decode` needs `encoder_outputs` (from `encode`) or a `cache` (from `init_cache`).")
            states, mask = self._states_for(decoder_input_ids, encoder_outputs, encoder_attention_mask)
        out = self.decoder(
            decoder_input_ids,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            attention_mask=decoder_attention_mask,
            position_ids=decoder_position_ids,
            cache=cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            key=key,
        )
        return Seq2SeqOutput(
            logits=out.logits,
            decoder_hidden_states=out.hidden_states,
            decoder_attentions=out.attentions,
            cross_attentions=out.cross_attentions,
            cache=out.cache,
        )

    @taught
    def __call__(
        self,
        input_ids: Any = None,
        decoder_input_ids: Any = None,
        *,
        attention_mask: Any = None,
        decoder_attention_mask: Any = None,
        position_ids: Any = None,
        decoder_position_ids: Any = None,
        token_type_ids: Any = None,
        inputs_embeds: Any = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        key: PRNGKey | None = None,
    ) -> Seq2SeqOutput:
        """Logits for every target position: `encode`, then `decode`.

        Labels are not an argument: shift them with `shift_tokens_right` and compare with `seq2seq_loss`.

        Args:
            input_ids: what the encoder takes: source ids for an `Encoder`.
            decoder_input_ids: target ids.
            attention_mask: 1 for real source positions, 0 for padding, or `RightPadding`; default all real.
            decoder_attention_mask: the same of the target.
            position_ids: explicit source positions.
            decoder_position_ids: explicit target positions.
            token_type_ids: segment of each source token.
            inputs_embeds: source embeddings instead of ids.
            output_attentions: whether to return all attention weights.
            output_hidden_states: whether to return every layer's output.
            key: turns dropout on; `None` is deterministic.

        Raises:
            TypeError: a shape or dtype is wrong.
            ValueError: a value is out of range.
        """
        if decoder_input_ids is None:
            raise TypeError(
                "`decoder_input_ids` are missing: make them from labels with "
                "shift_tokens_right(labels, pad_token_id, decoder_start_token_id), or call `generate`."
            )
        encoder_key, decoder_key = split_key(key, 2)
        encoded = self.encode(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            key=encoder_key,
        )
        out = self.decode(
            decoder_input_ids,
            encoded,
            encoder_attention_mask=attention_mask,
            decoder_attention_mask=decoder_attention_mask,
            decoder_position_ids=decoder_position_ids,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            key=decoder_key,
        )
        return dataclasses.replace(
            out,
            encoder_last_hidden_state=encoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
        )

    @checked
    def last_hidden_state(
        self,
        input_ids: Any,
        decoder_input_ids: TargetIds,
        *,
        attention_mask: Any = None,
        decoder_attention_mask: TargetMask | RightPadding | None = None,
        position_ids: Any = None,
        decoder_position_ids: Integer[ArrayLike, "batch target"] | None = None,
        token_type_ids: Any = None,
        key: PRNGKey | None = None,
    ) -> Float[Array, "batch target hidden"]:
        """What the decoder's head makes logits of: its states after the last layer, the final norm included.

        `model.decoder.logits(states)` are the logits of a call with the same arguments, which are explained there; and
        `training.seq2seq_loss_from_hidden(model, states, labels)` is their loss, without making all of them.
        """
        encoder_key, decoder_key = split_key(key, 2)
        encoded = self.encode(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            token_type_ids=token_type_ids,
            key=encoder_key,
        )
        states, mask = self._states_for(decoder_input_ids, encoded, attention_mask)
        return self.decoder.last_hidden_state(
            decoder_input_ids,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            attention_mask=decoder_attention_mask,
            position_ids=decoder_position_ids,
            key=decoder_key,
        )

    def _states_for(self, decoder_input_ids: Any, encoder_outputs: EncoderOutput, mask: Any) -> tuple[Array, Any]:
        """`for_cross_attention`, of as many rows as the target has."""
        states, mask = self.for_cross_attention(encoder_outputs, mask)
        if states.shape[0] != decoder_input_ids.shape[0]:
            raise TypeError(
                f"`decoder_input_ids` have batch {decoder_input_ids.shape[0]}; the encoder's states have batch "
                f"{states.shape[0]}."
            )
        return states, mask

    def for_cross_attention(
        self, encoder_outputs: EncoderOutput, mask: Any
    ) -> tuple[Float[Array, "batch source cross"], Bool[Array, "batch source"] | RightPadding | None]:
        """The states as cross-attention reads them, and which of them it may attend to; all, if `None`.

        Raises:
            TypeError: the states or the mask have a wrong shape, width or dtype.
        """
        if encoder_outputs.attention_mask is not None:
            mask = encoder_outputs.attention_mask
        states, mask = _checked_states(encoder_outputs.last_hidden_state, encoder_attention_mask=mask)
        if states.shape[-1] != self.encoder.hidden_size:
            raise TypeError(
                f"`encoder_outputs.last_hidden_state` has width {states.shape[-1]}; the encoder's hidden_size is "
                f"{self.encoder.hidden_size}."
            )
        return (states if self.enc_to_dec_proj is None else self.enc_to_dec_proj(states)), mask

    def attention_backends(self, *, right_padded: bool = True, dropout: bool = False) -> dict[str, str]:
        """Which backend attends in each layer, and why no other, such as `decoder/layer_3/cross_attention`.

        It is so for calls of many tokens that ask for no attention weights: encoding, training, whole targets. An
        encoder from elsewhere is left out if it has no method of this name.

        Args:
            right_padded: whether all padding is known to be on the right before a program is traced. It is in batches
                of `fit`, in what `generate` encodes, in any other mask that is not traced, and in a `RightPadding`.
            dropout: whether dropout of attention weights is on, as in training with a rate above 0.
        """
        kind, (encoder, decoder) = {"right_padded": right_padded, "dropout": dropout}, self.pieces()
        own = encoder.attention_backends(**kind) if hasattr(encoder, "attention_backends") else {}
        return {**own, **decoder.attention_backends(**kind)}

    def with_attention_backends(self, *backends: AttentionBackend) -> "EncoderDecoder":
        """The same weights, attention computed by other backends, such as a kernel of your own.

        They are asked in turn, and what all refuse the reference does; with none, that does everything.

        Args:
            *backends: objects of classes of `layers.attention_backend.AttentionBackend`. Default, before this is
                called: `FusedAttention()`.

        Raises:
            TypeError: one is something else.
        """
        return with_backends(self, backends)

    def with_special_tokens(self, **ids: Any) -> "EncoderDecoder":
        """The same model with other special tokens, or tokens that generation forces: labels and outputs follow them.

        Args:
            **ids: any of `bos_token_id`, `eos_token_id` (an id or several), `pad_token_id`, `decoder_start_token_id`,
                or of `generation_config`'s `forced_bos_token_id` (the target language of an mBART-50) and
                `forced_eos_token_id`, where None means that nothing is forced.

        Raises:
            TypeError: another name, or an id that is not an integer.
            ValueError: an id is negative, or a forced one beyond the decoder's vocabulary.
        """
        forced = {name: ids.pop(name) for name in FORCED_TOKENS if name in ids}
        tokens = self.special_tokens.override(BY_USER, **ids)
        if not forced:
            return dataclasses.replace(self, special_tokens=tokens)
        options = dataclasses.replace(self.generation_config or GenerationConfig(), **forced)
        check_forced(options, self.decoder.config.vocab_size)
        return dataclasses.replace(self, special_tokens=tokens, generation_config=options)


@checked
def _checked_states(
    last_hidden_state: Float[ArrayLike, "batch source hidden"],
    *,
    encoder_attention_mask: SourceMask | RightPadding | None,
) -> tuple[Float[Array, "batch source hidden"], Bool[Array, "batch source"] | RightPadding | None]:
    mask = as_mask("encoder_attention_mask", encoder_attention_mask, last_hidden_state.shape[:2])
    return jnp.asarray(last_hidden_state), mask


def own_encoder(model: EncoderDecoder) -> Any:
    """The encoder, if it is none of the library's and so writes its own files.

    Raises:
        TypeError: it has no `save_pretrained` for that.
    """
    own = None if isinstance(model.encoder, Encoder) else model.encoder
    if own is not None and not hasattr(own, "save_pretrained"):
        raise TypeError(
            f"the encoder is a {type(own).__name__}, which has no Hugging Face format and does not say how it is "
            "saved: give it a method `save_pretrained(self, folder)` that writes its files into the folder "
            "(equinox.tree_serialise_leaves(folder / 'encoder.eqx', self), say)."
        )
    return own
