"""The heat map of an alignment: what is drawn, read off the figure; that it is legible; what its files are."""

import itertools
import logging
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from encdec_eqx import EncoderDecoder, plotting
from encdec_eqx.alignment import Alignment, align
from encdec_eqx.plotting import heat_map
from encdec_eqx.text import TextToText, TokenizerPair
from models import decoder_config, encoder_config, random_ids, randomised, tiny_pair
from tokenizers_of import CLS, PAD, SEP, word_pieces


@pytest.fixture(scope="module")
def speaker() -> TextToText:
    tokens = {"eos_token_id": SEP, "bos_token_id": CLS, "pad_token_id": PAD}
    pair = tiny_pair(encoder_config(depth=1), decoder_config(depth=2, **tokens))
    return TextToText(randomised(pair, spread=0.5), TokenizerPair(word_pieces(), word_pieces()))


@pytest.fixture(scope="module")
def pair() -> EncoderDecoder:
    return tiny_pair(encoder_config(depth=1), decoder_config(depth=2))


def _labels(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def _texts(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({}, "mean of layers 0, 1, mean of heads"),
        ({"layer": -1}, "layer 1, mean of heads"),
        ({"head": 2}, "mean of layers 0, 1, head 2"),
        ({"layer": 0, "head": 1}, "layer 0, head 1"),
    ],
)
def test_the_weights_asked_for_are_drawn_with_their_tokens(speaker: TextToText, chosen: dict, told: str):
    figure = plotting.alignment(speaker, "the cats sat", "hello dog", title="Two", **chosen)
    found = align(speaker, "the cats sat", "hello dog")
    axes, bar = figure.axes
    (mesh,) = axes.collections
    np.testing.assert_array_equal(mesh.get_array(), found.weights(**chosen))
    assert mesh.get_clim() == (0.0, pytest.approx(float(found.weights(**chosen).max())))
    assert _labels(axes.xaxis) == ["[CLS]", "the", "cat", "·s", "sat", "[SEP]"]
    assert _labels(axes.yaxis) == ["hello", "dog", "[SEP]"]
    assert axes.yaxis_inverted()
    assert _texts(figure) == [told]
    assert (axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()) == ("Two", "source", "target")
    assert bar.get_ylabel() == "attention"


def test_ids_are_drawn_with_the_words_given_for_them(pair: EncoderDecoder):
    figure = plotting.alignment(pair, [3, 4, 0], [5, 2], attention_mask=[1, 1, 0], source_tokens=["Hund", "hat", "-"])
    assert (_labels(figure.axes[0].xaxis), _labels(figure.axes[0].yaxis)) == (["Hund", "hat"], ["5", "2"])


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "deep/a.svg"])
def test_the_ending_says_what_file_it_is(pair: EncoderDecoder, tmp_path: Path, name: str):
    path = plotting.alignment(pair, random_ids(1, 5), [*random_ids(2, 3), 2], tmp_path / name)
    assert list(path.parent.iterdir()) == [path]
    if path.suffix == ".svg":
        first = path.read_bytes()
        assert b">source</text>" in first
        plotting.alignment(pair, random_ids(1, 5), [*random_ids(2, 3), 2], path)
        assert path.read_bytes() == first, "the same picture is the same file"
    else:
        image = imread(path)
        assert image.min() < 0.5 < image.max()


def test_a_path_is_tried_before_anything_is_computed(pair: EncoderDecoder, tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr(heat_map, "align", None)
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for path, message in (
        (tmp_path / "a.jpg", r"a\.jpg; expected a name that ends with \.png or \.svg"),
        (tmp_path / "a", r"expected a name that ends with \.png or \.svg"),
        (tmp_path / "file" / "a.png", r"the folder of path, \S*file is a file"),
        (tmp_path / "folder.png", r"folder\.png, which is a folder; give a file"),
    ):
        with pytest.raises(ValueError, match=message):
            plotting.alignment(pair, [3], [2], path)


def test_a_layer_or_head_that_is_not_there_is_refused_at_once(pair: EncoderDecoder, monkeypatch: Any):
    monkeypatch.setattr(heat_map, "align", None)
    with pytest.raises(ValueError, match="there is no layer 2: the decoder has 2"):
        plotting.alignment(pair, [3, 4], [5, 2], layer=2)
    with pytest.raises(ValueError, match="there is no head -4: each layer has 3"):
        plotting.alignment(pair, [3, 4], [5, 2], head=-4)


# --- pictures of weights that no model made


def _drawn(monkeypatch: Any, source: list[str], target: list[str], path: Path | None = None, **changes: Any) -> Any:
    weights = np.random.default_rng(0).dirichlet(np.ones(len(source)), (2, len(target))).astype(np.float32)
    found = Alignment(tuple(source), tuple(target), (None, weights), **changes)
    monkeypatch.setattr(heat_map, "align", lambda *_, **__: found)
    return plotting.alignment(tiny_pair(), None, None, path) if path else plotting.alignment(tiny_pair(), None, None)


WORDS = ["The", "committee", "·'s", "unexpectedly", "·inter", "·national", ",", "of", "policies", "had", "</s>"]


@pytest.mark.parametrize(("columns", "rows"), [(40, 40), (40, 3), (2, 40), (3, 3), (110, 90)])
def test_tokens_are_legible_and_none_covers_another(monkeypatch: Any, columns: int, rows: int):
    figure = _drawn(monkeypatch, (WORDS * 10)[:columns], (WORDS * 10)[:rows])
    axes, _ = figure.axes
    figure.draw_without_rendering()
    whole = figure.bbox
    for axis in (axes.xaxis, axes.yaxis):
        boxes = [label.get_window_extent() for label in axis.get_ticklabels()]
        assert not [pair for pair in itertools.pairwise(boxes) if pair[0].overlaps(pair[1])]
        assert all(whole.contains(*box.min) and whole.contains(*box.max) for box in boxes)
        assert all(label.get_fontsize() >= 8 for label in axis.get_ticklabels())
    width, height = (axes.get_window_extent().size / figure.dpi).round(3)
    assert width / columns == pytest.approx(height / rows, rel=0.01), "cells are square"


def test_letters_stand_upright_and_words_are_turned(monkeypatch: Any):
    figure = _drawn(monkeypatch, [*"letters", "[END]"], ["L", "EH"])
    assert [label.get_rotation() for label in figure.axes[0].get_xticklabels()] == [0.0] * 7 + [90.0]
    figure = _drawn(monkeypatch, ["of", "words", "there", "are"], ["L"])
    assert {label.get_rotation() for label in figure.axes[0].get_xticklabels()} == {90.0}


def test_hundreds_of_tokens_are_still_a_picture(monkeypatch: Any, tmp_path: Path):
    path = _drawn(monkeypatch, (WORDS * 12)[:130], (WORDS * 12)[:100], tmp_path / "a.svg")
    assert path.stat().st_size < 3_000_000
    assert "<image" in path.read_text(encoding="utf-8")


def test_tokens_are_text_and_never_formulas_and_long_ones_are_cut(monkeypatch: Any, tmp_path: Path):
    odd = ["$x^2$", "$", "_{", "a" * 40, "\\frac"]
    path = _drawn(monkeypatch, odd, odd[::-1], tmp_path / "a.svg")
    drawn = path.read_text(encoding="utf-8")
    assert drawn.count(">$x^2$</text>") == drawn.count(f">{'a' * 23}…</text>") == 2


def test_letters_that_no_font_has_are_named_once(monkeypatch: Any, tmp_path: Path, caplog: Any):
    with caplog.at_level(logging.WARNING, "encdec_eqx"):
        _drawn(monkeypatch, ["a", "\U0001fbff"], ["\U000e0041"], tmp_path / "a.png")
        _drawn(monkeypatch, ["a", "é"], ["b"], tmp_path / "b.png")
    (record,) = caplog.records
    assert "no font of this machine has" in record.getMessage()


def test_what_a_merged_softmax_leaves_to_the_target_is_told(monkeypatch: Any):
    figure = _drawn(monkeypatch, ["a"] * 20, ["b"] * 20, merged=True)
    assert figure.axes[1].get_ylabel() == "attention to the source, the target's left out"


def test_settings_and_figures_of_the_user_are_left_alone(pair: EncoderDecoder, tmp_path: Path):
    before = dict(matplotlib.rcParams)
    plotting.alignment(pair, [3, 4], [5, 2], tmp_path / "a.svg")
    assert dict(matplotlib.rcParams) == before
