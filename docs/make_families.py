"""Writes `docs/families.md` from the families' tables and from the lists of pairs that the tests run.

Run it after adding a family: `python docs/make_families.py`. A test compares the page with what this would write.
"""

import ast
import itertools
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from compositions import DECODERS, ENCODERS, LIVE, RUN, STORED  # noqa: E402
from encdec_eqx.hf.families import FAMILIES, WHOLES  # noqa: E402

INTRODUCTION = """# Families

Every encoder here can be joined to every decoder. A family is rows: the attributes of its config, and the names of its
tensors. Families of one architecture share a file in
[`src/encdec_eqx/hf/families/`](../src/encdec_eqx/hf/families). [Adding one](adding_a_family.md) takes from five lines
(a variant under another name) to about a hundred (the first of its kind).
This page is written by `python docs/make_families.py`; a test keeps it up to date.

The reference is PyTorch in transformers 4.57.6 with eager attention. "Whole" is torch's class for both pieces in one
checkpoint: `EncoderDecoder.from_pretrained` loads it, `save_pretrained` writes the same format, and `model.pieces()`
takes it apart.

"""

CHECKS = """
## What each family was checked against

Tiny models with every parameter random (scales of norms and biases too), against torch run beside them:

- logits, and hidden states and attention weights of every layer, with padding on the right and on the left, in both
  layouts of the stack; decoding from a cache in chunks against torch's full pass;
- the loss, and every gradient by its name (but for the row of `padding_idx`, which gets none);
- greedily generated ids, all equal;
- files: every tensor that torch saved loads, is saved again byte for byte, and torch loads that with no missing and no
  unexpected key and computes the same;
- bfloat16: as far from float32 as torch's own bfloat16 is, within the factor in `tests/tolerances.py`;
- configs: each is written and read back; all attributes of torch's config class are known, and those that are ignored
  change nothing in torch; attributes that nothing is known of are named.

Families that torch joins to no encoder (Llama and its variants, GPT-NeoX, OPT, …) are compared alone, with their causal
language models, in all of this; greedy ids follow prompts padded on the left. Cross-attention is then what
[grafting](checkpoints.md) adds.

`tests/parity/` does this live. The default run compares one stored model per family and role with torch's stored
numbers (`tests/goldens/families/`), and traces every pair of the table below.

## Every encoder with every decoder

● compared live with torch in everything, ◐ compared with torch's stored numbers, ○ run without torch (forward,
gradient, three generated tokens, save, load), · traced: built, joined and called in shapes.

"""

DIFFERENCES = """
## Where the reference is not followed, and what is not built

- **BigBird as a decoder.** Torch's class gives its self-attention the encoder's states, so that it attends to the
  source in place of the target, its cross-attention no mask of the source, and both one cache: a token does not see the
  ones before it, and results depend on `use_cache`. Here it attends as BERT's decoder does (as the old Flax class did
  too). The comparison is with torch's class fixed in those three places.
- **BigBird's `block_sparse`** runs as full attention, up to the position limit; the load report says so.
- **BART and its variants with `tie_word_embeddings: false`.** Torch saves one embedding matrix for both pieces and,
  loading it again, ties nothing: both pieces then start from random ones. Here they share that of the file. A file that
  holds different ones for the two is refused.
- **A bias of the logits** (`final_logits_bias`) stays with a decoder that is taken out of its checkpoint. Torch's
  stand-alone decoders have none: a pair with such a decoder is saved with it, and torch reports it as unexpected. If it
  is all zeros, as BART's are, it is not written.
- **M2M100's format holds more than M2M100.** NLLB-200 and SMaLL-100 are whole checkpoints of it, and SONAR's text
  encoder is an encoder of it. SONAR's text decoder stands in a file of the whole format, out of which
  `Decoder.from_pretrained` takes it: its cross-attention reads one state, the sentence's vector. (Read off how they are
  published; none of them was at hand.) Torch has no class for the decoder with its head; what is saved is read by
  `M2M100Decoder`.
- **M2M100's positions** end at `max_position_embeddings`, where torch's table grows. A prompt with padding on its left
  is generated as it would be without; torch counts the padding from the first new token on.
- **Blenderbot-small's `scale_embedding`** scales its encoder alone, as in torch, whose decoder computes the factor and
  does not use it.
- **T5's derived attributes.** `dense_act_fn` and `is_gated_act` follow from `feed_forward_proj`, which counts. Where a
  file contradicts itself torch follows the derived ones; here the load report says so. T5's dropout of the states
  after the last norm is not built, nor its bounds on float16.
- **T5's decoder alone** has no class in torch: it is saved under the names, and the class, of a whole checkpoint.
- **Longformer** is not among the families. Its windows are here, but its files hold projections for global attention in
  every layer, which would have to be carried along unused: torch misses them in a file that lacks them.
- **ModernBERT's scaled rotations** (`rope_scaling`) are refused; none of its published models has them.
- **DeBERTa's embeddings of padding** are not set to zero, as only its convolution would see them, which does not here
  either; and `norm_rel_ebd` without `relative_attention` leaves a norm unread, which is not written again.
- **Rotations that depend on the longest call** (`rope_scaling` of the kinds `dynamic` and `longrope`): keys in a cache
  keep what they were rotated by, as in torch; but torch's `dynamic` also remembers its longest call, and here a call
  depends on nothing but itself.
- **Sequences longer than `max_position_embeddings`** are refused where a table ends there. Where positions are
  rotations or biases nothing ends, and nothing is refused, as in torch.
- **`head_dim: null`** in a config of Qwen 2, SmolLM3 or OLMo 2 means `hidden_size / num_attention_heads`, as it does in
  Llama's; torch fails on it.
- **`position_ids` of a T5** are refused, as nothing depends on them and torch's takes none. Bloom, Falcon with ALiBi
  and DeBERTa without a table of positions take them, as in torch, and nothing depends on them either.
- **Falcon's ALiBi** is added once, as by torch's default attention; its eager attention of 4.57.6 adds it twice. The
  load report says so. What torch cannot run is refused: the new architecture without `parallel_attn`, or two norms
  without it. `multi_query` and, of old models, `num_kv_heads` are written as what they come to.
- **Bloom's `slow_but_exact`** is refused: torch then leaves out the biases of two maps.
- **GPT-J's `n_positions`** limits nothing; torch has angles for as many positions, and fails beyond them.
- **GPT-NeoX's odd shares.** A `rotary_pct` that comes to an odd number of entries rotates one more, as in torch.
- **OPT's last hidden state** has the width of its token table, `word_embed_proj_dim`, as in torch.
- **T5Gemma without a mask.** Torch masks the ids that are padding where no mask is given (in the decoder, if there is
  no cache); here no mask means none, as in every family. Torch's cache also forgets source positions that are further
  off than the decoder's window (`generate(cache_implementation="dynamic_full")` does not): here all are attended.
- **T5Gemma's head** has a matrix of its own where `tie_word_embeddings` is false. Torch ties it to the *encoder's*
  table if only the outer config says false: set it in `decoder`, too, as what is saved here does. Labels begin behind
  the decoder's BOS token in torch; here behind the start token, which is the same unless a checkpoint names another.
- **T5Gemma's pieces** are saved as torch's `T5GemmaEncoder` and `T5GemmaDecoder` have them, whose config goes by the
  name `t5_gemma_module` there, too. Torch reads them with `config=` given, and joins them to no other family.
- **T5Gemma 2** is not in transformers 4.57.6, and not built.
- **Gemma's `hidden_activation`** is not read, as in torch: `hidden_act` counts, and the load report says so where the
  two differ. Of Gemma 3 neither reads `attn_logit_softcapping`.
- **Gemma 3 with images** (`gemma3`): its text model is read, and saved as one of its own.
- **ERNIE's tasks**: the first row of the table is added, as where torch is given no `task_type_ids`.
- **Dropout** sits in the same place in all families; where torch has it elsewhere in one, the family's file says so. It
  changes training's noise, not the function.
- **LayerDrop** (`encoder_layerdrop`, `decoder_layerdrop`) is not built: it acts in training only, and the load report
  says so where a config has a rate.
- **Relative positions in Megatron-BERT's cross-attention** are not built: such a decoder is refused.
"""


PACKAGE = HERE.parent / "src" / "encdec_eqx" / "hf" / "families"


def _about() -> dict[str, tuple[str, str]]:
    """Each family's file, and the first line of what stands below its definition."""
    found = {}
    for path in sorted(PACKAGE.glob("*.py")):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for statement, after in itertools.pairwise(body):
            if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call):
                named = {keyword.arg: keyword.value for keyword in statement.value.keywords}
                if "model_type" in named:
                    assert isinstance(after, ast.Expr)
                    text = ast.literal_eval(after.value)
                    found[ast.literal_eval(named["model_type"])] = (path.name, text.strip().splitlines()[0])
    return found


def _families() -> str:
    lines = ["| family | | as an encoder | as a decoder | whole | file |", "|---|---|---|---|---|---|"]
    about = _about()
    wholes = {form.family.model_type: form.architecture for form in WHOLES.values()}
    for name in sorted(FAMILIES):
        family, (file, text) = FAMILIES[name], about[name]
        classes = [family.architectures.get("encoder"), family.architectures.get("decoder")]
        classes.append(wholes.get(name))
        encoder, decoder, whole = (f"`{kind}`" if kind else "no" for kind in classes)
        lines.append(f"| `{name}` | {text} | {encoder} | {decoder} | {whole} | `{file}` |")
    return "\n".join(lines) + "\n"


def _matrix() -> str:
    marks = {**dict.fromkeys(RUN, "○"), **dict.fromkeys(STORED, "◐"), **dict.fromkeys(LIVE, "●")}
    lines = ["| encoder ↓ decoder → | " + " | ".join(DECODERS) + " |", "|---|" + ":-:|" * len(DECODERS)]
    for encoder in ENCODERS:
        lines.append(f"| {encoder} | " + " | ".join(marks.get((encoder, d), "·") for d in DECODERS) + " |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The whole page."""
    return INTRODUCTION + _families() + CHECKS + _matrix() + DIFFERENCES


if __name__ == "__main__":
    (HERE / "families.md").write_text(page(), encoding="utf-8")
