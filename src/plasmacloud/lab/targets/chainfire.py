"""ChainFire, started as an operator starts it."""

import importlib.metadata
import importlib.util
import shlex
import sys
from collections.abc import Mapping, Sequence

import msgspec

from plasmacloud.base.errors import ConfigError
from plasmacloud.lab.plan import Traits
from plasmacloud.lab.targets.base import NodeSpec, Target

PROGRAM = (sys.executable, "-m", "plasmacloud")
TOKEN = "plasma-lab"


class _Recovery(msgspec.Struct):
    """What the lab needs from the answer of `plasma chainfire recover`."""

    commands: list[str]


class ChainFire(Target):
    """ChainFire with its default timers."""

    name = "chainfire"
    describe = "ChainFire, default timers (election timeout 300 ms)"
    joins_by_itself = True
    promotes_by_itself = True

    def __init__(self, *settings: str) -> None:
        """``settings``: more flags for every node."""
        self._settings = settings

    def thresholds(self, scenario: str) -> Mapping[str, float]:
        return {"cleanup_max_ms": 25_000} if scenario == "cluster-join" else {}

    def with_learner_deadline(self, deadline_s: float) -> Target:
        return ChainFire(*self._settings, "--learner-deadline", f"{deadline_s * 1000:.0f}ms")

    def missing(self) -> str | None:
        if importlib.util.find_spec("plasmacloud.cli.serve") is None:
            return "this build has no `plasma chainfire serve`"
        return None

    def version(self) -> str:
        return f"plasmacloud {importlib.metadata.version('plasmacloud')}"

    def traits(self) -> Traits:
        return Traits(term_lags=False, graceful_statuses=(0,), election_timeout_ms=300)

    def argv(self, node: NodeSpec, cluster: Sequence[NodeSpec]) -> list[str]:
        members = ",".join(f"{other.name}={other.peer}" for other in cluster)
        return [*self._serve(node), "--initial-cluster", members, "--cluster-token", TOKEN]

    def bootstrap_argv(self, node: NodeSpec) -> list[str]:
        return [*self._serve(node), "--bootstrap"]

    def join_argv(self, node: NodeSpec, members: Mapping[str, str], seeds: Sequence[NodeSpec]) -> list[str]:
        return [*self._serve(node), *(word for seed in seeds for word in ("--join", str(seed.client)))]

    def recovery_command(self, node: NodeSpec) -> list[str]:
        return [
            *PROGRAM,
            "chainfire",
            "recover",
            "--data-dir",
            str(node.data_dir),
            "--listen-client",
            str(node.client),
            "--yes",
            "-o",
            "json",
        ]

    def recovered_argv(self, node: NodeSpec, told: str) -> list[str]:
        """The first command that the recovery tells the operator to type, word for word."""
        try:
            answer = msgspec.json.decode(told[told.index("{") : told.rindex("}") + 1], type=_Recovery)
            program, *words = shlex.split(answer.commands[0])
        except (ValueError, IndexError) as error:
            raise ConfigError(f"`plasma chainfire recover` does not say how to go on: {told!r}") from error
        if program != "plasma":
            raise ConfigError(f"`plasma chainfire recover` says to run {program!r}")
        return [*PROGRAM, *words]

    def _serve(self, node: NodeSpec) -> list[str]:
        return [
            *PROGRAM,
            "chainfire",
            "serve",
            "--name",
            node.name,
            "--data-dir",
            str(node.data_dir),
            "--listen-client",
            str(node.client),
            "--listen-peer",
            str(node.peer),
            *self._settings,
        ]
