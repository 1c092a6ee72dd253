"""Damaged checkpoints: every number of an undamaged one is another, so that a loaded array tells where it came from.

The oracle reads the damaged file itself, in a few lines of its own. Knows none of the library's tables.
"""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import msgpack
import numpy as np
from judging import Attempt, attempt
from mutations import HOSTILE_TEXTS, Pairs, Raw, any_value, change_bytes, change_json, encoded, parsed, written
from safetensors.numpy import load, save

from encdec_eqx import Decoder, EncoderDecoder
from encdec_eqx.hf.families import WHOLES

GOLDENS = Path(__file__).parent.parent / "goldens" / "families"
FIRST = 1_000
"""The first number: constants that are no numbers of the file (sinusoids, zeros) are smaller."""

OPTIONAL = ".decoder.head.bias"
"""An array that is zero where a file lacks it."""

DTYPES = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I32": "<i4", "I64": "<i8", "I8": "i1", "U8": "u1", "BOOL": "?"}

QUICK = ("bart", "marian", "pegasus", "xlm-roberta-xl+gpt2")
"""Checkpoints that are read soon, for damage to which their family does not matter."""

Tell = Callable[[str], None]
Model = EncoderDecoder | Decoder
Files = dict[str, bytes]


class Base:
    """One undamaged checkpoint.

    Attributes:
        name: the folder's.
        load: reads such a folder.
        files: content by name.
        model: what the library makes of it.
        tensors: numbered tensors by name.
        arrays: what the library loads, by path.
        places: for each of those, where its numbers stand in the tensors laid end to end; -1 for other numbers.
        known: names of the files, that of the folder among them: a message must have one.
    """

    def __init__(self, name: str, folder: Path):
        self.name = name
        source = GOLDENS / name
        self.files = {file: (source / file).read_bytes() for file in ("config.json", "generation_config.json")}
        stored = load((source / "model.safetensors").read_bytes())
        self.tensors = _numbered(stored)
        self.files["model.safetensors"] = save(self.tensors, {"format": "pt"})
        write(folder, self.files)
        self.load = _load_alone if "+" not in name and name not in WHOLES else EncoderDecoder.from_pretrained
        self.model = self.load(folder)
        self.arrays = arrays_of(self.model)
        end = np.concatenate([tensor.ravel() for tensor in self.tensors.values()])
        self.places = {path: _places(array, end) for path, array in self.arrays.items()}
        missing = set(end.tolist()) - {number for array in self.arrays.values() for number in array.ravel().tolist()}
        assert len(missing) < 0.2 * end.size, f"{name}: {len(missing)} of {end.size} numbers are not in the model"

    def wrong(self, model: Any, tensors: dict[str, np.ndarray]) -> list[str]:
        """What a loaded model has that the damaged file does not say.

        Args:
            model: what was loaded.
            tensors: what the damaged file holds; those that it lacks count as undamaged.
        """
        now = [tensors.get(name, tensor) for name, tensor in self.tensors.items()]
        if any(new.size != old.size for new, old in zip(now, self.tensors.values(), strict=True)):
            return ["loaded a tensor of another size"]
        end = np.concatenate([array.astype(np.float32).ravel() for array in now])
        found, faults = arrays_of(model), []
        # a fused tensor goes by heads: of another number of them, the same numbers stand in another order
        other_heads = _heads(model) != _heads(self.model)
        for path, array in found.items():
            if path in self.places and self.places[path].max() < 0:
                continue  # a constant, of which the config says the size
            if path not in self.arrays or array.size != self.arrays[path].size:
                faults.append(f"loaded {path} of shape {array.shape}, which the checkpoint does not have so")
                continue
            places, flat = self.places[path], array.astype(np.float32).ravel()
            if path == OPTIONAL and not flat.any():
                continue
            expected = np.where(places < 0, self.arrays[path].ravel(), end[places])
            if other_heads and ".self_attention" in path:
                flat, expected = np.sort(flat), np.sort(expected)
            if flat.tobytes() != expected.astype(np.float32).tobytes():
                differ = np.flatnonzero(flat.view(np.uint32) != expected.astype(np.float32).view(np.uint32))
                at = int(differ[0])
                faults.append(
                    f"loaded {path}[{at}] = {flat[at]} where the file has {expected[at]} ({differ.size} such)"
                )
        return faults


def _heads(model: Model) -> tuple[int, int]:
    attention = (model if isinstance(model, Decoder) else model.decoder).config.attention
    return attention.num_heads, attention.kv_heads


def _load_alone(folder: Path) -> Decoder:
    """A language model, without the cross-attention that its file does not have."""
    return Decoder.from_pretrained(folder, add_cross_attention=False)


def _numbered(stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors of the same shapes whose numbers are all different, but for tensors that were equal."""
    result: dict[str, np.ndarray] = {}
    seen: dict[tuple[tuple[int, ...], bytes], np.ndarray] = {}
    first = FIRST
    for name, tensor in stored.items():
        content = (tensor.shape, tensor.tobytes())
        if content not in seen or not tensor.any():
            seen[content] = np.arange(first, first + tensor.size, dtype=np.float32).reshape(tensor.shape)
            first += tensor.size
        result[name] = seen[content]
    return result


def _places(array: np.ndarray, end: np.ndarray) -> np.ndarray:
    flat = array.ravel()
    order = np.argsort(end, kind="stable")
    at = np.minimum(np.searchsorted(end[order], flat), end.size - 1)
    places = order[at]
    return np.where(end[places] == flat, places, -1)


def arrays_of(model: Any) -> dict[str, np.ndarray]:
    """A model's arrays by path."""
    leaves = jax.tree_util.tree_flatten_with_path(model)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def write(folder: Path, files: Files) -> None:
    """A fresh folder with these files."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    """What a file says, read naively; what cannot be read so is left out."""
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
    except ValueError:
        return {}
    found = {}
    for name, entry in header.items() if isinstance(header, dict) else ():
        try:
            begin, end = entry["data_offsets"]
            content = data[8 + length + begin : 8 + length + end]
            if entry["dtype"] == "BF16":
                array = (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)
            else:
                array = np.frombuffer(content, DTYPES[entry["dtype"]])
            found[name] = array.reshape(entry["shape"])
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
    return found


class Checkpoints:
    """Any of the stored families' checkpoints, damaged in one way."""

    names: tuple[str, ...] = tuple(sorted(path.name for path in GOLDENS.iterdir()))

    def __init__(self, folder: Path):
        self.folder = folder
        self.ready: dict[str, Base] = {}

    def base(self, rng: random.Random) -> Base:
        """One of them."""
        name = rng.choice(self.names)
        if name not in self.ready:
            self.ready[name] = Base(name, self.folder / "whole")
        return self.ready[name]

    def damaged(self, rng: random.Random, base: Base) -> tuple[Files, str]:
        """The files of a damaged checkpoint, and what was done."""
        raise NotImplementedError

    def read(self, base: Base, files: Files) -> dict[str, np.ndarray]:
        """What the damaged files say of tensors."""
        return read_safetensors(files.get("model.safetensors", b""))

    def prepare(self, rng: random.Random, folder: Path) -> str:
        """Anything else that is done to the folder."""
        return ""

    def check(self, base: Base, files: Files, model: Model) -> list[str]:
        """What else is wrong about a model that was loaded."""
        return []

    def __call__(self, rng: random.Random, tell: Tell) -> tuple[str, list[str]]:
        """One mutation."""
        base = self.base(rng)
        files, what = self.damaged(rng, base)
        folder = self.folder / "damaged"
        tell(f"{base.name}: {what}")
        write(folder, files)
        more = self.prepare(rng, folder)
        tell(f"{base.name}: {what} {more}")
        result = attempt(lambda: base.load(folder), names=[str(folder)], unchanged=[folder])
        return self.judged(base, files, result)

    def judged(self, base: Base, files: Files, result: Attempt) -> tuple[str, list[str]]:
        """A word for how it went, and all faults."""
        if result.error is not None:
            return "refused", result.faults
        if result.value is None:
            return "lost", result.faults
        tensors = self.read(base, files)
        return "loaded", result.faults + base.wrong(result.value, tensors) + self.check(base, files, result.value)


def configs(model: Model) -> tuple[Any, ...]:
    """What reading a config comes to."""
    if isinstance(model, Decoder):
        return (model.config,)
    return model.encoder.config, model.decoder.config, model.special_tokens, model.generation_config


UNREAD = {
    *("encoder", "decoder", "dtype", "torch_dtype", "architectures", "transformers_version", "_name_or_path"),
    # what the other file says, and what the place in a pair says, wins
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
    *("is_encoder_decoder", "is_decoder", "add_cross_attention"),
    "decoder_vocab_size",  # of a Marian whose pieces share one table, as of its encoder
    *("multi_query", "num_ln_in_parallel_attn"),  # of a Falcon of the new architecture, where null means 2
    *("dense_act_fn", "is_gated_act"),  # of a T5: a note says what contradicts `feed_forward_proj`
    "cross_attention_hidden_size",  # of a T5Gemma, where torch overwrites it with the encoder's width
    "original_max_position_embeddings",  # of a Phi-3 whose rotations are not scaled
}
"""Attributes that may change without a trace."""


class Config(Checkpoints):
    """`config.json`, tree and text."""

    def damaged(self, rng: random.Random, base: Base) -> tuple[Files, str]:
        content, what = change_json(rng, base.files["config.json"].decode())
        return {**base.files, "config.json": content}, what

    def check(self, base: Base, files: Files, model: Model) -> list[str]:
        """Every attribute that was changed or added has changed the model's configs, or is kept and named."""
        if configs(model) != configs(base.model):
            return []
        old, new = json.loads(base.files["config.json"]), json.loads(files["config.json"])
        pieces = () if isinstance(model, Decoder) else (model.encoder, model.decoder)
        reports = [part.load_report for part in (model, *pieces)]
        kept = {name for report in reports for name in json.loads(report.attributes)}
        lost = []
        for before, after in ((old, new), *((old.get(side, {}), new.get(side, {})) for side in ("encoder", "decoder"))):
            changed = {name for name in after if name not in before or after[name] != before[name]}
            lost += sorted(changed - kept - UNREAD)
        return [f"was silent about {lost[:5]}"] if lost else []


OPTIONS = {
    "max_length": 20, "min_length": 2, "do_sample": True, "temperature": 0.7, "top_k": 5, "top_p": 0.9,
    "num_beams": 3, "length_penalty": 0.8, "early_stopping": True, "no_repeat_ngram_size": 3,
    "bad_words_ids": [[3], [4, 5]], "forced_bos_token_id": 5, "forced_eos_token_id": [2, 3],
    "exponential_decay_length_penalty": [3, 1.1], "suppress_tokens": [4], "sequence_bias": [[[3], -1.5]],
    "repetition_penalty": 1.2, "eos_token_id": [2, 3], "num_return_sequences": 2, "guidance_scale": 1.0,
}  # fmt: skip


class GenerationSettings(Checkpoints):
    """`generation_config.json`."""

    names = QUICK

    def damaged(self, rng: random.Random, base: Base) -> tuple[Files, str]:
        own = json.loads(base.files["generation_config.json"])
        own |= {name: OPTIONS[name] for name in rng.sample(sorted(OPTIONS), rng.randrange(8))}
        content, what = change_json(rng, json.dumps(own))
        return {**base.files, "generation_config.json": content}, what


class Header(Checkpoints):
    """The header of `model.safetensors`: names, shapes, dtypes, offsets, and its text."""

    def damaged(self, rng: random.Random, base: Base) -> tuple[Files, str]:
        data = base.files["model.safetensors"]
        length = int.from_bytes(data[:8], "little")
        text, body = data[8 : 8 + length].decode(), data[8 + length :]
        if rng.random() < 0.3:
            changed, what = change_json(rng, text)
        elif rng.random() < 0.2:
            changed, what = text.encode() + b" " * rng.choice([1, 8, 4_000]), "spaces behind"
        else:
            tree = parsed(text)
            told = [change_entries(rng, tree) for _ in range(rng.choice([1, 1, 2, 3]))]
            changed, what = encoded(written(tree)), "; ".join(told)
        says = len(changed)
        if rng.random() < 0.05:
            says = rng.choice([0, 1, says - 1, says + 1, 100_000_001, 2**63, 2**64 - 1])
            what += f"; header of {says} bytes"
        return {**base.files, "model.safetensors": says.to_bytes(8, "little") + changed + body}, what


def change_entries(rng: random.Random, tree: Any) -> str:
    """Change what a header says of one tensor or of two."""
    at, other = rng.randrange(len(tree)), rng.randrange(len(tree))
    (name, entry), (second, its) = tree[at], tree[other]
    what = rng.choice(["rename", "swap names", "swap entries", "dtype", "shape", "offsets", "double", "drop", "add"])
    if what == "rename":
        new = rng.choice([*HOSTILE_TEXTS, f"module.{name}", name.replace("encoder", "decoder"), name + ".1", second])
        tree[at] = (new, entry)
        return f"renamed {name} to {new!r:.60}"
    if what == "swap names":
        tree[at], tree[other] = (second, entry), (name, its)
        return f"swapped the names {name} and {second}"
    if what in ("double", "drop", "add"):
        if what == "drop":
            del tree[at]
            return f"dropped {name}"
        key = name if what == "double" else rng.choice(HOSTILE_TEXTS)
        tree.append((key, rng.choice([entry, its, any_value(rng), Pairs()])))
        return f"{what} {key!r:.60}"
    if not isinstance(entry, Pairs) or not isinstance(its, Pairs):
        tree[at] = (name, any_value(rng))
        return f"set {name} to anything"
    fields = dict(entry)
    if what == "swap entries":
        tree[at], tree[other] = (name, its), (second, entry)
        return f"swapped the entries of {name} and {second}"
    if what == "dtype":
        codes = [*DTYPES, "BF16", "F8_E4M3", "f32", "", "F32\n", any_value(rng), Pairs(), []]
        fields["dtype"] = rng.choice(codes)
    elif what == "shape":
        shape = fields.get("shape")
        size = [*(shape if isinstance(shape, list) else [1])]
        shapes = [size[::-1], [*size, 1], [1, *size], [-n if isinstance(n, int) else 0 for n in size], [2**62, 2**62]]
        shapes += [[0, *size], size * 9, [1] * 65, [1] * 1_000, [2**63, 0], [str(size)], [1.0], any_value(rng), None]
        shapes += [[0, 2**62, 2**62], [Raw("9" * 5_000)], [10**18] * 5]
        fields["shape"] = rng.choice(shapes)
    else:
        begin, end = fields["data_offsets"] if isinstance(fields.get("data_offsets"), list) else (0, 0)
        if not isinstance(begin, int) or not isinstance(end, int):
            begin, end = 0, 0
        offsets = [[end, begin], [begin + 4, end + 4], [begin, end + 4], [begin - 4, end], [0, 0], [begin], [begin] * 9]
        offsets += [[2**63, 2**63 + end - begin], [-4, end - begin - 4], any_value(rng), [float(begin), end]]
        fields["data_offsets"] = rng.choice(offsets)
    if rng.random() < 0.1:
        fields["more"] = any_value(rng)
    tree[at] = (name, Pairs(fields.items()))
    return f"{what} of {name}: {fields!r:.150}"


class Body(Checkpoints):
    """The numbers of `model.safetensors`, and its length."""

    names = QUICK

    def damaged(self, rng: random.Random, base: Base) -> tuple[Files, str]:
        data = base.files["model.safetensors"]
        start = 8 + int.from_bytes(data[:8], "little")
        if rng.random() < 0.4:
            changed = bytearray(data)
            for _ in range(rng.choice([1, 3, 30])):
                at = rng.randrange(start, len(data) - 4)
                changed[at : at + 4] = np.float32(
                    rng.choice([np.nan, np.inf, 1e-40, -0.0, 3e38, rng.random()])
                ).tobytes()
            return {**base.files, "model.safetensors": bytes(changed)}, "other numbers"
        changed, what = change_bytes(rng, data, start=rng.choice([0, start, start]))
        return {**base.files, "model.safetensors": changed}, what


class Shards(Checkpoints):
    """An index and its shards."""

    names = QUICK

    def damaged(self, rng: random.Random, base: Base) -> tuple[Files, str]:
        files, index = _sharded(base, rng.choice([1, 2, 3]))
        names = sorted(name for name in files if name.startswith("model-"))
        what = rng.choice(["index", "index", "map", "map", "map", "shard", "drop", "swap", "stale", "nothing"])
        if what == "index":
            content, told = change_json(rng, json.dumps(index))
            return {**files, "model.safetensors.index.json": content}, f"index: {told}"
        if what == "map":
            told = _change_map(rng, index["weight_map"], names)
            return {**files, "model.safetensors.index.json": encoded(written(_pairs(index)))}, told
        name = rng.choice(names)
        if what == "shard":
            files[name], told = change_bytes(rng, files[name])
            return files, f"{name}: {told}"
        if what == "drop":
            del files[name]
            return files, f"dropped {name}"
        if what == "swap":
            files[names[0]], files[names[-1]] = files[names[-1]], files[names[0]]
            return files, f"swapped {names[0]} and {names[-1]}"
        if what == "stale":
            files["model.safetensors"], told = change_bytes(rng, base.files["model.safetensors"])
            return files, f"a damaged model.safetensors beside: {told}"
        return files, what

    def read(self, base: Base, files: Files) -> dict[str, np.ndarray]:
        if "model.safetensors" in files:
            return read_safetensors(files["model.safetensors"])
        found: dict[str, np.ndarray] = {}
        for name, content in files.items():
            if name.endswith(".safetensors"):
                found |= read_safetensors(content)
        return found


def _pairs(index: dict[str, Any]) -> Pairs:
    return Pairs((k, Pairs(v.items()) if isinstance(v, dict) else v) for k, v in index.items())


def _sharded(base: Base, count: int) -> tuple[Files, dict[str, Any]]:
    files = {name: content for name, content in base.files.items() if name != "model.safetensors"}
    weight_map: dict[str, Any] = {}
    for at in range(count):
        name = f"model-{at + 1:05}-of-{count:05}.safetensors"
        part = dict(list(base.tensors.items())[at::count])
        files[name] = save(part, {"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": sum(t.nbytes for t in base.tensors.values())}, "weight_map": weight_map}
    return {**files, "model.safetensors.index.json": json.dumps(index).encode()}, index


def _change_map(rng: random.Random, weight_map: dict[str, Any], names: list[str]) -> str:
    name = rng.choice(sorted(weight_map))
    files = [
        *HOSTILE_TEXTS,
        *names,
        "config.json",
        ".",
        "..",
        "./" + names[0],
        names[0] + "/",
        f"../damaged/{names[0]}",
    ]
    files += ["n" * 300, "a" * 300 + ".safetensors", names[0].upper(), any_value(rng), "\\\\server\\x", "C:x"]
    file = rng.choice(files)
    if rng.random() < 0.2:
        weight_map.pop(name)
        return f"left {name} out of the map"
    weight_map[rng.choice([name, name, "extra", *HOSTILE_TEXTS])] = file
    return f"placed {name} in {file!r:.80}"


class Special(Checkpoints):
    """Things that are no plain files where files should be."""

    names = QUICK

    NAMES = ("config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json")

    def damaged(self, rng: random.Random, base: Base) -> tuple[Files, str]:
        sharded = rng.random() < 0.3
        files = _sharded(base, 2)[0] if sharded else dict(base.files)
        return files, "sharded" if sharded else ""

    def read(self, base: Base, files: Files) -> dict[str, np.ndarray]:
        return {}

    def prepare(self, rng: random.Random, folder: Path) -> str:
        shards = sorted(path.name for path in folder.glob("model-*"))
        path = folder / rng.choice([*self.NAMES, *shards, "flax_model.msgpack", "pytorch_model.bin", *EXTRAS])
        what = rng.choice(["folder", "fifo", "dangling", "loop", "device", "empty", "unreadable", "beside", "link"])
        if what == "beside" or (what in ("unreadable", "link") and not path.is_file()):
            path.unlink(missing_ok=True)
            path.write_bytes(rng.randbytes(40))
        elif what == "unreadable":
            path.chmod(0)
        elif what == "link":
            path.rename(folder / "elsewhere")
            path.symlink_to("elsewhere")
        else:
            path.unlink(missing_ok=True)
            _place(path, what)
        return f"{what} {path.name!r}"


EXTRAS = ("\x1b[31m.bin", "line\nbreak.pt", "\udcff.ckpt", ".hidden", "tf_model.h5", "é" * 100)


def _place(path: Path, what: str) -> None:
    match what:
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "dangling":
            path.symlink_to("nowhere")
        case "loop":
            path.symlink_to(path.name)
        case "device":
            path.symlink_to("/dev/null")
        case "empty":
            path.write_bytes(b"")


class Flax(Checkpoints):
    """An old `flax_model.msgpack`."""

    names = ("albert+gpt2", "bart", "roberta+camembert")

    def damaged(self, rng: random.Random, base: Base) -> tuple[Files, str]:
        files = {name: content for name, content in base.files.items() if name != "model.safetensors"}
        tree = _flax_tree(base.tensors)
        if rng.random() < 0.5:
            data, what = change_bytes(rng, _packed(tree))
            return {**files, "flax_model.msgpack": data}, what
        what = _change_tree(rng, tree)
        return {**files, "flax_model.msgpack": _packed(tree)}, what

    def read(self, base: Base, files: Files) -> dict[str, np.ndarray]:
        try:
            tree = msgpack.unpackb(files["flax_model.msgpack"], raw=False, ext_hook=_unpacked)
        except Exception:  # noqa: BLE001 -- what cannot be read so is left out
            return {}
        return _flattened(tree, ())


def _unpacked(code: int, data: bytes) -> Any:
    shape, dtype, content = msgpack.unpackb(data, raw=False)
    return np.frombuffer(content, dtype).reshape(shape)


def _flattened(tree: Any, above: tuple[str, ...]) -> dict[str, np.ndarray]:
    if isinstance(tree, np.ndarray):
        last = {"kernel": "weight", "scale": "weight", "embedding": "weight"}.get(above[-1], above[-1])
        return {".".join((*above[:-1], last)): tree.T if above[-1] == "kernel" else tree}
    if not isinstance(tree, dict):
        return {}
    return {k: v for key, value in tree.items() for k, v in _flattened(value, (*above, str(key))).items()}


def _flax_tree(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Nested as Flax nests; every matrix becomes a `kernel`, which reads back as the `weight` that it was."""
    tree: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *above, last = name.split(".")
        node = tree
        for part in above:
            node = node.setdefault(part, {})
        matrix = last == "weight" and tensor.ndim == 2
        node["kernel" if matrix else last] = np.ascontiguousarray(tensor.T) if matrix else tensor
    return tree


def _packed(tree: Any) -> bytes:
    def pack(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: pack(child) for key, child in value.items()}
        if isinstance(value, np.ndarray | np.generic):
            parts = (value.shape, value.dtype.name, value.tobytes())
            return msgpack.ExtType(1, msgpack.packb(parts, use_bin_type=True))
        return value

    content: Any = msgpack.packb(pack(tree), use_bin_type=True)
    return content


def _change_tree(rng: random.Random, tree: dict[str, Any]) -> str:
    """Rename, drop, reshape or replace something below."""
    node: dict[Any, Any] = tree
    path: list[str] = []
    while True:
        key = rng.choice(list(node))
        path.append(str(key))
        if not isinstance(node[key], dict) or rng.random() < 0.1:
            break
        node = node[key]
    what, value = rng.choice(["drop", "rename", "anything", "array", "chunks", "ext"]), node[key]
    if what == "drop":
        del node[key]
    elif what == "rename":
        new = rng.choice([*HOSTILE_TEXTS[:-2], 3, True, "weight", "scale"])
        new = new.encode("utf-8", "replace").decode() if isinstance(new, str) else new
        node[new] = node.pop(key)
    elif what == "anything":
        node[key] = rng.choice([None, 1, 2**63, 1.5, "x", b"bytes", [1, 2], {}, {"a": 1}, {1: {2: 3}}])
    elif what == "array" and isinstance(value, np.ndarray):
        news = [value.astype("f8"), value.astype("f2"), value.astype("i4"), value.ravel(), value[..., None], value[:0]]
        node[key] = rng.choice([*news, value.reshape(-1)[0], np.zeros(()), value.T.copy(), value[:1].copy()])
    elif what == "chunks" and isinstance(value, np.ndarray):
        shape = {str(i): n for i, n in enumerate(value.shape)}
        chunks = {"0": value.ravel()[:3], "1": value.ravel()[3:]}
        wrong = rng.choice(
            [{}, {"shape": {"0": -1}}, {"shape": {"0": 2**62, "1": 2**62}}, {"chunks": {}}, {"chunks": 3}]
        )
        node[key] = {"__msgpack_chunked_array__": True, "shape": shape, "chunks": chunks, **wrong}
    else:
        content = rng.choice([b"", b"\xc1", msgpack.packb([]), msgpack.packb([[2**40], "float32", b""]),
                              msgpack.packb([[-1], "float32", b"1234"]), msgpack.packb([[1], "object", b"12345678"]),
                              msgpack.packb([[1], "V100000", b""]), msgpack.packb([[1] * 65, "float32", b"1234"]),
                              msgpack.packb([[0] * 3, "S0", b""]), msgpack.packb([["1"], 3, 3])])  # fmt: skip
        node[key] = msgpack.ExtType(rng.choice([0, 1, 2, 3, 127]), content)
    return f"{what} at {'/'.join(path)!r:.80}"


KINDS = {
    "config": Config,
    "generation_config": GenerationSettings,
    "header": Header,
    "body": Body,
    "shards": Shards,
    "special_files": Special,
    "flax": Flax,
}
