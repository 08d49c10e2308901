"""What a fault is: a name, an injection that records proof, and a way back.

Without proof that a fault landed, a good result means nothing: the judge then says INCONCLUSIVE, never PASS.
"""

from abc import ABC, abstractmethod

from plasmacloud.lab.rig import Rig


class Fault(ABC):
    """One fault on one cluster."""

    name: str

    @abstractmethod
    async def inject(self, rig: Rig) -> int:
        """Apply the fault; records FaultInjected and FaultProof. Returns the monotonic time of the injection in ns."""

    @abstractmethod
    async def undo(self, rig: Rig) -> None:
        """Take the fault away again; nothing happens when it has gone by itself."""
