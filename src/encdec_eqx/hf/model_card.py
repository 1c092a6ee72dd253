"""The model card, `README.md` beside a saved model: what was joined, how to load it, and what is left to be filled in.

The metadata in front are the Hub's (huggingface.co/docs/hub/model-cards). A card of ours ends with a mark that holds a
sum of its text, so that one which somebody edited is known, and kept.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax

from .._installing import PACKAGE
from .._quoting import LONGEST, printable
from .families import FAMILIES, WHOLES
from .family import Role
from .files.hub import hub_id
from .pair_config import MODEL_TYPE as PAIR
from .report import LoadReport, by_reason

README = "README.md"
TO_FILL = "TO FILL IN"

_MARK = "<!-- written by encdec_eqx, sha256 {}; once edited, it is never overwritten -->\n"
_MARKED = re.compile(re.escape(_MARK).replace(r"\{\}", "([0-9a-f]{64})") + r"\Z")
_LICENSES = (
    "an id of https://huggingface.co/docs/hub/repositories-licenses; those of the pieces and of the data bind it"
)

HERE = "."
"""What the examples load: the folder that the card lies in."""

_STARTS = {"decoder_start_token_id", "bos_token_id"}
_IDS = (5, 6, 7)
_TORCH_IDS = f"torch.tensor([{[*_IDS]}])"
_TORCH_RUN = f"model(input_ids={_TORCH_IDS}, decoder_input_ids=torch.tensor([[0]])).logits"

_logger = logging.getLogger("encdec_eqx")

Words = str | Sequence[str] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class CardData:
    """What a model card says that the model does not know; names and values of the first six are the Hub's.

    Attributes:
        license: the id of a licence, such as `"apache-2.0"`.
        language: codes of the languages, such as `"en"`.
        base_model: Hub ids of the models that it was made of; default those that it was loaded from.
        datasets: Hub ids of the data it was trained on.
        metrics: names of the metrics it was evaluated by.
        tags: further tags.
        training: how it was trained, a section in Markdown.
        tokenizers: whether its tokenizers are saved beside it: the example then takes text.
    """

    license: str | None = None
    language: Words = None
    base_model: Words = None
    datasets: Words = None
    metrics: Words = None
    tags: Words = None
    training: str = ""
    tokenizers: bool = False


def pair_card(
    model: Any,
    *,
    own: Any,
    config: Mapping[str, Any],
    generation_config: Mapping[str, Any],
    tokens: Mapping[str, Any],
    data: CardData,
) -> str:
    """The card of a pair or a whole checkpoint, by what is written of it.

    Args:
        model: the `EncoderDecoder`.
        own: its encoder, if that is the user's own.
        config: content of `config.json`.
        generation_config: content of `generation_config.json`.
        tokens: the ids of the special tokens that are known.
        data: what is said besides.
    """
    first = type(own).__name__ if own is not None else model.encoder.config.model_type
    second, whole = model.decoder.config.model_type, config["model_type"] != PAIR
    title = f"{config['model_type']} model" if whole else f"{first} to {second}"
    decoder_source = model.decoder.load_report.source
    encoder_source = _source(own) if own is not None else model.encoder.load_report.source
    rows = [
        _own_row(own) if own is not None else _row("encoder", model.encoder, encoder_source),
        _row("decoder", model.decoder, decoder_source),
    ]
    if model.enc_to_dec_proj is not None:
        width = own.hidden_size if own is not None else model.encoder.config.hidden_size
        between = f"{width} to {model.decoder.config.hidden_size}"
        rows.append(f"| projection | | | {between} | | {_count(model.enc_to_dec_proj)} | |")
    made = "a whole checkpoint of one family" if whole else "an encoder and a decoder, joined"
    about = f"A sequence-to-sequence model: {made}. Arrays that both pieces share count for the decoder."
    options = {name: value for name, value in generation_config.items() if name not in tokens}
    ids = "\n".join(f"{name} = {tokens[name]}" for name in sorted(tokens)) or "none are known"
    said = f"```text\n{ids}\n```\n\nDefaults for generating, from `generation_config.json`:\n\n"
    said += f"```json\n{json.dumps(options, indent=2, sort_keys=True)}\n```"
    torch_class, why_not = _torch_class_of_pair(config, own)
    call = _call(model, generation_config) if _STARTS & {*tokens} else None
    ours = _pair_example(first, config, own, data, call)
    theirs = (
        None
        if torch_class is None
        else _torch_example(torch_class, _TORCH_RUN if call is None else f"model.generate({_TORCH_IDS}{call})")
    )
    return _card(
        title=title,
        about=about,
        rows=rows,
        report=model.load_report,
        sections=[("Special tokens and defaults", said), ("How to load it", _examples(ours, theirs, why_not))],
        sources=[encoder_source, decoder_source, model.load_report.source],
        tags=[*dict.fromkeys([PAIR, *([] if own is not None else [first]), second])],
        pipeline_tag="text2text-generation" if own is None else None,
        data=data,
    )


def piece_card(module: Any, role: Role, *, config: Mapping[str, Any], data: CardData) -> str:
    """The card of an encoder or a decoder; the arguments are those of `pair_card`."""
    kind, family = role.capitalize(), module.config.model_type
    torch_class, why_not = _torch_class_of_piece(config, role)
    ids = _some_ids(module.config.vocab_size)
    lines = [f'{role} = {kind}.from_pretrained("{HERE}")']
    if role == "encoder":
        lines = ["import jax.numpy as jnp", f"from encdec_eqx import {kind}", "", *lines]
        lines.append(f"print(encoder(jnp.asarray([{ids}])).last_hidden_state)")
    else:
        lines = [f"from encdec_eqx import {kind}", "", *lines, "print(decoder.load_report)"]
    out = {"encoder": "last_hidden_state", "decoder": "logits"}[role]
    example = None if torch_class is None else _torch_example(torch_class, f"model(torch.tensor([{ids}])).{out}")
    about = {
        "encoder": "The encoder of an encoder-decoder model; `EncoderDecoder.from_pieces` joins it to a decoder.",
        "decoder": "The decoder of an encoder-decoder model"
        + (
            ", with cross-attention; `EncoderDecoder.from_pieces` joins it to an encoder."
            if module.config.cross_attention
            else ", without cross-attention as yet."
        ),
    }[role]
    return _card(
        title=f"{family} {role}",
        about=about,
        rows=[_row(role, module, module.load_report.source)],
        report=module.load_report,
        sections=[("How to load it", _examples("\n".join(lines), example, why_not))],
        sources=[module.load_report.source],
        tags=[role, family],
        pipeline_tag="feature-extraction" if role == "encoder" else "text-generation",
        data=data,
    )


def may_write(path: Path) -> bool:
    """Whether a card can be put there: nothing is, or a card of ours that nobody has edited."""
    if not os.path.lexists(path):
        return True
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        text = ""
    found = _MARKED.search(text)
    if found is not None and hashlib.sha256(text[: found.start()].encode()).hexdigest() == found[1]:
        return True
    _logger.info("%s is kept as it is: it was not written, or was edited, by somebody.", printable(path))
    return False


def _card(
    *,
    title: str,
    about: str,
    rows: Sequence[str],
    report: LoadReport,
    sections: Sequence[tuple[str, str]],
    sources: Iterable[str],
    tags: Sequence[str],
    pipeline_tag: str | None,
    data: CardData,
) -> str:
    base = data.base_model if data.base_model is not None else [*dict.fromkeys(filter(hub_id, sources))]
    fields = [
        _field("license", data.license, empty="unknown", hint=_LICENSES),
        _field("language", _listed(data.language), hint="codes such as en; one for each language of the texts"),
        _field("base_model", _listed(base), hint="Hub ids of the models that this one was made of"),
        _field("datasets", _listed(data.datasets), hint="Hub ids of the data it was trained on"),
        _field("metrics", _listed(data.metrics), hint="names of the metrics it was evaluated by, such as bleu"),
        "library_name: encdec_eqx",
        *([] if pipeline_tag is None else [f"pipeline_tag: {pipeline_tag}"]),
        _field("tags", [*dict.fromkeys(["encdec_eqx", "jax", "equinox", *tags, *_listed(data.tags)])]),
    ]
    joined = ["| | family | layers | width | token ids | parameters | from |", "|---|---|---|---|---|---|---|", *rows]
    new = list(by_reason(report.new, "array", named=False))
    parts = ["\n".join(joined)]
    if new:
        begun = "New when it was put together, and not from a checkpoint:"
        parts.append("\n".join([begun, "", *(f"- {printable(line, 4 * LONGEST)}" for line in new)]))
    training = data.training or f"{TO_FILL}: the data, how it was trained, and how well it does."
    left = f"{TO_FILL}: what it is for, what it should not be used for, and the licences of its pieces and data."
    text = "\n".join(["---", *fields, "---", "", f"# {title}", "", f"{about} Saved by {_version()}.", ""])
    body = [("What it is made of", "\n\n".join(parts)), *sections, ("Training", training), ("Use and licence", left)]
    text += "".join(f"\n## {heading}\n\n{content}\n" for heading, content in body) + "\n"
    return text + _MARK.format(hashlib.sha256(text.encode()).hexdigest())


def _field(name: str, value: str | list[str] | None, *, empty: str = "[]", hint: str = "") -> str:
    """A line of the metadata, or several; one that waits for a value says so. JSON's strings are YAML's."""
    if not value:
        return f"{name}: {empty}  # {TO_FILL}: {hint}"
    if isinstance(value, str):
        return f"{name}: {_yaml(value)}"
    return "\n".join([f"{name}:", *(f"- {_yaml(item)}" for item in value)])


def _yaml(text: str) -> str:
    plain = re.fullmatch(r"[A-Za-z][\w./-]*", text) and text.lower() not in (
        "yes",
        "no",
        "on",
        "off",
        "true",
        "false",
        "null",
    )
    return text if plain else json.dumps(text)


def _listed(words: Words) -> list[str]:
    return [] if words is None else [words] if isinstance(words, str) else list(words)


def _version() -> str:
    try:
        return f"encdec_eqx {importlib.metadata.version(PACKAGE)}"
    except importlib.metadata.PackageNotFoundError:
        return "encdec_eqx"


def _row(name: str, module: Any, source: str) -> str:
    config = module.config
    sizes = f"{len(config.layers)} | {config.hidden_size} | {config.vocab_size}"
    return f"| {name} | {config.model_type} | {sizes} | {_count(module)} | {_shown(source)} |"


def _own_row(own: Any) -> str:
    kind = f"{type(own).__name__}, a class of its own"
    return f"| encoder | {kind} | | {own.hidden_size} | | {_count(own)} | {_shown(_source(own))} |"


def _source(module: Any) -> str:
    return getattr(getattr(module, "load_report", None), "source", "")


def _shown(source: str) -> str:
    return f"`{printable(source).replace('`', '').replace('|', '/')}`" if source else "newly initialised"


def _count(tree: Any) -> str:
    """How many numbers a model's arrays hold."""
    total = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_array)))
    return f"{total:,}"


def _some_ids(vocab_size: int) -> list[int]:
    return [id_ for id_ in _IDS if id_ < vocab_size] or [0]


def _call(model: Any, options: Mapping[str, Any]) -> str:
    """How the examples generate, in both libraries' words: a few tokens, unless the model says how many."""
    if options.get("max_length") or options.get("max_new_tokens"):
        return ""
    most = model.decoder.config.positions.max_positions
    return f", max_new_tokens={20 if not most else max(1, min(20, most // 2))}"


def _pair_example(first: str, config: Mapping[str, Any], own: Any, data: CardData, call: str | None) -> str:
    if own is not None:
        return (
            "from encdec_eqx import EncoderDecoder\n\n"
            f"# its encoder is a {first}: load that from the folder `encoder`, and pass it on\n"
            f'# model = EncoderDecoder.from_pretrained("{HERE}", encoder=encoder)'
        )
    if data.tokenizers and call is not None:
        return (
            "from encdec_eqx.text import TextToText\n\n"
            f'model = TextToText.from_pretrained("{HERE}")\n'
            f'print(model("a source text"{call}))'
        )
    source = (
        config["encoder"]["vocab_size"] if "vocab_size" in config.get("encoder", {}) else config.get("vocab_size", 8)
    )
    lines = ["import jax.numpy as jnp", "", "from encdec_eqx import EncoderDecoder", ""]
    lines += [f'model = EncoderDecoder.from_pretrained("{HERE}")']
    lines += [f"input_ids = jnp.asarray([{_some_ids(source)}])  # of its source tokenizer"]
    out = "model(input_ids, input_ids[:, :1]).logits" if call is None else f"model.generate(input_ids{call}).sequences"
    return "\n".join([*lines, f"print({out})"])


def _torch_example(torch_class: str, run: str) -> str:
    return (
        f"import torch\nfrom transformers import {torch_class}\n\n"
        f'model = {torch_class}.from_pretrained("{HERE}")\n'
        f"print({run})"
    )


def _examples(ours: str, theirs: str | None, why_not: str) -> str:
    where = f'`"{HERE}"` is this folder; the id of its repository on the Hub does as well.'
    text = f"{where}\n\n```python\n{ours}\n```\n\n"
    if theirs is None:
        return f"{text}PyTorch's transformers does not load it: {why_not}."
    return f"{text}In PyTorch, with transformers:\n\n```python\n{theirs}\n```"


def _torch_class_of_pair(config: Mapping[str, Any], own: Any) -> tuple[str | None, str]:
    """Torch's class for what is saved so, or why it has none."""
    if own is not None:
        return None, "the encoder is a class of its own"
    if config.get("quantization_config"):
        return None, "its weights are int8, which transformers knows nothing of"
    if config["model_type"] != PAIR:
        return WHOLES[config["model_type"]].architecture, ""
    encoder, decoder = config["encoder"]["model_type"], config["decoder"]
    if _torch_class_of_piece(config["encoder"], "encoder")[0] is None or FAMILIES[encoder].whole is not None:
        return None, f"its EncoderDecoderModel does not build the encoder of a {encoder} alone"
    found, why_not = _torch_class_of_piece(decoder, "decoder")
    return (None, why_not) if found is None else ("EncoderDecoderModel", "")


def _torch_class_of_piece(config: Mapping[str, Any], role: Role) -> tuple[str | None, str]:
    if config.get("quantization_config"):
        return None, "its weights are int8, which transformers knows nothing of"
    name = config["model_type"]
    [architecture] = config["architectures"]
    family = next((one for one in FAMILIES.values() if architecture == one.architectures.get(role)), None)
    alone = family is None or family.whole is None or architecture.endswith(("EncoderModel", "ForCausalLM"))
    if family is None or not alone or architecture.startswith("T5Gemma"):
        return None, f"it has no class for the {role} of a {name} alone"
    if role == "decoder" and config.get("add_cross_attention"):
        if config.get("cross_attention_every", 1) != 1 or config.get("cross_attention_kind", "sublayer") != "sublayer":
            return None, "it has no such cross-attention"
        if any(str(row[1]).removesuffix(".weight") == "cross_attn_layernorm" for row in family.rows.get("cross", ())):
            return None, f"its {name} has no cross-attention"
    return architecture, ""
