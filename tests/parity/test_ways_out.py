"""The command that a refused pickle recommends, run: what it writes loads, and is what torch has."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from encdec_eqx import EncoderDecoder
from hf import as_torch, random_batch, random_pair, tiny_bert, tiny_gpt2
from tolerances import PARITY_LOGITS


@pytest.mark.parametrize("shards", ["1GB", "30KB"])
def test_a_pickle_is_converted_by_the_command_of_its_refusal(shards: str, tmp_path: Path):
    reference = random_pair(tiny_bert(), tiny_gpt2())
    reference.save_pretrained(tmp_path, safe_serialization=False, max_shard_size=shards)
    assert (len(list(tmp_path.glob("*.bin"))) > 1) == (shards == "30KB")
    with pytest.raises(NotImplementedError, match="never opens") as error:
        EncoderDecoder.from_pretrained(tmp_path)
    command = re.search(r"python -c .*", str(error.value))
    assert command is not None
    python = command[0].replace("python", sys.executable, 1)
    subprocess.run(python, shell=True, check=True, cwd=tmp_path, env=dict(os.environ), timeout=120)
    arrays = random_batch(0)
    with torch.no_grad():
        expected = reference(**as_torch(arrays)).logits.numpy()
    valid = arrays["decoder_attention_mask"].astype(bool)
    logits = np.asarray(EncoderDecoder.from_pretrained(tmp_path)(**arrays).logits)
    np.testing.assert_allclose(logits[valid], expected[valid], rtol=0, atol=PARITY_LOGITS)
