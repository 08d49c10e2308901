"""The multi-version store: etcd v3 KV semantics as a plain object.

Nothing here opens a file, reads a clock or awaits: requests go in, serialized replies come out, and what must become
durable leaves as a checkpoint. The same code therefore runs in production, in the simulator and in the tests.
"""
