"""`plasma kv`: put, get, del, txn, compact."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plasmacloud.base.errors import ExitCode
from plasmacloud.cli import errors
from plasmacloud.cli.lazy import examples
from plasmacloud.cli.output import emit, hex_id, plain, printable, raw, table
from plasmacloud.cli.settings import Settings, cluster_command

if TYPE_CHECKING:
    from plasmacloud.client.types import Header, KeyValue, OpResult, RangeResult, TxnResult

REVISION = click.IntRange(min=1)


@click.group(
    epilog=examples("plasma kv put greeting hello", "plasma kv get greeting", "plasma kv get --prefix /config/")
)
def kv() -> None:
    """Read and write keys of the replicated store (ChainFire, or any etcd)."""


@kv.command(
    epilog=examples(
        "plasma kv put greeting hello",
        "plasma kv put motd --file motd.txt",
        "date | plasma kv put now -",
        "plasma kv put greeting 'good bye' --prev-kv -o json",
    )
)
@click.argument("key")
@click.argument("value", required=False)
@click.option(
    "--file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Take the value from a file."
)
@click.option("--lease", metavar="ID", default="0", help="Attach to this lease (hexadecimal).")
@click.option("--prev-kv", is_flag=True, help="Show what was there before.")
@cluster_command
def put(settings: Settings, key: str, value: str | None, file: Path | None, lease: str, prev_kv: bool) -> None:
    """Set KEY to VALUE; a VALUE of - is read from standard input, byte by byte."""
    if (value is None) == (file is None):
        raise click.UsageError("give the value once: as an argument, - for standard input, or --file")
    data = file.read_bytes() if file is not None else _value(value)
    result = settings.run(lambda client: client.put(key, data, lease=_lease(lease), prev_kv=prev_kv))
    if settings.output != "table":
        body: dict[str, Any] = {"header": _header(result.header)}
        if prev_kv:
            body["prev_kv"] = None if result.prev_kv is None else _key_value(result.prev_kv)
        emit(body, settings.output)
        return
    click.echo(f"OK (revision {result.header.revision})")
    if result.prev_kv is not None:
        _kv_table([result.prev_kv])


def _value(value: str | None) -> bytes:
    assert value is not None
    return sys.stdin.buffer.read() if value == "-" else value.encode(errors="surrogateescape")


def _lease(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        raise click.UsageError(f"{text!r} is not a lease ID; it is a hexadecimal number") from None


@kv.command(
    epilog=examples(
        "plasma kv get greeting",
        "plasma kv get greeting --print-value-only > greeting.txt",
        "plasma kv get --prefix /config/ --keys-only",
        "plasma kv get --prefix '' --count-only                     # how many keys there are",
        "plasma kv get a m                                          # from a up to, not including, m",
        "plasma kv get greeting --rev 7                             # as it was at revision 7",
        "plasma kv get --prefix /log/ --sort-by mod --order descend --limit 10",
    )
)
@click.argument("key")
@click.argument("range_end", required=False)
@click.option("--prefix", is_flag=True, help="All keys that begin with KEY.")
@click.option("--from-key", is_flag=True, help="All keys from KEY on.")
@click.option("--limit", type=click.IntRange(min=0), default=0, help="At most so many keys.")
@click.option("--rev", type=REVISION, help="As of this revision.")
@click.option("--sort-by", type=click.Choice(["key", "version", "create", "mod", "value"]), help="Sort the keys.")
@click.option("--order", type=click.Choice(["ascend", "descend"]), help="Direction of the sort.")
@click.option("--keys-only", is_flag=True, help="Without the values.")
@click.option("--count-only", is_flag=True, help="Only how many.")
@click.option("--print-value-only", is_flag=True, help="Only the values, as they are.")
@click.option(
    "--consistency",
    type=click.Choice(["l", "s"]),
    default="l",
    show_default=True,
    help="l: linearizable, never stale; s: serializable, from one member and without a quorum.",
)
@cluster_command
def get(
    settings: Settings,
    key: str,
    range_end: str | None,
    prefix: bool,
    from_key: bool,
    limit: int,
    rev: int | None,
    sort_by: str | None,
    order: str | None,
    keys_only: bool,
    count_only: bool,
    print_value_only: bool,
    consistency: str,
) -> None:
    """Print KEY, or the range from KEY up to RANGE_END. Exit code 1 when there is nothing."""
    if (range_end is not None) + prefix + from_key > 1:
        raise click.UsageError("RANGE_END, --prefix and --from-key exclude each other")
    if keys_only + count_only + print_value_only > 1:
        raise click.UsageError("--keys-only, --count-only and --print-value-only exclude each other")
    if not (key or prefix or from_key):
        raise click.UsageError("a key is not empty; for all keys, use --prefix ''")
    from plasmacloud.client.ops import Order, SortBy

    result = settings.run(
        lambda client: client.get(
            key,
            range_end=range_end,
            prefix=prefix,
            from_key=from_key,
            limit=limit,
            revision=rev or 0,
            sort_by=SortBy(sort_by) if sort_by else None,
            order=Order(order) if order else None,
            serializable=consistency == "s",
            keys_only=keys_only,
            count_only=count_only,
        )
    )
    if print_value_only:
        _print_values(result.kvs)
    elif settings.output != "table":
        emit(_range(result, keys_only=keys_only), settings.output)
    elif count_only:
        click.echo(result.count)
    elif result.kvs:
        _kv_table(result.kvs, keys_only=keys_only)
        if result.more:
            errors.say(f"{len(result)} of {result.count} keys; raise --limit for more")
    if count_only or result.kvs:
        return
    if settings.output == "table" or print_value_only:
        what = "no key in the range" if prefix or from_key or range_end is not None else f"no key {key!r}"
        errors.say(f"{what} (revision {rev or result.header.revision})")
    click.get_current_context().exit(ExitCode.FAILED)


def _print_values(kvs: "tuple[KeyValue, ...]") -> None:
    """One value: exactly its bytes, so that it survives a round trip; several: one a line."""
    newline = b"\n" if len(kvs) > 1 or sys.stdout.isatty() else b""
    for each in kvs:
        raw(each.value + newline)


@kv.command(
    "del",
    epilog=examples("plasma kv del greeting", "plasma kv del --prefix /config/ --prev-kv", "plasma kv del a m -o json"),
)
@click.argument("key")
@click.argument("range_end", required=False)
@click.option("--prefix", is_flag=True, help="All keys that begin with KEY.")
@click.option("--from-key", is_flag=True, help="All keys from KEY on.")
@click.option("--prev-kv", is_flag=True, help="Show what was deleted.")
@cluster_command
def delete(settings: Settings, key: str, range_end: str | None, prefix: bool, from_key: bool, prev_kv: bool) -> None:
    """Delete KEY, or the range from KEY up to RANGE_END. Deleting nothing is no error."""
    if (range_end is not None) + prefix + from_key > 1:
        raise click.UsageError("RANGE_END, --prefix and --from-key exclude each other")
    if not (key or prefix or from_key):
        raise click.UsageError("a key is not empty; to delete everything, use --prefix ''")
    result = settings.run(
        lambda client: client.delete(key, range_end=range_end, prefix=prefix, from_key=from_key, prev_kv=prev_kv)
    )
    if settings.output != "table":
        emit(_op_result(result, prev_kv=prev_kv), settings.output)
        return
    keys = "1 key" if result.deleted == 1 else f"{result.deleted} keys"
    click.echo(f"deleted {keys} (revision {result.header.revision})")
    if result.prev_kvs:
        _kv_table(result.prev_kvs)


@kv.command(
    epilog=examples(
        "plasma kv txn <<'END'",
        'mod("lock") = "0"',
        "",
        'put lock "held by me"',
        "",
        "get lock",
        "END",
        "",
        "plasma kv txn --file swap.txn -o json",
        """echo '{"success": [{"put": {"key": "a", "value": "1"}}]}' | plasma kv txn""",
    )
)
@click.option("--file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Read it from a file.")
@cluster_command
def txn(settings: Settings, file: Path | None) -> None:
    """Run a transaction read from standard input. Exit code 1 when a comparison did not hold.

    Three blocks, each ended by an empty line: comparisons, what to do when all of them hold, what to do when one does
    not. Comparisons are value, version, create, mod or lease of a key with =, !=, < or >. Operations are put KEY VALUE,
    get KEY and del KEY, with --prefix or --from-key for ranges. Input that begins with { is JSON.
    """
    from plasmacloud.cli.txn_text import TxnTextError, parse

    data = file.read_bytes() if file is not None else sys.stdin.buffer.read()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise TxnTextError(f"the transaction is not UTF-8 text: {error}", hint="write bytes as \\x00") from error
    transaction = parse(text)
    result = settings.run(lambda client: client.txn(transaction))
    if settings.output != "table":
        emit(_op_result(result), settings.output)
    else:
        _print_txn(result)
    if not result.succeeded:
        click.get_current_context().exit(ExitCode.FAILED)


@kv.command(epilog=examples("plasma kv compact 1200", "plasma kv compact 1200 --physical"))
@click.argument("revision", type=REVISION)
@click.option("--physical", is_flag=True, help="Wait until the space is released.")
@cluster_command
def compact(settings: Settings, revision: int, physical: bool) -> None:
    """Forget all history before REVISION; the newest value of every key stays."""
    result = settings.run(lambda client: client.compact(revision, physical=physical))
    if settings.output != "table":
        emit({"header": _header(result.header), "compacted": revision}, settings.output)
    else:
        click.echo(f"compacted to revision {revision}")


def _kv_table(kvs: "list[KeyValue] | tuple[KeyValue, ...]", *, keys_only: bool = False) -> None:
    if keys_only:
        table(["KEY", "MOD", "VERSION"], [[printable(kv.key), kv.mod_revision, kv.version] for kv in kvs])
        return
    table(
        ["KEY", "VALUE", "MOD", "VERSION"],
        [[printable(kv.key), printable(kv.value), kv.mod_revision, kv.version] for kv in kvs],
    )


def _print_txn(result: "TxnResult", indent: str = "") -> None:
    from plasmacloud.client.types import DeleteResult, PutResult, RangeResult

    click.echo(f"{indent}{'succeeded' if result.succeeded else 'failed'} (revision {result.header.revision})")
    for number, response in enumerate(result.responses, 1):
        head = f"{indent}{number}: "
        match response:
            case PutResult():
                click.echo(f"{head}put")
            case DeleteResult():
                click.echo(f"{head}deleted {response.deleted}")
            case RangeResult():
                click.echo(f"{head}got {response.count}")
                if response.kvs:
                    _kv_table(response.kvs)
            case _:
                click.echo(f"{head}transaction")
                _print_txn(response, indent + "  ")


def _header(header: "Header") -> dict[str, Any]:
    return {
        "cluster_id": hex_id(header.cluster_id),
        "member_id": hex_id(header.member_id),
        "revision": header.revision,
        "raft_term": header.raft_term,
    }


def _key_value(kv: "KeyValue", *, keys_only: bool = False) -> dict[str, Any]:
    value = {} if keys_only else {"value": plain(kv.value)}
    return {
        "key": plain(kv.key),
        **value,
        "create_revision": kv.create_revision,
        "mod_revision": kv.mod_revision,
        "version": kv.version,
        "lease": hex_id(kv.lease),
    }


def _range(result: "RangeResult", *, keys_only: bool = False) -> dict[str, Any]:
    return {
        "header": _header(result.header),
        "kvs": [_key_value(kv, keys_only=keys_only) for kv in result.kvs],
        "more": result.more,
        "count": result.count,
    }


def _op_result(result: "OpResult", *, prev_kv: bool = False) -> dict[str, Any]:
    """Any result as plain values."""
    from plasmacloud.client.types import DeleteResult, PutResult, RangeResult

    match result:
        case RangeResult():
            return _range(result)
        case PutResult():
            body: dict[str, Any] = {"header": _header(result.header)}
            if result.prev_kv is not None:
                body["prev_kv"] = _key_value(result.prev_kv)
            return body
        case DeleteResult():
            body = {"header": _header(result.header), "deleted": result.deleted}
            if result.prev_kvs or prev_kv:
                body["prev_kvs"] = [_key_value(kv) for kv in result.prev_kvs]
            return body
        case _:
            return {
                "header": _header(result.header),
                "succeeded": result.succeeded,
                "responses": [{_OP_NAMES[type(r).__name__]: _op_result(r)} for r in result.responses],
            }


_OP_NAMES = {"RangeResult": "get", "PutResult": "put", "DeleteResult": "delete", "TxnResult": "txn"}
