"""What a model of an object is, and the operations that all models share.

A model is three functions, as in porcupine: ``init``, ``step`` and ``partition``. States are immutable and hashable.
The rest of `Model` tells the search what it may exploit; the defaults promise nothing and are always right.

Inputs are small structs that all models share (`Read`, `Write`, ...). Outputs are plain values: what a read returned,
None for an operation that answers nothing, and for a compare-and-set True, False, or ``Found(what was there instead)``.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from enum import Enum

import msgspec

from plasmacloud.verify.operations import Operation, Unknown

State = Hashable


class Mark(Enum):
    """Answers of a model that are not states."""

    ILLEGAL = "illegal"
    ANY = "any"


ILLEGAL = Mark.ILLEGAL
"""No legal step: the object cannot answer that in this state."""
ANY = Mark.ANY
"""Not one particular state."""
ABSENT = None
"""The state of a register that nobody has written, or that was deleted."""

Step = Callable[[State, Hashable, Hashable], State]


class Read(msgspec.Struct, frozen=True):
    """Ask for the state."""


class Write(msgspec.Struct, frozen=True):
    """Set a register."""

    value: Hashable


class Delete(msgspec.Struct, frozen=True):
    """Make a register absent."""


class Cas(msgspec.Struct, frozen=True):
    """Set a register to ``new`` if it holds ``expected``."""

    expected: Hashable
    new: Hashable


class WriteAt(msgspec.Struct, frozen=True):
    """Set a versioned register if its modification revision is ``revision`` (0: it is absent)."""

    revision: int
    value: Hashable


class Add(msgspec.Struct, frozen=True):
    """Add to a counter."""

    amount: int


class Append(msgspec.Struct, frozen=True):
    """Append to a list or a text."""

    item: Hashable


class Insert(msgspec.Struct, frozen=True):
    """Put into a set."""

    item: Hashable


class Found(msgspec.Struct, frozen=True):
    """A compare-and-set did nothing, for it found this."""

    value: Hashable


class Model(ABC):
    """The sequential specification of an object."""

    name: str

    @abstractmethod
    def init(self) -> State:
        """The state before the first operation."""

    @abstractmethod
    def step(self, state: State, input: Hashable, output: Hashable) -> State:
        """The state after ``input`` answered ``output`` in ``state``, or ILLEGAL.

        An UNKNOWN output is legal wherever any output would be.
        """

    def partition(self, history: Iterable[Operation]) -> dict[str, list[Operation]]:
        """Parts that can be judged on their own, because each is an object of its own: by default one for each key."""
        parts: defaultdict[str, list[Operation]] = defaultdict(list)
        for operation in history:
            parts[operation.key].append(operation)
        return {key: parts[key] for key in sorted(parts)}

    def prepare(self, operations: Sequence[Operation]) -> Sequence[Operation]:
        """The same operations, with what the answers of some prove about the unknown outputs of others."""
        return operations

    def reads_only(self, input: Hashable, output: Hashable) -> bool:
        """Whether the operation, where it is legal, changes nothing that a later operation could see."""
        return False

    def needs(self, input: Hashable, output: Hashable) -> State | Mark:
        """The one state in which this operation is legal (with an UNKNOWN output: has an effect), or ANY."""
        return ANY

    def gives(self, input: Hashable, output: Hashable) -> State | Mark:
        """The one state that it leaves behind wherever it has an effect, or ANY when that depends on the state before.

        An operation that gives a state and needs ANY must be legal everywhere.
        """
        return ANY

    def grows(self, operations: Sequence[Operation]) -> bool:
        """Whether no state can come back once it was left, whatever the order of these operations."""
        return False

    def stepper(self, operations: Sequence[Operation]) -> Step:
        """A step function for these operations only. It may refuse steps after which the known answers among them
        could not all be given any more, and so spare the search dead ends."""
        return self.step

    def describe_state(self, state: State) -> str:
        """A state in a few characters."""
        return describe_value(state)


def describe(input: Hashable, output: Hashable) -> str:
    """One operation in a few characters, such as ``write 3`` or ``read -> 3``."""
    answer = f" -> {describe_value(output)}" if isinstance(input, Read) else _answer(output)
    return clip(_call(input)) + clip(answer)


def clip(text: str) -> str:
    """At most 72 characters: beginning and end, where long values differ."""
    return text if len(text) <= 72 else f"{text[:24]} … {text[-45:]}"


def _call(input: Hashable) -> str:
    if not isinstance(input, msgspec.Struct):
        return describe_value(input)
    arguments = " ".join(describe_value(getattr(input, field)) for field in input.__struct_fields__)
    return f"{_VERBS.get(type(input), type(input).__name__.lower())} {arguments}".strip()


_VERBS = {WriteAt: "write at", Cas: "cas"}


def _answer(output: Hashable) -> str:
    match output:
        case None:
            return ""
        case Unknown():
            return " -> ?"
        case Found(value):
            return f" -> found {describe_value(value)}"
        case True:
            return " -> done"
        case False:
            return " -> refused"
        case _:
            return f" -> {describe_value(output)}"


def describe_value(value: object) -> str:
    """A value or a state in a few characters."""
    match value:
        case None:
            return "nothing"
        case Unknown():
            return "?"
        case Enum():
            return str(value.value)
        case str():
            return value if value and value.isprintable() and " " not in value else repr(value)
        case tuple():
            return "(" + ", ".join(map(describe_value, value)) + ")"
        case frozenset():
            return "{" + ", ".join(sorted(map(describe_value, value))) + "}"
        case _:
            return repr(value)
