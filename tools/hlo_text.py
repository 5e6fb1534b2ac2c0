"""What a compiled program moves between devices and how long it takes, from its text.

XLA's own cost analysis has neither: it does not tell collectives apart, and for a TPU
its time comes back negative. The optimised HLO that `Compiled.as_text()` gives has
both: collectives with their shapes, and for most instructions the cycles that the TPU
compiler reckoned with when it chose how to execute them.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator

__all__ = [
    "COLLECTIVES",
    "Traffic",
    "Work",
    "padded_bytes",
    "read_hlo",
    "shape_bytes",
]

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_NAME = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_TILED = re.compile(
    r"\b([a-z]+?\d*)\[([\d,<=]*)\](?:\{([\d,]*)(?::T\(([\d,]+)\))?[^}]*?(S\(\d\))?\})?"
)
_OPERANDS = re.compile(r"%([\w.\-]+)")
_ARRAY = re.compile(r"\b(pred|token|[a-z]+?\d+\w*)\[([\d,<=]*)\]")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|branch_computations|true_computation"
    r"|false_computation|called_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)
_CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"?(\d+)')
_LIMIT = re.compile(r"= [su]\d+\[\][^ ]* constant\((\d+)\)")


# what moves no data, or what has been counted where it began
_STILL = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while")
_STILL += ("conditional", "call", "after-all", "partition-id", "replica-id", "iota")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Instructions of one kind that a device executes."""

    count: int = 0
    bytes: int = 0  # of their results on one device


@dataclasses.dataclass
class Work:
    """What one device does in one run of a computation."""

    cycles: int = 0  # the compiler's estimates, one after the other
    count: Counter[str] = dataclasses.field(default_factory=Counter)  # per collective
    bytes: Counter[str] = dataclasses.field(default_factory=Counter)
    loops_of_unknown_length: int = 0  # counted as if they ran once
    moved: int = 0  # bytes of operands and results, tiles filled up
    moved_in_memory: int = 0  # of these, what lies in the memory, not on the chip
    relayouts: Traffic = Traffic()  # reshapes that move data; they have no estimate
    relayouts_in_memory: int = 0  # of `moved_in_memory`, what these move
    kernels: int = 0  # instructions that move something

    @property
    def collectives(self) -> dict[str, Traffic]:
        """By kind."""
        return {k: Traffic(n, self.bytes[k]) for k, n in sorted(self.count.items())}

    def add(self, other: "Work", times: int = 1, cycles: bool = True) -> None:
        """Appends other work.

        Args:
            other: what is added.
            times: how often it runs.
            cycles: false where its time is already contained.
        """
        if cycles:
            self.cycles += times * other.cycles
        for kind in other.count:
            self.count[kind] += times * other.count[kind]
            self.bytes[kind] += times * other.bytes[kind]
        self.loops_of_unknown_length += times * other.loops_of_unknown_length
        self.moved += times * other.moved
        self.moved_in_memory += times * other.moved_in_memory
        self.kernels += times * other.kernels
        self.relayouts_in_memory += times * other.relayouts_in_memory
        self.relayouts = Traffic(
            self.relayouts.count + times * other.relayouts.count,
            self.relayouts.bytes + times * other.relayouts.bytes,
        )


def shape_bytes(shape: str) -> int:
    """Bytes of an array or tuple in HLO notation, such as `(f32[4,2]{1,0}, s8[])`.

    Raises:
        ValueError: an element type of unknown size.
    """
    total = 0
    for kind, sizes in _ARRAY.findall(shape):
        dims = [int(size.lstrip("<=")) for size in sizes.split(",") if size]
        total += -(-math.prod(dims) * _bits(kind) // 8)
    return total


def padded_bytes(shape: str) -> tuple[int, int]:
    """Bytes of an array or tuple with its tiles filled up, and those in the memory.

    The two last axes, in the order in which they are stored, fill whole tiles. What is
    marked `S(n)` is kept on the chip.
    """
    total = memory = 0
    for kind, sizes, order, tile, place in _TILED.findall(shape):
        dims = [int(size.lstrip("<=")) for size in sizes.split(",") if size] or [1]
        if order:
            dims = [dims[int(axis)] for axis in reversed(order.split(","))]
        tiles = [int(size) for size in tile.split(",") if size]
        for axis, size in enumerate(reversed(tiles), start=1):
            if axis <= len(dims):
                dims[-axis] = -(-dims[-axis] // size) * size
        size = -(-math.prod(dims) * _bits(kind) // 8)
        total += size
        memory += 0 if place else size
    return total, memory


def _bits(kind: str) -> int:
    if kind in ("pred", "token"):
        return 8 if kind == "pred" else 0
    found = re.match(r"(?:bf|f|s|u|c)(\d+)", kind)
    if not found:
        raise ValueError(
            f"element type {kind!r} is unknown: expected such as f32, bf16, s8, pred."
        )
    return int(found.group(1))


def read_hlo(text: str) -> Work:
    """Adds up a program as it runs: loops as often as they turn.

    Of a conditional, the branch that takes most cycles counts, with the collectives of
    all branches. Cycles of an instruction contain those of what it calls.

    Args:
        text: optimised HLO of one device, `jax.stages.Compiled.as_text()`.

    Raises:
        ValueError: the text has no entry computation.
    """
    computations, entry = _computations(text)
    known: dict[str, Work] = {}

    def work_of(name: str) -> Work:
        if name not in known:
            known[name] = Work()
            shapes: dict[str, str] = {}
            for line in computations.get(name, []):
                _add_instruction(known[name], line, computations, work_of)
                _add_movement(known[name], line, shapes)
        return known[name]

    return work_of(entry)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    found: dict[str, list[str]] = {}
    entry, current = None, None
    for line in text.splitlines():
        if current is None and (header := _HEADER.match(line)):
            current = header.group(2)
            found[current] = []
            entry = current if header.group(1) else entry
        elif line == "}":
            current = None
        elif current is not None:
            found[current].append(line)
    if entry is None:
        raise ValueError(
            f"text of {len(text)} characters has no ENTRY computation: expected HLO as "
            "Compiled.as_text() gives it."
        )
    return found, entry


def _add_instruction(total: Work, line: str, computations, work_of) -> None:
    parts = _parts(line)
    if parts is None:
        return
    shape, opcode, rest = parts
    for kind in COLLECTIVES:
        if opcode in (kind, f"{kind}-start"):
            total.count[kind] += 1
            total.bytes[kind] += shape_bytes(_result(shape, opcode))
    own = _CYCLES.search(rest)
    total.cycles += int(own.group(1)) if own else 0
    if _is_relayout(opcode, rest):
        total.add(Work(relayouts=Traffic(1, shape_bytes(shape))))
    called = dict(_called(rest))
    inside = Work()
    if opcode == "while":
        trips = _trips(rest, computations.get(called["condition"][0], []))
        inside.loops_of_unknown_length += trips is None
        inside.add(work_of(called["body"][0]), trips or 1)
    elif opcode == "conditional":
        branches = [work_of(name) for names in called.values() for name in names]
        for branch in branches:
            inside.add(branch, cycles=False)
        inside.cycles = max(branch.cycles for branch in branches)
    elif opcode == "call" or "calls" in called or "called_computations" in called:
        # to_apply of a reduction is a scalar function, of a call it is the callee
        for name in (name for names in called.values() for name in names):
            inside.add(work_of(name))
        if opcode == "fusion":
            # inside, a reshape is a way of reading, and nothing is written
            inside.relayouts, inside.relayouts_in_memory = Traffic(), 0
            inside.moved, inside.moved_in_memory = 0, 0
            inside.kernels = 0
    total.add(inside, cycles=not own)


def _is_relayout(opcode: str, rest: str) -> bool:
    """Whether it is a reshape that moves data: others are bitcasts by now."""
    return opcode == "reshape" and not _CYCLES.search(rest)


def _add_movement(total: Work, line: str, shapes: dict[str, str]) -> None:
    """Adds what an instruction reads and writes, as if it read its operands in full.

    Args:
        total: where to add.
        line: the instruction.
        shapes: of the instructions before, and then of this one, too.
    """
    parts = _parts(line)
    if parts is None:
        return
    shape, opcode, rest = parts
    name = _NAME.match(line)
    assert name
    shapes[name.group(1)] = shape
    if opcode in _STILL or opcode.endswith("-done"):
        return
    end = _closing("(" + rest) - 1
    named = [shapes.get(operand, "") for operand in _OPERANDS.findall(rest[:end])]
    if opcode in ("slice", "dynamic-slice", "gather"):
        named = [shape]  # reads only what it gives
    elif opcode == "dynamic-update-slice":
        shape = named[1]  # the rest stays where it is
        named = [shape]
    total.kernels += 1
    result = shape
    if "__cublas" in rest:
        # beside the product it gives memory that it works in, most of it unused
        kept = [one for one in _elements(shape.strip("()")) if "s8[" not in one]
        result = ",".join(kept)
    if opcode.endswith("-start"):
        result = _result(shape, opcode)
        if opcode in ("copy-start", "slice-start"):
            result = next(_elements(shape[1:-1]), shape)
    for one in [result, *named]:
        moved, in_memory = padded_bytes(one)
        total.moved += moved
        total.moved_in_memory += in_memory
        if _is_relayout(opcode, rest):
            total.relayouts_in_memory += in_memory


def _parts(line: str) -> tuple[str, str, str] | None:
    """Shape, opcode and everything behind it; None if the line is no instruction."""
    name = _NAME.match(line)
    if not name:
        return None
    text = line[name.end() :]
    end = _closing(text) if text.startswith("(") else text.find(" ")
    opcode = _OPCODE.match(text, end)
    return (text[:end], opcode.group(1), text[opcode.end() :]) if opcode else None


def _closing(text: str) -> int:
    """Just behind the bracket that closes the first one."""
    depth = 0
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return index + 1
    return len(text)


def _result(shape: str, opcode: str) -> str:
    """The part of a shape that is the result: most `-start` give operands, too."""
    if not opcode.endswith("-start") or opcode == "all-reduce-start":
        return shape
    elements = list(_elements(shape[1:-1]))
    return elements[1] if len(elements) > 1 else shape


def _elements(inside: str) -> Iterator[str]:
    depth = start = 0
    for index, letter in enumerate(inside):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            yield inside[start:index]
            start = index + 1
    yield inside[start:]


def _called(rest: str) -> Iterator[tuple[str, list[str]]]:
    for role, names in _CALLED.findall(rest):
        yield role, [name.strip().lstrip("%") for name in names.strip("{}").split(",")]


def _trips(rest: str, condition: list[str]) -> int | None:
    """How often a loop turns: as noted, or the only number its condition names."""
    if noted := _TRIPS.search(rest):
        return int(noted.group(1))
    limits = [limit for line in condition for limit in _LIMIT.findall(line)]
    return int(limits[0]) if len(limits) == 1 else None
