"""Loading in parts: each device's part of an array is read by itself, and is what the whole array has there."""

import sys
import tracemalloc
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors.numpy import save_file

from encdec_eqx import Decoder, Encoder, StackConfig
from encdec_eqx.hf.families import FAMILIES
from encdec_eqx.hf.files.folder import open_tensors
from encdec_eqx.hf.files.mapped import copy_mapped, equal_mapped
from encdec_eqx.hf.load import load
from encdec_eqx.hf.names import NameTable
from models import randomised

_SIZES = {"vocab_size": 12, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
_SIZES |= {"intermediate_size": 24, "max_position_embeddings": 6}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_T5 = {"vocab_size": 12, "d_model": 16, "d_kv": 8, "num_heads": 4, "d_ff": 24, "num_layers": 2}

# One for each way in which files hold projections.
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": _SIZES,
    "modernbert": {**_SIZES, "pad_token_id": 0},
    "t5": {**_T5, "num_decoder_layers": 1},
    "gpt2": {"vocab_size": 12, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 6},
    "llama": _GROUPED,
    "phi3": _GROUPED,
    "gpt_neox": {**_SIZES, "rotary_pct": 0.5},
    "bloom": {"vocab_size": 12, "hidden_size": 16, "n_layer": 2, "n_head": 4},
    "falcon": {"vocab_size": 12, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    | {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 2},
}


def _mesh() -> Mesh:
    return Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ("two", "four"))


def _scattered(mesh: Mesh, skeleton: Any) -> Any:
    """As many axes of each array as divide are cut, the last ones first: others than any model's table would cut."""

    def sharding(leaf: Any) -> NamedSharding:
        spec: list[str | None] = [None] * len(leaf.shape)
        for name, size in mesh.shape.items():
            fits = [at for at in range(len(spec)) if spec[at] is None and leaf.shape[at] % size == 0]
            if fits:
                spec[fits[-1]] = name
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(sharding, skeleton)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("family", CONFIGS)
def test_parts_are_those_of_the_whole(tmp_path: Path, family: str, dtype: Any):
    role = "encoder" if "decoder" not in FAMILIES[family].architectures else "decoder"
    kind = {"encoder": Encoder, "decoder": Decoder}[role]
    flags = {"is_decoder": role == "decoder", "add_cross_attention": role == "decoder"}
    config = StackConfig.from_hf({"model_type": family, **CONFIGS[family], **flags})
    skeleton = eqx.filter_eval_shape(kind.init, config, key=jax.random.key(0))
    randomised(skeleton).save_pretrained(tmp_path, max_shard_size=4000)
    whole = kind.from_pretrained(tmp_path, dtype=dtype)
    mesh = _mesh()
    table, tensors = FAMILIES[family].table(config, role), open_tensors(tmp_path)
    parts, _ = load(
        skeleton, table, tensors, what="it", dtype=dtype, shardings=lambda skeleton: _scattered(mesh, skeleton)
    )
    wanted = jax.tree.leaves(_scattered(mesh, skeleton))
    for one, other, sharding in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), wanted, strict=True):
        assert one.sharding == sharding and one.dtype == dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


# The largest memory that NumPy takes for a moment, in parts of a device; measured: 1.01.
MOST_PARTS = 1.1


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16], ids=lambda dtype: dtype.__name__)
def test_a_part_is_read_once_and_by_itself(tmp_path: Path, dtype: Any, monkeypatch: pytest.MonkeyPatch):
    """A table of 8 MiB, its rows over the devices, its columns over them, and both; on two devices the same part."""
    rows, columns = 8192, 256
    table = np.random.default_rng(0).standard_normal((rows, columns), np.float32)
    save_file({"table": table}, tmp_path / "model.safetensors")
    read: list[int] = []

    def counted(target: np.ndarray, source: np.ndarray) -> None:
        read.append(source.nbytes)
        copy_mapped(target, source)

    monkeypatch.setattr("encdec_eqx.hf.transforms.copy_mapped", counted)
    skeleton = {"table": jax.ShapeDtypeStruct((rows, columns), jnp.float32)}
    names = NameTable(groups={"all": (("table", "table", "same"),)})
    for spec, parts in {("four",): 4, (None, "two"): 2, ("two", "four"): 8, (("two", "four"),): 8}.items():
        sharding = NamedSharding(_mesh(), PartitionSpec(*spec))
        tensors = open_tensors(tmp_path)
        read.clear()
        tracemalloc.start()
        made, _ = load(skeleton, names, tensors, what="it", dtype=dtype, shardings=lambda _, at=sharding: {"table": at})
        jax.block_until_ready(made)
        kept, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert read == [table.nbytes // parts] * parts
        # on CPUs the arrays are what was allocated for them, so that they count as kept
        assert peak - kept < MOST_PARTS * made["table"].nbytes / parts
        np.testing.assert_array_equal(np.asarray(made["table"]), table.astype(dtype))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_was_read_does_not_stay_in_memory(tmp_path: Path):
    save_file({"table": np.ones((8192, 1024), np.float32)}, tmp_path / "model.safetensors")
    source = open_tensors(tmp_path).read("table")
    mapped = [_mapped(tmp_path)]
    for columns in (slice(None), slice(512, None)):
        copy_mapped(np.empty((8192, 1024), np.float16)[:, columns], source[:, columns])
        mapped.append(_mapped(tmp_path))
    assert equal_mapped(source, source)
    mapped.append(_mapped(tmp_path))
    source.sum()
    assert max(mapped) < 2**20 < 2**25 <= _mapped(tmp_path)


def _mapped(folder: Path) -> int:
    """Bytes of the folder's file that are in memory of this process."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if str(folder) in line)
    return 1024 * int(next(line for line in lines[at:] if line.startswith("Rss:")).split()[1])
