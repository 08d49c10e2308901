"""Whether the database can be trusted with a write: a pure judge of what probes saw.

A leader is worth what its database is worth. `Judge` is told what each probe saw and what time it is, and says one of

* **healthy**: a real write was just committed, and every promise about replicas is kept;
* **degraded**: writes are committed, but something is weaker than it should be: a replica lags, one is not streaming, a
  probe did not answer in time;
* **lost**: a write would not be committed, or not with as many synchronous replicas as were asked for.

The rules, and why they cannot say ``healthy`` by mistake:

1. ``healthy`` needs a probe that was *sent* less than ``lost_after_s`` ago and came back with a committed write.
   Counting from when it was sent, as the leader does with its keepalives, the judge never believes in something older.
2. An answer that proves that writing is impossible (nobody listens, the server recovers or is read-only) is ``lost`` at
   once. Silence proves nothing: it is ``degraded`` first, and ``lost`` when the last good probe is too old. `tick` says
   so without any answer, so that a probe that hangs for ever cannot hold up the verdict.
3. One good probe is enough to come back: it is a fact, not a guess.

Time is seconds of a monotonic clock, given as an argument; nothing here reads a clock.
"""

from enum import StrEnum

import msgspec


class Health(StrEnum):
    """The verdict."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    LOST = "lost"


class Replica(msgspec.Struct, frozen=True):
    """One row of ``pg_stat_replication``. Lags are of replay; None: the database does not say."""

    name: str
    state: str
    sync_state: str
    lag_bytes: int | None = None
    lag_ms: float | None = None

    @property
    def synchronous(self) -> bool:
        """Whether commits wait, or may wait, for this one, and it is there to answer."""
        return self.state == "streaming" and self.sync_state in ("sync", "quorum")


class Observation(msgspec.Struct, frozen=True):
    """What one probe saw. ``sent_s``: when it was sent, on the judge's clock.

    ``refusal``: why no write is possible, in words, when the answer proves it. ``silence``: why there is no answer. At
    most one of them is set; with neither, a write was committed in ``write_ms``. ``read``: the replicas were read, even
    if the write then got no answer.
    """

    sent_s: float
    refusal: str = ""
    silence: str = ""
    readable: bool = False
    write_ms: float | None = None
    timeline: int = 0
    replicas: tuple[Replica, ...] = ()
    replicas_hidden: bool = False
    read: bool = False


class Limits(msgspec.Struct, frozen=True):
    """What was asked for. ``max_lag_bytes`` 0: any lag will do."""

    min_sync_replicas: int = 0
    max_lag_bytes: int = 0
    lost_after_s: float = 2.0

    def __post_init__(self) -> None:
        assert self.min_sync_replicas >= 0, self.min_sync_replicas
        assert self.max_lag_bytes >= 0, self.max_lag_bytes
        assert self.lost_after_s > 0, self.lost_after_s


class Verdict(msgspec.Struct, frozen=True):
    """What is known now, and why. ``reasons`` is empty exactly when the quorum is healthy."""

    health: Health
    write_ready: bool
    read_ready: bool
    reasons: tuple[str, ...] = ()
    sync_replicas: int = 0
    replicas: tuple[Replica, ...] = ()
    max_lag_bytes: int = 0
    lag_critical: bool = False

    def __post_init__(self) -> None:
        assert bool(self.reasons) == (self.health is not Health.HEALTHY), self
        assert self.write_ready or self.health is Health.LOST, self


class Change(msgspec.Struct, frozen=True):
    """The health became another."""

    before: Health
    after: Health
    reason: str


_NEVER_SEEN = Verdict(Health.LOST, write_ready=False, read_ready=False, reasons=("not looked yet",))


class Judge:
    """Holds the last verdict. Feed it every probe with `observe`, and the time with `tick`."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.verdict = _NEVER_SEEN
        self._good_sent_s: float | None = None
        self._good: Observation | None = None

    def observe(self, seen: Observation, now_s: float) -> Change | None:
        """Take in what a probe saw. Returns the change of health, if there is one."""
        assert seen.sent_s <= now_s, (seen.sent_s, now_s)
        assert not (seen.refusal and seen.silence), seen
        if seen.refusal:
            self._good_sent_s = self._good = None
            return self._become(_lost(seen.refusal, readable=seen.readable))
        if seen.silence:
            missing = self._missing_replicas(seen) if seen.read else None
            return self._become(missing or self._in_silence(seen.silence, now_s))
        if self._good_sent_s is None or seen.sent_s >= self._good_sent_s:
            self._good_sent_s, self._good = seen.sent_s, seen
        return self._become(self._judged(now_s))

    def tick(self, now_s: float) -> Change | None:
        """Time has passed and no probe came back: too long since the last good one is a verdict, too."""
        if self._good_sent_s is None or now_s - self._good_sent_s < self.limits.lost_after_s:
            return None
        return self._become(self._in_silence("no answer", now_s))

    def expires_s(self) -> float | None:
        """When `tick` has something to say, if no good probe comes before; None: it has nothing to take back."""
        return None if self._good_sent_s is None else self._good_sent_s + self.limits.lost_after_s

    def _become(self, verdict: Verdict) -> Change | None:
        before, self.verdict = self.verdict, verdict
        if before.health is verdict.health:
            return None
        return Change(before.health, verdict.health, "; ".join(verdict.reasons) or "a write was committed")

    def _in_silence(self, why: str, now_s: float) -> Verdict:
        if self._good is None or self._good_sent_s is None:
            return _lost(why, readable=False)
        age_s = now_s - self._good_sent_s
        if age_s >= self.limits.lost_after_s:
            self._good_sent_s = self._good = None
            return _lost(f"{why}; the last good probe was sent {age_s:.1f} s ago", readable=False)
        last = self._judged(now_s)
        if last.health is Health.LOST:
            return last
        return msgspec.structs.replace(last, health=Health.DEGRADED, reasons=(why, *last.reasons))

    def _missing_replicas(self, seen: Observation) -> Verdict | None:
        """Too few synchronous replicas: what is committed now may be lost with this one server."""
        wanted, sync = self.limits.min_sync_replicas, _count_sync(seen)
        if wanted and seen.replicas_hidden:
            return _lost("this user may not see replication: GRANT pg_monitor to it", readable=True, seen=seen)
        if sync < wanted:
            return _lost(f"{sync} synchronous replicas of the {wanted} that are required", readable=True, seen=seen)
        return None

    def _judged(self, now_s: float) -> Verdict:
        """The verdict on the last good probe."""
        seen, limits = self._good, self.limits
        assert seen is not None
        assert self._good_sent_s is not None
        if now_s - self._good_sent_s >= limits.lost_after_s:
            took_s = now_s - self._good_sent_s
            return _lost(f"a write took {took_s:.1f} s", readable=True, seen=seen)
        missing = self._missing_replicas(seen)
        if missing is not None:
            return missing
        sync = _count_sync(seen)
        weak = [f"replica {r.name} is {r.state or 'not streaming'}" for r in seen.replicas if r.state != "streaming"]
        if seen.replicas_hidden:
            weak = []
        late = [
            f"replica {r.name} is {r.lag_bytes} bytes behind, more than {limits.max_lag_bytes}"
            for r in seen.replicas
            if limits.max_lag_bytes and (r.lag_bytes or 0) > limits.max_lag_bytes
        ]
        reasons = (*weak, *late)
        return Verdict(
            health=Health.DEGRADED if reasons else Health.HEALTHY,
            write_ready=True,
            read_ready=True,
            reasons=reasons,
            sync_replicas=sync,
            replicas=seen.replicas,
            max_lag_bytes=max((r.lag_bytes or 0 for r in seen.replicas), default=0),
            lag_critical=bool(late),
        )


def _count_sync(seen: Observation) -> int:
    return sum(replica.synchronous for replica in seen.replicas)


def _lost(why: str, *, readable: bool, seen: Observation | None = None) -> Verdict:
    replicas = seen.replicas if seen else ()
    return Verdict(
        health=Health.LOST,
        write_ready=False,
        read_ready=readable,
        reasons=(why,),
        sync_replicas=_count_sync(seen) if seen else 0,
        replicas=replicas,
    )
