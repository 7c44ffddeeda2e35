"""What a compiled program computes and sends, read off its text, each loop as often as it runs.

XLA's own `cost_analysis` counts the body of a loop once, and no bytes between devices.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}
_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"([a-z]+\d*)\w*\[([\d,]*)\]")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_OPERATION = re.compile(r"\s([a-z][a-z\-]*)\(")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+)")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\([^{]*\))?\s*\{([^}]*)\}")


class Instruction(NamedTuple):
    """A line of a computation.

    Attributes:
      name: its name.
      shape: its result, as text.
      operation: such as `dot`.
      text: all of the line.
    """

    name: str
    shape: str
    operation: str
    text: str


class Work(NamedTuple):
    """What one device does in a run of a program.

    Attributes:
      flops: of matrix products, two a multiplication with its addition.
      sent: bytes that leave the device, by kind of collective.
      calls: how many collectives there are, by kind.
    """

    flops: float
    sent: Counter
    calls: Counter


def work(text: str) -> Work:
    """Read the text of a compiled program, `compiled.as_text()`.

    A loop whose trips are not known counts once, and of a conditional the branch with most work.
    Bytes are those of the ring algorithms (Patarasuk and Yuan 2009): of R bytes as results among n
    devices, a device sends (n − 1) / n R to gather or exchange them, twice that to reduce, and
    n − 1 times R to reduce and scatter.
    """
    computations, entry = _computations(text)
    return _work_of(entry, computations, {})


def _computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    found: dict[str, list[Instruction]] = {}
    entry, name = "", ""
    for line in text.splitlines():
        if header := _HEADER.match(line):
            name = header[1]
            found[name] = []
            entry = name if line.startswith("ENTRY") else entry
        elif name and (match := _INSTRUCTION.match(line)):
            operation = _OPERATION.search(" " + match[2])
            if operation is not None:
                shape = match[2][: operation.start()]
                found[name].append(Instruction(match[1], shape, operation[1], line))
    if not entry:
        raise ValueError("text must be that of a compiled program, got none with an ENTRY")
    return found, entry


def _work_of(name: str, computations: dict[str, list[Instruction]], known: dict[str, Work]) -> Work:
    if name not in known:
        shapes = {one.name: one.shape for one in computations[name]}
        parts = [_work_in(one, shapes, computations, known) for one in computations[name]]
        known[name] = _total(parts)
    return known[name]


def _work_in(
    one: Instruction,
    shapes: dict[str, str],
    computations: dict[str, list[Instruction]],
    known: dict[str, Work],
) -> Work:
    kind = one.operation.removesuffix("-start")
    if kind in KINDS:
        sent = _bytes_sent(kind, one)
        return Work(0.0, Counter({kind: sent}), Counter({kind: 1}))
    if one.operation == "dot":
        return Work(_dot_flops(one, shapes), Counter(), Counter())
    branches = [
        _work_of(name.strip().lstrip("%"), computations, known)
        for listed, single in _BRANCHES.findall(one.text)
        for name in (listed or single).split(",")
    ]
    if branches:
        return max(branches, key=lambda branch: (branch.flops, branch.sent.total()))
    if one.operation in ("reduce", "reduce-window", "scatter", "sort", "map"):
        return _total([])  # what they call is a sum, or the like
    parts = [_work_of(name, computations, known) for name in _CALLED.findall(one.text)]
    trips = _TRIPS.search(one.text) if one.operation == "while" else None
    return _total(parts, 1 if trips is None else int(trips[1]))


def _total(parts: list[Work], times: int = 1) -> Work:
    sent: Counter = Counter()
    calls: Counter = Counter()
    for part in parts:
        sent.update(part.sent)
        calls.update(part.calls)
    return Work(
        times * math.fsum(part.flops for part in parts),
        Counter({kind: times * count for kind, count in sent.items()}),
        Counter({kind: times * count for kind, count in calls.items()}),
    )


def _dot_flops(one: Instruction, shapes: dict[str, str]) -> float:
    """Twice the numbers that it gives, times those that are summed for each."""
    (result,) = _sizes(one.shape)
    operands = one.text[one.text.index(" dot(") + 5 :]
    left = _operand_shape(operands, shapes)
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.text)
    axes = [int(axis) for axis in contracted[1].split(",") if axis] if contracted else []
    return 2.0 * math.prod(result[1]) * math.prod(left[axis] for axis in axes)


def _operand_shape(operands: str, shapes: dict[str, str]) -> list[int]:
    first = operands.split(" ", 1)[0]
    shape = first if "[" in first else shapes[re.split(r"[,)]", operands)[0].lstrip("%")]
    return next(iter(_sizes(shape)))[1]


def _bytes_sent(kind: str, one: Instruction) -> float:
    if kind == "collective-permute":
        return float(_num_bytes(one.shape, one.operation.endswith("-start")))
    n = _group_size(one.text)
    results = _num_bytes(one.shape, one.operation.endswith("-start") and kind != "all-reduce")
    factor = {"all-reduce": 2 / n, "reduce-scatter": 1.0}.get(kind, 1 / n)
    return factor * (n - 1) * results


def _num_bytes(shape: str, has_operands: bool) -> int:
    """Bytes of arrays; of an asynchronous start, which lists operands too, of the second half."""
    sizes = [math.prod(dims) * _bits(dtype) // 8 for dtype, dims in _sizes(shape)]
    return sum(sizes[len(sizes) // 2 :]) if has_operands else sum(sizes)


def _sizes(shape: str) -> Iterator[tuple[str, list[int]]]:
    for dtype, dims in _ARRAY.findall(re.sub(r"/\*.*?\*/|\{[^}]*\}", "", shape)):
        yield dtype, [int(size) for size in dims.split(",") if size]


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    return int(re.sub(r"\D", "", dtype))


def _group_size(text: str) -> int:
    if match := _LISTED.search(text):
        return len(match[1].split(","))
    if match := _IOTA.search(text):
        return int(match[2])
    if match := _MESH.search(text):
        axes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        named = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", match[2])
        return math.prod(int(part or axes[name]) for name, part in named)
    raise ValueError(f"replica_groups must be listed, by iota or by mesh, got {text[:300]}")
