"""Runs a search on the host: sizes, the prompt fed in one pass, the compiled loop piece by piece, and the result.

The compiled programs are `source_and_prompt._encode`, `_open_cache` and `advance_until`; between them all is NumPy.
"""

import dataclasses
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int32

from .._inputs import platform
from .._padding import RightPadding
from .._typing import Array, ArrayLike
from ..cache import AbstractKV
from ..config import StackConfig
from ..layers.sharded import placement_of
from .generation_config import GenerationConfig
from .plan import Plan, Reach, resolve_settings, split_options, tokens_of_call
from .rescore import Sequences, sequence_cross_attentions
from .result import Count, GenerationResult, StreamChunk, Watch, assemble, counted
from .search.base import AbstractSearch, DecoderStep, PrefillOutput, SearchInputs
from .search.beam import BeamSearch
from .search.greedy_and_sampling import Sampling
from .search.legacy_constrained_beam import ConstrainedBeamSearch
from .search.legacy_contrastive import ContrastiveSearch
from .search.speculative import Speculative
from .source_and_prompt import (
    Encoded,
    PositionRule,
    Prompt,
    Source,
    TargetBucket,
    bucket,
    check_positions,
    check_run,
    from_user,
    host_level,
    key_data,
    longest_sequence,
    padded_source,
)
from .special_tokens import START, SpecialTokens, is_per_row, start_tokens_of_rows
from .state_on_mesh import Layout, kept, layout_of, rows_of, spread_state

TOKENS_A_CALL = 64
"""Tokens between two looks at the host: how long an interrupt may take to be noticed, and nothing else."""

STEPS_PER_CHECK = 8
"""The most steps between two checks on a GPU; more would save ever less, and take more steps that count for nothing."""

SEARCHES: Mapping[str, type[AbstractSearch]] = {
    "greedy": Sampling,
    "sample": Sampling,
    "beams": BeamSearch,
    "contrastive": ContrastiveSearch,
    "constrained": ConstrainedBeamSearch,
}
"""By the `search` of a plan; what proposals speed up is `Speculative`."""

State = TypeVar("State")


@eqx.filter_jit(donate="all-except-first")
def advance_until(fixed: tuple[Any, AbstractSearch, Int32[ArrayLike, ""], int, Layout | None], state: State) -> State:
    """Steps until `state.length` is `until`, or all have finished.

    The state's buffers are donated: it is private to one run, and its cache need not exist twice.

    Args:
        fixed: the decoder, the search, `until`, after how many steps to check whether there is more to do
            (`steps_per_check`): of no effect on the result; and where the state lies on a mesh, if it does.
        state: where to go on.
    """
    decoder, search, until, steps, layout = fixed

    def unfinished(now: Any) -> Bool[Array, ""]:
        return (now.length < until) & ~jnp.all(now.finished)

    def step(now: State) -> State:
        with jax.named_scope("decode_step"), rows_of(decoder):
            return kept(search.step(decoder, now), layout)

    def block(now: State) -> State:
        return jax.lax.fori_loop(0, steps, lambda _, now: _step_if(unfinished(now), step, now), now)

    # On CPU around single tokens: a scan of n tokens would run up to n - 1 tokens too far, and is not faster (measured:
    # 10.7 against 10.9 ms of processor time per token; 6 layers of width 384, batch 1).
    return kept(jax.lax.while_loop(unfinished, step if steps == 1 else block, state), layout)


def steps_per_check(tokens: int) -> int:
    """After how many steps the loop checks whether there is more to do; of `tokens` steps none is taken in vain.

    After each, where that costs nothing. On a GPU a check is a copy to the host that everything waits for, unless XLA
    knows beforehand how often a loop runs.
    """
    return math.gcd(tokens, STEPS_PER_CHECK) if platform() == "gpu" else 1


def least_rows(plan: Plan) -> int:
    """How many source sequences a run has at least, those that are padding among them.

    A single row of tokens is no matrix: XLA's GPU backend then writes products of a matrix and a vector out before it
    sums them up, and makes three kernels of each norm where two rows take one.
    """
    single = plan.search in ("greedy", "sample") and plan.num_return_sequences == 1 and not plan.ahead
    return 2 if single and platform() == "gpu" else 1


def _step_if(going: Bool[Array, ""], step: Callable[[State], State], now: State) -> State:
    """The state after a step, or as it is, without a branch and without a copy of the cache.

    The step is taken in any case. Where it does not count, what it wrote of keys and values lies behind the cache's
    length: nobody sees it, and the next step that counts writes over it.
    """

    def either(old: Any, new: Any) -> Any:
        return new if isinstance(new, AbstractKV) else jnp.where(going, new, old)

    return jax.tree.map(either, now, step(now), is_leaf=lambda node: isinstance(node, AbstractKV))


@eqx.filter_jit
def _open_cache(
    decoder: DecoderStep,
    project: Callable | None,
    states: ArrayLike,
    mask: Bool[ArrayLike, "batch source"] | RightPadding,
    prefix: tuple[Int32[ArrayLike, "rows p"], Bool[ArrayLike, "rows p"], Int32[ArrayLike, "rows p"]] | None,
    memory: Callable[[Array], Any] | None,
    *,
    sources: int,
    rows: int,
    slots: int,
) -> tuple[Any, Any]:
    """Cross-attention's keys and values, and the prompt (but for its last token), in one pass.

    Where fewer source sequences are encoded than `sources`, the first one stands for the others.

    Returns:
        The cache, and what `memory` makes of the prompt's hidden states.
    """
    if (encoded := states.shape[0]) < sources:
        which = np.where(np.arange(sources) < encoded, np.arange(sources), 0)
        states, mask = jax.tree.map(lambda leaf: jnp.asarray(leaf)[which], (states, mask))
    cache = decoder.init_cache(states if project is None else project(states), mask, rows=rows, slots=slots)
    if prefix is None:
        return cache, None
    ids, real, positions = prefix
    with jax.named_scope("prefill"):
        hidden, cache = decoder.advance(ids, cache, mask=real, positions=positions)
    return cache, None if memory is None else memory(hidden)


class Run:
    """One run of a search; its arguments are checked and its sizes settled when it is made, and nothing has run yet."""

    def __init__(
        self,
        decoder: DecoderStep,
        project: Callable | None,
        source: Source,
        config: StackConfig,
        prompt: Prompt,
        plan: Plan,
        tokens: SpecialTokens,
        key: Any,
    ):
        self.decoder, self.project, self.source, self.plan = decoder, project, source, plan
        self.place = placement_of(decoder)  # once: that walks over all layers
        self.batch = source.batch
        self.padded_batch = bucket(source.batch, least=least_rows(plan), parts=source.parts)
        seen = prompt.trimmed()
        self.unseen = prompt.ids[:, : prompt.width - seen.width]
        self.width, self.last = seen.width, seen.width + plan.max_new_tokens
        kind = Speculative if plan.ahead else SEARCHES[plan.search]
        self.whole = kind.reads_whole_prompt
        most = longest_sequence(config)
        needed = self.last if self.whole else self.last - 1
        self._check_positions(needed, most)
        fed = needed - plan.max_new_tokens
        room = max(plan.max_new_tokens, min(plan.reach.new_tokens, most - fed))
        self.bucket = TargetBucket.of(fed, room, most=most)
        self.rule = PositionRule.of(config)
        self.prompt = seen.padded(self.padded_batch, self.bucket.prefix + (not self.whole))
        ids, eos_ids, pad_id = source.ids, tokens.eos_token_id, tokens.pad_token_id if tokens.eos_token_id else 0
        assert isinstance(eos_ids, tuple)
        assert pad_id is not None
        if eos_ids:  # repetitions pad them
            eos_ids += eos_ids[:1] * (bucket(len(eos_ids), least=4) - len(eos_ids))
        inputs = SearchInputs(
            eos_ids=eos_ids,
            pad_id=pad_id,
            batch=self.batch,
            padded_batch=self.padded_batch,
            width=self.width,
            limit=self.last,
            min_new_tokens=plan.min_new_tokens or None,
            unseen=self.unseen.shape[1],
            prompt_tokens=self.prompt.real.sum(axis=1, dtype=np.int32),
            target=self.bucket,
            rule=self.rule,
            vocab_size=config.vocab_size,
            source=None if ids is None else (padded_source(ids, self.padded_batch), ids.shape[1]),
            key_data=key_data(key, self.batch, self.padded_batch) if plan.do_sample else None,
        )
        self.search = kind.of(plan, inputs)
        self.layout = self.search.layout
        # the search has no array yet that is as large as the run
        check_run(self.padded_batch, self.layout.rows, self.layout.branches, self.bucket.slots, config.vocab_size)

    def generate(self) -> GenerationResult:
        """All of it."""
        with counted() as count:
            encoded = self.source.encode()
            state, over = self._prefill(encoded), False
            while not over:
                state, over = self._advance(state, TOKENS_A_CALL)
            return self._result(state, encoded, count)

    def stream(self, tokens_at_a_time: int) -> Iterator[StreamChunk]:
        """Piece by piece; the last piece has the result."""
        total, over = Count(), False
        watch = Watch(self.search, self.batch, self.padded_batch, self.width)
        with counted(total):
            encoded = self.source.encode()
            state = self._prefill(encoded)
        while not over:
            # only here: what the caller compiles between two pieces is not ours
            with counted(total):
                state, over = self._advance(state, tokens_at_a_time)
            chunk = watch.chunk(state, over)
            if over:
                with counted(total):
                    chunk = dataclasses.replace(chunk, result=self._result(state, encoded, total))
            yield chunk

    def warm(self) -> None:
        """Compile all that `generate` would, without taking a step."""
        self._advance(self._prefill(self.source.encode()), 0)

    def program(self, tokens: int) -> Hashable:
        """What decides which compiled loop goes on by so many tokens: where it is equal, so are the programs.

        That of the encoder, and that which opens the cache, depend on nothing else but the source's padded sizes.
        """
        leaves, structure = jax.tree.flatten(self.search)
        forms = tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)
        return structure, forms, self.padded_batch, self.bucket, self.prompt.ids.shape, self._steps(tokens)

    def _steps(self, tokens: int) -> int:
        few = self.plan.max_new_tokens < STEPS_PER_CHECK
        return steps_per_check(self.plan.max_new_tokens if few else tokens)

    def _prefill(self, encoded: Encoded) -> Any:
        """The state in front of the first token."""
        search, fed = self.search, self.bucket.prefix
        ids, real = (np.repeat(table, self.layout.rows, axis=0) for table in (self.prompt.ids, self.prompt.real))
        slots = fed + self.layout.branches * (self.bucket.slots - fed) + self.layout.spare

        def feed(decoder: DecoderStep, project: Any, rule: PositionRule, memory: Any) -> tuple[Any, Any, Any]:
            positions = rule.of_prompt(ids, real)
            prefix = (ids[:, :fed], real[:, :fed], positions[:, :fed]) if fed else None
            states, mask = encoded.states, encoded.mask
            sizes = {"sources": self.padded_batch, "rows": ids.shape[0], "slots": slots}
            made = _open_cache(decoder, project, states, mask, prefix, memory, **sizes)
            return *made, positions[:, -1]

        cache, memory, positions = feed(self.decoder, self.project, self.rule, search.memory)
        draft = search.draft_decoder
        draft_cache = draft_positions = None
        if draft is not None:
            draft_cache, _, draft_positions = feed(draft[0], draft[1], draft[2], None)
        columns = np.full((ids.shape[0], self.bucket.slots + 1), search.pad_id, np.int32)
        columns[:, : self.width] = ids[:, ids.shape[1] - self.width :]
        alive = np.repeat(np.arange(self.padded_batch) < self.batch, self.layout.rows)
        state = search.start(
            PrefillOutput(columns, positions, real[:, :fed], alive, cache, memory, draft_cache, draft_positions)
        )
        return state if self.place is None else spread_state(state, self.place, self.padded_batch)

    def _advance(self, state: Any, tokens: int) -> tuple[Any, bool]:
        """The state after so many more tokens, or at its end, and whether that is the end."""
        until = np.asarray(min(int(state.length) + tokens, self.last), np.int32)
        layout = None if self.place is None else layout_of(state)
        fixed = (self.decoder, self.search, until, self._steps(tokens), layout)
        state = advance_until(fixed, state)
        return state, bool(np.asarray(state.finished).all()) or int(state.length) >= self.last

    def _result(self, state: Any, encoded: Encoded, count: Count) -> GenerationResult:
        """The result, with what a second pass adds, and the programs that were compiled."""
        output = self.search.output(state, self.batch)
        passes = int(state.length) - self.width if output.passes is None else output.passes
        each = output.sequences.shape[0] // self.batch
        real = np.repeat(self.prompt.real[: self.batch, -self.width :], each, axis=0)
        result = assemble(output, self.plan, np.repeat(self.unseen, each, axis=0), real, passes)
        if self.plan.output_cross_attentions:
            ids = result.sequences[:, self.unseen.shape[1] :]
            sequences = Sequences(ids, real, self.width, each, encoded.states.shape[0])
            layers = sequence_cross_attentions(self.decoder, self.project, encoded, sequences, self.rule)
            result = dataclasses.replace(result, cross_attentions=layers)
        return dataclasses.replace(result, compilations=count.programs)

    def _check_positions(self, needed: int, most: int) -> None:
        plan, assistant = self.plan, self.plan.assistant
        read = f"the prompt ({self.width}) and {plan.max_new_tokens} new tokens"
        part = ", all of which the decoder reads," if self.whole else ", of which the last needs no position,"
        how = "Lower max_new_tokens or max_length, or {}."
        check_positions(read + part, needed, longest=most, how=how.format("shorten the prompt"))
        if assistant is not None:
            theirs = longest_sequence(assistant.config)
            how = how.format("leave assistant_model out")
            check_positions(f"{read} that assistant_model reads", needed, longest=theirs, how=how)


def request(
    decoder: DecoderStep,
    config: StackConfig,
    make_source: Callable[[], Source],
    *,
    project: Callable | None,
    decoder_input_ids: Any,
    decoder_attention_mask: Any,
    generation_config: GenerationConfig | None,
    file_config: GenerationConfig | None,
    special_tokens: SpecialTokens,
    arguments: Mapping[str, Any],
    key: Any,
    reach: Reach | None = None,
) -> Run:
    """Check and settle a call; `EncoderDecoder.generate` documents the arguments that users see.

    `config` is the decoder's, `file_config` the model's own options; `make_source` checks the source's arguments;
    `project` leads from the encoder's states to the width that cross-attention reads; `arguments` are all others. With
    `reach` runs of different plans take the same programs.
    """
    host_level(decoder, decoder_input_ids, decoder_attention_mask, key)
    if not isinstance(generation_config, GenerationConfig | None):
        raise TypeError(
            f"generation_config must be an encdec_eqx.GenerationConfig, got {type(generation_config).__name__}; "
            "GenerationConfig.from_hf(a_dict) reads Hugging Face's."
        )
    vocab_size = config.vocab_size
    options, token_arguments = split_options(arguments)
    starts = token_arguments.get(START)
    per_row = starts is not None and is_per_row(starts)
    if per_row:
        del token_arguments[START]
    tokens, notes = tokens_of_call(
        special_tokens, generation_config, token_arguments, vocab_size, needs_start=not per_row
    )
    source = make_source()
    start: Any = tokens.decoder_start_token_id
    if per_row:
        start = start_tokens_of_rows(starts, batch=source.batch, vocab_size=vocab_size)
    prompt = from_user(
        decoder_input_ids, decoder_attention_mask, batch=source.batch, vocab_size=vocab_size, start=start
    )
    plan = resolve_settings(
        options,
        generation_config,
        file_config,
        prompt_width=prompt.width,
        eos_ids=tokens.eos_token_id,  # pyright: ignore[reportArgumentType]
        has_key=key is not None,
        vocab_size=vocab_size,
        has_source_ids=source.ids is not None,
        notes=notes,
    )
    if reach is not None:
        plan = dataclasses.replace(plan, reach=reach)
    return Run(decoder, project, source, config, prompt, plan, tokens, key)
