"""Odd packets are taken apart, one after another, in scapy's process.

Responsible for asking; `daemoneye_sensor.packets.oddities` chooses them and tells what came of it, the dissector has a budget of its own.
"""

from __future__ import annotations

import asyncio

from daemoneye_sensor.dissector import Dissector
from daemoneye_sensor.packets.oddities import RAW_IP, Oddities


async def run(dissector: Dissector, oddities: Oddities) -> None:
    """Take them apart until cancelled. One that scapy says nothing of is told without layers: that it was odd is news all the same."""
    loop, some = asyncio.get_running_loop(), asyncio.Event()
    # Packets may be read in another thread.
    oddities.woken = lambda: loop.call_soon_threadsafe(some.set)
    try:
        while True:
            some.clear()
            while (oddity := oddities.take()) is not None:
                answer = await dissector.dissect(oddity.packet(), RAW_IP)
                oddities.tell(oddity, answer["layers"] if answer else ())
            await some.wait()
    finally:
        oddities.woken = lambda: None
