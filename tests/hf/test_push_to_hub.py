"""Uploading: what arrives at a Hub, what stays there, and what is said before the work begins when it cannot be done.

The Hub's address is read when its client is imported, so each test runs a process of its own.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hub_server
import pytest

from checkpoints import pair_config, pair_tensors, write

SCRIPT = """
import json, sys
from pathlib import Path
import encdec_eqx
import hashlib
import jax
import numpy as np
from importlib import resources
from encdec_eqx import Decoder, Encoder, EncoderDecoder, quantize
from encdec_eqx.text import TextToText

PRONOUNCE = str(resources.files("encdec_eqx").joinpath("demo", "assets", "pronounce"))

def digest(model):
    return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(model))).hexdigest()

model = EncoderDecoder.from_pretrained(sys.argv[1])
saved = []
for kind in (EncoderDecoder, Encoder, Decoder):
    def save(self, *args, _was=kind.save_pretrained, **options):
        saved.append(type(self).__name__)
        return _was(self, *args, **options)
    kind.save_pretrained = save
results = []
for piece, options in json.loads(sys.argv[2]):
    things = {**dict(zip(("encoder", "decoder"), model.pieces())), "model": model, "int8": quantize(model, "int8")}
    if piece == "load":
        again = EncoderDecoder.from_pretrained(options["path"])
        results.append([str(again.load_report), digest(again), len(saved)])
        continue
    thing = TextToText.from_pretrained(PRONOUNCE) if piece == "text" else things[piece]
    try:
        results.append(["done", thing.push_to_hub(**options)])
    except Exception as error:
        results.append([type(error).__name__, str(error)])
    results[-1].append(len(saved))
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("pushed") / "model", pair_config(), pair_tensors())


@pytest.fixture
def hub() -> Iterator[hub_server.Hub]:
    with hub_server.running() as running:
        yield running


def _pushed(folder: Path, url: str, *calls: tuple[str, dict[str, Any]], cache: Path, **environment: str) -> list[Any]:
    """What became of each call: its kind, what it returned or said, and how many saves there had been."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    own |= {"HF_ENDPOINT": url, "HF_HOME": str(cache), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", SCRIPT, str(folder), json.dumps(calls)]
    out = subprocess.run(command, capture_output=True, text=True, check=False, env={**own, **environment})
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout.splitlines()[-1])


def test_what_is_pushed_arrives_and_what_somebody_wrote_stays(checkpoint: Path, hub: hub_server.Hub, tmp_path: Path):
    hub.files["me/edited", "main"] = {"README.md": b"# mine\n", "notes.txt": b"x", "model.int8.safetensors": b"old"}
    results = _pushed(
        checkpoint,
        hub.url,
        ("model", {"repo_id": "me/pair", "private": True, "commit_message": "First", "max_shard_size": "2KB"}),
        ("model", {"repo_id": "me/pair"}),
        ("model", {"repo_id": "me/edited", "revision": "trial"}),
        ("encoder", {"repo_id": "enc", "create_pr": True, "card_data": None}),
        ("decoder", {"repo_id": "dec"}),
        ("text", {"repo_id": "text"}),
        cache=tmp_path,
        HF_TOKEN=hub_server.TOKEN,
    )
    assert [kind for kind, *_ in results] == ["done"] * 6, results
    assert [said for _, said, _ in results][:2] == [f"{hub.url}/me/pair/commit/{'0' * 40}"] * 2
    assert results[3][1] == f"{hub.url}/me/enc/discussions/1"
    assert hub.commits[0] == ("First", "main", False)
    assert hub.commits[2:4] == [("Upload model", "trial", False), ("Upload model", "main", True)]
    assert hub.private == {"me/pair": True, "me/enc": False, "me/dec": False, "me/text": False}
    # the second push took the shards of the first away
    whole = {".gitattributes", "README.md", "config.json", "generation_config.json", "model.safetensors"}
    assert set(hub.files["me/pair", "main"]) == whole
    assert hub.files["me/pair", "main"]["README.md"].startswith(b"---\nlicense: unknown")
    edited = hub.files["me/edited", "trial"]
    assert set(edited) == {"notes.txt", *whole} - {".gitattributes"}
    assert edited["README.md"] == b"# mine\n"
    assert {"source_tokenizer.json", "target_tokenizer.json", *whole} == set(hub.files["me/text", "main"])
    assert b"TextToText" in hub.files["me/text", "main"]["README.md"]
    assert set(hub.files["me/dec", "main"]) == whole - {"generation_config.json"}


def test_what_is_pushed_comes_back(checkpoint: Path, hub: hub_server.Hub, tmp_path: Path):
    results = _pushed(
        checkpoint,
        hub.url,
        ("model", {"repo_id": "me/shards", "token": hub_server.TOKEN, "max_shard_size": "2KB"}),
        ("int8", {"repo_id": "me/small", "token": hub_server.TOKEN}),
        ("load", {"path": str(checkpoint)}),
        ("load", {"path": "me/shards"}),
        ("load", {"path": "me/small"}),
        cache=tmp_path,
    )
    (_, local, _), (said, shards, _), (int8, _, _) = results[2:]
    assert shards == local
    assert said.startswith("a bert to gpt2 pair from me/shards: ")
    assert int8.startswith("a bert to gpt2 pair, int8 from me/small: ")


def test_what_cannot_be_done_is_said_in_one_sentence_before_anything_is_saved(
    checkpoint: Path, hub: hub_server.Hub, tmp_path: Path
):
    bad: list[tuple[str, dict[str, Any]]] = [
        ("model", {"repo_id": "me/pair"}),
        ("model", {"repo_id": "me/pair", "token": "hf_bad"}),
        ("model", {"repo_id": "others/pair", "token": hub_server.TOKEN}),
        ("encoder", {"repo_id": "a/b/c"}),
        ("decoder", {"repo_id": "me/pair", "max_shard_size": "5 bottles"}),
    ]
    results = _pushed(checkpoint, hub.url, *bad, cache=tmp_path)
    expected = [
        ("PermissionError", "there is no access token. To give one, pass token="),
        ("PermissionError", "refuses the access token (401"),
        ("PermissionError", "refuses the access token (403"),
        ("ValueError", "repo_id is 'a/b/c'; expected a name such as 'me/my-model'"),
        ("ValueError", "max_shard_size is '5 bottles'"),
    ]
    for (kind, said, saves), (error, words) in zip(results, expected, strict=True):
        assert (kind, saves) == (error, 0), said
        assert words in said
        assert "\n" not in said
    assert not hub.files
    assert not hub.commits


@pytest.mark.parametrize("offline", [False, True])
def test_without_a_network(checkpoint: Path, tmp_path: Path, offline: bool):
    with hub_server.running() as hub:
        url = hub.url  # where nobody answers any more
    environment = {"HF_TOKEN": hub_server.TOKEN, **({"HF_HUB_OFFLINE": "1"} if offline else {})}
    [(kind, said, saves)] = _pushed(checkpoint, url, ("model", {"repo_id": "me/x"}), cache=tmp_path, **environment)
    assert (kind, saves) == ("ConnectionError", 0)
    words = "the environment variable HF_HUB_OFFLINE; unset it" if offline else f"{url}: is the Hub reachable?"
    assert words in said
    assert said.startswith("nothing was saved or uploaded to me/x")
