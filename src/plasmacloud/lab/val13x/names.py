"""What this suite is called and calls its parts: checks, nodes, faults, and files of evidence."""

import msgspec

from plasmacloud.base.errors import ConfigError

NODE1, NODE2 = "cp-val13x-node1", "cp-val13x-node2"
NODES = (NODE1, NODE2)
DATABASES = ("postgres", "postgres-2")
"""The first one begins as the primary. After a failover the names stay and the roles change."""
HOSTS = {NODE1: "n1", NODE2: "n2"}
DATABASE_HOST = "db"
INTRUDER = "cp-val13x-intruder"
OPERATOR = "val13x"

SIGSTOP = "sigstop_leader"
PARTITION = "partition_leader"
PG_STOP = "pg_immediate_stop"
PG_KILL = "pg_sigkill"
KILLS = "writes_through_kills"
STALE = "stale_leader_write_refused"
STANDBY_LOST = "sync_standby_lost"
SYNC_FAILOVER = "sync_failover"
POOLER = "pooler_refused"
SPLIT_BRAIN = "split_brain_detect_recover"


class Course(msgspec.Struct, frozen=True):
    """One scenario. ``faults``: what its faults are called, in order, each of them once in each trial; ``repeated``:
    whether ``--trials`` repeats it."""

    identifier: str
    faults: tuple[str, ...]
    repeated: bool = True


FREEZE, CUT, STOP_POSTGRES, KILL_POSTGRES = "freeze", "partition", "postgres-stop", "postgres-kill"
TERM, KILL, OVERTAKE = "terminate", "kill", "epoch-raised"
KILL_STANDBY, KILL_PRIMARY = "standby-kill", "primary-kill"
FORGE_HOLDER, STEAL_LOCK = "forged-holder", "stolen-lock"

COURSES = {
    SIGSTOP: Course("VAL13X-01", (FREEZE,)),
    PARTITION: Course("VAL13X-02", (CUT,)),
    PG_STOP: Course("VAL13X-03", (STOP_POSTGRES,)),
    PG_KILL: Course("VAL13X-04", (KILL_POSTGRES,)),
    KILLS: Course("VAL13X-05", (TERM, KILL)),
    STALE: Course("VAL13X-06", (OVERTAKE,)),
    STANDBY_LOST: Course("VAL13X-07", (KILL_STANDBY,)),
    SYNC_FAILOVER: Course("VAL13X-08", (KILL_PRIMARY,)),
    POOLER: Course("VAL13X-09", (), repeated=False),
    SPLIT_BRAIN: Course("VAL13X-10", (FORGE_HOLDER, STEAL_LOCK), repeated=False),
}
"""In the order in which they are run: what needs a standby comes after what does not."""
WITH_STANDBY = (STANDBY_LOST, SYNC_FAILOVER)

FACTS = "val13x-facts.jsonl"
EPOCHS = "val13x-leader-epochs.jsonl"
AUDIT = "val13x-audit.jsonl"
STATUS = "val13x-status.txt"
POOLER_FILE = "val13x-09-pooler.txt"
SPLIT_BRAIN_FILE = "val13x-10-split-brain.txt"
REPORT_TEXT = "val13x-report.txt"
REPORT_JSON = "val13x-report.json"


def title(name: str) -> str:
    """``VAL13X-01 sigstop_leader``."""
    return f"{COURSES[name].identifier} {name}"


def session_log(number: int, session: int) -> str:
    """The log of one session of one election server."""
    return f"val13x-node{number}-s{session}.log"


def chosen(only: tuple[str, ...]) -> tuple[str, ...]:
    """Scenarios by name or identifier, in the order in which they run; all when none is named. Raises `ConfigError`."""
    by_identifier = {course.identifier: name for name, course in COURSES.items()}
    wanted = {by_identifier.get(each.upper(), each) for each in only}
    unknown = wanted - COURSES.keys()
    if unknown:
        raise ConfigError(f"val13x has no scenario {', '.join(sorted(unknown))}", hint=f"it has {', '.join(COURSES)}")
    return tuple(name for name in COURSES if not wanted or name in wanted)


def planned_trials(names: tuple[str, ...], trials: int) -> int:
    """How many faults a complete run of these scenarios injects."""
    return sum(len(COURSES[name].faults) * (trials if COURSES[name].repeated else 1) for name in names)
