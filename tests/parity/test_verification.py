"""What `encdec-eqx verify` compares with: the stored numbers are torch's, and a model is compared live."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from make_verification import as_text, numbers_of

from compositions import FAMILY_GOLDENS
from encdec_eqx import CrossAttention, EncoderDecoder, cli, verification
from tolerances import STORED_NUMBERS


@pytest.mark.parametrize("name", verification.MODELS)
def test_the_stored_numbers_are_torchs(name: str):
    stored, made = verification.stored_numbers()["models"][name], numbers_of(name)
    assert set(stored) == set(made)
    for what, expected in made.items():
        if what.endswith("ids"):
            assert stored[what] == expected
        else:
            np.testing.assert_allclose(stored[what], expected, rtol=STORED_NUMBERS, atol=STORED_NUMBERS)


def test_the_file_is_written_as_it_is_read():
    content = verification.stored_numbers()
    assert json.loads(as_text(content)) == content
    text = Path(verification.__file__).with_name(verification.NUMBERS).read_text(encoding="utf-8")
    assert text == as_text(content)


@pytest.mark.parametrize("case", ["bert+mbart", "bart", "t5"])
def test_a_model_is_compared_with_torch_live(case: str, capsys):
    assert cli.main(["verify", str(FAMILY_GOLDENS / case)]) == 0
    told = capsys.readouterr().out
    assert "passed: 1 checks against torch" in told


def test_a_model_that_says_something_else_fails(monkeypatch, capsys):
    model = EncoderDecoder.from_pretrained(FAMILY_GOLDENS / "bart")
    other = jax.tree.map(lambda leaf: leaf * 1.001, model)
    monkeypatch.setattr(verification.EncoderDecoder, "from_pretrained", lambda path: other)
    assert cli.main(["verify", str(FAMILY_GOLDENS / "bart")]) == 1
    assert "FAILED: 1 of 1" in capsys.readouterr().out


def test_what_torch_does_not_load_is_said(tmp_path: Path, capsys):
    gated = CrossAttention(init="zero_gate")
    model = EncoderDecoder.from_encoder_decoder_pretrained("letters", "phonemes", decoder_cross_attention=gated)
    model.save_pretrained(tmp_path)
    assert cli.main(["verify", str(tmp_path)]) == 1
    assert "torch does not load" in capsys.readouterr().err
