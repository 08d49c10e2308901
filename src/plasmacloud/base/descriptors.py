"""How many files and connections this process may have open.

Whoever uses the last descriptor of a member takes it from the member's log and from the other members. So the limit is
raised as far as that is allowed, and clients get what is left beside a reserve.
"""

import resource

_RESERVE = 256
"""For the log, the state, the other members, snapshots, and connections that are being refused."""


def raise_descriptor_limit() -> int:
    """Raise the limit of open files to the hard limit (``man 2 getrlimit``); returns what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # a hard limit above what the kernel grants
            return soft
    return hard


def connections_within(descriptors: int, wanted: int) -> int:
    """How many connections of clients, at most ``wanted``, leave the process enough of so many descriptors."""
    return max(1, min(wanted, descriptors - min(_RESERVE, descriptors // 2)))
