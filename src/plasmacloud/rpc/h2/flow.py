"""The receive windows (RFC 9113 section 5.2): what the peer may still send, credited back in batches."""

from plasmacloud.rpc.h2.errors import ConnectionFault, ErrorCode, StreamFault


class ReceiveWindow:
    """One receive window of ``size_bytes``; stream 0 is the connection.

    ``received`` counts bytes off; ``release`` says which of them no longer occupy memory. ``take_update`` hands out
    the credit once half a window has been released, so that updates are few and the sender never stalls on a
    reader that keeps up: what is neither held nor released is always less than half the window.
    """

    __slots__ = ("_limit_bytes", "_outstanding", "_released", "_size_bytes", "_stream_id")

    def __init__(self, stream_id: int, size_bytes: int, *, overrun_bytes: int = 0) -> None:
        """``overrun_bytes``: what a peer that has not yet seen our SETTINGS may take the window to be."""
        self._stream_id = stream_id
        self._size_bytes = size_bytes
        self._limit_bytes = max(size_bytes, overrun_bytes)
        self._outstanding = 0  # received and not yet credited back
        self._released = 0

    def received(self, size: int) -> None:
        """Raises the fault that RFC 9113 section 6.9.1 asks for if the peer overran the window."""
        self._outstanding += size
        if self._outstanding > self._limit_bytes:
            message = f"stream {self._stream_id}: {self._outstanding} bytes sent into a window of {self._size_bytes}"
            if self._stream_id:
                raise StreamFault(self._stream_id, ErrorCode.FLOW_CONTROL_ERROR, message)
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, message)

    def release(self, size: int) -> None:
        self._released += size
        assert self._released <= self._outstanding

    def take_update(self) -> int:
        """The increment to announce now; 0 while it is not worth a frame."""
        increment = self._released
        if increment * 2 < self._size_bytes:
            return 0
        self._released = 0
        self._outstanding -= increment
        return increment
