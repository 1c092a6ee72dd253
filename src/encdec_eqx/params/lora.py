"""LoRA (Hu et al. 2021): low-rank adapters put beside linear layers, merged, taken out again, saved apart and read."""

import os
from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._quoting import listed, printable, quoted
from .._typing import PRNGKey, check_key
from ..hf.adapter import read_adapter, write_adapter
from ..hf.gathering import gathered, is_written_here, together_if_spread
from ..layers.linear import AbstractLinear, Linear, LowRank, WithLoRA, add_low_rank
from ..layers.sharded import whole_beside
from ..stack import ScannedStack, map_stacks, to_layout, unroll
from ..surgery.ties import rescan_whole, share_layers, unroll_whole
from .param_names import named
from .selectors import Selectors, select

Model = TypeVar("Model", bound=eqx.Module)

_SHOWN = 10


class _Found(NamedTuple):
    """A linear layer of an unrolled model, with its names: several if several layers share it."""

    names: tuple[str, ...]
    linear: Any


def add_lora(model: Model, selectors: Selectors, *, rank: int, alpha: float | None = None, key: PRNGKey) -> Model:
    """The same model with adapters beside the linear layers that the selectors pick; its outputs stay as they are.

    An adapter adds `alpha / rank · x A B` to a layer's output. A is uniform within 1/√in either way, as in PEFT, and B
    is zero, so that at first exactly nothing is added (compiled, the larger program may round in another order).

    Queries, keys and values of self-attention are one fused layer (`self_attention.qkv`), and so are the keys and
    values of cross-attention (`cross_attention.kv`): such a layer has one adapter, whose rank is that of the whole.

    Train the adapters alone with `trainable="lora"`. The model generates as it is; `save_pretrained` needs
    `merge_lora` first.

    Args:
        model: an `EncoderDecoder` or a piece, in either layout, which is kept.
        selectors: as in `trainable`, for the names of layers: `"self_attention"`, `"qkv | q | kv"`, `"feed_forward"`,
            `"decoder.layers.6- | enc_to_dec_proj"`.
        rank: of A and B.
        alpha: default: the rank, so that the factor is 1.
        key: draws A.

    Raises:
        ValueError: a selector is wrong, a number out of range, or a layer has an adapter already.
        NotImplementedError: a layer is shared by encoder and decoder.
    """
    check_key(key)
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}; 8 is usual.")
    scale = 1.0 if alpha is None else alpha / rank
    if not scale > 0.0:
        raise ValueError(f"alpha must be above 0, got {alpha}; as large as the rank, or twice, is usual.")
    unrolled = unroll_whole(model)
    found = _linears(unrolled)
    able = [number for number, it in enumerate(found) if _why_not(it) is None]
    picked = select(
        selectors,
        [found[number].names for number in able],
        unpickable={it.names[0]: why for it in found if (why := _why_not(it)) is not None},
    )
    new = {number for number, pick in zip(able, picked, strict=True) if pick}
    _check_not_shared(found, [found[number] for number in sorted(new)])

    def adapted(number: int, linear: Any) -> WithLoRA:
        made = LowRank.init(*linear.weight.shape, rank=rank, scale=scale, key=jax.random.fold_in(key, number))
        return WithLoRA(linear, whole_beside(linear, made))

    return rescan_whole(_replaced(unrolled, new, adapted), model)


def merge_lora(model: Model) -> Model:
    """The plain model whose weights have the adapters added to them: of the type and layout that it had without them.

    Its outputs are equal up to rounding, it is as fast as before, and `save_pretrained` saves it.

    Args:
        model: one with adapters.

    Raises:
        ValueError: the model has no adapter.
    """
    return _plain(model, WithLoRA.merged)


def drop_lora(model: Model) -> Model:
    """The plain model without the adapters: the very arrays that `add_lora` was given.

    Args:
        model: one with adapters.

    Raises:
        ValueError: the model has no adapter.
    """
    return _plain(model, lambda linear: linear.base)


def unmerge_lora(merged: Model, adapted: Model) -> Model:
    """The model with adapters again, from one in which they were merged: what they added is taken out of its weights.

    Equal to what was merged up to rounding.

    Args:
        merged: what `merge_lora` returned, or a checkpoint of it.
        adapted: a model with the same adapters; its other weights are not read. If the adapters were saved apart,
            `load_lora(merged, folder)` is one.

    Raises:
        ValueError: `adapted` has no adapter, or the two are not alike.
    """
    unrolled = unroll_whole(merged)
    ours, theirs = _linears(unrolled), _with_lora(adapted)
    if [it.names for it in ours] != [it.names for it in theirs]:
        raise ValueError("the two models have different linear layers: were the adapters made for another model?")

    loras = {number: it.linear.lora for number, it in enumerate(theirs) if isinstance(it.linear, WithLoRA)}

    def split(number: int, linear: Any) -> WithLoRA:
        _check_fit({theirs[number].names[0]: (linear, loras[number])})
        return WithLoRA(add_low_rank(linear, loras[number], -1.0), loras[number])

    return rescan_whole(_replaced(unrolled, loras, split), merged)


def save_lora(model: eqx.Module, folder: str | os.PathLike) -> None:
    """Save the adapters alone: `lora.safetensors` and `lora.json`.

    Args:
        model: a model with adapters, in either layout.
        folder: made if it does not exist; other files in it stay.

    Raises:
        ValueError: the model has no adapter, or the folder is a file.
    """
    adapters = {it.names[0]: it.linear.lora for it in _with_lora(model) if isinstance(it.linear, WithLoRA)}
    tensors = {
        f"{name}.lora.{part}": gathered(array)
        for name, lora in adapters.items()
        for part, array in (("a", lora.a), ("b", lora.b))
    }
    scales = {name: lora.scale for name, lora in adapters.items()}
    with together_if_spread(model, "saving adapters"):
        if is_written_here(model):
            write_adapter(folder, tensors, {"format": FORMAT, "version": 1, "scales": scales})


def load_lora(model: Model, folder: str | os.PathLike) -> Model:
    """The same model with the adapters that `save_lora` saved.

    Args:
        model: the model without adapters, in either layout, which is kept.
        folder: where they are.

    Raises:
        MissingFileError: a file is not there (a FileNotFoundError and a ValueError).
        ValueError: the files are damaged or do not fit the model: all problems in one message.
        NotImplementedError: a layer is shared by encoder and decoder.
    """
    adapters = read_factors(folder)
    unrolled = unroll_whole(model)
    found = {it.names[0]: it for it in _linears(unrolled)}
    unknown = sorted(set(adapters) - set(found))
    problems = [f"the model has no linear layer {quoted(name)}" for name in unknown]
    problems += [f"{name!r} {why}" for name in adapters if name in found and (why := _why_not(found[name]))]
    if problems:
        raise ValueError(f"the adapters in {printable(folder)} do not fit the model: {listed(problems, _SHOWN, '; ')}.")
    where = f"the adapters in {printable(folder)}"
    _check_fit({name: (found[name].linear, lora) for name, lora in adapters.items()}, where)
    _check_not_shared(list(found.values()), [found[name] for name in adapters])
    loras = {number: adapters[name] for number, name in enumerate(found) if name in adapters}

    def adapted(number: int, linear: Any) -> WithLoRA:
        return WithLoRA(linear, whole_beside(linear, loras[number]))

    return rescan_whole(_replaced(unrolled, loras, adapted), model)


def _is_linear(node: Any) -> bool:
    return isinstance(node, AbstractLinear)


def _linears(unrolled: Any) -> list[_Found]:
    return [_Found(names, node) for names, node in named(unrolled, _is_linear) if _is_linear(node)]


def _replaced(tree: Any, chosen: Container[int], new: Callable[[int, Any], Any]) -> Any:
    """The tree with some of its linear layers, which are numbered in order, replaced."""
    nodes, structure = jax.tree.flatten(tree, is_leaf=_is_linear)
    for number, at in enumerate(at for at, node in enumerate(nodes) if _is_linear(node)):
        if number in chosen:
            nodes[at] = new(number, nodes[at])
    return jax.tree.unflatten(structure, nodes)


def _why_not(found: _Found) -> str | None:
    """Why a layer can have no adapter, or None if it can."""
    linear = found.linear
    if isinstance(linear, WithLoRA):
        return "has an adapter already: merge it first (merge_lora), or drop it (drop_lora)"
    if not isinstance(linear, Linear):
        return f"is a {type(linear).__name__}; adapters go beside a plain Linear"
    if linear.weight is None:
        return "is shared with the decoder, which holds it"
    return "is carried without being read" if found.names[0].endswith("pooler") else None


def _check_not_shared(found: list[_Found], picked: list[_Found]) -> None:
    """The encoder's empty layers are the decoder's of the same name; cross-attention has no namesake."""
    empty = [it for it in found if isinstance(it.linear, Linear) and it.linear.weight is None]
    shared = {name.replace("encoder.", "decoder.", 1) for it in empty for name in it.names}
    for it in picked:
        if shared.intersection(it.names):
            raise NotImplementedError(
                f"{it.names[0]!r} is shared by encoder and decoder, and an adapter would be in one of them only. Take "
                "a selector such as 'cross_attention', which is the decoder's own, or give the encoder arrays of its "
                "own first: model = dataclasses.replace(model, encoder=model.pieces()[0], ties=())."
            )


def _with_lora(model: eqx.Module) -> list[_Found]:
    found = _linears(unroll(model))
    if not any(isinstance(it.linear, WithLoRA) for it in found):
        raise ValueError("the model has no low-rank adapter: add_lora(model, ...) makes some.")
    return found


def _plain(model: Any, made: Callable[[WithLoRA], Linear]) -> Any:
    _with_lora(model)
    plain = jax.tree.map(lambda it: made(it) if isinstance(it, WithLoRA) else it, model, is_leaf=_is_linear)
    if share_layers(getattr(model, "ties", ())):
        return rescan_whole(plain, model)
    # adapters on some layers only had cut the stacks
    return map_stacks(_joined, plain)


def _joined(stack: Any) -> Any:
    if not isinstance(stack, ScannedStack):
        return stack
    return to_layout(stack, "scanned", remat=stack.remat, unroll=stack.unroll)


def _check_fit(pairs: dict[str, tuple[Linear, LowRank]], adapters: str = "adapters") -> None:
    wrong = [
        f"{name!r} is {tuple(linear.weight.shape)}, its adapter {tuple(lora.a.shape)} by {tuple(lora.b.shape)}"
        for name, (linear, lora) in pairs.items()
        if tuple(linear.weight.shape) != (lora.a.shape[0], *lora.b.shape[1:])
    ]
    if wrong:
        raise ValueError(f"{adapters} do not fit the model's weights (in, *out): {listed(wrong, _SHOWN, '; ')}.")


FORMAT = "encdec_eqx-lora"
"""What `lora.json` says that the files are."""


def read_factors(folder: str | os.PathLike) -> dict[str, LowRank]:
    """The factors of each layer, by its name.

    Raises:
        MissingFileError: a file is not there (a FileNotFoundError and a ValueError).
        ValueError: the files are damaged, or disagree.
    """
    tensors, settings = read_adapter(folder)
    scales, where = settings.get("scales"), printable(folder)
    if settings.get("format") != FORMAT or not isinstance(scales, dict):
        raise ValueError(f"lora.json in {where} is not what save_lora writes; save the adapters again.")
    expected = {f"{name}.lora.{part}" for name in scales for part in "ab"}
    if expected != set(tensors):
        raise ValueError(
            f"lora.json and lora.safetensors in {where} disagree, for example on "
            f"{quoted(sorted(expected ^ set(tensors))[0])}; save the adapters again."
        )
    return {name: _factors(name, scale, tensors, where) for name, scale in scales.items()}


def _factors(name: str, scale: Any, tensors: Mapping[str, np.ndarray], where: str) -> LowRank:
    a, b = tensors[f"{name}.lora.a"], tensors[f"{name}.lora.b"]
    damaged = f"the adapter of {quoted(name)} in {where} is damaged"
    if a.ndim != 2 or b.ndim < 2 or a.shape[1] != b.shape[0]:
        raise ValueError(f"{damaged}: A is {a.shape}, B is {b.shape}; expected (in, rank) and (rank, *out).")
    if not (jnp.issubdtype(a.dtype, jnp.floating) and a.dtype == b.dtype):
        raise ValueError(f"{damaged}: A holds {a.dtype}, B {b.dtype}; expected one floating-point dtype.")
    # float32 has the number; a whole one may be beyond what a float holds at all
    most = float(np.finfo(np.float32).max)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not -most <= scale <= most:
        raise ValueError(f"{damaged}: its factor is {quoted(scale)}; expected a finite number.")
    return LowRank(jnp.asarray(a), jnp.asarray(b), float(scale))
