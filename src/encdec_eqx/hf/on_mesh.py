"""Arrays made where a mesh wants them: of a file, each device's part alone is read, one part at a time."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, Sharding

from ..layers.int8 import is_int8
from ..params.sharding import RULES, Rules, checked_mesh, shardings, with_mesh
from .transforms import Shape

Model = TypeVar("Model")

Box = tuple[Shape, Shape]
"""Where a part of an array starts, and its shape."""


class MeshToLoadOn(NamedTuple):
    """The mesh over which a model is spread while it is loaded."""

    mesh: Mesh
    rules: Rules

    def shardings(self, skeleton: Any) -> Any:
        """Where each array goes.

        Raises:
            ValueError: an axis does not divide, or it is an int8 model.
        """
        if is_int8(skeleton):
            raise ValueError(
                "the checkpoint holds an int8 model, which generates on one CPU: leave mesh= out, or load the float "
                "model that it was made of."
            )
        return shardings(skeleton, self.mesh, rules=self.rules)

    def finished(self, model: Model) -> Model:
        """The loaded model made of layers that know the mesh; what has been added to it is laid out too."""
        return with_mesh(model, self.mesh, rules=self.rules)  # pyright: ignore[reportArgumentType]


def mesh_to_load_on(mesh: Any, rules: Rules | None) -> MeshToLoadOn | None:
    """What the arguments of loading say, checked before anything is read.

    Raises:
        TypeError: `mesh` is no mesh, or there are rules without one.
        ValueError: the mesh has an axis that nobody knows.
    """
    if mesh is not None:
        return MeshToLoadOn(checked_mesh(mesh), RULES if rules is None else rules)
    if rules is not None:
        raise TypeError(
            "rules say how a model lies on a mesh, and there is none: give mesh=encdec_eqx.make_mesh(...) too, or leave"
            " rules out."
        )
    return None


def made_in_parts(
    whole: Shape, dtype: np.dtype, part: Callable[[Shape, Shape], np.ndarray], sharding: Sharding | None
) -> jax.Array:
    """An array of the parts that devices of this process hold, each made once; without a sharding of one part.

    Args:
        whole: its shape.
        dtype: its dtype.
        part: makes the part that starts there and has that shape.
        sharding: where the parts go; default the device that jax takes by default.
    """
    if sharding is None:
        return jax.device_put(part((0,) * len(whole), whole))
    first_device: dict[Box, Any] = {}
    for device, index in sharding.addressable_devices_indices_map(whole).items():
        first_device.setdefault(_box(index, whole), device)
    made: dict[Box, jax.Array] = {}

    def on_its_device(index: tuple[slice, ...] | None) -> jax.Array:
        box = _box(index, whole)
        if box not in made:
            # waited for, so that the host has one part at a time; other devices that hold it copy it from this one
            made[box] = jax.block_until_ready(jax.device_put(part(*box), first_device[box]))
        return made[box]

    return jax.make_array_from_callback(whole, sharding, on_its_device, dtype=dtype)


def placed(array: jax.Array, sharding: Sharding | None) -> jax.Array:
    """An array that every process has whole, where it is to be."""
    if sharding is None:
        return array
    host = np.asarray(array)

    def part(start: Shape, shape: Shape) -> np.ndarray:
        cut = tuple(slice(first, first + size) for first, size in zip(start, shape, strict=True))
        return np.array(host[cut])  # a view would keep the whole

    return made_in_parts(array.shape, host.dtype, part, sharding)


def _box(index: tuple[slice, ...] | None, whole: Shape) -> Box:
    bounds = [cut.indices(size)[:2] for cut, size in zip(index or (), whole, strict=True)]
    return tuple(start for start, _ in bounds), tuple(end - start for start, end in bounds)
