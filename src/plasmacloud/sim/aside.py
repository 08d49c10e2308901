"""Requests that no client makes: they fill the log of a member at a moment of our choice, and nobody waits for them."""

from plasmacloud.chainfire.member_commands import CommandKind, UpdateMember, encode_member_command
from plasmacloud.rpc.proto import rpc_pb2
from plasmacloud.rpc.status import StatusCode
from plasmacloud.sim.node import Node


class _Nobody:
    """Waits for nothing."""

    done = False

    def reply(self, _body: bytes) -> None:
        """It was executed."""

    def fail(self, _code: StatusCode, _message: str) -> None:
        """It was not, or nobody knows."""


def write_aside(node: Node, number: int) -> None:
    """Let a member write something that no client asks for."""
    member, life = node.member, node.life
    if member is not None and life is not None:
        body = rpc_pb2.PutRequest(key=b"flood", value=b"%d" % number).SerializeToString()
        life.loop.enter(member.replica.submit, CommandKind.PUT, body, _Nobody())


def change_aside(node: Node) -> None:
    """Let a member ask for a change of the membership that changes nothing: the same addresses once more."""
    member, life = node.member, node.life
    mine = None if member is None else member.machine.cluster.get(node.member_id)
    if member is not None and life is not None and mine is not None and mine.peers:
        body = encode_member_command(UpdateMember(node.member_id, mine.peers))
        life.loop.enter(member.replica.submit, CommandKind.MEMBER_UPDATE, body, _Nobody())
