"""Deterministic simulation: whole clusters of real members in one process, under virtual time, from one seed.

What runs is the production code: consensus, log, snapshots, state machine, membership, forwarding, the transport with
its greetings. What it is given are another clock, another network and another disk (`plasmacloud.chainfire.environment`
and the event loop), and these do what the worst day does. ``docs/simulation.md`` explains how the parts fit together.
"""
