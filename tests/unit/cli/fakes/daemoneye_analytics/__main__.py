"""A stand-in for analytics: one finding for every event, and the watermark that the replay's end waits for."""

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import nats
from nats.errors import TimeoutError as NatsTimeout
from nats.js.api import ConsumerConfig

from daemoneye import subjects
from daemoneye.envelope import peek


async def ignore(_: Exception) -> None:
    pass


async def main(config: dict) -> int:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    access = config["nats"]
    client = await nats.connect(
        access["url"],
        user=access["user"],
        password=access["password"],
        inbox_prefix=access["inbox_prefix"],
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.1,
        error_cb=ignore,
    )
    stream = client.jetstream()
    status: dict[str, Any] = {"state": "ready", "watermarks": {}, "findings": 0, "events": 0, "lag": 0}
    durable = ConsumerConfig(durable_name="analytics", ack_wait=5)
    await stream.add_consumer(subjects.EVENTS(0), durable)
    consumer = await stream.pull_subscribe_bind("analytics", stream=subjects.EVENTS(0))
    while not stop.is_set():
        await client.publish(subjects.component("analytics"), json.dumps(status).encode())
        try:
            messages = await consumer.fetch(10, timeout=0.2)
        except (NatsTimeout, TimeoutError):
            continue
        for message in messages:
            envelope = peek(message.data)
            finding = {
                "id": f"f{envelope.first_sequence}", "time": "2026-01-02T03:04:05.000000006Z", "severity": "high",
                "score": 0.9, "detector": "fake", "title": "red \x1b[31m", "techniques": ["T1059"],
                "subject": {"workload": "host/systemd/x.service", "pid": 1, "exe": "/bin/\x1b[31mred"},
                "explanation": ["because \x1b]0;title\x07"], "confidence": 1.0, "events": [],
                "process_tree": [{"pid": 1, "exe": "/sbin/init", "argv": ["init"]}, {"pid": 2, "exe": "/bin/\x9b1m", "argv": ["\x1b[2J"]}],
            }  # fmt: skip
            await stream.publish(subjects.findings("high"), json.dumps(finding).encode())
            lanes = status["watermarks"].setdefault(envelope.node, {}).setdefault(str(envelope.epoch), {})
            lanes[envelope.lane] = envelope.next_sequence
            status["events"] += envelope.rows
            await message.ack()
    await client.close()
    return 0


sys.exit(asyncio.run(main(json.loads(Path(sys.argv[2]).read_text()))))
