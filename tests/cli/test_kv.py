"""`plasma kv` against real clusters."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_runner import Plasma

from plasmacloud.base.errors import ExitCode


def as_json(kv: Plasma, *args: str, **kwargs: Any) -> Any:
    result = kv(*args, "-o", "json", **kwargs)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_put_and_get(kv: Plasma) -> None:
    put = kv("kv", "put", "pg/a", "hello")
    assert put.exit_code == 0
    assert put.stdout.startswith("OK (revision ")
    head, row = kv("kv", "get", "pg/a").stdout.splitlines()
    assert head.split() == ["KEY", "VALUE", "MOD", "VERSION"]
    assert row.split()[:2] == ["pg/a", "hello"]
    assert row.split()[3] == "1"
    assert kv("kv", "get", "pg/a", "--print-value-only").stdout_bytes == b"hello"


def test_json_and_yaml_say_the_same(kv: Plasma) -> None:
    kv("kv", "put", "jy/a", "1")
    found = as_json(kv, "kv", "get", "jy/", "--prefix")
    in_yaml = yaml.safe_load(kv("kv", "get", "jy/", "--prefix", "-o", "yaml").stdout)
    assert found["header"].keys() == in_yaml["header"].keys()
    assert found["header"]["cluster_id"] == in_yaml["header"]["cluster_id"]
    assert found["kvs"] == in_yaml["kvs"]
    [pair] = found["kvs"]
    assert (pair["key"], pair["value"], pair["lease"]) == ("jy/a", "1", "0")
    assert found["count"] == 1
    assert int(found["header"]["cluster_id"], 16) > 0


def test_a_missing_key_exits_1_with_nothing_on_stdout(kv: Plasma) -> None:
    result = kv("kv", "get", "none/here")
    assert (result.exit_code, result.stdout) == (ExitCode.FAILED, "")
    assert "no key 'none/here'" in result.stderr
    result = kv("kv", "get", "none/here", "--print-value-only")
    assert (result.exit_code, result.stdout) == (ExitCode.FAILED, "")
    result = kv("kv", "get", "none/here", "-o", "json")
    assert result.exit_code == ExitCode.FAILED
    assert json.loads(result.stdout)["kvs"] == []
    assert result.stderr == ""


def test_values_that_are_not_text_survive_a_round_trip(kv: Plasma, tmp_path: Path) -> None:
    data = bytes(range(256)) + b"\n"
    file = tmp_path / "value"
    file.write_bytes(data)
    assert kv("kv", "put", "raw/file", "--file", str(file)).exit_code == 0
    assert kv("kv", "put", "raw/stdin", "-", input=data).exit_code == 0
    for key in ("raw/file", "raw/stdin"):
        assert kv("kv", "get", key, "--print-value-only").stdout_bytes == data
        [pair] = as_json(kv, "kv", "get", key)["kvs"]
        assert set(pair["value"]) == {"base64"}
    assert r"\x00\x01" in kv("kv", "get", "raw/file").stdout


def test_ranges(kv: Plasma) -> None:
    for name in "abc":
        kv("kv", "put", f"kr/{name}", name)

    def keys(*args: str) -> list[str]:
        return [pair["key"][-1] for pair in as_json(kv, "kv", "get", *args)["kvs"]]

    assert keys("kr/", "--prefix") == ["a", "b", "c"]
    assert keys("kr/a", "kr/c") == ["a", "b"]
    assert keys("kr/b", "--from-key", "--limit", "2") == ["b", "c"]
    assert keys("kr/", "--prefix", "--sort-by", "value", "--order", "descend") == ["c", "b", "a"]
    assert keys("kr/", "--prefix", "--order", "descend", "--limit", "1", "--consistency", "s") == ["c"]
    assert kv("kv", "get", "kr/", "--prefix", "--count-only").stdout == "3\n"
    assert kv("kv", "get", "kr/", "--prefix", "--print-value-only").stdout == "a\nb\nc\n"
    only_keys = as_json(kv, "kv", "get", "kr/", "--prefix", "--keys-only")["kvs"]
    assert all("value" not in pair for pair in only_keys)
    cut = kv("kv", "get", "kr/", "--prefix", "--limit", "2")
    assert "2 of 3 keys" in cut.stderr
    assert kv("kv", "get", "kr/", "--prefix", "--count-only", "--limit", "1").exit_code == 0


def test_counting_nothing_is_an_answer(kv: Plasma) -> None:
    result = kv("kv", "get", "zero/", "--prefix", "--count-only")
    assert (result.exit_code, result.stdout) == (0, "0\n")


def test_an_old_revision_and_a_compacted_one(kv: Plasma) -> None:
    first = as_json(kv, "kv", "put", "rev/a", "1")["header"]["revision"]
    second = as_json(kv, "kv", "put", "rev/a", "2", "--prev-kv")
    assert second["prev_kv"]["value"] == "1"
    assert kv("kv", "get", "rev/a", "--rev", str(first), "--print-value-only").stdout == "1"
    newest = second["header"]["revision"]
    assert kv("kv", "compact", str(newest)).stdout == f"compacted to revision {newest}\n"
    result = kv("kv", "get", "rev/a", "--rev", str(first))
    assert (result.exit_code, result.stdout) == (ExitCode.NOT_EXECUTED, "")
    assert "has been compacted" in result.stderr


def test_delete(kv: Plasma) -> None:
    for name in "ab":
        kv("kv", "put", f"del/{name}", name)
    assert kv("kv", "del", "del/none").stdout.startswith("deleted 0 keys")
    assert kv("kv", "del", "del/a").stdout.startswith("deleted 1 key ")
    gone = as_json(kv, "kv", "del", "del/", "--prefix", "--prev-kv")
    assert gone["deleted"] == 1
    assert gone["prev_kvs"][0]["value"] == "b"


TXN = """
mod("txn/lock") = "0"

put txn/lock me
get txn/lock

get txn/lock
"""


def test_txn(kv: Plasma, tmp_path: Path) -> None:
    text = TXN.lstrip()
    won = kv("kv", "txn", input=text)
    assert won.exit_code == 0, won.output
    assert won.stdout.startswith("succeeded (revision ")
    assert "1: put\n2: got 1\n" in won.stdout

    lost = kv("kv", "txn", "-o", "json", input=text)
    assert lost.exit_code == ExitCode.FAILED
    answer = json.loads(lost.stdout)
    assert answer["succeeded"] is False
    assert answer["responses"][0]["get"]["kvs"][0]["value"] == "me"

    file = tmp_path / "txn.json"
    file.write_text('{"success": [{"txn": {"success": [{"delete": {"key": "txn/lock"}}]}}]}')
    nested = kv("kv", "txn", "--file", str(file), "-o", "yaml")
    assert yaml.safe_load(nested.stdout)["responses"][0]["txn"]["responses"][0]["delete"]["deleted"] == 1
    assert "deleted 0" in kv("kv", "txn", "--file", str(file)).stdout


@pytest.mark.parametrize(
    ("text", "message"), [(b"\nput a\n", "line 2: put takes 2 words"), (b"\xff", "not UTF-8"), (b"{", "JSON")]
)
def test_a_text_that_is_no_transaction_exits_2(kv: Plasma, text: bytes, message: str) -> None:
    result = kv("kv", "txn", input=text)
    assert (result.exit_code, result.stdout) == (ExitCode.USAGE, "")
    assert message in result.stderr


def test_what_the_server_refuses_exits_3(kv: Plasma) -> None:
    result = kv("kv", "put", "a", "b", "--lease", "1f")
    assert (result.exit_code, result.stdout) == (ExitCode.NOT_EXECUTED, "")
    assert "requested lease not found" in result.stderr
