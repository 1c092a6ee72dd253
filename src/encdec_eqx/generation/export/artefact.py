"""Writes the folder of an exported call: the program, its weights, a manifest, and a script that runs them without us.

Everything that may be refused is refused before the model is traced.
"""

import importlib.metadata
import importlib.util
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import numpy as np
from jax import export

from ..._inputs import whole
from ..._installing import install
from ..._quoting import quoted
from ..._typing import Array
from ..._writing import check_writable, folder_aside, in_one_go, remove
from ...encoder import token_config
from ...hf.files.safetensors_file import write_file
from ...layers.attention import with_backends
from ..generation_config import GenerationConfig
from ..options import OPTIONS
from ..plan import Plan, resolve_settings, split_options, tokens_of_call
from ..source_and_prompt import host_level
from ..special_tokens import START, is_per_row
from ..value_checks import MOST_TOKENS
from . import stand_alone
from .program import Pieces, Program, Sizes

PROGRAM, WEIGHTS, MANIFEST, SCRIPT, VENDORED = (
    "generate.stablehlo",
    "weights.safetensors",
    "manifest.json",
    "run.py",
    "vendored",
)
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
BEAMS = 4
"""Of `search="beams"`, where nothing says how many."""

_SEARCHES = {
    "greedy": "greedy",
    "greedy_search": "greedy",
    "sample": "sample",
    "beams": "beams",
    "beam_search": "beams",
}
"""Ours, and transformers' `GenerationMode`s, with ours."""

_MEANINGS = {
    "input_ids": "source ids, shorter ones padded on the right with `source_pad_id`",
    "attention_mask": "1 for real source tokens, 0 for padding",
    "decoder_input_ids": "prompts, the start token in front, padded on the left; at least that token",
    "decoder_attention_mask": "1 for real prompt tokens; a row whose last column is 0 does not count",
    "max_new_tokens": "most tokens to generate, 1 to the size of that name",
    "min_new_tokens": "end-of-sequence ids are forbidden while fewer are generated",
    "source_width": "columns of the source, its padding included, that the encoder_… rules compare with",
    "keys": "a threefry2x32 key for each source: row r of generate(key=key) has fold_in(key, r)",
    "sequences": "prompt as given, generated ids, then pad_token_id",
    "lengths": "generated ids, up to and including the end",
    "truncated": "whether a row has no end-of-sequence id",
    "scores": "sum of log_probs; of beam search what it ranks by",
    "normalized_scores": "mean of log_probs; of beam search as scores",
    "log_probs": "of each generated token under the model; 0 after the end",
    "processed_log_probs": "the same under what the token was chosen from",
    "beam_indices": "which beam each token continued; -1 after the end",
}


@runtime_checkable
class Exportable(Protocol):
    """What is exported of a model: see `Generates`."""

    encoder: Any
    decoder: Any
    enc_to_dec_proj: Any
    special_tokens: Any
    generation_config: GenerationConfig | None
    ties: Any


def export_generate(
    model: Exportable,
    folder: str | os.PathLike,
    *,
    batch: int,
    source: int,
    max_new_tokens: int,
    prompt: int,
    search: str | Mapping[str, Any] | GenerationConfig | None,
    platforms: Sequence[str],
    tokenizers: Any,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the folder; `Generates.export_generate` documents the arguments, and what is raised."""
    host_level(model.decoder)
    names = [("batch", batch), ("source", source), ("prompt", prompt), ("max_new_tokens", max_new_tokens)]
    sizes = Sizes(*(whole(name, value, least=1, most=MOST_TOKENS) for name, value in names))
    targets = _platforms(platforms)
    if tokenizers is not None and not callable(getattr(tokenizers, "save", None)):
        raise TypeError(f"tokenizers must be a text.TokenizerPair, got {type(tokenizers).__name__}.")
    program, arrays = _program(model, sizes, search, options)
    if importlib.util.find_spec("flatbuffers") is None:
        raise ImportError(f"exporting needs the package flatbuffers: {install('export')}")
    target = Path(folder).expanduser().resolve()
    check_writable(target, "cannot export:")
    shapes = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in arrays.items()}
    exported = _exported(program, shapes, targets)
    manifest = _manifest(program, exported)
    with folder_aside(target) as aside:
        _write(aside, exported, arrays, manifest)
        if tokenizers is not None:
            tokenizers.save(aside)
        with in_one_go():
            target.mkdir(exist_ok=True)
            for path in sorted(aside.iterdir()):
                if path.is_dir():
                    remove(target / path.name)
                path.replace(target / path.name)
    return manifest


def load_exported(folder: str | os.PathLike) -> stand_alone.Exported:
    """What `export_generate` wrote, ready to be called: `load_exported(folder).generate(input_ids)`.

    It is the class that the folder's own `run.py` holds, which needs jax alone.

    Args:
        folder: the folder.

    Raises:
        FileNotFoundError: it is not such a folder.
        ValueError: the program is not for jax's default platform here.
    """
    return stand_alone.Exported(folder)


def _platforms(platforms: Sequence[str]) -> tuple[str, ...]:
    given = (platforms,) if isinstance(platforms, str) else tuple(platforms)
    wrong = [name for name in given if name not in PLATFORMS]
    if wrong or not given:
        known = ", ".join(map(repr, PLATFORMS))
        raise ValueError(f"platforms must be some of {known}; got {quoted(given)}. (jax calls NVIDIA's GPUs 'cuda'.)")
    return tuple(dict.fromkeys(given))


def _program(
    model: Exportable,
    sizes: Sizes,
    search: str | Mapping[str, Any] | GenerationConfig | None,
    options: Mapping[str, Any],
) -> tuple[Program, dict[str, Array]]:
    """What is to be exported and its arrays, all options checked as `generate` checks them."""
    encoder, target_config = model.encoder, model.decoder.config
    source_config = token_config(encoder)
    if source_config is None:
        raise NotImplementedError(
            f"a {type(encoder).__name__} is none of the library's encoders, and its inputs are not known: export it "
            "by jax.export yourself, or give it the property token_config if it takes token ids."
        )
    passed = search if isinstance(search, GenerationConfig) else None
    given, token_arguments = split_options(
        {**_of_search(search, options, model), **options, "max_new_tokens": sizes.new}
    )
    if is_per_row(token_arguments.get(START)):
        raise NotImplementedError(
            f"{START} is one id of an exported program: rows that start otherwise get their ids as decoder_input_ids."
        )
    vocab_size = target_config.vocab_size
    tokens, notes = tokens_of_call(model.special_tokens, passed, token_arguments, vocab_size, needs_start=True)
    plan = resolve_settings(
        given,
        passed,
        model.generation_config,
        prompt_width=1,
        eos_ids=tokens.eos_token_id,  # pyright: ignore[reportArgumentType]
        has_key=True,
        vocab_size=vocab_size,
        has_source_ids=True,
        notes=notes,
    )
    _check_plan(plan)
    modules = {
        # a kernel is chosen for the device that traces
        "encoder": with_backends(encoder, ()),
        "decoder": with_backends(model.decoder, ()),
        "enc_to_dec_proj": model.enc_to_dec_proj,
        "constraint": plan.constraint,
        "logits_processors": plan.logits_processors,
    }
    pieces, arrays = Pieces.apart(modules)
    program = Program(pieces, model.ties, plan, tokens, sizes, source_config, target_config)
    program.check_sizes()
    _check_processors(plan, sizes, vocab_size)
    return program, arrays


def _of_search(
    search: str | Mapping[str, Any] | GenerationConfig | None, options: Mapping[str, Any], model: Exportable
) -> dict[str, Any]:
    """The options that a search stands for."""
    if search is None or isinstance(search, GenerationConfig):
        return {}
    if isinstance(search, Mapping):
        return dict(search)
    if search not in _SEARCHES:
        known = "'greedy', 'sample', 'beams', a mapping of options such as {'num_beams': 4}, or a GenerationConfig"
        raise ValueError(f"search must be {known}; got {quoted(search)}.")
    kind, beams = _SEARCHES[search], options.get("num_beams")
    if kind != "beams" and (beams or 1) > 1:
        raise ValueError(
            f"search={search!r} and num_beams={quoted(beams)} contradict each other. Leave one of them out."
        )
    if kind == "greedy" and options.get("do_sample"):
        raise ValueError(f"search={search!r} and do_sample=True contradict each other: pass search='sample'.")
    if kind == "beams":
        if beams == 1:
            raise ValueError(f"search={search!r} and num_beams=1 contradict each other. Leave one of them out.")
        own = getattr(model.generation_config, "num_beams", None) or 1
        return {"num_beams": own if own > 1 else BEAMS}
    return {"num_beams": 1, "do_sample": kind == "sample"}


def _check_plan(plan: Plan) -> None:
    """Refuse what a program of arrays cannot do, or is not built to.

    Raises:
        NotImplementedError: for that, saying what to do instead.
    """
    asked = {
        "penalty_alpha (contrastive search)": plan.search == "contrastive",
        "force_words_ids": plan.search == "constrained",
        "assistant_model and prompt_lookup_num_tokens": plan.ahead > 0,
        "output_cross_attentions": plan.output_cross_attentions,
    }
    for name, is_asked in asked.items():
        if is_asked:
            raise NotImplementedError(
                f"{name} cannot be exported: greedy search, sampling and beam search can, with all rules on tokens and "
                "a constraint. Leave it out (None or False as an argument wins over generation_config), or serve the "
                "model itself."
            )


def _check_processors(plan: Plan, sizes: Sizes, vocab_size: int) -> None:
    """Refuse processors of the user's own that call back into Python, which no program can carry along."""
    rows = sizes.batch * plan.num_return_sequences
    logits = jax.ShapeDtypeStruct((rows, vocab_size), np.float32)
    prefix = jax.ShapeDtypeStruct((rows, sizes.prompt + sizes.new), np.int32)
    for processor in plan.logits_processors:
        traced = eqx.filter_make_jaxpr(processor)(logits, prefix, jax.ShapeDtypeStruct((), np.int32))[0]
        if traced.effects or "callback" in str(traced):
            raise NotImplementedError(
                f"the processor {type(processor).__name__} calls back into Python (pure_callback, debug.print, …), "
                "which an exported program cannot take along. Write it in jax.numpy, or leave it out."
            )


def _exported(program: Program, shapes: Mapping[str, Any], platforms: tuple[str, ...]) -> Any:
    def generate(weights: Any, inputs: Any) -> Any:
        return program(weights, inputs)

    # where in whose files an operation was traced is nobody's business, and would differ from export to export
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        return export.export(jax.jit(generate), platforms=platforms)(shapes, program.inputs())
    finally:
        jax.config.update(name, before)


def _manifest(program: Program, exported: Any) -> dict[str, Any]:
    """What the folder holds, and how it is called."""
    plan, tokens = program.plan, program.tokens
    shown = {name: getattr(plan, name) for name in OPTIONS if hasattr(plan, name)}
    fixed = {name: value for name, value in shown.items() if value != OPTIONS[name].neutral}
    of_python = {"constraint": None if plan.constraint is None else plan.constraint.describe()}
    fixed |= {name: value for name, value in of_python.items() if value is not None}
    fixed.pop("min_new_tokens", None)
    if plan.forced_eos_token_ids:
        fixed["forced_eos_token_id"] = plan.forced_eos_token_ids
    if plan.logits_processors:
        fixed["logits_processor"] = [type(processor).__name__ for processor in plan.logits_processors]
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    return {
        "format": "encdec_eqx exported generate",
        "format_version": 1,
        "program": PROGRAM,
        "weights": WEIGHTS,
        "search": plan.search,
        "options": fixed,
        "defaults": {"max_new_tokens": program.sizes.new}
        | ({"min_new_tokens": plan.min_new_tokens} if program.eos_ids else {}),
        "sizes": {
            "batch": program.sizes.batch,
            "source": program.sizes.source,
            "prompt": program.sizes.prompt,
            "max_new_tokens": program.sizes.new,
        },
        "outputs_per_source": plan.num_return_sequences,
        "vocab_sizes": {"source": program.source_config.vocab_size, "target": program.target_config.vocab_size},
        "source_pad_id": program.source_pad_id,
        "special_tokens": {
            "decoder_start_token_id": tokens.decoder_start_token_id,
            "eos_token_id": list(program.eos_ids),
            "pad_token_id": program.pad_id,
        },
        "inputs": _described(program.inputs().items()),
        "outputs": _described(outputs.items()),
        "calling": "one call takes (weights, inputs), two dictionaries by these names; it returns a third",
        "platforms": list(exported.platforms),
        "calling_convention_version": exported.calling_convention_version,
        "matmul_precision": jax.config.jax_default_matmul_precision or "default",  # pyright: ignore
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "encdec-eqx")},
        "notes": list(plan.notes),
    }


def _described(arrays: Iterable[tuple[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"name": name, "shape": list(array.shape), "dtype": array.dtype.name, "meaning": _MEANINGS[name]}
        for name, array in arrays
    ]


def _write(folder: Path, exported: Any, arrays: Mapping[str, Array], manifest: Mapping[str, Any]) -> None:
    (folder / PROGRAM).write_bytes(exported.serialize())
    write_file(
        folder / WEIGHTS,
        [(name, leaf.shape, np.dtype(leaf.dtype), lambda leaf=leaf: np.asarray(leaf)) for name, leaf in arrays.items()],
    )
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(stand_alone.__file__, folder / SCRIPT)
    # jax reads its format by means of this package (Apache-2.0, Python alone), which it does not depend on
    found = importlib.util.find_spec("flatbuffers")
    assert found is not None
    assert found.origin is not None
    shutil.copytree(
        Path(found.origin).parent, folder / VENDORED / "flatbuffers", ignore=shutil.ignore_patterns("__pycache__")
    )
