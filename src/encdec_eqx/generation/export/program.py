"""A whole call of `generate` as one function of arrays: encoding, the prompt, the loop, and the results.

It does what `engine.Run` does on the host, with the same parts, for one size of everything: what differs from call to
call (ids, masks, the prompt's width, limits, keys) is traced.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..._trees import path_name
from ..._typing import Array
from ...config import StackConfig
from ...surgery.ties import Ties, untie
from ..engine import SEARCHES, STEPS_PER_CHECK, _open_cache, advance_until
from ..plan import Plan
from ..search.base import AbstractSearch, PrefillOutput, SearchInputs, SearchOutput
from ..source_and_prompt import PositionRule, TargetBucket, check_positions, check_run, longest_sequence
from ..special_tokens import SpecialTokens

RESULTS = ("sequences", "lengths", "truncated", "scores", "normalized_scores", "log_probs", "processed_log_probs")
"""What the program returns, by the names of `GenerationResult`; beam search returns `beam_indices` too."""


@dataclasses.dataclass(frozen=True, eq=False)
class Pieces:
    """Modules without their arrays, which are handed in by name.

    Attributes:
        names: of the arrays, in the order of the tree's leaves.
        structure: of the arrays alone.
        rest: everything else.
    """

    names: tuple[str, ...]
    structure: Any
    rest: Any

    @classmethod
    def apart(cls, modules: Mapping[str, Any]) -> tuple["Pieces", dict[str, Array]]:
        """Modules taken apart, and their arrays by name."""
        arrays, rest = eqx.partition(modules, lambda leaf: isinstance(leaf, jax.Array | np.ndarray))
        leaves, structure = jax.tree_util.tree_flatten_with_path(arrays)
        named = {path_name(path): leaf for path, leaf in leaves}
        return cls(tuple(named), structure, rest), named

    def joined(self, arrays: Mapping[str, Array]) -> Any:
        """The modules with arrays of these names."""
        return eqx.combine(jax.tree.unflatten(self.structure, [arrays[name] for name in self.names]), self.rest)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of a program.

    Attributes:
        batch: source sequences.
        source: tokens of the longest source.
        prompt: tokens of the longest prompt, its start token included.
        new: most tokens to generate.
    """

    batch: int
    source: int
    prompt: int
    new: int

    @property
    def target(self) -> TargetBucket:
        """Of the decoder's side, nothing rounded up."""
        return TargetBucket(prefix=self.prompt - 1, slots=self.prompt - 1 + self.new)


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """What is exported, but for its arrays.

    Attributes:
        pieces: `encoder`, `decoder`, `enc_to_dec_proj`, `constraint` and `logits_processors`.
        ties: paths of arrays that the encoder shares with the decoder.
        plan: what the run does; its limits are the largest.
        tokens: the special tokens.
        sizes: of everything.
        source_config: the encoder's architecture.
        target_config: the decoder's.
    """

    pieces: Pieces
    ties: Ties
    plan: Plan
    tokens: SpecialTokens
    sizes: Sizes
    source_config: StackConfig
    target_config: StackConfig

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end a row."""
        return tuple(self.tokens.eos_token_id or ())  # pyright: ignore[reportArgumentType]

    @property
    def reads_source(self) -> bool:
        """Whether a rule on tokens compares with the source, whose padding counts up to a call's width, as in torch."""
        return self.plan.encoder_repetition_penalty != 1.0 or self.plan.encoder_no_repeat_ngram_size > 0

    @property
    def pad_id(self) -> int:
        """What follows them."""
        pad: Any = self.tokens.pad_token_id if self.eos_ids else 0
        return pad

    @property
    def source_pad_id(self) -> int:
        """What shorter sources are padded with."""
        rule = self.source_config.positions
        return rule.padding_idx or 0 if rule.counting == "non_padding" else 0

    def check_sizes(self) -> None:
        """Refuse sizes that the tables of positions, or any device, are too small for.

        Raises:
            ValueError: they are.
        """
        sizes, most = self.sizes, longest_sequence(self.target_config)
        check_positions("source", sizes.source, longest=longest_sequence(self.source_config), how="Lower source.")
        read = f"the prompt ({sizes.prompt}) and {sizes.new} new tokens, of which the last needs no position,"
        check_positions(read, sizes.target.slots, longest=most, how="Lower max_new_tokens or prompt.")
        plan = self.plan
        rows = 1 if plan.search == "beams" else plan.num_return_sequences
        branches = plan.num_beams if plan.search == "beams" else 1
        check_run(sizes.batch, rows, branches, sizes.target.slots, self.target_config.vocab_size)

    def inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """What a call takes, by name."""
        sizes = self.sizes
        source, prompt = (sizes.batch, sizes.source), (sizes.batch, sizes.prompt)
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "input_ids": (source, np.int32),
            "attention_mask": (source, np.int32),
            "decoder_input_ids": (prompt, np.int32),
            "decoder_attention_mask": (prompt, np.int32),
            "max_new_tokens": ((), np.int32),
        }
        if self.eos_ids:
            shapes["min_new_tokens"] = ((), np.int32)
        if self.reads_source:
            shapes["source_width"] = ((), np.int32)
        if self.plan.do_sample:
            shapes["keys"] = ((sizes.batch, 2), np.uint32)
        return {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in shapes.items()}

    def __call__(self, weights: Mapping[str, Array], inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The results of a call, by the names of `RESULTS`; of rows that are not filled they mean nothing."""
        pieces = self.pieces.joined(weights)
        plan = dataclasses.replace(
            self.plan, constraint=pieces["constraint"], logits_processors=pieces["logits_processors"]
        )
        alive = inputs["decoder_attention_mask"][:, -1] != 0
        # rows that are not filled are as harmless as the first one
        ids, mask, prompt, real = (
            jnp.where(alive[:, None], inputs[name], inputs[name][:1])
            for name in ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")
        )
        mask, real = mask != 0, real != 0
        with jax.named_scope("encode"):
            encoder = untie(pieces["encoder"], pieces["decoder"], self.ties)
            encoded = encoder(self._source_ids(ids, mask), attention_mask=mask, position_ids=None, key=None)
        search = self._search(plan, inputs, ids, real)
        cache, positions = self._cache(pieces, search, encoded.last_hidden_state, mask, prompt, real)
        rows = search.layout.rows
        state = search.start(
            PrefillOutput(
                columns=jnp.repeat(self._columns(prompt, search), rows, axis=0),
                positions=jnp.repeat(positions, rows),
                real=jnp.repeat(real[:, :-1], rows, axis=0),
                alive=jnp.repeat(alive, rows),
                cache=cache,
            )
        )
        state = self._finished(pieces["decoder"], search, state)
        return self._results(search, search.output(state, self.sizes.batch), prompt)

    def _source_ids(self, ids: Array, mask: Array) -> Array:
        """RoBERTa's positions count ids that are not padding: nothing that the mask leaves out must be counted."""
        if self.source_config.positions.counting != "non_padding":
            return ids
        return jnp.where(mask, ids, self.source_pad_id)

    def _search(self, plan: Plan, inputs: Mapping[str, Array], ids: Array, real: Array) -> AbstractSearch:
        """The search of a run, its limits traced."""
        sizes = self.sizes
        first = jnp.argmax(jnp.any(real, axis=0)).astype(jnp.int32)
        width = sizes.prompt - first
        given = SearchInputs(
            eos_ids=self.eos_ids,
            pad_id=self.pad_id,
            batch=sizes.batch,
            padded_batch=sizes.batch,
            width=width,
            limit=width + jnp.clip(inputs["max_new_tokens"], 1, sizes.new),
            min_new_tokens=inputs.get("min_new_tokens"),
            unseen=0,  # columns that the program adds to a prompt are nobody's
            prompt_tokens=jnp.sum(real, axis=1, dtype=jnp.int32),
            target=sizes.target,
            rule=PositionRule.of(self.target_config),
            vocab_size=self.target_config.vocab_size,
            source=(ids, inputs["source_width"]) if self.reads_source else None,
            key_data=inputs.get("keys"),
        )
        return SEARCHES[plan.search].of(plan, given)

    def _cache(
        self, pieces: Mapping[str, Any], search: AbstractSearch, states: Array, mask: Array, prompt: Array, real: Array
    ) -> tuple[Any, Array]:
        """The cache with the prompt in it, and the positions of the prompt's last token."""
        layout, fed, sizes = search.layout, self.sizes.prompt - 1, self.sizes
        positions = PositionRule.of(self.target_config).of_prompt(prompt, real)
        ids, known, at = (jnp.repeat(table[:, :fed], layout.rows, axis=0) for table in (prompt, real, positions))
        cache, _ = _open_cache(
            pieces["decoder"],
            pieces["enc_to_dec_proj"],
            states,
            mask,
            (ids, known, at) if fed else None,
            None,
            sources=sizes.batch,
            rows=sizes.batch * layout.rows,
            slots=fed + layout.branches * sizes.new + layout.spare,
        )
        return cache, positions[:, -1]

    def _columns(self, prompt: Array, search: Any) -> Array:
        """The prompt without columns that are padding in every row, then room for the tokens to come."""
        width = self.sizes.prompt
        moved = jnp.roll(prompt, search.prompt_width - width, axis=1)
        kept = jnp.arange(width, dtype=jnp.int32)[None] < search.prompt_width
        return jnp.pad(jnp.where(kept, moved, self.pad_id), ((0, 0), (0, self.sizes.new)), constant_values=self.pad_id)

    def _finished(self, decoder: Any, search: Any, state: Any) -> Any:
        """The state at the end."""

        def loop(steps: int) -> Any:
            return lambda state: advance_until((decoder, search, search.limit, steps, None), state)

        # see `steps_per_check`: which one runs is decided where the program is compiled
        return jax.lax.platform_dependent(state, cpu=loop(1), default=loop(math.gcd(self.sizes.new, STEPS_PER_CHECK)))

    def _results(self, search: Any, output: SearchOutput, prompt: Array) -> dict[str, Array]:
        """The search's results, those of each generated token in as many columns as there may be."""

        def generated(table: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(table, search.prompt_width, self.sizes.new, axis=1)

        each = output.sequences.shape[0] // self.sizes.batch
        found = {name: getattr(output, name) for name in (*RESULTS, "beam_indices")}
        found["sequences"] = jnp.concatenate([jnp.repeat(prompt, each, axis=0), generated(output.sequences)], axis=1)
        for name in ("log_probs", "processed_log_probs", "beam_indices"):
            found[name] = None if found[name] is None else generated(found[name])
        return {name: value for name, value in found.items() if value is not None}
