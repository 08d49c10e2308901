"""An election's keys in etcd or ChainFire, and the fence on them.

::

    /plasmacloud/election/NAME/lock    the holder's id, under the holder's lease; gone when the lease is
    /plasmacloud/election/NAME/epoch   the id of the newest holder, for ever; its *version* is the epoch's number

Whoever finds no lock puts both in one transaction, so the epoch rises if and only if the lock is taken, by one each
time and without gaps. A guarded write is a transaction with one comparison more, `fence`::

    await client.txn(Txn().when(fence("scheduler", epoch)).then(put("job/7", "done")))

The store applies transactions one after the other, so nothing can come between the comparison and the write.
"""

from plasmacloud.client.ops import Compare, version
from plasmacloud.election.leadership import Epoch

PREFIX = "/plasmacloud/election"
TIMELINE = 0
"""A replicated store has one history; epochs that it hands out carry this timeline."""


def lock_name(election: str) -> str:
    """The key that exists while somebody leads."""
    return f"{PREFIX}/{election}/lock"


def epoch_name(election: str) -> str:
    """The key whose version is the newest epoch's number."""
    return f"{PREFIX}/{election}/epoch"


def fence(election: str, epoch: Epoch) -> Compare:
    """Holds while this epoch is the newest."""
    return version(epoch_name(election)) == epoch.number
