"""A stand-in for the sensor: publishes as many batches of one exec as the node's name says (`node-3`), then waits.

When replaying it ends then. A node called `crash-…` dies at its first start, `lack-…` says that the machine lacks
something, `tick-…` goes on publishing one batch at a time.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import nats

from daemoneye import subjects
from daemoneye.envelope import Envelope, encode
from daemoneye.events.codec import section_of
from daemoneye.events.registry import BY_NAME


def batch(node: str, sequence: int) -> bytes:
    values = {
        "time": 1_000 + sequence,
        "pid": 4_000 + sequence,
        "process_uid": sequence + 1,
        "exe": [b"/bin/\x1b[31mred"],
        "argv": [b"red\0\x1b]0;title\x07\0"],
    }
    envelope = Envelope(node, "boot", 7, "urgent", sequence, 1, 1_700_000_000_000_000_000)
    return encode(envelope, [section_of(BY_NAME["process_exec"], values, 1)])


async def ignore(_: Exception) -> None:
    pass


async def main(config: dict) -> int:
    node, count = config["node"], int(config["node"].rpartition("-")[2])
    if node.startswith("lack-"):
        print("daemoneye-sensor: no BTF here (fix: another kernel)", file=sys.stderr)
        return 3
    mark = Path(config["state_dir"] + ".crashed")
    if node.startswith("crash-") and not mark.exists():
        mark.touch()
        print("WARNING about to crash", file=sys.stderr)
        return 1
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    access = config["nats"]
    client = await nats.connect(
        access["url"],
        user=access["user"],
        password=access["password"],
        inbox_prefix=f"{access['inbox_prefix']}.{subjects.escape_node(node)}",
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.1,
        error_cb=ignore,
    )

    async def say(state: str) -> None:
        status = {"state": state, "epoch": 7, "sequences": {"urgent": count}}
        await client.publish(subjects.status(node), json.dumps(status).encode())

    await say("ready")

    async def publish(sequence: int) -> None:
        subject, headers = subjects.events(0, node, "urgent"), {"Nats-Msg-Id": f"{os.getpid()}-{sequence}"}
        while True:
            try:
                await client.jetstream(timeout=1).publish(subject, batch(node, sequence), headers=headers)
            except nats.errors.Error:
                await asyncio.sleep(0.1)
            else:
                return

    for sequence in range(count):
        await publish(sequence)
    if config["source"] == "replay":
        await say("finished")
    else:
        while not stop.is_set():
            await say("ready")
            if node.startswith("tick-"):
                await publish(count)
                count += 1
            try:
                await asyncio.wait_for(stop.wait(), 0.1)
            except TimeoutError:
                continue
    await client.close()
    return 0


sys.exit(asyncio.run(main(json.loads(Path(sys.argv[2]).read_text()))))
