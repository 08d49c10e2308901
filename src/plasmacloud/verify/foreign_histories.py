"""Histories that others have published, as operations: Jepsen's logs and histories, and what looks like them.

Two forms are read, line by line, whatever else is between them::

    INFO  jepsen.util - 3 :invoke :cas [1 2]
    {:process 3, :type :invoke, :f :append, :key "0", :value "x"}

The first is a Jepsen log, the second a line of a Jepsen history (EDN maps) or of the key-value histories in the tests
of porcupine. Lines are the only clock: an event's time is the number of its line, in milliseconds, which is what a
counterexample then shows.

``:ok`` is an answer, ``:info`` and no end at all are unknown outcomes. ``:fail`` of a compare-and-set that repeats its
arguments is an answer too (the comparison was false), of a read says nothing, and otherwise it is taken as unknown: old
logs call a timeout a failure.
"""

import re
from collections.abc import Hashable, Iterable, Iterator
from enum import Enum

import msgspec

from plasmacloud.base.errors import PlasmaError
from plasmacloud.verify.models import Add, Append, Cas, Delete, Insert, Model, Read, Write
from plasmacloud.verify.operations import UNKNOWN, Operation

NS_PER_LINE = 1_000_000

_LOG = re.compile(r"\bjepsen\.\S+\s+-\s+(\d+)\s+:(invoke|ok|fail|info)\s+:([\w-]+)\s+(.*?)(?:\s+:hint\s+\d+)?\s*$")
_MAP = re.compile(r"^\s*\{(.*)\}\s*,?\s*$")
_TOKEN = re.compile(r'\s*,?\s*("(?:[^"\\]|\\.)*"|#\{|[\[\](){}]|[^\s,\[\](){}"]+)')


class UnreadableHistory(PlasmaError):
    """A file is not a history in a form that is known, or not one of the model that was named."""


class _Type(Enum):
    INVOKE = "invoke"
    OK = "ok"
    FAIL = "fail"
    INFO = "info"


class _Event(msgspec.Struct, frozen=True):
    line: int
    process: int
    type: _Type
    function: str
    key: str
    value: Hashable


def read_history(lines: Iterable[str], model: Model) -> list[Operation]:
    """The operations of a published history, for a model. Raises `UnreadableHistory`."""
    under_way: dict[int, tuple[_Event, Hashable]] = {}
    operations: list[Operation] = []
    for event in _events(lines):
        if event.type is _Type.INVOKE:
            if event.process in under_way:
                raise UnreadableHistory(
                    f"line {event.line}: process {event.process} already has an operation under way"
                )
            under_way[event.process] = event, _input(event, model)
            continue
        if event.process not in under_way:
            continue  # an event of the test itself, such as a fault
        begun, input = under_way.pop(event.process)
        if event.type is _Type.FAIL and isinstance(input, Read):
            continue
        known = event.type is _Type.OK or (isinstance(input, Cas) and event.value == begun.value)
        known &= event.type is not _Type.INFO
        operations.append(_operation(begun, input, event.line if known else None, _output(input, event, model)))
    operations += [_operation(begun, input, None, None) for begun, input in under_way.values()]
    if not operations:
        raise UnreadableHistory(
            "there are no operations in it", hint="a line looks like {:process 0, :type :invoke, ...}"
        )
    return sorted(operations, key=lambda op: op.invoke_ns)


def _operation(begun: _Event, input: Hashable, returned: int | None, output: Hashable) -> Operation:
    return Operation(
        client=begun.process,
        key=begun.key,
        invoke_ns=begun.line * NS_PER_LINE,
        return_ns=None if returned is None else returned * NS_PER_LINE,
        input=input,
        output=UNKNOWN if returned is None else output,
    )


def _input(event: _Event, model: Model) -> Hashable:
    match event.function, event.value:
        case (("read" | "get"), _):
            return Read()
        case (("write" | "put"), value):
            return Write(value)
        case "cas", (expected, new):
            return Cas(expected, new)
        case "delete", _:
            return Delete()
        case "append", value:
            return Append(value)
        case "add", int(amount) if model.name == "counter":
            return Add(amount)
        case (("add" | "insert"), value):
            return Insert(value)
        case function, _:
            raise UnreadableHistory(f"line {event.line}: there is no operation :{function}")


def _output(input: Hashable, event: _Event, model: Model) -> Hashable:
    match input:
        case Read() if model.name == "set" and event.value is not None:
            return frozenset(event.value) if isinstance(event.value, tuple | frozenset) else event.value
        case Read() if event.value is None:
            return model.init()
        case Read():
            return event.value
        case Cas():
            return event.type is _Type.OK
        case _:
            return None


def _events(lines: Iterable[str]) -> Iterator[_Event]:
    for number, line in enumerate(lines, start=1):
        if match := _LOG.search(line):
            process, kind, function, value = match.groups()
            yield _Event(number, int(process), _Type(kind), function, "", _parse(value, number))
        elif match := _MAP.match(line):
            fields = _pairs(_tokens(match[1], number), number)
            process = fields.get("process")
            kind = str(fields.get("type"))
            if isinstance(process, int) and kind in {each.value for each in _Type}:
                key = fields.get("key")
                named = "" if key is None else str(key)
                yield _Event(number, process, _Type(kind), str(fields.get("f")), named, fields.get("value"))


def _tokens(text: str, line: int) -> Iterator[str]:
    at = 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if match is None:
            raise UnreadableHistory(f"line {line}: cannot read {text[at:]!r}")
        at = match.end()
        yield match[1]


def _pairs(tokens: Iterator[str], line: int) -> dict[str, Hashable]:
    pairs: dict[str, Hashable] = {}
    for name in tokens:
        pairs[name.removeprefix(":")] = _value(next(tokens, "nil"), tokens, line)
    return pairs


def _parse(text: str, line: int) -> Hashable:
    tokens = _tokens(text, line)
    return _value(next(tokens, "nil"), tokens, line)


def _value(token: str, tokens: Iterator[str], line: int) -> Hashable:
    """One EDN value, of the kinds that histories use."""
    if token in ("[", "(", "#{"):
        end = {"[": "]", "(": ")", "#{": "}"}[token]
        items: list[Hashable] = []
        for each in tokens:
            if each == end:
                return frozenset(items) if token == "#{" else tuple(items)
            items.append(_value(each, tokens, line))
        raise UnreadableHistory(f"line {line}: {token} has no {end}")
    if token.startswith('"'):
        return token[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    if token == "nil":
        return None
    if token in ("true", "false"):
        return token == "true"
    if re.fullmatch(r"-?\d+", token):
        return int(token)
    return token.removeprefix(":")
