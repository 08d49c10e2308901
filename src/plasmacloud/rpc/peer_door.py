"""The door of the transport between members: who may come in, and when the first word may be said.

Both sides of a connection are judged in its handshake, before a frame passes: the caller by its HELLO, the member that
answers by its WELCOME. First come the facts of the protocol (version, cluster, member ids), with TLS the certificate
(`peer_passport`), then the `Judge`, who knows the members, remembers the other side's earlier lives and may need a
moment to make a new one durable.

Settling: a member that was just started may itself be the one that nobody should talk to, and only some of its peers
may know. So what is let in is *held*, silent in both directions, until every peer has given its verdict or is known to
be out of reach; a member that one reachable peer refuses has not voted with the help of another one meanwhile.
"""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeAlias

import msgspec

from plasmacloud.base.logging import get_logger
from plasmacloud.rpc.peer_link import IncomingLink, OutgoingLink, PeerLink
from plasmacloud.rpc.peer_notes import OncePerReason
from plasmacloud.rpc.peer_wire import Hello, Identity, PeerClaim, Refusal, Welcome

Judge: TypeAlias = Callable[[PeerClaim], "Refusal | asyncio.Future[None] | None"]
"""May this member be who it says it is? None: yes. A refusal: no. A future: yes, once it is done without an error."""

log = get_logger("peer")


class Door:
    """Lets members in or says why not; keeps those let in waiting while the own member settles."""

    def __init__(
        self, identity: Identity, judge: Judge | None, logged: OncePerReason, opened: Callable[[PeerLink], None]
    ) -> None:
        """``opened`` is called with every link that was let in, when frames may pass."""
        self.removed: set[int] = set()  # members that are told so
        self._identity = identity
        self._judge = judge
        self._logged = logged
        self._opened = opened
        self._awaited: set[int] = set()  # members whose first answer is not there yet
        self._held: dict[PeerLink, None] = {}

    # Verdicts

    def greeted(self, link: IncomingLink, hello: Hello) -> None:
        """Decide about a caller."""
        verdict = self._identity.judge_hello(hello, sender_removed=hello.member_id in self.removed)
        if not isinstance(verdict, Refusal) and link.passport is not None:
            verdict = link.passport.refusal(hello.name) or verdict
        if isinstance(verdict, Refusal):
            self._refuse(link, hello.name, verdict)
        else:
            self._admit(link, hello.claim, hello.name, partial(link.accept, verdict))

    def welcomed(self, link: OutgoingLink, welcome: Welcome) -> None:
        """Decide about a member that answered our call."""
        refusal = None if link.passport is None else link.passport.refusal(None)
        if refusal is not None:
            self._refuse(link, "", refusal)
        else:
            self._admit(link, welcome.claim, "", partial(link.accept, welcome))

    def _admit(self, link: PeerLink, claim: PeerClaim, name: str, accept: Callable[[], None]) -> None:
        if link.passport is not None:
            claim = msgspec.structs.replace(claim, certified=link.passport.name)
        verdict = None if self._judge is None else self._judge(claim)
        if verdict is None:
            accept()
        elif isinstance(verdict, Refusal):
            self._refuse(link, name, verdict)
        else:
            verdict.add_done_callback(partial(_remembered, link, accept))

    def _refuse(self, link: PeerLink, name: str, refusal: Refusal) -> None:
        if self._logged.is_new(link.member_id, "refused", refusal):
            member = f"{link.member_id:016x}"
            log.warning("refused a peer", member=member, name=name, address=link.remote, reason=refusal.reason)
        link.refuse(refusal)

    # Settling

    def wait_for(self, members: Iterable[int]) -> None:
        """Hold what is let in until each of these was `heard_from`."""
        self._awaited = set(members)

    def heard_from(self, member_id: int) -> None:
        """The member has given its verdict, or cannot be reached."""
        if member_id in self._awaited:
            self._awaited.remove(member_id)
            if not self._awaited:
                self.settle()

    def let_in(self, link: PeerLink) -> None:
        """The handshake succeeded: open now, or when settled."""
        if not self._awaited:
            self._opened(link)
            return
        self._held[link] = None
        if isinstance(link, IncomingLink):
            link.pause()

    def settle(self) -> None:
        """Wait no longer: frames flow."""
        self._awaited.clear()
        held, self._held = self._held, {}
        for link in held:
            if not link.over:
                self._opened(link)
                if isinstance(link, IncomingLink):
                    link.resume()

    def holds(self, link: PeerLink) -> bool:
        """Whether the link was let in and nobody knows of it yet."""
        return link in self._held

    def drop(self, member_id: int) -> None:
        """End what is held of this member."""
        for link in self._held:
            if link.member_id == member_id:
                link.give_up()

    def forget(self, link: PeerLink) -> None:
        """The link does not exist any more."""
        self._held.pop(link, None)


def _remembered(link: PeerLink, accept: Callable[[], None], future: "asyncio.Future[None]") -> None:
    """What the other side claims is durable now, or could not be made so."""
    failed = future.cancelled() or future.exception() is not None
    if link.over:
        return
    if failed:
        link.lose("its identity could not be written to disk here")
    else:
        accept()
