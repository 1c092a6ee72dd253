"""What a compiled program sends between devices: collectives of its text, with the axes of a mesh they go along."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

SIZES = {"f64": 8, "f32": 4, "bf16": 2, "f16": 2, "s64": 8, "u64": 8, "s32": 4, "u32": 4, "s8": 1, "u8": 1, "pred": 1}
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \([^\n]*\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\([^()]*\)|\S+) ([\w\-]+)\(([^)]*)\)(.*)$", re.MULTILINE)
_CALLED = re.compile(r"(?:to_apply|body|calls|true_computation|false_computation)=%?([\w.\-]+)")
_ARRAY = re.compile(r"([a-z]+\d*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program, as often as it runs.

    Attributes:
        kind: of `KINDS`. A sum of which every device keeps a slice is a `"reduce-scatter"`, however it is written.
        axes: of the mesh, along which it goes.
        devices: how many take part in it together.
        payload: bytes of the whole: of what is gathered, or of what is summed.
        times: how often it runs, loops counted.
        place: where in the model it comes from.
    """

    kind: str
    axes: tuple[str, ...]
    devices: int
    payload: int
    times: int
    place: str

    @property
    def sent(self) -> float:
        """Bytes that each device sends in all, by the algorithms that send the least (rings and their like)."""
        if self.kind == "collective-permute":
            return float(self.times * self.payload)
        rounds = 2 if self.kind == "all-reduce" else 1
        return self.times * rounds * self.payload * (self.devices - 1) / self.devices


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    shape: str
    kind: str
    operands: tuple[str, ...]
    number: int
    rest: str


def collectives(text: str, mesh: Mapping[str, int]) -> list[Collective]:
    """Those of a compiled program that go along an axis of the mesh.

    Args:
        text: `compiled.as_text()`.
        mesh: Sizes by names, the slowest axis first, as in `mesh.shape`; devices are numbered in that order.

    Raises:
        ValueError: A loop with a collective in it does not say how often it runs.
    """
    bodies = {
        name: [_instruction(found) for found in _INSTRUCTION.finditer(body)] for name, body in _computations(text)
    }
    entry = re.search(r"^ENTRY %?([\w.\-]+)", text, re.MULTILINE)
    if entry is None:
        raise ValueError("the program has no entry")
    return list(_within(bodies, entry[1], 1, mesh))


def _computations(text: str) -> Iterator[tuple[str, str]]:
    for found in _COMPUTATION.finditer(text):
        yield found[1], found[2]


def _instruction(found: re.Match[str]) -> _Instruction:
    operands = tuple(re.findall(r"%([\w.\-]+)", found[4]))
    number = int(found[4]) if found[3] == "parameter" else -1
    return _Instruction(found[1], found[2], found[3].removesuffix("-start"), operands, number, found[5])


def _within(
    bodies: Mapping[str, list[_Instruction]], name: str, times: int, mesh: Mapping[str, int]
) -> Iterator[Collective]:
    for each in bodies[name]:
        if each.kind in KINDS:
            yield from _parts(bodies, name, each, times, mesh)
        elif each.kind in ("while", "call", "conditional", "async"):
            inner = [called for called in _CALLED.findall(each.rest) if called in bodies]
            again = _trips(each) if each.kind == "while" else 1
            for called in inner:
                found = list(_within(bodies, called, times * (again or 1), mesh))
                if found and again is None:
                    raise ValueError(f"the loop {each.name} sends something, and does not say how often it runs")
                yield from found


def _trips(loop: _Instruction) -> int | None:
    found = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest)
    return None if found is None else int(found[1])


def _parts(
    bodies: Mapping[str, list[_Instruction]], name: str, each: _Instruction, times: int, mesh: Mapping[str, int]
) -> Iterator[Collective]:
    """A collective of several arrays is one for each of them."""
    groups = _groups(each, math.prod(mesh.values()))
    axes = _axes(groups, mesh)
    if not axes:
        return
    place = re.search(r'op_name="([^"]*)"', each.rest)
    arrays = _ARRAY.findall(each.shape)
    for index, (kind, sizes) in enumerate(arrays):
        payload = SIZES[kind] * math.prod(int(size) for size in sizes.split(",") if size)
        sliced = each.kind == "all-reduce" and _is_sliced(bodies, name, each, index if len(arrays) > 1 else None)
        if each.kind == "reduce-scatter":
            payload *= len(groups[0])
        kind = "reduce-scatter" if sliced else each.kind
        yield Collective(kind, axes, len(groups[0]), payload, times, "" if place is None else place[1])


def _is_sliced(bodies: Mapping[str, list[_Instruction]], name: str, summed: _Instruction, index: int | None) -> bool:
    """Whether all that is done with a sum is to take this device's slice: a reduce-scatter, which CPUs write out."""
    held = {summed.name}
    if index is not None:
        held = {
            each.name
            for each in bodies[name]
            if each.kind == "get-tuple-element"
            and summed.name in each.operands
            and each.rest.startswith(f", index={index}")
        }
    return _only_sliced(bodies, name, held)


def _only_sliced(bodies: Mapping[str, list[_Instruction]], name: str, held: set[str]) -> bool:
    """Whether a slice is all that anything in a computation takes of these values."""
    users = [each for each in bodies[name] if held & set(each.operands) and each.kind != "get-tuple-element"]
    return bool(users) and all(_slices(bodies, name, user, held) for user in users)


def _slices(bodies: Mapping[str, list[_Instruction]], name: str, user: _Instruction, held: set[str]) -> bool:
    if user.kind == "dynamic-slice":
        return user.operands[0] in held
    if user.kind in ("bitcast", "copy", "transpose", "reshape", "convert"):
        return _only_sliced(bodies, name, {user.name})
    called = _CALLED.search(user.rest)
    if user.kind != "fusion" or called is None:
        return False
    places = [place for place, operand in enumerate(user.operands) if operand in held]
    given = {each.name for each in bodies[called[1]] if each.kind == "parameter" and each.number in places}
    return _only_sliced(bodies, called[1], given)


def _groups(each: _Instruction, devices: int) -> list[list[int]]:
    """The devices of each group, in any of the three ways in which XLA writes them."""
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", each.rest):
        moved = [[int(n) for n in pair.split(",")] for pair in re.findall(r"\{?(\d+,\d+)", pairs[1])]
        return [pair for pair in moved if pair[0] != pair[1]] or [[0]]
    if listed := re.search(r"replica_groups=\{(\{.*?\})\}", each.rest):
        return [[int(n) for n in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", listed[1])]
    if counted := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", each.rest):
        shape, order = _numbers(counted[1]), _numbers(counted[3] or "")
        return _counted(_numbers(counted[2]), order).reshape(shape).tolist()
    if named := re.search(
        r"replica_groups=mesh\[(.*?)\](?:, device_ids=\(\[([\d,]+)\]T\(([\d,]+)\)\))? \{(.*?)\}", each.rest
    ):
        names = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        over = re.findall(r"'(\w+)'", named[4])
        shape = [int(size) for size in names.values()]
        numbers = _counted(_numbers(named[2] or str(devices)), _numbers(named[3] or "")).reshape(shape)
        last = [list(names).index(axis) for axis in over]
        moved = np.moveaxis(numbers, last, range(-len(last), 0))
        return moved.reshape(-1, math.prod(shape[axis] for axis in last)).tolist()
    return [list(range(devices))]


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(each) for each in text.split(",") if each)


def _counted(shape: tuple[int, ...], order: tuple[int, ...]) -> np.ndarray:
    numbers = np.arange(math.prod(shape)).reshape(shape)
    return numbers.transpose(order) if order else numbers


def _axes(groups: list[list[int]], mesh: Mapping[str, int]) -> tuple[str, ...]:
    """Axes along which devices of a group differ."""
    places = [np.stack(np.unravel_index(group, tuple(mesh.values()))) for group in groups]
    return tuple(axis for at, axis in enumerate(mesh) if any(len(set(each[at])) > 1 for each in places))
