"""Generates with the program in this folder. Needs jax alone; for texts, `tokenizers` too. Try `python run.py --help`.

From Python: `Exported(folder).generate(input_ids)`. `manifest.json` says what the program takes and returns.
"""

import argparse
import importlib.util
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from jax import export

_DTYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1"}
_DTYPES |= {"U64": "u8", "U32": "u4", "U16": "u2", "U8": "u1", "BOOL": "?"}


class Exported:
    """The program of a folder with its weights, compiled when it is first called, once."""

    def __init__(self, folder: Any = Path(__file__).parent):
        """Read the folder.

        Args:
            folder: what `export_generate` wrote.

        Raises:
            FileNotFoundError: it is not such a folder.
            ValueError: the program is not for jax's default platform here.
        """
        self.folder = Path(folder)
        self.manifest: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        self.sizes: dict[str, int] = self.manifest["sizes"]
        program = _deserialize(self.folder, (self.folder / self.manifest["program"]).read_bytes())
        here = jax.default_backend()
        if "cuda" in program.platforms and here == "gpu":
            here = "cuda"
        if here not in program.platforms:
            lowered = ", ".join(program.platforms)
            raise ValueError(f"this program is for {lowered}, and jax runs on {here} here: export it for {here} too.")
        self._call = jax.jit(program.call)
        self._weights = {
            name: jax.device_put(array) for name, array in _tensors(self.folder / self.manifest["weights"])
        }

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn."""
        return any(given["name"] == "keys" for given in self.manifest["inputs"])

    def generate(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        *,
        decoder_input_ids: Any = None,
        decoder_attention_mask: Any = None,
        max_new_tokens: int | None = None,
        min_new_tokens: int | None = None,
        key: Any = None,
    ) -> dict[str, np.ndarray]:
        """Generate for any number of sources, as many at a time as the program takes.

        Args:
            input_ids: (batch, source) ids, or a list of lists of different lengths.
            attention_mask: (batch, source), 1 for real tokens; default all.
            decoder_input_ids: (batch, target) prompts, padded on the left, or a list of lists. If no row begins with
                the start token it is put in front. Without prompts every row starts with that token.
            decoder_attention_mask: (batch, target), 0 at their padding; default all real.
            max_new_tokens: most tokens to generate, at most the manifest's, which is the default.
            min_new_tokens: fewest; default the manifest's.
            key: of sampling: a PRNG key of jax's default kind, such as `jax.random.key(0)`, or one per source.

        Returns:
            What `generate` of the model returns for the same arguments, by the names of its result: row `r * n + s` is
            output s of source r.

        Raises:
            TypeError: something is no array of integers, or has another shape.
            ValueError: a size or a limit is beyond the program's, or an id beyond a vocabulary; or a key is missing,
                or would do nothing.
        """
        given = self._rows(input_ids, attention_mask, decoder_input_ids, decoder_attention_mask)
        given |= self._limits(max_new_tokens, min_new_tokens)
        rows, size, width = len(given["input_ids"]), self.sizes["batch"], given["decoder_input_ids"].shape[1]
        keys = self._keys(key, rows)
        if keys is not None:
            given["keys"] = keys
        if any(one["name"] == "source_width" for one in self.manifest["inputs"]):
            given["source_width"] = np.asarray(given["input_ids"].shape[1], np.int32)
        parts: list[dict[str, np.ndarray]] = []
        for start in range(0, rows, size):
            filled = min(size, rows - start)
            chunk = {name: self._fitted(name, value, slice(start, start + filled)) for name, value in given.items()}
            each = self.manifest["outputs_per_source"]
            found = self._call(self._weights, chunk)
            parts.append({name: np.asarray(value)[: filled * each] for name, value in found.items()})
            if (indices := parts[-1].get("beam_indices")) is not None:  # they count the beams of all rows
                first = start * self.manifest["options"]["num_beams"]
                parts[-1]["beam_indices"] = np.where(indices < 0, indices, indices + first)
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        longest, prompt = int(found["lengths"].max()), self.sizes["prompt"]
        for name in found.keys() & {"log_probs", "processed_log_probs", "beam_indices"}:
            found[name] = found[name][:, :longest]
        found["sequences"] = found["sequences"][:, prompt - width : prompt + longest]
        return found

    def _rows(self, input_ids: Any, mask: Any, prompt: Any, prompt_mask: Any) -> dict[str, np.ndarray]:
        """Sources and prompts, checked; nothing padded up to the program's sizes yet."""
        vocab, start = self.manifest["vocab_sizes"], self.manifest["special_tokens"]["decoder_start_token_id"]
        ids, real = _table("input_ids", input_ids, mask, vocab["source"], self.manifest["source_pad_id"])
        if ids.shape[1] > self.sizes["source"]:
            raise ValueError(f"input_ids have {ids.shape[1]} columns; the program takes {self.sizes['source']}.")
        if prompt is None:
            asked, seen = np.full((len(ids), 1), start, np.int32), np.ones((len(ids), 1), np.int32)
        else:
            pad = self.manifest["special_tokens"]["pad_token_id"] or 0
            asked, seen = _table("decoder_input_ids", prompt, prompt_mask, vocab["target"], pad, left=True)
            asked, seen = _with_start(asked, seen, start)
        if len(asked) != len(ids):
            raise ValueError(f"decoder_input_ids have {len(asked)} rows, input_ids {len(ids)}.")
        if asked.shape[1] > self.sizes["prompt"]:
            raise ValueError(
                f"decoder_input_ids have {asked.shape[1]} columns, the start token included; the program takes "
                f"{self.sizes['prompt']}. Export one with prompt={asked.shape[1]}."
            )
        return {
            "input_ids": ids,
            "attention_mask": real,
            "decoder_input_ids": asked,
            "decoder_attention_mask": seen,
        }

    def _limits(self, most: int | None, least: int | None) -> dict[str, np.ndarray]:
        limit, defaults = self.sizes["max_new_tokens"], self.manifest["defaults"]
        most = limit if most is None else most
        if not 1 <= most <= limit:
            raise ValueError(f"max_new_tokens={most}; the program takes 1 to {limit}.")
        given = {"max_new_tokens": np.asarray(most, np.int32)}
        if "min_new_tokens" not in defaults:
            if least:
                raise ValueError("min_new_tokens would do nothing: no end-of-sequence id is known.")
            return given
        if least is not None and not 0 <= least <= most:
            raise ValueError(f"min_new_tokens={least}; expected 0 to {most}, the most that are generated.")
        return {**given, "min_new_tokens": np.asarray(defaults["min_new_tokens"] if least is None else least, np.int32)}

    def _keys(self, key: Any, rows: int) -> np.ndarray | None:
        """The words of one key per source: the caller's own, or `fold_in(key, r)`, as `generate` draws."""
        if self.samples != (key is not None):
            why = "tokens are drawn: pass key=jax.random.key(seed)."
            raise ValueError(why if self.samples else "key would do nothing, as no token is drawn: leave it out.")
        if key is None:
            return None
        words = np.asarray(jax.random.key_data(key))
        if words.shape == (2,):
            one = jax.random.wrap_key_data(jax.device_put(words), impl="threefry2x32")
            fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
            words = np.asarray(jax.random.key_data(fold(one, np.arange(rows, dtype=np.int32))))
        if words.shape != (rows, 2):
            raise ValueError(f"key must be one key or {rows}, of the kind threefry2x32; its words are {words.shape}.")
        return words

    def _fitted(self, name: str, value: np.ndarray, rows: slice) -> np.ndarray:
        """Rows of an input, padded up to the program's size; a row without a mask counts as not there."""
        if not value.ndim:
            return value
        part = value[rows]
        if name == "keys":
            return np.pad(part, ((0, self.sizes["batch"] - len(part)), (0, 0)))
        left = name.startswith("decoder_")
        more = self.sizes["prompt" if left else "source"] - part.shape[1]
        fill = self.manifest["source_pad_id"] if name == "input_ids" else 0
        widened = np.pad(part, ((0, 0), (more, 0) if left else (0, more)), constant_values=fill)
        return np.pad(widened, ((0, self.sizes["batch"] - len(part)), (0, 0)))

    def __call__(self, texts: Sequence[str], **options: Any) -> list[list[str]]:
        """Of each text its outputs; the options are those of `generate`.

        Raises:
            FileNotFoundError: no tokenizers were exported.
            ImportError: `tokenizers` is not installed.
        """
        source, target = self.tokenizers()
        ids = [self._encoded(source, text) for text in texts]
        rows = self.generate(ids, **options)["sequences"]
        texts = [target.decode(self._content(target, row), skip_special_tokens=True) for row in rows]
        each = self.manifest["outputs_per_source"]
        return [texts[at : at + each] for at in range(0, len(texts), each)]

    def tokenizers(self) -> tuple[Any, Any]:
        """The tokenizer of sources and that of targets."""
        both = self.folder / "tokenizer.json"
        paths = (
            [both, both] if both.exists() else [self.folder / f"{side}_tokenizer.json" for side in ("source", "target")]
        )
        if not all(path.exists() for path in paths):
            raise FileNotFoundError(f"{self.folder} has no tokenizers: pass token ids, or export with tokenizers=.")
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise ImportError(
                "texts need the package tokenizers: `pip install tokenizers`, or pass token ids."
            ) from None
        first, second = (Tokenizer.from_file(str(path)) for path in paths)
        return first, second

    def _encoded(self, tokenizer: Any, text: str) -> list[int]:
        """A text's ids, cut in front of the closing special tokens where it is too long."""
        encoding = tokenizer.encode(text, add_special_tokens=False)
        room = self.sizes["source"] - tokenizer.num_special_tokens_to_add(False)
        if len(encoding.ids) > room:
            encoding.truncate(room)
        return tokenizer.post_process(encoding).ids

    def _content(self, tokenizer: Any, row: np.ndarray) -> list[int]:
        """A row without start token and padding, and all from the first end on."""
        special = self.manifest["special_tokens"]
        ids = row.tolist()
        while ids and ids[0] == special["pad_token_id"] != special["decoder_start_token_id"]:
            ids = ids[1:]
        ids = ids[1:] if ids and ids[0] == special["decoder_start_token_id"] else ids
        ends = [at for at, token in enumerate(ids) if token in special["eos_token_id"]]
        ids = ids[: ends[0]] if ends else ids
        return [token for token in ids if token != special["pad_token_id"]]


def _deserialize(folder: Path, content: bytes) -> Any:
    if importlib.util.find_spec("flatbuffers") is None:
        # jax reads its format with it, and does not depend on it: a copy lies beside this file
        sys.path.append(str(folder / "vendored"))
    return export.deserialize(bytearray(content))


def _tensors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a safetensors file, by name."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        header.pop("__metadata__", None)
        for name, entry in header.items():  # in the order in which they lie in the file
            dtype = np.dtype(ml_dtypes.bfloat16 if entry["dtype"] == "BF16" else _DTYPES[entry["dtype"]])
            content = np.fromfile(file, dtype, math.prod(entry["shape"]))
            yield name, content.reshape(entry["shape"])


def _table(name: str, rows: Any, mask: Any, vocab: int, pad: int, left: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Ids and their mask as int32; rows of different lengths are padded."""
    if mask is None and isinstance(rows, list | tuple) and len({len(row) for row in rows}) > 1:
        width = max(len(row) for row in rows)
        mask = [
            [0] * (width - len(row)) * left + [1] * len(row) + [0] * (width - len(row)) * (not left) for row in rows
        ]
        rows = [[pad] * (width - len(row)) * left + list(row) + [pad] * (width - len(row)) * (not left) for row in rows]
    ids = np.asarray(rows)
    if ids.ndim != 2 or not ids.size or ids.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers (batch, length), got {ids.dtype} of shape {ids.shape}.")
    real = np.ones(ids.shape, np.int32) if mask is None else np.asarray(mask).astype(np.int32)
    if real.shape != ids.shape:
        raise TypeError(f"the mask of {name} must have its shape, {ids.shape}, got {real.shape}.")
    if not real.any(axis=1).all():
        raise ValueError(f"row {int(np.argmin(real.any(axis=1)))} of {name} has no real token. Leave the row out.")
    if left and not real[:, -1].all():
        raise ValueError(f"{name} must be padded on the left: generated tokens follow the last column.")
    if ids.min() < 0 or ids.max() >= vocab:
        raise ValueError(f"{name} hold ids from {ids.min()} to {ids.max()}; expected 0 to {vocab - 1}.")
    return ids.astype(np.int32), real


def _with_start(ids: np.ndarray, real: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray]:
    """The prompts, with the start token before each row's first real token if no row begins with it."""
    first = np.argmax(real, axis=1)[:, None]
    if (np.take_along_axis(ids, first, axis=1) == start).any():
        return ids, real
    column = np.arange(ids.shape[1] + 1)[None]
    before, behind = np.pad(ids, ((0, 0), (0, 1)), mode="edge"), np.pad(ids, ((0, 0), (1, 0)), mode="edge")
    wider = np.where(column < first, before, np.where(column == first, start, behind)).astype(np.int32)
    return wider, (column >= first).astype(np.int32)


def _ids(words: str) -> list[int]:
    try:
        return [int(word) for word in words.split()]
    except ValueError:
        raise ValueError(f"{words!r} must be token ids, such as '5 6 7'.") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; prints one line for each output."""
    parser = argparse.ArgumentParser(description="Generate with the exported program in this folder.")
    parser.add_argument("inputs", nargs="*", help="texts, or token ids with --ids; without any, lines of stdin")
    parser.add_argument("--ids", action="store_true", help="inputs are token ids, such as '5 6 7'; so are outputs")
    parser.add_argument("--prompt", metavar="IDS", help="ids that every output begins with")
    parser.add_argument("--max-new-tokens", type=int)
    parser.add_argument("--min-new-tokens", type=int)
    parser.add_argument("--seed", type=int, help="of sampling")
    parser.add_argument("--json", action="store_true", help="one JSON object for each output, with ids and score")
    asked = parser.parse_args(arguments)
    try:
        inputs = asked.inputs or [line.decode().rstrip("\r\n") for line in sys.stdin.buffer]
        for line in _lines(Exported(), inputs, asked):
            print(line)  # noqa: T201
    except (ImportError, OSError, TypeError, ValueError) as error:
        print(f"run.py: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _lines(exported: Exported, inputs: list[str], asked: argparse.Namespace) -> Iterator[str]:
    options = {"max_new_tokens": asked.max_new_tokens, "min_new_tokens": asked.min_new_tokens}
    if exported.samples != (asked.seed is not None):
        raise ValueError(
            "tokens are drawn: pass --seed." if exported.samples else "--seed would do nothing: leave it out."
        )
    options["key"] = jax.random.key(asked.seed) if exported.samples else None
    source, target = (None, None) if asked.ids else exported.tokenizers()
    ids = [_ids(line) if asked.ids else exported._encoded(source, line) for line in inputs]
    if not ids:
        raise ValueError("there is nothing to generate from.")
    if asked.prompt is not None:
        options["decoder_input_ids"] = [_ids(asked.prompt)] * len(ids)
    found = exported.generate(ids, **options)
    width = found["sequences"].shape[1] - found["log_probs"].shape[1]
    each = exported.manifest["outputs_per_source"]
    for row, (sequence, length, score) in enumerate(
        zip(found["sequences"], found["lengths"], found["scores"], strict=True)
    ):
        generated = sequence[width : width + length].tolist()
        said = (
            {}
            if target is None
            else {"text": target.decode(exported._content(target, sequence), skip_special_tokens=True)}
        )
        if asked.json:
            yield json.dumps(
                {"input": row // each, **said, "ids": generated, "score": float(score)}, ensure_ascii=False
            )
        else:
            yield said.get("text", " ".join(map(str, generated)))


if __name__ == "__main__":
    sys.exit(main())
