"""The text model of a Gemma 3 that takes images, out of torch's checkpoint of both."""

from pathlib import Path

import numpy as np
import torch
from quick import quick_jit
from tiny import CAUSAL
from transformers import Gemma3Config, Gemma3ForCausalLM, Gemma3ForConditionalGeneration

from encdec_eqx import Decoder
from hf import as_torch, random_batch, randomise, saved
from tolerances import PARITY_LOGITS


def test_its_numbers_are_those_of_the_whole_without_images(tmp_path: Path) -> None:
    vision = {"hidden_size": 8, "intermediate_size": 10, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 8, "patch_size": 4}
    text = CAUSAL["gemma3_text"]()
    config = Gemma3Config(text_config=text.to_dict(), vision_config=vision, mm_tokens_per_image=4)
    whole = randomise(Gemma3ForConditionalGeneration._from_config(config, attn_implementation="eager"), 5)
    decoder = Decoder.from_pretrained(saved(whole, tmp_path / "whole"), add_cross_attention=False)
    batch = random_batch(1)
    arrays = {"input_ids": batch["decoder_input_ids"], "attention_mask": batch["decoder_attention_mask"]}
    with torch.no_grad():
        theirs = whole(**as_torch(arrays), use_cache=False).logits.numpy()
    ours = quick_jit(lambda model, arrays: model(**arrays).logits)(decoder, arrays)
    valid = arrays["attention_mask"] == 1
    np.testing.assert_allclose(np.asarray(ours)[valid], theirs[valid], rtol=0, atol=PARITY_LOGITS)
    decoder.save_pretrained(tmp_path / "text")
    alone, info = Gemma3ForCausalLM.from_pretrained(
        tmp_path / "text", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info.values()), info
    with torch.no_grad():
        assert np.array_equal(alone(**as_torch(arrays), use_cache=False).logits.numpy()[valid], theirs[valid])
