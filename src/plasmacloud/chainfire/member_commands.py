"""What the commands of a log entry are, and the bodies of those that are about the members.

The body of a client's command is its protobuf request, unchanged; see `commands` for how they travel.
"""

from collections.abc import Callable
from enum import IntEnum

import msgspec

from plasmacloud.base.address import Address


class CommandKind(IntEnum):
    """The request type of a command's body. Numbers are part of the log's format."""

    PUT = 1
    DELETE_RANGE = 2
    TXN = 3
    COMPACT = 4
    PUBLISH = 5
    """Not a client's: a member tells how clients reach it (`members.Publication`)."""
    MEMBER_ADD = 16
    MEMBER_REMOVE = 17
    MEMBER_UPDATE = 18
    MEMBER_PROMOTE = 19
    LEAVE_JOINT = 20
    """Not a client's: the leader ends the joint phase of a change. No body."""
    REFUSED = 22
    """What the leader makes of a membership command that only it can judge, and refuses: the number of the command
    is used up, nothing changes, and the member that asked learns why (`Refused`)."""


MEMBERSHIP_KINDS = frozenset(
    {
        CommandKind.MEMBER_ADD,
        CommandKind.MEMBER_REMOVE,
        CommandKind.MEMBER_UPDATE,
        CommandKind.MEMBER_PROMOTE,
        CommandKind.LEAVE_JOINT,
    }
)
"""Commands that belong into an entry of the membership kind."""


class AddMember(msgspec.Struct, frozen=True):
    """A new learner at ``peers``. With ``promote`` it becomes a voter as soon as it has caught up, and the member
    ``replaces`` (0: none) leaves in the same step."""

    peers: tuple[Address, ...]
    name: str = ""
    promote: bool = True
    replaces: int = 0


class RemoveMember(msgspec.Struct, frozen=True):
    """The member leaves for good; its id is never used again."""

    member_id: int


class UpdateMember(msgspec.Struct, frozen=True):
    """The member is reached at other addresses now."""

    member_id: int
    peers: tuple[Address, ...]


class PromoteMember(msgspec.Struct, frozen=True):
    """A learner becomes a voter."""

    member_id: int


class Refused(msgspec.Struct, frozen=True):
    """The leader's answer "no": gRPC status code and message."""

    code: int
    message: str


MemberCommand = AddMember | RemoveMember | UpdateMember | PromoteMember | Refused

MEMBER_COMMANDS: dict[int, type[MemberCommand]] = {
    CommandKind.MEMBER_ADD: AddMember,
    CommandKind.MEMBER_REMOVE: RemoveMember,
    CommandKind.MEMBER_UPDATE: UpdateMember,
    CommandKind.MEMBER_PROMOTE: PromoteMember,
    CommandKind.REFUSED: Refused,
}


def encode_member_command(command: MemberCommand) -> bytes:
    """The body of a membership command."""
    return msgspec.msgpack.encode(command)


def decode_member_command(kind: int, body: bytes) -> MemberCommand:
    """What `encode_member_command` wrote. Raises `msgspec.MsgspecError` on anything else."""
    return msgspec.msgpack.decode(body, type=MEMBER_COMMANDS[kind])


_CHANGE_LANE = 0x6368616E67657321


def change_origin(member_id: int) -> int:
    """The origin of a member's membership commands: they have a session of their own (see `lane`)."""
    return member_id ^ _CHANGE_LANE


def removes(kind: int, body: bytes, replaces: Callable[[int], int]) -> int:
    """The member that leaves when a command is executed; 0: none. ``replaces``: whom a learner does; 0: nobody."""
    if kind not in (CommandKind.MEMBER_REMOVE, CommandKind.MEMBER_PROMOTE):
        return 0
    try:
        command = decode_member_command(kind, body)
    except msgspec.MsgspecError:
        return 0
    assert isinstance(command, RemoveMember | PromoteMember)
    return command.member_id if isinstance(command, RemoveMember) else replaces(command.member_id)
