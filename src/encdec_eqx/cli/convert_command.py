"""`encdec-eqx convert`: another format, dtype or size of shards; a piece out of a pair, a pair of two pieces."""

import argparse
import contextlib
from collections.abc import Iterator

DESCRIPTION = (
    "Writes a checkpoint anew, as config.json and safetensors with the tokenizers and other files beside them: from "
    "safetensors, flax_model.msgpack, pytorch_model.bin (by way of torch) or GGUF; in another dtype, in shards, in "
    "int8; a piece out of a pair (--take), or a pair of two pieces (--encoder, --decoder, and TARGET alone). The "
    "target is a new folder; nothing is ever written over."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="SOURCE TARGET",
        help="folder, Hub id or .gguf file to read, and the folder to write; with --encoder, --decoder that alone",
    )
    parser.add_argument("--encoder", metavar="ENC", help="folder or Hub id of an encoder, to be joined to --decoder")
    parser.add_argument("--decoder", metavar="DEC", help="folder or Hub id of a decoder")
    parser.add_argument("--take", choices=("encoder", "decoder"), help="the piece to take out of a pair")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: as it is")
    parser.add_argument("--quantize", choices=("int8",), help="round the weights of a pair, for CPUs")
    parser.add_argument("--max-shard-size", metavar="SIZE", default="5GB", help="such as 200MB (default: 5GB)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be written, and write nothing")


def run(chosen: argparse.Namespace) -> int:
    """Convert, and say what was written."""
    from ..conversion import convert_checkpoint, join_checkpoints

    _check(chosen)
    size = int(chosen.max_shard_size) if chosen.max_shard_size.isdigit() else chosen.max_shard_size
    with _in_words_of_the_command():
        if chosen.encoder is not None:
            done = join_checkpoints(
                chosen.encoder,
                chosen.decoder,
                chosen.paths[0],
                dtype=chosen.dtype,
                method=chosen.quantize,
                max_shard_size=size,
            )
        else:
            done = convert_checkpoint(
                *chosen.paths,
                take=chosen.take,
                dtype=chosen.dtype,
                method=chosen.quantize,
                max_shard_size=size,
                dry_run=chosen.dry_run,
            )
    print(done)
    return 0


def _check(chosen: argparse.Namespace) -> None:
    joins = chosen.encoder is not None or chosen.decoder is not None
    if joins and (chosen.encoder is None or chosen.decoder is None):
        raise ValueError("--encoder and --decoder go together: give both, and TARGET.")
    if joins and (chosen.take or chosen.dry_run):
        raise ValueError(
            f"{'--take' if chosen.take else '--dry-run'} does nothing where two pieces are joined: leave it out."
        )
    expected = "TARGET" if joins else "SOURCE TARGET"
    if len(chosen.paths) != len(expected.split()):
        raise ValueError(f"got {len(chosen.paths)} paths ({' '.join(chosen.paths)}); expected {expected}.")
    for one, other in (("--quantize", "--dtype"), ("--quantize", "--take")):
        if getattr(chosen, one[2:]) and getattr(chosen, other[2:]):
            raise ValueError(f"{one} and {other} do not go together: leave one out.")


@contextlib.contextmanager
def _in_words_of_the_command() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise type(error)(str(error).replace("max_shard_size is", "--max-shard-size is")) from None
