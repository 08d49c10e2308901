"""The models: registers, a key of an etcd-like store, counters, lists, sets and texts."""

from bisect import bisect_right
from collections import Counter as Tally
from collections.abc import Callable, Hashable, Mapping, Sequence

import msgspec

from plasmacloud.verify.model import (
    ABSENT,
    ANY,
    ILLEGAL,
    Add,
    Append,
    Cas,
    Delete,
    Found,
    Insert,
    Mark,
    Model,
    Read,
    State,
    Step,
    Write,
    WriteAt,
    describe,
    describe_value,
)
from plasmacloud.verify.operations import UNKNOWN, Operation

__all__ = [
    "ABSENT",
    "ANY",
    "ILLEGAL",
    "MODELS",
    "Add",
    "Append",
    "AppendList",
    "Cas",
    "Counter",
    "Delete",
    "Found",
    "GrowSet",
    "Insert",
    "Mark",
    "Model",
    "Read",
    "Register",
    "State",
    "Step",
    "Text",
    "VersionedRegister",
    "VersionedState",
    "Write",
    "WriteAt",
    "describe",
]


class Register(Model):
    """One value: read, write, delete, compare-and-set. ``initial``: ABSENT unless given."""

    name = "register"

    def __init__(self, initial: Hashable = ABSENT) -> None:
        self._initial = initial

    def init(self) -> State:
        return self._initial

    def step(self, state: State, input: Hashable, output: Hashable) -> State:
        match input:
            case Read():
                return state if output is UNKNOWN or output == state else ILLEGAL
            case Write(value):
                return value
            case Delete():
                return ABSENT
            case Cas(expected, new):
                if isinstance(output, Found):
                    return state if state == output.value != expected else ILLEGAL
                if output is UNKNOWN:
                    return new if state == expected else state
                return (
                    (new if output is True else ILLEGAL)
                    if state == expected
                    else (ILLEGAL if output is True else state)
                )
            case _:
                raise TypeError(f"a register has no operation {input!r}")

    def reads_only(self, input: Hashable, output: Hashable) -> bool:
        return isinstance(input, Read) or (isinstance(input, Cas) and (output is False or isinstance(output, Found)))

    def needs(self, input: Hashable, output: Hashable) -> State | Mark:
        match input:
            case Read() if output is not UNKNOWN:
                return output
            case Cas(expected):
                return output.value if isinstance(output, Found) else ANY if output is False else expected
            case _:
                return ANY

    def gives(self, input: Hashable, output: Hashable) -> State | Mark:
        match input:
            case Write(value) | Cas(_, value):
                return value
            case Delete():
                return ABSENT
            case _:
                return ANY


class VersionedState(msgspec.Struct, frozen=True):
    """``exact``: the revision is known; otherwise it is known only that it is higher than ``revision``."""

    value: Hashable
    revision: int
    exact: bool = True


class VersionedRegister(Model):
    """A key of an etcd-like store: a register whose every write has a revision, higher than any before.

    Outputs: of a write that was executed its revision (an int, or None where the client was not told); of a read
    ``(value, mod_revision)`` or ABSENT; of a refused compare ``Found((value, mod_revision))``, ``Found(ABSENT)`` or
    False. Revisions are those of the whole store, so between two writes of a key they may skip any number.
    """

    name = "versioned"

    def init(self) -> State:
        return VersionedState(ABSENT, 0)

    def step(self, state: State, input: Hashable, output: Hashable) -> State:
        assert isinstance(state, VersionedState)
        match input:
            case Settled(settled, revision):
                return self.step(state, settled, revision)
            case Read():
                return state if output is UNKNOWN else self._seen(state, output)
            case Write(value):
                return self._written(state, value, output)
            case Delete():
                return self._written(state, ABSENT, output)
            case Cas(expected, new):
                return self._compared(state, state.value == expected, new, output)
            case WriteAt(revision, value):
                current = state.revision if state.value is not ABSENT else 0
                exact = state.exact or state.value is ABSENT
                if not exact and (output is False or isinstance(output, Found)):
                    # Any revision but this one makes it fail.
                    refused = not isinstance(output, Found) or _revision(output.value) != revision
                    return self._compared(state, not refused, value, output)
                return self._compared(state, current == revision if exact else revision > current, value, output)
            case _:
                raise TypeError(f"a versioned register has no operation {input!r}")

    def _compared(self, state: VersionedState, equal: bool, new: Hashable, output: Hashable) -> State:
        if isinstance(output, Found):
            return ILLEGAL if equal else self._seen(state, output.value)
        if output is UNKNOWN:
            return self._written(state, new, output) if equal else state
        if output is False:
            return ILLEGAL if equal else state
        return self._written(state, new, output) if equal else ILLEGAL

    def _written(self, state: VersionedState, value: Hashable, output: Hashable) -> State:
        if isinstance(output, int) and output is not True:
            return VersionedState(value, output) if output > state.revision else ILLEGAL
        return VersionedState(value, state.revision, exact=False)

    def _seen(self, state: VersionedState, seen: Hashable) -> State:
        if seen is ABSENT or state.value is ABSENT:
            return state if seen is state.value else ILLEGAL
        assert isinstance(seen, tuple)
        value, revision = seen
        if value != state.value or not (revision == state.revision if state.exact else revision > state.revision):
            return ILLEGAL
        return VersionedState(value, revision)

    def describe_state(self, state: State) -> str:
        assert isinstance(state, VersionedState)
        return f"{describe_value(state.value)} at {'' if state.exact else '> '}{state.revision}"

    def prepare(self, operations: Sequence[Operation]) -> Sequence[Operation]:
        """A value that only one operation ever wrote was written at the revision at which it was seen."""
        writers = Tally(value for op in operations if (value := _written_value(op.input)) is not ABSENT)
        seen: dict[Hashable, int] = {}
        for op in operations:
            held = op.output.value if isinstance(op.output, Found) else op.output
            if isinstance(held, tuple) and writers[held[0]] == 1:
                seen.setdefault(held[0], held[1])
        return [
            msgspec.structs.replace(op, input=Settled(op.input, seen[value]))
            if op.output is UNKNOWN and (value := _written_value(op.input)) in seen
            else op
            for op in operations
        ]

    def stepper(self, operations: Sequence[Operation]) -> Step:
        """Known revisions must be used in order: none may be skipped while its write is still to come."""
        revisions = sorted({op.output for op in operations if isinstance(op.output, int) and not _is_bool(op.output)})

        def step(state: State, input: Hashable, output: Hashable) -> State:
            after = self.step(state, input, output)
            if isinstance(after, VersionedState) and isinstance(state, VersionedState) and after.exact:
                at = bisect_right(revisions, state.revision)
                if at < len(revisions) and revisions[at] < after.revision:
                    return ILLEGAL
            return after

        return step

    def reads_only(self, input: Hashable, output: Hashable) -> bool:
        compares = isinstance(input, Cas | WriteAt)
        return isinstance(input, Read) or (compares and (output is False or isinstance(output, Found)))


class Settled(msgspec.Struct, frozen=True):
    """An operation that nobody saw return, but whose revision somebody saw, if it happened."""

    input: Hashable
    revision: int


class Counter(Model):
    """A number: add, read. An add may answer None or the value after it."""

    name = "counter"

    def __init__(self, initial: int = 0) -> None:
        self._initial = initial

    def init(self) -> State:
        return self._initial

    def step(self, state: State, input: Hashable, output: Hashable) -> State:
        assert isinstance(state, int)
        match input:
            case Read():
                return state if output is UNKNOWN or output == state else ILLEGAL
            case Add(amount):
                after = state + amount
                return after if output is UNKNOWN or output is None or output == after else ILLEGAL
            case _:
                raise TypeError(f"a counter has no operation {input!r}")

    def reads_only(self, input: Hashable, output: Hashable) -> bool:
        return isinstance(input, Read)

    def needs(self, input: Hashable, output: Hashable) -> State | Mark:
        match input:
            case Read() if output is not UNKNOWN:
                return output
            case Add(amount) if isinstance(output, int):
                return output - amount
            case _:
                return ANY

    def grows(self, operations: Sequence[Operation]) -> bool:
        return all(op.input.amount >= 0 for op in operations if isinstance(op.input, Add))

    def stepper(self, operations: Sequence[Operation]) -> Step:
        """When nothing is subtracted, every value that was seen must be reached, none jumped over."""
        if not self.grows(operations):
            return self.step
        needed = (self.needs(op.input, op.output) for op in operations)
        stations = sorted({value for value in needed if isinstance(value, int)})

        def step(state: State, input: Hashable, output: Hashable) -> State:
            after = self.step(state, input, output)
            if isinstance(after, int) and isinstance(state, int) and after > state:
                at = bisect_right(stations, state)
                if at < len(stations) and stations[at] < after:
                    return ILLEGAL
            return after

        return step


class AppendList(Model):
    """A list that only grows at its end: append, read (a tuple of everything)."""

    name = "list"

    def init(self) -> State:
        return ()

    def step(self, state: State, input: Hashable, output: Hashable) -> State:
        assert isinstance(state, tuple)
        match input:
            case Read():
                return state if output is UNKNOWN or output == state else ILLEGAL
            case Append(item):
                return (*state, item)
            case _:
                raise TypeError(f"a list has no operation {input!r}")

    def reads_only(self, input: Hashable, output: Hashable) -> bool:
        return isinstance(input, Read)

    def needs(self, input: Hashable, output: Hashable) -> State | Mark:
        return output if isinstance(input, Read) and output is not UNKNOWN else ANY

    def grows(self, operations: Sequence[Operation]) -> bool:
        return True

    def stepper(self, operations: Sequence[Operation]) -> Step:
        """Every list that was ever there and the longest one that was read: one begins with the other."""
        reads = [op.output for op in operations if isinstance(op.input, Read) and isinstance(op.output, tuple)]
        longest = max(reads, key=len, default=())

        def step(state: State, input: Hashable, output: Hashable) -> State:
            if isinstance(input, Append) and isinstance(state, tuple):
                at = len(state)
                if at < len(longest) and longest[at] != input.item:
                    return ILLEGAL
            return self.step(state, input, output)

        return step


class Placed(msgspec.Struct, frozen=True):
    """An append of an item that no other operation has: what every read that shows it shows before it, or None when
    no read shows it."""

    item: str
    before: str | None


class Text(Model):
    """A string: write, append, read. Empty before the first write."""

    name = "text"

    def init(self) -> State:
        return ""

    def step(self, state: State, input: Hashable, output: Hashable) -> State:
        assert isinstance(state, str)
        match input:
            case Read():
                return state if output is UNKNOWN or output == state else ILLEGAL
            case Write(value):
                return value
            case Append(item):
                assert isinstance(item, str)
                return state + item
            case Placed(item, before):
                return state + item if before is None or before == state else ILLEGAL
            case _:
                raise TypeError(f"a text has no operation {input!r}")

    def prepare(self, operations: Sequence[Operation]) -> Sequence[Operation]:
        """Appends find their places by what reads show, where texts can be taken apart: all items begin with the same
        character, have it nowhere else, and differ."""
        items = [value for op in operations if isinstance(value := _item(op.input), str)]
        mark = items[0][:1] if items else ""
        if not mark or len(set(items)) < len(items) or any(item.rfind(mark) or len(item) < 1 for item in items):
            return operations
        before: dict[str, str] = {}
        for text in dict.fromkeys(op.output for op in operations if isinstance(op.input, Read)):
            at = 0
            while isinstance(text, str) and at < len(text):
                end = text.find(mark, at + 1)
                end = end if end > 0 else len(text)
                before.setdefault(text[at:end], text[:at])
                at = end
        return [
            msgspec.structs.replace(op, input=Placed(op.input.item, before.get(op.input.item)))
            if isinstance(op.input, Append) and isinstance(op.input.item, str)
            else op
            for op in operations
        ]

    def reads_only(self, input: Hashable, output: Hashable) -> bool:
        return isinstance(input, Read)

    def needs(self, input: Hashable, output: Hashable) -> State | Mark:
        if isinstance(input, Placed):
            return ANY if input.before is None else input.before
        return output if isinstance(input, Read) and output is not UNKNOWN else ANY

    def gives(self, input: Hashable, output: Hashable) -> State | Mark:
        match input:
            case Write(value):
                return value
            case Placed(_, None):
                return input  # some text that nobody ever reads; which one makes no difference to anybody
            case Placed(item, before):
                return f"{before}{item}"
            case _:
                return ANY


class GrowSet(Model):
    """A set that only grows: insert, read (a frozenset of everything)."""

    name = "set"

    def init(self) -> State:
        return frozenset()

    def step(self, state: State, input: Hashable, output: Hashable) -> State:
        assert isinstance(state, frozenset)
        match input:
            case Read():
                return state if output is UNKNOWN or output == state else ILLEGAL
            case Insert(item):
                return state if item in state else state | {item}
            case _:
                raise TypeError(f"a set has no operation {input!r}")

    def reads_only(self, input: Hashable, output: Hashable) -> bool:
        return isinstance(input, Read)

    def needs(self, input: Hashable, output: Hashable) -> State | Mark:
        return output if isinstance(input, Read) and output is not UNKNOWN else ANY

    def grows(self, operations: Sequence[Operation]) -> bool:
        return True

    def stepper(self, operations: Sequence[Operation]) -> Step:
        """Sets that were read contain one another, and an item waits until every smaller one of them is complete."""
        reads = dict.fromkeys(op.output for op in operations if isinstance(op.input, Read))
        ordered = sorted((read for read in reads if isinstance(read, frozenset)), key=len)
        first: dict[Hashable, int] = {}
        smaller: frozenset[Hashable] = frozenset()
        for number, read in enumerate(ordered):
            for item in read - smaller:
                first.setdefault(item, number)
            smaller = read

        def step(state: State, input: Hashable, output: Hashable) -> State:
            if isinstance(input, Insert) and isinstance(state, frozenset) and input.item not in state:
                number = first.get(input.item, len(ordered))
                if number and not (len(ordered[number - 1]) <= len(state) and ordered[number - 1] <= state):
                    return ILLEGAL
            return self.step(state, input, output)

        return step


MODELS: Mapping[str, Callable[[], Model]] = {
    "register": Register,
    "versioned": VersionedRegister,
    "counter": Counter,
    "list": AppendList,
    "set": GrowSet,
    "text": Text,
}


def _written_value(input: Hashable) -> Hashable:
    match input:
        case Write(value) | Cas(_, value) | WriteAt(_, value):
            return value
        case _:
            return ABSENT


def _item(input: Hashable) -> Hashable:
    match input:
        case Write(value) | Append(value):
            return value
        case _:
            return ABSENT


def _revision(seen: Hashable) -> int:
    return int(seen[1]) if isinstance(seen, tuple) else 0


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)
