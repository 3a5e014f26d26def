"""Who is a sensor, and of which node: the broker as the operator configures it, the callout's process and a real API server, all with their own words.

What a sensor's credentials are good for, whatever is done with them; what happens without the callout or the API server; what a node's spool carries.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path

import nats.errors
import pytest
from nats.aio.msg import Msg

from daemoneye import subjects
from daemoneye.broker import values
from daemoneye.broker.bucket import Bucket
from daemoneye_operator import brokerconf
from daemoneye_operator.callout import decision
from tests.chart.chart import NAMESPACE
from tests.support.apiserver import ApiServer
from tests.support.broker import heard, until
from tests.support.callout import ACCOUNT, SENSOR
from tests.support.sensors import (
    AUDIENCE,
    CONFIGS,
    EVENTS,
    HASH,
    NODE,
    NODES,
    OTHER,
    STREAMS,
    Place,
    Pods,
    place_in,
    put,
)

pytestmark = pytest.mark.integration
POD = subjects.node_pod(NODE, "0a1b2c3d-0000-4000-8000-123456789abc")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, api: ApiServer, sensor_pods: Pods) -> Iterator[Place]:
    """For tests that break nothing."""
    with place_in(tmp_path_factory.mktemp("shared"), api, sensor_pods) as place:
        yield place


# ── what a token is good for ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_sensor_does_its_work(shared: Place):
    sensor, operator, identity = (
        await shared.sensor(),
        *[await shared.broker.connect(r) for r in ("operator", "identity")],
    )
    beats: asyncio.Queue[Msg] = asyncio.Queue()
    changes: asyncio.Queue[Msg] = asyncio.Queue()
    await operator.subscribe(f"{subjects.PREFIX}.status.*", cb=beats.put)
    await sensor.subscribe(subjects.key_value(NODES, f"{subjects.escape_node(NODE)}.>"), cb=changes.put)
    await heard(operator)
    await heard(sensor)
    async with asyncio.timeout(60):
        subject = subjects.events(0, NODE, "urgent")
        said = [await sensor.jetstream().publish(subject, b"1", headers={"Nats-Msg-Id": "once"}) for _ in range(2)]
        assert [(ack.stream, bool(ack.duplicate)) for ack in said] == [(EVENTS, False), (EVENTS, True)]
        assert (await sensor.jetstream().publish(subjects.schemas("ab"), b"{}")).stream == subjects.SCHEMAS
        await sensor.publish(subjects.status(NODE), b"{}")
        assert (await beats.get()).subject == subjects.status(NODE)
        assert await values.read(sensor, NODES, subjects.node_config(NODE)) == NODE.encode()
        assert await values.read(sensor, CONFIGS, HASH) == b"configuration"
        await operator.jetstream().publish(subjects.key_value(NODES, subjects.node_config(NODE)), NODE.encode())
        assert (await changes.get()).data == NODE.encode()
        pods = Bucket(identity, NODES)
        await pods.write(POD, b"pod")
        assert await values.read(sensor, NODES, POD) == b"pod"
        await pods.remove(POD)
        assert await values.read(sensor, NODES, POD) is None
        assert [values.value(await changes.get()) for _ in range(2)] == [b"pod", None]
    for client in (sensor, operator, identity):
        await client.close()


FORBIDDEN_PUBLISH = {
    "events of another node": subjects.events(0, OTHER, "urgent"),
    "a heartbeat of another node": subjects.status(OTHER),
    "another node's pointer": subjects.direct_get(NODES, subjects.node_config(OTHER)),
    "another node's pod": subjects.direct_get(NODES, subjects.node_pod(OTHER, "uid")),
    "every node's pointer": subjects.direct_get(NODES, "*.config"),
    "what changes, written": subjects.key_value(NODES, subjects.node_config(NODE)),
    "a configuration, written": subjects.key_value(CONFIGS, HASH),
    "a finding": subjects.findings("high"),
    "analytics' heartbeat": subjects.component("analytics"),
    "a stream's facts": f"$JS.API.STREAM.INFO.{EVENTS}",
    "a stream's message": f"$JS.API.STREAM.MSG.GET.{EVENTS}",
    "a stream's end": f"$JS.API.STREAM.DELETE.KV_{NODES}",
    "a consumer": f"$JS.API.CONSUMER.CREATE.{EVENTS}",
    "events, read": f"$JS.API.DIRECT.GET.{EVENTS}",
    "a question to the callout": "$SYS.REQ.USER.AUTH",
    "the server's facts": "$SYS.REQ.SERVER.PING",
    "another node's answers": f"_INBOX_sensor.{OTHER}.x",
}
FORBIDDEN_SUBSCRIBE = {
    "everything": ">",
    "events": f"{subjects.PREFIX}.events.>",
    "heartbeats": f"{subjects.PREFIX}.status.*",
    "another node's keys": subjects.key_value(NODES, f"{OTHER}.>"),
    "every node's keys": subjects.key_value(NODES, ">"),
    "configurations": subjects.key_value(CONFIGS, ">"),
    "another node's answers": f"_INBOX_sensor.{OTHER}.>",
    "every sensor's answers": "_INBOX_sensor.>",
    "questions to the callout": "$SYS.REQ.USER.AUTH",
    "questions to the callout, as one of its group": "$SYS.REQ.USER.AUTH callout",
    "the system": "$SYS.>",
}


@pytest.mark.parametrize("subject", FORBIDDEN_PUBLISH.values(), ids=FORBIDDEN_PUBLISH)
async def test_what_a_sensor_must_not_send(shared: Place, subject: str):
    errors: list[Exception] = []
    client = await shared.sensor(errors=errors)
    await client.publish(subject, b"")
    (error,) = await until("the refusal", lambda: list(errors))
    assert "permissions violation for publish" in str(error).lower()
    await client.close()


@pytest.mark.parametrize("subject", FORBIDDEN_SUBSCRIBE.values(), ids=FORBIDDEN_SUBSCRIBE)
async def test_what_a_sensor_must_not_hear(shared: Place, subject: str):
    errors: list[Exception] = []
    client = await shared.sensor(errors=errors)
    name, _, queue = subject.partition(" ")
    await client.subscribe(name, queue)
    (error,) = await until("the refusal", lambda: list(errors))
    assert "permissions violation for subscription" in str(error).lower()
    await client.close()


async def test_answers_that_are_sent_elsewhere_do_no_harm(shared: Place):
    """JetStream answers to whatever subject the asker names, and asks nobody whether the asker may send there."""
    operator = await shared.broker.connect("operator")
    jetstream = operator.jetstream(timeout=10)
    hostile = await shared.sensor()
    own = [
        subjects.direct_get(NODES, subjects.node_config(NODE)),
        subjects.direct_get(NODES, f"{subjects.escape_node(NODE)}.none"),
    ]
    asked = [*own, subjects.events(0, NODE, "urgent"), subjects.schemas("cd")]
    targets = [
        subjects.key_value(NODES, subjects.node_config(OTHER)), subjects.key_value(CONFIGS, HASH), subjects.findings("high"),
        subjects.events(0, OTHER, "urgent"), subjects.status(OTHER), f"$JS.API.STREAM.DELETE.KV_{CONFIGS}", f"$JS.API.STREAM.PURGE.KV_{NODES}",
        f"$JS.API.STREAM.PURGE.{subjects.FINDINGS}", "_INBOX_operator.x",
    ]  # fmt: skip
    before = {stream.name: (await jetstream.stream_info(stream.name)).state.last_seq for stream in STREAMS}
    for target in targets:
        for subject in asked:
            await hostile.publish(subject, b"0", reply=target)
    # Its own request comes after all of them; the operator's after what they may have caused.
    assert await values.read(hostile, NODES, subjects.node_config(NODE)) == NODE.encode()
    await operator.flush()
    after = {stream.name: (await jetstream.stream_info(stream.name)).state.last_seq for stream in STREAMS}
    allowed = {EVENTS, subjects.SCHEMAS}
    assert {name: seq for name, seq in after.items() if name not in allowed} == {
        name: seq for name, seq in before.items() if name not in allowed
    }
    seen = (await jetstream.stream_info(EVENTS, subjects_filter=">")).state.subjects
    assert set(seen or ()) == {subjects.events(0, NODE, "urgent")}
    assert await values.read(operator, NODES, subjects.node_config(OTHER)) == OTHER.encode()
    assert await values.read(operator, CONFIGS, HASH) == b"configuration"
    for client in (operator, hostile):
        await client.close()


async def test_a_connection_takes_few_subscriptions(shared: Place):
    client = await shared.sensor()
    for at in range(brokerconf.MAX_SENSOR_SUBSCRIPTIONS + 2):
        await client.subscribe(client.new_inbox() + f".{at}")
    await until("the end of the connection", lambda: client.is_closed)
    assert "maximum subscriptions exceeded" in str(client.last_error)


def test_the_api_server_does_not_take_a_sensors_token(shared: Place):
    assert shared.api.answers(shared.token()) == 401
    assert shared.api.answers(shared.api.token(NAMESPACE, SENSOR)) == 200, "the question is a good one"


# ── whose tokens are none ───────────────────────────────────────────────────────────────────────────────────────────


def _bad(api: ApiServer, good: str, pods: Pods) -> dict[str, tuple[str, str]]:
    hour_ago = int(time.time()) - 3600
    return {
        "expired": (
            api.resigned(good, exp=hour_ago, iat=hour_ago - 3600, nbf=hour_ago - 3600),
            decision.NOT_AUTHENTICATED,
        ),
        "not yet valid": (api.resigned(good, nbf=hour_ago + 2 * 3600), decision.NOT_AUTHENTICATED),
        "another audience": (api.token(NAMESPACE, SENSOR, "vault", pods[NODE]), decision.NOT_AUTHENTICATED),
        "the API server's": (api.token(NAMESPACE, SENSOR, "", pods[NODE]), decision.NOT_AUTHENTICATED),
        "another account's": (api.token(NAMESPACE, "other", AUDIENCE), decision.WRONG_ACCOUNT),
        "the callout's own": (api.token(NAMESPACE, ACCOUNT, AUDIENCE), decision.WRONG_ACCOUNT),
        "of no pod": (api.token(NAMESPACE, SENSOR, AUDIENCE), decision.NO_NODE),
        "of another cluster": (api.resigned(good, key="foreign"), decision.NOT_AUTHENTICATED),
        "with another node written in": (good[:-8] + "AAAAAAAA", decision.NOT_AUTHENTICATED),
        "no token at all": ("correct horse battery staple", decision.NOT_AUTHENTICATED),
        "not even text": ("\x01\u2028{", decision.NOT_AUTHENTICATED),
        "empty": ("", decision.NO_TOKEN),
    }


async def test_bad_tokens_are_refused_at_once_with_their_reason(shared: Place, api: ApiServer, sensor_pods: Pods):
    for what, (token, reason) in _bad(api, shared.token(), sensor_pods).items():
        before = shared.callout.says()["refused"].get(reason, 0)
        assert await shared.refused(shared.access(token=token)) < 9, f"{what}: not by the ten seconds of nats-server"
        assert shared.callout.says()["refused"].get(reason, 0) == before + 1, (what, shared.callout.says())
        if len(token) > 100:
            assert token not in shared.callout.log(), what
    assert (
        f"WrongAccount: refused: the token is of system:serviceaccount:{NAMESPACE}:other, not of "
        in shared.callout.log()
    )
    assert "eyJ" not in shared.broker.log() + shared.callout.log(), "no part of a token is in a log"


async def test_a_megabyte_is_cut_off_unread(shared: Place):
    before = shared.callout.says()
    await shared.refused(shared.access(token="x" * (1 << 20)))
    assert shared.callout.says() == before


async def test_who_is_no_sensor_is_not_asked_about(shared: Place):
    before = shared.callout.says()
    for role in brokerconf.PASSWORDS:
        with pytest.raises(nats.errors.Error):
            await shared.broker.connect(role, password="guessed")
    assert shared.callout.says() == before, "roles with a password never wait for the callout"
    with pytest.raises(nats.errors.Error):
        await shared.broker.connect(shared.access(), user="admin")
    assert shared.callout.says()["refused"][decision.UNKNOWN_USER] == 1
    assert shared.callout.says()["trouble"] == ""


async def test_a_pod_that_is_gone_does_not_connect(shared: Place, api: ApiServer):
    gone = api.pod(NAMESPACE, "gone", NODE, SENSOR)
    token = api.token(NAMESPACE, SENSOR, AUDIENCE, gone)
    api.delete_pod(NAMESPACE, "gone")
    await shared.refused(shared.access(token=token))


# ── what is away, and comes back ────────────────────────────────────────────────────────────────────────────────────


async def test_without_the_callout_who_is_connected_goes_on_and_others_get_in_later(place: Place):
    connected = await place.sensor(OTHER)
    place.callout.stop()
    async with place.publishing(place.access()) as (spool, publisher):
        put(spool, publisher, 1, 2)
        await until("the sensor says why", lambda: "whether it lets this sensor in" in publisher.last_error)
        assert not publisher.connected
        ack = await connected.jetstream().publish(subjects.events(0, OTHER, "urgent"), b"0")
        assert ack.stream == EVENTS
        place.callout.start()
        await place.callout.ready()
        put(spool, publisher, 3)
        assert await publisher.drain(120)
        assert publisher.last_error == ""
    assert await place.stored() == [0, 1, 2, 3]
    await connected.close()


async def test_without_the_api_server_who_is_connected_goes_on_and_others_get_in_later(place: Place):
    connected = await place.sensor(OTHER)
    place.api.stop()
    try:
        async with place.publishing(place.access(token=_unknown())) as (spool, publisher):
            put(spool, publisher, 1)
            await until("the refusal", lambda: place.callout.says()["refused"].get(decision.API_UNAVAILABLE))
            assert "tokenreviews" in place.callout.says()["trouble"]
            assert place.callout.says()["ok"]
            ack = await connected.jetstream().publish(subjects.events(0, OTHER, "urgent"), b"0")
            assert ack.stream == EVENTS
            # A token that was good within a minute needs nobody.
            again = await place.broker.connect(place.known_access(OTHER))
            await again.close()
            place.api.start()
            place.access()  # the kubelet writes another token
            assert await publisher.drain(120)
    finally:
        place.api.start()
    assert await place.stored() == [0, 1]
    await connected.close()


def _unknown() -> str:
    return ".".join(base64.urlsafe_b64encode(part).decode() for part in (b"{}", json.dumps({}).encode(), b"x"))


@pytest.mark.parametrize("place", [{"life": 2.0}], indirect=True, ids=["two seconds"])
async def test_a_connections_time_ends_and_nothing_is_lost(place: Place):
    async with place.publishing(place.access()) as (spool, publisher):
        connections: set[int] = set()
        count = 0
        while len(connections) < 4:
            count += 1
            put(spool, publisher, count)
            assert await publisher.drain(60)
            if publisher._client is not None and publisher._client._client_id is not None:
                connections.add(publisher._client._client_id)
        assert await publisher.drain(60)
        assert await place.stored() == list(range(1, count + 1))


@pytest.mark.slow
@pytest.mark.parametrize("place", [{"replicas": 3}], indirect=True, ids=["three servers"])
async def test_three_servers_share_one_callout(place: Place, tmp_path: Path):
    path = tmp_path / "token"
    path.write_text(place.token())
    for server in range(3):
        client = await place.broker.connect(place.broker.sensor_access(path, NODE, server))
        ack = await client.jetstream().publish(subjects.events(0, NODE, "urgent"), b"%d" % server)
        assert ack.stream == EVENTS
        assert await values.read(client, NODES, subjects.node_config(NODE)) == NODE.encode()
        await client.close()
