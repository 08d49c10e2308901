"""The text form of transactions."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasmacloud.cli.txn_text import TxnTextError, parse
from plasmacloud.client import Txn, create_revision, delete, get, lease, mod_revision, put, value, version

EXAMPLE = """\
# take the lock
mod("lock") = "0"
value('mode') != maintenance
create(lock)>5

put lock "held by me"
get --prefix config/

get lock
del lock --prev-kv
"""


def test_the_three_blocks() -> None:
    assert parse(EXAMPLE) == Txn(
        (mod_revision("lock") == 0, value("mode") != "maintenance", create_revision("lock") > 5),
        (put("lock", "held by me"), get("config/", prefix=True)),
        (get("lock"), delete("lock", prev_kv=True)),
    )


def test_a_first_empty_line_means_no_comparisons() -> None:
    assert parse("\nput a b\n") == Txn((), (put("a", "b"),))


def test_two_empty_lines_mean_nothing_to_do_on_success() -> None:
    assert parse('ver("a") = 1\n\n\nput a b\n') == Txn((version("a") == 1,), (), (put("a", "b"),))


def test_trailing_empty_lines_are_harmless() -> None:
    assert parse("\nput a b\n\n\n\n \n") == Txn((), (put("a", "b"),))


def test_words() -> None:
    r"""Quotes, escapes and plain words."""
    txn = parse('\nput "a b" "tab\\t nul\\x00 quote\\" back\\\\"\nput \'c"d\' =\nput e \'\'\nput --prev-kv k "--v"\n')
    assert txn.success == (
        put("a b", b'tab\t nul\0 quote" back\\'),
        put('c"d', "="),
        put("e", ""),
        put("k", "--v", prev_kv=True),
    )


def test_a_lease_is_hexadecimal() -> None:
    assert parse('lease("k") = "1f"\n\nget k').compares == (lease("k") == 0x1F,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('mod("k") = "0"\nmod(k) 0\n\nget k', "line 2: 'mod(k) 0' is not a comparison"),
        ("# c\n\nput a\n", "line 3: put takes 2 words, not 1"),
        ('size("k") = "0"\n\nget k', "line 1: there is no 'size' to compare"),
        ('mod("k") = "many"\n\nget k', "line 1: mod compares with a number, not with 'many'"),
        ('mod("k") = "9999999999999999999"\n\nget k', "line 1: 9999999999999999999 does not fit"),
        ('mod("k) = 0\n\nget k', "line 1: cannot read"),
        ("\nfetch a\n", "line 2: there is no operation 'fetch'"),
        ('\nput a "b\n', "line 2: cannot read '\"b'"),
        ("\nget a --all\n", "line 2: get has no flag --all"),
        ("\nget a --prefix --from-key\n", "line 2: --prefix and --from-key exclude"),
        ('\nput a "\\xzz"\n', "line 2: \\x needs two hexadecimal digits"),
        ('\nput a "\\q"\n', "line 2: unknown escape \\q"),
        ("\nget a\n\nget b\n\nget c\n", "line 6: a fourth block"),
        ('mod("k") = "0"\n', "does nothing"),
        ("", "does nothing"),
        ('{"success": [{"put": {"key": 1}}]}', "$.success[0].put.key"),
        ('{"succes": []}', "unknown field"),
        ('{"success": [{"put": {"key": "a"}, "get": {"key": "a"}}]}', "one of put, get, delete and txn"),
        ('{"compare": [{"target": "mod", "key": "a", "op": "=", "value": "1"}]}', "mod compares with int"),
        ('{"success": [{"get": {"key": "a", "limit": 9223372036854775808}}]}', "JSON"),
        ('{"success": [{"put": {"key": {"base64": "%"}}}]}', "not base64"),
        ('{"success": [{"get": {"key": "a", "prefix": true, "range_end": "b"}}]}', "exclude each other"),
        ("{", "JSON"),
    ],
)
def test_what_is_wrong_and_where(text: str, message: str) -> None:
    with pytest.raises(TxnTextError) as caught:
        parse(text)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_json() -> None:
    text = """
    {"compare": [{"target": "mod", "key": "lock", "op": "=", "value": 0},
                 {"target": "value", "key": {"base64": "/w=="}, "op": "!=", "value": {"base64": "AA=="}},
                 {"target": "version", "key": "a/", "prefix": true, "op": ">", "value": 1}],
     "success": [{"put": {"key": "k", "value": "v", "lease": 3, "prev_kv": true}},
                 {"get": {"key": "a", "range_end": "b", "limit": 3, "revision": 9}},
                 {"txn": {"failure": [{"delete": {"key": "k", "from_key": true}}]}}],
     "failure": [{"get": {"key": "lock", "count_only": true}}]}
    """
    assert parse(text) == Txn(
        (mod_revision("lock") == 0, value(b"\xff") != b"\0", version("a/", prefix=True) > 1),
        (
            put("k", "v", lease=3, prev_kv=True),
            get("a", range_end="b", limit=3, revision=9),
            Txn((), (), (delete("k", from_key=True),)),
        ),
        (get("lock", count_only=True),),
    )


def quoted(data: bytes) -> str:
    return '"' + "".join(f"\\x{byte:02x}" for byte in data) + '"'


@given(st.binary(min_size=1), st.binary())
def test_any_bytes_can_be_written(key: bytes, data: bytes) -> None:
    assert parse(f"value({quoted(key)}) = {quoted(data)}\n\nput {quoted(key)} {quoted(data)}\n") == Txn(
        (value(key) == data,), (put(key, data),)
    )
    op = {
        "put": {"key": {"base64": base64.b64encode(key).decode()}, "value": {"base64": base64.b64encode(data).decode()}}
    }
    assert parse(json.dumps({"success": [op]})) == Txn((), (put(key, data),))


# Text made of the pieces of the language, so that most of it is nearly right.
pieces = st.lists(
    st.sampled_from(
        ["mod", "(", ")", '"', "'", "\\", "=", "!=", " ", "\n", "\n\n", "put", "get", "k", "--prefix", "{", "0"]
    )
).map("".join)


@given(st.text() | pieces)
def test_any_text_is_a_transaction_or_a_clear_error(text: str) -> None:
    try:
        txn = parse(text)
    except TxnTextError:
        return
    txn.message()
