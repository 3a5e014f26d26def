"""Configurations on their way to the nodes and to analytics.

Responsible for writing what differs, configurations before the pointers to them, and for removing what nobody points to any more; not for what
they say (`reconcile`).
"""

from __future__ import annotations

import time
from typing import Final

from daemoneye import subjects
from daemoneye.nodeconfig import NodePointer
from daemoneye.subjects import ANALYTICS_CONFIG, CONFIGS_BUCKET, NODES_BUCKET
from daemoneye_operator.bus import Bus
from daemoneye_operator.reconcile.selection import Plan
from daemoneye_operator.together import together

_UNUSED_S: Final = 120.0
"""How long a configuration stays after the last pointer to it: a sensor may be between reading the two."""


class ConfigPublisher:
    """What the broker holds, as far as we know; after each connection everything is looked at and written anew, for it may have lost it."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._connection = -1
        self._configs: dict[str, float] = {}
        self._used: frozenset[str] = frozenset()
        self._pointers: dict[str, str] = {}
        self._analytics: bytes | None = None

    async def publish(self, plan: Plan, analytics: bytes) -> None:
        """Bring the broker to this plan and this document of analytics'.

        Raises:
            TRANSIENT: The broker did not take all of it; what it took is remembered.
        """
        now = time.monotonic()
        if self._connection != self._bus.connections:
            await self._look(now)
        for used in self._used & self._configs.keys():
            self._configs[used] = now  # its time begins when it falls out of use, which may be just now
        # Room first: a full bucket takes nothing new.
        unused = [h for h, used in self._configs.items() if h not in plan.configs and now - used > _UNUSED_S]
        await together(self._remove_config(h) for h in unused)
        await together(
            self._put_config(h, plan.configs[h].encode(), now) for h in plan.configs.keys() - self._configs.keys()
        )
        for used in plan.configs:
            self._configs[used] = now
        self._used = frozenset(plan.configs)
        if analytics != self._analytics:
            await self._bus.bucket(CONFIGS_BUCKET).write(ANALYTICS_CONFIG, analytics)
            self._analytics = analytics
        wanted = {subjects.node_config(node): config for node, config in plan.nodes.items()}
        await together(self._point(key, h) for key, h in wanted.items() if self._pointers.get(key) != h)
        await together(self._unpoint(key) for key in self._pointers.keys() - wanted.keys())

    async def _look(self, now: float) -> None:
        """Keys that a former operator wrote: they are written over, or removed."""
        connection = self._bus.connections
        self._pointers = dict.fromkeys(await self._bus.bucket(NODES_BUCKET).keys("*.config"), "")
        held = await self._bus.bucket(CONFIGS_BUCKET).keys("*")
        # Hashes name contents: what is there needs no second writing, and is as old as it was.
        self._configs = {key: self._configs.get(key, now) for key in held if key != ANALYTICS_CONFIG}
        self._analytics = None
        self._connection = connection

    async def _put_config(self, config_hash: str, data: bytes, now: float) -> None:
        await self._bus.bucket(CONFIGS_BUCKET).write(config_hash, data)
        self._configs[config_hash] = now

    async def _remove_config(self, config_hash: str) -> None:
        await self._bus.bucket(CONFIGS_BUCKET).remove(config_hash)
        del self._configs[config_hash]

    async def _point(self, key: str, config_hash: str) -> None:
        node = subjects.unescape_node(key.partition(".")[0])
        await self._bus.bucket(NODES_BUCKET).write(key, NodePointer(config_hash, node).encode())
        self._pointers[key] = config_hash

    async def _unpoint(self, key: str) -> None:
        await self._bus.bucket(NODES_BUCKET).remove(key)
        del self._pointers[key]
