"""A training run described in a file: which model, which data, which settings; read from TOML, checked by name."""

import dataclasses
import difflib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from .._quoting import quoted
from ..params.sharding import MeshConfig
from .toml import in_the_callers_words, in_toml, know_names, read_toml, read_value, speaking_toml
from .train_config import ALTERNATIVES, TrainConfig

_PIECES = ("encoder_name_or_path", "decoder_name_or_path")
_GIVE_WAY: dict[str, dict[str, tuple[str, ...]]] = {
    "model": {"model_name_or_path": _PIECES, **dict.fromkeys(_PIECES, ("model_name_or_path",))},
    "train": {one: (other,) for pair in ALTERNATIVES for one, other in (pair, pair[::-1])},
}
"""By table and name: what says the same thing in another way, and gives way where a later source gives the name."""

_OLD_NAMES = {
    "text_column": "[data] source_column",
    "summary_column": "[data] target_column",
    "adafactor": 'optim = "adafactor"',
    "label_smoothing": "label_smoothing_factor",
    "num_beams": "generation_num_beams",
    "val_max_target_length": "generation_max_new_tokens",
    "gradient_checkpointing": "remat",
    "fp16": "bf16",
    "evaluation_strategy": "eval_steps",
    "eval_strategy": "eval_steps",
}
"""Names of transformers' scripts and of its arguments, and what they are called here."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where the model and its tokenizers come from: one saved pair, or two pieces to join.

    Attributes:
        model_name_or_path: Folder or Hub id of a saved pair.
        encoder_name_or_path: Folder or Hub id of an encoder, instead of a saved pair.
        decoder_name_or_path: Folder or Hub id of a decoder, instead of a saved pair.
        source_tokenizer: Folder, `tokenizer.json` or Hub id; default: what lies beside the pair or the encoder.
        target_tokenizer: The same for the target; default: what lies beside the pair or the decoder.
        pad_token_id: Instead of the one that the files name; so for the next three.
        eos_token_id: Ends a target.
        decoder_start_token_id: The decoder's first input.
        forced_bos_token_id: What generation puts first, and labels begin with: the language's code of an mBART-50.
        src_lang: Language of the sources, where the tokenizer knows several: "eng_Latn" (NLLB), "en" (M2M100), "en_XX"
            (mBART). Default: what its files say.
        tgt_lang: Language of the targets, which labels and outputs then begin with.
        model_seed: Draws what is new in a model made of two pieces.
    """

    model_name_or_path: str | None = None
    encoder_name_or_path: str | None = None
    decoder_name_or_path: str | None = None
    source_tokenizer: str | None = None
    target_tokenizer: str | None = None
    pad_token_id: int | None = None
    eos_token_id: int | None = None
    decoder_start_token_id: int | None = None
    forced_bos_token_id: int | None = None
    src_lang: str | None = None
    tgt_lang: str | None = None
    model_seed: int = 0

    @in_the_callers_words
    def __post_init__(self):
        """Checks that nothing is given twice; what is missing is found when the model is made."""
        pieces = [self.encoder_name_or_path, self.decoder_name_or_path]
        if self.model_name_or_path is not None and any(pieces):
            raise ValueError("model_name_or_path names a whole pair: leave encoder_ and decoder_name_or_path out.")
        for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id", "forced_bos_token_id"):
            token = getattr(self, name)
            if token is not None and not 0 <= token < 2**31:
                raise ValueError(f"{name} must be at least 0 and below 2**31, got {quoted(token)}.")
        if not 0 <= self.model_seed < 2**32:
            raise ValueError(f"model_seed must be at least 0 and below 2**32, got {quoted(self.model_seed)}.")

    def check(self) -> None:
        """Raises ValueError unless a pair or two pieces are named."""
        if self.model_name_or_path is None and None in (self.encoder_name_or_path, self.decoder_name_or_path):
            raise ValueError(
                "no model is named: give model_name_or_path (a saved pair), or both encoder_name_or_path and "
                "decoder_name_or_path."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSource:
    """Where the pairs come from.

    Attributes:
        train_file: JSONL, JSON, CSV, TSV or Parquet; one file or several.
        validation_file: The same, for evaluations; default: there are none.
        source_column: Name of the source in each record; inside another mapping with a dot: "translation.en".
        target_column: Name of the target in each record.
        encoding: Of text files, such as "utf-16" or "cp1252"; default: what a mark (BOM) says, else UTF-8.
        streaming: Leave `train_file` on the disk and read it while training, for data that does not fit in memory: JSON
            Lines or Parquet; names with `*`, `?` or `[...]` stand for all files that match.
        cache_dir: Folder for the indices of what is streamed; default: `.encdec_eqx_streams` beside the first file.
        on_bad_records: "error" ends the run before it begins, "report" leaves bad records out and says how many.
        ignore_diagnosed_errors: Go on although the diagnosis finds errors (not mere warnings) in the data or the model.
    """

    train_file: Path | tuple[Path, ...] | None = None
    validation_file: Path | tuple[Path, ...] | None = None
    source_column: str = "source"
    target_column: str = "target"
    encoding: str | None = None
    streaming: bool = False
    cache_dir: Path | None = None
    on_bad_records: Literal["error", "report"] = "error"
    ignore_diagnosed_errors: bool = False

    def check(self) -> None:
        """Raises ValueError unless there is something to train on."""
        if not self.train_file:
            raise ValueError("no data is named: give train_file, a JSONL, JSON, CSV, TSV or Parquet file of pairs.")
        if self.streaming and self.encoding is not None:
            raise ValueError(
                f"encoding={self.encoding!r} cannot be read by streaming = true, which reads UTF-8: convert the files, "
                "and leave it out."
            )
        if self.cache_dir is not None and not self.streaming:
            raise ValueError("cache_dir would do nothing: it is for streaming = true.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainJob:
    """What `encdec-eqx train` runs.

    Attributes:
        model: Where the model comes from.
        data: Where the pairs come from.
        train: The settings of the run.
        mesh: The devices that train together; default: one.
    """

    model: ModelSource = ModelSource()
    data: DataSource = DataSource()
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)

    def check(self) -> None:
        """Raises ValueError where something that the run needs is not named."""
        self.model.check()
        self.data.check()


know_names(
    {
        table: [field.name for field in dataclasses.fields(kind)]
        for table, kind in (("model", ModelSource), ("data", DataSource), ("train", TrainConfig))
    }
)


def giving_way(job: TrainJob, given: Collection[str]) -> TrainJob:
    """The job without what would contradict options of these names, which win over it; `max_steps` over epochs, say."""
    changed: dict[str, Any] = {}
    for table, alternatives in _GIVE_WAY.items():
        section = getattr(job, table)
        defaults = {field.name: field.default for field in dataclasses.fields(section)}
        names = {other for name in given for other in alternatives.get(name, ()) if other not in given}
        changed[table] = dataclasses.replace(section, **{name: defaults[name] for name in names})
    return dataclasses.replace(job, **changed)


def read_job(path: str | Path) -> TrainJob:
    """The job that a TOML file describes, in the tables `[model]`, `[data]`, `[train]` and `[mesh]`.

    Args:
        path: Of the TOML file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no TOML, or holds an unknown name, or a value out of its range.
        TypeError: A value is of the wrong type.
    """
    path = Path(path)
    content = read_toml(path)
    sections = {field.name: field.type for field in dataclasses.fields(TrainJob)}
    _check_names(content, sections, f"{path}", "tables")
    with speaking_toml():
        return TrainJob(**{name: _section(sections[name], content[name], f"{path}: [{name}]") for name in content})


def _section(kind: Any, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise TypeError(f"{where} must be a table, with its names below it; got {in_toml(values)}.")
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    _check_names(values, fields, where, "names")
    try:
        return kind(**{name: read_value(values[name], fields[name], name, where) for name in values})
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: {error}" if where not in str(error) else str(error)) from None


def _check_names(given: Mapping[str, Any], known: Mapping[str, Any], where: str, what: str) -> None:
    for name in given:
        if name not in known:
            old = _OLD_NAMES.get(name)
            near = [old] if old else difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"{where} holds {quoted(name)}, which means nothing here.{hint} Known {what}: {', '.join(known)}."
            )
