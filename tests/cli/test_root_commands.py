"""The tree of commands: help that teaches, settings from three places, exit codes."""

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml
from cli_runner import Plasma

from plasmacloud.base.errors import ExitCode
from plasmacloud.cli.main import cli

DEAD = "127.0.0.1:1"


def commands(
    command: click.Command = cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            child = command.get_command(click.Context(command), name)
            assert child is not None, name
            yield from commands(child, (*path, name))


ALL = dict(commands())


@pytest.mark.parametrize("path", ALL, ids=lambda path: " ".join(("plasma", *path)))
def test_every_help_renders_with_an_example_there_or_in_its_group(plasma: Plasma, path: tuple[str, ...]) -> None:
    shown = ""
    for part in (path, path[:-1]):
        result = plasma(*part, "--help")
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        shown += result.stdout.partition("Examples:")[2]
    assert " ".join(("plasma", *path)) in shown


@pytest.mark.parametrize("path", ALL, ids=lambda path: " ".join(("plasma", *path)))
def test_every_flag_and_command_is_explained(path: tuple[str, ...]) -> None:
    command = ALL[path]
    assert command.help
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help or option.hidden, option.name


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--frobnicate"], "No such option"),
        (["fly"], "No such command"),
        (["kv", "get"], "Missing argument"),
        (["kv", "get", ""], "a key is not empty"),
        (["kv", "get", "a", "b", "--prefix"], "exclude each other"),
        (["kv", "get", "a", "--keys-only", "--count-only"], "exclude each other"),
        (["kv", "put", "a"], "give the value once"),
        (["kv", "put", "a", "b", "--lease", "xyz"], "not a lease ID"),
        (["kv", "del", ""], "a key is not empty"),
        (["kv", "compact", "0"], "0 is not in the range"),
        (["--timeout", "5", "kv", "get", "a"], "not a duration"),
        (["--timeout", "0s", "kv", "get", "a"], "not longer than zero"),
        (["-o", "xml", "kv", "get", "a"], "xml"),
        (["completion", "tcsh"], "tcsh"),
    ],
)
def test_wrong_usage_exits_2_with_the_reason_on_stderr(plasma: Plasma, args: list[str], message: str) -> None:
    result = plasma(*args)
    assert result.exit_code == ExitCode.USAGE
    assert message in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("args", [(), ("kv",), ("chainfire",)])
def test_no_command_shows_the_help_and_exits_2(plasma: Plasma, args: tuple[str, ...]) -> None:
    result = plasma(*args)
    assert result.exit_code == ExitCode.USAGE
    assert "Commands:" in result.stderr
    assert result.stdout == ""


def test_nobody_there_exits_5(plasma: Plasma) -> None:
    result = plasma("--endpoints", DEAD, "kv", "put", "a", "b")
    assert result.exit_code == ExitCode.UNAVAILABLE
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {DEAD} cannot be reached: connection refused\nhint: ")


def test_an_unusable_endpoint_exits_6(plasma: Plasma) -> None:
    result = plasma("kv", "get", "a", "--endpoints", "ftp://a:1")
    assert result.exit_code == ExitCode.CONFIG
    assert "unknown scheme" in result.stderr


def test_version_in_all_forms(plasma: Plasma) -> None:
    assert plasma("version").stdout.startswith("plasma ")
    as_json = json.loads(plasma("-o", "json", "version").stdout)
    assert as_json == yaml.safe_load(plasma("version", "-o", "yaml").stdout)
    assert set(as_json) == {"version", "python", "modules"}


def endpoints_used(plasma: Plasma, *args: str, **env: str) -> str:
    """Which endpoint a command line asks: the one it complains about."""
    result = plasma(*args, **env)
    assert result.exit_code == ExitCode.UNAVAILABLE, result.output
    return result.stderr.split()[1]


def test_a_flag_wins_over_the_environment_which_wins_over_the_file(plasma: Plasma, tmp_path: Path) -> None:
    config = tmp_path / "plasma.toml"
    config.write_text('endpoints = ["127.0.0.1:3"]\ntimeout = "2s"\n')
    file = ["--config", str(config)]
    assert endpoints_used(plasma, *file, "kv", "get", "a") == "127.0.0.1:3"
    assert endpoints_used(plasma, *file, "kv", "get", "a", PLASMA_ENDPOINTS="127.0.0.1:2") == "127.0.0.1:2"
    flags = ["--endpoints", "127.0.0.1:1"]
    assert endpoints_used(plasma, *file, *flags, "kv", "get", "a", PLASMA_ENDPOINTS="127.0.0.1:2") == "127.0.0.1:1"
    assert endpoints_used(plasma, *file, "kv", "get", "a", *flags, PLASMA_ENDPOINTS="127.0.0.1:2") == "127.0.0.1:1"
    assert endpoints_used(plasma, "kv", "get", "a", PLASMA_CONFIG=str(config)) == "127.0.0.1:3"


def test_the_flags_of_a_command_come_from_file_and_environment_too(plasma: Plasma, tmp_path: Path) -> None:
    config = tmp_path / "plasma.toml"
    config.write_text("[kv.get]\nkeys-only = true\ncount-only = true\n")
    assert "exclude each other" in plasma("--config", str(config), "kv", "get", "a").stderr
    assert (
        "exclude each other"
        in plasma("kv", "get", "a", PLASMA_KV_GET_KEYS_ONLY="1", PLASMA_KV_GET_COUNT_ONLY="1").stderr
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("endpoint = 'a'", "no flag --endpoint"),
        ("[kv.get]\nlimits = 3", "[kv.get]: there is no flag --limits"),
        ("[kw]\nx = 1", "no command 'kw'"),
        ("[kv.get.deeper]\nx = 1", "no command 'deeper'"),
        ("endpoints = ", "Invalid value"),
        ("config = 'b.toml'", "no flag --config"),
    ],
)
def test_a_mistake_in_the_file_is_named_and_exits_6(plasma: Plasma, tmp_path: Path, text: str, message: str) -> None:
    config = tmp_path / "plasma.toml"
    config.write_text(text)
    result = plasma("--config", str(config), "version")
    assert result.exit_code == ExitCode.CONFIG
    assert message in result.stderr
    assert str(config) in result.stderr


def test_a_missing_file_exits_6(plasma: Plasma, tmp_path: Path) -> None:
    result = plasma("--config", str(tmp_path / "none.toml"), "version")
    assert result.exit_code == ExitCode.CONFIG
    assert "No such file" in result.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_command(plasma: Plasma, shell: str) -> None:
    result = plasma("completion", shell)
    assert result.exit_code == 0
    assert "_PLASMA_COMPLETE" in result.stdout
