"""Counterexamples in words: what was seen, how far an order of it goes, and what has no place in it."""

from collections.abc import Sequence

from plasmacloud.verify.linearizability import Counterexample
from plasmacloud.verify.model import describe
from plasmacloud.verify.operations import Operation

SHOWN = 12
"""How many operations of the order are shown: the last ones, where it breaks off."""
NS_PER_MS = 1e6


def text(example: Counterexample) -> str:
    """The whole story, times in milliseconds since the first invocation."""
    zero_ns = begin_ns(example)
    shown = len(example.order[-SHOWN:])
    lines = [headline(example), ""]
    more = "" if shown == len(example.order) else f" (the last {shown} of {len(example.order)})"
    lines.append(f"  an order that explains everything but the last return{more}:")
    states = example.states[-shown:] if shown else ()
    for op, state in zip(example.order[-shown:] if shown else (), states, strict=True):
        lines.append(f"    {_line(op, zero_ns):<64} then {state}")
    lines += ["", "  neither it nor any other order has a place for:"]
    lines += [f"    {_line(op, zero_ns)}" for op in example.stuck]
    opened = [op for op in example.prefix if not op.known]
    if opened:
        lines += ["", "  open then, of no help wherever they are put:"]
        lines += [f"    {_line(op, zero_ns)}" for op in opened[-SHOWN:]]
    return "\n".join(lines) + "\n"


def headline(example: Counterexample) -> str:
    """One sentence."""
    until_ms = (example.until_ns - begin_ns(example)) / NS_PER_MS
    size = "smallest prefix" if example.minimal else "prefix (there may be a smaller one)"
    return (
        f"{example.key}: not linearizable; {size} that no order explains: "
        f"{len(example.prefix)} operations, until {until_ms:.3f} ms"
    )


def summary(example: Counterexample) -> list[str]:
    """A few lines for a report: the headline, the state reached, and what does not fit."""
    zero_ns = begin_ns(example)
    lines = [headline(example)]
    if example.order and example.states:
        lines.append(f"  ordered last: {_line(example.order[-1], zero_ns)}, then {example.states[-1]}")
    lines += [f"  no place for: {_line(op, zero_ns)}" for op in example.stuck[:3]]
    return lines


def begin_ns(example: Counterexample) -> int:
    """The first invocation."""
    return min(op.invoke_ns for op in example.prefix)


def recent(example: Counterexample, count: int) -> Sequence[Operation]:
    """The operations of the prefix that were under way last, those that do not fit among them, by invocation."""
    chosen = sorted(
        example.prefix, key=lambda op: (op in example.stuck, op.known, op.return_ns or op.invoke_ns), reverse=True
    )[:count]
    return sorted(chosen, key=lambda op: (op.invoke_ns, op.client))


def _line(op: Operation, zero_ns: int) -> str:
    begin = f"{(op.invoke_ns - zero_ns) / NS_PER_MS:.3f}"
    end = "?" if op.return_ns is None else f"{(op.return_ns - zero_ns) / NS_PER_MS:.3f}"
    return f"[{begin} .. {end}] client {op.client}: {describe(op.input, op.output)}"
