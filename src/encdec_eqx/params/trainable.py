"""Which leaves of a model a step updates, and a summary of them part by part, with what they cost in bytes."""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .._quoting import quoted
from ..decoder import Decoder
from ..encoder import Encoder
from ..heads import LMHead
from ..inputs.tokens import Embeddings
from ..layers.int8 import is_int8
from ..layers.linear import Embedding
from ..stack import ScannedStack, map_stacks, to_layout
from ..surgery.ties import remap_ties, scan_alike, share_layers, tie
from .param_names import places, slots
from .selectors import Selectors, select

Model = TypeVar("Model", bound=eqx.Module)


def trainable(model: eqx.Module, selectors: Selectors | None = None) -> PyTree[bool]:
    """A tree like `model` with True for every floating-point array that it reads and the selectors pick.

    False are the constants (sinusoids, BART's bias of the logits) and the arrays that are only kept for the
    round trip: poolers, and position embeddings that are not added (relative positions). They get no
    gradient, no optimiser state and no weight decay.

    A selector is made of parts joined by `|`. A part is a name of the model's parts, or any run of its components:
    `encoder`, `decoder.embeddings`, `enc_to_dec_proj`, `lm_head`, `cross_attention`, `self_attention.qkv`,
    `feed_forward`, `norm`, `bias`, `lora`; layers are numbered from 0 and ranges take in both ends:
    `encoder.layers.0-3`, `decoder.layers.6-`, `layers.-2`; `*` and `?` stand for anything inside a component. `!`
    before a part takes it away, wherever it stands; with nothing but such parts, all else is picked. A norm belongs to
    the sublayer that it serves. Arrays shared by the two pieces are the decoder's.

    Args:
        model: a model in either layout, or a piece.
        selectors: for example `"cross_attention | enc_to_dec_proj | decoder.layers.6- | !bias"`; default: everything.

    Raises:
        TypeError: `selectors` are no text.
        ValueError: a part matches nothing or nothing that is read, or the layers that are picked lie in one stacked
            array with others: see `segmented`.
    """
    entries = picked_entries(model, selectors)
    for found in places(model):
        if len(set(entries[found.leaf])) > 1:
            raise ValueError(
                f"{quoted(selectors)} picks some of the layers whose arrays are stacked with {quoted(found.names[0])}, "
                "not all. Give the selectors themselves to init_train_state, which cuts such stacks, or call "
                "segmented(model, selectors) first."
            )
    return jax.tree.unflatten(jax.tree.structure(model), [entry[0] for entry in entries])


def segmented(model: Model, selectors: Selectors) -> Model:
    """The same model, its scanned stacks cut wherever layers that the selectors pick meet layers that they do not.

    So `trainable(segmented(model, selectors), selectors)` is a tree of bools, whatever layers are picked.
    `with_layout("scanned")` joins the segments again. An unrolled model is returned as it is.

    Where encoder and decoder share their layers, both are cut alike.

    Args:
        model: in either layout.
        selectors: as in `trainable`.

    Raises:
        NotImplementedError: the layers that would be cut apart share weights with each other.
    """
    entries = picked_entries(model, selectors)
    if share_layers(getattr(model, "ties", ())):
        return _cut_alike(model, entries)

    def cut(stack: Any, its_slots: Any) -> Any:
        cuts = _cuts(stack, its_slots, entries)
        if not cuts:
            return stack
        cuts = sorted({*stack.starts[1:], *cuts})
        return to_layout(stack, "scanned", remat=stack.remat, unroll=stack.unroll, cuts=cuts)

    return map_stacks(cut, model, slots(model))


def _cuts(stack: Any, its_slots: Any, entries: list[list[bool]]) -> set[int]:
    """Numbers of the layers of a scanned stack where layers that are picked meet layers that are not."""
    if not isinstance(stack, ScannedStack):
        return set()
    return {
        start + repeat * len(segment.groups)
        for segment, start in zip(its_slots.segments, stack.starts, strict=True)
        for slot in jax.tree.leaves(segment.groups)
        for repeat, (one, other) in enumerate(itertools.pairwise(entries[slot.leaf]), start=1)
        if one != other
    }


def _cut_alike(model: Any, entries: list[list[bool]]) -> Any:
    its_slots = slots(model)
    pairs = [(getattr(model, piece).stack, getattr(its_slots, piece).stack) for piece in ("encoder", "decoder")]
    cuts = {cut for stack, its in pairs for cut in _cuts(stack, its, entries)}
    if not cuts:
        return model
    whole, decoder = model.pieces()
    stack = model.decoder.stack
    cuts |= {*stack.starts[1:]}
    encoder, decoder = scan_alike(whole, decoder, remat=stack.remat, unroll=stack.unroll, cuts=cuts)
    ties = remap_ties(model.ties, whole, encoder, decoder)
    return dataclasses.replace(model, encoder=tie(encoder, ties), decoder=decoder, ties=ties)


def cut_and_trained(model: Model, chosen: PyTree[bool] | Selectors | None) -> tuple[Model, PyTree[bool]]:
    """The model, cut as far as selectors need it, and its tree of bools; `chosen` may be that tree, or selectors.

    Raises:
        ValueError: the model is quantized.
    """
    if is_int8(model):
        raise ValueError(
            "the model is quantized to int8, which has no gradients: train the float32 model it was made from, and "
            "quantize what comes out."
        )
    if chosen is None:
        return model, trainable(model)
    if isinstance(chosen, str) or (isinstance(chosen, list | tuple) and all(isinstance(x, str) for x in chosen)):
        model = segmented(model, chosen)
        return model, trainable(model, chosen)
    return model, chosen


def picked_entries(model: eqx.Module, selectors: Selectors | None) -> list[list[bool]]:
    """For each leaf of the model, whether it is trained: one entry per layer if it is stacked, else one."""
    read = _read(model)
    found = [place for place in places(model) if read[place.leaf]]
    picked = [True] * len(found)
    if selectors is not None:
        picked = select(selectors, [place.names for place in found], unpickable=_unpickable(model, read))
    entries: list[list[bool]] = [[] if is_read else [False] for is_read in read]
    for place, pick in zip(found, picked, strict=True):
        entries[place.leaf].append(pick)
    return entries


def _unpickable(model: Any, read: list[bool]) -> dict[str, str]:
    """Names that a selector may expect to find, and why it does not."""
    why = "is carried without being read (a pooler, a constant, positions that are not added) and never trained"
    names = {name: why for place in places(model) if not read[place.leaf] for name in place.names}
    if getattr(model, "ties", ()):
        shared = {f"encoder.{name}" for place in places(model.pieces()[0]) for name in place.names}
        own = {name for place in places(model) for name in place.names}
        names |= dict.fromkeys(sorted(shared - own), "is shared with the decoder, which holds it: select it there")
    if any(head.projection is None for head in _nodes(model, LMHead)):
        names["decoder.lm_head.projection.weight"] = "is tied: it is decoder.embeddings.tokens, select that"
    if getattr(model, "enc_to_dec_proj", None) is None:
        names["enc_to_dec_proj.weight"] = "is not there, because the pieces fit without it: leave that part out"
    names["lora.a"] = "is not there: add_lora(model, ...) makes adapters"
    return names


def _read(model: eqx.Module) -> list[bool]:
    """For each leaf, whether it is a floating-point array that the model reads and may change."""
    its_slots = slots(model)
    unread = [node.pooler for kind in (Encoder, Decoder) for node in _nodes(its_slots, kind)]
    unread += [node.positions for node in _nodes(its_slots, Embeddings) if node.position_use == "carried"]
    unread += [node for node in _nodes(its_slots, Embedding) if node.fixed]
    unread += [node.bias for node in _nodes(its_slots, LMHead) if node.fixed_bias]
    leaves = {slot.leaf for slot in jax.tree.leaves(unread)}
    return [
        # an array, or the shape of one
        isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)
        and jnp.issubdtype(leaf.dtype, jnp.inexact)
        and number not in leaves
        for number, leaf in enumerate(jax.tree.leaves(model))
    ]


def _nodes(model: Any, kind: type) -> list[Any]:
    """All modules of one kind, wherever they are."""
    nodes = jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, kind))
    return [node for node in nodes if isinstance(node, kind)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartSummary:
    """One part of a model.

    Attributes:
        name: such as "encoder embeddings" or "decoder layers 6-11 cross_attention".
        trained: parameters that are trained.
        total: all its parameters.
    """

    name: str
    trained: int
    total: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainableSummary:
    """What is trained. `str()` gives a table.

    Attributes:
        parts: in the order in which the model reads them.
        trained: parameters that are trained.
        total: all parameters, those included that are kept without being read.
        parameter_bytes: of all parameters.
        gradient_bytes: of the gradients: one for each trained parameter.
        optimizer_bytes: of the optimiser's state; None if no optimiser was given.
    """

    parts: tuple[PartSummary, ...]
    trained: int
    total: int
    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int | None

    def __str__(self) -> str:
        rows = [*self.parts, PartSummary(name="all", trained=self.trained, total=self.total)]
        width = max(len(row.name) for row in rows)
        lines = [f"{'parameters':{width}} {'trained':>14} {'of':>14}"]
        for row in rows:
            trained = f"{row.trained:,}" if row.trained else "-"
            lines.append(f"{row.name:{width}} {trained:>14} {row.total:>14,}")
        memory = {"parameters": self.parameter_bytes, "gradients": self.gradient_bytes}
        if self.optimizer_bytes is not None:
            memory["optimiser state"] = self.optimizer_bytes
        share = 100 * self.trained / max(self.total, 1)
        sizes = ", ".join(f"{name} {_readable_bytes(size)}" for name, size in memory.items())
        return "\n".join([*lines, f"{share:.3g} % trained; {sizes}."])


def summarize_trainable(
    model: eqx.Module, trainable: PyTree[bool] | Selectors | None = None, *, optimizer: Any = None
) -> TrainableSummary:
    """What a run would train, and how many bytes that takes. Nothing is computed on the model's arrays.

    Args:
        model: the model, in either layout.
        trainable: as `init_train_state` takes it: selectors, a tree of bools, or None for all that the model reads.
        optimizer: whose state is counted, an `optax.GradientTransformation`.
    """
    trained: Any = None

    def parts(model: eqx.Module) -> tuple[eqx.Module, eqx.Module]:
        nonlocal trained
        whole, trained = cut_and_trained(model, trainable)
        return whole, eqx.filter(whole, trained)

    whole, params = eqx.filter_eval_shape(parts, model)
    state = ()
    if optimizer is not None:
        with jax.numpy_dtype_promotion("standard"):
            state = eqx.filter_eval_shape(optimizer.init, params)
    found = tuple(_parts(whole, jax.tree.leaves(trained)))
    return TrainableSummary(
        parts=found,
        trained=sum(part.trained for part in found),
        total=sum(part.total for part in found),
        parameter_bytes=_nbytes(whole),
        gradient_bytes=_nbytes(params),
        optimizer_bytes=None if optimizer is None else _nbytes(state),
    )


def _parts(model: eqx.Module, trained: list[bool]) -> Iterator[PartSummary]:
    """Each part once: layers with the same sums together, their sublayers apart only where some are trained."""
    counts: dict[tuple[str, tuple[int, ...]], dict[str, list[int]]] = {}
    leaves = jax.tree.leaves(model)
    for place in places(model):
        leaf = leaves[place.leaf]
        if not hasattr(leaf, "shape"):
            continue
        size = math.prod(leaf.shape if place.at is None else leaf.shape[1:])
        base, layers, sublayer = _position(place.names)
        count = counts.setdefault((base, layers), {}).setdefault(sublayer, [0, 0])
        count[0] += size * trained[place.leaf]
        count[1] += size
    rows = [(base, layers, _condensed(sublayers)) for (base, layers), sublayers in counts.items()]
    for (base, sums), run in itertools.groupby(rows, key=lambda row: (row[0], row[2])):
        numbers = [layers for _, layers, _ in run]
        layers = [layer for each in numbers for layer in each]
        where = base
        if layers:
            where = f"{base} {min(layers)}-{max(layers)}" if len(layers) > 1 else f"{base[:-1]} {layers[0]}"
        for sublayer, part, total in sums:
            name = f"{where} {sublayer}".rstrip()
            yield PartSummary(name=name, trained=part * len(numbers), total=total * len(numbers))


def _position(names: tuple[str, ...]) -> tuple[str, tuple[int, ...], str]:
    """Of "decoder.layers.3.cross_attention.q.weight": "decoder layers", (3,) and "cross_attention"."""
    words = names[0].split(".")
    if "layers" not in words[:-2]:
        return " ".join(words[: 2 if words[0] in ("encoder", "decoder") else 1]), (), ""
    at = words.index("layers")
    layers = tuple(int(name.split(".")[at + 1]) for name in names)
    return " ".join(words[: at + 1]), layers, words[at + 2] + (" lora" if "lora" in words else "")


def _condensed(sublayers: dict[str, list[int]]) -> tuple[tuple[str, int, int], ...]:
    rows = tuple((name, trained, total) for name, (trained, total) in sublayers.items())
    trained, total = sum(row[1] for row in rows), sum(row[2] for row in rows)
    return rows if 0 < trained < total and len(rows) > 1 else (("", trained, total),)


def _nbytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype"))


def _readable_bytes(size: int) -> str:
    for unit, step in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= step:
            return f"{size / step:.3g} {unit}"
    return f"{size} B"
