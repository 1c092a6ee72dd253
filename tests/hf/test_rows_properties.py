"""Rows both ways: attributes of configs, transforms of tensors against NumPy, names with and without prefixes."""

import dataclasses
import string
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from test_families import SMALL

from encdec_eqx import StackConfig
from encdec_eqx.hf import transforms
from encdec_eqx.hf.attributes import Attribute, choice, plus, variant
from encdec_eqx.hf.families import FAMILIES, Role
from encdec_eqx.hf.files.safetensors_file import Entry
from encdec_eqx.hf.names import NameTable, strip_wrappers
from encdec_eqx.hf.transforms import Fused

# Values of attributes that leave a config valid whatever the others are.
VALUES: dict[str, list[Any]] = {
    name: values
    for names, values in (
        ("vocab_size intermediate_size hidden_dim n_inner encoder_ffn_dim decoder_ffn_dim ffn_dim", [7, 40]),
        ("max_position_embeddings n_positions", [7, 40]),
        ("hidden_act activation activation_function", ["relu", "gelu_new", "silu"]),
        ("hidden_dropout_prob attention_probs_dropout_prob dropout attn_pdrop resid_pdrop embd_pdrop", [0.0, 0.3]),
        ("attention_dropout activation_dropout", [0.0, 0.3]),
        ("layer_norm_eps layer_norm_epsilon initializer_range init_std", [1e-6, 0.01]),
        ("num_hidden_layers n_layers n_layer encoder_layers decoder_layers num_layers", [1, 3]),
        ("num_attention_heads n_heads n_head attention_heads", [1, 4]),
        ("encoder_attention_heads decoder_attention_heads", [1, 8]),
        ("bos_token_id decoder_start_token_id", [None, 3]),
        ("eos_token_id", [None, 4, [4, 5]]),
        ("type_vocab_size", [0, 3]),
        ("tie_word_embeddings", [True, False]),
        ("position_embedding_type", ["absolute", "relative_key", "relative_key_query"]),
        ("embedding_size input_embedding_size", [6, 8]),
        ("relative_attention_num_buckets", [32, 50]),
        ("use_bias rescale_embeddings rotary_value scale_embedding use_task_id", [True, False]),
        ("sinusoidal_pos_embds use_learned_position_embeddings layernorm_embedding", [True, False]),
        ("scale_attn_weights scale_attn_by_inverse_layer_idx", [True, False]),
    )
    for name in names.split()
}


@st.composite
def configs(draw: st.DrawFn) -> tuple[str, str, dict[str, Any]]:
    """A family, a role it can take, and a config of it."""
    family = draw(st.sampled_from(sorted(FAMILIES)))
    role = draw(st.sampled_from(sorted(FAMILIES[family].architectures)))
    known = {*FAMILIES[family].attributes, "tie_word_embeddings", "decoder_start_token_id"}
    if role == "decoder" and family == "megatron-bert":
        known -= {"position_embedding_type"}
    if role == "decoder" and family in ("electra", "roformer", "albert"):
        known -= {"tie_word_embeddings"}
    if role == "encoder":
        known -= {"tie_word_embeddings"}  # of a head, which it does not have
    names = draw(st.lists(st.sampled_from(sorted(known & set(VALUES))), unique=True, max_size=8))
    chosen = {name: draw(st.sampled_from(VALUES[name])) for name in names}
    flags = {"is_decoder": role == "decoder", "add_cross_attention": role == "decoder"}
    return family, role, {"model_type": family, **SMALL[family], **flags, **chosen}


@given(configs())
@settings(max_examples=200)
def test_a_config_written_reads_back_the_same(case: tuple[str, Any, dict[str, Any]]):
    family, role, hf = case
    config = StackConfig.from_hf(hf)
    written = FAMILIES[family].to_hf(config, role)
    assert StackConfig.from_hf(written) == config
    # what was written is what was said, but for what only the other role reads; GPT-2 says null of four times its width
    unread = {*FAMILIES[family].other_role[role]}
    said = {name: value for name, value in hf.items() if name in FAMILIES[family].attributes and name not in unread}
    differing = {name: value for name, value in said.items() if written.get(name, value) != value}
    assert set(differing) <= {"n_inner"}, (differing, written)


def test_variants_change_drop_and_rename_rows():
    rows = (
        Attribute("width", "hidden_size", 8),
        Attribute("kind", "norm.placement", "a", choice({"a": "pre"}, "kind")),
    )
    changed = variant(rows, Attribute("new", "dropout", 0.5), without=["kind"], names={"width": "dim"}, dim=4)
    assert [(row.theirs, row.ours, row.default) for row in changed] == [
        ("dim", "hidden_size", 4),
        ("new", "dropout", 0.5),
    ]
    with pytest.raises(ValueError, match="kind is 'b'; expected one of a"):
        rows[1].how.read("b", {})


@given(st.integers(-5, 5), st.integers(0, 9))
def test_an_offset_goes_there_and_back(offset: int, value: int):
    assert plus(offset).write(plus(offset).read(value, {}), None) == value  # pyright: ignore[reportArgumentType]


SIZES = st.integers(1, 4)
SHAPES = {
    "same": st.lists(SIZES, min_size=1, max_size=3),
    "flat": st.lists(SIZES, min_size=1, max_size=3),
    "row": st.lists(SIZES, min_size=1, max_size=1),
    "rows": st.lists(SIZES, min_size=2, max_size=4),
    "transposed": st.lists(SIZES, min_size=2, max_size=4),
    "bias part 1": st.tuples(st.integers(2, 3), SIZES, SIZES),
    "transposed part 1": st.tuples(SIZES, st.integers(2, 3), SIZES, SIZES),
}


@given(st.data(), st.sampled_from(sorted(SHAPES)))
def test_transforms_are_inverted(data: st.DataObject, how: str):
    shape = tuple(data.draw(SHAPES[how]))
    theirs = np.random.default_rng(0).normal(size=transforms.their_shape(how, shape))
    ours = np.zeros(shape)
    transforms.write(how, ours, theirs)
    np.testing.assert_array_equal(transforms.read(how, ours), theirs)
    np.testing.assert_array_equal(transforms.join([(how, ours)]), theirs)
    assert np.count_nonzero(ours) * transforms.count_parts(how, shape) == ours.size


@given(SIZES, SIZES, SIZES, SIZES, st.booleans())
def test_grouped_queries_keys_and_values(groups: int, of_one: int, width: int, size: int, consecutive: bool):
    """Falcon's order, group after group, and Phi-3's, queries before keys before values, put together row by row."""
    rng = np.random.default_rng(1)
    heads = {"q": groups * of_one, "k": groups, "v": groups}
    ours = {name: rng.normal(size=(size, count, width)) for name, count in heads.items()}
    rows: list[np.ndarray] = []
    for group in range(1 if consecutive else groups):
        for name, count in heads.items():
            each = count if consecutive else count // groups
            for head in range(group * each, (group + 1) * each):
                rows += [ours[name][:, head, at] for at in range(width)]
    fused = np.stack(rows)
    counts = tuple(heads.values()) if consecutive else (of_one, 1, 1)
    hows = [Fused("transposed", 1 if consecutive else groups, counts, width, part) for part in range(3)]
    assert all(
        transforms.their_shape(how, ours[name].shape) == fused.shape for how, name in zip(hows, ours, strict=True)
    )
    np.testing.assert_array_equal(transforms.join(zip(hows, ours.values(), strict=True)), fused)
    for how, name in zip(hows, ours, strict=True):
        back = np.zeros_like(ours[name])
        transforms.write(how, back, fused)
        np.testing.assert_array_equal(back, ours[name])
        head = np.zeros_like(back[:, -1:])
        transforms.write(how, head, fused, whole=back.shape, at=(0, back.shape[1] - 1, 0))
        np.testing.assert_array_equal(head, ours[name][:, -1:])


@given(SIZES, SIZES, SIZES)
def test_query_key_and_value_of_each_head_fill_our_fused_array(heads: int, width: int, size: int):
    """GPT-NeoX: `(heads, 3, head_dim)` of theirs, `(3, heads, head_dim)` of ours, weights and biases."""
    theirs = np.random.default_rng(2).normal(size=(heads * 3 * width, size))
    ours, bias = np.zeros((size, 3, heads, width)), np.zeros((3, heads, width))
    for part in range(3):
        transforms.write(Fused(f"transposed part {part}", heads, (1, 1, 1), width, part), ours, theirs)
        transforms.write(Fused(f"bias part {part}", heads, (1, 1, 1), width, part), bias, theirs[:, 0])
    expected = theirs.reshape(heads, 3, width, size).transpose(3, 1, 0, 2)
    np.testing.assert_array_equal(ours, expected)
    np.testing.assert_array_equal(bias, expected[0])
    parts = [(Fused(f"bias part {part}", heads, (1, 1, 1), width, part), bias) for part in range(3)]
    np.testing.assert_array_equal(transforms.join(parts), theirs[:, 0])


@given(SIZES, SIZES)
def test_gate_and_up_stand_one_after_the_other(inner: int, size: int):
    gate, up = np.random.default_rng(3).normal(size=(2, size, inner))
    hows = [Fused("transposed", 1, (1, 1), inner, part) for part in range(2)]
    np.testing.assert_array_equal(
        transforms.join(zip(hows, (gate, up), strict=True)), np.concatenate([gate.T, up.T], axis=0)
    )


@st.composite
def fills(draw: st.DrawFn) -> tuple[tuple[int, ...], list[tuple[transforms.How, np.ndarray]]]:
    """The shape of one of our arrays, and what fills it: tensors of all kinds, or one in whose rows all parts are."""
    rng = np.random.default_rng(4)
    if draw(st.booleans()):
        how = draw(st.sampled_from([name for name in sorted(SHAPES) if "part" not in name]))
        shape = tuple(draw(SHAPES[how]))
        return shape, [(how, rng.normal(size=transforms.their_shape(how, shape)).astype(np.float32))]
    size, heads, width, kind = draw(SIZES), draw(SIZES), draw(SIZES), draw(st.sampled_from(["transposed", "bias"]))
    shape = (3, heads, width) if kind == "bias" else (size, 3, heads, width)
    hows: list[transforms.How] = [f"{kind} part {part}" for part in range(3)]
    if draw(st.booleans()):
        hows = [Fused(str(how), heads, (1, 1, 1), width, part) for part, how in enumerate(hows)]
    theirs = rng.normal(size=(3, *transforms.their_shape(hows[0], shape))).astype(np.float32)
    return shape, [(how, theirs[0 if isinstance(how, Fused) else part]) for part, how in enumerate(hows)]


@given(st.data(), fills())
@settings(max_examples=200)
def test_a_box_of_an_array_is_what_the_whole_has_there(
    data: st.DataObject, case: tuple[tuple[int, ...], list[tuple[transforms.How, np.ndarray]]]
):
    shape, fill = case
    whole = np.zeros(shape, np.float16)
    for how, theirs in fill:
        transforms.write(how, whole, theirs)
    starts = tuple(data.draw(st.integers(0, size - 1)) for size in shape)
    ends = tuple(data.draw(st.integers(start + 1, size)) for start, size in zip(starts, shape, strict=True))
    box = np.zeros([end - start for start, end in zip(starts, ends, strict=True)], np.float16)
    for how, theirs in fill:
        transforms.write(how, box, theirs, whole=shape, at=starts)
    cut = tuple(slice(start, end) for start, end in zip(starts, ends, strict=True))
    np.testing.assert_array_equal(box, whole[cut])


def test_a_row_counts_in_its_role_and_for_the_arrays_a_model_has():
    """T5 numbers the feed-forward among a layer's parts, of which its decoder has one more; BigBird may lack biases."""
    bert = FAMILIES["bert"]
    rows = {**bert.rows, "layer": ()}
    up = "feed_forward.up.weight"
    rows["layer"] = (
        (up, "layer.1.wi.weight", "transposed", "encoder"),
        (up, "layer.2.wi.weight", "transposed", "decoder"),
    )
    family = dataclasses.replace(bert, rows=rows)
    roles: tuple[tuple[Role, int], ...] = (("encoder", 1), ("decoder", 2))
    for role, number in roles:
        config = StackConfig.from_hf({"model_type": "bert", **SMALL["bert"], "is_decoder": role == "decoder"})
        names = [theirs for _, (ours, theirs, _) in family.table(config, role).rows() if ours.endswith(up)]
        assert [name.removeprefix("bert.") for name in names] == [
            f"encoder.layer.{i}.layer.{number}.wi.weight" for i in (0, 1)
        ]
    config = StackConfig.from_hf({"model_type": "big_bird", **SMALL["big_bird"], "use_bias": False})
    paths = {ours for _, (ours, _, _) in FAMILIES["big_bird"].table(config, "encoder").rows()}
    assert "stack.blocks.0.self_attention.qkv.weight" in paths
    assert "stack.blocks.0.self_attention.qkv.bias" not in paths


WORDS = st.text(string.ascii_lowercase, min_size=1, max_size=5)
NAMES = st.lists(st.tuples(WORDS, WORDS, WORDS).map(".".join), min_size=2, max_size=6, unique=True)


@dataclasses.dataclass
class Named:
    """Tensors that are known by their names alone."""

    entries: dict[str, Entry]
    path: Path = Path("x")

    def read(self, name: str) -> np.ndarray:
        """Which tensor it is."""
        return np.array(name)


@given(NAMES, st.lists(st.sampled_from(["module", "_orig_mod", "net"]), max_size=3), st.booleans())
def test_wrappers_are_taken_off_names(names: list[str], around: list[str], base: bool):
    table = NameTable(
        groups={"base": tuple((name, name, "same") for name in names)}, scopes=(("", "base"),), duplicates={}, unused=()
    )
    prefix = "".join(f"{part}." for part in [*around, *(["base"] if base else [])])
    entry = Entry((1,), np.dtype(np.float32), Path("x"), 0)
    tensors, note = strip_wrappers(Named({prefix + name: entry for name in names}), table)
    assert {table.canonical(name) for name in tensors.entries} == set(names)
    assert (note is None) == (not around)
    for name in tensors.entries:
        assert str(tensors.read(name)).endswith(name)
        assert table.canonical(table.canonical(name)) == table.canonical(name)
