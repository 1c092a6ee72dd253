"""What transformers makes of a quantized model's folder: it stops, and does not fill in random weights."""

from pathlib import Path

import pytest
from transformers import EncoderDecoderModel

from encdec_eqx import quantize
from models import decoder_config, encoder_config, tiny_pair


def test_transformers_finds_no_weights_of_its_own(tmp_path: Path) -> None:
    model = tiny_pair(encoder_config(size=12), decoder_config(size=12))
    model.save_pretrained(tmp_path)
    EncoderDecoderModel.from_pretrained(tmp_path)
    quantize(model, "int8").save_pretrained(tmp_path)
    with pytest.raises(OSError, match="no file named"):
        EncoderDecoderModel.from_pretrained(tmp_path)
