"""The words of the field: phrases of an earlier dialect do not come back into `src`, `docs`, README or CONTRIBUTING."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [*(ROOT / "src").rglob("*.py"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*.py")]
FILES += [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]

# What is said no longer, as a regular expression that gives no false alarms, and what is said instead.
SAID_INSTEAD = {
    r"Knows nothing of|[Mm]ust not know|[Kk]nows no (?:torch|model|file)": "nothing: the import test says it",
    r"drawn beams|beams drawn": "beam sampling",
    r"words that must come|forced words": "constrained beam search (`force_words_ids`)",
    r"\b(?:a|one) (?:key|entry|row|name|number|value|id) a (?:sentence|layer|row|token|family|beam|step)\b": "per",
    r"(?<!given )\b(?:tokens|steps|milliseconds|seconds) a (?:second|token|step)\b": "per",
    r"\bonce a (?:sentence|bucket|row|layer)\b": "once per",
    r"\bsentence's (?:beams|rows|keys)|rows of a sentence|batch of sentences\b": "sequence",
    r"\bend tokens?\b": "EOS token",
    r"\bfillers?\b|\bfilled up\b": "padding, padded",
    r"\bkin\b|\bkinsfolk\b": "variants",
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\bspoil(?:s|ed|ing)?\b": "breaks, damaged",
    r"\bfresh (?:decoder|encoder|model|cross-attention|weights|ones|arrays|rows)\b": "newly initialised",
    r"\bprograms made ahead\b": "ahead-of-time compilation (warm-up)",
    r"\bthe same bits\b": "bit for bit",
    r"\bnats a label\b": "nats per label",
    r"\bpass(?:es)? in plain steps\b": "cost of a verification pass",
    r"\bclass (?:Attending|Opening|Standing|Meter|Prepared|Wanted)\b": "the glossary's names",
    r"\bdef (?:taken|noted|picked|obeying|moved|rewound)\b": "a verb",
}

# Parts of messages and of a repr that tests hold to, word for word.
PINNED = (
    "the constraint's end tokens are",
    "with its end token",
    "holds the end token",
    "is an end token, which may come",
    "transitions for the end token",
    "has the end token",
    "of the batch: mend ",
)


@pytest.mark.parametrize("phrase", SAID_INSTEAD)
def test_the_field_s_words(phrase: str):
    found = []
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        for match in re.finditer(phrase, text):
            if any(pinned in text[match.start() - 40 : match.end() + 40] for pinned in PINNED):
                continue
            found.append(f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]!r}")
    assert not found, f"say {SAID_INSTEAD[phrase]!r}:\n" + "\n".join(found)
