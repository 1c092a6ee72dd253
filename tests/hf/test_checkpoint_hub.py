"""Hub ids: what is asked of the Hub client, and what is said when it cannot help. No test uses the network."""

import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from checkpoints import BERT_CONFIG, bert_tensors, write
from encdec_eqx import Decoder, Encoder, EncoderDecoder
from encdec_eqx.hf.files import MissingFileError
from encdec_eqx.text import TokenizerPair


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A Hub whose one repository is a folder here; the calls made to it."""
    folder = write(tmp_path / "snapshot", BERT_CONFIG, bert_tensors())
    calls: list[dict[str, Any]] = []

    def snapshot_download(repo_id: str, **options: Any) -> str:
        calls.append({"repo_id": repo_id, **options})
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


@pytest.mark.parametrize("name", ["bert-base-uncased", "google-bert/bert-base-uncased"])
def test_an_id_is_fetched_with_all_options(tmp_path: Path, hub: list, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.chdir(tmp_path)
    encoder = Encoder.from_pretrained(
        name, revision="v1", cache_dir=tmp_path / "cache", local_files_only=True, token="secret"
    )
    assert encoder.load_report.source == name
    (call,) = hub
    assert call.pop("allow_patterns") == [
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "model.safetensors",
        "model-*-of-*.safetensors",
    ]
    assert call == {
        "repo_id": name,
        "revision": "v1",
        "cache_dir": tmp_path / "cache",
        "local_files_only": True,
        "token": "secret",
    }


def test_the_old_flax_file_is_asked_for_last(tmp_path: Path, hub: list):
    (tmp_path / "snapshot" / "model.safetensors").unlink()
    with pytest.raises(MissingFileError, match="no weights in"):
        Encoder.from_pretrained("someone/old")
    assert "flax_model.msgpack" not in hub[0]["allow_patterns"]
    assert "flax_model.msgpack" in hub[1]["allow_patterns"]


def test_a_folder_of_that_name_wins(tmp_path: Path, hub: list, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "google-bert" / "bert-base-uncased", BERT_CONFIG, bert_tensors())
    monkeypatch.chdir(tmp_path)
    Encoder.from_pretrained("google-bert/bert-base-uncased")
    assert hub == []


@pytest.mark.parametrize("path", ["./absent", "/absent/x", "a/b/c", "a\\b", "", "two words", "~/absent", "..", "a//b"])
def test_what_looks_local_is_not_asked_of_the_hub(tmp_path: Path, hub: list, path: str, monkeypatch: Any):
    monkeypatch.chdir(tmp_path)
    if path in ("", ".."):
        with pytest.raises(MissingFileError):
            Encoder.from_pretrained(path)
    else:
        with pytest.raises(MissingFileError, match="there is no folder"):
            Encoder.from_pretrained(path)
    assert hub == []


def test_pieces_that_ship_with_the_package_have_names(hub: list):
    encoder = Encoder.from_pretrained("letters")
    decoder = Decoder.from_pretrained("phonemes")
    assert (encoder.config.model_type, decoder.config.model_type) == ("bert", "gpt2")
    assert encoder.load_report.source == "letters"
    model = EncoderDecoder.from_encoder_decoder_pretrained("letters", "phonemes")
    tokenizers = TokenizerPair.from_pretrained("letters", "phonemes").for_model(model)
    assert tokenizers.encode_source(["Cab"])[0].tolist() == [6, 4, 5, 1]
    assert tokenizers.decode_target([[1, 9, 4, 2]]) == ["B AE"]
    assert not hub
    Encoder.from_pretrained("own/letters")
    assert [call["repo_id"] for call in hub] == ["own/letters"]
    with pytest.raises(MissingFileError, match="there is no folder 'letters'"):
        Encoder.from_pretrained(Path("letters"))


def test_a_local_folder_of_such_a_name_wins_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "letters").mkdir()
    with pytest.raises(MissingFileError, match=r"no config\.json in letters"):
        Encoder.from_pretrained("letters")
    with pytest.raises(FileNotFoundError, match=r"letters has no tokenizer\.json"):
        TokenizerPair.from_pretrained("letters", "phonemes")
    assert "'letters' is read from" in caplog.text
    assert "not from the package, which ships a piece of that name" in caplog.text


def test_without_the_extra_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r'no folder \'bert-base-uncased\'.*pip install -e "\S*\[hub\]"'):
        Encoder.from_pretrained("bert-base-uncased")


@pytest.mark.parametrize(
    ("error", "offline", "message"),
    [
        (LocalEntryNotFoundError("not in the cache"), True, "the cache holds no such checkpoint"),
        (ConnectionError("no route to host"), False, "is the id right, and the Hub reachable"),
    ],
)
def test_an_unreachable_hub_is_one_short_error(
    monkeypatch: pytest.MonkeyPatch, error: Exception, offline: bool, message: str
):
    def fail(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(MissingFileError, match=message) as raised:
        Encoder.from_pretrained("someone/model", local_files_only=offline)
    assert str(error) in str(raised.value)
    assert "\n" not in str(raised.value)
