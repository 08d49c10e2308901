"""The search for a linearization of one part of a history.

Wing and Gong's algorithm with Lowe's cache ("Testing for linearizability", 2017), as in porcupine: take any operation
that no other one precedes, if the model lets it answer what it answered; go on from there; step back at a dead end;
never visit a configuration (the set of operations taken, and the state) twice. Operations not taken yet are a linked
list from which one is lifted and put back in constant time.

What makes it fast enough for thousands of operations on one key are facts of the form "if there is a linearization
from here at all, there is one that begins like this", so that nothing else needs to be tried:

- *Reads first.* An operation that changes nothing and is legal now can be taken now.
- *Twins.* Of two operations with the same input and output, the one that must return first can go first.
- *No way back.* A state that some operation still needs must not be left when nothing gives it again.
- *Nothing left behind.* When every operation either needs one state or sets one, and a run of operations from one
  state that nobody needs any more has led to another such state, with nothing in between that anybody still needs,
  then that run could have come first in any linearization: the choices before it need not be made again.
- *Unknown outcomes late.* An operation whose outcome is unknown is taken only right before one that it makes
  possible, or whose effect it changes in a way that it would not have afterwards; and not at all, under the same
  condition as in the rule before, when nobody needs the state that it gives.

A configuration is small: operations are sorted by invocation, so those taken are all before some position and a few
behind it, which is an integer and a short bit set; states are interned.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from enum import Enum

import msgspec

from plasmacloud.verify.model import ANY, ILLEGAL, Model, State
from plasmacloud.verify.operations import Operation

_NEVER = 1 << 62
_STEPS_PER_LOOK_AT_THE_CLOCK = 512


class Answer(Enum):
    """What the checker can say."""

    OK = "linearizable"
    VIOLATION = "not linearizable"
    UNKNOWN = "unknown"


class Budget:
    """How much searching is allowed: steps of a model, and time on a clock of the caller's (any unit)."""

    def __init__(
        self, max_steps: int, clock: Callable[[], float] | None = None, time_limit: float | None = None
    ) -> None:
        if time_limit is not None and clock is None:
            raise ValueError("a time limit needs a clock")
        self.max_steps = max_steps
        self.steps = 0
        self._clock = clock
        self._deadline = None if time_limit is None or clock is None else clock() + time_limit
        self.exhausted = ""

    def spend(self, steps: int) -> bool:
        """Count steps; False, and a reason in ``exhausted``, when there is nothing left."""
        looked = self.steps // _STEPS_PER_LOOK_AT_THE_CLOCK
        self.steps += steps
        if self.steps > self.max_steps:
            self.exhausted = f"more than {self.max_steps} steps"
        elif self._deadline is not None and looked != self.steps // _STEPS_PER_LOOK_AT_THE_CLOCK:
            assert self._clock is not None
            if self._clock() > self._deadline:
                self.exhausted = "the time limit"
        return not self.exhausted


class Finding(msgspec.Struct, frozen=True):
    """Where a search ended.

    ``order`` is a linearization, or the longest part of one that was seen. ``blocked_ns``: some operation that
    returned then could never be taken along with everything before it (0 when the answer is OK). ``suspect_ns``: when
    an operation returned that may be to blame, None when there is no suspicion: of those that held the search up by
    needing a state that had to be left, the one furthest away.
    """

    answer: Answer
    order: tuple[Operation, ...]
    blocked_ns: int = 0
    suspect_ns: int | None = None


def search(model: Model, operations: Sequence[Operation], budget: Budget) -> Finding:
    """Look for a linearization of ``operations``, which all belong to one part. Deterministic."""
    return _Search(model, operations, budget).run()


class _Frame:
    """A configuration on the path, and what has not been tried from there."""

    __slots__ = ("base", "crossed", "enabled", "free_below", "limit", "mask", "moves", "state", "taken", "unknowns")

    def __init__(self, base: int, mask: int, unknowns: int, state: int, taken: int) -> None:
        self.base = base
        self.mask = mask
        self.unknowns = unknowns
        self.state = state
        self.taken = taken  # length of the path on arrival
        self.limit = 0
        self.enabled: list[int] = []
        self.moves: Iterator[tuple[tuple[int, ...], int, int]] = iter(())
        self.free_below = -1  # the last frame, this one included, whose state nobody needs
        self.crossed: tuple[int, ...] = ()  # states since then, each once: a few values come again and again


class _Search:
    def __init__(self, model: Model, operations: Sequence[Operation], budget: Budget) -> None:
        prepared = model.prepare(operations)
        pairs = list(zip(prepared, operations, strict=True))
        known = [pair for pair in pairs if pair[0].return_ns is not None]
        known.sort(key=lambda pair: (pair[0].invoke_ns, pair[0].return_ns))
        # A read that nobody saw the answer of says nothing.
        unknown = [p for p in pairs if p[0].return_ns is None and not model.reads_only(p[0].input, p[0].output)]
        unknown.sort(key=lambda pair: pair[0].invoke_ns)
        self._budget = budget
        self._model = model
        self._step = model.stepper(prepared)
        self._known = len(known)
        self._all = [op for op, _ in known] + [op for op, _ in unknown]
        self._originals = [op for _, op in known] + [op for _, op in unknown]
        count = self._known
        self._invoke = [op.invoke_ns for op, _ in known] + [_NEVER]
        self._return = [_NEVER if op.return_ns is None else op.return_ns for op, _ in known] + [_NEVER]
        self._next = [*range(1, count + 1), 0]
        self._previous = [count, *range(count)] if count else [0]
        self._intern_states()
        self._intern_operations()
        self._count_demand()
        self._path: list[int] = []
        self._best: list[int] = []
        self._blocked = 0
        self._suspect = 0

    # -- tables ------------------------------------------------------------------------------------------------

    def _intern_states(self) -> None:
        self._states: list[State] = []
        self._state_ids: dict[State, int] = {}
        self._need: list[int] = []  # by state: operations with a known outcome that need it and are not taken
        self._wish: list[int] = []  # the same for unknown outcomes
        self._give: list[int] = []  # by state: operations not taken that give it
        self._initial = self._intern(self._model.init())

    def _intern(self, state: State) -> int:
        number = self._state_ids.get(state)
        if number is None:
            number = self._state_ids[state] = len(self._states)
            self._states.append(state)
            self._need.append(0)
            self._wish.append(0)
            self._give.append(0)
        return number

    def _intern_operations(self) -> None:
        """Twins share a number, and with it their place in the memory of steps."""
        numbers: dict[tuple[Hashable, Hashable, type], int] = {}
        self._twin: list[int] = []
        for op in self._all:
            # The type is there because True equals 1, which is another answer.
            self._twin.append(numbers.setdefault((op.input, op.output, type(op.output)), len(numbers)))
        self._calls = list(numbers)
        self._width = max(1, len(numbers))
        self._memory: dict[int, int] = {}
        self._reads = [self._model.reads_only(op.input, op.output) for op in self._all]
        groups: dict[int, list[int]] = {}
        for at in range(self._known, len(self._all)):
            groups.setdefault(self._twin[at], []).append(at)
        self._unknown_groups = list(groups.values())
        self._unknown_invoke = [op.invoke_ns for op in self._all]

    def _count_demand(self) -> None:
        model = self._model
        self._needs: list[int] = []
        self._gives: list[int] = []
        predictable = forgetful = True
        for at, op in enumerate(self._all):
            needs, gives = model.needs(op.input, op.output), model.gives(op.input, op.output)
            self._needs.append(-1 if needs is ANY else self._intern(needs))
            self._gives.append(-1 if gives is ANY or self._reads[at] else self._intern(gives))
            predictable &= self._reads[at] or gives is not ANY
            forgetful &= needs is not ANY or (gives is not ANY and not self._reads[at])
        self._grows = model.grows(self._all)
        self._tracks = predictable or self._grows
        self._forgetful = forgetful and predictable
        self._needed_by: dict[int, list[int]] = {}
        for at in range(len(self._all)):
            self._demand(at, 1)
            if at < self._known:
                self._needed_by.setdefault(self._needs[at], []).append(at)
        self._taken = bytearray(len(self._all))

    def _demand(self, at: int, change: int) -> None:
        needs, gives = self._needs[at], self._gives[at]
        if needs >= 0:
            (self._need if at < self._known else self._wish)[needs] += change
        if gives >= 0:
            self._give[gives] += change

    def _after(self, state: int, twin: int) -> int:
        """The state after a step, -1 when it is illegal."""
        key = state * self._width + twin
        after = self._memory.get(key)
        if after is None:
            input, output, _ = self._calls[twin]
            result = self._step(self._states[state], input, output)
            after = self._memory[key] = -1 if result is ILLEGAL else self._intern(result)
        return after

    # -- the search --------------------------------------------------------------------------------------------

    def run(self) -> Finding:
        seen: set[tuple[int, int, int, int]] = set()
        frames: list[_Frame] = []
        frame = _Frame(0, 0, 0, self._initial, 0)
        while True:
            self._settle(frame)
            if self._next[self._known] == self._known:
                return Finding(Answer.OK, self._operations(self._path))
            key = (frame.base, frame.mask, frame.unknowns, frame.state)
            if key in seen:
                self._put_back(frame.taken)
            else:
                seen.add(key)
                self._blocked = max(self._blocked, frame.limit)
                self._look_back(frame, frames)
                frame.moves = self._moves(frame)
                frames.append(frame)
            self._budget.spend(1 + len(frame.enabled))
            following = self._advance(frames)
            if self._budget.exhausted:
                return Finding(Answer.UNKNOWN, self._operations(max(self._best, self._path, key=len)), self._blocked)
            if following is None:
                return Finding(Answer.VIOLATION, self._operations(self._best), self._blocked, self._suspect or None)
            frame = following

    def _advance(self, frames: list[_Frame]) -> _Frame | None:
        """Take the next move of the last frame that has one; None when all are exhausted."""
        while frames:
            frame = frames[-1]
            move = next(frame.moves, None)
            if move is not None:
                unknowns, at, after = move
                following = _Frame(frame.base, frame.mask, frame.unknowns, after, len(self._path))
                for each in unknowns:
                    following.unknowns |= 1 << (each - self._known)
                    self._take(each)
                self._lift(at)
                following.mask |= 1 << (at - frame.base)
                following.free_below, following.crossed = frame.free_below, frame.crossed
                if unknowns:
                    following.crossed = _joined(frame.crossed, self._between(frame.state, unknowns))
                return following
            if len(self._path) > len(self._best):
                self._best = self._path.copy()
            if self._tracks and self._need[frame.state]:
                self._suspect = max(self._suspect, self._who_needs(frame.state))
            frames.pop()
            self._put_back(frame.taken)
        return None

    def _who_needs(self, state: int) -> int:
        """The first return of an operation not taken that holds the search up, because it needs this state."""
        return min((self._return[at] for at in self._needed_by[state] if not self._taken[at]), default=0)

    def _between(self, state: int, unknowns: tuple[int, ...]) -> tuple[int, ...]:
        states = []
        for each in unknowns:
            state = self._after(state, self._twin[each])
            states.append(state)
        return tuple(states)

    def _settle(self, frame: _Frame) -> None:
        """Take all reads that can be taken; find what else can."""
        following, invoke, returns, reads, twins = self._next, self._invoke, self._return, self._reads, self._twin
        state, base, mask, limit = frame.state, frame.base, frame.mask, _NEVER - 1
        enabled = []
        at = following[self._known]
        while invoke[at] <= limit:
            if reads[at] and self._after(state, twins[at]) == state:
                mask |= 1 << (at - base)
                self._lift(at)
            else:
                if returns[at] < limit:
                    limit = returns[at]
                enabled.append(at)
            at = following[at]
        first = following[self._known]
        frame.mask, frame.base = mask >> (first - base), first
        frame.limit, frame.enabled = limit, enabled

    def _look_back(self, frame: _Frame, frames: list[_Frame]) -> None:
        """Nothing left behind: forget the choices that need not be made again."""
        if not self._forgetful:
            return
        need, wish, state = self._need, self._wish, frame.state
        if need[state] or wish[state]:
            frame.crossed = _joined(frame.crossed, (state,))
            return
        if frame.free_below >= 0 and not any(need[each] or wish[each] for each in frame.crossed):
            for earlier in frames[frame.free_below :]:
                earlier.moves = iter(())
        frame.free_below, frame.crossed = len(frames), ()

    def _moves(self, frame: _Frame) -> Iterator[tuple[tuple[int, ...], int, int]]:
        """What can come next, most urgent first: operations of unknown outcome, one of known outcome, the state."""
        state, twins, needs = frame.state, self._twin, self._needs
        urgent: dict[int, int] = {}
        for at in frame.enabled:
            other = urgent.setdefault(twins[at], at)
            if self._return[at] < self._return[other]:
                urgent[twins[at]] = at
        choices = sorted(urgent.values(), key=lambda at: (self._return[at], at))
        stuck = self._tracks and self._need[state] > 0 and (self._grows or not self._give[state])
        for at in choices:
            after = self._after(state, twins[at])
            if after < 0 or (stuck and after != state and not (needs[at] == state and self._need[state] == 1)):
                continue
            yield (), at, after
        if not stuck:
            yield from self._detours(frame, choices)

    def _detours(self, frame: _Frame, choices: list[int]) -> Iterator[tuple[tuple[int, ...], int, int]]:
        """Moves that begin with operations of unknown outcome, few of them first."""
        twins, after = self._twin, self._after
        begin = (frame.state, frame.unknowns, (), -1, -1)
        queue: list[tuple[int, int, tuple[int, ...], int, int]] = [begin]
        seen: set[tuple[int, int, int, int]] = set()
        for state, used, taken, before, last in queue:
            for each in self._unused(used, frame.limit):
                twin = twins[each]
                then = after(state, twin)
                if then < 0 or then == state:
                    continue
                if last >= 0:
                    # The one before must matter to this one; of two whose order does not matter, take one order.
                    other = after(before, twin)
                    if other >= 0 and (other == then or (each < last and after(other, twins[last]) == then)):
                        continue
                key = (then, used | 1 << (each - self._known), state, twin)
                if key in seen:
                    continue
                seen.add(key)
                if not self._budget.spend(1 + len(choices)):
                    return
                for at in choices:
                    result = after(then, twins[at])
                    if result < 0:
                        continue
                    without = after(state, twins[at])
                    if without >= 0 and (without == result or after(without, twin) == result):
                        continue
                    yield (*taken, each), at, result
                queue.append((then, key[1], (*taken, each), state, each))

    def _unused(self, used: int, limit: int) -> Iterator[int]:
        """The first of each group of twins of unknown outcome that is not taken, if it was invoked early enough."""
        need, wish, gives = self._need, self._wish, self._gives
        for group in self._unknown_groups:
            given = gives[group[0]]
            if self._forgetful and not (need[given] or wish[given]):
                continue  # nobody would notice
            for at in group:
                if not used >> (at - self._known) & 1:
                    if self._unknown_invoke[at] <= limit:
                        yield at
                    break

    # -- taking operations, and putting them back --------------------------------------------------------------

    def _lift(self, at: int) -> None:
        before, behind = self._previous[at], self._next[at]
        self._next[before] = behind
        self._previous[behind] = before
        self._take(at)

    def _take(self, at: int) -> None:
        self._path.append(at)
        self._taken[at] = 1
        self._demand(at, -1)

    def _put_back(self, taken: int) -> None:
        path, following, previous = self._path, self._next, self._previous
        while len(path) > taken:
            at = path.pop()
            self._taken[at] = 0
            self._demand(at, 1)
            if at < self._known:
                following[previous[at]] = at
                previous[following[at]] = at

    def _operations(self, path: Sequence[int]) -> tuple[Operation, ...]:
        return tuple(self._originals[at] for at in path)


def _joined(crossed: tuple[int, ...], states: tuple[int, ...]) -> tuple[int, ...]:
    """``crossed`` and what is new in ``states``; the same object when nothing is, as there is one for each frame."""
    new = dict.fromkeys(state for state in states if state not in crossed)
    return (*crossed, *new) if new else crossed
