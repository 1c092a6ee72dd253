"""What is trained: selectors in both layouts, their errors, frozen work that is never done, and the summary."""

import re
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
import pytest

from encdec_eqx import EncoderDecoder, HeadConfig, LayerSpec, seq2seq_loss, shift_tokens_right
from encdec_eqx.params.param_names import places
from encdec_eqx.stack import ScannedStack
from encdec_eqx.training import init_train_state, make_train_step, segmented, summarize_trainable, trainable
from models import decoder_config, encoder_config, random_ids, right_mask, tiny_pair
from tolerances import SAME_STEP

LAYOUTS = ("unrolled", "scanned")


def _model(**decoder: Any) -> EncoderDecoder:
    return tiny_pair(encoder_config(depth=3), decoder_config(depth=4, **decoder))


def _batch() -> dict[str, np.ndarray]:
    return {
        "input_ids": random_ids(0, 3, 6),
        "attention_mask": right_mask([6, 4, 5], 6),
        "labels": random_ids(1, 3, 5),
    }


def _picked_paths(model: Any, selectors: Any) -> set[str]:
    """The field paths of what is trained, of the unrolled model."""
    found = jax.tree_util.tree_leaves_with_path(trainable(model, selectors))
    return {jax.tree_util.keystr(path) for path, pick in found if pick}


def _read_paths(model: Any) -> set[str]:
    paths = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(model)}
    return {path for path in paths if "pooler" not in path}


def _blocks(piece: str, numbers: str) -> str:
    return rf"\.{piece}\.stack\.blocks\[[{numbers}]\]"


# selectors, and a regular expression over the paths of fields that says the same
SELECTED = {
    "encoder": r"^\.encoder",
    "enc_to_dec_proj": r"^\.enc_to_dec_proj",
    "decoder.embeddings": r"^\.decoder\.embeddings",
    "embeddings.tokens": r"\.tokens",
    "cross_attention": r"\.cross_(attention|norm)",
    "self_attention": r"\.self_(attention|norm)",
    "feed_forward": r"\.feed_forward",
    "norm": r"norm\.",
    "decoder.norm": r"final_norm",
    "bias": r"\.bias$",
    "*.bias": r"\.bias$",
    "up.weight": r"\.up\.weight$",
    "qkv": r"\.qkv",
    "encoder.layers": r"^\.encoder\.stack\.blocks",
    "encoder.layers.1": _blocks("encoder", "1"),
    "encoder.layers.0-1": _blocks("encoder", "01"),
    "decoder.layers.2-": _blocks("decoder", "23"),
    "decoder.layers.-2": _blocks("decoder", "012"),
    "layers.3": _blocks("decoder", "3"),
    "encoder.layers.*.feed_forward": r"^\.encoder.*\.feed_forward",
    "layers.1-2.feed_forward": r"blocks\[[12]\]\.feed_forward",
    "encoder|enc_to_dec_proj": r"^\.enc",
    "cross_attention | enc_to_dec_proj | decoder.layers.2-": r"cross_|enc_to_dec|^\.decoder\.stack\.blocks\[[23]\]",
    "!encoder": r"^\.(?!encoder)",
    "decoder | !norm | !bias": r"^\.decoder(?!.*(norm\.|bias$))",
    "!layers.0- | !enc_to_dec_proj": r"^\.(en|de)coder\.(embeddings|stack\.shared)",
}


@pytest.mark.parametrize("selector", SELECTED)
def test_a_selector_picks_what_it_says_in_both_layouts(selector: str) -> None:
    model = _model()
    expected = {path for path in _read_paths(model) if re.search(SELECTED[selector], path)}
    assert expected
    assert _picked_paths(model, selector) == expected
    assert _picked_paths(model, [selector]) == expected
    scanned = segmented(model.with_layout("scanned"), selector)
    parameters = eqx.filter(scanned, trainable(scanned, selector))
    picked = eqx.filter(model, trainable(model, selector))
    assert eqx.tree_equal(parameters.with_layout("unrolled"), picked)
    assert eqx.tree_equal(scanned.with_layout("unrolled"), model)


def test_no_selector_is_all_that_is_read() -> None:
    model = _model()
    assert _picked_paths(model, None) == _read_paths(model)
    assert _picked_paths(model, "encoder | decoder | enc_to_dec_proj") == _read_paths(model)


def test_names_do_not_depend_on_the_layout_or_its_cuts() -> None:
    model = tiny_pair(decoder=decoder_config(layers=tuple(LayerSpec(cross_attention=at % 2 == 1) for at in range(5))))
    names = [place.names for place in places(model)]
    scanned = model.with_layout("scanned")
    assert [place.names for place in places(scanned)] == names
    assert [place.names for place in places(segmented(scanned, "decoder.layers.1-2"))] == names
    assert len(set(names)) == len(names)


def test_a_stack_is_cut_only_where_picked_layers_meet_others() -> None:
    scanned: Any = _model().with_layout("scanned", remat="keep_nothing")
    cut: Any = segmented(scanned, "decoder.layers.2- | cross_attention | encoder")
    assert cut.decoder.stack.starts == (0, 2)
    assert cut.encoder.stack.starts == (0,)
    assert cut.decoder.stack.remat == "keep_nothing"
    assert segmented(cut, "layers.3").decoder.stack.starts == (0, 2, 3)
    assert eqx.tree_equal(segmented(_model(), "layers.3"), _model())
    with pytest.raises(ValueError, match=r"stacked with 'decoder.layers.0.*segmented"):
        trainable(scanned, "decoder.layers.2-")


ERRORS = {
    "a misspelt part": ("decoder.layer.2-", r"nearest names are 'decoder.layers.2-'"),
    "another's word": ("crossattention", r"nearest names are 'cross_attention'"),
    "nothing like it": ("xyzzy", r"made of encoder, embeddings, tokens"),
    "one wrong part of many": ("encoder | decodre", r"'decodre' matches no array.*'decoder'"),
    "a wrong part taken away": ("encoder | !decodre", r"'!decodre' matches no array"),
    "a hole in a name": ("decoder.cross_attention", r"perhaps 'decoder.layers.\*.cross_attention' is meant"),
    "a hole after numbers": ("encoder.layers.bias", r"perhaps 'encoder.layers.\*.self_attention.qkv.bias' is meant"),
    "layers beyond the last": ("decoder.layers.2-4", r"they go from 0 to 3"),
    "a layer of the other piece": ("encoder.layers.3", r"they go from 0 to 2"),
    "layers backwards": ("layers.2-1", r"write 1-2"),
    "an empty part": ("encoder |", r"empty"),
    "nothing": ("", r"empty"),
    "a hole in a path": ("encoder..bias", r"empty"),
    "what is never read": ("pooler", r"'encoder.pooler.weight' is carried"),
    "a tied head": ("lm_head", r"decoder.embeddings.tokens"),
    "adapters that are not there": ("lora", r"add_lora"),
    "taking nothing away": ("decoder | !encoder", r"'!encoder' takes nothing away"),
    "an empty list": ([], r"empty"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_a_selector_that_cannot_be_meant_is_an_error(name: str) -> None:
    selectors, words = ERRORS[name]
    with pytest.raises(ValueError, match=words):
        trainable(_model(), selectors)


@pytest.mark.usefixtures("unchecked")
def test_selectors_must_be_text() -> None:
    with pytest.raises(TypeError, match="must be a text such as 'decoder"):
        trainable(_model(), 3)  # pyright: ignore[reportArgumentType]


def test_a_projection_that_is_not_needed_cannot_be_picked() -> None:
    model = tiny_pair(encoder_config(16), decoder_config(16, attention=encoder_config().attention))
    with pytest.raises(ValueError, match="the pieces fit without it"):
        trainable(model, "cross_attention | enc_to_dec_proj")


def test_an_untied_head_is_the_lm_head() -> None:
    model = _model(head=HeadConfig(tied=False))
    assert _picked_paths(model, "lm_head") == {".decoder.head.projection.weight"}


def test_layers_that_share_weights_are_picked_together() -> None:
    layers = tuple(LayerSpec(weights=at // 2) for at in range(4))
    model = tiny_pair(encoder_config(layers=layers))
    assert _picked_paths(model, "encoder.layers.2-") == _picked_paths(model, "encoder.layers.2-3")
    assert all("blocks[1]" in path for path in _picked_paths(model, "encoder.layers.2-"))
    assert _picked_paths(model.with_layout("scanned"), "encoder.layers")
    with pytest.raises(ValueError, match=r"layers.1.* but not .*layers.0.* share their weights"):
        trainable(model, "encoder.layers.1-")
    with pytest.raises(NotImplementedError, match="unrolled"):
        segmented(model.with_layout("scanned"), "encoder.layers.2-")


def test_what_the_pieces_share_is_the_decoders() -> None:
    config = {"model_type": "bart", "layers": (LayerSpec(),) * 2}
    model = tiny_pair(encoder_config(**config), decoder_config(16, depth=2, embeddings=encoder_config().embeddings))
    tied = EncoderDecoder(
        encoder=eqx.tree_at(lambda e: e.embeddings.tokens.weight, model.encoder, None),
        decoder=model.decoder,
        enc_to_dec_proj=None,
        special_tokens=model.special_tokens,
        ties=("embeddings.tokens.weight",),
    )
    assert ".decoder.embeddings.tokens.weight" in _picked_paths(tied, "decoder")
    with pytest.raises(ValueError, match="shared with the decoder"):
        trainable(tied, "encoder.embeddings.tokens")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_frozen_layers_have_no_optimiser_state_and_do_not_move(layout: Any) -> None:
    selectors = "cross_attention | enc_to_dec_proj | decoder.layers.2- | encoder.layers.1.feed_forward"
    model, optimizer = _model(), optax.adamw(0.01)
    picked = eqx.filter(model, trainable(model, selectors))
    state = init_train_state(model.with_layout(layout), optimizer, trainable=selectors)
    moments = sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    assert moments == 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(picked))
    assert isinstance(state.model.decoder.stack, ScannedStack) == (layout == "scanned")
    after = make_train_step(optimizer)(state, _batch(), None)[0].model.with_layout("unrolled")
    changed = jax.tree.map(lambda old, new: not np.array_equal(old, new), model, after)
    assert eqx.tree_equal(changed, trainable(model, selectors))


def test_a_step_of_some_layers_is_the_same_in_both_layouts() -> None:
    model, sgd = _model(), optax.sgd(0.5)
    selectors = "decoder.layers.1-2 | encoder.embeddings"
    after = [
        make_train_step(sgd)(init_train_state(model.with_layout(layout), sgd, trainable=selectors), _batch(), None)[0]
        for layout in LAYOUTS
    ]
    one, other = (state.model.with_layout("unrolled") for state in after)
    for mine, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=SAME_STEP)


def _products(jaxpr: Any, times: int = 1) -> int:
    """Matrix products that a program takes, those of a loop as often as it runs."""
    total = 0
    for equation in jaxpr.eqns:
        total += times * (equation.primitive.name == "dot_general")
        inside = times * equation.params["length"] if equation.primitive.name == "scan" else times
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(value, "eqns"):
                total += _products(getattr(value, "jaxpr", value), inside)
            elif hasattr(value, "jaxpr"):
                total += _products(value.jaxpr, inside)
    return total


def _loss(model: Any, batch: dict[str, Any]) -> jax.Array:
    ids = shift_tokens_right(batch["labels"], 0, 1)
    logits = model(batch["input_ids"], ids, attention_mask=batch["attention_mask"]).logits
    return seq2seq_loss(logits, batch["labels"])[0]


def _gradient_products(model: Any, selectors: Any) -> int:
    state = init_train_state(model, optax.sgd(0.1), trainable=selectors)
    gradient = jax.grad(lambda params: _loss(eqx.combine(params, state.frozen), _batch()))
    return _products(jax.make_jaxpr(gradient)(state.params).jaxpr)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_backward_pass_through_what_is_frozen_below(layout: Any) -> None:
    """Every product has one gradient for each factor: of a layer's activations and of its weights."""
    model = _model().with_layout(layout, remat="keep_all" if layout == "scanned" else False)
    forward = _products(jax.make_jaxpr(lambda model: _loss(model, _batch()))(model).jaxpr)
    encoder = _products(jax.make_jaxpr(lambda e: e(_batch()["input_ids"]).last_hidden_state)(model.encoder).jaxpr)
    everything = _gradient_products(model, None)
    assert everything == 3 * forward
    assert _gradient_products(model, "!encoder") == everything - 2 * encoder - 1, "one more: the projection's input"
    weights, scores = 7, 4
    assert forward == encoder + 4 * (weights + scores) + 2
    assert _gradient_products(model, "!decoder.layers.0-1") == everything - 2 * weights
    top = _gradient_products(model, "decoder.layers.3.feed_forward")
    # a scan's gradient reaches the input of its first layer, whether anything is below or not
    assert forward + 5 <= top <= forward + 5 + (2 * (weights + scores) if layout == "scanned" else 0)


SUMMARY = "cross_attention | enc_to_dec_proj | decoder.layers.2-"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_summary_counts_what_is_there(layout: Any) -> None:
    model, optimizer = _model().with_layout(layout), optax.adamw(1e-3)
    summary = summarize_trainable(model, SUMMARY, optimizer=optimizer)
    state = init_train_state(model, optimizer, trainable=SUMMARY)

    def size(tree: Any) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    def nbytes(tree: Any) -> int:
        return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))

    assert summary.trained == size(state.params)
    assert summary.total == size(model)
    assert summary.parameter_bytes == nbytes(model)
    assert summary.gradient_bytes == nbytes(state.params)
    assert summary.optimizer_bytes == nbytes(state.opt_state)
    parts = {part.name: part for part in summary.parts}
    assert list(parts) == [
        "encoder embeddings",
        "encoder layers 0-2",
        "encoder pooler",
        "decoder embeddings",
        "decoder layers 0-1 self_attention",
        "decoder layers 0-1 cross_attention",
        "decoder layers 0-1 feed_forward",
        "decoder layers 2-3",
        "decoder norm",
        "enc_to_dec_proj",
    ]
    unrolled: Any = model.with_layout("unrolled")
    blocks = unrolled.decoder.stack.blocks
    assert parts["decoder layers 2-3"].trained == parts["decoder layers 2-3"].total == size(blocks[2:])
    crossing = [(block.cross_attention, block.cross_norm) for block in blocks[:2]]
    assert parts["decoder layers 0-1 cross_attention"].trained == size(crossing)
    assert parts["decoder layers 0-1 feed_forward"].trained == 0
    assert parts["encoder pooler"].trained == 0


def test_the_summary_can_be_read() -> None:
    text = str(summarize_trainable(_model(), SUMMARY, optimizer=optax.sgd(0.1)))
    widths = {len(line) for line in text.splitlines()[:-1]}
    assert len(widths) == 1
    assert re.search(r"decoder layers 0-1 feed_forward +- +1,072", text)
    assert re.search(r"32.4 % trained; parameters 63.7 kB, gradients 20.7 kB, optimiser state 0 B\.", text)
    assert "optimiser" not in str(summarize_trainable(_model()))
