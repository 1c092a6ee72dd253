"""The methods of a model that can generate (`generate`, `stream`, `warmup`, …), and their arguments."""

import itertools
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Unpack

import equinox as eqx
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32

from .._inputs import plain, whole
from .._old_words import TaughtAttributes, refuse_old_words
from ..decoder import Decoder
from ..encoder import EncoderOutput, token_config
from ..layers.linear import AbstractLinear
from ..surgery.ties import Ties, untie
from .engine import Run, request
from .export.artefact import export_generate
from .generation_config import GenerationConfig
from .options import KNOWN, GenerationOptions, WarmupOptions
from .plan import Reach
from .plan_checks import Assistant
from .rescore import Rescored, cross_attentions, rescore
from .result import GenerationResult, StreamChunk, Warmup, counted
from .source_and_prompt import Source, from_any, from_ids, from_outputs, host_level
from .special_tokens import ARGUMENT, SpecialTokens, is_per_row
from .state_on_mesh import beside, model_on, parts_of_rows


class Generates(TaughtAttributes):
    """An encoder joined to a decoder, as far as generating goes. `EncoderDecoder` says what the fields are."""

    encoder: eqx.AbstractVar[Any]
    decoder: eqx.AbstractVar[Decoder]
    enc_to_dec_proj: eqx.AbstractVar[AbstractLinear | None]
    special_tokens: eqx.AbstractVar[SpecialTokens]
    generation_config: eqx.AbstractVar[GenerationConfig | None]
    ties: eqx.AbstractVar[Ties]

    def generate(
        self,
        input_ids: Any = None,
        *,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        encoder_outputs: EncoderOutput | None = None,
        decoder_input_ids: Any = None,
        decoder_attention_mask: Any = None,
        generation_config: GenerationConfig | None = None,
        key: Any = None,
        mesh: Mesh | None = None,
        **options: Unpack[GenerationOptions],
    ) -> GenerationResult:
        """Generate target sequences: greedily, by sampling, beam search or contrastive search.

        Runs on the host: it pads to buckets, loops and trims, and calls programs that are compiled once per bucket. The
        result does not depend on the padding, nor a row's on the other rows.

        Args:
            input_ids: what the encoder takes: (batch, source) ids for an `Encoder`.
            attention_mask: (batch, source), 1 for real source tokens; default all.
            token_type_ids: segment of each source token.
            position_ids: explicit source positions.
            encoder_outputs: from `encode`, so that the encoder does not run; `input_ids` may then be left out.
            decoder_input_ids: (batch, target) prompts. If no row begins with `decoder_start_token_id` it is put in
                front, as torch does. Without prompts every row starts with that token.
            decoder_attention_mask: (batch, target), 0 at left padding of prompts. Positions then count real tokens, so
                that a row's continuation is that of the row alone.
            generation_config: options, in place of the model's own; the arguments here win over both.
            key: a PRNG key, or an array of one key per sequence. Token t of sample s of sequence r is drawn with
                `fold_in(fold_in(fold_in(key, r), s), t)`; a sequence's own key takes the place of the inner one.
            mesh: devices to spread the model over, as `with_mesh(model, mesh).generate(...)` does. A model that lies on
                this mesh stays as it is; any other is laid out anew at every call, so that who generates more than
                once calls `with_mesh` once. The result is that of one device.
            **options: any option of `GenerationConfig`, and those that `GenerationOptions` adds: `logits_processor`,
                `constraint`, `assistant_model`, `output_cross_attentions`. One of `max_length` and `max_new_tokens` is
                required, here or in a config. Other names that Hugging Face knows are errors that name the nearest
                option here.

        Returns:
            Sequences (prompt included), lengths, scores, and what was compiled; see `GenerationResult`.

        Raises:
            NotImplementedError: for an option that is not built.
            RuntimeError: if called inside jit or another transformation.
            TypeError: for a wrong shape, dtype or name.
            ValueError: for values out of range, options that contradict each other or would do nothing, missing
                special tokens, a missing maximum length, right-padded prompts, sequences longer than the tables.
        """
        inputs = {"attention_mask": attention_mask, "position_ids": position_ids, "token_type_ids": token_type_ids}
        prompt = (decoder_input_ids, decoder_attention_mask)
        if not options.keys() <= KNOWN:
            refuse_old_words(Generates.generate, (), options)
        model = model_on(self, mesh)
        return model._request(input_ids, encoder_outputs, inputs, prompt, generation_config, key, options).generate()

    def stream(
        self,
        input_ids: Any = None,
        *,
        tokens_at_a_time: int = 1,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        encoder_outputs: EncoderOutput | None = None,
        decoder_input_ids: Any = None,
        decoder_attention_mask: Any = None,
        generation_config: GenerationConfig | None = None,
        key: Any = None,
        mesh: Mesh | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Iterator[StreamChunk]:
        """Generate, and yield tokens as they come: the same tokens as `generate`, in the same programs.

        Arguments are checked, and the encoder runs, when the first chunk is asked for. They are those of `generate` and
        `tokens_at_a_time`, how many tokens of every row a chunk holds; more where a pass yields several.

        Yields:
            Chunks with the new tokens and the rows that have ended. The last one has the `GenerationResult`. Beam
            search, which may still change its mind, yields rows when they are done, and no tokens before.

        Raises:
            ValueError: `tokens_at_a_time` is below 1; otherwise as `generate`.
        """
        inputs = {"attention_mask": attention_mask, "position_ids": position_ids, "token_type_ids": token_type_ids}
        prompt = (decoder_input_ids, decoder_attention_mask)
        if not options.keys() <= KNOWN:
            refuse_old_words(Generates.stream, (), options)

        def chunks() -> Iterator[StreamChunk]:
            most = whole("tokens_at_a_time", tokens_at_a_time, least=1, most=2**31 - 1)
            model = model_on(self, mesh)
            run = model._request(input_ids, encoder_outputs, inputs, prompt, generation_config, key, options)
            yield from run.stream(most)

        return chunks()

    def warmup(
        self,
        *,
        batch_sizes: Iterable[int] = (1,),
        source_lengths: Iterable[int],
        prompt_lengths: Iterable[int] = (1,),
        max_new_tokens: int | Iterable[int],
        generation_config: GenerationConfig | None = None,
        key: Any = None,
        mesh: Mesh | None = None,
        **options: Unpack[WarmupOptions],
    ) -> Warmup:
        """Compile ahead what `generate` will need, without generating: every combination of the sizes given.

        Sizes share programs by bucket (`docs/generation.md` says how sizes are rounded), so a few are enough. The
        encoder and the prompt do run once per combination. The second pass that `output_cross_attentions` asks for is
        not compiled ahead.

        Args:
            batch_sizes: source sequences at once.
            source_lengths: tokens of the longest source.
            prompt_lengths: tokens of the decoder's prompt, its start token included.
            max_new_tokens: most tokens to generate, one number or several.
            generation_config: see `generate`.
            key: see `generate`; needed where tokens are drawn.
            mesh: see `generate`.
            **options: the options of the calls to come; which rules are there decides the program, their values do not.

        Returns:
            How many programs were compiled, and in how many seconds.

        Raises:
            TypeError: the encoder is not the library's own: call `generate` once with inputs of the right shape.
            ValueError: as `generate`.
        """
        if token_config(self.encoder) is None:
            raise TypeError(
                f"warmup makes up token ids, and a {type(self.encoder).__name__} may take something else: call "
                "generate once with inputs of each shape instead."
            )
        most: Any = plain(max_new_tokens)
        limits = list(most) if isinstance(most, Iterable) else [most]
        given: Any = options.get("decoder_start_token_id")
        if is_per_row(given):
            # which ids they are decides no program
            given = np.asarray(given).reshape(-1)[0].item() if np.size(given) else None
            options = {**options, "decoder_start_token_id": given}
        start = self.special_tokens.require("decoder_start_token_id") if given is None else given
        model, begin = model_on(self, mesh), time.perf_counter()
        with counted() as count:
            for batch, source, target, limit in itertools.product(batch_sizes, source_lengths, prompt_lengths, limits):
                prompt = None if target == 1 else np.full((batch, target), start, np.int32)
                asked: dict[str, Any] = {**options, "max_new_tokens": limit}
                ids = np.zeros((batch, source), np.int32)
                model._request(ids, None, {}, (prompt, None), generation_config, key, asked).warm()
        return Warmup(count.programs, time.perf_counter() - begin)

    def rescore(
        self,
        sequences: Any,
        input_ids: Any = None,
        *,
        length_penalty: float = 0.0,
        prompt_length: int = 1,
        eos_token_id: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        encoder_outputs: EncoderOutput | None = None,
        decoder_attention_mask: Any = None,
    ) -> Rescored:
        """Log-probabilities of given sequences under the model, by one pass over each, and their normalised scores.

        Of what plain beam search returns it finds `result.scores` again, with the same `length_penalty`.

        Args:
            sequences: (batch * n, width) decoder ids with the prompt or start token in front, n per source sequence
                side by side, such as `result.sequences`.
            input_ids: the source sequences, as for `generate`.
            length_penalty: the sum of log-probabilities is divided by the length to this power: 0 leaves the sum.
            prompt_length: columns in front that are given and not scored.
            eos_token_id: ids of which the first one ends a row; default the model's own, `()` for none.
            attention_mask: see `generate`.
            token_type_ids: see `generate`.
            position_ids: see `generate`.
            encoder_outputs: see `generate`.
            decoder_attention_mask: (batch * n, prompt_length), 0 at left padding of prompts.

        Raises:
            TypeError: for a wrong shape or dtype.
            ValueError: for ids out of range, rows that are no multiple of the batch, or nothing to score.
        """
        inputs = {"attention_mask": attention_mask, "position_ids": position_ids, "token_type_ids": token_type_ids}
        return rescore(
            self.decoder,
            self.decoder.config,
            self.enc_to_dec_proj,
            self._source(input_ids, encoder_outputs, **inputs),
            sequences,
            decoder_attention_mask,
            prompt_length=prompt_length,
            eos_ids=self.special_tokens.override(ARGUMENT, eos_token_id=eos_token_id).require("eos_token_id"),
            length_penalty=length_penalty,
        )

    def cross_attentions(
        self,
        sequences: Any,
        input_ids: Any = None,
        *,
        prompt_length: int = 1,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        encoder_outputs: EncoderOutput | None = None,
        decoder_attention_mask: Any = None,
    ) -> tuple[Float32[np.ndarray, "rows heads new source"] | None, ...]:
        """What given sequences attend to in the source, by one pass over each; compiled once per bucket of lengths.

        Of sequences that `generate` made it finds again what `output_cross_attentions` gives.

        Args:
            sequences: as for `rescore`.
            input_ids: the source sequences, as for `generate`.
            prompt_length: columns in front that are given, and have no weights of their own.
            attention_mask: see `generate`.
            token_type_ids: see `generate`.
            position_ids: see `generate`.
            encoder_outputs: see `generate`.
            decoder_attention_mask: (batch * n, prompt_length), 0 at left padding of prompts.

        Returns:
            Of each layer the weights with which every token behind the prompt read the source when it was chosen, that
            is, where the decoder had read the tokens in front of it; `None` for a layer without cross-attention. They
            sum to 1 over the source, but for a layer that reads target and source in one softmax.

        Raises:
            TypeError: for a wrong shape or dtype.
            ValueError: for ids out of range, rows that are no multiple of the batch, or nothing behind the prompt.
        """
        inputs = {"attention_mask": attention_mask, "position_ids": position_ids, "token_type_ids": token_type_ids}
        source = self._source(input_ids, encoder_outputs, **inputs)
        return cross_attentions(
            self.decoder,
            self.decoder.config,
            self.enc_to_dec_proj,
            source,
            sequences,
            decoder_attention_mask,
            prompt_length=prompt_length,
        )

    def export_generate(
        self,
        folder: str | os.PathLike,
        batch: int,
        source: int,
        max_new_tokens: int,
        search: str | Mapping[str, Any] | GenerationConfig | None = None,
        *,
        prompt: int = 1,
        platforms: Sequence[str] = ("cpu", "cuda"),
        tokenizers: Any = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Write a call of `generate` as one program that runs where jax alone is installed (`docs/exporting.md`).

        Encoder, cache, loop and results become one StableHLO program (`jax.export`) in the folder, with the weights, a
        manifest, and `run.py`, which runs it. Sources, prompts, `max_new_tokens`, `min_new_tokens` and keys are inputs
        of the program; other options are fixed in it.

        Args:
            folder: made if it does not exist. An export that fails changes nothing in it.
            batch: source sequences at once; calls with fewer are padded, with more cut into several.
            source: tokens of the longest source.
            max_new_tokens: most tokens that a call may ask for.
            search: "greedy", "sample" or "beams" (4, unless `num_beams` says otherwise), a mapping of options, or a
                `GenerationConfig`, which takes the place of the model's own. Default: what the model's own and the
                options say.
            prompt: tokens of the longest prompt, its start token included.
            platforms: what it is lowered for, of "cpu", "cuda", "rocm" and "tpu"; none of them need be here.
            tokenizers: a `text.TokenizerPair` to save beside it, so that `run.py` takes texts.
            **options: of `generate`, fixed in the program: `num_beams`, `constraint`, `repetition_penalty`, ….

        Returns:
            The manifest.

        Raises:
            ImportError: flatbuffers, which jax writes the program with, is not installed.
            NotImplementedError: the encoder or an option cannot be exported; says what to do.
            TypeError: a wrong type, or an option that `generate` does not know.
            ValueError: as `generate`; or the folder cannot be written to, or a platform is unknown.
        """
        if not options.keys() <= KNOWN:
            refuse_old_words(Generates.generate, (), options)
        return export_generate(
            self,
            folder,
            batch=batch,
            source=source,
            max_new_tokens=max_new_tokens,
            prompt=prompt,
            search=search,
            platforms=platforms,
            tokenizers=tokenizers,
            options=self._with_assistant(options),
        )

    def _request(
        self,
        input_ids: Any,
        encoder_outputs: EncoderOutput | None,
        inputs: Mapping[str, Any],
        prompt: tuple[Any, Any],
        generation_config: GenerationConfig | None,
        key: Any,
        options: Mapping[str, Any],
        reach: Reach | None = None,
    ) -> Run:
        return request(
            self.decoder,
            self.decoder.config,
            lambda: self._source(input_ids, encoder_outputs, **inputs),
            project=self.enc_to_dec_proj,
            decoder_input_ids=prompt[0],
            decoder_attention_mask=prompt[1],
            generation_config=generation_config,
            file_config=self.generation_config,
            special_tokens=self.special_tokens,
            arguments=self._with_assistant(options),
            key=key,
            reach=reach,
        )

    def _with_assistant(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options, the assistant among them as generation knows it."""
        assistant = beside(options.get("assistant_model"), self)
        if isinstance(assistant, Generates):
            decoder, project = assistant.decoder, assistant.enc_to_dec_proj
        elif isinstance(assistant, Decoder):
            decoder, project = assistant, self.enc_to_dec_proj
            if not decoder.config.cross_attention or decoder.config.cross_width != self.decoder.config.cross_width:
                reads = decoder.config.cross_width if decoder.config.cross_attention else "no encoder states"
                raise ValueError(
                    f"assistant_model reads {reads}; this model's decoder reads states of width "
                    f"{self.decoder.config.cross_width}. EncoderDecoder.from_pieces(model.encoder, decoder) gives it a "
                    "projection of its own: pass that pair."
                )
        else:
            return dict(options)
        return {**options, "assistant_model": Assistant(decoder, project, decoder.config)}

    def _source(self, input_ids: Any, encoder_outputs: EncoderOutput | None, **inputs: Any) -> Source:
        host_level(self.encoder, input_ids, encoder_outputs, inputs)
        parts = parts_of_rows(self.decoder)
        if encoder_outputs is not None:
            return from_outputs(encoder_outputs, input_ids, hidden_size=self.encoder.hidden_size, parts=parts, **inputs)
        if input_ids is None:
            raise ValueError("generate needs a source: input_ids, or encoder_outputs from model.encode(...).")
        encoder = untie(self.encoder, self.decoder, self.ties) if self.ties else self.encoder
        if (config := token_config(encoder)) is not None:
            return from_ids(encoder, config, input_ids, parts=parts, **inputs)
        return from_any(encoder, input_ids, parts=parts, **inputs)
