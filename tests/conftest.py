"""What every test runs under: strict dtype promotion, no implicit rank broadcasting, and checked annotations on demand.

Warnings are errors; that is set in `pyproject.toml`. Knows nothing of the library but its file names, so that a broken
import shows up as the failure of a test.
"""

import gc
import importlib.metadata
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import jax
import jaxtyping
import pytest

import by_file
import fast_tier
from exhaustive_tier import EXHAUSTIVE
from gpu_tier import GPU

SOURCE = Path(__file__).parent.parent / "src"

# Modules that judge what a user or a file says, and are annotated with what they accept: they must meet wrong values.
JUDGES = (
    "encdec_eqx.alignment",
    "encdec_eqx.conversion",
    "encdec_eqx.inspection",
    "encdec_eqx.serve.offer",
    "encdec_eqx.serve.server_settings",
    "encdec_eqx.training.reporting.trackers",
    "encdec_eqx._inputs",
    "encdec_eqx.hf.",
    "encdec_eqx.config",
    "encdec_eqx.hf.families.",
    "encdec_eqx.generation.interface",
    "encdec_eqx.generation.options",
    "encdec_eqx.generation.state_on_mesh",
    "encdec_eqx.generation.plan",
    "encdec_eqx.generation.generation_config",
    "encdec_eqx.generation.value_checks",
    "encdec_eqx.generation.special_tokens",
    "encdec_eqx.training.batch",
    "encdec_eqx.training.callbacks",
    "encdec_eqx.training.fitting",
    "encdec_eqx.training.train_config",
    "encdec_eqx.training.job",
    "encdec_eqx.params.lora",
    "encdec_eqx.training.optim.optimizer",
    "encdec_eqx.training.training_run",
    "encdec_eqx.training.optim.schedules",
    "encdec_eqx.params.selectors",
    "encdec_eqx.params.sharding",
    "encdec_eqx.training.step",
    "encdec_eqx.params.trainable",
)


def _modules() -> list[str]:
    files = (path.relative_to(SOURCE).with_suffix("").parts for path in SOURCE.rglob("*.py"))
    names = (".".join(parts) for parts in files if parts[-1] != "__init__")
    return [name for name in names if not name.startswith(JUDGES)]


CHECK_TYPES = "ENCDEC_EQX_CHECK_TYPES"

# Every annotated function and dataclass of these modules has its shapes, dtypes and types checked at each call. That
# takes a quarter of a run's time, so a plain run goes without; `.ci/run` sets the variable where it runs everything.
if os.environ.get(CHECK_TYPES):
    jaxtyping.install_import_hook(_modules(), "beartype.beartype")


def pytest_report_header() -> str:
    """Says whether annotations are checked."""
    return f"annotations: {'checked' if os.environ.get(CHECK_TYPES) else f'not checked; set {CHECK_TYPES}=1'}"


# Tests spend their time compiling tiny programs: unoptimised ones compile twice as fast. Set XLA_FLAGS to have others.
_FLAGS = "--xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    # a quarter less time; later versions have no such emitters, and abort at a flag that they do not know
    _FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", _FLAGS)

# Tracing makes and drops many small objects, nearly none of them in cycles. Looking for those as often as Python
# does by itself took 2.1 of 29.5 s of processor time (three files, 929 tests), this way 0.2 s.
gc.set_threshold(20_000, 25, 25)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# GPUs and TPUs multiply float32 in fewer bits by default; parity with torch needs all of them.
jax.config.update("jax_default_matmul_precision", "highest")
# Meshes are tested on CPUs that are none; what names no mesh runs on the first of them.
jax.config.update("jax_num_cpu_devices", 8)
# Nearly all of the suite's time is XLA compiling small programs. They are kept on disk, so that workers and runs share
# them; what counts compilations sees a cached one as a compilation all the same.
_PROGRAMS = Path(__file__).parent.parent / ".pytest_cache" / "programs"
jax.config.update("jax_compilation_cache_dir", str(_PROGRAMS))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# Property tests draw the same few examples in every run and every worker, and write nothing to disk. A test that wants
# more of them says so itself (`@settings(max_examples=…)`).
hypothesis.settings.register_profile(
    "repeatable",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=25,
    # fixtures that do not change between examples (`key`) are no harm; a drawn model may take long to make
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("repeatable")


TIERS = {"fast": fast_tier.FAST, "gpu": GPU, "exhaustive": EXHAUSTIVE}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m fast` and its like, files without such a test are not even imported: that takes as long as the tests."""
    tier = TIERS.get(config.option.markexpr)
    if tier is not None and collection_path.name.startswith("test_"):
        return None if fast_tier.holds(collection_path, tier=tier) else True
    return None


_LEFT_OUT = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks the tests of the tiers; leaves out what takes long, and, where there is no GPU, what that alone can run."""
    for item in items:
        for name, tier in TIERS.items():
            if fast_tier.holds(item.path, item.name, tier):
                item.add_marker(name)
    where = jax.default_backend()
    if where != "gpu":
        why = f"need a GPU and were deselected, as jax runs on {where}: see tests/gpu.md"
        _leave_out(config, items, "needs_gpu", why)
    if not fast_tier.chosen(config.option, config.args):
        why = "are exhaustive and were deselected: `pytest -m exhaustive` runs them, as does .ci/run"
        _leave_out(config, items, "exhaustive", why)
    if hasattr(config, "workeroutput"):
        items.sort(key=lambda item: by_file.rank(item.path))
        config.workeroutput["left_out"] = config.stash.get(_LEFT_OUT, [])


def _leave_out(config: pytest.Config, items: list[pytest.Item], marker: str, why: str) -> None:
    without = [item for item in items if item.get_closest_marker(marker)]
    if without:
        items[:] = [item for item in items if not item.get_closest_marker(marker)]
        config.stash.setdefault(_LEFT_OUT, []).append(f"{len(without)} tests {why}")
        config.hook.pytest_deselected(items=without)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What a worker left out, all have left out."""
    node.config.stash[_LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", [])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Deals out whole files, unless another way is asked for."""
    if config.option.dist != "load" or not by_file.serves(config.args):
        return None
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False  # the order of `by_file`, not by numbers of tests
    return LoadFileScheduling(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says what was left out, and why: a test that did not run has not passed."""
    for line in config.stash.get(_LEFT_OUT, []):
        terminalreporter.line(line)


@pytest.fixture
def key() -> jax.Array:
    """A fixed PRNG key; `jax.random.split` it or `fold_in` for more."""
    return jax.random.key(0)


@pytest.fixture
def standard_promotion() -> Iterator[None]:
    """Relaxes dtype promotion for one test: optax mixes dtypes inside its updates."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Switches the annotations' checks off for one test, so that a wrong argument meets the library's own message."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True, scope="module")
def _forget_programs() -> Iterator[None]:
    """Frees the programs of a test file when it is done: a whole run in one process would hold gigabytes of them."""
    yield
    jax.clear_caches()


_MAPPINGS = Path("/proc/self/maps")  # Linux alone has it
_MOST_MAPPINGS = 25_000
_last_look = 0.0


@pytest.fixture(autouse=True)
def _spare_mappings() -> Iterator[None]:
    """Frees programs within a file, too, before they take all the memory mappings that Linux lets a process have.

    Those are 65,530, and a program for CPUs takes some dozens. Where there are none left XLA does not say so: compiling
    ends in a segmentation fault. Counting takes milliseconds, so it is done every five seconds at most.
    """
    global _last_look
    yield
    if time.monotonic() < _last_look + 5 or not _MAPPINGS.exists():
        return
    _last_look = time.monotonic()
    with _MAPPINGS.open("rb") as lines:
        if sum(1 for _ in lines) > _MOST_MAPPINGS:
            jax.clear_caches()
