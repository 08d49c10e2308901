"""What the tests of the command line share: how to run it, and where the real servers are found."""

import sys
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

sys.path.insert(0, str(Path(__file__).parent.parent / "client"))
sys.path.insert(0, str(Path(__file__).parent.parent / "chainfire"))
from etcd_process import ChainFire, Etcd, Store, etcd_binary

Plasma = Callable[..., Result]

__all__ = ["ChainFire", "Etcd", "Plasma", "Store", "etcd_binary"]
