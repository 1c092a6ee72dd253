"""Loading is memory-mapped: the peak of memory that belongs to no file stays near the size of the arrays."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from checkpoints import GPT2_CONFIG

# The largest ratio allowed of peak memory to the arrays' bytes; measured: 1.02 to 1.04.
LIMIT = 1.3

# The same where cross-attention is drawn; measured: 1.27, where drawing and compiling what draws count, too. A whole
# new stack beside the old one would add 0.5.
GRAFT_LIMIT = 1.5

# Runs apart, so that nothing else is counted. RssAnon leaves out the pages of mapped files.
SCRIPT = """
import sys, threading, time
import jax
import jax.numpy as jnp
from encdec_eqx import CrossAttention, Decoder

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))

def watch():
    global peak
    while running:
        peak = max(peak, anonymous())
        time.sleep(0.001)

Decoder.from_pretrained(sys.argv[2], cross_attention=CrossAttention() if len(sys.argv) > 4 else None)
dtype = None if sys.argv[3] == "None" else sys.argv[3]
before = anonymous()
peak, running = 0, True
thread = threading.Thread(target=watch)
thread.start()
how = CrossAttention(every=2, init=sys.argv[4]) if len(sys.argv) > 4 else None
model = Decoder.from_pretrained(sys.argv[1], dtype=dtype, cross_attention=how)
jax.block_until_ready(model)
running = False
thread.join()
size = sum(leaf.nbytes for leaf in jax.tree.leaves(model))
print((max(peak, anonymous()) - before) / size)
"""


def _write(folder: Path, width: int, layers: int, vocab: int, *, cross: bool = True) -> Path:
    folder.mkdir()
    sizes = {"n_embd": width, "n_layer": layers, "n_head": 2, "vocab_size": vocab}
    (folder / "config.json").write_text(json.dumps({**GPT2_CONFIG, **sizes, "add_cross_attention": cross}))
    shapes = {"wte.weight": (vocab, width), "wpe.weight": (10, width), "ln_f.weight": (width,), "ln_f.bias": (width,)}
    linear = {
        "attn.c_attn": (width, 3 * width),
        "attn.c_proj": (width, width),
        "crossattention.q_attn": (width, width),
        "crossattention.c_attn": (width, 2 * width),
        "crossattention.c_proj": (width, width),
        "mlp.c_fc": (width, 4 * width),
        "mlp.c_proj": (4 * width, width),
    }
    for i in range(layers):
        for name, shape in linear.items():
            shapes |= {f"h.{i}.{name}.weight": shape, f"h.{i}.{name}.bias": shape[1:]}
        for name in ("ln_1", "ln_2", "ln_cross_attn"):
            shapes |= {f"h.{i}.{name}.weight": (width,), f"h.{i}.{name}.bias": (width,)}
    shapes = {name: shape for name, shape in shapes.items() if cross or "cross" not in name}
    save_file({name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()}, folder / "model.safetensors")
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("dtype", ["None", "bfloat16"])
def test_peak_memory_of_loading(tmp_path: Path, dtype: str):
    # 100 MB in layers, 100 MB in one table: a copy of the table alone would be too much
    big = _write(tmp_path / "big", 512, 6, 50_000)
    small = _write(tmp_path / "small", 4, 1, 10)
    assert 0.9 < _peak(big, small, dtype) < LIMIT


def _peak(*arguments: Any) -> float:
    """Memory at its highest, in bytes for each of the model's."""
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    return float(out.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_of_grafting(tmp_path: Path):
    """What is drawn is drawn layer by layer, and no old layer is drawn again."""
    big = _write(tmp_path / "big", 512, 6, 50_000, cross=False)
    small = _write(tmp_path / "small", 4, 1, 10, cross=False)
    assert 0.9 < _peak(big, small, "float32", "zero_gate") < GRAFT_LIMIT
