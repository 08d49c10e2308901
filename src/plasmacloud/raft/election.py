"""Elections: pre-vote, vote, the hint of a lost connection, leadership transfer.

*Pre-vote* (Raft thesis §9.6): before it raises its term, a replica asks whether a quorum would vote for it. Nobody who
hears from a leader says yes, so a replica that was cut off, or restarts, disturbs nobody.

*Lost connection.* A process that dies closes its connections, long before an election timeout passes. The hint only
makes a follower forget its leader and ask for pre-votes; that changes nothing as long as a quorum still hears the
leader. Since all followers get the hint at nearly the same moment, they start in the order of their ids, some ticks
apart, and a pre-vote that was refused for no other reason than a leader is remembered for a short while and granted
when the own hint arrives. The hint weakens the leader lease, which here protects only against disturbance: reads are
never served on the strength of it.

*Transfer* (§3.10): the leader brings the target's log up to date and tells it to campaign at once; such a vote is
marked, and granted in spite of the lease. The word to campaign leaves right behind the last entries and names them, so
that it need not wait until they are acknowledged, and is void where they did not arrive.

*Who has a say.* A candidate asks the voters of the configuration that it has applied, and counts only them. Whoever is
asked answers, learner, stranger or removed: the asker's configuration may be newer than its own, and a vote does no
harm where it does not count. A learner never stands, nor does anybody who knows of a committed change of the membership
and has not applied it. Beyond that, requests and answers tell up to which entry the sender knows the log to be
committed. Otherwise a removed leader could block those who stay: they need its vote until they learn that the removal
is committed, and it refuses them, because its log ends with entries that it could not spread any more.

A candidate's vote for itself counts once it is durable, and nobody leads without it: else it would lead a term that its
disk does not know, and after a crash lead it again, differently. The requests leave at the same time, for they promise
nothing: a candidate that crashes has not won, and whoever voted for it has voted for its log. Only when the end of that
log is not durable either they wait: after a crash, votes for the longer log could be counted for the shorter one.
"""

import random
from typing import NamedTuple

from plasmacloud.raft.errors import NoLeader, TransferRefused
from plasmacloud.raft.log import StableLog
from plasmacloud.raft.membership import ConfState
from plasmacloud.raft.messages import Message, MessageType
from plasmacloud.raft.progress import Progress, ProgressState
from plasmacloud.raft.quorum import VoteResult
from plasmacloud.raft.replication import Replication
from plasmacloud.raft.state import Config, StateRole
from plasmacloud.storage.entry import EntryKind, HardState


class Deferred(NamedTuple):
    """A pre-vote request that was refused only because a leader was alive."""

    request: Message
    expires_tick: int


class Election(Replication):
    """How a replica becomes leader, and how it hands that over."""

    def __init__(
        self,
        config: Config,
        stable: StableLog,
        hard_state: HardState,
        conf: ConfState,
        applied: int,
        rng: random.Random,
    ) -> None:
        super().__init__(config, stable, hard_state, conf, applied, rng)
        self._deferred: dict[int, Deferred] = {}

    # -- standing --------------------------------------------------------------------------------------------------

    def campaign(self) -> None:
        """Stand for election now, as if the election timeout had passed. A leader or a non-voter does nothing."""
        self._campaign(pre_vote=self.config.pre_vote)

    def _campaign(self, *, pre_vote: bool, force: bool = False) -> None:
        if self.role is StateRole.LEADER or not self._promotable:
            return
        if self.log.has_unapplied_membership:
            self.leader_id = 0
            self._campaign_in(1, force=force)  # the configuration is outdated; see again a tick later
            return
        self._reset(self.term if pre_vote else self.term + 1)
        if pre_vote:
            self.role = StateRole.PRE_CANDIDATE
            self.tracker.record_vote(self.id, True)
            if self.tracker.tally() is VoteResult.WON:
                self._campaign(pre_vote=False)
                return
        else:
            self.role = StateRole.CANDIDATE
            self._give_vote(self.id)  # counted by _count_own_vote
        last, last_term = self.log.last_index, self.log.last_term
        requests = self._messages if pre_vote or self.log.is_durable else self._after_sync
        for member in sorted(self.tracker.conf.all_voters() - {self.id}):
            request = Message(
                MessageType.PRE_VOTE if pre_vote else MessageType.VOTE,
                member,
                self.id,
                self.term + 1 if pre_vote else self.term,
                log_term=last_term,
                index=last,
                force=force,
                commit=self.log.commit,
                hint_term=self.log.term(self.log.commit),
            )
            requests.append(request)

    def _campaign_in(self, ticks: int, *, force: bool = False) -> None:
        """Stand a little later, unless a leader is heard of before."""
        self._hint_countdown = ticks
        self._hint_force = force

    def _count_own_vote(self, term: int) -> None:
        """The candidacy of ``term`` is durable."""
        if self.role is StateRole.CANDIDATE and self.term == term:
            self.tracker.record_vote(self.id, True)
            self._decide()

    def _decide(self) -> None:
        result = self.tracker.tally()
        if result is VoteResult.LOST:
            self._become_follower(self.term, 0)
        elif result is VoteResult.WON:
            if self.role is StateRole.PRE_CANDIDATE:
                self._campaign(pre_vote=False)
            elif self.id in self.tracker.votes:
                self._become_leader()

    def _become_leader(self) -> None:
        assert self.role is StateRole.CANDIDATE
        assert self.vote == self.id
        self._reset(self.term)
        self.role = StateRole.LEADER
        self.leader_id = self.id
        own = self.tracker.progress[self.id]
        own.acknowledge(self.log.durable)
        own.become_replicate()
        own.recent_active = True
        self._term_start = self._append_own(EntryKind.EMPTY, b"")

    def _learn_commit(self, message: Message) -> None:
        """An entry that somebody knows to be committed is so for everybody who has it, whoever leads by now."""
        log = self.log
        if self.role is StateRole.LEADER or not log.matches(message.commit, message.hint_term):
            return
        if log.commit_to(message.commit) and self.role is not StateRole.FOLLOWER and log.has_unapplied_membership:
            self._become_follower(self.term, 0)
            self._campaign_in(1)

    def _on_vote_response(self, message: Message) -> None:
        self._learn_commit(message)
        if self.role is StateRole.CANDIDATE:
            self.tracker.record_vote(message.sender, not message.reject)
            self._decide()

    def _on_pre_vote_response(self, message: Message) -> None:
        self._learn_commit(message)
        # a grant carries the term that was asked for, a refusal the voter's own
        current = message.reject or message.term == self.term + 1
        if self.role is StateRole.PRE_CANDIDATE and current:
            self.tracker.record_vote(message.sender, not message.reject)
            self._decide()

    # -- voting ----------------------------------------------------------------------------------------------------

    def _answer_vote(self, kind: MessageType, to: int, term: int, *, reject: bool = False) -> Message:
        commit = self.log.commit
        return Message(kind, to, self.id, term, commit=commit, hint_term=self.log.term(commit), reject=reject)

    def _on_vote(self, message: Message) -> None:
        self._learn_commit(message)
        free = self.vote == message.sender or (self.vote == 0 and self.leader_id == 0)
        grant = free and self.log.is_up_to_date(message.index, message.log_term)
        if grant:
            self._give_vote(message.sender)
            self._election_elapsed = 0
            self._hint_countdown = 0
        answer = self._answer_vote(MessageType.VOTE_RESPONSE, message.sender, self.term, reject=not grant)
        self._after_sync.append(answer)

    def _on_pre_vote(self, message: Message) -> None:
        self._learn_commit(message)
        if message.term <= self.term or not self.log.is_up_to_date(message.index, message.log_term):
            self._refuse_pre_vote(message)
            if self._hint_countdown:  # the one ahead of us cannot win
                self._campaign(pre_vote=True)
            return
        self._grant_pre_vote(message)

    def _refuse_pre_vote(self, request: Message) -> None:
        answer = self._answer_vote(MessageType.PRE_VOTE_RESPONSE, request.sender, self.term, reject=True)
        self._messages.append(answer)

    def _grant_pre_vote(self, request: Message) -> None:
        if self._hint_countdown:  # let the one ahead of us try first
            self._campaign_in(self.config.election_ticks)
        self._messages.append(self._answer_vote(MessageType.PRE_VOTE_RESPONSE, request.sender, request.term))

    def _defer_pre_vote(self, request: Message) -> None:
        """Remember a request that a living leader forbids to grant."""
        if self.tracker.conf.is_voter(request.sender):
            expires = self._ticks + self.config.election_ticks
            self._deferred[request.sender] = Deferred(request, expires)

    # -- the hint of a lost connection -----------------------------------------------------------------------------

    def peer_lost(self, peer: int) -> None:
        """The connection with a member closed, which is what happens when its process dies.

        A follower whose leader that is asks for pre-votes soon. A leader probes the member. Anyone else does nothing.
        """
        if self.role is StateRole.LEADER:
            self.peer_unreachable(peer)
            if self._transferee == peer:
                self._transferee = 0
            return
        if self.role is not StateRole.FOLLOWER or peer == 0 or self.leader_id != peer:
            return
        self.leader_id = 0
        granted = self._grant_deferred(lost=peer)
        if not self._promotable:
            return
        rank = sorted(self.tracker.conf.all_voters() - {peer}).index(self.id)
        if granted:
            self._campaign_in(self.config.election_ticks)
        elif rank:
            self._campaign_in(rank * self.config.hint_stagger_ticks)
        else:
            self._campaign(pre_vote=True)

    def _grant_deferred(self, lost: int) -> bool:
        """Grant the remembered pre-votes that are still good; returns whether there were any."""
        granted = False
        for member, (request, expires_tick) in self._deferred.items():
            current = request.term > self.term and expires_tick > self._ticks and member != lost
            if current and self.log.is_up_to_date(request.index, request.log_term):
                self._grant_pre_vote(request)
                granted = True
        self._deferred.clear()
        return granted

    def peer_unreachable(self, peer: int) -> None:
        """A message to the member was dropped: go back to one append at a time until it answers a heartbeat."""
        if self.role is not StateRole.LEADER or peer == self.id:
            return
        progress = self.tracker.progress.get(peer)
        if progress is None:
            return
        if progress.state is ProgressState.REPLICATE:
            progress.become_probe(paused=True)
        elif progress.state is ProgressState.PROBE:
            progress.paused = True  # what a new leader has found out by probing is not forgotten
        self._not_quick(peer)

    # -- transfer --------------------------------------------------------------------------------------------------

    def transfer_leader(self, to: int) -> None:
        """Hand leadership to a voter. The leader refuses proposals until that is done or an election timeout passed.

        On a follower the request is forwarded. Raises `TransferRefused` if the member is no voter, `NoLeader`.
        """
        if self.role is not StateRole.LEADER:
            if not self.leader_id:
                raise NoLeader
            self._messages.append(Message(MessageType.TRANSFER_LEADER, self.leader_id, self.id, context=to))
            return
        if to not in self.tracker.conf.voters:
            raise TransferRefused(to)
        if to in (self.id, self._transferee):
            return
        self._transferee = to
        self._transfer_elapsed = 0
        self._pump()
        progress = self.tracker.progress[to]
        if progress.state is ProgressState.REPLICATE and progress.next > self.log.last_index:
            self._pass_on(to)  # it will arrive behind everything that the member needs
        self._sending_due = True

    def _on_transfer_leader(self, message: Message) -> None:
        if self.role is StateRole.LEADER and message.context in self.tracker.conf.voters:
            self.transfer_leader(message.context)

    def _bequeath(self) -> None:
        """A leader that was removed tells the voter with the longest log to stand, rather than leave it to timeouts."""
        voters = self.tracker.conf.voters
        heirs = [(each.match, each.heard_tick, member) for member, each in self.tracker.peers(self.id)]
        heir = max([heir for heir in heirs if heir[2] in voters], default=None)
        if heir is not None:
            self._messages.append(Message(MessageType.TIMEOUT_NOW, heir[2], self.id, self.term))

    def _after_progress(self, member: int, progress: Progress) -> None:
        if member == self._transferee and progress.match == self.log.last_index:
            self._pass_on(member)

    def _pass_on(self, to: int) -> None:
        """Tell the member to stand, if its log is as long as this one."""
        log = self.log
        self._messages.append(
            Message(MessageType.TIMEOUT_NOW, to, self.id, self.term, index=log.last_index, log_term=log.last_term)
        )

    def _on_timeout_now(self, message: Message) -> None:
        if message.index and not self.log.matches(message.index, message.log_term):
            return  # what it was sent behind is lost; it will be sent again
        if self.role is StateRole.FOLLOWER and self.leader_id in (0, message.sender):
            self._campaign(pre_vote=False, force=True)
