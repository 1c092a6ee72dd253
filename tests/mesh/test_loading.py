"""Models loaded straight onto a mesh are those loaded and then spread, and are saved as those of one device."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from encdec_eqx import (
    AttentionConfig,
    CrossAttention,
    Decoder,
    Encoder,
    EncoderDecoder,
    FeedForwardConfig,
    LayerSpec,
    make_mesh,
    quantize,
    with_mesh,
)
from encdec_eqx.hf.files.flax_file import FlaxFile
from encdec_eqx.hf.load import load
from encdec_eqx.hf.names import NameTable
from encdec_eqx.params.lora import add_lora, save_lora
from encdec_eqx.params.sharding import RULES, mesh_of
from encdec_eqx.text import TextToText
from models import decoder_config, encoder_config, randomised, tiny_pair


def _encoder_config() -> Any:
    return encoder_config(16, attention=AttentionConfig(num_heads=8, head_dim=2))


def _decoder_config(**changes: Any) -> Any:
    sizes = {"attention": AttentionConfig(num_heads=8, head_dim=4), "feed_forward": FeedForwardConfig(size=64)}
    return decoder_config(32, **{**sizes, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair of two widths, in one file and in shards, and a decoder without cross-attention."""
    place = tmp_path_factory.mktemp("checkpoints")
    pair = tiny_pair(_encoder_config(), _decoder_config())
    pair.save_pretrained(place / "pair")
    pair.save_pretrained(place / "shards", max_shard_size="20KB")
    pair.encoder.save_pretrained(place / "encoder")
    bare = Decoder.init(_decoder_config(layers=(LayerSpec(),) * 2), key=jax.random.key(1))
    randomised(bare).save_pretrained(place / "bare")
    Decoder.init(decoder_config(12), key=jax.random.key(1)).save_pretrained(place / "odd")
    quantize(pair, "int8").save_pretrained(place / "int8")
    return place


def assert_same(one: Any, other: Any) -> None:
    """That two models are one: as programs, bit for bit, and on every device."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for mine, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert (mine.dtype, mine.sharding) == (theirs.dtype, theirs.sharding)
        for part, its in zip(mine.addressable_shards, theirs.addressable_shards, strict=True):
            assert (part.device, part.index) == (its.device, its.index)
            np.testing.assert_array_equal(np.asarray(part.data), np.asarray(its.data))


LOADED: dict[str, Callable[..., Any]] = {
    "pair": lambda place, **on: EncoderDecoder.from_pretrained(place / "pair", **on),
    "shards as they are": lambda place, **on: EncoderDecoder.from_pretrained(place / "shards", dtype=None, **on),
    "shards in bfloat16": lambda place, **on: EncoderDecoder.from_pretrained(
        place / "shards", dtype=jnp.bfloat16, **on
    ),
    "encoder": lambda place, **on: Encoder.from_pretrained(place / "encoder", **on),
    "decoder, drawn cross-attention": lambda place, **on: Decoder.from_pretrained(
        place / "bare", key=jax.random.key(7), **on
    ),
    "decoder, copied cross-attention": lambda place, **on: Decoder.from_pretrained(
        place / "bare", cross_attention=CrossAttention(init="copy"), **on
    ),
    "two pieces": lambda place, **on: EncoderDecoder.from_encoder_decoder_pretrained(
        place / "encoder", place / "bare", key=jax.random.key(8), decoder_cross_attention=CrossAttention(every=2), **on
    ),
    "texts": lambda place, **on: TextToText.from_pieces("letters", "phonemes", **on).model,
}


@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("what", LOADED)
def test_a_model_loaded_onto_a_mesh_is_the_one_that_is_loaded_and_spread(
    folder: Path, what: str, sizes: tuple[int, int, int]
):
    mesh = make_mesh(*sizes)
    loaded = LOADED[what](folder, mesh=mesh)
    assert mesh_of(loaded) == mesh
    assert_same(loaded, with_mesh(LOADED[what](folder), mesh))


def test_rules_are_those_of_with_mesh(folder: Path):
    mesh, rules = make_mesh(tensor=8), {**RULES, "heads": (), "kv_heads": ()}
    loaded = EncoderDecoder.from_pretrained(folder / "pair", mesh=mesh, rules=rules)
    assert_same(loaded, with_mesh(EncoderDecoder.from_pretrained(folder / "pair"), mesh, rules=rules))


REFUSED: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "no mesh": (
        lambda place: EncoderDecoder.from_pretrained(place / "pair", mesh=(2, 4)),  # pyright: ignore[reportArgumentType]
        TypeError,
        "mesh must be a jax.sharding.Mesh",
    ),
    "rules alone": (
        lambda place: Encoder.from_pretrained(place / "encoder", rules=RULES),
        TypeError,
        r"there is none: give mesh=encdec_eqx.make_mesh",
    ),
    "an axis that does not divide": (
        lambda place: Decoder.from_pretrained(place / "odd", mesh=make_mesh(4, 1, 2)),
        ValueError,
        "has 3 'heads', which tensor=2 does not divide",
    ),
    "int8": (
        lambda place: EncoderDecoder.from_pretrained(place / "int8", mesh=make_mesh(8)),
        ValueError,
        "holds an int8 model, which generates on one CPU: leave mesh= out",
    ),
    "a mesh for one piece": (
        lambda place: EncoderDecoder.from_encoder_decoder_pretrained(
            place / "encoder", place / "bare", encoder_mesh=make_mesh(8)
        ),
        TypeError,
        "both pieces lie on one mesh: give mesh= instead",
    ),
    "texts, a mesh for one piece": (
        lambda place: TextToText.from_pieces("letters", "phonemes", decoder_mesh=make_mesh(8)),
        TypeError,
        "both pieces lie on one mesh: give mesh= instead",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_is_refused_before_anything_is_read(folder: Path, what: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("encdec_eqx.hf.transforms.copy_mapped", None)
    call, error, message = REFUSED[what]
    with pytest.raises(error, match=message):
        call(folder)


def test_an_old_flax_file_is_read_whole_and_placed(tmp_path: Path):
    kernel = np.arange(16 * 64, dtype=np.float32).reshape(64, 16)
    array: Any = msgpack.packb((kernel.shape, "float32", kernel.tobytes()), use_bin_type=True)
    content: Any = msgpack.packb({"wi": {"kernel": msgpack.ExtType(1, array)}}, use_bin_type=True)
    (tmp_path / "flax_model.msgpack").write_bytes(content)
    sharding = NamedSharding(make_mesh(2, 2, 2), PartitionSpec("fsdp", "tensor"))
    skeleton = {"wi": jax.ShapeDtypeStruct(kernel.shape, jnp.float32)}
    table = NameTable(groups={"all": (("wi", "wi.weight", "transposed"),)})
    file = FlaxFile(tmp_path / "flax_model.msgpack")
    made, _ = load(skeleton, table, file, what="it", dtype=None, shardings=lambda _: {"wi": sharding})
    assert made["wi"].sharding == sharding
    np.testing.assert_array_equal(np.asarray(made["wi"]), kernel)


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
@pytest.mark.parametrize("size", ["1GB", "20KB"])
def test_a_spread_model_is_saved_byte_for_byte(folder: Path, tmp_path: Path, layout: Any, size: str):
    pair = EncoderDecoder.from_pretrained(folder / "pair").with_layout(layout)
    pair.save_pretrained(tmp_path / "whole", max_shard_size=size)
    with_mesh(pair, make_mesh(2, 2, 2)).save_pretrained(tmp_path / "spread", max_shard_size=size)
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert names == {path.name for path in (tmp_path / "spread").iterdir()} and (len(names) > 6) == (size == "20KB")
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "spread" / name).read_bytes(), name


def test_adapters_of_a_spread_model_are_saved_byte_for_byte(folder: Path, tmp_path: Path):
    pair = add_lora(EncoderDecoder.from_pretrained(folder / "pair"), "cross_attention", rank=2, key=jax.random.key(2))
    save_lora(pair, tmp_path / "whole")
    save_lora(with_mesh(pair, make_mesh(2, 2, 2)), tmp_path / "spread")
    for name in ("lora.safetensors", "lora.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "spread" / name).read_bytes()


# Memory that saving takes, in its largest tensors: measured 2.0, one gathered and the same in the file's order.
MOST_TENSORS = 2.2


def test_one_tensor_at_a_time_is_gathered(tmp_path: Path):
    wide = {"attention": AttentionConfig(num_heads=8, head_dim=32), "feed_forward": FeedForwardConfig(size=1024)}
    model = Decoder.init(decoder_config(256, depth=4, **wide), key=jax.random.key(0))
    spread = with_mesh(model, make_mesh(1, 4, 2))
    largest = max(leaf.nbytes for leaf in jax.tree.leaves(model))
    assert largest * 8 < sum(leaf.nbytes for leaf in jax.tree.leaves(model))
    del model
    tracemalloc.start()
    spread.save_pretrained(tmp_path)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MOST_TENSORS * largest
    assert kept < largest  # what is kept are traces of programs
