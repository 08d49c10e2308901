"""Requests of every shape, about keys of their own: what they have to answer the `model` knows."""

import random

from plasmacloud.chainfire.member_commands import CommandKind
from plasmacloud.rpc.proto.rpc_pb2 import Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest

_KEYS = [b"t%d" % number for number in range(6)]
_BEHIND = b"u"
_PLAIN_PUTS, _PLAIN_DELETES = 0.3, 0.35
_PUT_SHARE, _DELETE_SHARE = 0.5, 0.75
_TARGETS = (Compare.VERSION, Compare.CREATE, Compare.MOD, Compare.VALUE)
_RESULTS = (Compare.EQUAL, Compare.NOT_EQUAL, Compare.GREATER, Compare.LESS)
_SORT_TARGETS = (RangeRequest.VERSION, RangeRequest.CREATE, RangeRequest.MOD, RangeRequest.VALUE)
_RECENT = 12  # revisions


def draw_change(rng: random.Random, revision: int) -> tuple[CommandKind, bytes]:
    """Most are transactions. ``revision``: a recent one."""
    key, shape = rng.choice(_KEYS), rng.random()
    if shape < _PLAIN_PUTS:
        keeps = rng.random() < 0.4
        put = PutRequest(key=key, value=b"" if keeps else _draw_value(rng), ignore_value=keeps)
        put.prev_kv = rng.random() < 0.5
        return CommandKind.PUT, put.SerializeToString()
    if shape < _PLAIN_DELETES:
        delete = DeleteRangeRequest(key=key, range_end=_BEHIND, prev_kv=rng.random() < 0.5)
        return CommandKind.DELETE_RANGE, delete.SerializeToString()
    return CommandKind.TXN, _draw_transaction(rng, revision).SerializeToString()


def _draw_transaction(rng: random.Random, revision: int) -> TxnRequest:
    compare = [_draw_compare(rng, revision) for _ in range(rng.randrange(3))]
    return TxnRequest(compare=compare, success=_draw_operations(rng), failure=_draw_operations(rng))


def _draw_compare(rng: random.Random, revision: int) -> Compare:
    compare = Compare(key=rng.choice(_KEYS), target=rng.choice(_TARGETS), result=rng.choice(_RESULTS))
    if rng.random() < 0.3:
        compare.range_end = _BEHIND
    near = rng.choice((0, max(0, revision - rng.randrange(_RECENT))))
    if compare.target == Compare.VERSION:
        compare.version = rng.randrange(4)
    elif compare.target == Compare.CREATE:
        compare.create_revision = near
    elif compare.target == Compare.MOD:
        compare.mod_revision = near
    else:
        compare.value = _draw_value(rng)
    return compare


def _draw_operations(rng: random.Random) -> list[RequestOp]:
    """No key is changed twice."""
    operations = []
    keys = sorted(rng.sample(_KEYS, rng.randrange(1, 4)))
    for key in keys:
        share = rng.random()
        if share < _PUT_SHARE:
            put = PutRequest(key=key, value=_draw_value(rng), prev_kv=rng.random() < 0.5)
            operations.append(RequestOp(request_put=put))
        elif share < _DELETE_SHARE:
            end = _BEHIND if key == keys[-1] and rng.random() < 0.3 else b""
            delete = DeleteRangeRequest(key=key, range_end=end, prev_kv=rng.random() < 0.5)
            operations.append(RequestOp(request_delete_range=delete))
        else:
            operations.append(RequestOp(request_range=_draw_shape(rng, 0)))
    return operations


def _draw_value(rng: random.Random) -> bytes:
    return b"%d" % rng.randrange(4)


def draw_look(rng: random.Random, revision: int) -> RangeRequest:
    """A range with limits, filters and an order, of now or of a recent revision."""
    request = _draw_shape(rng, revision)
    if rng.random() < 0.4:
        request.revision = max(0, revision - rng.randrange(_RECENT))
    return request


def _draw_shape(rng: random.Random, revision: int) -> RangeRequest:
    request = RangeRequest(key=rng.choice(_KEYS), limit=rng.choice((0, 0, 1, 2, 3)))
    if rng.random() < 0.8:
        request.key, request.range_end = rng.choice(((b"t", _BEHIND), (b"a", b"\0"), (_KEYS[1], _KEYS[4])))
    request.keys_only, request.count_only = rng.random() < 0.15, rng.random() < 0.1
    if rng.random() < 0.6:
        request.sort_order = rng.choice((RangeRequest.ASCEND, RangeRequest.DESCEND))
        request.sort_target = rng.choice((RangeRequest.KEY, *_SORT_TARGETS))
    if revision and rng.random() < 0.3:
        field = rng.choice(("min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision"))
        setattr(request, field, max(1, revision - rng.randrange(_RECENT)))
    return request
