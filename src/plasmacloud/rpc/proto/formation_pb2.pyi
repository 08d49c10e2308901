from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Founder(_message.Message):
    __slots__ = ("name", "peer", "client")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    name: str
    peer: str
    client: str
    def __init__(self, name: _Optional[str] = ..., peer: _Optional[str] = ..., client: _Optional[str] = ...) -> None: ...

class FormationReport(_message.Message):
    __slots__ = ("sender", "expect", "known", "proposed", "promised", "member")
    SENDER_FIELD_NUMBER: _ClassVar[int]
    EXPECT_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    PROPOSED_FIELD_NUMBER: _ClassVar[int]
    PROMISED_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    sender: Founder
    expect: int
    known: _containers.RepeatedCompositeFieldContainer[Founder]
    proposed: _containers.RepeatedCompositeFieldContainer[Founder]
    promised: _containers.RepeatedCompositeFieldContainer[Founder]
    member: bool
    def __init__(self, sender: _Optional[_Union[Founder, _Mapping]] = ..., expect: _Optional[int] = ..., known: _Optional[_Iterable[_Union[Founder, _Mapping]]] = ..., proposed: _Optional[_Iterable[_Union[Founder, _Mapping]]] = ..., promised: _Optional[_Iterable[_Union[Founder, _Mapping]]] = ..., member: _Optional[bool] = ...) -> None: ...
