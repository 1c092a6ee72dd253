"""Two processes load one model, each what its own devices hold, and save it together: the first writes."""

from pathlib import Path

import jax

from encdec_eqx import AttentionConfig, Decoder, EncoderDecoder, FeedForwardConfig, LayerSpec
from encdec_eqx.params.lora import add_lora, save_lora
from models import decoder_config, encoder_config, randomised, tiny_pair
from two_processes import run_two

TWO = """
    import sys
    from pathlib import Path

    import numpy as np

    from encdec_eqx import CrossAttention, Decoder, EncoderDecoder, make_mesh, with_mesh
    from encdec_eqx._processes import OtherProcessError
    from encdec_eqx.hf import save, transforms
    from encdec_eqx.params.lora import add_lora, save_lora

    place, mesh, read = Path(sys.argv[1]), make_mesh(fsdp=4), []
    copy, write_file = transforms.copy_mapped, save.write_file

    def counted(target, source):
        read.append(source.nbytes)
        copy(target, source)

    def whole_and_spread(load):
        transforms.copy_mapped = counted
        read.clear()
        spread = load(mesh=mesh)
        transforms.copy_mapped = copy
        for mine, whole in zip(jax.tree.leaves(spread), jax.tree.leaves(load()), strict=True):
            for part in mine.addressable_shards:
                np.testing.assert_array_equal(np.asarray(part.data), np.asarray(whole)[part.index])
        return spread, sum(read)

    pair, bytes_read = whole_and_spread(lambda **on: EncoderDecoder.from_pretrained(place / "pair", **on))
    held = sum({(name, str(part.index)): part.data.nbytes for name, leaf in enumerate(jax.tree.leaves(pair))
                for part in leaf.addressable_shards}.values())
    print("read what is held", bytes_read == held, held < 0.7 * sum(leaf.nbytes for leaf in jax.tree.leaves(pair)))
    for how in (None, CrossAttention(init="copy"), CrossAttention(init="zero_gate")):
        whole_and_spread(lambda **on: Decoder.from_pretrained(place / "bare", cross_attention=how, **on))
    pair.save_pretrained(place / "saved", max_shard_size="20KB")
    save_lora(add_lora(pair, "cross_attention", rank=2, key=jax.random.key(2)), place / "saved")

    def fails(folder):
        try:
            pair.save_pretrained(folder)
        except Exception as error:
            print(type(error).__name__, str(error).replace(str(place), ""))

    fails(place / "pair" / "config.json")

    def full(path, tensors):
        list(tensors)[0][3]()
        raise OSError("no space left on device")

    save.write_file = full
    fails(place / "full")
    print("nothing of it stays", not (place / "full").exists())
"""


def test_two_processes_load_and_save_together(tmp_path: Path):
    heads = AttentionConfig(num_heads=4, head_dim=8)
    sizes = {"attention": heads, "feed_forward": FeedForwardConfig(size=64)}
    pair = tiny_pair(encoder_config(16), decoder_config(32, **sizes))
    pair.save_pretrained(tmp_path / "pair")
    pair = EncoderDecoder.from_pretrained(tmp_path / "pair")
    pair.save_pretrained(tmp_path / "alone", max_shard_size="20KB")
    save_lora(add_lora(pair, "cross_attention", rank=2, key=jax.random.key(2)), tmp_path / "alone")
    bare = Decoder.init(decoder_config(32, **sizes, layers=(LayerSpec(),) * 2), key=jax.random.key(1))
    randomised(bare).save_pretrained(tmp_path / "bare")
    first, second = run_two(TWO, tmp_path)
    assert (first.status, second.status) == (0, 0), first.errors[-3000:] + second.errors[-3000:]
    assert first.lines[0] == second.lines[0] == "read what is held True True"
    assert first.lines[1:] == [
        "ValueError cannot save to /pair/config.json: it is a file; expected a folder, or a path where none is yet.",
        "OSError no space left on device",
        "nothing of it stays True",
    ]
    told = "OtherProcessError another process failed while"
    assert second.lines[1].startswith(f"{told} looking at where to save: process 0: ValueError: cannot save to")
    assert second.lines[2] == f"{told} saving a model: process 0: OSError: no space left on device"
    names = {path.name for path in (tmp_path / "alone").iterdir()}
    assert names == {path.name for path in (tmp_path / "saved").iterdir()} and len(names) > 6
    for name in names:
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "saved" / name).read_bytes(), name
