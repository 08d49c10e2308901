"""Transactions as text: what `plasma kv txn` reads.

Three blocks, each ended by an empty line: comparisons, what to do when all hold, what to do when one does not. It is
the format of etcdctl, so that scripts carry over::

    mod("lock") = "0"
    value("mode") != "maintenance"

    put lock "held by me"
    get --prefix config/

    get lock

Words with spaces stand in quotes; in double quotes a backslash escapes (``\\n``, ``\\t``, ``\\"``, ``\\x00`` …). A line
that begins with ``#`` is a comment. Text that begins with ``{`` is JSON::

    {"compare": [{"target": "mod", "key": "lock", "op": "=", "value": 0}],
     "success": [{"put": {"key": "lock", "value": "held by me"}}, {"get": {"key": "config/", "prefix": true}}],
     "failure": [{"get": {"key": "lock"}}, {"txn": {"success": [{"delete": {"key": "x"}}]}}]}

Bytes that are not UTF-8 are written as ``{"base64": "…"}`` there, as they are in the output.
"""

import base64
import binascii
import re
from typing import Annotated

import msgspec

from plasmacloud.base.errors import ExitCode, PlasmaError
from plasmacloud.client import ops
from plasmacloud.client.ops import Compare, CompareTarget, Op, Relation, Txn, subject


class TxnTextError(PlasmaError):
    """The text is not a transaction. The message begins with the line number, where there is one."""

    exit_code = ExitCode.USAGE


_TARGETS = {
    "value": CompareTarget.VALUE,
    "val": CompareTarget.VALUE,
    "version": CompareTarget.VERSION,
    "ver": CompareTarget.VERSION,
    "create": CompareTarget.CREATE,
    "c": CompareTarget.CREATE,
    "mod": CompareTarget.MOD,
    "m": CompareTarget.MOD,
    "lease": CompareTarget.LEASE,
}
_COMPARE_HINT = 'write a comparison as mod("key") > "0"; targets: value, version, create, mod, lease'
_OP_HINT = "write put KEY VALUE, get KEY or del KEY; --prefix and --from-key ask for ranges"

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<double>"(?:[^"\\]|\\.)*")
    | (?P<single>'[^']*')
    | (?P<relation>!=|=|<|>)
    | (?P<paren>[()])
    | (?P<word>[^\s"'()=<>!]+)
    )""",
    re.VERBOSE,
)
_WORD = re.compile(r"""\s*(?:(?P<double>"(?:[^"\\]|\\.)*")|(?P<single>'[^']*')|(?P<word>[^\s"']\S*))(?=\s|$)""")
_ESCAPES = {"n": b"\n", "t": b"\t", "r": b"\r", "0": b"\0", '"': b'"', "\\": b"\\", "'": b"'"}


def parse(text: str) -> Txn:
    """A transaction from either format. Raises `TxnTextError`."""
    return parse_json(text) if text.lstrip().startswith("{") else parse_text(text)


def parse_text(text: str) -> Txn:
    """A transaction from the three blocks. Raises `TxnTextError`."""
    blocks: list[list[tuple[int, str]]] = [[]]
    for number, line in enumerate(text.splitlines(), 1):
        content = line.strip()
        if not content:
            blocks.append([])
        elif not content.startswith("#"):
            if len(blocks) > 3:
                raise TxnTextError(
                    f"line {number}: a fourth block begins here",
                    hint="a transaction has three: comparisons, success, failure; an empty line ends each",
                )
            blocks[-1].append((number, content))
    compares, success, failure = [*blocks, [], []][:3]
    if not success and not failure:
        raise TxnTextError(
            "the transaction does nothing",
            hint="an empty line ends the block of comparisons; begin with one if there are none",
        )
    return Txn(
        tuple(_compare(*line) for line in compares),
        tuple(_operation(*line) for line in success),
        tuple(_operation(*line) for line in failure),
    )


def _compare(number: int, line: str) -> Compare:
    tokens: list[tuple[str, str]] = []
    at = 0
    while at < len(line):
        match = _TOKEN.match(line, at)
        if match is None or match.lastgroup is None:
            raise TxnTextError(f"line {number}: cannot read {line[at:]!r}", hint=_COMPARE_HINT)
        tokens.append((match.lastgroup, match[match.lastgroup]))
        at = match.end()
    kinds = [kind for kind, _ in tokens]
    texts = {"double", "single", "word"}
    if (
        len(tokens) != 6
        or kinds[0] != "word"
        or tokens[1] != ("paren", "(")
        or kinds[2] not in texts
        or tokens[3] != ("paren", ")")
        or kinds[4] != "relation"
        or kinds[5] not in texts
    ):
        raise TxnTextError(f"line {number}: {line!r} is not a comparison", hint=_COMPARE_HINT)
    name = tokens[0][1].lower()
    if name not in _TARGETS:
        raise TxnTextError(f"line {number}: there is no {name!r} to compare", hint=_COMPARE_HINT)
    target = _TARGETS[name]
    operand: bytes | int = _text(*tokens[5], number)
    if target is not CompareTarget.VALUE:
        assert isinstance(operand, bytes)
        operand = _number(operand, target, number)
    return subject(target, _text(*tokens[2], number)).compare(Relation(tokens[4][1]), operand)


def _number(text: bytes, target: CompareTarget, number: int) -> int:
    try:
        value = int(text, 16 if target is CompareTarget.LEASE else 10)
    except ValueError:
        raise TxnTextError(
            f"line {number}: {target.value} compares with a number, not with {text.decode(errors='replace')!r}"
        ) from None
    if not -(2**63) <= value < 2**63:
        raise TxnTextError(f"line {number}: {value} does not fit in 64 bits")
    return value


def _operation(number: int, line: str) -> Op:
    words: list[bytes] = []
    flags: set[str] = set()
    at = 0
    while at < len(line):
        match = _WORD.match(line, at)
        if match is None or match.lastgroup is None:
            raise TxnTextError(f"line {number}: cannot read {line[at:].strip()!r}", hint="close the quotes")
        kind, text = match.lastgroup, match[match.lastgroup]
        if kind == "word" and text.startswith("--"):
            flags.add(text)
        else:
            words.append(_text(kind, text, number))
        at = match.end()
    name = words[0].decode(errors="replace") if words else line
    count = {"put": 3, "get": 2, "del": 2, "delete": 2}.get(name)
    if count is None:
        raise TxnTextError(f"line {number}: there is no operation {name!r}", hint=_OP_HINT)
    if len(words) != count:
        raise TxnTextError(f"line {number}: {name} takes {count - 1} words, not {len(words) - 1}", hint=_OP_HINT)
    allowed = {"put": {"--prev-kv"}, "get": {"--prefix", "--from-key", "--keys-only", "--count-only"}}.get(
        name, {"--prefix", "--from-key", "--prev-kv"}
    )
    if flags - allowed:
        raise TxnTextError(
            f"line {number}: {name} has no flag {min(flags - allowed)}", hint=f"it has {', '.join(sorted(allowed))}"
        )
    if {"--prefix", "--from-key"} <= flags:
        raise TxnTextError(f"line {number}: --prefix and --from-key exclude each other")
    if name == "put":
        return ops.put(words[1], words[2], prev_kv="--prev-kv" in flags)
    prefix, from_key = "--prefix" in flags, "--from-key" in flags
    if name == "get":
        return ops.get(
            words[1],
            prefix=prefix,
            from_key=from_key,
            keys_only="--keys-only" in flags,
            count_only="--count-only" in flags,
        )
    return ops.delete(words[1], prefix=prefix, from_key=from_key, prev_kv="--prev-kv" in flags)


def _text(kind: str, text: str, number: int) -> bytes:
    """Bytes of a word, quotes and escapes resolved."""
    if kind == "word":
        return text.encode()
    inner = text[1:-1]
    if kind == "single":
        return inner.encode()
    out = bytearray()
    at = 0
    while at < len(inner):
        if inner[at] != "\\":
            out += inner[at].encode()
            at += 1
        elif inner[at + 1] == "x":
            digits = inner[at + 2 : at + 4]
            if not re.fullmatch("[0-9a-fA-F]{2}", digits):
                raise TxnTextError(f"line {number}: \\x needs two hexadecimal digits, got {digits!r}")
            out.append(int(digits, 16))
            at += 4
        elif inner[at + 1] in _ESCAPES:
            out += _ESCAPES[inner[at + 1]]
            at += 2
        else:
            raise TxnTextError(f"line {number}: unknown escape \\{inner[at + 1]}")
    return bytes(out)


class _Base64(msgspec.Struct, forbid_unknown_fields=True):
    base64: str


_Bytes = str | _Base64
_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _JsonCompare(msgspec.Struct, forbid_unknown_fields=True):
    target: CompareTarget
    key: _Bytes
    op: Relation
    value: _Int64 | str | _Base64
    range_end: _Bytes | None = None
    prefix: bool = False


class _JsonPut(msgspec.Struct, forbid_unknown_fields=True):
    key: _Bytes
    value: _Bytes = ""
    lease: _Int64 = 0
    prev_kv: bool = False


class _JsonGet(msgspec.Struct, forbid_unknown_fields=True):
    key: _Bytes
    range_end: _Bytes | None = None
    prefix: bool = False
    from_key: bool = False
    limit: _Int64 = 0
    revision: _Int64 = 0
    keys_only: bool = False
    count_only: bool = False


class _JsonDelete(msgspec.Struct, forbid_unknown_fields=True):
    key: _Bytes
    range_end: _Bytes | None = None
    prefix: bool = False
    from_key: bool = False
    prev_kv: bool = False


class _JsonOp(msgspec.Struct, forbid_unknown_fields=True):
    put: _JsonPut | None = None
    get: _JsonGet | None = None
    delete: _JsonDelete | None = None
    txn: "_JsonTxn | None" = None


class _JsonTxn(msgspec.Struct, forbid_unknown_fields=True):
    compare: list[_JsonCompare] = []
    success: list[_JsonOp] = []
    failure: list[_JsonOp] = []


def parse_json(text: str) -> Txn:
    """A transaction from JSON. Raises `TxnTextError` with the place in the document."""
    try:
        return _txn(msgspec.json.decode(text, type=_JsonTxn))
    except (msgspec.DecodeError, ValueError, TypeError) as error:
        raise TxnTextError(f"JSON: {error}") from error


def _txn(txn: _JsonTxn) -> Txn:
    return Txn(
        tuple(_json_compare(compare) for compare in txn.compare),
        tuple(_op(op) for op in txn.success),
        tuple(_op(op) for op in txn.failure),
    )


def _json_compare(compare: _JsonCompare) -> Compare:
    operand = compare.value if isinstance(compare.value, int) else _bytes(compare.value)
    left = subject(compare.target, _bytes(compare.key), range_end=_optional(compare.range_end), prefix=compare.prefix)
    return left.compare(compare.op, operand)


def _op(op: _JsonOp) -> Op:
    given = [part for part in (op.put, op.get, op.delete, op.txn) if part is not None]
    if len(given) != 1:
        raise ValueError("an operation is one of put, get, delete and txn")
    match given[0]:
        case _JsonPut() as put:
            return ops.put(_bytes(put.key), _bytes(put.value), lease=put.lease, prev_kv=put.prev_kv)
        case _JsonGet() as get:
            return ops.get(
                _bytes(get.key),
                range_end=_optional(get.range_end),
                prefix=get.prefix,
                from_key=get.from_key,
                limit=get.limit,
                revision=get.revision,
                keys_only=get.keys_only,
                count_only=get.count_only,
            )
        case _JsonDelete() as delete:
            return ops.delete(
                _bytes(delete.key),
                range_end=_optional(delete.range_end),
                prefix=delete.prefix,
                from_key=delete.from_key,
                prev_kv=delete.prev_kv,
            )
        case _JsonTxn() as txn:
            return _txn(txn)


def _optional(value: _Bytes | None) -> bytes | None:
    return None if value is None else _bytes(value)


def _bytes(value: _Bytes) -> bytes:
    if isinstance(value, str):
        return value.encode()
    try:
        return base64.b64decode(value.base64, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {value.base64!r}") from error
