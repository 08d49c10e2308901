"""What a member remembers of the others' lives, so that none of them comes back without its memory.

A vote and an acknowledgement are promises, and consensus is only safe while a member that gave them still knows them.
A disk that was replaced, emptied or set back to an earlier day has forgotten, and the member on it cannot tell: every
trace is gone. The others can. Each remembers of every member it ever met

- its **birth**, drawn at random together with its log and never changed, and
- the **incarnation** of its newest life met; every life says which lives its disk has had before (`datadir`).

A claim is refused when

1. the birth is another one than the one remembered: *the data directory was replaced*;
2. the newest life met is neither the one that calls nor among those before it: *the disk was set back*, for it does
   not know of a life that was really there.

(Comparing with only the one life before would not do. A disk that was set back and is started twice has a life before
that is newer than the one it forgot.)

**No healthy member is refused.** Its birth is constant for its member id (a member that is removed and joins again
gets a new id). Each of its lives is on its own disk before anybody hears of it, so whichever of them a peer has met
last is this one or among those before. That holds whichever lives the peer has missed, for any number of members that
restart at the same time, for a crash between a life's beginning and its first word, and for a start that failed. A peer
whose own memory is older, damaged or gone remembers less, and the less is remembered the less is refused; all members
new, nothing is. The lock of the data directory keeps a second process from beginning a life beside the first. A list
that is full (`MAX_EARLIER`) may have dropped the life that a peer met long ago; such a peer does not refuse. A greeting
of a dead process that arrives late is refused: to nobody's harm, nobody reads the answer.

**A member that forgot is refused by everybody it had spoken to since the state it fell back to.** An emptied disk has
another birth. A copy was made before the life that the peer has met began, and so no life that descends from the copy
lists it. None gets the same incarnation by chance: they follow the clock in nanoseconds, and where that stands still,
jump at random. A life that was refused is withdrawn from the disk's past, so a refused member that is restarted for
ever never fills the list. What a peer has admitted is on its disk (`peers.json`, synced) before a frame of that life
passes, and the member keeps silent until all peers within reach have given their verdict (`rpc.peer_door`). So it takes
a member that forgot *and* everybody who had met its last life gone or cut off at once; that is a loss of two members,
which three do not survive, by whatever protocol. A copy made within the last life itself lists all there was, and
passes here; the leader knows what that life had acknowledged, and says so by its heartbeats (`StateLost`).

The second witness is the replicated state: the birth that a member published and the incarnation of its last command
in the log. It covers those who have lost their `peers.json` or were not there. It tells of lives that really were, so
the same argument holds.

The one who is refused ends itself, with an explanation (`Forgotten`, exit code 6): a restart cannot help.
"""

import asyncio
import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from plasmacloud.base.errors import ConfigError, StorageError
from plasmacloud.base.logging import get_logger
from plasmacloud.rpc.peer_wire import MAX_EARLIER, PeerClaim, Refusal, RefusalCode
from plasmacloud.storage.disk import Disk, OsDisk
from plasmacloud.storage.small_files import read_durably, write_file

MAX_REMEMBERED = 4096
"""More members than any cluster sees in its life; what claims to be one beyond that is let in and not remembered."""

_FORMAT = 1
_TEMPORARY = "peers.tmp"

log = get_logger("chainfire")


class Known(NamedTuple):
    """What is known of a member's lives. 0: nothing."""

    birth: int = 0
    incarnation: int = 0  # the newest


UNKNOWN = Known()


class Evidence(NamedTuple):
    """What the replicated state says of a member."""

    known: Known = UNKNOWN
    departed: bool = False


class PeerMemory:
    """The decisions: pure, apart from its own memory."""

    def __init__(self, known: dict[int, Known] | None = None) -> None:
        self._known = dict(known or {})

    def __len__(self) -> int:
        return len(self._known)

    def known(self, member_id: int) -> Known:
        """What is remembered of a member."""
        return self._known.get(member_id, UNKNOWN)

    def judge(self, claim: PeerClaim, evidence: Evidence = Evidence()) -> Refusal | None:  # noqa: B008 - immutable
        """Why the member cannot be who it says it is, or None. Changes nothing."""
        if evidence.departed:
            return Refusal(
                RefusalCode.REMOVED, f"member {claim.member_id:x} was removed from the cluster and its id is not reused"
            )
        if claim.incarnation <= max(claim.earlier, default=0):
            return Refusal(RefusalCode.SENDER, "it says that it is older than its own earlier life")
        for known in (self.known(claim.member_id), evidence.known):
            if not known.birth:
                continue  # an incarnation alone says nothing: it may be of a directory before a restored backup
            if claim.birth != known.birth:
                return Refusal(
                    RefusalCode.AMNESIA,
                    f"the data directory of member {claim.member_id:x} was replaced: it was made with birth "
                    f"{known.birth:x}, and this one with {claim.birth:x}",
                )
            if not _knows(claim, known.incarnation):
                return Refusal(
                    RefusalCode.AMNESIA,
                    f"the data directory of member {claim.member_id:x} was restored from an old copy, or a copy of it "
                    f"is in use: it does not know of its life {known.incarnation}",
                )
        return None

    def note(self, claim: PeerClaim) -> bool:
        """Remember an admitted member. Returns whether that was news, which has to be made durable."""
        news = Known(claim.birth, claim.incarnation)
        old = self._known.get(claim.member_id)
        if old == news or (old is None and len(self._known) >= MAX_REMEMBERED):
            return False
        assert old is None or (old.birth in (0, news.birth) and old.incarnation < news.incarnation), "not judged"
        self._known[claim.member_id] = news
        return True

    def encode(self, cluster_id: int) -> bytes:
        """As a file, with a checksum."""
        known = {f"{member:x}": _Life(f"{k.birth:x}", k.incarnation) for member, k in sorted(self._known.items())}
        content = _Content(_FORMAT, f"{cluster_id:x}", known)
        return msgspec.json.format(msgspec.json.encode(_File(_checksum(content), content))) + b"\n"

    @classmethod
    def decode(cls, data: bytes, cluster_id: int) -> "PeerMemory":
        """Raises `DamagedMemory`. What was remembered of another cluster's members is left out."""
        try:
            file = msgspec.json.decode(data, type=_File)
            content = file.content
            known = {int(m, 16): Known(int(life.birth, 16), life.incarnation) for m, life in content.known.items()}
        except (msgspec.MsgspecError, ValueError) as error:
            raise DamagedMemory(str(error)) from error
        if file.checksum != _checksum(content):
            raise DamagedMemory("the checksum does not fit")
        if content.format != _FORMAT:
            raise DamagedMemory(f"format {content.format} is not {_FORMAT}")
        return cls(known if content.cluster_id == f"{cluster_id:x}" else {})


def _knows(claim: PeerClaim, incarnation: int) -> bool:
    """Whether this life is, or descends from, that one."""
    if incarnation == claim.incarnation or incarnation in claim.earlier:
        return True
    return len(claim.earlier) >= MAX_EARLIER and incarnation < min(claim.earlier)


class _Life(msgspec.Struct):
    birth: str
    incarnation: int


class _Content(msgspec.Struct):
    format: int
    cluster_id: str
    known: dict[str, _Life]


class _File(msgspec.Struct):
    checksum: str
    content: _Content


def _checksum(content: _Content) -> str:
    return hashlib.sha256(msgspec.json.encode(content)).hexdigest()


class DamagedMemory(StorageError):
    """The bytes are not what was written."""


class Forgotten(ConfigError):
    """Another member says that this one has no memory of what it promised, or is no member any more."""


class PeerRegister:
    """The memory with its file: the `Judge` of the peer transport. Belongs to one event loop."""

    def __init__(
        self,
        path: Path,
        cluster_id: int,
        memory: PeerMemory,
        evidence: Callable[[int], Evidence],
        on_fatal: Callable[[Exception], None],
        disk: Disk,
    ) -> None:
        self.memory = memory
        self._disk = disk
        self._path = path
        self._cluster_id = cluster_id
        self._evidence = evidence
        self._on_fatal = on_fatal
        self._closed = False
        self._saving: asyncio.Future[None] | None = None  # the write under way
        self._waiting: asyncio.Future[None] | None = None  # the one after it, for what came too late for it

    @classmethod
    def open(
        cls,
        path: Path,
        cluster_id: int,
        *,
        evidence: Callable[[int], Evidence],
        on_fatal: Callable[[Exception], None],
        disk: Disk | None = None,
    ) -> "PeerRegister":
        """Read the file. Without it, or when it is damaged, nothing is remembered: that refuses nobody.

        ``evidence`` says what the replicated state knows of a member. ``on_fatal`` is called when the file cannot be
        written. Raises `StorageError` when it cannot be read.
        """
        disk = OsDisk() if disk is None else disk
        try:
            memory = PeerMemory.decode(read_durably(path, disk=disk), cluster_id)
        except FileNotFoundError:
            memory = PeerMemory()
        except DamagedMemory as error:
            log.warning("what was remembered of the other members is lost", file=str(path), reason=str(error))
            memory = PeerMemory()
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}") from error
        return cls(path, cluster_id, memory, evidence, on_fatal, disk)

    def judge(self, claim: PeerClaim) -> "Refusal | asyncio.Future[None] | None":
        """See `rpc.peer_door.Judge`."""
        refusal = self.memory.judge(claim, self._evidence(claim.member_id))
        if refusal is not None:
            return refusal
        if self.memory.note(claim):
            return self._save()
        return self._waiting or self._saving  # it may be this member's claim that is being written

    def _save(self) -> "asyncio.Future[None]":
        loop = asyncio.get_running_loop()
        if self._saving is None:
            self._saving = loop.create_future()
            self._saving.add_done_callback(_retrieve)
            self._write(self._saving)
            return self._saving
        if self._waiting is None:
            self._waiting = loop.create_future()
            self._waiting.add_done_callback(_retrieve)
        return self._waiting

    def _write(self, done: "asyncio.Future[None]") -> None:
        content = self.memory.encode(self._cluster_id)
        write = asyncio.get_running_loop().run_in_executor(
            None, partial(write_file, self._path, content, disk=self._disk, temporary=_TEMPORARY)
        )
        write.add_done_callback(partial(self._written, done))

    def _written(self, done: "asyncio.Future[None]", write: "asyncio.Future[None]") -> None:
        error = None if write.cancelled() else write.exception()
        if write.cancelled() or error is not None:
            failure = StorageError(
                f"cannot write {self._path}: {getattr(error, 'strerror', None) or error or 'interrupted'}",
                hint="without it this member would not recognise a member that lost its memory; free space or check "
                "the disk, then start it again",
            )
            done.set_exception(failure)
            if self._waiting is not None:
                self._waiting.set_exception(failure)
            self._saving = self._waiting = done  # until the member has stopped nobody is let in any more
            self._on_fatal(failure)
            return
        done.set_result(None)
        self._saving, self._waiting = self._waiting, None
        if self._saving is not None and not self._closed:
            self._write(self._saving)

    def close(self) -> None:
        """Write nothing more: the member stops, and lets nobody in any more."""
        self._closed = True


def _retrieve(future: "asyncio.Future[None]") -> None:
    """A failure is reported once, by `on_fatal`; asyncio need not complain that nobody asked for it."""
    if not future.cancelled():
        future.exception()


def forgotten(accuser: str, member_id: int, refusal: Refusal) -> Forgotten:
    """What a member tells its operator when ``accuser`` has refused it for what it is."""
    remove = f"`plasma chainfire member remove {member_id:x}`"
    if refusal.code is RefusalCode.REMOVED:
        return Forgotten(
            f"this member was removed from the cluster, says {accuser}: {refusal.reason}",
            hint="to bring this machine back: `plasma chainfire member add` on the cluster, then start it with an "
            "empty --data-dir and --join",
        )
    return Forgotten(
        f"this member must not take part: {accuser} refuses it: {refusal.reason}. It may have forgotten votes and "
        "writes that the cluster relies on",
        hint=f"on the other members: {remove}; then start this one with an empty --data-dir and --join ADDRESS. "
        "Or put the newest copy of its data directory back, if it still exists",
    )
