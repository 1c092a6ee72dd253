"""Score a synopsis model beside the baselines, and show what it writes.

python examples/synopsis/score.py runs/synopsis/run2/model --data synopsis/dev.jsonl
python examples/synopsis/score.py runs/synopsis/run2/model --data synopsis/test.jsonl    # once, at the end

The baselines are what anyone can write: the first 8 and the first 12 words of the description.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from train import LONGEST_SOURCE

from encdec_eqx.text import TextToText
from encdec_eqx.training.metrics import score

METRICS = ("rouge1", "rouge2", "rougeL")


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of a saved model with its tokenizer")
    parser.add_argument("--data", type=Path, required=True, help="a JSONL file that prepare.py wrote")
    parser.add_argument("--records", type=int, help="only the first so many")
    parser.add_argument("--shown", type=int, default=8, help="examples to print")
    chosen = parser.parse_args(arguments)
    lines = chosen.data.read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines][: chosen.records]
    sources, references = [one["source"] for one in records], [[one["target"]] for one in records]

    writer = TextToText.from_pretrained(chosen.model)
    said = {f"first {words} words": [" ".join(text.split()[:words]) for text in sources] for words in (8, 12)}
    for name, beams in (("greedy", 1), ("beam 4", 4)):
        said[name] = writer(
            sources, num_beams=beams, max_new_tokens=32, batch_size=64, max_source_length=LONGEST_SOURCE
        )
    results = {name: score(METRICS, texts, references) for name, texts in said.items()}
    for name, values in results.items():
        print(f"{name:16}" + "  ".join(f"{metric} {value:.1f}" for metric, value in values.items()))
    for source, reference, text in list(zip(sources, references, said["beam 4"], strict=True))[: chosen.shown]:
        print(f"\n{source[:200]}\n  Debian: {reference[0]}\n  model:  {text}")
    return results


if __name__ == "__main__":
    main()
