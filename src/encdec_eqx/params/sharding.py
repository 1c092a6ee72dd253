"""What goes where on a mesh of devices: one table from axes of arrays to axes of the mesh, and models laid out by it.

`jax.jit` does the rest: it sees where arrays lie and adds the communication.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import equinox as eqx
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from .._trees import path_name
from .._typing import ArrayLike
from ..layers.attend import DEFAULT_BACKENDS
from ..layers.attention import AbstractCrossAttention, AbstractSelfAttention
from ..layers.int8 import is_int8
from ..layers.linear import AbstractLinear, Embedding, Linear, WithLoRA
from ..layers.sharded import (
    ROWS,
    Axes,
    MeshPlacement,
    ShardedEmbedding,
    ShardedLinear,
    check_rows,
    head_placement_of,
    placement_of,
)
from ..layers.unfolded_attention import UnfoldedAttention

Model = TypeVar("Model", bound=eqx.Module)

AXES = ("data", "fsdp", "tensor")
"""The axes that a mesh may have.

`data` splits the rows of a batch. `fsdp` splits them too, and every weight with its gradient and optimiser state; a
weight is gathered where it is used (ZeRO, Rajbhandari et al. 2020). `tensor` splits heads and inner widths
(Megatron-LM, Shoeybi et al. 2019).
"""

Rules = Mapping[str, str | tuple[str, ...]]

RULES: Rules = MappingProxyType(
    {
        "batch": ROWS,
        "hidden": "fsdp",
        "heads": "tensor",
        "kv_heads": "tensor",
        "mlp": "tensor",
        "embedding": ("fsdp", "tensor"),
    }
)
"""Axes of arrays, and the axes of the mesh over which each lies. What is not listed is whole on every device.

`"hidden"` is a weight's side towards the residual stream, `"embedding"` the columns of a token table and of a head.
"""

LINEARS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "qkv": ("hidden", "parts", "heads", "head_dim"),
        "q": ("hidden", "heads", "head_dim"),
        "k": ("hidden", "kv_heads", "head_dim"),
        "v": ("hidden", "kv_heads", "head_dim"),
        "kv": ("hidden", "parts", "kv_heads", "head_dim"),
        "position_key": ("hidden", "heads", "head_dim"),
        "position_query": ("hidden", "heads", "head_dim"),
        "out": ("heads", "hidden"),
        "gate": ("hidden", "mlp"),
        "up": ("hidden", "mlp"),
        "down": ("mlp", "hidden"),
        "head.projection": ("embedding", "vocab"),
        **dict.fromkeys(("enc_to_dec_proj", "final_projection", "pooler", "dense"), ("hidden", "states")),
    }
)
"""Axes of the weight of each linear layer, by the name of its field; a bias has all but the first. Others are whole."""

TABLES: Mapping[str, tuple[str, ...]] = MappingProxyType({"tokens": ("vocab", "embedding")})
"""Axes of each embedding matrix, by the name of its field; the others are small and whole."""


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of a mesh, as TOML names them under `[mesh]`.

    Attributes:
        data: parts that a batch is split into, each of which has the whole model.
        fsdp: parts that a batch is split into, over which the model is spread.
        tensor: parts that every layer is split into.

    Raises:
        TypeError: A size is no whole number.
        ValueError: A size is below 1.
    """

    data: int = 1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self):
        for name in AXES:
            size = getattr(self, name)
            if isinstance(size, bool) or not isinstance(size, int):
                raise TypeError(f"mesh.{name} must be a whole number, got {size!r}.")
            if size < 1:
                raise ValueError(f"mesh.{name} must be at least 1, got {size}; 1 does not split anything.")

    @property
    def devices(self) -> int:
        """How many devices it takes."""
        return self.data * self.fsdp * self.tensor

    def make(self, devices: Sequence[Any] | None = None) -> Mesh:
        """The mesh.

        Args:
            devices: As many as it takes; default: all that jax sees, those of other processes among them.

        Raises:
            ValueError: There are more or fewer devices.
        """
        found = jax.devices() if devices is None else list(devices)
        if len(found) != self.devices:
            raise ValueError(
                f"a mesh of data={self.data} x fsdp={self.fsdp} x tensor={self.tensor} takes {self.devices} devices, "
                f"and there {'is' if len(found) == 1 else 'are'} {len(found)}"
                f"{_how_many_cpus(found, self.devices)}: change a size, or pass devices=."
            )
        sizes = (self.data, self.fsdp, self.tensor)
        return jax.make_mesh(sizes, AXES, (AxisType.Auto,) * len(AXES), devices=found)


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1, *, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of these sizes, with devices that are close to each other along `tensor`.

    Args:
        data: Parts that a batch is split into, each of which has the whole model.
        fsdp: Parts that a batch is split into, over which the model is spread.
        tensor: Parts that every layer is split into.
        devices: As many as the product says; default: all that jax sees.

    Raises:
        ValueError: There are more or fewer devices.
    """
    return MeshConfig(data, fsdp, tensor).make(devices)


def with_mesh(model: Model, mesh: Mesh, *, rules: Rules = RULES) -> Model:
    """The same model spread over a mesh: call it, train it, let it generate as before.

    Its weights lie as `rules` say, numbers are those of one device up to the order of sums, and names on disk are the
    same. A model on another mesh is laid out anew. Works for both layouts, adapters (LoRA) among them, and for a
    `TrainState`'s model before `init_train_state`. The mesh may be one of `jax.make_mesh`, whatever the types of its
    axes: inside of compiled programs they are `Auto`.

    Args:
        model: An `EncoderDecoder`, an `Encoder` or a `Decoder`.
        mesh: With axes of `AXES`, in any order; one that is missing has size 1. `make_mesh` makes one.
        rules: In place of `RULES`; to keep key-value heads whole that are too few, for instance,
            `{**RULES, "kv_heads": ()}`.

    Raises:
        TypeError: `mesh` is no `jax.sharding.Mesh`.
        ValueError: An axis of an array does not divide by its axes of the mesh, the mesh or the rules have an axis that
            nobody knows, or the model is of int8.
    """
    mesh = checked_mesh(mesh)
    if is_int8(model):
        raise ValueError("an int8 model generates on one CPU; spread the float model it was made of over a mesh.")
    laid = _with_placements(model, mesh, _checked_rules(rules))
    placed = _shardings(laid, mesh)
    return jax.tree.map(_put, laid, placed)


def relaid(model: Model) -> Model:
    """A model on a mesh with its arrays where its layers say; another as it is.

    For one that was changed after `with_mesh` laid it out: its layers stacked or unstacked, adapters added.

    Args:
        model: Of layers that `with_mesh` has put in.
    """
    mesh = mesh_of(model)
    if mesh is None:
        return model
    leaves, structure = jax.tree.flatten(model)
    places = jax.tree.leaves(_shardings(model, mesh))
    moved = {
        number: place
        for number, (leaf, place) in enumerate(zip(leaves, places, strict=True))
        if not leaf.sharding.is_equivalent_to(place, leaf.ndim)
    }
    if moved and not mesh.is_multi_process:
        placed = [_put(leaves[number], place) for number, place in moved.items()]
    else:  # nobody holds whole arrays: a program moves what others have
        move = jax.jit(lambda arrays: arrays, out_shardings=list(moved.values()))
        placed = move([leaves[number] for number in moved]) if moved else []
    for number, leaf in zip(moved, placed, strict=True):
        leaves[number] = leaf
    return jax.tree.unflatten(structure, leaves)


def without_mesh(model: Model) -> Model:
    """The same model of plain layers; its arrays stay where they are.

    Args:
        model: What `with_mesh` returned.
    """

    def plain(node: Any) -> Any:
        if isinstance(node, ShardedLinear):
            return _as(Linear, node)
        if isinstance(node, ShardedEmbedding):
            return _as(Embedding, node)
        return _as(type(node), node, base=plain(node.base)) if isinstance(node, WithLoRA) else node

    whole = jax.tree.map(plain, model, is_leaf=_is_layer)
    return _with_backends(whole, unfolded=False)


def mesh_of(tree: Any) -> Mesh | None:
    """The mesh that a model lies on; None for one that `with_mesh` has not made.

    Args:
        tree: A model, or any part of one.
    """
    place = placement_of(tree)
    return None if place is None else place.mesh


def shardings(model: Any, mesh: Mesh, *, rules: Rules = RULES) -> Any:
    """Where `with_mesh` puts every array of a model: a tree like it, with a `NamedSharding` for each.

    Args:
        model: A model, whose arrays may be `jax.ShapeDtypeStruct`s.
        mesh: As for `with_mesh`.
        rules: As for `with_mesh`.

    Raises:
        ValueError: As `with_mesh`.
    """
    mesh = checked_mesh(mesh)
    places = jax.tree.leaves(_shardings(_with_placements(model, mesh, _checked_rules(rules)), mesh))
    return jax.tree.unflatten(jax.tree.structure(model), places)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over `data` and `fsdp`; its other axes are whole.

    Args:
        mesh: As for `with_mesh`.
    """
    place = MeshPlacement(checked_mesh(mesh), ())
    return NamedSharding(place.mesh, place.spec(ROWS))


def shard_batch(batch: Mapping[str, ArrayLike], mesh: Mesh) -> dict[str, jax.Array]:
    """A batch with its rows split over the mesh, as a step of a model on it wants them.

    Args:
        batch: Arrays with the rows first, all of them on this host.
        mesh: As for `with_mesh`.

    Raises:
        ValueError: The rows cannot be divided among the devices of `data` and `fsdp`.
    """
    sharding = batch_sharding(mesh)
    for value in batch.values():
        check_rows(MeshPlacement(sharding.mesh, ()), np.shape(value)[0])  # pyright: ignore[reportArgumentType]
    return {name: jax.device_put(value, sharding) for name, value in batch.items()}


def checked_mesh(mesh: Mesh) -> Mesh:
    """The mesh with `Auto` axes: the library says where arrays lie, and leaves what is between to the compiler.

    Raises:
        TypeError: It is no mesh.
        ValueError: It has an axis that nobody knows.
    """
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"mesh must be a jax.sharding.Mesh, got {type(mesh).__name__}; encdec_eqx.make_mesh(data=..., fsdp=..., "
            "tensor=...) makes one."
        )
    unknown = [name for name in mesh.axis_names if name not in AXES]
    if unknown:
        raise ValueError(
            f"the mesh has an axis {unknown[0]!r}; expected {', '.join(AXES)}, or some of these: name its axes by what "
            "they split."
        )
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def _checked_rules(rules: Rules) -> dict[str, Axes]:
    known = {name for axes in (*LINEARS.values(), *TABLES.values()) for name in axes} | {"batch"}
    tidy = {name: (axes,) if isinstance(axes, str) else tuple(axes or ()) for name, axes in rules.items()}
    for name, axes in tidy.items():
        if name not in known:
            raise ValueError(f"rules name an axis {name!r} that no array has; there are {', '.join(sorted(known))}.")
        for each in axes:
            if each not in AXES:
                raise ValueError(f"rules lay {name!r} over {each!r}; a mesh has {', '.join(AXES)}.")
    if tidy.get("batch", ROWS) != ROWS:
        raise ValueError(f"rules lay 'batch' over {tidy['batch']}; rows always lie over {ROWS}: leave it as it is.")
    return tidy


def _with_placements(model: Any, mesh: Mesh, rules: Mapping[str, Axes]) -> Any:
    """The model of layers that know where their arrays lie, which are still where they were."""
    problems: dict[str, str] = {}

    def placed(path: tuple[Any, ...], node: Any) -> Any:
        if isinstance(node, WithLoRA):
            return _as(type(node), node, base=placed(path, node.base))
        axes = _axes(path, node)
        if axes is None:
            return node
        place = MeshPlacement(mesh, tuple(rules.get(axis, ()) for axis in axes))
        problems.update(_undivided(path, node.weight, axes, place))
        if isinstance(node, Linear):
            return _as(ShardedLinear, node, placement=place)
        return _as(ShardedEmbedding, node, placement=place)

    whole = jax.tree_util.tree_map_with_path(placed, model, is_leaf=_is_layer)
    if problems:
        kept = ", ".join(f"{axis!r}: ()" for axis in problems)
        raise ValueError(
            f"{'; '.join(problems.values())}. Change the mesh, or keep what does not divide whole on every device: "
            f"with_mesh(model, mesh, rules={{**RULES, {kept}}}), with RULES from encdec_eqx.params.sharding."
        )
    return _with_backends(whole, unfolded=True)


def _as(kind: Any, node: Any, **others: Any) -> Any:
    """A layer of this kind with the fields of another, and others.

    It is made as equinox makes modules of leaves. To be called, the kind would want the arrays of one layer: those of a
    stack have an axis more, which an error tells where annotations are checked.
    """
    made = object.__new__(kind)
    for field in dataclasses.fields(kind):
        object.__setattr__(made, field.name, others[field.name] if field.name in others else getattr(node, field.name))
    return made


def _axes(path: tuple[Any, ...], node: Any) -> tuple[str, ...] | None:
    """Names of the axes of a layer's weight, if it is in the table."""
    names = path_name(path).split(".")
    if isinstance(node, Embedding):
        return TABLES.get(names[-1])
    if not isinstance(node, Linear):
        return None
    return LINEARS.get(".".join(names[-2:]), LINEARS.get(names[-1]))


def _undivided(
    path: tuple[Any, ...], weight: Any, axes: tuple[str, ...], place: MeshPlacement
) -> Iterator[tuple[str, str]]:
    """Axes of which there is no whole number for every device, and how to say it."""
    if weight is None:  # it is another layer's
        return
    for axis, size, over in zip(axes, weight.shape[-len(axes) :], place.weight, strict=True):
        if size % place.size(over):
            sizes = " x ".join(f"{name}={place.size((name,))}" for name in over)
            yield axis, f"{path_name(path)}.weight has {size} {axis!r}, which {sizes} does not divide"


def _shardings(laid: Any, mesh: Mesh) -> Any:
    """A sharding for every array of a model with placements."""
    whole = NamedSharding(mesh, PartitionSpec())

    def of_layer(node: Any) -> Any:
        if isinstance(node, WithLoRA):
            return dataclasses.replace(jax.tree.map(lambda _: whole, node), base=of_layer(node.base))
        if not isinstance(node, ShardedLinear | ShardedEmbedding):
            return jax.tree.map(lambda _: whole, node)
        place = node.placement
        arrays = {"weight": place.weight, "bias": place.gathered[1:]}
        held = {name: axes for name, axes in arrays.items() if getattr(node, name, None) is not None}
        new = tuple(place.sharding(len(getattr(node, name).shape), *axes) for name, axes in held.items())
        return eqx.tree_at(lambda it: tuple(getattr(it, name) for name in held), node, new)

    return jax.tree.map(of_layer, laid, is_leaf=_is_layer)


def _with_backends(model: Any, *, unfolded: bool) -> Any:
    """The model whose attention takes `UnfoldedAttention` instead of the reference, or does not any more."""

    def attends(node: Any) -> bool:
        return isinstance(node, AbstractSelfAttention | AbstractCrossAttention)

    def exchanged(node: Any) -> Any:
        if not attends(node):
            return node
        given = DEFAULT_BACKENDS if node.backends is None else node.backends
        backends = tuple(each for each in given if not isinstance(each, UnfoldedAttention))
        heads = head_placement_of(node) if unfolded else None
        backends += () if heads is None else (UnfoldedAttention(heads),)
        return dataclasses.replace(node, backends=None if backends == DEFAULT_BACKENDS else backends)

    return jax.tree.map(exchanged, model, is_leaf=attends)


def _is_layer(node: Any) -> bool:
    return isinstance(node, AbstractLinear | Embedding)


def _put(x: Any, sharding: NamedSharding) -> jax.Array:
    if getattr(x, "sharding", None) == sharding:
        return x
    if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    whole = np.asarray(x)  # every process has it all, and keeps its own parts
    return jax.make_array_from_callback(whole.shape, sharding, lambda part: whole[part])


def _how_many_cpus(found: Sequence[Any], wanted: int) -> str:
    """How a machine without accelerators shows several devices."""
    if any(device.platform != "cpu" for device in found):
        return ""
    each = -(-wanted // jax.process_count())
    return f" (to try it out on CPUs: jax.config.update('jax_num_cpu_devices', {each}) before anything else)"
