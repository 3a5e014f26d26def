"""An older analytics beside newer sensors: it reads what it knows by the descriptors on the broker, and says what it does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.aio.msg import Msg

from daemoneye import subjects
from daemoneye.events.flags import Flag
from daemoneye_operator.reconcile import analytics
from tests.support.analytics import Bench
from tests.support.newer import ADDED, NEWER, descriptor, message
from tests.support.ports import free_port
from tests.unit.analytics.factory import Exec
from tests.unit.operator.factory import policy

pytestmark = pytest.mark.integration


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """With the permissions of its role alone."""
    made = Bench(tmp_path, free_port(), cluster=True, health=free_port())
    await made.start_broker()
    await made.connect()
    await made.add_cluster_streams()
    await made.configure(analytics.encode(analytics.document([policy("everywhere")])))
    try:
        yield made
    finally:
        await made.close()


def fileless(number: int) -> Exec:
    return Exec(exe=b"/memfd:%d" % number, pid=1000 + number, start=number + 1, time=number + 2, flags=Flag.MEMFD)


async def announce(bench: Bench, schema: str, data: bytes) -> None:
    await bench.jetstream.publish(subjects.schemas(schema), data)


async def test_what_is_known_is_judged_and_what_is_not_is_said_and_counted(bench: Bench) -> None:
    for record in (NEWER, ADDED):
        await announce(bench, record.hash, descriptor(record))
    await bench.start()
    await bench.publish(message([fileless(0)], first=0, things=2))
    await bench.publish(message([fileless(3)], first=3))
    await bench.publish(message([], first=4, things=4))
    await bench.judged(8)
    assert [f["subject"]["exe"] for f in await bench.findings()] == ["/memfd:0", "/memfd:3"]
    said = bench.status[-1]
    assert (said["events"], said["unread"], said["corrupt"]) == (8, 6, 0)
    assert set(said["newer_schemas"]) == {f"process_exec {NEWER.hash}", f"thing_done {ADDED.hash}"}
    assert bench.log.count("sensors of a newer release write schema") == 2
    assert "not read: mood, mood_reason, mood_a, mood_b; not there, and 0 or empty here: exe_uid, argv" in bench.log
    assert f"{ADDED.hash} of 'thing_done': this release does not know the record" in bench.log


async def test_without_a_good_descriptor_it_stays_refused_and_holds_nothing_up(bench: Bench) -> None:
    await announce(bench, NEWER.hash, descriptor(ADDED))
    asked = []

    async def note(request: Msg) -> None:
        asked.append(request.subject)

    assert bench.client
    looking = await bench.client.subscribe(f"$JS.API.DIRECT.GET.{subjects.SCHEMAS}.>", cb=note)
    await bench.start()
    await bench.publish(message([fileless(0)], first=0))
    for _ in range(20):
        await bench.publish(message([], first=1, things=1))
    await bench.eventually(lambda: bench.status and bench.status[-1]["corrupt"] == 21)
    assert len(asked) == 2, "once for each schema, not for each batch"
    await looking.unsubscribe()
    assert "what the broker has as the descriptor of schema" in bench.log
    assert bench.status[-1]["newer_schemas"] == []
    for record in (NEWER, ADDED):
        await announce(bench, record.hash, descriptor(record))
    assert await bench.end() == 0
    await bench.start()
    await bench.publish(message([fileless(2)], first=2, things=1))
    await bench.judged(4)
    assert [f["subject"]["exe"] for f in await bench.findings()] == ["/memfd:2"]
