"""Checkpoints made over: another format, dtype or size of shards, a piece out of a pair, a pair of two pieces, int8.

Where tensors stay what they are, they go from file to file one at a time, and no model is made.
"""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from ._quoting import printable, quoted
from ._writing import whole_folder
from .decoder import Decoder
from .encoder import Encoder
from .encoder_decoder import EncoderDecoder
from .hf.families import WHOLES
from .hf.files.folder import (
    CONFIG,
    FLAX_WEIGHTS,
    GENERATION_CONFIG,
    INDEX,
    INT8_WEIGHTS,
    WEIGHTS,
    Tensors,
    check_new_folder,
    open_tensors,
    read_config,
    write_json,
)
from .hf.files.gguf_file import convert_gguf
from .hf.files.hub import HubOptions
from .hf.files.safetensors_file import Tensor, write_file
from .hf.files.shards import DEFAULT_SIZE, index_name, layout, size_in_bytes
from .hf.files.torch_file import INDEX as TORCH_INDEX
from .hf.files.torch_file import WEIGHTS as TORCH_WEIGHTS
from .hf.files.torch_file import TorchFile
from .hf.model_card import README
from .hf.model_types import PAIRS
from .hf.pair import OWN, OWN_FOLDER
from .params.quantize import quantize
from .text import TextToText
from .text.tokenizer_files import BOTH, SOURCE, TARGET, has_tokenizer

Dtype = Literal["float32", "bfloat16", "float16"]
Piece = Literal["encoder", "decoder"]

_DTYPES: Mapping[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
_OF_WEIGHTS = re.compile(
    r".*\.(safetensors|bin|pt|pth|ckpt|h5|msgpack|gguf|onnx|pkl|index\.json)|optimizer.*|scheduler.*|rng_state.*"
)
"""Files that are not copied: weights of any kind, and what a trainer leaves."""

_SAVED = (GENERATION_CONFIG, README)
"""What a model that is saved writes itself."""

_TOKENIZER_OF = {"encoder": SOURCE, "decoder": TARGET}
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversion:
    """What a conversion wrote, or would write.

    Attributes:
        source: what was converted, in words.
        target: the folder.
        files: the files of weights and their bytes, headers aside; none where a dry run would have to make a model.
        copied: files that were copied as they are, or under another name ("source_tokenizer.json as tokenizer.json").
        left_out: files and tensors of the source that are not in the target, and why.
        dtypes: the dtypes of the tensors.
        notes: anything else worth knowing.
        written: whether it was written.
    """

    source: str
    target: Path
    files: Mapping[str, int]
    copied: tuple[str, ...]
    left_out: tuple[str, ...]
    dtypes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    written: bool = True

    def __str__(self) -> str:
        verb = "" if self.written else "would be "
        much = f"{sum(self.files.values()):,} bytes" if self.files else "weights"
        place = printable(self.target)
        lines = [f"{self.source} -> {place}: {much} of {' and '.join(self.dtypes)} {verb}written"]
        lines += [f"  {name}: {size:,} bytes" for name, size in self.files.items()]
        lines += [f"  {verb}copied: {printable(name)}" for name in self.copied]
        lines += [f"  left out: {printable(name)}" for name in self.left_out]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def convert_checkpoint(
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    take: Piece | None = None,
    dtype: Dtype | None = None,
    method: Literal["int8"] | None = None,
    max_shard_size: int | str = DEFAULT_SIZE,
    dry_run: bool = False,
) -> Conversion:
    """Write a checkpoint anew as `config.json` and safetensors, with its other files beside them.

    Read are safetensors, the old Flax class's `flax_model.msgpack`, `pytorch_model.bin` (which needs torch, and runs no
    code of the file) and llama.cpp's GGUF. Tensors keep their names and, without a dtype, their bytes.

    Args:
        source: a folder, a Hub id (the model's own files alone are downloaded), a `.gguf` file, or a
            `pytorch_model.bin` with `config.json` beside it.
        target: a new or an empty folder.
        take: the piece to take out of a pair or a whole checkpoint; its tokenizer is then `tokenizer.json`.
        dtype: dtype of all floating-point tensors.
        method: "int8" rounds a pair or a whole checkpoint, as `quantize` does.
        max_shard_size: as of `save_pretrained`.
        dry_run: whether to look at everything and write nothing. A GGUF file is then not looked into.

    Returns:
        What was written.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ImportError: what reads the format is not installed.
        ValueError: the target is the source, is not empty or cannot be written to; a file is damaged; a number does not
            fit in the dtype.
        TypeError: options that do not go together.
    """
    limit = size_in_bytes(max_shard_size)
    _check_options(take, dtype, method)
    with _opened(source, target, dry_run=dry_run) as (folder, place, said):
        if said.endswith(".gguf") and dry_run:
            return Conversion(
                source=said, target=place, files={}, copied=(), left_out=(), dtypes=(dtype or "float32",), written=False
            )
        hf = read_config(folder)
        _check_can_take(take, hf, said)
        if method is not None or (take is not None and (hf.get("model_type") not in PAIRS or _needs_model(hf))):
            return _by_model(
                folder, place, said, hf, take=take, dtype=dtype, method=method, size=max_shard_size, dry=dry_run
            )
        return _by_tensors(folder, place, said, hf, take=take, dtype=dtype, limit=limit, dry=dry_run)


def join_checkpoints(
    encoder: str | os.PathLike,
    decoder: str | os.PathLike,
    target: str | os.PathLike,
    *,
    dtype: Dtype | None = None,
    method: Literal["int8"] | None = None,
    max_shard_size: int | str = DEFAULT_SIZE,
    key: Any = None,
) -> Conversion:
    """Join an encoder and a decoder, as `EncoderDecoder.from_encoder_decoder_pretrained`, and write the pair.

    Args:
        encoder: a folder or a Hub id.
        decoder: a folder or a Hub id; one without cross-attention gets some, which is to be trained.
        target: a new or an empty folder. Where both have a tokenizer, it gets both.
        dtype: dtype of all arrays; default the pieces' own, or float32 if they differ.
        method: as of `convert_checkpoint`.
        max_shard_size: as of `save_pretrained`.
        key: draws what is new; default `jax.random.key(0)`.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: as `convert_checkpoint`, or the pieces do not fit together.
    """
    size_in_bytes(max_shard_size)
    _check_options(None, dtype, method)
    folders = [HubOptions().folder(path) for path in (encoder, decoder)]
    place = _checked_target(target, *folders)
    with_text = all(map(has_tokenizer, folders))
    join: Callable[..., Any] = TextToText.from_pieces if with_text else EncoderDecoder.from_encoder_decoder_pretrained
    joined = join(encoder, decoder, key=key, dtype=None)
    model = _of_one_dtype(joined.model if with_text else joined, dtype)
    model = model if method is None else quantize(model, method)
    saved = TextToText(model, joined.tokenizers) if with_text else model
    with whole_folder(place) as aside:
        saved.save_pretrained(aside, max_shard_size=max_shard_size)
        said = f"{printable(os.fspath(encoder))} and {printable(os.fspath(decoder))}"
        return _what_was_saved(aside, said, place, copied=(), notes=tuple(str(model.load_report).splitlines()[1:]))


def _check_options(take: Any, dtype: Any, method: Any) -> None:
    for name, value, known in (
        ("take", take, get_args(Piece)),
        ("dtype", dtype, get_args(Dtype)),
        ("method", method, ("int8",)),
    ):
        if value is not None and value not in known:
            raise ValueError(f"{name} is {quoted(value)}; expected one of {', '.join(map(repr, known))}, or None.")
    if method is not None and dtype is not None:
        raise TypeError(f"method={method!r} and dtype={dtype!r} both say how numbers are stored: give one of them.")
    if method is not None and take is not None:
        raise TypeError(
            "a single piece is not rounded to int8: take the piece first, and quantize the pair it is joined to."
        )


@contextlib.contextmanager
def _opened(source: Any, target: Any, *, dry_run: bool) -> Iterator[tuple[Path, Path, str]]:
    """The folder of a checkpoint, where it is to go, and what to call it; a GGUF file is made a folder first."""
    file = Path(source).expanduser()
    if not (file.is_file() and file.suffix in (".gguf", ".bin")):
        folder = HubOptions().folder(source)
        yield folder, _checked_target(target, folder), printable(os.fspath(source))
        return
    place = _checked_target(target, file.parent)
    if file.suffix == ".bin":
        if file.name != TORCH_WEIGHTS:
            raise ValueError(f"{printable(file)}: expected {TORCH_WEIGHTS}, beside its {CONFIG}; rename the file.")
        yield file.parent, place, printable(file)
        return
    if dry_run:
        yield file.parent, place, printable(file)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".converted-") as between:
        yield convert_gguf(file, Path(between) / "model"), place, printable(file)


def _checked_target(target: Any, *sources: Path) -> Path:
    """The folder to write, tried.

    Raises:
        ValueError: it is one of the sources, lies in one, is not empty, or nothing can be written there.
    """
    place = Path(target).expanduser().resolve()
    for source in sources:
        if place == source.resolve():
            raise ValueError(
                f"the target {printable(place)} is the source, which is never written over: give another folder."
            )
    check_new_folder(place)
    return place


def _check_can_take(take: Piece | None, hf: Mapping[str, Any], said: str) -> None:
    if take is not None and hf.get("model_type") not in (*PAIRS, *WHOLES):
        raise ValueError(
            f"{said} is no pair that a piece could be taken out of: its model_type is "
            f"{quoted(hf.get('model_type'))}; expected 'encoder-decoder' or a whole checkpoint, such as BART's."
        )


def _by_tensors(
    folder: Path,
    place: Path,
    said: str,
    hf: Mapping[str, Any],
    *,
    take: Piece | None,
    dtype: Dtype | None,
    limit: int,
    dry: bool,
) -> Conversion:
    """From file to file, one tensor at a time."""
    if "quantization_config" in hf:
        raise ValueError(f"{said} is quantized already, which cannot be undone: convert the model it was made of.")
    tensors = _tensors(folder)
    names, left = _wanted(tensors, take, said)
    hf = hf if take is None else _config_of(hf, take)
    spread = layout(_converted(tensors, names, None if dtype is None else _DTYPES[dtype]), WEIGHTS, limit)
    copied, more = _others(folder, hf, take, tensors.path)
    dtypes = dict.fromkeys(str(tensor[2]) for part in spread.files.values() for tensor in part)
    if not dry:
        with whole_folder(place) as aside:
            for name, part in spread.files.items():
                write_file(aside / name, part)
            if spread.index is not None:
                write_json(aside / index_name(WEIGHTS), spread.index)
            write_json(aside / CONFIG, hf if dtype is None else _in_dtype(hf, dtype))
            _copy(folder, aside, copied)
    return Conversion(
        source=said,
        target=place,
        files={name: sum(map(_nbytes, part)) for name, part in spread.files.items()},
        copied=tuple(_as(name, new) for name, new in copied.items()),
        left_out=(*left, *more),
        dtypes=tuple(dtypes),
        written=not dry,
    )


def _wanted(tensors: Tensors, take: Piece | None, said: str) -> tuple[dict[str, str], list[str]]:
    """By their new names the tensors to write, and which are left out."""
    if take is None:
        return {name: name for name in tensors.entries}, []
    prefix = f"{take}."
    names = {name.removeprefix(prefix): name for name in tensors.entries if name.startswith(prefix)}
    if not names:
        raise ValueError(f"{said} has no tensor whose name begins with {prefix!r}; expected those of its {take}.")
    return names, [f"{name} (of the pair)" for name in tensors.entries if name.startswith("enc_to_dec_proj.")]


def _needs_model(hf: Mapping[str, Any]) -> bool:
    """Whether a pair's pieces are not to be told apart by the names of tensors."""
    return bool(hf.get("tie_encoder_decoder")) or _has_own_encoder(hf)


def _has_own_encoder(hf: Mapping[str, Any]) -> bool:
    return isinstance(hf.get("encoder"), dict) and hf["encoder"].get("model_type") == OWN


def _tensors(folder: Path) -> Tensors:
    """A checkpoint's tensors, pickles of torch's among them where there is nothing else."""
    if not any((folder / name).is_file() for name in (WEIGHTS, INDEX, FLAX_WEIGHTS)):
        for name in (TORCH_WEIGHTS, TORCH_INDEX):
            if (folder / name).is_file():
                return TorchFile(folder / name)
    return open_tensors(folder)


def _config_of(hf: Mapping[str, Any], take: Piece) -> dict[str, Any]:
    """The config of a pair's piece; a decoder's with the special tokens that the pair has."""
    inner = hf.get(take)
    if not isinstance(inner, dict):
        raise ValueError(f"{CONFIG} has no {take!r}; expected the config of that piece.")
    tokens = {name: hf[name] for name in _SPECIAL if take == "decoder" and hf.get(name) is not None}
    kept = {name: hf[name] for name in ("dtype", "torch_dtype") if name in hf}
    return {**kept, **inner, **tokens}


def _converted(tensors: Tensors, names: Mapping[str, str], dtype: np.dtype | None) -> Iterator[Tensor]:
    """Tensors under their new names, the floating-point ones in the dtype; made when they are written."""

    def make(name: str, wanted: np.dtype) -> np.ndarray:
        array = tensors.read(name)
        with np.errstate(over="ignore"):
            made = array.astype(wanted, copy=False)
        if array.dtype != made.dtype and not np.array_equal(np.isfinite(array), np.isfinite(made)):
            raise ValueError(
                f"{printable(tensors.path)}: {quoted(name)} has numbers that are too large for {wanted}: take "
                "bfloat16, which reaches as far as float32."
            )
        return made

    for new, name in names.items():
        entry = tensors.entries[name]
        wanted = dtype if dtype is not None and jnp.issubdtype(entry.dtype, jnp.floating) else entry.dtype
        yield new, tuple(entry.shape), wanted, lambda name=name, wanted=wanted: make(name, wanted)


def _nbytes(tensor: Tensor) -> int:
    return int(np.prod(tensor[1], dtype=object)) * tensor[2].itemsize


def _others(folder: Path, hf: Mapping[str, Any], take: Piece | None, weights: Path) -> tuple[dict[str, str], list[str]]:
    """Files to be copied, each with its new name, and those that are left out."""
    copied: dict[str, str] = {}
    left: list[str] = []
    for path in sorted(folder.iterdir()):
        name = path.name
        if name == CONFIG or name.startswith(".") or path == weights:
            continue
        if path.is_dir():
            if take is None and name == OWN_FOLDER and _has_own_encoder(hf):
                copied[name] = name
            else:
                left.append(f"{name}/ (a folder)")
        elif _OF_WEIGHTS.fullmatch(name):
            left += [] if name.endswith((".safetensors", ".index.json", ".bin")) else [name]
        elif take is not None and name in (SOURCE, TARGET):
            if name == _TOKENIZER_OF[take]:
                copied[name] = BOTH
        elif take == "encoder" and name == GENERATION_CONFIG:
            left.append(f"{name} (of the decoder)")
        elif take is not None and name == README:
            left.append(f"{name} (of the whole)")
        else:
            copied[name] = name
    return copied, left


def _as(name: str, new: str) -> str:
    return name if name == new else f"{name} as {new}"


def _copy(folder: Path, aside: Path, copied: Mapping[str, str]) -> None:
    for name, new in copied.items():
        if (folder / name).is_dir():
            shutil.copytree(folder / name, aside / new)
        else:
            shutil.copyfile(folder / name, aside / new)


def _in_dtype(hf: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The config of a model whose tensors are all of the dtype."""
    inner = {
        name: _in_dtype(value, dtype)
        for name, value in hf.items()
        if name in get_args(Piece) and isinstance(value, dict)
    }
    return {**{name: value for name, value in hf.items() if name != "torch_dtype"}, **inner, "dtype": dtype}


def _by_model(
    folder: Path,
    place: Path,
    said: str,
    hf: Mapping[str, Any],
    *,
    take: Piece | None,
    dtype: Dtype | None,
    method: Literal["int8"] | None,
    size: int | str,
    dry: bool,
) -> Conversion:
    """What tensors alone do not give: pieces that share arrays, and int8."""
    copied, left = _others(folder, hf, take, folder / WEIGHTS)
    shown = tuple(_as(name, new) for name, new in copied.items() if new not in _SAVED)
    if dry:
        kinds = ("int8",) if method else (dtype or "its own dtype",)
        return Conversion(
            source=said, target=place, files={}, copied=shown, left_out=tuple(left), dtypes=kinds, written=False
        )
    with _as_safetensors(folder) as readable:
        saved = _loaded(readable, hf, take=take, dtype=None if dtype is None else jnp.dtype(dtype))
        saved = saved if method is None else quantize(saved, method)
        with whole_folder(place) as aside:
            saved.save_pretrained(aside, max_shard_size=size)
            kept = {name: new for name, new in copied.items() if new not in _SAVED}
            _copy(folder, aside, kept)
            return _what_was_saved(aside, said, place, copied=shown, left=tuple(left))


def _loaded(folder: Path, hf: Mapping[str, Any], *, take: Piece | None, dtype: Any) -> Any:
    """The model, or the piece to take: of a whole checkpoint that alone is read."""
    if take is not None and hf.get("model_type") in WHOLES:
        return {"encoder": Encoder, "decoder": Decoder}[take].from_pretrained(folder, dtype=dtype)
    model = EncoderDecoder.from_pretrained(folder, dtype=dtype)
    return model if take is None else dict(zip(get_args(Piece), model.pieces(), strict=True))[take]


@contextlib.contextmanager
def _as_safetensors(folder: Path) -> Iterator[Path]:
    """The folder, or one of safetensors made of its pickles."""
    if any((folder / name).is_file() for name in (WEIGHTS, INDEX, FLAX_WEIGHTS, INT8_WEIGHTS)):
        yield folder
        return
    with tempfile.TemporaryDirectory() as between:
        convert_checkpoint(folder, Path(between) / "model")
        yield Path(between) / "model"


def _of_one_dtype(model: EncoderDecoder, dtype: str | None) -> EncoderDecoder:
    own = {leaf.dtype for leaf in jax.tree.leaves(model)}
    if dtype is None and len(own) == 1:
        return model
    return model.astype(jnp.dtype(dtype or "float32"))


def _what_was_saved(
    folder: Path,
    source: str,
    place: Path,
    *,
    copied: tuple[str, ...],
    left: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> Conversion:
    weights = sorted(folder.glob("*.safetensors"))
    config = json.loads((folder / CONFIG).read_text())
    dtype = "int8" if "quantization_config" in config else config.get("dtype", "several dtypes")
    return Conversion(
        source=source,
        target=place,
        files={path.name: path.stat().st_size for path in weights},
        copied=copied,
        left_out=left,
        dtypes=(dtype,),
        notes=tuple(note.strip() for note in notes),
    )
