"""Takes in the keys that operators create, change and revoke, while the service runs.

Requests only ever see a snapshot in memory. The file is looked at twice a second in a thread of its own, so a change by
another process of the same data folder holds within a second.
"""

from __future__ import annotations

import asyncio
import logging

from registry.api_key_table import ApiKeysError
from registry.api_keys import ApiKeys
from service.budgets import Budgets
from service.limits import Limits

logger = logging.getLogger("tokamak.keys")

POLL_S = 0.5


class KeyWatch:
    """Keeps limits and budgets at the newest revision of the file of keys."""

    def __init__(self, store: ApiKeys, limits: Limits, budgets: Budgets) -> None:
        self.store = store
        self._limits = limits
        self._budgets = budgets
        self._revision = 0
        self._told: str | None = None
        self._taking_in = asyncio.Lock()

    async def take_in(self) -> None:
        """Take in what has changed. Raises ApiKeysError, and then the keys of before go on."""
        async with self._taking_in:
            found = await asyncio.to_thread(self.store.read, self._revision)
            if found is None:
                return
            self._limits.take_in(found.keys)
            self._budgets.take_in(found.keys)
            self._revision = found.revision

    async def run(self) -> None:
        """Take in every change, for ever."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self.take_in()
            except ApiKeysError as error:
                if str(error) != self._told:
                    logger.error("%s; the keys of before go on", error)
                self._told = str(error)
            else:
                self._told = None
