"""``python -m plasmacloud.lab.canary``: run one canary node."""

import argparse
import asyncio
import contextlib
from pathlib import Path

from plasmacloud.base.address import Address, parse_address
from plasmacloud.lab.canary.server import CanaryNode
from plasmacloud.lab.canary.store import Store
from plasmacloud.rpc.server import Server


async def serve(node: CanaryNode, listen: Address) -> None:
    """Serve until killed."""
    await Server(node.services()).start(listen.host, listen.port)
    await node.run()


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(description="A store that is wrong on purpose; for testing the lab only.")
    parser.add_argument("--name", required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--stale-reads", action="store_true")
    given = parser.parse_args()
    members = dict(member.split("=", 1) for member in given.cluster.split(","))
    cluster = {name: parse_address(address) for name, address in members.items()}
    given.data_dir.mkdir(parents=True, exist_ok=True)
    store = Store(given.data_dir / "items.jsonl")

    async def run() -> None:
        await serve(CanaryNode(given.name, cluster, store, stale_reads=given.stale_reads), parse_address(given.listen))

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run())


if __name__ == "__main__":
    main()
