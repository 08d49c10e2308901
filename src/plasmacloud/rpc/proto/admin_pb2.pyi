from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VOTER: _ClassVar[Role]
    LEARNER: _ClassVar[Role]
    LEAVING: _ClassVar[Role]
VOTER: Role
LEARNER: Role
LEAVING: Role

class MembersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MembersResponse(_message.Message):
    __slots__ = ("cluster_id", "member_id", "leader_id", "raft_term", "last_index", "commit_index", "from_leader", "joint", "members", "founding", "election_timeout_ms", "configured_election_timeout_ms")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    LEADER_ID_FIELD_NUMBER: _ClassVar[int]
    RAFT_TERM_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    COMMIT_INDEX_FIELD_NUMBER: _ClassVar[int]
    FROM_LEADER_FIELD_NUMBER: _ClassVar[int]
    JOINT_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    FOUNDING_FIELD_NUMBER: _ClassVar[int]
    ELECTION_TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    CONFIGURED_ELECTION_TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    cluster_id: int
    member_id: int
    leader_id: int
    raft_term: int
    last_index: int
    commit_index: int
    from_leader: bool
    joint: bool
    members: _containers.RepeatedCompositeFieldContainer[MemberProgress]
    founding: bytes
    election_timeout_ms: int
    configured_election_timeout_ms: int
    def __init__(self, cluster_id: _Optional[int] = ..., member_id: _Optional[int] = ..., leader_id: _Optional[int] = ..., raft_term: _Optional[int] = ..., last_index: _Optional[int] = ..., commit_index: _Optional[int] = ..., from_leader: _Optional[bool] = ..., joint: _Optional[bool] = ..., members: _Optional[_Iterable[_Union[MemberProgress, _Mapping]]] = ..., founding: _Optional[bytes] = ..., election_timeout_ms: _Optional[int] = ..., configured_election_timeout_ms: _Optional[int] = ...) -> None: ...

class MemberProgress(_message.Message):
    __slots__ = ("id", "name", "peer_urls", "client_urls", "role", "started", "state", "active", "match_index", "lag_entries", "lag_bytes", "last_contact_ms", "promote", "replaces", "join")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PEER_URLS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_URLS_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    MATCH_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAG_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    LAG_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAST_CONTACT_MS_FIELD_NUMBER: _ClassVar[int]
    PROMOTE_FIELD_NUMBER: _ClassVar[int]
    REPLACES_FIELD_NUMBER: _ClassVar[int]
    JOIN_FIELD_NUMBER: _ClassVar[int]
    id: int
    name: str
    peer_urls: _containers.RepeatedScalarFieldContainer[str]
    client_urls: _containers.RepeatedScalarFieldContainer[str]
    role: Role
    started: bool
    state: str
    active: bool
    match_index: int
    lag_entries: int
    lag_bytes: int
    last_contact_ms: int
    promote: bool
    replaces: int
    join: Join
    def __init__(self, id: _Optional[int] = ..., name: _Optional[str] = ..., peer_urls: _Optional[_Iterable[str]] = ..., client_urls: _Optional[_Iterable[str]] = ..., role: _Optional[_Union[Role, str]] = ..., started: _Optional[bool] = ..., state: _Optional[str] = ..., active: _Optional[bool] = ..., match_index: _Optional[int] = ..., lag_entries: _Optional[int] = ..., lag_bytes: _Optional[int] = ..., last_contact_ms: _Optional[int] = ..., promote: _Optional[bool] = ..., replaces: _Optional[int] = ..., join: _Optional[_Union[Join, _Mapping]] = ...) -> None: ...

class Join(_message.Message):
    __slots__ = ("percent", "entries_per_second", "eta_ms", "rounds_done", "rounds_needed", "expires_in_ms")
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    ETA_MS_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_DONE_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_NEEDED_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_IN_MS_FIELD_NUMBER: _ClassVar[int]
    percent: int
    entries_per_second: float
    eta_ms: int
    rounds_done: int
    rounds_needed: int
    expires_in_ms: int
    def __init__(self, percent: _Optional[int] = ..., entries_per_second: _Optional[float] = ..., eta_ms: _Optional[int] = ..., rounds_done: _Optional[int] = ..., rounds_needed: _Optional[int] = ..., expires_in_ms: _Optional[int] = ...) -> None: ...

class AddMemberRequest(_message.Message):
    __slots__ = ("peer_urls", "name", "learner", "replaces")
    PEER_URLS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    LEARNER_FIELD_NUMBER: _ClassVar[int]
    REPLACES_FIELD_NUMBER: _ClassVar[int]
    peer_urls: _containers.RepeatedScalarFieldContainer[str]
    name: str
    learner: bool
    replaces: int
    def __init__(self, peer_urls: _Optional[_Iterable[str]] = ..., name: _Optional[str] = ..., learner: _Optional[bool] = ..., replaces: _Optional[int] = ...) -> None: ...

class AddMemberResponse(_message.Message):
    __slots__ = ("member", "members")
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    member: MemberProgress
    members: MembersResponse
    def __init__(self, member: _Optional[_Union[MemberProgress, _Mapping]] = ..., members: _Optional[_Union[MembersResponse, _Mapping]] = ...) -> None: ...
