"""The demo's pieces: loaded and joined, and what the scripts that pretrained them share (`examples/pronounce/`)."""

from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from encdec_eqx import Decoder, Encoder, EncoderDecoder
from encdec_eqx.training.optim.muon_adafactor import orthogonalize

from .lexicon import LETTER_PAD, encode_word

IGNORED_LABEL = -100
Batch = dict[str, np.ndarray]
_ASSETS = resources.files("encdec_eqx.demo").joinpath("assets")


def load_pieces(*, seed: int = 0) -> tuple[Encoder, Decoder]:
    """The character BERT and the phoneme GPT-2; the decoder's cross-attention is newly initialised from `seed`."""
    with resources.as_file(_ASSETS.joinpath("letters")) as letters:
        encoder = Encoder.from_pretrained(letters)
    with resources.as_file(_ASSETS.joinpath("phonemes")) as phonemes:
        decoder = Decoder.from_pretrained(phonemes, key=jax.random.key(seed))
    return encoder, decoder


def load_trained() -> EncoderDecoder:
    """A pair of the same families, somewhat larger, trained to the end on the training words.

    Made by `examples/pronounce/train.py`; `docs/demo.md` has its figures.
    """
    with resources.as_file(_ASSETS.joinpath("pronounce")) as folder:
        return EncoderDecoder.from_pretrained(folder)


def random_pieces(*, seed: int = 0) -> tuple[Encoder, Decoder]:
    """Pieces of the same configurations with nothing learned: the cold start that the demo is compared with."""
    encoder, decoder = load_pieces()
    encoder_key, decoder_key = jax.random.split(jax.random.key(seed))
    return Encoder.init(encoder.config, key=encoder_key), Decoder.init(decoder.config, key=decoder_key)


def join(encoder: Encoder, decoder: Decoder, *, seed: int = 0) -> EncoderDecoder:
    """The pair; the projection between the two widths is newly initialised from `seed`."""
    return EncoderDecoder.from_pieces(encoder, decoder, key=jax.random.fold_in(jax.random.key(seed), 1))


def encode_words(words: Sequence[str], *, width: int, rows: int | None = None) -> dict[str, Any]:
    """`input_ids` and `attention_mask` of a batch of words, padded on the right to `width`.

    Args:
        words: what to encode.
        width: ids per row, EOS included.
        rows: rows of the result; the last word is repeated to fill them. Default: one row a word.

    Raises:
        WordError: a word that cannot be read, or does not fit into `width`.
    """
    filled = [*words, *[words[-1]] * ((rows or len(words)) - len(words))]
    ids = padded([encode_word(word, max_letters=width - 1) for word in filled], width, LETTER_PAD)
    return {"input_ids": ids, "attention_mask": ids != LETTER_PAD}


def shuffled(groups: Sequence[tuple[Batch, int]], *, seed: int) -> Iterator[Batch]:
    """Batches without end from groups of equal-width rows.

    Each pass shuffles the rows of every group and then the order of all batches; rows that do not fill a batch wait for
    the next pass.

    Args:
        groups: arrays whose first axis is the rows, and how many rows make a batch.
        seed: decides the order, wholly.

    Raises:
        ValueError: no group holds enough rows for one batch.
    """
    random = np.random.default_rng(seed)
    if not any(len(next(iter(arrays.values()))) >= rows for arrays, rows in groups):
        raise ValueError("no group of equally wide rows fills one batch: give more data or smaller batches")
    while True:
        plan = []
        for arrays, rows in groups:
            order = random.permutation(len(next(iter(arrays.values()))))
            plan += [(arrays, order[i : i + rows]) for i in range(0, len(order) - rows + 1, rows)]
        for index in random.permutation(len(plan)):
            arrays, chosen = plan[index]
            yield {name: array[chosen] for name, array in arrays.items()}


def padded(rows: Sequence[Sequence[int]], width: int, fill: int) -> np.ndarray:
    """Rows of ids as one array, padded on the right."""
    array = np.full((len(rows), width), fill, np.int32)
    for row, ids in zip(array, rows, strict=True):
        row[: len(ids)] = ids
    return array


def muon(
    learning_rate: float, *, steps: int, adam_learning_rate: float = 3e-3, momentum: float = 0.95, warmup: float = 0.05
) -> optax.GradientTransformation:
    """Muon and Adam under one schedule: a linear warm-up, then a linear decay to zero at `steps`.

    Args:
        learning_rate: peak for the layers' matrices, scaled for each by sqrt(max(1, out / in)).
        steps: length of the schedule.
        adam_learning_rate: peak for embeddings, biases and norms.
        momentum: Muon's momentum (Nesterov's).
        warmup: fraction of `steps` in which the rate rises.
    """
    rise = max(1, round(warmup * steps))
    shape = optax.schedules.join_schedules(
        [
            optax.schedules.linear_schedule(0.0, -1.0, rise),
            optax.schedules.linear_schedule(-1.0, 0.0, max(1, steps - rise)),
        ],
        [rise],
    )
    return optax.chain(
        optax.transforms.partition(
            {
                "muon": optax.chain(_orthogonal_momentum(momentum), optax.scale(learning_rate)),
                "adam": optax.chain(optax.scale_by_adam(b2=0.98), optax.scale(adam_learning_rate)),
            },
            _labels,
        ),
        optax.scale_by_schedule(shape),
    )


def _labels(params: Any) -> Any:
    """`"muon"` for weights of linear layers, `"adam"` for tables, biases and norms."""

    def label(path: tuple, leaf: Any) -> str:
        name = jax.tree_util.keystr(path)
        is_matrix = name.endswith(".weight") and leaf.ndim >= 2 and ".embeddings." not in name
        return "muon" if is_matrix else "adam"

    return jax.tree_util.tree_map_with_path(label, params)


def _orthogonal_momentum(decay: float) -> optax.GradientTransformation:
    def init(params: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        state = jax.tree.map(lambda m, g: decay * m + (1 - decay) * g, state, updates)
        ahead = jax.tree.map(lambda m, g: decay * m + (1 - decay) * g, state, updates)
        return orthogonalised(ahead), state

    return optax.GradientTransformation(init, update)


def orthogonalised(tree: Any) -> Any:
    """Each leaf, an (in, …) weight, with its matrices made orthogonal and scaled by sqrt(max(1, out / in)).

    The parts of a fused weight (in, parts, heads, head_dim) are matrices of their own. Matrices of one shape go
    through together.
    """
    leaves, structure = jax.tree.flatten(tree)
    batches = orthogonalize([_as_matrices(leaf) for leaf in leaves])
    scaled = [batch * max(1.0, batch.shape[2] / batch.shape[1]) ** 0.5 for batch in batches]
    done = [_from_matrices(batch, leaf.shape) for batch, leaf in zip(scaled, leaves, strict=True)]
    return jax.tree.unflatten(structure, done)


def _as_matrices(leaf: jax.Array) -> jax.Array:
    """(count, in, out)."""
    if leaf.ndim == 4:
        return jnp.moveaxis(leaf.reshape(*leaf.shape[:2], -1), 1, 0)
    return leaf.reshape(1, leaf.shape[0], -1)


def _from_matrices(matrices: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jnp.moveaxis(matrices, 0, 1).reshape(shape)
