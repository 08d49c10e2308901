"""Leader election on PostgreSQL advisory locks, and on leases of etcd or ChainFire.

::

    candidate = open_backend("postgres://db/app", node_id="n1", election="scheduler", on_change=print)
    async with asyncio.TaskGroup() as group:
        group.create_task(candidate.run())
        ...
        await candidate.stop()

`elector` decides and is pure; `postgres_candidate` and `etcd_candidate` carry out what it decides. `fencing` is the
part that other programs use: a guarded write is refused when a newer epoch exists, whatever any clock said.
"""
