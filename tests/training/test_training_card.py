"""What a finished run says on its model's card: data, settings, results, versions, and the pieces it began with."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from encdec_eqx import EncoderDecoder, LoadReport
from encdec_eqx.training import TrainConfig, fit
from models import decoder_config, encoder_config, tiny_pair

RECORDS = [{"input_ids": [3 + at, 4, 5], "labels": [5, 4, 3 + at, 2]} for at in range(8)]


def _from(source: str) -> EncoderDecoder:
    """A pair that says where it was loaded from, and has an attribute there that is only written back."""
    model = tiny_pair(encoder_config(depth=1), decoder_config(depth=1))
    report = LoadReport(source=source, attributes=json.dumps({"author": source}))
    decoder = dataclasses.replace(model.decoder, load_report=report)
    return dataclasses.replace(model, decoder=decoder, load_report=LoadReport(source=source))


def _fitted(folder: Path, source: str, **changes: Any) -> Path:
    settings: dict[str, Any] = {"max_steps": 4, "max_shapes": 1, "per_device_train_batch_size": 4, **changes}
    config = TrainConfig(output_dir=folder, learning_rate=1e-3, **settings)
    data, held_out = folder.parent / f"{source}.jsonl", folder.parent / "held out.jsonl"
    for file, records in ((data, RECORDS), (held_out, RECORDS[:3])):
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
    fit(_from(source), data, config, eval_data=held_out)
    return folder / "model"


def test_a_run_tells_of_its_data_settings_and_results(tmp_path: Path):
    folder = _fitted(tmp_path / "run", "one", eval_steps=2, predict_with_generate=False)
    card = (folder / "README.md").read_text()
    assert "for 4 steps." in card
    assert "| training | 8 | `one.jsonl` |" in card
    assert "| evaluation | 3 | `held out.jsonl` |" in card
    assert str(tmp_path) not in card
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    loss = [line["loss"] for line in lines if line["event"] == "eval"][-1]
    assert f"| loss | {loss:.6g} |" in card
    settings = json.loads(re.findall(r"```json\n(.*?)```", card, re.DOTALL)[-1])
    assert (settings["max_steps"], settings["learning_rate"]) == (4, 1e-3)
    assert not {"output_dir", "resume"} & set(settings)
    assert re.search(r"Versions: encdec-eqx [\d.]+, jax [\d.]+, ", card)
    assert ModelCard.load(folder / "README.md").data.library_name == "encdec_eqx"


def test_a_second_run_of_a_process_does_not_tell_of_the_firsts_pieces(tmp_path: Path):
    """All load reports are equal, so a compiled step returns those of the model that it was compiled for."""
    for source in ("one", "two"):
        folder = _fitted(tmp_path / source, source)
        assert f"| `{source}` |" in (folder / "README.md").read_text()
        assert json.loads((folder / "config.json").read_text())["decoder"]["author"] == source
