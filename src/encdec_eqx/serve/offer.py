"""What a server offers: which programs it compiles beforehand, and whether a request is served by one of them."""

import functools
import itertools
import json
import secrets
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from .. import __version__
from .._inputs import whole
from .._quoting import listed, quoted
from ..encoder import token_config
from ..generation.engine import Run
from ..generation.plan import Plan, Reach
from ..generation.result import StreamChunk
from ..generation.source_and_prompt import LEAST_SOURCE, longest_sequence
from ..inputs.tokens import longest
from ..text import TextToText
from ..text.texts import check_not_empty, check_texts, source_pad
from .refusals import too_large
from .server_settings import FILTERS, ServerSettings

TOKENS_AT_A_TIME = 8
"""Tokens between two looks at who has left and who waits, where nobody watches them come."""

_OBJECTS = ("logits_processor", "assistant_model", "output_cross_attentions")
"""Options whose values or effects JSON cannot carry."""

_USUAL_NEW_TOKENS = 128
_MOST_SEED = 2**32 - 1
_FEW = 8
_PROBES: Mapping[str, Any] = {
    "temperature": 0.7,
    "top_k": 5,
    "top_p": 0.9,
    "min_p": 0.1,
    "typical_p": 0.9,
    "epsilon_cutoff": 0.01,
    "eta_cutoff": 0.01,
    "num_return_sequences": 2,
    "length_penalty": 0.5,
    "early_stopping": True,
    "diversity_penalty": 0.7,
    "penalty_alpha": 0.4,
    "repetition_penalty": 1.3,
    "min_new_tokens": 1,
    "min_length": 2,
}
"""A value of every option that might be another program or not, to find out."""


@dataclass(frozen=True, eq=False)
class PreparedRequest:
    """A request that has been checked.

    Attributes:
        rows: ids of each source.
        keys: of each source the two words of the key that it draws with; None where nothing is drawn.
        options: of the call, but for the constraint.
        constraint: its name.
        group: equal for requests whose sources may share a batch.
        plan: what the options mean.
        seed: what the keys were made from.
        single: whether the inputs were one string.
        streams: whether tokens are sent as they come.
    """

    rows: list[np.ndarray]
    keys: list[np.ndarray] | None
    options: dict[str, Any]
    constraint: str | None
    group: str
    plan: Plan
    seed: int | None
    single: bool
    streams: bool


@dataclass(frozen=True)
class _Way:
    """How a program comes to be used."""

    options: dict[str, Any]
    constraint: str | None
    tokens_at_a_time: int

    @property
    def said(self) -> str:
        """In words."""
        shown = {name: value for name, value in self.options.items() if name != "max_new_tokens"}
        words = ", ".join(f"{name}={value}" for name, value in shown.items()) or "the model's own options"
        return words if self.constraint is None else f"{words}, constraint {self.constraint}"


class Offer:
    """The programs of a server.

    Attributes:
        speaker: the model and its tokenizers.
        settings: those of the server.
        source_lengths: what sources are padded to.
        max_new_tokens: the most that may be asked for.
        searches: by name the options that decide a program.
        adjustable: by name of a search what a request may change without another program.
    """

    def __init__(self, speaker: TextToText, settings: ServerSettings):
        """Settle what is offered; nothing is compiled yet.

        Raises:
            TypeError: the encoder does not read token ids.
            ValueError: a search or a size does not fit the model; says which.
        """
        config = token_config(speaker.model.encoder)
        if config is None:
            raise TypeError(
                f"a server tokenizes texts, and a {type(speaker.model.encoder).__name__} takes no token ids: give the "
                "model an encoder of the library."
            )
        self.speaker, self.settings = speaker, settings
        self.source_lengths = _source_lengths(settings.source_lengths, longest(config, None))
        self.max_new_tokens = _new_tokens(settings.max_new_tokens, longest_sequence(speaker.model.decoder.config))
        self.default_new_tokens = self.max_new_tokens
        self.searches = dict(settings.searches) if settings.searches is not None else self._usual_searches()
        if not self.searches:
            raise ValueError("searches is empty: name at least one, such as {'greedy': {}}.")
        self._programs: dict[Hashable, _Way] = {}
        # requests of most clients have few sets of options, and a look at one walks through the whole model
        self._plan = functools.lru_cache(maxsize=256)(self._check)
        self.adjustable = {name: self._settle(name, fixed) for name, fixed in self.searches.items()}
        self.default_new_tokens = self._default_new_tokens()

    def info(self) -> dict[str, Any]:
        """What `/info` answers."""
        settings, model = self.settings, self.speaker.model
        return {
            "model": settings.name,
            "encoder": token_config(model.encoder).model_type,  # pyright: ignore[reportOptionalMemberAccess]
            "decoder": model.decoder.config.model_type,
            "version": __version__,
            "searches": [
                {
                    "name": name,
                    "parameters": fixed,
                    "adjustable": self.adjustable[name],
                    "streams": self._run(fixed, None).search.in_order,
                }
                for name, fixed in self.searches.items()
            ],
            "constraints": list(settings.constraints),
            "limits": {
                "max_source_tokens": self.source_lengths[-1],
                "max_new_tokens": self.max_new_tokens,
                "max_inputs": settings.max_inputs,
                "max_request_bytes": settings.max_request_bytes,
                "max_queue": settings.max_queue,
                "timeout": settings.timeout,
            },
            "defaults": {"max_new_tokens": self.default_new_tokens},
            "compiled": {"batch_sizes": list(settings.batch_sizes), "source_lengths": list(self.source_lengths)},
        }

    def prepare(self, body: Any) -> PreparedRequest:
        """Check a request, on the host alone.

        Raises:
            NotImplementedError: as `generate`.
            RefusalError: it is larger than the limits.
            TypeError: as `generate`; or the body is not what it should be.
            ValueError: as `generate`; or no program of it is compiled.
        """
        inputs, given, streams = _parts(body)
        texts = [inputs] if isinstance(inputs, str) else inputs
        if len(texts) > self.settings.max_inputs:
            raise too_large(f"the request has {len(texts)} inputs; at most {self.settings.max_inputs} are served.")
        options = {name: value for name, value in given.items() if value is not None}
        seed, constraint = options.pop("seed", None), options.pop("constraint", None)
        rows = self.tokenized(texts, options.pop("src_lang", None))
        options |= self.speaker._language(options.pop("tgt_lang", None), options)
        if not {"max_new_tokens", "max_length"} & options.keys():
            options["max_new_tokens"] = self.default_new_tokens
        group = json.dumps([options, constraint], sort_keys=True)
        plan, keys = self._plan(group, streams), None
        if streams and len(texts) > 1:
            raise ValueError(f"stream takes one input, got {len(texts)}: send a request for each.")
        if plan.do_sample:
            seed = secrets.randbelow(2**31) if seed is None else whole("seed", seed, least=0, most=_MOST_SEED)
            keys = [_key_words(seed, index) for index in range(len(texts))]
        elif seed is not None:
            whole("seed", seed, least=0, most=_MOST_SEED)
        single = isinstance(inputs, str)
        return PreparedRequest(rows, keys, options, constraint, group, plan, seed if keys else None, single, streams)

    def _check(self, group: str, streams: bool) -> Plan:
        """The plan of options that may be served; they and the constraint's name are JSON, to be remembered by."""
        options, constraint = json.loads(group)
        # before the model says what its tables hold
        self._check_size(options.get("max_new_tokens"))
        run = self._run(options, self._constraint(constraint))
        self._check_size(run.plan.max_new_tokens)
        if run.program(1 if streams else TOKENS_AT_A_TIME) not in self._programs:
            raise ValueError(self._not_offered(options, constraint))
        if streams:
            _check_stream(run)
        return run.plan

    def start(
        self,
        rows: Sequence[np.ndarray],
        keys: Sequence[np.ndarray] | None,
        options: Mapping[str, Any],
        constraint: str | None,
        *,
        tokens_at_a_time: int,
    ) -> Iterator[StreamChunk]:
        """Generate from some sources at once, in a batch of the next size that is compiled.

        What fills it up are copies of the first source.
        """
        size = next(size for size in self.settings.batch_sizes if size >= len(rows))
        filled = [*range(len(rows)), *[0] * (size - len(rows))]
        ids, mask = self.padded([rows[at] for at in filled])
        key = None if keys is None else np.stack([keys[at] for at in filled])
        run = self._request(ids, mask, key, options, self._constraint(constraint))
        return run.stream(tokens_at_a_time)

    def padded(self, rows: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The sources as one array of a compiled width, and its mask."""
        lengths = np.asarray([len(row) for row in rows])
        width = next(width for width in self.source_lengths if width >= lengths.max())
        ids = np.full((len(rows), width), source_pad(self.speaker.model), np.int32)
        for place, row in zip(ids, rows, strict=True):
            place[: len(row)] = row
        return ids, np.arange(width) < lengths[:, None]

    def size_for(self, waiting: int) -> int:
        """How many of so many sources to take at once: the next compiled size if they fill half of it."""
        sizes = self.settings.batch_sizes
        larger = next((size for size in sizes if size >= waiting), None)
        smaller = next((size for size in reversed(sizes) if size <= waiting), None)
        if larger is None or (smaller is not None and 2 * waiting < larger):
            return smaller or sizes[0]
        return min(waiting, larger)

    def warm(self, report: Callable[[str], None]) -> None:
        """Compile everything that is offered, by generating a few tokens in every shape."""
        # what makes keys and takes them apart is a program too
        _key_words(0, 0)
        sizes = [(batch, width) for width in self.source_lengths for batch in self.settings.batch_sizes]
        total = len(sizes) * len(self._programs)
        for done, ((batch, width), way) in enumerate(itertools.product(sizes, self._programs.values()), start=1):
            begin = time.perf_counter()
            rows, keys = [np.zeros(width, np.int32)] * batch, [_key_words(0, 0)] * batch
            next(self.start(rows, keys, way.options, way.constraint, tokens_at_a_time=way.tokens_at_a_time))
            seconds = time.perf_counter() - begin
            report(f"{done} of {total}: {way.said}, batch {batch}, source {width} ({seconds:.1f} s)")

    def _request(
        self, ids: np.ndarray, mask: np.ndarray | None, key: Any, options: Mapping[str, Any], constraint: Any
    ) -> Run:
        reach = Reach(self.max_new_tokens, FILTERS)
        asked = dict(options) if constraint is None else {**options, "constraint": constraint}
        inputs = {"attention_mask": mask}
        return self.speaker.model._request(ids, None, inputs, (None, None), None, key, asked, reach)

    def _run(self, options: Mapping[str, Any], constraint: Any) -> Run:
        """A run of one short source, to look at."""
        for name in _OBJECTS:
            if name in options:
                raise TypeError(f"{name} cannot be given in a request: it takes or makes what JSON cannot carry.")
        if not {"max_new_tokens", "max_length"} & options.keys():
            options = {**options, "max_new_tokens": self.default_new_tokens}
        ids = np.zeros((1, self.source_lengths[0]), np.int32)
        return self._request(ids, None, np.zeros((1, 2), np.uint32), options, constraint)

    def tokenized(self, texts: Sequence[str], src_lang: str | None) -> list[np.ndarray]:
        """The ids of sources, none of which is cut.

        Raises:
            RefusalError: one is longer than what is served.
            ValueError: one is empty.
        """
        texts = check_texts(texts)
        encoded = self.speaker.tokenizers.encode_source(texts, None, src_lang=src_lang)
        check_not_empty(texts, encoded)
        most = self.source_lengths[-1]
        for index, row in enumerate(encoded):
            if len(row) > most:
                raise too_large(f"input {index} is {len(row)} tokens long; at most {most} are served. Shorten it.")
        return list(encoded)

    def _constraint(self, name: Any) -> Any:
        if name is None:
            return None
        known = self.settings.constraints
        if not isinstance(name, str) or name not in known:
            there = f"it has {listed([quoted(one) for one in known], 8)}" if known else "it has none"
            raise ValueError(f"this server has no constraint {quoted(name)}: {there}.")
        return known[name]

    def _check_size(self, asked: Any) -> None:
        most = self.max_new_tokens
        if isinstance(asked, int) and asked > most:
            raise too_large(f"max_new_tokens={asked} is more than this server generates: at most {most}.")

    def _usual_searches(self) -> dict[str, dict[str, Any]]:
        """Greedy search, sampling and beams; where the model's own options choose another one, that too."""
        own = self._run({}, None).plan
        one, taken = ({} if own.num_beams == 1 else {"num_beams": 1}), ({"do_sample": False} if own.do_sample else {})
        searches: dict[str, dict[str, Any]] = {} if own.search == "greedy" else {"default": {}}
        searches["greedy"] = {**one, **taken}
        searches["sampling"] = {"do_sample": True, **one}
        searches["beams"] = {"num_beams": 4, **taken}
        return searches

    def _settle(self, name: str, fixed: Mapping[str, Any]) -> list[str]:
        """Note the programs of a search, and find what of it may change."""
        if unknown := {"seed", "max_new_tokens", "max_length", "constraint"} & fixed.keys():
            raise ValueError(f"search {name!r} sets {sorted(unknown)[0]}, which a request chooses: leave it out.")
        try:
            own = self._run(fixed, None)
        except (TypeError, ValueError, NotImplementedError) as error:
            raise type(error)(f"search {name!r}: {error}") from None
        self._check_by_row(name, own.plan)
        self._note(dict(fixed), None)
        for constraint in self.settings.constraints:
            self._note(dict(fixed), constraint)
        return ["max_new_tokens", *(["seed"] if own.plan.do_sample else []), *self._adjustable(fixed)]

    def _check_by_row(self, name: str, plan: Plan) -> None:
        for option, neutral in (("encoder_repetition_penalty", 1.0), ("encoder_no_repeat_ngram_size", 0)):
            if getattr(plan, option) != neutral:
                raise ValueError(
                    f"search {name!r} has {option}={getattr(plan, option)}, which counts the padding of a source: "
                    f"results would depend on what it is batched with. Pass {option}={neutral}."
                )

    def _note(self, options: dict[str, Any], constraint: str | None) -> None:
        """Note all programs that a search needs, of whatever length."""
        for limit in sorted({self.default_new_tokens, *range(1, min(_FEW, self.max_new_tokens + 1))}, reverse=True):
            asked = {**options, "max_new_tokens": limit}
            try:
                run = self._run(asked, self._constraint(constraint))
            except ValueError:
                # fewer tokens than the constraint needs
                if limit == self.default_new_tokens:
                    raise
                continue
            for tokens in (TOKENS_AT_A_TIME, 1):
                program = run.program(tokens)
                if program not in self._programs:
                    self._programs[program] = _Way(asked, constraint, tokens)

    def _adjustable(self, fixed: Mapping[str, Any]) -> list[str]:
        found = []
        for option, value in _PROBES.items():
            try:
                run = self._run({**fixed, option: value}, None)
            except (TypeError, ValueError, NotImplementedError):
                continue
            if run.program(TOKENS_AT_A_TIME) in self._programs:
                found.append(option)
        return found

    def _default_new_tokens(self) -> int:
        """What the model's own options say, if that is not too much."""
        model = self.speaker.model
        own = model.generation_config
        limits = [getattr(own, "max_new_tokens", None), getattr(own, "max_length", None)]
        asked = limits[0] or (limits[1] - 1 if limits[1] else None)
        return min(asked or self.max_new_tokens, self.max_new_tokens)

    def _not_offered(self, given: Mapping[str, Any], constraint: str | None) -> str:
        free = {"seed", "max_new_tokens", "max_length", "constraint"}
        asked = {name: value for name, value in given.items() if name not in free}
        offered = "; ".join(
            f"{name} {json.dumps(fixed)} (adjustable: {', '.join(self.adjustable[name])})"
            for name, fixed in self.searches.items()
        )
        behind = "" if constraint is None else f" with constraint {constraint!r}"
        words = quoted(json.dumps(asked, default=repr)).strip("'\"")
        return (
            f"this server has no program compiled for {words}{behind}, and compiles none while it serves. It offers "
            f"{offered}. To have another search, start it with --search 'NAME={words}'."
        )


def _parts(body: Any) -> tuple[Any, dict[str, Any], bool]:
    """The inputs, the parameters and whether to stream."""
    if not isinstance(body, dict):
        raise TypeError(f"the request must be a JSON object with inputs and parameters, got {quoted(body)}.")
    if unknown := sorted(map(str, body.keys() - {"inputs", "parameters", "stream"})):
        raise TypeError(f"the request has no field {quoted(unknown[0])}: it has inputs, parameters and stream.")
    if "inputs" not in body:
        raise TypeError("the request lacks inputs: a text, or a list of texts.")
    inputs, parameters, streams = body["inputs"], body.get("parameters"), body.get("stream", False)
    if not isinstance(inputs, str | list):
        raise TypeError(f"inputs must be a text or a list of texts, got {quoted(inputs)}.")
    if not isinstance(parameters, dict | None):
        raise TypeError(f"parameters must be an object with options by their names, got {quoted(parameters)}.")
    if not isinstance(streams, bool):
        raise TypeError(f"stream must be true or false, got {quoted(streams)}.")
    return inputs, parameters or {}, streams


def _check_stream(run: Run) -> None:
    if not run.search.in_order:
        raise ValueError(
            "beam search may change its mind until the end and does not stream: leave stream out, or num_beams."
        )
    if run.plan.num_return_sequences != 1:
        raise ValueError("num_return_sequences asks for several outputs of a text: leave stream out.")


def _key_words(seed: int, index: int) -> np.ndarray:
    """The words of the key that text `index` draws with, which `TextToText.generate(texts, key=key(seed))` gives it."""
    return np.asarray(
        jax.random.key_data(jax.random.fold_in(jax.random.key(np.uint32(seed), impl="threefry2x32"), np.uint32(index)))
    )


def _new_tokens(asked: int | None, most: int) -> int:
    if asked is not None and asked > most:
        raise ValueError(f"max_new_tokens is {asked}, but the decoder has positions for {most} tokens.")
    return min(_USUAL_NEW_TOKENS, most) if asked is None else asked


def _source_lengths(asked: tuple[int, ...] | None, most: int) -> tuple[int, ...]:
    if asked is None:
        largest = min(most, 512)
        return tuple(sorted({size for size in (largest // 16, largest // 4) if size > LEAST_SOURCE} | {largest}))
    if asked[-1] > most:
        raise ValueError(f"source_lengths has {asked[-1]}, but the encoder reads at most {most} tokens.")
    return asked
