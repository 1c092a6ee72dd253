"""Every finding that a diagnosis can have: its severity, what it says, and how to fix it.

`docs/diagnosis.md` lists the same codes under the same headings. A check measures, and calls `found` with its numbers.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from .finding import Finding, Severity

ERROR: tuple[Severity, ...] = ("error",)
WARNING: tuple[Severity, ...] = ("warning",)
INFO: tuple[Severity, ...] = ("info",)


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is said of one thing.

    Attributes:
        severities: those it may have; where there are several, the check chooses.
        message: what was seen, with names of numbers in braces.
        fix: what to do about it, likewise.
    """

    severities: tuple[Severity, ...]
    message: str
    fix: str


def found(
    name: str, severity: Severity | None = None, /, *, also: Mapping[str, Any] = MappingProxyType({}), **evidence: Any
) -> Finding:
    """A finding in the catalogue's words.

    Args:
        name: its key there: a code, or a code and one of its variants.
        severity: which of the entry's severities; may be left out if there is only one.
        also: what the words need beside the evidence.
        **evidence: the numbers behind it.
    """
    entry, values = CATALOGUE[name], {**evidence, **also}
    (severity,) = entry.severities if severity is None else (severity,)
    return Finding(
        code=name.partition("/")[0],
        severity=severity,
        message=entry.message.format(**values),
        fix=entry.fix.format(**values),
        evidence=evidence,
    )


_MAKE_LABELS = "labels = [*ids, eos_token_id] padded with -100 (TokenizerPair.encode_target and data.Batches do it)."
_UNSHIFTED = "give labels unshifted and without a start token, for the decoder's inputs are made from them: "
_NO_INPUTS = "leave decoder_input_ids out: they are made from the labels, moved one step to the right."
_SET_TOKEN = "model = model.with_special_tokens({name}=...), with the id from the decoder's tokenizer."
_END_ROWS = "end every row: " + _MAKE_LABELS + " If another id ends them, model.with_special_tokens(eos_token_id=...)."
_MASK = "give attention_mask with the batch: 1 (or True) for real tokens, 0 for padding, as data.Batches does."
_ENCODE = "encode the {side} with the {piece}'s own tokenizer: encode_pairs(pairs, tokenizers.for_model(model))."
_FORCE = (
    "begin labels with it (TokenizerPair.encode_target does); or, if they are right as they are, let generation force "
    "what they begin with (model.with_special_tokens(forced_bos_token_id={instead})), or nothing "
    "(model.with_special_tokens(forced_bos_token_id=None))."
)
_LANGUAGE = (
    "model = model.with_special_tokens(decoder_start_token_id={code}), or pass decoder_start_token_id to generate for "
    "each language."
)
_TAKE_DECODER = (
    "take a decoder whose tokenizer keeps what matters (byte-level ones, as GPT-2's, keep all), or live with it: fit "
    "compares outputs with references as the tokenizer writes them (those of which something is lost as they are), so "
    "its scores are not those against the raw text."
)

_IN_THE_BATCH = {
    "special_token_missing": Entry(
        ERROR, "the model has no {name}, which makes the decoder's inputs from labels.", _SET_TOKEN
    ),
    "special_token_missing/eos": Entry(WARNING, "the model has no {name}, which ends what it generates.", _SET_TOKEN),
    "special_token_out_of_range": Entry(ERROR,
        "the model's {name} is {id}, but the decoder's vocabulary has {vocab_size} ids.",
        "set the right one with model.with_special_tokens({name}=...), or make room with {resizing}."),
    "wrong_start_token": Entry(WARNING,
        "decoder_start_token_id is {decoder_start_token_id}, which stands {inside_labels} times in the middle of "
        "labels: it is an ordinary token of the target.",
        "model = model.with_special_tokens(decoder_start_token_id=...): the decoder's [CLS], <s> or <|endoftext|> (the "
        "model's bos is {bos}, its eos {eos})."),
    "start_token_differs": Entry((*ERROR, *WARNING),
        "every row of decoder_input_ids begins with {first}, but generation begins with {decoder_start_token_id}.",
        "model = model.with_special_tokens(decoder_start_token_id={first}), or make the inputs with "
        "shift_tokens_right(labels, pad_token_id, decoder_start_token_id)."),
    "start_token_differs/language": Entry(WARNING,
        "labels end with the language code {code}, which training gives the decoder first; generation starts with "
        "{start}.",
        _LANGUAGE),
    "start_token_differs/languages": Entry(INFO,
        "labels end with the language codes {listed}, which training gives the decoder first; generation starts with "
        "{start}.",
        _LANGUAGE.replace("{code}", "...")),
    "labels_shifted": Entry((*ERROR, *WARNING),
        "{share:.0%} of the rows of labels begin with the start token {decoder_start_token_id} and lack the EOS token: "
        "they were shifted before they came here.",
        _UNSHIFTED + _MAKE_LABELS),
    "labels_shifted/whole": Entry(WARNING,
        "{share:.0%} of the rows of labels begin with the start token {decoder_start_token_id}: the decoder reads it "
        "twice.",
        _UNSHIFTED + _MAKE_LABELS),
    "labels_without_forced_bos": Entry((*ERROR, *WARNING, *INFO),
        "{rows} of {of} rows of labels do not begin with {forced_bos_token_id}, which generation forces first{begins}: "
        "the model learns its first word where generation puts that token.",
        _FORCE),
    "forced_eos_differs": Entry(WARNING,
        "generation forces {forced} as the last token at its maximum length, but targets end with {ends}.",
        "model = model.with_special_tokens(forced_eos_token_id={eos_token_id}), or None to force nothing."),
    "targets_cannot_be_generated": Entry(WARNING,
        "{share:.0%} of the targets could not be generated: the model's generation_config has {option}={value}.",
        "give the model other options: dataclasses.replace(model, generation_config=dataclasses.replace("
        "model.generation_config, {option}=None)), or change generation_config.json."),
    "labels_without_eos": Entry((*ERROR, *WARNING),
        "{without} of {of} rows of labels do not end with the model's EOS token {ends}{hint}, so it does not learn to "
        "stop.",
        _END_ROWS),
    "labels_without_eos/full": Entry(WARNING,
        "{without} of {of} rows of labels do not end with the model's EOS token {ends}{hint}, so it does not learn to "
        "stop, unless they were cut off: they all fill the batch's width.",
        _END_ROWS),
    "truncated_targets": Entry((*WARNING, *INFO),
        "{cut} of {of} rows of labels fill the whole width of {width} and have no EOS token {ends}: they were cut off.",
        "allow longer targets (max_target_length), or end what is cut: TokenizerPair.encode_target does."),
    "labels_hold_padding": Entry(ERROR,
        "{rows} of {of} rows of labels end in padding (id {id}), which is trained like text.",
        "put -100 behind each row's end: " + _MAKE_LABELS),
    "no_labels": Entry(ERROR,
        "every label of the batch is -100, so nothing can be learned from it.",
        "give the target's ids as labels, and -100 only after them."),
    "constant_targets": Entry(WARNING,
        "all {rows} rows have the same labels, though their sources differ.",
        "look at how sources and targets are paired; a model trained on this need not read the source."),
    "inputs_not_shifted": Entry(ERROR,
        "decoder_input_ids equal the labels: the decoder is shown each answer, and learns to copy it.",
        _NO_INPUTS),
    "inputs_not_shifted/unrelated": Entry(
        WARNING, "only {shifted:.0%} of decoder_input_ids are the label before theirs.", _NO_INPUTS
    ),
    "ids_out_of_range": Entry(ERROR,
        "{name} hold {id}; the {piece}'s vocabulary has the ids 0 to {last}.",
        "encode with the {piece}'s own tokenizer (TokenizerPair.from_pretrained), or, if its vocabulary grew, "
        "{resizing}."),
    "roles_swapped": Entry(ERROR,
        "the source's ids fit the decoder's vocabulary and the labels fit the encoder's, not the other way round.",
        "swap source and target in the data, or encoder and decoder in from_pieces."),
    "sequence_too_long": Entry(ERROR,
        "{name} are {length} long; the {piece} has positions for {max_positions}.",
        "cut them ({option}={max_positions}), or take {a_piece} with more positions."),
    "attention_mask_missing": Entry((*ERROR, *WARNING),
        "{rows} of {of} sources are padded with {pad}, and there is no attention_mask: encoder and cross-attention "
        "read padding like text.",
        _MASK),
    "attention_mask_missing/shown": Entry(WARNING,
        "{rows} of {of} sources are padded with {pad}, and the attention_mask shows it: encoder and cross-attention "
        "read padding like text.",
        _MASK),
    "attention_mask_inverted": Entry(ERROR,
        "attention_mask is 0 where there are tokens and 1 where there is padding.",
        "invert it: 1 (or True) means that a token may be attended."),
    "mask_values": Entry(ERROR,
        "{name} holds {other}; a mask holds 1 for tokens that may be attended and 0 for the others.",
        'batch["{name}"] = input_ids != pad_token_id, or what the tokenizer returned.'),
    "nothing_to_attend": Entry(ERROR,
        "{rows} of {of} rows with labels have an attention_mask of zeros only: nothing of their source can be read.",
        "1 (or True) means that a token may be attended: is the mask inverted, or made for another batch?"),
    "padding_of_another_tokenizer": Entry(WARNING,
        "sources are padded with {padded_with}, but the encoder's padding is {pad_token_id}.",
        "encode the source with the encoder's own tokenizer, and pad with the encoder's config.pad_token_id "
        "(TokenizerPair.from_pretrained and data.Batches do both)."),
    "mask_hides_tokens": Entry(INFO,
        "attention_mask hides {hidden} source ids of {kinds} kinds, not only padding ({pad}).",
        "if they were not hidden on purpose, look whether the mask belongs to these rows."),
    "mostly_padding": Entry(INFO,
        "{share:.0%} of the batch's {side} places are padding.",
        "put examples of about equal length together: data.Batches(examples, tokens_per_batch=...)."),
    "tokenizers_do_not_fit": Entry(ERROR,
        "{problems}",
        "TokenizerPair.from_pretrained(encoder_folder, decoder_folder) reads the pieces' own tokenizers."),
    "unknown_tokens": Entry((*ERROR, *WARNING),
        "{share:.0%} of the {side}'s tokens are {token!r}, unknown to its tokenizer.",
        "use a piece whose vocabulary was made for this language and script, or normalise the text as its tokenizer "
        "expects (lower case, Unicode form)."),
    "wrong_tokenizer": Entry(WARNING,
        "only {same:.0%} of the {side} rows come out the same when they are decoded and encoded again by the {side} "
        "tokenizer.",
        _ENCODE),
    "wrong_tokenizer/other_side": Entry(ERROR,
        "only {same:.0%} of the {side} rows come out the same when they are decoded and encoded again by the {side} "
        "tokenizer, but {same_by_other:.0%} by the other side's: that one made them.",
        _ENCODE),
    "wrong_tokenizer/unknown_id": Entry(
        ERROR, "the {side} holds {id}, an id that its tokenizer does not have.", _ENCODE
    ),
    "targets_do_not_survive": Entry((*WARNING, *INFO),
        "{changed} of {of} targets come back from the target tokenizer otherwise than they were: {text} as {again}. "
        "The model can only learn to write them so.",
        _TAKE_DECODER),
    "targets_do_not_survive/lost": Entry((*WARNING, *INFO),
        "{changed} of {of} targets come back from the target tokenizer otherwise than they were: {text} as {again}. "
        "The model can only learn to write them so, and of {lost} something is lost that it can never say.",
        _TAKE_DECODER),
}  # fmt: skip

_INITIALISE_AGAIN = (
    "load the decoder again without its cross-attention, which is then newly initialised "
    "(Decoder.from_pretrained(path, key=key)), or take the checkpoint before."
)

_IN_THE_ARRAYS = {
    "non_finite_weights": Entry(ERROR,
        "{arrays} of {of} arrays hold NaN or infinity; the first is {first}.",
        "load the checkpoint again, or go back to the last one before the loss became NaN."),
    "half_precision_weights": Entry(ERROR,
        "{arrays} trained arrays are {dtype}: small updates would be lost, so steps refuse them.",
        "load with dtype=jnp.float32 (or model.astype(jnp.float32)), and compute in bfloat16 with "
        "make_train_step(..., compute_dtype=jnp.bfloat16) where that is faster."),
    "dead_cross_attention": Entry(ERROR,
        "the source cannot reach the decoder at {places} place(s): the weights of {first} are 0.",
        _INITIALISE_AGAIN),
    "gates_closed": Entry(INFO,
        "the gates of all {gates} cross-attentions are closed (0), as zero_gate begins: the decoder writes as it was "
        "pretrained, and until the first step has opened them nothing of the encoder, and no gradient, passes.",
        "train; nothing has to be done."),
    "gates_closed/frozen": Entry(ERROR,
        "the gates of all {gates} cross-attentions are closed (0) and frozen: the source cannot reach the decoder.",
        'train them too: trainable(model, "cross_attention | enc_to_dec_proj | ...").'),
    "cross_attention_uniform": Entry(ERROR,
        "{places} cross-attention(s) attend to all source positions alike: the queries or keys of {first} are 0.",
        _INITIALISE_AGAIN),
    "embedding_scale": Entry(WARNING,
        "the {piece}'s token embeddings are {ratio:.3g} times as large as the positions added to them, which drown.",
        "load the {piece} again; if its embeddings were changed or resized, draw new rows with the standard deviation "
        "of the old ones."),
    "nothing_trained": Entry(ERROR,
        "every array is frozen: a step would change nothing.",
        "leave `trainable` out to train all that the model reads, or choose more of it."),
    "new_parts_frozen": Entry(ERROR,
        "{parts} new part(s) are frozen, the first {first}: the decoder would read the source through random weights "
        "for ever.",
        'train them too: trainable(model, "cross_attention | enc_to_dec_proj | ...").'),
    "roles_swapped/pieces": Entry(WARNING,
        "the encoder is a pretrained {encoder}, which sees only what stands left of a token, and the decoder a "
        "pretrained {decoder}, which never learned to continue a text.",
        "swap the two paths in from_encoder_decoder_pretrained, unless this is on purpose."),
}  # fmt: skip

_HELP_TOO = "; warm-up (warmup_ratio) and clipping (max_grad_norm) help too."
_RISES = "learning rate{at}: {steps} steps on one and the same batch took its loss from {before:.3g} to {ended}."

_BY_RUNNING = {
    "non_finite_activations": Entry(ERROR,
        "the model computes NaN or infinity for {rows} of {of} rows; it begins in {first}.",
        "look at the weights there: load the checkpoint again, or go back to the last one before the loss became NaN; "
        "in float16, load with dtype=jnp.float32 or compute in bfloat16."),
    "loss_above_uniform": Entry(WARNING,
        "the loss is {loss:.2f}, but predicting all tokens alike would give {ln_vocab:.2f}: the model is sure and "
        "wrong.",
        "look whether the labels come from the decoder's own tokenizer and are not shifted, and whether the weights "
        "are those of this model."),
    "loss_above_uniform/large_logits": Entry(ERROR,
        "the loss is {loss:.2f}, but predicting all tokens alike would give {ln_vocab:.2f}: the model is sure and "
        "wrong (its logits spread by {logits_spread:.3g}, where 1 to 5 is usual).",
        "look at the sizes of head and embeddings: something has multiplied them."),
    "loss_starts_high": Entry(INFO,
        "the loss is {loss:.2f}, above the {ln_vocab:.2f} of guessing: usual for this kind of decoder before its first "
        "steps.",
        "nothing to do, if it falls below that within the first hundred steps."),
    "labels_of_another_vocabulary": Entry(WARNING,
        "the pretrained decoder finds the labels hardly likelier than the same tokens in a random order ({loss:.2f} "
        "and {scrambled:.2f} nats): they are no text of its vocabulary.",
        "encode the targets with the decoder's own tokenizer (TokenizerPair.from_pretrained reads it)."),
    "wrong_start_token/by_run": Entry(WARNING,
        "with {best} as the start token the first label costs {with_best:.2f} nats, with the model's own "
        "({decoder_start_token_id}) {first:.2f}, over {labels} different ones: was it trained with {best}?",
        "if it was: model = model.with_special_tokens(decoder_start_token_id={best}). Its checkpoint's config.json may "
        "say, or how its decoder inputs were made before."),
    "encoder_constant": Entry(ERROR,
        "the encoder's states are the same for different sources, so no source can matter.",
        "load the encoder again (a norm or an embedding of zeros does this), and look whether its input is masked "
        "away."),
    "encoder_ignored": Entry(ERROR,
        "the predictions do not depend on the source at all: nothing of the encoder reaches the decoder.",
        "look at the cross-attention's weights and masks; Decoder.from_pretrained(path, key=key) initialises it anew "
        "where a checkpoint has none."),
    "encoder_ignored/trained": Entry(WARNING,
        "cross-attention has been trained, but another row's source gives the same predictions (divergence "
        "{divergence:.2g} nats per label): the decoder has learned to do without the source.",
        "look whether sources and targets of the training data belong together (were they shuffled apart?), then train "
        "again from newly initialised cross-attention."),
    "cross_attention_new": Entry(INFO,
        "cross-attention is newly initialised: the decoder does not use the source yet.",
        "nothing to do: training teaches it."),
    "source_does_not_fit": Entry(WARNING,
        "the decoder follows its source, but a row's own source predicts its labels no better than another row's (gain "
        "{gain:.2g}, divergence {divergence:.2g} nats per label).",
        "look whether the source was encoded with the encoder's own tokenizer, whether the mask belongs to it, and "
        "whether sources and labels stand in the same rows."),
    "gradient_zero": Entry(ERROR,
        "the loss has no gradient in {silent}, which would never change.",
        "look for weights of 0, or a mask, between them and the loss; if they are to stay as they are, freeze them: "
        'trainable(model, "!...").'),
    "gradient_exploding": Entry(WARNING,
        "the gradient's norm is {norm:.3g}, most of it in {part} ({of_part:.3g}).",
        "look at the sizes of that part's weights, and clip: optax.clip_by_global_norm(1.0) in front of the optimiser "
        "(fit does, with max_grad_norm)."),
    "learning_rate_too_high": Entry(ERROR,
        _RISES,
        "try learning_rate={lower:.1g}, a third of the highest one that lowered the loss" + _HELP_TOO),
    "learning_rate_too_high/of_unknown_rate": Entry(ERROR, _RISES, "make it about {times:.0f} times lower" + _HELP_TOO),
    "learning_rate_too_high/at_any_rate": Entry(ERROR,
        _RISES,
        "no rate down to {least} times it lowered the loss: look at the other findings first" + _HELP_TOO),
    "no_update": Entry(INFO,
        "{steps} steps changed nothing: the optimiser's rate is 0 at its beginning (a warm-up?).",
        "give the highest rate of the schedule to diagnose(..., learning_rate=...)."),
}  # fmt: skip

SECTIONS: Mapping[str, Mapping[str, Entry]] = MappingProxyType(
    {"In the batch": _IN_THE_BATCH, "In the arrays": _IN_THE_ARRAYS, "By running the model": _BY_RUNNING}
)
"""The entries by the headings of `docs/diagnosis.md`. A code with several messages has variants: `code/variant`."""

CATALOGUE: Mapping[str, Entry] = MappingProxyType({**_IN_THE_BATCH, **_IN_THE_ARRAYS, **_BY_RUNNING})
