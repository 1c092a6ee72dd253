"""Score a pronunciation model: phoneme and word error rate, greedy and with 5 beams, on a split of CMUdict.

    python examples/pronounce/score.py runs/pronounce/model --split dev
    python examples/pronounce/score.py runs/pronounce/model --split test     # once, when all choices are made

An error is counted against the closest accepted pronunciation; stress is not scored. Give the salt that the model was
trained with: another one mixes training words into the split.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from data import records

from encdec_eqx.demo.lexicon import SPLIT_SALT, fixed_sample
from encdec_eqx.text import TextToText
from encdec_eqx.training.metrics import score

METRICS = ("per", "ser")


def scored(speaker: TextToText, chosen: Sequence[dict], *, num_beams: int) -> dict[str, float]:
    """Error rates in percent."""
    said = speaker([one["source"] for one in chosen], num_beams=num_beams, max_new_tokens=32, batch_size=256)
    return score(METRICS, said, [one["target"] for one in chosen])


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of a saved model with its tokenizers")
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    parser.add_argument("--salt", default=SPLIT_SALT)
    parser.add_argument("--words", type=int, help="only so many words of the split, a fixed sample")
    chosen = parser.parse_args(arguments)
    pairs = records(chosen.split, salt=chosen.salt)
    if chosen.words is not None:
        sample = set(fixed_sample([one["source"] for one in pairs], chosen.words))
        pairs = [one for one in pairs if one["source"] in sample]
    speaker = TextToText.from_pretrained(chosen.model)
    results = {}
    for name, beams in (("greedy", 1), ("beam 5", 5)):
        results[name] = scored(speaker, pairs, num_beams=beams)
        rates = results[name]
        print(
            f"{chosen.split}, {len(pairs)} words, {name}: phoneme error rate {rates['per']:.2f} %, "
            f"word error rate {rates['ser']:.2f} %",
            flush=True,
        )
    (chosen.model / f"scores_{chosen.split}.json").write_text(json.dumps(results, indent=2) + "\n")
    return results


if __name__ == "__main__":
    main()
