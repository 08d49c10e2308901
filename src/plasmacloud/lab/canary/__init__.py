"""The canary's server: a small replicated store that is WRONG on purpose. Never use it for anything else.

It speaks enough of the etcd v3 API for the lab, elects a leader, forwards writes, replicates and recovers, and looks
healthy in every demonstration. But it acknowledges a write when it is in one process's memory: replication follows up
to 50 ms later, the disk up to 200 ms later. Kill the leader, or everything, under load, and acknowledged writes are
gone. A lab that does not find them is broken.

With ``--stale-reads`` it has one more defect, and shows it without any fault: a follower answers a linearizable read
from what it happens to have. Only contended keys tell.
"""
