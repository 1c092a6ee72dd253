"""The benchmarks' own logic: options, counting, turns, tables. No timing, no torch."""

import argparse
import dataclasses
import gzip
import json
import mmap
import platform
import sys
import threading
import time
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks import (
    _cache_side,
    _cache_ways,
    _contestants,
    _gpu_cells,
    _gpu_jax,
    _harness,
    _inputs,
    _jax_side,
    _jax_training,
    _memory,
    _models,
    _programs,
    _results,
    _sizes,
    _speculative_side,
    _steps,
    _trace,
    cache_moves,
    generate,
    gpu,
    int8,
    load,
    report,
    run_all,
    speculative,
    train_step,
    turns,
)
from benchmarks import compile as compile_times

from encdec_eqx import EncoderDecoder
from models import VOCAB, decoder_config, encoder_config, randomised, tiny_pair
from tolerances import BEAM_WAYS, REMATERIALISED_LOSS

SCRIPTS = {
    "generate": generate,
    "train_step": train_step,
    "load": load,
    "compile": compile_times,
    "cache_moves": cache_moves,
    "speculative": speculative,
    "int8": int8,
    "turns": turns,
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_options_are_read_and_nonsense_is_refused(script, capsys):
    parsed = script.options().parse_args(["--sizes", "tiny,base", "--repeats", "2"])
    assert (parsed.sizes, parsed.repeats) == (("tiny", "base"), 2)
    with pytest.raises(SystemExit):
        script.options().parse_args(["--sizes", "huge"])
    assert "huge" in capsys.readouterr().err


def test_contestants_and_batches_are_checked():
    given = ["--contestants", "ours_unrolled,torch", "--data", "ragged", "--precision", "bf16"]
    parsed = train_step.options().parse_args(given)
    assert (parsed.contestants, parsed.data, parsed.precision) == (("ours_unrolled", "torch"), ("ragged",), "bf16")
    assert set(train_step.options().parse_args([]).contestants) <= set(_contestants.CONTESTANTS)
    wrong = ((train_step, ["--contestants", "theirs"]), (train_step, ["--data", "real"]))
    for script, arguments in (*wrong, (generate, ["--precision", "bf16"]), (compile_times, ["--batches", "0"])):
        with pytest.raises(SystemExit):
            script.options().parse_args(arguments)


def test_cells_are_read_and_nonsense_is_refused(capsys):
    read = generate.options().parse_args(["--cells", "base:4x4:128,tiny:1x1:512"]).cells
    assert read == (("base", 4, 4, 128), ("tiny", 1, 1, 512))
    assert [str(cell) for cell in read] == ["base:4x4:128", "tiny:1x1:512"]
    for wrong in ("base:4:128", "huge:1x1:1", "base:0x4:128", "base:axb:128"):
        with pytest.raises(SystemExit):
            generate.options().parse_args(["--cells", wrong])
        assert repr(wrong) in capsys.readouterr().err
    with pytest.raises(SystemExit):
        generate.main(["--cells", "base:4x4:128", "--sizes", "tiny"])
    assert "none of --cells" in capsys.readouterr().err


def test_the_default_cells_cover_both_searches_and_both_sources():
    of_issue = {cell[1:] for cell in generate.cells(generate.DEFAULT_CELLS) if cell.size != "tiny"}
    assert of_issue == {(1, 1, 128), (8, 1, 128), (1, 1, 512), (4, 4, 128), (8, 4, 128), (1, 4, 512)}


def test_weights_of_a_step_are_those_of_gpt2():
    size = _sizes.SIZES["base"]
    # GPT-2's matrices (85.0M without embeddings), the tied head, cross-attention's query and output.
    weights = 12 * 12 * 768**2 + 50257 * 768 + 12 * 2 * 768**2
    assert _sizes.decode_step_bytes(size, batch=8, source=0, length=0) == 4 * weights
    one_row = _sizes.decode_step_bytes(size, batch=1, source=128, length=32) - 4 * weights
    assert one_row == 4 * 12 * 2 * 160 * 768
    assert _sizes.decode_step_flops(size, batch=8, source=0, length=0) == 2 * 8 * weights


def test_beams_share_the_source_but_not_their_own_tokens():
    size, shape = _sizes.SIZES["small"], {"batch": 2, "source": 128, "length": 32}
    more = _sizes.decode_step_bytes(size, **shape, beams=4) - _sizes.decode_step_bytes(size, **shape)
    assert more == 4 * 6 * 2 * 384 * 32 * 2 * 3
    assert _sizes.decode_step_flops(size, **shape, beams=4) == 4 * _sizes.decode_step_flops(size, **shape)
    quick = {"batch": 2, "source": 128, "new_tokens": 64, "bandwidth": 1e15, "peak": 1e9}
    encoder = _sizes.encode_flops(size, batch=2, source=128) / 1e9
    one, four = (_sizes.generate_floor(size, **quick, beams=beams) - encoder for beams in (1, 4))
    assert four == pytest.approx(4 * one)


def test_training_costs_three_forward_passes():
    size = _sizes.Size(name="one", layers=1, hidden=2, heads=1)
    # By hand, in multiply-adds; four source and three target positions, one sentence.
    encoder = 4 * (12 * 4 + 2 * 4 * 2)
    decoder = 4 * 2 * 4 + 3 * (14 * 4 + 2 * 3 * 2 + 2 * 4 * 2) + 3 * _sizes.DECODER_VOCAB * 2
    assert _sizes.train_step_flops(size, batch=1, source=4, target=3) == 3 * 2 * (encoder + decoder)


def test_the_floor_takes_the_slower_of_bandwidth_and_peak():
    shape = {"batch": 8, "source": 128, "new_tokens": 64}
    size = _sizes.SIZES["small"]
    bound_by_bytes = _sizes.generate_floor(size, **shape, bandwidth=1e9, peak=1e15)
    assert bound_by_bytes == pytest.approx(
        64 * _sizes.decode_step_bytes(size, batch=8, source=128, length=32) / 1e9, rel=1e-3
    )
    bound_by_work = _sizes.generate_floor(size, **shape, bandwidth=1e15, peak=1e9)
    work = 64 * _sizes.decode_step_flops(size, batch=8, source=128, length=32)
    assert bound_by_work == pytest.approx((work + _sizes.encode_flops(size, batch=8, source=128)) / 1e9, rel=1e-3)


WORKER = """
import time
from benchmarks import _harness
calls = []
def start(**settings): return settings
def run(*, name):
    print("chatter that must not reach the pipe")
    calls.append(name)
    return {"seconds": float(len(calls)), "calls": calls}
def fail(): raise KeyError("the reason")
def die(): raise SystemExit("the last words")
_harness.serve({"start": start, "run": run, "fail": fail, "die": die})
"""


@pytest.fixture
def settings():
    return argparse.Namespace(device="cpu", precision="float32", threads=1, huge_pages=False)


@pytest.fixture
def worker(tmp_path, monkeypatch, settings):
    (tmp_path / "fake_side.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    started = _harness.Worker("fake_side", settings=settings)
    yield started
    started.close()


def test_sides_take_turns_and_medians_are_taken(worker):
    taken = _harness.take_turns({"a": worker, "b": worker}, 3, "run", name="x")
    assert (taken["a"]["median"], taken["a"]["least"], taken["a"]["runs"]) == (3.0, 1.0, [1.0, 3.0, 5.0])
    assert taken["b"]["runs"] == [2.0, 4.0, 6.0]


def test_a_worker_tells_why_it_failed(worker):
    with pytest.raises(_harness.WorkerError, match="the reason") as failed:
        worker.ask("fail")
    assert failed.value.reason == "KeyError: 'the reason'"
    assert worker.ask("run", name="still alive")["calls"] == ["still alive"]
    with pytest.raises(_harness.WorkerError, match="the last words") as died:
        worker.ask("die")
    assert died.value.reason == "died at 'die', exit status 1"


def test_a_reason_is_one_line():
    long = ValueError("backend='inductor' raised:\nInvalidCxxCompiler: none found\n\nSet this and that")
    assert _harness.reason_of(long) == "ValueError: backend='inductor' raised: InvalidCxxCompiler: none found"
    assert len(_harness.reason_of(ValueError("x" * 1000))) == 300


def _side(seconds):
    return {
        "seconds": {"median": seconds},
        "touched_seconds": {"median": seconds},
        "encode_seconds": {"median": seconds},
        "first_token_cold": seconds,
        "first_token_warm": {"median": seconds},
        "programs": {name: {"temporary": 3_000_000} for name in ("encoder", "cache", "loop")},
        "compilation": {"backend_compile_duration": {"count": 2, "seconds": 1.5}},
        "memory": {"peak": 2_000_000_000},
        "anonymous_growth": 110,
        "bytes": 100,
    }


def _result(benchmark, row):
    machine = {"processor": "P", "threads": 2, "device": "cpu", "precision": "float32"}
    machine |= {"huge_pages": False, "versions": {"jax": "1"}}
    floor = {"copy": 1e9, "read": 2e9, "matmul": 3e9}
    return {
        "benchmark": benchmark,
        "machine": machine,
        "settings": {"new_tokens": 64, "steps": 64},
        "floor": floor,
        "rows": [row],
    }


def _train_rows():
    """A contestant that was measured, one that failed, and one with ragged examples."""
    median = {"seconds": 0.32, "cpu_seconds": 0.5, "user_seconds": 0.4, "system_seconds": 0.1}
    median |= {"minor_faults": 7.0, "preempted": 3.0}
    turns = {"median": median, "least": 0.3, "most": 0.4, "first_of_turn": 0.45}
    turns |= {"tokens_per_second": 100.0, "cpu_seconds_per_token": 0.005}
    memory: dict[str, Any] = {
        "run_peak": 2_000_000_000,
        "anonymous_run_peak": 1_500_000_000,
        "life_peak": 3_000_000_000,
    }
    memory["program"] = {"temporary": 250_000_000}
    ours = {"size": "tiny", "batch": 8, "data": "equal", "contestant": "ours", "turns": turns, "memory": memory}
    ours |= {"reference": turns | {"median": median | {"seconds": 0.64}}, "first_seconds": 9.0, "loss": 10.86153}
    ours |= {"compilation": _side(0.0)["compilation"], "compile_seconds": 1.5}
    ours |= {"flops_per_second": 3e9, "utilisation": 0.5}
    failed = {"size": "tiny", "batch": 8, "data": "equal", "contestant": "torch_compile"}
    failed["failed"] = "CppCompileError: no compiler"
    ragged = {"size": "tiny", "batch": 8, "data": "ragged", "contestant": "torch", "turns": turns, "reference": turns}
    return [ours, failed, ragged | {"padding_share": 0.4}]


def test_the_readme_takes_the_tables_of_a_folder(tmp_path):
    pair = {"size": "tiny", "batch": 2, "floor_seconds": 0.16, "sides": {"jax": _side(0.32), "torch": _side(0.64)}}
    cell = pair | {"beams": 4, "source": 128, "same_tokens": True}
    (tmp_path / "generate.json").write_text(json.dumps(_result("generate", cell)))
    trained = _result("train_step", {})
    trained["rows"] = _train_rows()
    (tmp_path / "train_step.json").write_text(json.dumps(trained))
    (tmp_path / "load.json").write_text(json.dumps(_result("load", pair)))
    compiled = {"size": "tiny", "batch": 1, "what": "generate", "layout": "unrolled", "first_seconds": 2.0}
    compiled |= {"second_seconds": 1.0, "second": 0, "compilation": _side(1.0)["compilation"]}
    (tmp_path / "compile.json").write_text(json.dumps(_result("compile", compiled)))
    way = {"moved_bytes": 2_000_000, "xla_bytes": None, "attention_flops": 3_000_000, "temporary": 4_000_000}
    ways = {"gather": way | {"seconds": {"median": 0.4}}, "ancestry": way | {"seconds": {"median": 0.1}}}
    moves = _result("cache_moves", {"size": "tiny", "batch": 2, "beams": 4, "slots": 64, "ways": ways})
    (tmp_path / "cache_moves.json").write_text(json.dumps(moves))
    tried = {"size": "tiny", "batch": 2, "proposer": "draft", "ahead": 4, "same_tokens": True}
    tried |= {"passes": {"plain": 64, "proposed": 16}}
    tried |= {"seconds": {"plain": {"median": 0.64}, "proposed": {"median": 0.32}}}
    (tmp_path / "speculative.json").write_text(json.dumps(_result("speculative", tried)))
    readme = tmp_path / "README.md"
    readme.write_text(f"before {report.BEGIN} old {report.END} after")
    report.rewrite(readme, tmp_path)
    text = readme.read_text()
    assert text.startswith("before ") and text.endswith(" after") and " old " not in text
    numbers = "| 0.32 | 0.64 | 2.00x | 0.16 | 50% |"
    assert f"| tiny | 2 | 4 | 128 {numbers} 400 | 200 | 5.0 | 10.0 | 320 | 640 | yes |" in text
    assert "| tiny | 2 | 4 | 128 | 1.50 | 0.32 | 0.64 | 320 | 640 | 3.0 | 3.0 | 3.0 | 2.00 | 2.00 |" in text
    assert "| tiny | ours | 0.32 | 0.30 to 0.40 | 0.64 | 2.00x | 0.50 | 2.00 | 1.50 | 3 | 50% |" in text
    assert "| tiny | ours | 0.45 | 0.40 | 0.10 | 7 | 3 | 1.50 | 3.00 | 0.25 | 9.00 | - | - | 1.50 | 10.8615 |" in text
    assert "| tiny | torch.compile | CppCompileError: no compiler | - | - |" in text
    assert "| tiny | torch eager | 100 | 100 | 1.00x | 5.00 | 40% | - | - |" in text
    assert "| tiny | 2 | 4 | 64 | gather | 6.2 | 1.00x | 2.0 | - | 3.0 | 4.0 |" in text
    assert "| tiny | 2 | 4 | 64 | ancestry | 1.6 | 0.25x | 2.0 | - | 3.0 | 4.0 |" in text
    assert "| tiny | 2 | draft | 4 | 16 | 4.00 | 0.64 | 0.32 | 2.00x | 2.00 | yes |" in text
    assert "| tiny | 0.00 | 0.32 | 0.32 | 1.10x | 0.64 | 0.64 | 1.10x | 0.16 |" in text
    assert "| tiny | generate | 1 | unrolled | 1.50 | 2.00 | 1.00 | 0 |" in text


def test_a_readme_without_markers_or_a_folder_without_results_is_an_error(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("no markers")
    with pytest.raises(ValueError, match="to write the tables between"):
        report.rewrite(readme, tmp_path)
    readme.write_text(f"{report.BEGIN}{report.END}")
    with pytest.raises(ValueError, match="run the benchmarks"):
        report.rewrite(readme, tmp_path)


@pytest.mark.parametrize("beams", [1, 3])
def test_the_three_programs_are_caught_with_their_memory(beams):
    model = tiny_pair(encoder_config(depth=1), decoder_config(depth=1))
    ids, options = np.full((2, 9), 5), {"max_new_tokens": 6, "num_beams": beams}
    before = model.generate(ids, **options)
    found = _programs.memory_of_programs(model, ids, **options)
    assert set(found) == {"encoder", "cache", "loop"}
    assert all(program["temporary"] > 0 and program["arguments"] > 0 for program in found.values())
    # the state is donated, so that the loop's results lie where its arguments were
    assert found["loop"]["aliased"] > 0.9 * found["loop"]["results"]
    after = model.generate(ids, **options)
    assert after.compilations == 0, "what was caught must be as it was"
    np.testing.assert_array_equal(after.sequences, before.sequences)


# --- training steps --------------------------------------------------------------------------------------------------


def test_a_turn_settles_before_it_counts():
    calls = iter(range(10))
    turn = _steps.take_turn(lambda: next(calls), settle=2, count=3)
    assert [[step["tokens"] for step in turn[kind]] for kind in ("settling", "steps")] == [[0, 1], [2, 3, 4]]
    assert next(calls) == 5


def test_a_step_is_measured_by_the_clock_and_by_what_it_used():
    def busy():
        with mmap.mmap(-1, 2**24) as anew:  # malloc may give pages that are mapped already
            anew.write(bytes(2**24))
        while time.process_time() < until:
            pass
        return 7

    until = time.process_time() + 0.05
    worked = _steps.measured(busy)
    assert worked["tokens"] == 7
    assert 0.04 < worked["cpu_seconds"] <= worked["seconds"] + 0.02
    assert worked["cpu_seconds"] == pytest.approx(worked["user_seconds"] + worked["system_seconds"])
    assert worked["minor_faults"] > 0 and worked["major_faults"] >= 0 and worked["preempted"] >= 0
    slept = _steps.measured(lambda: time.sleep(0.05) or 1)
    assert slept["seconds"] >= 0.05 > slept["cpu_seconds"]


def test_the_peak_of_a_run_is_not_that_of_the_process():
    if not _memory.memory():
        pytest.skip("this system tells nothing of a process's memory")
    large = _memory.peaks(lambda: np.ones(25_000_000).sum())  # 200 MB, gone again
    small = _memory.peaks(lambda: None)
    assert large["anonymous_run_peak"] - small["anonymous_run_peak"] > 100e6
    if "run_peak" in small:
        assert large["run_peak"] - small["run_peak"] > 100e6
        assert small["life_peak"] >= small["run_peak"]


def test_ragged_examples_have_a_long_tail():
    pairs = _inputs.ragged(source=128, target=64, examples=1000)
    lengths = np.asarray([[len(ids), len(labels)] for ids, labels in pairs])
    assert lengths.min(axis=0).tolist() == [22, 8] and lengths.max(axis=0).tolist() == [128, 64]
    half, mean = np.median(lengths, axis=0), lengths.mean(axis=0)
    assert (half < mean).all() and abs(half[0] - 48) < 5 and abs(half[1] - 24) < 4
    assert max(ids.max() for ids, _ in pairs) < _sizes.ENCODER_VOCAB
    for pair, same in zip(pairs, _inputs.ragged(source=128, target=64, examples=1000), strict=True):
        assert all(np.array_equal(one, other) for one, other in zip(pair, same, strict=True))


def _turn(*seconds, settling=()):
    step = {"tokens": 10, "cpu_seconds": 0.5}
    return {
        kind: [step | {"seconds": each} for each in those]
        for kind, those in (("steps", seconds), ("settling", settling))
    }


def test_turns_are_summed_up():
    found = train_step.summary([_turn(1.0, 2.0, settling=(9.0, 8.0)), _turn(3.0, 6.0, settling=(7.0, 8.0))])
    assert (found["median"]["seconds"], found["least"], found["most"], found["first_of_turn"]) == (2.5, 1.0, 6.0, 8.0)
    assert (found["tokens_per_second"], found["cpu_seconds_per_token"]) == (pytest.approx(40 / 12), 0.05)
    assert train_step.summary([_turn(1.0)])["first_of_turn"] is None


def test_utilisation_is_the_share_of_the_measured_peak():
    row = {"data": "equal", "turns": {"median": {"seconds": 4.0}}}
    rated = train_step.rated(row, flops=100, peak=50.0)
    assert (rated["flops_per_second"], rated["utilisation"], rated["floor_seconds"]) == (25.0, 0.5, 2.0)
    assert "utilisation" not in train_step.rated({"data": "equal", "failed": "why"}, flops=100, peak=50.0)
    assert "flops" not in train_step.rated({"data": "ragged"}, flops=100, peak=50.0)


@pytest.fixture
def events(monkeypatch):
    """What fake workers were asked, in order; that of torch.compile fails when it has to compile."""
    log = []

    class Fake:
        def __init__(self, module, *, settings):
            self.module, self.options = module, {}
            log.append(("open", module))

        def ask(self, question, **arguments):
            if question == "prepare_training":
                self.options = arguments
            log.append((question, self.name()))
            if question == "warm_up":
                if self.options.get("compiled"):
                    raise _harness.WorkerError("all of it", "no compiler")
                return {"first_seconds": 9.0, "loss": 1.0}
            if question == "steps":
                assert arguments == {"settle": 1, "count": 2}
                return _turn(2.0 if "jax" in self.module else 3.0, settling=(5.0,))
            return {"run_peak": 1} if question == "memory_of_step" else {}

        def name(self):
            known = _contestants.CONTESTANTS.items()
            return next((name for name, one in known if one.options.items() <= self.options.items()), "")

        def close(self):
            log.append(("close", self.name()))

    monkeypatch.setattr(_harness, "Worker", Fake)
    return log


def test_each_contestant_takes_turns_with_the_reference_and_a_failure_is_told(events):
    settings = train_step.options().parse_args(
        ["--contestants", "ours,torch,torch_compile,ours_remat", "--repeats", "2"]
    )
    rows = train_step.measure_case(settings, "folder", "equal")
    assert [row["contestant"] for row in rows] == ["ours", "torch", "torch_compile", "ours_remat"]
    ours, torch, compiled, remat = rows
    assert compiled == {"data": "equal", "contestant": "torch_compile", "failed": "no compiler"}
    for row in (ours, remat):
        assert (row["turns"]["median"]["seconds"], row["reference"]["median"]["seconds"]) == (2.0, 3.0)
        assert row["memory"] == {"run_peak": 1}
    assert torch["turns"] == torch["reference"] == ours["reference"] and torch["memory"] == {"run_peak": 1}
    turns = [name for question, name in events if question == "steps"]
    assert turns == ["ours", "torch"] * 2 + ["ours_remat", "torch"] * 2
    alive = np.cumsum([{"open": 1, "close": -1}.get(question, 0) for question, _ in events])
    assert alive.max() == 2 and alive[-1] == 0


def test_contestants_are_measured_without_a_reference_too(events):
    settings = train_step.options().parse_args(["--sides", "jax", "--repeats", "1"])
    rows = train_step.measure_case(settings, "folder", "equal")
    assert [row["contestant"] for row in rows] == ["ours", "ours_remat"]
    assert all(row["reference"] is None and row["turns"]["least"] == 2.0 for row in rows)
    report.table(_result("train_step", {"size": "mini", **train_step.rated(rows[0], flops=100, peak=50.0)}))
    alone = train_step.options().parse_args(["--contestants", "torch", "--repeats", "1"])
    (torch,) = train_step.measure_case(alone, "folder", "equal")
    assert torch["turns"]["least"] == torch["reference"]["least"] == 3.0


@pytest.fixture
def side(mini):
    """The JAX side in this process, and a way to load the same random model into it again."""
    pair = EncoderDecoder.from_pieces(_models.bert(mini), _models.gpt2(mini))
    pair = pair.with_special_tokens(decoder_start_token_id=1, pad_token_id=1)

    def prepared(*, precision="float32", ragged=False, **options):
        _jax_side.state |= {"model": pair, "precision": precision}
        return _jax_training.prepare_training(batch=2, source=16, target=8, ragged=ragged, **options)

    return prepared


def _losses(count):
    """Of that many steps on the same batch."""
    return [_jax_training.warm_up()["loss"] for _ in range(count)]


def test_our_ways_to_train_compute_the_same(side):
    side(layout="scanned", remat="keep_products")
    usual = _losses(3)
    assert usual[0] > usual[2] > 0
    for name in ("ours_remat", "ours_unrolled"):
        side(**_contestants.CONTESTANTS[name].options)
        np.testing.assert_allclose(_losses(3), usual, rtol=REMATERIALISED_LOSS)


def test_a_training_worker_tells_what_was_compiled_and_what_memory_a_step_takes(side):
    side(layout="scanned", remat="keep_nothing", precision="bf16")
    first = _jax_training.warm_up()
    assert first["first_seconds"] > 0 and first["loss"] > 0
    turn = _jax_training.steps(settle=1, count=2)
    assert [step["tokens"] for step in turn["steps"]] == [2 * (16 + 8)] * 2
    memory = _jax_training.memory_of_step()
    assert memory["program"]["temporary"] > 0
    assert memory["program"]["aliased"] > 0.9 * memory["program"]["results"], "the state is donated"


def test_ragged_examples_come_in_few_shapes_and_their_padding_does_not_count(side):
    about = side(layout="scanned", remat="keep_products", ragged=True)
    assert 1 < about["shapes"] <= _jax_training.MAX_SHAPES and 0 < about["padding_share"] < 0.5
    batches = [next(_jax_side.state["batches"]) for _ in range(5)]
    for batch, tokens in batches:
        assert batch["input_ids"].shape[0] == 2
        assert tokens == batch["attention_mask"].sum() + (batch["labels"] != -100).sum()
    shapes = {(batch["input_ids"].shape, batch["labels"].shape) for batch in _jax_side.state["shapes"]}
    assert len(shapes) == about["shapes"]


# --- ways to move beams ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scores_of():
    """The highest logits of some steps, by any way and with any replacements."""
    decoder = randomised(tiny_pair(encoder_config(), decoder_config(depth=1)).decoder, seed=3, spread=0.4)
    draw = np.random.default_rng(0)
    states = jnp.asarray(draw.standard_normal((2, 5, 12)), jnp.float32)
    tokens = jnp.asarray(draw.integers(0, VOCAB, (20, 2, 3)), jnp.int32)  # more than a block of slots

    def run(way, parents):
        opened = _cache_ways.WAYS[way].open(decoder, states, jnp.ones((2, 5), jnp.bool_), beams=3, slots=32)
        return np.asarray(
            _cache_ways.compiled_steps((way, decoder, tokens, jnp.asarray(parents, jnp.int32)), opened)[1]
        )

    return run


def test_all_ways_to_move_beams_compute_the_same(scores_of):
    parents = np.random.default_rng(1).integers(0, 3, (20, 2, 3))
    usual = scores_of("gather", parents)
    for way in set(cache_moves.WAYS) - {"gather"}:
        np.testing.assert_allclose(scores_of(way, parents), usual, rtol=0, atol=BEAM_WAYS)
    stay = np.broadcast_to(np.arange(3), parents.shape)
    assert np.abs(scores_of("gather", stay) - usual).max() > 1000 * BEAM_WAYS, "replacements must be felt"


def test_bytes_moved_are_counted_by_hand():
    size, shape = _sizes.Size(name="one", layers=3, hidden=5, heads=1), {"batch": 2, "beams": 4, "slots": 32}
    whole = 2 * (2 * 4) * 32 * (3 * 2 * 5 * 4)
    moved = {way: cache_moves.moved_bytes(size, way, **shape) for way in cache_moves.WAYS}
    assert moved == {
        "gather": whole,
        "ancestry": 2 * 8 * (4 * 32),
        "table": whole + 2 * 8 * 32 * 4,
        "blocks": whole + whole // 2 + 2 * 8 * 2 * 4,
    }
    work = {way: cache_moves.attention_flops(size, way, **shape) for way in cache_moves.WAYS}
    assert work["ancestry"] == 4 * work["gather"] == 4 * (2 * 2 * 8 * 32 * 5 * 3)
    assert {_cache_ways.WAYS[way].block for way in cache_moves.BLOCKS} == set(cache_moves.BLOCKS.values())
    assert set(_cache_ways.WAYS) == set(cache_moves.WAYS)


class Here:
    """A worker in this process: what it is asked is called at once."""

    def __init__(self, side):
        self.side = side

    def ask(self, question, **arguments):
        return getattr(self.side, question)(**arguments)

    def cpu_seconds(self):
        return None


@pytest.fixture
def mini(monkeypatch):
    size = _sizes.Size(name="mini", layers=2, hidden=8, heads=2)
    monkeypatch.setitem(_sizes.SIZES, "mini", size)
    return size


def test_ways_to_move_beams_are_compiled_timed_and_counted(mini):
    arguments = ["--batch", "1", "--source", "4", "--steps", "2", "--repeats", "2"]
    settings, worker = cache_moves.options().parse_args(arguments), cast(Any, Here(_cache_side))
    worker.ask("prepare", size="mini")
    row = cache_moves.measure_case(settings, worker, mini, beams=2, slots=16)
    assert list(row["ways"]) == list(cache_moves.WAYS)
    for way in row["ways"].values():
        assert len(way["seconds"]["runs"]) == 2 and way["seconds"]["least"] > 0
        assert way["xla_bytes"] > 0 and way["temporary"] > 0
    once, again = (worker.ask("take", way="blocks")["scores"] for _ in range(2))
    assert once == again, "every run has to start from an empty cache"
    report.table(_result("cache_moves", row))


def test_steps_and_blocks_have_to_fit(capsys):
    for wrong, words in ((["--slots", "24"], "multiples of 16"), (["--slots", "16", "--steps", "17"], "do not fit")):
        with pytest.raises(SystemExit):
            cache_moves.main(wrong)
        assert words in capsys.readouterr().err


# --- eight bits ------------------------------------------------------------------------------------------------------


def test_the_table_of_eight_bits_compares_with_the_first_side():
    assert int8._agreement([[1, 2], [3, 4]], [[1, 2], [3, 5]]) == 0.75
    seconds = {"ours float32": 0.5, "ours int8": 0.25}
    rows = [
        {"model": "tiny", "batch": 2, "source": 8, "new_tokens": 3, "side": name, "file": 5e6, "peak": None}
        | {"seconds": {"median": median}, "agreement": 1.0}
        for name, median in seconds.items()
    ]
    heads, lines = report.TABLES["int8"][0]({"rows": rows})
    assert lines[1][heads.index("side")] == "ours int8" and lines[1][heads.index("to float32")] == "2.00x"


# --- speculative decoding --------------------------------------------------------------------------------------------


def test_a_draft_of_first_layers_agrees_as_far_as_the_others_are_weak():
    pair = randomised(tiny_pair(encoder_config(depth=1), decoder_config(depth=2)), seed=5, spread=0.4)
    ids, target = np.full((2, 7), 5), np.arange(12).reshape(2, 6)
    states = pair.encode(ids).last_hidden_state

    def logits(decoder):
        return decoder(target, encoder_hidden_states=pair.enc_to_dec_proj(states)).logits

    whole, draft = _speculative_side.with_draft(pair.decoder, 1, 1.0)
    np.testing.assert_array_equal(logits(whole), logits(pair.decoder))
    mute, same_draft = _speculative_side.with_draft(pair.decoder, 1, 0.0)
    np.testing.assert_array_equal(logits(same_draft), logits(draft))
    np.testing.assert_array_equal(logits(mute), logits(draft))
    assert np.abs(logits(draft) - logits(whole)).max() > 0.1
    assert (len(draft.config.layers), _speculative_side.draft_layers(12), _speculative_side.draft_layers(2)) == (
        1,
        2,
        1,
    )


@pytest.mark.parametrize("span", [64, 10, 3])
def test_a_source_is_made_of_spans_of_what_is_generated(span):
    tokens = np.random.default_rng(0).integers(0, 1000, (2, 20))
    source = _speculative_side.copied_spans(tokens, span)
    assert source.shape == (2, 40)
    for row, wanted in zip(source, tokens, strict=True):
        for first in range(0, 20, span):
            piece = wanted[first : first + span]
            assert any(np.array_equal(row[at : at + len(piece)], piece) for at in range(40))
    whole = [at for at in range(21) if np.array_equal(source[0, at : at + 20], tokens[0])]
    assert bool(whole) == (span >= 20)


def test_proposals_are_compared_with_plain_search(mini):
    arguments = ["--repeats", "1", "--strengths", "0,1", "--spans", "12"]
    settings, worker = speculative.options().parse_args(arguments), cast(Any, Here(_speculative_side))
    worker.ask("prepare", size="mini", batch=1, source=8, new_tokens=12)
    perfect, other, lookup = speculative.measure_case(settings, worker, ahead=3)
    assert perfect["passes"] == {"plain": 12, "proposed": 3}
    assert perfect["passes"]["proposed"] < other["passes"]["proposed"] <= 12
    assert lookup["passes"]["proposed"] < 12
    assert perfect["same_tokens"] and other["same_tokens"] and lookup["same_tokens"]
    assert [row["proposer"].split(",")[0] for row in (perfect, lookup)] == ["draft", "lookup"]
    report.table(_result("speculative", {"size": "mini", "batch": 1, **lookup}))


def test_strengths_are_between_nothing_and_all():
    assert speculative.options().parse_args(["--strengths", "0,0.5,1"]).strengths == (0.0, 0.5, 1.0)
    for wrong in ("1.5", "-0.1", "much"):
        with pytest.raises(SystemExit):
            speculative.options().parse_args([f"--strengths={wrong}"])


# --- alone, in turns, on several versions of jax ---------------------------------------------------------------------


def test_alone_no_two_sides_are_alive(events):
    settings = train_step.options().parse_args(["--alone", "--contestants", "ours,torch", "--repeats", "2"])
    ours, torch = train_step.measure_case(settings, "folder", "equal")
    assert (ours["turns"]["median"]["seconds"], ours["reference"]["median"]["seconds"]) == (2.0, 3.0)
    assert torch["turns"] == ours["reference"]
    alive = np.cumsum([{"open": 1, "close": -1}.get(question, 0) for question, _ in events])
    assert alive.max() == 1 and alive[-1] == 0


def test_our_side_alone_runs_on_the_python_asked_for(tmp_path, settings, capsys):
    assert train_step.options().parse_args([]).jax_python == sys.executable
    assert turns.options().parse_args(["--jax-python", f"{sys.executable},{sys.executable}"]).jax_pythons == (
        sys.executable,
        sys.executable,
    )
    with pytest.raises(SystemExit):
        generate.options().parse_args(["--jax-python", str(tmp_path / "none")])
    assert "expected the path of a Python" in capsys.readouterr().err
    said = tmp_path / "python"
    said.write_text('#!/bin/sh\necho "not $0 $*" >&2; exit 3\n')
    said.chmod(0o755)
    settings.jax_python = str(said)
    with pytest.raises(_harness.WorkerError, match=r"not .*benchmarks\._jax_side"):
        _harness.Worker(_harness.SIDES["jax"], settings=settings)


def test_a_result_says_on_what_and_how_it_was_measured(tmp_path):
    settings = train_step.options().parse_args(["--alone", "--sides", "jax", "--out", str(tmp_path)])
    result = _results.save("train_step", settings, _train_rows())
    machine = result["machine"]
    assert json.loads((tmp_path / "train_step_alone.json").read_text()) == json.loads(json.dumps(result))
    assert machine["alone"] and machine["processor"] and set(machine["instructions"]) <= set(_results.TELLING)
    assert machine["versions"]["jax"] == jax.__version__ and machine["python"] == platform.python_version()
    assert "jax_python" not in result["settings"], "the place of an interpreter is nobody's business"
    text = report.table(result)
    assert text.startswith("**train_step**, each side alone: ") and "torch eager alone, s" in text


def test_a_cell_is_measured_alone_and_in_turns_on_each_jax(events, monkeypatch):
    monkeypatch.setattr(turns._results, "versions_of", lambda python, _: ("3", {"jax": f"of {python}"}))
    settings = turns.options().parse_args(["--repeats", "2", "--steps-per-turn", "2"])
    settings.jax_pythons = ("old", "new")
    found = turns.measure_case(settings, "folder", None)
    assert list(found) == ["jax of old", "jax of new", "torch"]
    for side in (found["jax of old"], found["jax of new"]):
        assert (side["alone"]["median"], side["turns"]["median"], side["beside"]["median"]) == (2.0, 2.0, 3.0)
        assert side["alone"]["settling"] == 5.0 and side["alone"]["runs"] == [2.0, 2.0]
    alive = np.cumsum([{"open": 1, "close": -1}.get(question, 0) for question, _ in events])
    assert alive.max() == 2 and alive[-1] == 0
    asked = [(name, total) for (question, name), total in zip(events, alive, strict=True) if question == "steps"]
    alone, beside = [("ours", 1)] * 4 + [("torch", 1)] * 2, [("ours", 2), ("torch", 2)] * 4
    assert asked == alone + beside
    rows = [{"size": "mini", "what": "train_step", **turns.TRAINED, "sides": found}]
    cell = {"size": "mini", "what": "generate", "batch": 1, "beams": 1, "source": 8}
    rows.append({**cell, "sides": {}, "failed": "not begun: no time left"})
    text = report.table(_result("turns", {}) | {"rows": rows})
    numbers = "| 2.00 | 3.00 | 1.50x | 2.00 | 3.00 | 1.50x | 1.00x | 1.00x | 0.00 |"
    assert f"| mini, b8, source 128, target 64, training step | of new {numbers}" in text
    assert "| mini, b1, source 8, greedy | not begun: no time left | - |" in text


# --- on a GPU --------------------------------------------------------------------------------------------------------


def test_a_trace_is_counted_by_what_ran_on_the_gpu(tmp_path):
    def named(kind, pid, tid, name):
        return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}

    def ran(pid, tid, name, microseconds):
        return {"ph": "X", "pid": pid, "tid": tid, "name": name, "dur": microseconds}

    threads = {(1, 1): "Stream #13(Compute)", (1, 2): "Stream #14(MemcpyD2H)", (1, 3): "XLA Ops", (2, 1): "python"}
    events = [named("process_name", 1, 0, "/device:GPU:0"), named("process_name", 2, 0, "/host:CPU")]
    events += [named("thread_name", *place, name) for place, name in threads.items()]
    events += [ran(1, 1, "fusion_3", 30.0), ran(1, 1, "fusion_4", 30.0), ran(1, 1, "gemm", 50.0)]
    events += [ran(1, 2, "MemcpyD2H", 5.0), ran(1, 3, "fusion.3", 500.0), ran(2, 1, "call", 9000.0)]
    folder = tmp_path / "plugins" / "profile"
    folder.mkdir(parents=True)
    with pytest.raises(ValueError, match="0 files"):
        _trace.counted(tmp_path)
    with gzip.open(folder / "host.trace.json.gz", "wt") as file:
        json.dump({"traceEvents": events}, file)
    found = _trace.counted(tmp_path, top=2)
    assert (found["kernels"], found["copies"], found["copies_by_kind"]) == (3, 1, {"MemcpyD2H": 1})
    assert found["busy_seconds"] == pytest.approx(115e-6)
    assert [(kernel["name"], kernel["count"]) for kernel in found["top"]] == [("fusion", 2), ("gemm", 1)]


def test_our_own_trace_is_counted(tmp_path):
    run = jax.jit(lambda x: jax.lax.fori_loop(0, 5, lambda _, y: jnp.tanh(y @ y) + 1, x))
    run(jnp.ones((32, 32))).block_until_ready()
    with jax.profiler.trace(str(tmp_path)):
        run(jnp.ones((32, 32))).block_until_ready()
    found = _trace.counted(tmp_path)
    assert found["kernels"] >= 5 and found["busy_seconds"] > 0
    assert not {"while", "call"} & {kernel["name"] for kernel in found["top"]}


def test_the_cells_of_a_gpu_are_counted_and_follow_each_other_in_few_processes():
    for tiny in (False, True):
        made = _gpu_cells.cells(tiny=tiny)
        assert {cell.part for cell in made} == set(_gpu_cells.PARTS) - {"tests"}
        assert len({(cell.name, cell.side) for cell in made}) == len(made)
        beside = {cell.name for cell in made if cell.module == _gpu_cells.TORCH}
        assert beside == {cell.name for cell in made if cell.part in ("training", "decoding", "bart")}
    base = [cell for cell in made if cell.part == "decoding"]
    starts = sum(not cell.shares_process(last) for cell, last in zip(base, [None, *base], strict=False))
    assert starts == 2, "one process a side"
    made = _gpu_cells.cells()
    one = next(cell for cell in made if cell.name == "pair base, greedy b1, source 128, 128 tokens")
    assert one.bytes == 128 * _sizes.decode_step_bytes(_sizes.SIZES["base"], batch=1, source=128, length=64) / 2
    trained = _sizes.train_step_flops(_sizes.SIZES["base"], batch=32, source=512, target=128)
    assert {cell.flops for cell in made if "training step" in cell.name} == {trained}


@pytest.fixture
def gpu_workers(monkeypatch):
    """Fake workers: eager torch's training fails, `torch.compile` takes too long."""
    log = []

    class Fake:
        def __init__(self, module, *, settings, environment):
            self.module, self.killed = module, threading.Event()
            log.append(("open", module, environment))

        def ask(self, question, **arguments):
            if question == "rates":
                return {"copy": 2e9, "matmul": 4e9}
            if question == "measure_training" and "compiled" in arguments["options"]:
                if arguments["options"]["compiled"]:
                    assert self.killed.wait(20)
                    raise _harness.WorkerError("all of it", "died")
                raise _harness.WorkerError("all of it", "out of memory")
            if question.startswith("profile"):
                kernel = {"name": "fusion", "count": 16, "seconds": 0.2}
                counts = {"kernels": 24, "copies": 8, "copies_by_kind": {"MemcpyD2H": 8}, "busy_seconds": 0.4}
                return {"seconds": [0.8], "profile": counts | {"top": [kernel]}, "profiled_units": 8, "unit": "token"}
            seconds = [0.5, 0.25, 0.5] if "jax" in self.module else [1.0]
            return {"seconds": seconds, "compile_seconds": 3.0, "memory": {"device_peak": 2_000_000_000}}

        def kill(self):
            self.killed.set()

        def close(self):
            log.append(("close", self.module, None))

    monkeypatch.setattr(_harness, "Worker", Fake)
    monkeypatch.setattr(gpu, "check", lambda settings: ({"jax", "torch"}, ["the tests are left out: no pytest"]))
    monkeypatch.setattr(gpu, "LEAST_SECONDS", 0.1)
    return log


def test_a_gpu_run_survives_its_cells_and_writes_as_it_goes(gpu_workers, tmp_path, monkeypatch):
    made = _gpu_cells.cells(tiny=True)
    monkeypatch.setattr(gpu, "cells", lambda tiny: [dataclasses.replace(cell, seconds=0.02) for cell in made])
    assert gpu.main(["--platform", "cpu", "--tiny", "--out", str(tmp_path)]) == 0
    head, *rows = (json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines())
    assert head["missing"] == ["the tests are left out: no pytest"] and len(rows) == len(made)
    failed = {row["side"]: row["failed"] for row in rows if "failed" in row}
    assert failed == {"torch eager": "out of memory", "torch.compile": "given up after 0 s"}
    text = (tmp_path / "gpu.md").read_text()
    assert "a trial of the script, not a measurement" in text and "Missing: the tests are left out" in text
    assert "| pair tiny, greedy b1, source 16, 8 tokens | ours | 500 | 250 | 62.500 | 2.00x | 3.0 |" in text
    assert "| torch eager | out of memory | - |" in text and "3.0 kernels a token, 1.00 copies and fills" in text
    assert "| `fusion` | 2.00 | 25 | 50.0% |" in text
    opened = [environment for event, _, environment in gpu_workers if event == "open"]
    assert {"XLA_FLAGS": "--xla_gpu_enable_command_buffer=+WHILE"} in opened
    assert len(opened) == sum(event == "close" for event, *_ in gpu_workers)


def test_a_gpu_run_begins_nothing_when_its_time_is_over(gpu_workers, tmp_path):
    assert gpu.main(["--platform", "cpu", "--tiny", "--minutes", "0", "--out", str(tmp_path)]) == 0
    _, *rows = (json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines())
    assert {row["failed"] for row in rows} == {"not begun: no time left"} and not gpu_workers


def test_a_gpu_run_says_what_is_missing(tmp_path, monkeypatch, capsys):
    said = {
        gpu._TRY_JAX: "cpu",
        gpu._TRY_TORCH: "ModuleNotFoundError: No module named 'torch'",
        gpu._TRY_TESTS: "found",
    }
    monkeypatch.setattr(gpu, "_tried", lambda python, code, settings: said[code])
    assert gpu.main(["--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "no gpu for jax (cpu); pip install" in told and "torch's side is left out: ModuleNotFoundError" in told
    assert "tests are left out" not in told


def test_our_side_of_the_gpu_cells_works_here(mini):
    worker = cast(Any, Here(_gpu_jax))
    _jax_side.state["precision"] = "bf16"
    for family in ("pair", "bart"):
        worker.ask("make", family=family, dtype="bfloat16", layers=1, hidden=8, heads=2)
        shape = {"batch": 2, "source": 12, "beams": 1, "new_tokens": 4, "real": [6, 10]}
        found = worker.ask("measure_generation", **shape, repeats=1)
        assert len(found["seconds"]) == 1 and found["compiled_again"] == 0
    profiled = worker.ask("profile_generation", **shape, repeats=1)
    assert profiled["profile"]["kernels"] > 4 and profiled["profiled_units"] == 4
    worker.ask("make", family="pair", dtype="float32", layers=1, hidden=8, heads=2)
    options = {"layout": "scanned", "remat": "keep_products"}
    trained = worker.ask("measure_training", batch=2, source=8, target=4, steps=2, options=options)
    assert len(trained["seconds"]) == 2 and trained["loss"] > 0


def test_real_places_are_padded_on_the_right():
    ids, mask = _inputs.sources(batch=50, source=16, real=(4, 9))
    lengths = mask.sum(axis=1)
    assert ids.shape == mask.shape == (50, 16) and set(lengths) == set(range(4, 10))
    np.testing.assert_array_equal(mask, np.arange(16) < lengths[:, None])


def test_run_all_knows_every_script_with_a_table():
    assert [name for name, _ in run_all.SCRIPTS] == list(report.TABLES) == list(SCRIPTS)
    for name, more in run_all.SCRIPTS:
        SCRIPTS[name].options().parse_args([*more, *run_all.shared(SCRIPTS[name], "out", "cache", "cpu", "tiny")])


def test_no_script_imports_a_framework():
    assert not {"torch", "transformers"} & set(sys.modules)
