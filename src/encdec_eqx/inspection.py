"""What a checkpoint is, from its configs and its files' headers: architecture, sizes, tokens, what loading would do."""

import dataclasses
import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from ._quoting import printable
from ._trees import path_name
from .config import StackConfig
from .decoder import Decoder
from .encoder import Encoder
from .encoder_decoder import EncoderDecoder
from .generation.special_tokens import TOKEN_NAMES
from .hf.families import FAMILIES, WHOLES
from .hf.family import Role
from .hf.files.folder import CONFIG, FLAX_WEIGHTS, headers_only, read_config
from .hf.files.hub import HubOptions
from .hf.model_types import PAIRS, family_of, with_model_type
from .hf.piece import reports_held_back
from .hf.report import LoadReport
from .layers.disentangled import DisentangledAttentionConfig
from .layers.feed_forward import GatedMLPConfig
from .layers.norm import LayerNormConfig
from .text.tokenizer_files import BOTH, TARGET, object_of

_PARTS = (
    ("embeddings", re.compile(r"embeddings\.")),
    ("self-attention", re.compile(r".*\bself_")),
    ("cross-attention", re.compile(r".*\bcross_")),
    ("feed-forward", re.compile(r".*\bfeed_forward")),
    ("pooler", re.compile(r"pooler\.")),
    ("head", re.compile(r"head\.")),
    ("other", re.compile(r".*")),
)
"""Which part of a piece an array belongs to, by its path; norms belong to their sub-layers."""

_TOKENIZER_FILE = re.compile(r".*tokenizer.*\.json|.*\.(model|spm)|vocab\.(json|txt)|merges\.txt")


@dataclasses.dataclass(frozen=True)
class Part:
    """Some arrays of a model.

    Attributes:
        name: such as "decoder cross-attention".
        parameters: how many numbers they hold.
        nbytes: their size in the files, or, of what would be new, in memory.
        dtypes: of the files, the most frequent first.
        new: how many of the numbers the checkpoint does not have.
    """

    name: str
    parameters: int
    nbytes: int
    dtypes: tuple[str, ...]
    new: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointSummary:
    """What `inspect_checkpoint` finds.

    Attributes:
        path: the folder or Hub id.
        kind: "pair" (an encoder and a decoder of any two families), "whole" (a family's own encoder-decoder, such as
            BART), "encoder" or "decoder".
        model_type: of `config.json`.
        also: the other role that a piece can be loaded in, if there is one.
        pieces: by role, what each is: names in words and values in words or numbers.
        projection: widths of the map from the encoder's states to the decoder's, if there is one.
        ties: arrays that the encoder shares with the decoder.
        parts: the arrays by part.
        special_tokens: ids by name, those that are set.
        token_names: what the tokenizer beside it calls them, as far as its file tells.
        generation: defaults of `generate`, as `generation_config.json` has them.
        tokenizers: names of the tokenizer files beside it.
        files: names and sizes in bytes of the files of weights.
        report: the report that loading would give.
    """

    path: str
    kind: str
    model_type: str
    also: str | None
    pieces: Mapping[str, Mapping[str, Any]]
    projection: tuple[int, ...] | None
    ties: tuple[str, ...]
    parts: tuple[Part, ...]
    special_tokens: Mapping[str, Any]
    token_names: Mapping[int, str]
    generation: Mapping[str, Any]
    tokenizers: tuple[str, ...]
    files: Mapping[str, int]
    report: LoadReport

    @property
    def total(self) -> Part:
        """All arrays."""
        dtypes = dict.fromkeys(dtype for part in self.parts for dtype in part.dtypes)
        return Part(
            "total",
            sum(part.parameters for part in self.parts),
            sum(part.nbytes for part in self.parts),
            tuple(dtypes),
            sum(part.new for part in self.parts),
        )

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        report = dataclasses.asdict(self.report)
        report.pop("attributes")
        told = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            **told,
            "parts": [dataclasses.asdict(part) for part in self.parts],
            "total": dataclasses.asdict(self.total),
            "token_names": {str(token): name for token, name in self.token_names.items()},
            "report": report,
        }


def inspect_checkpoint(path: str | os.PathLike, *, role: Role | None = None) -> CheckpointSummary:
    """Describe a checkpoint without loading its arrays: only headers and indices of its files are read.

    Args:
        path: a folder or a Hub id (which is downloaded) of a pair, a whole checkpoint such as BART's, or a piece.
        role: "encoder" or "decoder": what to take a piece for that may be either, such as BERT. Default: what its
            config says, else an encoder.

    Returns:
        The summary; its report is that of `from_pretrained` with its defaults.

    Raises:
        MissingFileError: there is no such checkpoint.
        ValueError: it cannot be loaded, for the same reasons and in the same words; or `role` is given for a pair.
    """
    folder = HubOptions().folder(path)
    hf, _ = with_model_type(read_config(folder), None, folder / CONFIG, "model_type", pair=True)
    model_type, both = hf["model_type"], _is_both(hf)
    if role not in (None, "encoder", "decoder") or (both and role is not None):
        what = f"{printable(path)} has both pieces: leave it out" if both else "expected 'encoder' or 'decoder'"
        raise ValueError(f"role is {role!r}; {what}.")
    with headers_only(), reports_held_back():
        if both:
            model: Any = EncoderDecoder.from_pretrained(path)
            kind, also = "pair" if model_type in PAIRS else "whole", None
        else:
            able = tuple(FAMILIES[model_type].architectures) if model_type in FAMILIES else ()
            kind = role or _role(hf, able)
            family_of(hf, folder / CONFIG, kind)
            also = next((other for other in able if other != kind), None)
            model = (Encoder if kind == "encoder" else Decoder).from_pretrained(path)
    report: LoadReport = model.load_report
    if not report.loaded:  # nothing was chosen where nothing was opened
        report = dataclasses.replace(report, warnings=())
    if (folder / FLAX_WEIGHTS).is_file() and report.loaded:
        report = dataclasses.replace(report, notes=(*report.notes, f"{FLAX_WEIGHTS} has no header: it was read whole"))
    pieces = {"encoder": model.encoder, "decoder": model.decoder} if both else {kind: model}
    projection = getattr(model, "enc_to_dec_proj", None)
    config = model.generation_config if both else None
    tokens = _special_tokens(model.special_tokens if both else model.config)
    return CheckpointSummary(
        path=str(path),
        kind=kind,
        model_type=model_type,
        also=also,
        pieces={name: describe_stack(piece.config) for name, piece in pieces.items()},
        projection=None if projection is None else tuple(projection.weight.shape),
        ties=model.ties if both else (),
        parts=_parts(model, {} if both else {kind: model}, {name for name, _ in report.new}),
        special_tokens=tokens,
        token_names=_token_names(folder, tokens),
        generation={} if config is None else config.to_hf(),
        tokenizers=tuple(sorted(file.name for file in folder.iterdir() if _TOKENIZER_FILE.fullmatch(file.name))),
        files={
            file.name: file.stat().st_size
            for file in sorted(folder.iterdir())
            if file.suffix in (".safetensors", ".msgpack", ".bin", ".h5", ".gguf")
        },
        report=report,
    )


def describe_stack(config: StackConfig) -> dict[str, Any]:
    """An encoder's or a decoder's architecture: names in words, and values in words or numbers."""
    attention = config.attention
    heads: int | str = attention.num_heads
    if attention.kv_heads != attention.num_heads:
        heads = f"{attention.num_heads}, {attention.kv_heads} of keys and values"
    gated = "gated " if isinstance(config.feed_forward, GatedMLPConfig) else ""
    norm = "LayerNorm" if isinstance(config.norm, LayerNormConfig) else "RMSNorm"
    return {
        "family": config.model_type,
        "layers": len(config.layers),
        "width": config.hidden_size,
        "heads": heads,
        "head width": attention.head_dim,
        "feed-forward": f"{config.feed_forward.size}, {gated}{config.feed_forward.activation}",
        "norm": f"{norm}, {config.norm.placement}",
        "vocabulary": config.vocab_size,
        "positions": _positions(config),
        "attention": _attention(config),
        "cross-attention": _cross_attention(config),
        "head": _head(config),
    }


def _is_both(hf: Mapping[str, Any]) -> bool:
    """Whether a config is of a pair or of a whole checkpoint, and not of one of its pieces."""
    apart = hf.get("is_decoder") is True or hf.get("is_encoder_decoder", True) in (False, None)
    return hf["model_type"] in PAIRS or (hf["model_type"] in WHOLES and not apart)


def _role(hf: Mapping[str, Any], able: tuple[Role, ...]) -> Role:
    """What a piece is: the only thing that it can be, or what its config says, or an encoder."""
    if len(able) == 1:
        return able[0]
    named = hf.get("architectures")
    says_decoder = any(
        re.search("ForCausalLM|LMHead|Decoder", name)
        for name in (named if isinstance(named, list) else ())
        if isinstance(name, str)
    )
    return "decoder" if hf.get("is_decoder") is True or says_decoder else "encoder"


def _parts(model: Any, single: Mapping[str, Any], new: set[str]) -> tuple[Part, ...]:
    """The arrays by piece and part, in the order in which they act."""
    prefix = "".join(f"{role}." for role in single)
    found: dict[tuple[str, str], list[tuple[str, Any]]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(model):
        name = path_name(path)
        piece, _, inside = (prefix + name).partition(".")
        if piece not in ("encoder", "decoder"):
            found.setdefault(("projection", ""), []).append((name, leaf))
            continue
        part = next(part for part, pattern in _PARTS if pattern.match(inside))
        found.setdefault((piece, part), []).append((name, leaf))
    order = {part: at for at, (part, _) in enumerate(_PARTS)}
    pieces = ("encoder", "projection", "decoder")
    rows = sorted(found.items(), key=lambda row: (pieces.index(row[0][0]), order.get(row[0][1], 0)))
    return tuple(_part(" ".join(filter(None, names)), leaves, new) for names, leaves in rows)


def _part(name: str, leaves: list[tuple[str, Any]], new: set[str]) -> Part:
    sizes: Counter[str] = Counter()
    for _, leaf in leaves:
        sizes[str(leaf.dtype)] += math.prod(leaf.shape)
    return Part(
        name=name,
        parameters=sum(sizes.values()),
        nbytes=sum(math.prod(leaf.shape) * leaf.dtype.itemsize for _, leaf in leaves),
        dtypes=tuple(dtype for dtype, _ in sizes.most_common()),
        new=sum(math.prod(leaf.shape) for path, leaf in leaves if path in new),
    )


def _positions(config: StackConfig) -> str:
    positions, attention = config.positions, config.attention
    kinds = []
    if positions.kind != "none":
        use = "" if positions.use == "added" else f", {positions.use}"
        kinds.append(f"{positions.kind.replace('_', ' ')}, {positions.longest}{use}")
    for rotary in attention.rotary:
        part = "" if rotary.dim in (None, attention.head_dim) else f", {rotary.dim} of {attention.head_dim}"
        scaled = "" if rotary.scaling is None else ", scaled"
        kinds.append(f"rotary of base {rotary.theta:g}{part}{scaled}")
    if attention.alibi is not None:
        kinds.append("ALiBi")
    if attention.relative_bias is not None:
        shared = "shared" if attention.relative_bias.shared else "in every layer"
        kinds.append(f"relative bias of {attention.relative_bias.buckets} buckets, {shared}")
    if attention.relative_positions != "none":
        kinds.append(f"relative {attention.relative_positions.replace('_', ' and ')}")
    if isinstance(attention, DisentangledAttentionConfig):
        kinds.append("disentangled relative")
    return "; ".join(kinds) or "none"


def _attention(config: StackConfig) -> str:
    windows = Counter(layer.window for layer in config.layers)
    kinds = [
        ("full" if window is None else f"window of {window}")
        + ("" if count == len(config.layers) else f" in {count} of {len(config.layers)} layers")
        for window, count in windows.items()
    ]
    blocks = {layer.block for layer in config.layers} - {"serial"}
    kinds += [f"{block.replace('_', ' ')} blocks" for block in sorted(blocks)]
    return ", ".join([*kinds, *(["causal"] if config.causal else [])])


def _cross_attention(config: StackConfig) -> str | None:
    having = [layer for layer in config.layers if layer.cross_attention]
    if not having:
        return None
    where = "every layer" if len(having) == len(config.layers) else f"{len(having)} of {len(config.layers)} layers"
    kinds = " and ".join(sorted({layer.cross_kind for layer in having} - {"sublayer"}))
    width = config.cross_attention_hidden_size
    return where + (f", {kinds}" if kinds else "") + (f", of states of width {width}" if width else "")


def _head(config: StackConfig) -> str | None:
    if config.head is None:
        return None
    return "tied to the embeddings" if config.head.tied else "of its own"


def _special_tokens(said: Any) -> dict[str, Any]:
    found = {name: getattr(said, name, None) for name in TOKEN_NAMES}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in found.items()
        if value is not None and value != ()
    }


def _token_names(folder: Path, tokens: Mapping[str, Any]) -> dict[int, str]:
    """What the target's tokenizer file calls these ids; nothing where it does not say it plainly."""
    file = next((folder / name for name in (BOTH, TARGET) if (folder / name).is_file()), None)
    if file is None:
        return {}
    try:
        said = object_of(file)
    except ValueError:  # whoever loads it is told
        return {}
    model, added = said.get("model"), said.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    names = {at: text for text, at in vocabulary.items()} if isinstance(vocabulary, Mapping) else {}
    for token in added if isinstance(added, list) else ():
        if isinstance(token, Mapping):
            names[token.get("id")] = token.get("content")
    wanted = {one for value in tokens.values() for one in (value if isinstance(value, list) else [value])}
    return {one: names[one] for one in sorted(wanted) if isinstance(names.get(one), str)}
