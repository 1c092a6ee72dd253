"""The command on a described job: advice in TOML's words, paths tried first, errors of the diagnosis end it."""

import itertools
import json
import re
from pathlib import Path

import huggingface_hub
import jax
import pytest

import encdec_eqx
from encdec_eqx import Decoder, Encoder, EncoderDecoder, StackConfig, cli
from encdec_eqx.doctor.finding import DiagnosedError, Finding, stop_on_errors
from encdec_eqx.hf.files.hub import shipped_folder
from encdec_eqx.text import TokenizerPair
from encdec_eqx.training import run_job
from encdec_eqx.training.job import DataSource, ModelSource, TrainJob, read_job
from encdec_eqx.training.toml import speaking_toml, spoken, translated

SOURCES = Path(encdec_eqx.__file__).parent
JOB = """
[model]
encoder_name_or_path = "letters"
decoder_name_or_path = "phonemes"
[data]
train_file = "train.jsonl"
[train]
output_dir = "run"
max_steps = 1
per_device_train_batch_size = 16
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    _records(tmp_path / "train.jsonl", ["cat", "dog"])
    (tmp_path / "job.toml").write_text(JOB)
    return tmp_path


def _records(path: Path, sources: list[str]) -> None:
    targets = itertools.cycle(("K AE", "D", "B IY T"))
    path.write_text("".join(json.dumps({"source": one, "target": next(targets)}) + "\n" for one in sources))


@pytest.fixture
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model would be too late."""

    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("a model is loaded before the job is looked at")

    monkeypatch.setattr(run_job, "load_model", loaded)


@pytest.mark.usefixtures("_no_model")
@pytest.mark.parametrize(
    ("was", "becomes", "told"),
    [
        ('"train.jsonl"', '"none.jsonl"', r"\[data\] train_file: there is no file 'none.jsonl' \(looked from"),
        ('"train.jsonl"', '"."', r"\[data\] train_file: \. is a folder; give a file of records"),
        ('"train.jsonl"', '"job.toml"', r"\[data\] train_file: job.toml does not say its format"),
        ('"letters"', '"./none"', r"\[model\] encoder_name_or_path: there is no folder './none'"),
        ('"letters"', '"job.toml"', r"\[model\] encoder_name_or_path: job.toml is a file; give the folder"),
        ('"run"', '"job.toml"', r"output_dir job.toml is a file; give a folder"),
        ('"run"', '"job.toml/run"', r"output_dir job.toml/run cannot be made, because .*job.toml is a file"),
        ('"run"', '"/proc/run"', r"output_dir /proc/run cannot be written to \("),
        ('"run"', '"."', r"output_dir \. holds job.toml, train.jsonl, which no run wrote"),
        ("max_steps = 1", 'metrics = ["bleu"]', r"nothing to evaluate on: give \[data\] validation_file"),
        ("max_steps = 1", 'optim = "adamx"', "optim is 'adamx'; did you mean 'adamw'"),
        ("[data]", 'source_tokenizer = "./none"\n[data]', r"\[model\] source_tokenizer: there is no folder './none'"),
        ('"train.jsonl"', '["train.jsonl", "none.csv"]', r"\[data\] train_file: there is no file 'none.csv'"),
        (
            '"train.jsonl"',
            '["train.jsonl", 3]',
            r"train_file must be a path in quotes or a list, each a path in quotes",
        ),
        ('"train.jsonl"', "[]", r"no data is named: give \[data\] train_file"),
        ("[data]", '[data]\nencoding = "klingon"', r"\[data\] encoding: encoding must be one that Python knows"),
        ("[data]", '[data]\ntarget_column = "text"', r"no 'text'; .*\n.*\nFix them: no record is left"),
    ],
)
def test_what_cannot_work_is_a_sentence_before_a_model_is_loaded(
    folder: Path, capsys, was: str, becomes: str, told: str
):
    (folder / "job.toml").write_text(JOB.replace(was, becomes))
    assert cli.main(["train", "job.toml"]) == 1
    error = capsys.readouterr().err
    assert re.search(told, error)
    assert "Errno" not in error
    assert not (folder / "run").exists()


@pytest.mark.usefixtures("_no_model")
def test_bad_records_among_good_ones_may_be_left_out(folder: Path, capsys):
    with (folder / "train.jsonl").open("a") as file:
        file.write("{\n")
    (folder / "job.toml").write_text(JOB)
    assert cli.main(["train", "job.toml"]) == 1
    assert 'or set [data] on_bad_records = "report" to go on without them.' in capsys.readouterr().err


@pytest.mark.usefixtures("_no_model")
def test_packages_that_a_run_needs_in_the_end_are_looked_for_first(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run_job.importlib.util, "find_spec", lambda name: None if name == "sacrebleu" else name)
    _records(folder / "dev.jsonl", ["cat", "dog"])
    text = JOB.replace("[train]", 'validation_file = "dev.jsonl"\n[train]\nmetrics = ["bleu"]')
    (folder / "job.toml").write_text(text)
    with pytest.raises(ImportError, match=r"this run needs sacrebleu, .* install -e .*\[eval\]"):
        run_job.run_job(read_job("job.toml"))


@pytest.fixture
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of one narrow layer on each side, with the vocabularies of the pieces that are named."""
    bert = {"model_type": "bert", "vocab_size": 31, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert |= {"intermediate_size": 16, "max_position_embeddings": 32, "pad_token_id": 0}
    gpt2 = {"model_type": "gpt2", "vocab_size": 42, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 32}
    gpt2 |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "add_cross_attention": True, "is_decoder": True}
    key = jax.random.key(0)
    encoder = Encoder.init(StackConfig.from_hf(bert), key=key)
    model = EncoderDecoder.from_pieces(encoder, Decoder.init(StackConfig.from_hf(gpt2), key=key))
    monkeypatch.setattr(run_job, "load_model", lambda source: model)


@pytest.mark.usefixtures("_tiny", "standard_promotion")
def test_errors_of_the_diagnosis_end_a_run_unless_it_is_told_to_go_on(folder: Path, capsys):
    _records(folder / "train.jsonl", [str(year) for year in range(2000, 2016)])
    assert cli.main(["train", "job.toml"]) == 1
    told = capsys.readouterr().err
    assert "the diagnosis finds 1 error, so the run was not begun" in told
    assert "[unknown_tokens]" in told
    assert "--ignore-diagnosed-errors ([data] ignore_diagnosed_errors = true)" in told
    assert not (folder / "run").exists()
    (folder / "job.toml").write_text(JOB.replace("[train]", "ignore_diagnosed_errors = true\n[train]"))
    assert cli.main(["train", "job.toml"]) == 0
    told = capsys.readouterr()
    assert "[unknown_tokens]" in told.err
    assert (folder / "run" / "model" / "source_tokenizer.json").exists()


@pytest.mark.usefixtures("_tiny")
def test_text_without_tokenizers_is_told_what_to_write(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run_job, "load_tokenizers", lambda source: None)
    with pytest.raises(ValueError, match=r"give \[model\] source_tokenizer and target_tokenizer") as caught:
        run_job.run_job(read_job("job.toml"))
    assert "encode_pairs" not in str(caught.value)


def test_only_errors_stop():
    kinds = [Finding(code=one, severity=one, message="m", fix="f") for one in ("info", "warning", "error")]
    stop_on_errors(kinds[:2])
    with pytest.raises(DiagnosedError, match="1 error") as caught:
        stop_on_errors(kinds)
    assert caught.value.findings == (kinds[2],)


def test_advice_is_translated_only_for_one_who_wrote_toml():
    advice = "Set it with model.with_special_tokens(eos_token_id=2)."
    assert spoken(advice) == advice
    with speaking_toml():
        assert spoken(advice) == "Set it with [model] eos_token_id = 2."
        finding = Finding(code="c", severity="error", message="m", fix=advice)
        assert "fix: Set it with [model] eos_token_id = 2." in str(finding)
    with pytest.raises(ValueError, match=r"^Set it with \[model\] eos_token_id = 2\.$"), speaking_toml():
        raise ValueError(advice)
    with pytest.raises(ValueError, match=r"^Set it with model\.with"), speaking_toml(speaking=False):
        raise ValueError(advice)


_ADVICE = re.compile(r"\"([^\"\n]*(?:with_special_tokens\(|TokenizerPair\.|encode_pairs\(|on_bad=)[^\n]*)\"")
_REACHED = ("doctor", "training/training_run.py", "training/data", "training/reporting", "text", "generation")


def test_no_advice_of_the_parts_that_a_job_reaches_is_left_in_python():
    """Every string of these files that recommends a call; f-strings as they are written."""
    left = []
    for part in _REACHED:
        root = SOURCES / part
        for path in [root] if root.is_file() else root.rglob("*.py"):
            for line in path.read_text().splitlines():
                if "raise" in line or "fix=" in line or line.strip().startswith(('"', "f'", 'f"')):
                    for said in _ADVICE.findall(line.replace('\\"', "'")):
                        turned = translated(re.sub(r"\{[^{}]*\}", "x", said))
                        if re.search(r"with_special_tokens\(|TokenizerPair\.\w+\(|encode_pairs\(", turned):
                            left.append((path.name, turned))
    assert not left


def test_sources_are_looked_at_for_the_doctor_too(folder: Path, capsys):
    assert cli.main(["doctor", "letters", "--data", "none.jsonl"]) == 1
    assert "train_file: there is no file 'none.jsonl'" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match=r"\[model\] model_name_or_path"):
        run_job.check_sources(ModelSource(model_name_or_path="./x"), DataSource())
    with pytest.raises(ValueError, match="no model is named"):
        run_job.check_job(TrainJob())


def test_data_may_be_several_files_in_several_forms(folder: Path):
    rows = [{"translation": {"en": "cat", "de": "K AE"}}, {"translation": {"en": "dog", "de": "D"}}]
    (folder / "a.json").write_text(json.dumps(rows))
    (folder / "b.csv").write_text("en,de\nbé,B\n", encoding="utf-16")
    text = JOB.replace('"train.jsonl"', '["a.json", "b.csv"]\nsource_column = "en"\ntarget_column = "de"')
    (folder / "job.toml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    job = read_job("job.toml")
    assert job.data.train_file == (Path("a.json"), Path("b.csv"))
    run_job.check_sources(job.model, job.data)
    assert job.data.train_file is not None
    pairs = run_job.pairs_of(job.data, job.data.train_file, "error")
    assert [(record.source, record.targets) for record in pairs] == [
        ("cat", ("K AE",)),
        ("dog", ("D",)),
        ("bé", ("B",)),
    ]


def test_advice_on_data_is_in_the_words_of_the_file(folder: Path):
    (folder / "a.jsonl").write_text(json.dumps({"translation": {"en": "cat", "de": "K AE"}}))
    (folder / "b.csv").write_text("en,de\na,b\n")
    (folder / "c.csv").write_text("source,target\na,b\n", encoding="utf-16-le")
    data = DataSource()
    for name, advice in (
        ("a.jsonl", '[data] source_column = "en", target_column = "de"'),
        ("b.csv", "Say which to read with [data] source_column and target_column"),
        ("c.csv", 'Say [data] encoding = "utf-16-le", or save it as UTF-8'),
    ):
        with pytest.raises(ValueError, match=re.escape(advice)), speaking_toml():
            run_job.pairs_of(data, Path(name), "error")


def test_a_pair_that_ships_with_the_package_has_its_tokenizers():
    tokenizers = run_job.load_tokenizers(ModelSource(model_name_or_path="pronounce"))
    assert tokenizers is not None
    assert tokenizers.source.to_str() != tokenizers.target.to_str()


def test_a_pair_of_the_hub_has_its_two_tokenizers(monkeypatch):
    saved = shipped_folder("pronounce")
    assert saved is not None
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **options: str(saved))
    tokenizers = run_job.load_tokenizers(ModelSource(model_name_or_path="some/pair"))
    assert tokenizers is not None
    assert tokenizers.source.to_str() == TokenizerPair.load(saved).source.to_str() != tokenizers.target.to_str()
