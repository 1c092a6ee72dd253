"""How many files of the package a reader of `generate` has to open: those that a call enters, in a fresh process."""

import json
import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent.parent

_COUNT = """
import json, sys
from pathlib import Path
import encdec_eqx
from models import random_ids, tiny_pair

ROOT = str(Path(encdec_eqx.__file__).parent)
model = tiny_pair().with_special_tokens(decoder_start_token_id=1, eos_token_id=2, pad_token_id=0)
ids = random_ids(0, 2, 5)


def entered(**options):
    files = set()

    def note(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(ROOT):
            files.add(frame.f_code.co_filename[len(ROOT) + 1 :])

    sys.setprofile(note)
    try:
        model.generate(ids, max_new_tokens=4, **options)
    finally:
        sys.setprofile(None)
    return sorted(files)


print(json.dumps([entered(), entered(), entered(num_beams=2), entered(num_beams=2)]))
"""


def test_few_files_are_entered():
    """Most of those of a first call, which is traced, are the model's own pieces and layers: they are not counted.

    Measured: a first greedy call enters 10 files of generation (and 20 others, most of them what a model is made of), a
    second one 12 in all, a second beam search 14; two of these ask whether the model lies on a mesh. Before every
    search had a file of its own they were 30 (and 14), 28 and 30.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])}
    done = subprocess.run([sys.executable, "-c", _COUNT], capture_output=True, text=True, env=environment, check=True)
    first, second, _, beams = (set(files) for files in json.loads(done.stdout.splitlines()[-1]))
    own = {file for file in first if file.startswith("generation")}
    assert len(own) <= 10
    assert len(second) <= 12
    assert len(beams) <= 14
    assert second <= first
    assert "_old_words.py" not in first | beams, "only a call with an old word is looked up there"
