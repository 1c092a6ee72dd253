"""What a training step on a mesh holds, sends and takes, in closed form: from shapes and the sizes of the mesh."""

import dataclasses
import math
from collections.abc import Iterator

import jax

from benchmarks._collectives import Collective
from benchmarks._scaled_programs import Work, spread
from encdec_eqx import EncoderDecoder, StackConfig, make_mesh
from encdec_eqx._trees import path_name
from encdec_eqx.layers.sharded import ShardedEmbedding, ShardedLinear
from encdec_eqx.params.sharding import MeshConfig

FLOAT = 4
PURPOSES = ("weights", "gradients", "activations", "vocabulary", "other")
"""What is sent: weights gathered along `fsdp`; gradients summed along `data` and `fsdp`; hidden states and their
gradients along `tensor`; token tables, their gradients and what they look up; what is none of these."""

_OUT = ("out", "down")
"""Products that are summed along `tensor`."""

Sent = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Layer:
    """A linear layer, or as many as are stacked in one array.

    Attributes:
        name: its path.
        count: how many there are.
        bytes: of all its weights, in float32.
        on_tensor: whether it is split along `tensor`.
        on_fsdp: whether it is split along `fsdp`.
    """

    name: str
    count: int
    bytes: int
    on_tensor: bool
    on_fsdp: bool

    @property
    def field(self) -> str:
        """What its module calls it."""
        return self.name.split(".")[-1]

    @property
    def reads_source(self) -> bool:
        """Whether it is given the source's states."""
        crosses = "cross_attention" in self.name and self.field in ("k", "v", "kv")
        return crosses or self.name.startswith("encoder") or self.field == "enc_to_dec_proj"


@dataclasses.dataclass(frozen=True)
class Model:
    """A pair as the forms below see it.

    Attributes:
        layers: its linear layers.
        tables: bytes of the token tables of encoder and decoder.
        vocabularies: their entries.
        whole: bytes of what is on every device.
        widths: of the hidden states of encoder and decoder.
        depths: their layers.
        bias_heads: heads of the encoder whose scores have a trained bias.
        heads: heads of both times their size.
    """

    layers: tuple[Layer, ...]
    tables: tuple[int, int]
    vocabularies: tuple[int, int]
    whole: int
    widths: tuple[int, int]
    depths: tuple[int, int]
    bias_heads: int
    heads: tuple[int, int]

    @property
    def bytes(self) -> int:
        """Of all weights, in float32."""
        return sum(layer.bytes for layer in self.layers) + sum(self.tables) + self.whole


def described(model: EncoderDecoder) -> Model:
    """A pair of shapes, the head tied to the decoder's table."""
    laid = spread(model, make_mesh(devices=jax.devices()[:1]))
    kinds = (ShardedLinear, ShardedEmbedding)
    nodes = jax.tree_util.tree_leaves_with_path(laid, is_leaf=lambda node: isinstance(node, kinds))
    layers, tables = [], []
    for path, node in nodes:
        if isinstance(node, ShardedLinear):
            layers.append(_layer(path_name(path), node))
        elif isinstance(node, ShardedEmbedding):
            tables.append(FLOAT * node.weight.size)
    encoder, decoder = model.encoder.config, model.decoder.config
    everything = FLOAT * sum(leaf.size for leaf in jax.tree.leaves(model))
    return Model(
        layers=tuple(layers),
        tables=(tables[0], tables[1]),
        vocabularies=(encoder.vocab_size, decoder.vocab_size),
        whole=everything - sum(layer.bytes for layer in layers) - sum(tables),
        widths=(encoder.hidden_size, decoder.hidden_size),
        depths=(len(encoder.layers), len(decoder.layers)),
        bias_heads=encoder.attention.num_heads if encoder.attention.relative_bias is not None else 0,
        heads=(_of_heads(encoder), _of_heads(decoder)),
    )


def _of_heads(config: StackConfig) -> int:
    return config.attention.num_heads * config.attention.head_dim


def _layer(name: str, node: ShardedLinear) -> Layer:
    axes, weight = node.placement.weight, node.weight
    count = math.prod(weight.shape[: len(weight.shape) - len(axes)])
    over = {axis for each in axes for axis in each}
    return Layer(name, count, FLOAT * weight.size, "tensor" in over, "fsdp" in over)


def sent(model: Model, mesh: MeshConfig, work: Work) -> dict[tuple[str, str], float]:
    """Bytes of float32 that a device sends in a training step that keeps nothing for the backward pass.

    Args:
        model: The pair.
        mesh: Sizes.
        work: A step's.

    Returns:
        By purpose, and by the axis along which it is sent. What is sent along several stands with the last of them.
    """
    d, f, t = mesh.data, mesh.fsdp, mesh.tensor
    n = d * f
    weights = sum(each.bytes / (t if each.on_tensor else 1) for each in model.layers if each.on_fsdp)
    bias = FLOAT * model.bias_heads / t * work.source**2 * model.depths[0]
    first, second = model.tables
    looked = FLOAT * work.rows / n * work.target * model.widths[1]
    found = {
        # gathered for the forward pass, and again for the backward pass
        ("weights", "fsdp"): 2 * weights * _less(f),
        ("gradients", "fsdp"): weights * _less(f) + 2 * (model.whole + bias) * _less(f),
        ("gradients", "data"): 2 * _less(d) * (weights + model.whole + bias) / f,
        ("activations", "tensor"): 2 * _less(t) * sum(_summed(model, mesh, work)),
        # the head's table gathered and its gradient scattered, the source's table likewise, the target's rows moved
        ("vocabulary", "fsdp"): (2 * second + first / t + first) * _less(f) + (4 * looked if f * t > 1 else 0.0),
        ("vocabulary", "tensor"): 2 * second / f * _less(t),
        ("vocabulary", "data"): 2 * _less(d) * (2 * second / (f * t) + first / f),
    }
    return {key: value for key, value in found.items() if value}


def _less(devices: int) -> float:
    """The part of an array that a ring of devices sends to gather or to scatter it."""
    return (devices - 1) / devices


def _summed(model: Model, mesh: MeshConfig, work: Work) -> Iterator[float]:
    """Bytes of hidden states, or of their gradients, that are summed along `tensor`."""
    rows = FLOAT * work.rows / (mesh.data * mesh.fsdp)
    states = (rows * work.source * model.widths[0], rows * work.target * model.widths[1])
    of_source = rows * work.source * model.widths[1]  # as the decoder reads it
    for layer in model.layers:
        if not layer.on_tensor or layer.field == "enc_to_dec_proj":
            continue
        size = states[0] if layer.name.startswith("encoder") else of_source if layer.reads_source else states[1]
        # one sum for the forward pass of what leaves `tensor`, and one for its recomputation but for a block's last;
        # one for the gradient of what goes in
        times = 1 if layer.field == "down" else 2 if layer.field in _OUT else 1
        yield layer.count * times * size


def held(model: Model, mesh: MeshConfig) -> float:
    """Bytes on a device of weights and both moments of AdamW, in float32."""
    return 3 * _shard(model, mesh)


def _shard(model: Model, mesh: MeshConfig) -> float:
    f, t = mesh.fsdp, mesh.tensor
    split = sum(each.bytes / (f if each.on_fsdp else 1) / (t if each.on_tensor else 1) for each in model.layers)
    return split + sum(model.tables) / (f * t) + model.whole


def temporary(model: Model, mesh: MeshConfig, work: Work, *, width: int = FLOAT) -> dict[str, float]:
    """Bytes that a step needs on a device besides, by what they are for.

    Args:
        model: The pair.
        mesh: Sizes.
        work: A step's.
        width: bytes of a number in what is computed: 4, or 2 for a bfloat16 copy of the weights.
    """
    n = mesh.data * mesh.fsdp
    inputs = [
        width * work.rows / n * length * wide * depth
        for length, wide, depth in zip((work.source, work.target), model.widths, model.depths, strict=True)
    ]
    spread_table = mesh.fsdp * mesh.tensor > 1
    return {
        "gradients": _shard(model, mesh),
        "copy": 0.0 if width == FLOAT else _shard(model, mesh) * width / FLOAT,
        "inputs of layers": sum(inputs),
        # logits with their gradient; the table and its gradient, where they are gathered
        "vocabulary": 2 * FLOAT * work.rows * work.target / (n * mesh.tensor) * model.vocabularies[1]
        + (model.tables[1] * (1 + width / FLOAT) if spread_table else 0.0),
    }


def flops(model: Model, work: Work) -> float:
    """Of the products of a step on all devices: forward, again, and twice as much backward."""
    source, target = work.rows * work.source, work.rows * work.target
    products = sum(2 * layer.bytes / FLOAT * (source if layer.reads_source else target) for layer in model.layers)
    # the target's tokens attend to each other, and to the source
    lengths = (work.source * work.source, work.target * (work.target + work.source))
    scores = sum(
        4 * work.rows * pairs * wide * depth
        for pairs, wide, depth in zip(lengths, model.heads, model.depths, strict=True)
    )
    head = 2 * model.tables[1] / FLOAT * target
    return 4 * (products + scores) + 3 * head


def purpose(each: Collective) -> str:
    """Which of `PURPOSES` a counted collective serves."""
    if "embeddings" in each.place or "/head/" in each.place or "head_and_loss" in each.place:
        return "vocabulary"
    if "tensor" in each.axes:
        return "activations"
    if each.kind in ("all-reduce", "reduce-scatter"):
        return "gradients"
    return "weights" if each.kind == "all-gather" and each.axes == ("fsdp",) else "other"


def by_purpose(found: list[Collective]) -> Sent:
    """Bytes sent, of collectives that were counted."""
    return {name: sum(each.sent for each in found if purpose(each) == name) for name in PURPOSES}


def predicted_by_purpose(model: Model, mesh: MeshConfig, work: Work) -> Sent:
    """Bytes sent, by the closed form."""
    found = sent(model, mesh, work)
    return {name: sum(size for (for_, _), size in found.items() if for_ == name) for name in PURPOSES}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """Devices and what connects them; what is assumed of both.

    Attributes:
        node: devices of a node.
        flops: peak of a device in bfloat16, per second.
        reached: the part of it that products reach.
        memory: bytes of a device.
        reading: bytes that its memory reads per second.
        inside: bytes that a device sends per second to others of its node.
        outside: the same for its own card to other nodes.
        latency: seconds of a collective of a few bytes.
    """

    node: int = 8
    flops: float = 989e12
    reached: float = 0.5
    memory: float = 80e9
    reading: float = 3.35e12
    inside: float = 0.8 * 450e9
    outside: float = 0.8 * 50e9
    latency: float = 20e-6

    def rate(self, mesh: MeshConfig, axis: str) -> float:
        """Bytes per second that a device sends along an axis; `tensor` varies fastest from device to device."""
        stride = {"tensor": 1, "fsdp": mesh.tensor, "data": mesh.tensor * mesh.fsdp}[axis]
        size = getattr(mesh, axis)
        if stride * size <= self.node:
            return self.inside
        beside = max(1, self.node // stride)  # devices of a group in one node: each has a card of its own
        return min(self.inside, beside * self.outside)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """A predicted training step in bfloat16 over float32 weights.

    Attributes:
        memory: bytes held on a device, by what they are for.
        sent: bytes that a device sends, by axis.
        products: seconds of matrix products.
        hidden: seconds of sending that a scheduler can put behind products: weights, gradients and tables.
        waited: seconds of sending that the next product waits for.
        tokens: source and target tokens.
    """

    memory: dict[str, float]
    sent: dict[str, float]
    products: float
    hidden: float
    waited: float
    tokens: int

    @property
    def best(self) -> float:
        """Seconds if all is hidden that can be."""
        return max(self.products, self.hidden) + self.waited

    @property
    def worst(self) -> float:
        """Seconds if nothing is hidden."""
        return self.products + self.hidden + self.waited


def step(model: Model, mesh: MeshConfig, work: Work, cluster: Cluster) -> Step:
    """Everything is sent in bfloat16, half the bytes of `sent`."""
    halves = {key: size / 2 for key, size in sent(model, mesh, work).items()}
    times = {key: size / cluster.rate(mesh, key[1]) for key, size in halves.items()}
    axes = ("data", "fsdp", "tensor")
    return Step(
        memory={"state": held(model, mesh)} | temporary(model, mesh, work, width=2),
        sent={axis: sum(size for (_, along), size in halves.items() if along == axis) for axis in axes},
        products=flops(model, work) / (mesh.devices * cluster.flops * cluster.reached),
        hidden=sum(seconds for (for_, _), seconds in times.items() if for_ != "activations"),
        waited=sum(seconds for (for_, _), seconds in times.items() if for_ == "activations"),
        tokens=work.rows * (work.source + work.target),
    )


def read_by_a_decoding_step(model: Model, mesh: MeshConfig) -> float:
    """Bytes of weights in bfloat16 that a device reads for one more token of any number of rows."""
    layers = sum(each.bytes for each in model.layers if each.name.startswith("decoder") and not each.reads_source)
    return (layers + model.tables[1]) / 2 / (mesh.fsdp * mesh.tensor)


def named(mesh: MeshConfig) -> str:
    """As the tables call it."""
    return f"{mesh.data} x {mesh.fsdp} x {mesh.tensor}"


def close(predicted: Sent, counted: Sent) -> float:
    """How far a sum is off, as a part of what was counted."""
    whole = sum(counted.values())
    return (sum(predicted.values()) - whole) / whole
