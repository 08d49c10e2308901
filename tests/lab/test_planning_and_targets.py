"""What is asked for becomes plans, or a clear error."""

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from plasmacloud.base.address import Address
from plasmacloud.base.errors import ConfigError
from plasmacloud.cli.lab import PRESET_NAMES, lab
from plasmacloud.lab.canary.store import Store
from plasmacloud.lab.plan import DEMO, FULL, PRESETS, QUICK, RESILIENCE
from plasmacloud.lab.planning import Request, make_plans
from plasmacloud.lab.scenarios import SCENARIOS
from plasmacloud.lab.suites import SUITES
from plasmacloud.lab.targets import TARGETS, etcd, find_target
from plasmacloud.lab.targets.base import NodeSpec
from plasmacloud.lab.val13.suite import Val13


def request(**changes: object) -> Request:
    base = Request(
        scenarios=(),
        targets=("canary",),
        preset=FULL,
        trials=None,
        seed=1,
        nodes=3,
        clients=200,
        rate_per_s=800,
        op_timeout_ms=250,
        thresholds={},
    )
    return msgspec.structs.replace(base, **changes)


def test_all_scenarios_by_default_with_twenty_trials_of_a_failover() -> None:
    plans, remarks = make_plans(request())
    assert [plan.scenario for plan in plans] == [
        "cluster-formation",
        "write-replicate-commit",
        "leader-only-write",
        "leader-kill",
        "leader-term",
        "follower-kill",
        "power-loss",
        "quorum-loss",
        "pause",
        "restart-storm",
        "rolling-restart",
        "cluster-join",
        "quorum-recover",
        "membership-churn",
    ]
    trials = {plan.scenario: plan.trials for plan in plans}
    assert (trials["leader-kill"], trials["leader-term"], trials["cluster-formation"]) == (20, 20, 1)
    assert plans[0].hold_s == 30
    assert remarks == []


def test_trials_apply_to_scenarios_that_repeat_and_a_quick_run_says_that_it_is_short() -> None:
    plans, _ = make_plans(request(preset=QUICK, trials=3))
    assert {plan.scenario: plan.trials for plan in plans}["leader-kill"] == 3
    assert {plan.scenario: plan.trials for plan in plans}["cluster-formation"] == 1
    assert all("5 s instead of 30 s" in plan.shortened for plan in plans)


def test_the_demo_adds_the_comparison_when_etcd_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Val13, "missing", lambda self: "no PostgreSQL")
    for target in TARGETS.values():
        monkeypatch.setattr(type(target), "missing", lambda self: None)
        monkeypatch.setattr(type(target), "version", lambda self: "1")
    plans, remarks = make_plans(request(targets=(), preset=DEMO))
    assert [plan.target for plan in plans] == ["chainfire"] * 7 + ["etcd", "etcd-tuned"]
    assert {plan.scenario for plan in plans[-2:]} == {"leader-kill"}
    assert [plan.reference for plan in plans] == [False] * 7 + [True] * 2
    for target in (etcd.Etcd, etcd.EtcdTuned):
        monkeypatch.setattr(target, "missing", lambda self: "not installed")
    plans, remarks = make_plans(request(targets=(), preset=DEMO))
    assert {plan.target for plan in plans} == {"chainfire"}
    no_etcd = [f"no comparison with {name}: not installed" for name in ("etcd", "etcd-tuned")]
    assert remarks == ["val13 is not run: no PostgreSQL", *no_etcd]


def test_a_preset_may_name_its_scenarios_and_the_user_may_name_others() -> None:
    plans, _ = make_plans(request(preset=RESILIENCE))
    assert tuple(plan.scenario for plan in plans) == RESILIENCE.scenarios
    assert {plan.storm_s for plan in plans} == {RESILIENCE.storm_s}
    plans, _ = make_plans(request(preset=RESILIENCE, scenarios=("power-loss",)))
    assert [plan.scenario for plan in plans] == ["power-loss"]


def test_every_preset_names_scenarios_that_exist_and_is_a_flag() -> None:
    for preset in PRESETS.values():
        assert {*preset.scenarios, *preset.trials} <= SCENARIOS.keys() | SUITES.keys()
        assert {*preset.suites} <= SUITES.keys()
    assert set(PRESET_NAMES) == PRESETS.keys()


def test_a_target_may_have_other_thresholds_and_the_user_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd.Etcd, "missing", lambda self: None)
    monkeypatch.setattr(etcd.Etcd, "version", lambda self: "1")
    name = "rto_max_election_timeouts"
    limits = [
        make_plans(request(scenarios=("pause",), targets=(target,), thresholds=given))[0][0].thresholds[name]
        for target, given in (("canary", {}), ("etcd", {}), ("etcd", {f"pause.{name}": 9}))
    ]
    assert limits == [2, 2.5, 9]


def test_as_many_clients_as_the_rate_needs_through_an_outage() -> None:
    plans, _ = make_plans(request(clients=None, rate_per_s=2000, op_timeout_ms=100))
    assert {plan.clients for plan in plans} == {200}
    plans, _ = make_plans(request(clients=None, rate_per_s=10, op_timeout_ms=30))
    assert {plan.clients for plan in plans} == {1}


def test_a_threshold_can_be_changed_for_one_scenario() -> None:
    plans, _ = make_plans(request(thresholds={"leader-kill.rto_max_ms": 50}))
    limits = {plan.scenario: plan.thresholds.get("rto_max_ms") for plan in plans}
    assert limits["leader-kill"] == 50
    assert limits["leader-term"] == 1000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scenarios": ("leader-kil",)}, "no scenario 'leader-kil'"),
        ({"targets": ("redis",)}, "no target 'redis'"),
        ({"nodes": 4}, "4 nodes"),
        ({"clients": 10}, "10 clients cannot keep 800 writes/s going"),
        ({"thresholds": {"leader-kill.rto": 1}}, "no threshold 'leader-kill.rto'"),
    ],
)
def test_what_cannot_be_run_is_refused_with_a_hint(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_plans(request(**changes))
    assert caught.value.hint


def test_a_target_that_is_not_installed_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd.Etcd, "missing", lambda self: "no etcd program in PATH")
    with pytest.raises(ConfigError, match="no etcd program in PATH"):
        make_plans(request(targets=("etcd",)))


def test_etcd_is_never_started_through_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "etcd"
    script.write_text("#!/bin/sh\nexec sleep 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    etcd.find_etcd.cache_clear()
    try:
        found = etcd.find_etcd()
        assert found != script
        assert found is None or found.read_bytes()[:4] == b"\x7fELF"
    finally:
        etcd.find_etcd.cache_clear()


@pytest.mark.parametrize("name", ["chainfire", "canary"])
def test_a_node_is_started_by_the_interpreter_itself_with_its_own_addresses(name: str, tmp_path: Path) -> None:
    cluster = [
        NodeSpec(f"n{i}", Address("127.0.0.1", 1000 + i), Address("127.0.0.1", 2000 + i), tmp_path / f"n{i}")
        for i in (1, 2, 3)
    ]
    argv = find_target(name).argv(cluster[1], cluster)
    assert "python" in Path(argv[0]).name
    assert str(tmp_path / "n2") in argv
    assert "127.0.0.1:1002" in argv
    assert any(word.startswith("n1=") and "n3=" in word for word in argv)


def test_the_canarys_file_is_behind_its_memory(tmp_path: Path) -> None:
    store = Store(tmp_path / "items")
    store.put("a", "1")
    store.write_file()
    store.put("a", "2")
    store.put("b", "1")
    survived = Store(tmp_path / "items")
    assert {key: (item.value, item.version) for key, item in survived.items.items()} == {"a": ("1", 1)}
    assert store.items["a"].version == 2
    assert store.range("a", "b", 0)[1] == 1
    assert [item.key for item in store.range("a", "c", 1)[0]] == ["a"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--quick", "--preset", "demo"], "exclude each other"),
        (["run", "--trials", "0"], "0 is not in the range"),
        (["run", "--rate", "1"], "1 is not in the range"),
        (["run", "--preset", "fast"], "'fast' is not one of"),
        (["report", "/nonexistent"], "does not exist"),
    ],
)
def test_bad_flags_are_usage_errors(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(lab, arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_out_must_be_empty_and_a_threshold_a_number(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        CliRunner().invoke(lab, ["run", "--target", "canary", "--out", str(tmp_path)], catch_exceptions=False)
    with pytest.raises(ConfigError, match="'fast' is not a number"):
        CliRunner().invoke(lab, ["run", "--threshold", "leader-kill.rto_max_ms=fast"], catch_exceptions=False)


def test_list_names_every_scenario_and_target() -> None:
    result = CliRunner().invoke(lab, ["list"])
    assert result.exit_code == 0
    for word in ("power-loss", "leader-only-write", "etcd-tuned", "canary", "rto_max_ms=5000"):
        assert word in result.output
