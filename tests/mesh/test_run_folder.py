"""The folder of a run of several processes: the first one writes, once, what a run of one process would written."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import jax
import numpy as np

from encdec_eqx import EncoderDecoder, make_mesh
from encdec_eqx.training import FitResult, TrainConfig, fit
from encdec_eqx.training.reporting.log import read_log
from encdec_eqx.training.resume.stored_arrays import StoredArrays
from two_processes import run_two

PIECES = Path(str(files("encdec_eqx.demo"))) / "assets"
PAIRS = [{"input_ids": [6, 4, 23, 1], "labels": [20, 5, 29, 2]}, {"input_ids": [6, 1], "labels": [20, 2]}]


def run(output: Path, steps: int, **settings: Any) -> FitResult:
    """A run of a few steps; longer ones go on with shorter ones."""
    model = EncoderDecoder.from_encoder_decoder_pretrained(PIECES / "letters", PIECES / "phonemes")
    config = TrainConfig(
        output_dir=output, max_steps=steps, logging_steps=1, lr_scheduler_type="constant", save_steps=1,
        per_device_train_batch_size=2, **settings,
    )  # fmt: skip
    return fit(model, PAIRS, config, mesh=make_mesh(2, devices=jax.devices()[:2]))


TWO = """
    from pathlib import Path
    import test_run_folder as these

    folder = Path(sys.argv[1])
    result = these.run(folder / "run", 1)
    result = these.run(folder / "run", 2, resume=True)
    print(result.step, len(result.log), (folder / "run" / "model" / "model.safetensors").is_file())
    try:
        these.run(folder / "run", 2)
    except (ValueError, RuntimeError) as error:
        print(type(error).__name__, error)
"""


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_two_processes_write_one_run(tmp_path: Path):
    """On the same mesh the numbers are the same, so that all that differs is who writes."""
    first, second = run_two(TWO, tmp_path, devices_each=1)
    assert (first.status, second.status) == (0, 0), first.errors + second.errors
    refused = f"output_dir {tmp_path / 'run'} holds a run already"
    assert first.lines[0] == second.lines[0] == "2 5 True"
    assert first.lines[1].startswith(f"ValueError {refused}")
    assert second.lines[1].startswith("OtherProcessError another process failed while") and refused in second.lines[1]
    assert "step 2/2" in first.errors and "step 2/2" not in second.errors

    run(tmp_path / "alone", 1)
    run(tmp_path / "alone", 2, resume=True)
    two, one = tmp_path / "run", tmp_path / "alone"
    parts = ("arrays-00001-of-00002.safetensors", "arrays-00002-of-00002.safetensors")
    differing = set(_names(two)) ^ set(_names(one))
    assert {Path(name).name for name in differing} == {"arrays.safetensors", *parts}
    lines = [[line for line in read_log(folder / "log.jsonl") if line["event"] == "train"] for folder in (two, one)]
    assert [line["loss"] for line in lines[0]] == [line["loss"] for line in lines[1]]
    for name in ("config.json", "model/config.json", "model/model.safetensors"):
        assert (two / name).read_bytes() == (one / name).read_bytes(), name
    ours, theirs = (StoredArrays(folder / "checkpoints" / "checkpoint-2" / "state") for folder in (two, one))
    assert all(np.array_equal(ours[name], theirs[name]) for name in {*ours, *theirs})

    for folder in (two, one):  # what two processes have begun, one ends
        assert run(folder, 3, resume=True).step == 3
    ours, theirs = (StoredArrays(folder / "checkpoints" / "checkpoint-3" / "state") for folder in (two, one))
    assert all(np.array_equal(ours[name], theirs[name]) for name in {*ours, *theirs})
