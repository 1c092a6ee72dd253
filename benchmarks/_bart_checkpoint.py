"""A random checkpoint of BART-base's sizes as both sides of `int8` read it: Hugging Face's folder, and CTranslate2's.

`python -m benchmarks._bart_checkpoint FOLDER`, with torch, transformers and ctranslate2 installed. The tokenizer has a
made-up word for each id: CTranslate2 takes words.
"""

import json
import pathlib
import sys
from typing import Any

import torch
import transformers
from ctranslate2.converters import TransformersConverter
from tokenizers import Tokenizer, models


def main(folder: str) -> None:
    """Writes `hf` and `ct2` into the folder."""
    hf, ct2 = pathlib.Path(folder) / "hf", pathlib.Path(folder) / "ct2"
    torch.manual_seed(0)
    # the two about norms are attributes of older versions, which CTranslate2's converter reads
    options: dict[str, Any] = {"forced_eos_token_id": None, "normalize_before": False, "normalize_embedding": True}
    config = transformers.BartConfig(
        encoder_layers=6, decoder_layers=6, d_model=768, encoder_ffn_dim=3072, decoder_ffn_dim=3072,
        encoder_attention_heads=12, decoder_attention_heads=12, init_std=0.05,
        **options,
    )  # fmt: skip
    transformers.BartForConditionalGeneration(config).save_pretrained(hf)
    special = {0: "<s>", 1: "<pad>", 2: "</s>", 3: "<unk>", 50264: "<mask>"}
    words = {special.get(at, f"w{at}"): at for at in range(config.vocab_size)}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<unk>")),
        bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>", mask_token="<mask>",
    ).save_pretrained(hf)  # fmt: skip
    TransformersConverter(str(hf)).convert(str(ct2), force=True)
    (ct2 / "words.json").write_text(json.dumps(sorted(words, key=words.__getitem__)))


if __name__ == "__main__":
    main(sys.argv[1])
