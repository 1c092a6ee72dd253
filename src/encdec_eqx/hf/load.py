"""Filling a skeleton of shapes with a checkpoint's tensors, by a name table.

Every problem is found from names and shapes before anything is read, and all of them are told in one error. Arrays are
made one at a time, straight in their dtype, and never share memory with the file: a checkpoint may be overwritten by
the model that was loaded from it. On a mesh they are made in parts: of a file no more is read than what the devices
of this process hold.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Var, jaxpr_as_fun

from .._quoting import printable, quoted
from .._trees import path_name
from . import transforms
from .files.folder import Tensors, Unread, is_headers_only
from .files.mapped import equal_mapped
from .names import NameTable, strip_wrappers
from .on_mesh import made_in_parts, placed
from .report import Loaded
from .transforms import How, Shape

Tree = TypeVar("Tree")

QUICK_LAYERS = 48
"""Deeper models are held against the file's names before their shapes are traced, which takes some 10 ms per layer."""

QUICK_POSITIONS = 2**16
"""Longer tables of constants are held against the file's before they are computed."""

POSITIONS = "embeddings.positions.weight"
"""The path of a stack's table of positions."""

_BLOCK = re.compile(r"(.*\bstack\.blocks)\.(\d+)\.")
_ALIGNMENT = 64
_SHOWN = 10
_WAY_OUT = (
    "Does its config.json belong to these weights? If it does, fix a copy of the folder: correct sizes in config.json "
    "(or pass them to the piece's from_pretrained), remove unexpected tensors (safetensors has load_file, save_file)."
)


@dataclasses.dataclass
class _Plan:
    fills: dict[str, list[tuple[str, How]]]
    loaded: Loaded
    problems: list[str]


def load(
    skeleton: Tree,
    table: NameTable,
    tensors: Tensors,
    *,
    what: str,
    dtype: Any,
    may_be_new: Mapping[str, str] = MappingProxyType({}),
    draw: Callable[[Sequence[str]], Iterable[tuple[str, jax.Array]]] = lambda paths: (),
    shardings: Callable[[Tree], Tree] | None = None,
) -> tuple[Tree, Loaded]:
    """The arrays of a model, and what was done.

    Args:
        skeleton: a pytree whose leaves are `jax.ShapeDtypeStruct`s.
        table: rows for every leaf.
        tensors: the checkpoint.
        what: the model in words, for messages.
        dtype: dtype of all arrays but those of integers; None keeps each tensor's own.
        may_be_new: groups of the table that the checkpoint may lack as a whole, and what they are in words.
        draw: the new arrays of such groups with their paths, one at a time.
        shardings: the skeleton to where each array goes, a `jax.sharding.Sharding` for each leaf; default the device
            that jax takes by default.

    Raises:
        ValueError: tensors are missing, unexpected, or of the wrong shape or dtype: all of them in one message.
    """
    _check_dtype(dtype)
    if isinstance(tensors, Unread):
        return skeleton, Loaded(notes=[f"the weights were not looked at: {tensors.why}"])
    leaves, structure = jax.tree_util.tree_flatten_with_path(skeleton)
    shapes = {path_name(path): leaf.shape for path, leaf in leaves}
    tensors, wrapping = strip_wrappers(tensors, table)
    plan = _plan(shapes, table, tensors, may_be_new)
    integers = {path_name(path) for path, leaf in leaves if leaf.dtype == np.int8}
    dtypes = _dtypes(plan, tensors, dtype, integers)
    if plan.problems:
        raise ValueError(_message(what, tensors.path, plan.problems, wrapping))
    plan.loaded.notes += [] if wrapping is None else [wrapping]
    pairs = {(tensors.entries[name].dtype, dtypes[path]) for path, fill in plan.fills.items() for name, _ in fill}
    plan.loaded.notes += sorted(f"converted from {theirs} to {ours}" for theirs, ours in pairs if theirs != ours)
    default = next((own for own in dtypes.values() if own != np.int8), np.dtype(np.float32))
    if is_headers_only():
        return _described(skeleton, plan, tensors, dtypes, default), plan.loaded
    absent = [path for path in shapes if path not in plan.fills and path not in table.computed]
    to = {} if shardings is None else dict(zip(shapes, jax.tree.leaves(shardings(skeleton)), strict=True))
    arrays = {path: placed(array.astype(default), to.get(path)) for path, array in draw(absent)}
    # Largest first: the one copy that may exist for a moment is made while little else is loaded.
    for path in sorted(shapes, key=lambda path: -math.prod(shapes[path])):
        if path in plan.fills:
            part = functools.partial(_part, shapes[path], dtypes[path], plan.fills[path], tensors)
            arrays[path] = made_in_parts(shapes[path], dtypes[path], part, to.get(path))
            plan.loaded.nbytes += arrays[path].nbytes
        elif path in table.computed:
            arrays[path] = placed(jnp.asarray(table.computed[path][0]().astype(default)), to.get(path))
    return jax.tree_util.tree_unflatten(structure, [arrays[path_name(path)] for path, _ in leaves]), plan.loaded


def _described(
    skeleton: Tree, plan: _Plan, tensors: Tensors, dtypes: Mapping[str, np.dtype], default: np.dtype
) -> Tree:
    """The skeleton with the dtypes of the files, or of what would be new; the size in the report is that of loading."""

    def described(path: tuple[Any, ...], leaf: Any) -> Any:
        fill = plan.fills.get(path_name(path))
        if fill is None:
            return jax.ShapeDtypeStruct(leaf.shape, default)
        plan.loaded.nbytes += math.prod(leaf.shape) * dtypes[path_name(path)].itemsize
        return jax.ShapeDtypeStruct(leaf.shape, tensors.entries[fill[0][0]].dtype)

    return jax.tree_util.tree_map_with_path(described, skeleton)


def check_size(table: NameTable, tensors: Tensors, *, what: str, positions: Mapping[str, int]) -> None:
    """That what would take long to put together is in the checkpoint at all; whether it is right is for `load` to say.

    The arguments are those of `load`, and `positions` the rows of the tables of positions, by their paths.

    Raises:
        ValueError: a deep model has layers that the checkpoint has nothing of, or a long table of positions another
            length there.
    """
    if isinstance(tensors, Unread):
        return
    tensors, wrapping = strip_wrappers(tensors, table)
    present = {table.canonical(name): name for name in tensors.entries}
    for _, (ours, theirs, _) in table.rows():
        name = present.get(table.canonical(theirs)) if positions.get(ours, 0) > QUICK_POSITIONS else None
        if name is not None and tensors.entries[name].shape[:1] != (positions[ours],):
            got, rows = tensors.entries[name].shape, positions[ours]
            problem = f"wrong shape of {quoted(name)}: got {got}, expected {rows} rows from the config"
            raise ValueError(_message(what, tensors.path, [problem], wrapping))
    layers: dict[str, dict[int, bool]] = {}
    for _, (ours, theirs, _) in table.rows():
        if block := _BLOCK.match(ours):
            stack, number = layers.setdefault(block[1], {}), int(block[2])
            stack[number] = stack.get(number, False) or table.canonical(theirs) in present
    if sum(map(len, layers.values())) <= QUICK_LAYERS:
        return
    for stack, found in layers.items():
        if not all(found.values()):
            piece = f" of the {stack.split('.')[0]}" if "." in stack.removesuffix("stack.blocks") else ""
            says = f"its config.json says {len(found)} layers{piece}, and the file has tensors of {sum(found.values())}"
            raise ValueError(
                f"cannot load {printable(tensors.path)} as {what}: {says}. Does that config belong to these weights?"
            )


def _check_dtype(dtype: Any) -> None:
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"dtype is {quoted(dtype)}; expected a floating-point dtype, or None to keep each tensor's own."
        )
    if dtype is not None and jax.dtypes.canonicalize_dtype(dtype) != np.dtype(dtype):
        raise ValueError(
            f"dtype is {quoted(dtype)}, which jax does not use; enable it with jax_enable_x64 or take float32."
        )


def _plan(
    shapes: dict[str, tuple[int, ...]], table: NameTable, tensors: Tensors, may_be_new: Mapping[str, str]
) -> _Plan:
    plan = _Plan({}, Loaded(), [])
    found = _match(table, tensors, plan)
    covered = dict.fromkeys(shapes, 0)
    for group, rows in table.groups.items():
        required = [row for row in rows if row[0] not in table.computed]
        present = any(table.canonical(row[1]) in found for row in required)
        new = group in may_be_new and bool(required) and not present
        for ours, theirs, transform in rows:
            covered[ours] += 1
            expected = transforms.their_shape(transform, shapes[ours])
            name = found.get(table.canonical(theirs))
            if name is None and ours in table.computed:
                continue
            if name is None and not new:
                some = f" (the rest of {may_be_new[group]} is present)" if group in may_be_new else ""
                plan.problems.append(f"missing {quoted(theirs)}: expected shape {expected}{some}")
            elif name is not None and tensors.entries[name].shape != expected:
                got = tensors.entries[name].shape
                plan.problems.append(
                    f"wrong shape of {quoted(name)}: got {quoted(got)}, expected {expected} from the config"
                )
            elif name is not None:
                plan.fills.setdefault(ours, []).append((name, transform))
        if new:
            plan.loaded.new += [(ours, group) for ours in dict.fromkeys(row[0] for row in required)]
    # A family's table and the model's fields are written in two places: they must agree on every array.
    for ours, count in covered.items():
        transform = next((row[2] for _, row in table.rows() if row[0] == ours), "same")
        if count != transforms.count_parts(transform, shapes[ours]):
            raise AssertionError(f"the name table has {count} rows for {ours} of shape {shapes[ours]}.")
    plan.loaded.names = list(dict.fromkeys(name for fill in plan.fills.values() for name, _ in fill))
    plan.problems[:] = dict.fromkeys(plan.problems)
    return plan


def _match(table: NameTable, tensors: Tensors, plan: _Plan) -> dict[str, str]:
    """Canonical name to the checkpoint's name for every row that the checkpoint has."""
    wanted = {table.canonical(row[1]) for _, row in table.rows()}
    found: dict[str, str] = {}
    copies: list[tuple[str, str]] = []
    for name in tensors.entries:
        canonical = table.canonical(name)
        if canonical in table.duplicates and canonical not in wanted:
            copies.append((name, table.duplicates[canonical]))
        elif canonical in wanted and canonical in found:
            plan.problems.append(
                f"{quoted(name)} and {quoted(found[canonical])} are two spellings of one name; expected one of them"
            )
        elif canonical in wanted:
            found[canonical] = name
        elif (reason := table.why_unused(canonical)) is not None:
            plan.loaded.ignored.append((name, reason))
        else:
            plan.problems.append(
                f"unexpected {quoted(name)} of shape {quoted(tensors.entries[name].shape)}: the model has no such array"
            )
    for name, original in copies:
        if original not in found:
            found[original] = name
        elif is_headers_only():
            plan.loaded.ignored.append((name, "tied to another tensor, with which it was not compared"))
        elif equal_mapped(tensors.read(name), tensors.read(found[original])):
            plan.loaded.ignored.append((name, "a second copy of a tied tensor"))
        elif table.canonical(name) in table.equal_copies:
            plan.problems.append(
                f"{quoted(name)} differs from {quoted(found[original])}: expected one table for both pieces"
            )
        else:
            plan.loaded.ignored.append((name, "tied to another tensor, whose values differ and are the ones used"))
            setting = table.settings.get(table.canonical(name))
            plan.loaded.dropped.append((name, found[original], setting))
    return found


def _dtypes(plan: _Plan, tensors: Tensors, dtype: Any, integers: set[str]) -> dict[str, np.dtype]:
    """The dtype of each array to be filled, with what is wrong about the checkpoint's added to the problems."""
    result = {}
    for path, fill in plan.fills.items():
        got = {tensors.entries[name].dtype: name for name, _ in fill}
        if path in integers:
            wrong = [(own, name) for own, name in got.items() if own != np.int8]
            plan.problems += [f"{quoted(name)} has dtype {own}: expected int8" for own, name in wrong]
            result[path] = np.dtype(np.int8)
            continue
        for own, name in got.items():
            if not jnp.issubdtype(own, jnp.floating):
                plan.problems.append(f"{quoted(name)} has dtype {own}: expected a floating-point one")
            elif dtype is None and own == np.float64:
                plan.problems.append(
                    f"{quoted(name)} has dtype float64: expected at most float32; pass a dtype to convert"
                )
        if dtype is None and len(got) > 1:
            pairs = ", ".join(f"{quoted(name)} of {own}" for own, name in got.items())
            plan.problems.append(f"{pairs} are parts of one array: expected one dtype; pass a dtype to convert")
        result[path] = np.dtype(dtype) if dtype is not None else next(iter(got))
    return result


def _part(
    whole: Shape, dtype: np.dtype, fill: list[tuple[str, How]], tensors: Tensors, start: Shape, shape: Shape
) -> np.ndarray:
    """The part of an array that starts there, for which no more of the file is read than it holds."""
    # memory aligned as the CPU backend wants it, which then takes it over without a copy
    count = math.prod(shape) * dtype.itemsize
    memory = np.empty(count + _ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % _ALIGNMENT
    array = memory[first : first + count].view(dtype).reshape(shape)
    for name, transform in fill:
        transforms.write(transform, array, tensors.read(name), whole=whole, at=start)
    return array


def initial(build: Callable[[jax.Array], Any], key: jax.Array, paths: Sequence[str]) -> Iterator[tuple[str, jax.Array]]:
    """Some arrays of a newly initialised model with their paths, each as the part that owns it draws it.

    One at a time: what the others are made of is not computed.
    """
    if not paths:
        return

    def drawn(key: jax.Array) -> list[jax.Array]:
        leaves, _ = jax.tree_util.tree_flatten_with_path(eqx.filter(build(key), eqx.is_array))
        arrays = {path_name(path): leaf for path, leaf in leaves}
        return [arrays[path] for path in paths]

    closed = jax.make_jaxpr(drawn)(key)
    makes = {var: number for number, step in enumerate(closed.jaxpr.eqns) for var in step.outvars}
    for path, out in zip(paths, closed.jaxpr.outvars, strict=True):
        steps: set[int] = set()
        needed = [out]
        while needed:
            number = makes.get(var) if isinstance(var := needed.pop(), Var) else None
            if number is not None and number not in steps:
                steps.add(number)
                needed += closed.jaxpr.eqns[number].invars
        part = closed.jaxpr.replace(eqns=[closed.jaxpr.eqns[number] for number in sorted(steps)], outvars=[out])
        (array,) = jaxpr_as_fun(ClosedJaxpr(part, closed.consts))(key)
        yield path, array


def _message(what: str, path: Path, problems: list[str], wrapping: str | None) -> str:
    shown = "; ".join(problems[:_SHOWN])
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    count = f"{len(problems)} problems" if len(problems) > 1 else "1 problem"
    count += "" if wrapping is None else f"; {wrapping}"
    return f"cannot load {printable(path)} as {what} ({count}): {shown}{more}. {_WAY_OUT}"
