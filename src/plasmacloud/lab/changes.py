"""Waiting for what others observe: a condition is looked at anew whenever something has changed."""

import asyncio
from collections.abc import Callable


class Changes:
    """One who observes tells, any number wait."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def tell(self) -> None:
        """Something has changed."""
        self._changed.set()

    async def until(self, condition: Callable[[], bool], *, timeout: float) -> bool:
        """Wait until ``condition`` holds; False: not within ``timeout`` seconds. What it raises ends the waiting."""
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True
