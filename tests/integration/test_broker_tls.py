"""The broker as the operator configures it: real servers, TLS, users and what each of them may do. What sensors may: test_callout.py."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import nats.errors
import pytest

from daemoneye import subjects
from daemoneye.broker.admin import ensure_streams
from daemoneye.broker.bucket import Bucket
from daemoneye.errors import DaemonEyeError
from daemoneye.streams import buckets, declared
from daemoneye_operator import brokerstore, pki
from daemoneye_operator.brokerconf import PASSWORDS
from tests.support.broker import BINARY, Broker, running, until

pytestmark = pytest.mark.integration
STREAMS = (*declared(events_max_bytes=64 << 20, findings_max_bytes=8 << 20), *buckets())
NODES = f"KV_{subjects.NODES_BUCKET}"
KEY = subjects.node_pod("node-1.example", "0a1b2c3d-0000-4000-8000-123456789abc")


@pytest.fixture
async def broker(tmp_path: Path):
    with running(tmp_path) as broker:
        await broker.ready()
        yield broker


async def make_streams(broker: Broker, replicas: int = 1) -> None:
    client = await broker.connect("operator")
    await ensure_streams(client.jetstream(timeout=20), STREAMS, replicas=replicas)
    await client.close()


async def test_every_role_connects_over_tls_and_no_address_is_advertised(broker: Broker):
    for role in PASSWORDS:
        client = await broker.connect(role)
        await client.flush()
        assert client._server_info["tls_required"]
        assert not client._server_info.get("connect_urls")
        await client.close()


async def test_the_server_is_called_after_its_pod(broker: Broker):
    client = await broker.connect("cli")
    assert client._server_info["server_name"] == "daemoneye-nats-0"
    assert client._server_info["max_payload"] == 8 << 20
    await client.close()


async def test_nats_server_finds_nothing_odd_in_its_configuration(broker: Broker):
    done = subprocess.run(
        [BINARY, "-t", "-c", broker.directory / "nats-0.conf"], capture_output=True, text=True, env={"POD_NAME": "x-0"}
    )
    assert done.returncode == 0, done.stderr
    assert "[ERR]" not in broker.log()


async def test_a_client_with_another_authority_does_not_talk_to_it(broker: Broker, tmp_path: Path):
    other = pki.authority(None, "daemoneye", dt.datetime.now(dt.UTC))
    context = ssl.create_default_context(cadata=other.certificate.decode())
    with pytest.raises((nats.errors.NoServersError, ssl.SSLError)):
        await broker.connect("cli", tls=context)


async def test_no_password_no_connection(broker: Broker):
    with pytest.raises(nats.errors.Error):
        await broker.connect("cli", password="guessed")


async def test_the_operator_makes_every_stream_and_again(broker: Broker):
    await make_streams(broker)
    await make_streams(broker)
    client = await broker.connect("operator")
    infos = [await client.jetstream().stream_info(stream.name) for stream in STREAMS]
    assert [info.config.max_bytes for info in infos] == [stream.max_bytes for stream in STREAMS]
    await client.close()


FORBIDDEN_PUBLISH = {
    "callout asks": ("callout", "$SYS.REQ.USER.AUTH"),
    "callout answers what nobody asked": ("callout", "$SYS._INBOX.x"),
    "callout writes a finding": ("callout", subjects.findings("high")),
    "callout uses JetStream": ("callout", "$JS.API.INFO"),
    "identity writes a configuration": ("identity", subjects.key_value(subjects.CONFIGS_BUCKET, "abc")),
    "identity points a node elsewhere": (
        "identity",
        subjects.key_value(subjects.NODES_BUCKET, subjects.node_config("node-1")),
    ),
    "identity empties the events": ("identity", "$JS.API.STREAM.PURGE.DAEMONEYE_EVENTS_0"),
    "identity takes analytics' lease": ("identity", subjects.key_value(subjects.LEASES_BUCKET, "analytics.0")),
    "cli takes analytics' lease": ("cli", subjects.key_value(subjects.LEASES_BUCKET, "analytics.0")),
    "analytics writes a configuration": ("analytics", subjects.key_value(subjects.CONFIGS_BUCKET, "abc")),
    "cli deletes a stream": ("cli", f"$JS.API.STREAM.DELETE.{NODES}"),
    "operator deletes a stream": ("operator", f"$JS.API.STREAM.DELETE.{NODES}"),
}


@pytest.mark.parametrize(("role", "subject"), FORBIDDEN_PUBLISH.values(), ids=FORBIDDEN_PUBLISH)
async def test_what_a_role_must_not_do(broker: Broker, role: str, subject: str):
    errors: list[Exception] = []
    client = await broker.connect(role, errors=errors)
    await client.publish(subject, b"{}")
    await client.flush()
    (error,) = await until("the refusal", lambda: list(errors))
    assert "permissions violation for publish" in str(error).lower()
    await client.close()


@pytest.mark.parametrize("role", [role for role in PASSWORDS if role != "operator"])
async def test_nobody_listens_to_anothers_answers(broker: Broker, role: str):
    errors: list[Exception] = []
    client = await broker.connect(role, errors=errors)
    questions = () if role == "callout" else ("$SYS.REQ.USER.AUTH",)
    for subject in ("_INBOX_operator.>", "_INBOX.>", ">", *questions):
        errors.clear()
        await client.subscribe(subject)
        await client.flush()
        (error,) = await until("the refusal", lambda: list(errors))
        assert "permissions violation for subscription" in str(error).lower()
    await client.close()


async def test_a_pods_document_comes_and_goes_and_leaves_nothing_behind(broker: Broker):
    await make_streams(broker)
    identity, operator = [await broker.connect(role) for role in ("identity", "operator")]
    bucket = Bucket(identity, subjects.NODES_BUCKET)

    await bucket.write(KEY, b"one")
    await bucket.write(KEY, b"two")
    assert await bucket.read(KEY) == b"two"
    assert await bucket.keys("*.pod.*") == {KEY}
    await bucket.remove(KEY)
    assert await bucket.read(KEY) is None
    assert await bucket.keys("*.pod.*") == set()
    assert (await operator.jetstream().stream_info(NODES)).state.messages == 0
    for client in (identity, operator):
        await client.close()


async def test_before_the_operator_has_made_the_bucket_each_question_fails_and_nothing_is_lost(broker: Broker):
    identity = await broker.connect("identity")
    bucket = Bucket(identity, subjects.NODES_BUCKET)
    for question in (
        bucket.created(),
        bucket.keys("*.pod.*"),
        bucket.read(KEY),
        bucket.write(KEY, b"x"),
        bucket.remove(KEY),
    ):
        with pytest.raises((nats.errors.Error, TimeoutError)):
            await question
    await make_streams(broker)
    assert await bucket.keys("*.pod.*") == set()
    assert await bucket.created()
    await identity.close()


async def stored(bucket: Bucket, key: str, value: bytes) -> bool:
    try:
        await bucket.write(key, value)
    except nats.errors.Error:
        return False
    return True


async def test_a_full_bucket_refuses_and_lets_go(broker: Broker):
    operator, identity = [await broker.connect(role) for role in ("operator", "identity")]
    await ensure_streams(operator.jetstream(timeout=20), buckets(nodes_max_bytes=64 << 10))
    bucket = Bucket(identity, subjects.NODES_BUCKET)
    keys = [subjects.node_pod("node-1", f"uid-{i}") for i in range(10)]
    refused = [key for key in keys if not await stored(bucket, key, b"x" * (10 << 10))]
    assert refused
    kept = await bucket.keys("*.pod.*")
    assert kept == set(keys) - set(refused)
    await bucket.remove(keys[0])
    await bucket.write(keys[-1], b"x")
    assert await bucket.keys("*.pod.*") == (kept - {keys[0]}) | {keys[-1]}
    for client in (operator, identity):
        await client.close()


async def test_more_keys_than_an_answer_holds_by_default(broker: Broker):
    await make_streams(broker)
    identity = await broker.connect("identity")
    bucket = Bucket(identity, subjects.NODES_BUCKET)
    keys = {subjects.node_pod(f"node-{i % 7}", f"uid-{i}") for i in range(3000)}

    async def write(some: list[str]) -> None:
        for key in some:
            await bucket.write(key, b"x")

    ordered = sorted(keys)
    await asyncio.gather(*(write(ordered[i::64]) for i in range(64)))
    assert await bucket.keys("*.pod.*") == keys
    await identity.close()


async def test_streams_of_before_there_were_accounts_are_found_again(
    broker: Broker, capsys: pytest.CaptureFixture[str]
):
    await make_streams(broker)
    identity = await broker.connect("identity")
    await Bucket(identity, subjects.NODES_BUCKET).write(KEY, b"kept")
    await identity.close()
    broker.stop()
    store, configuration = broker.directory / "data-0", broker.directory / "nats-0.conf"
    ours, former = store / "jetstream" / "DAEMONEYE", store / "jetstream" / "$G"
    ours.rename(former)
    before = broker.directory / "before.conf"
    before.write_text("jetstream: {}\n")
    arguments = ["--store", str(store), "--config"]
    assert brokerstore.main([*arguments, str(before)]) == 0
    assert former.exists(), "a server that knows no accounts looks there"
    for _ in range(2):  # each start of the pod
        assert brokerstore.main([*arguments, str(configuration)]) == 0
    assert capsys.readouterr().err.count("moved to the account DAEMONEYE") == 1
    assert brokerstore.main([*arguments, str(broker.directory / "none")]) == 1

    broker.start()
    await broker.ready()
    identity = await broker.connect("identity")
    assert await Bucket(identity, subjects.NODES_BUCKET).read(KEY) == b"kept"
    await identity.close()


async def test_streams_of_a_roll_back_do_not_make_the_server_unwell(broker: Broker, capsys: pytest.CaptureFixture[str]):
    """The kubelet ends a server alone whose whole /healthz fails."""
    await make_streams(broker)
    identity = await broker.connect("identity")
    await Bucket(identity, subjects.NODES_BUCKET).write(KEY, b"kept")
    await identity.close()
    store, configuration = broker.directory / "data-0", broker.directory / "nats-0.conf"
    for again in range(2):
        broker.stop()
        shutil.copytree(store / "jetstream" / "DAEMONEYE", store / "jetstream" / "$G")
        if not again:
            broker.start()
            await broker.ready()
            assert whole_health(broker) == 503, "there would be nothing to put aside"
            broker.stop()
        assert brokerstore.main(["--store", str(store), "--config", str(configuration)]) == 0
        assert f"put aside: {store / 'before-accounts'}, which nothing reads" in capsys.readouterr().err
        broker.start()
        await broker.ready()
        assert whole_health(broker) == 200
    assert (store / "before-accounts" / "streams" / f"KV_{subjects.NODES_BUCKET}").is_dir()
    identity = await broker.connect("identity")
    assert await Bucket(identity, subjects.NODES_BUCKET).read(KEY) == b"kept"
    await identity.close()


def whole_health(broker: Broker) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{broker.monitors[0]}/healthz", timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


async def route_says(broker: Broker, context: ssl.SSLContext) -> bytes:
    """The first line on the port of routes; empty when it is hung up."""
    writer = None
    try:
        reader, writer = await asyncio.open_connection("localhost", broker.routes[0], ssl=context)
        return await reader.readline()
    except (OSError, ssl.SSLError):
        return b""
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()


@pytest.mark.slow
async def test_three_servers_form_a_cluster_by_tls_that_does_without_one_of_them(tmp_path: Path):
    with running(tmp_path, replicas=3) as broker:
        for server in range(3):
            await broker.ready(server)
        mount = broker.directory / "daemoneye-nats"
        context = ssl.create_default_context(cafile=mount / "ca.crt")
        assert await route_says(broker, context) == b"", "whoever has no certificate is no server of this cluster"
        context.load_cert_chain(mount / "tls.crt", mount / "tls.key")
        assert b'"tls_verify":true' in await route_says(broker, context)

        operator = await broker.connect("operator")
        jetstream = operator.jetstream(timeout=3)
        async with asyncio.timeout(60):
            while True:
                try:
                    await ensure_streams(jetstream, buckets(), replicas=3)
                    break
                except DaemonEyeError:  # the servers elect one of them first
                    await asyncio.sleep(0.1)
        assert not operator._server_info.get("connect_urls")
        info = await jetstream.stream_info(NODES)
        assert info.cluster is not None
        names = {info.cluster.leader, *(peer.name for peer in info.cluster.replicas or ())}
        assert names == {f"daemoneye-nats-{i}" for i in range(3)}
        await operator.close()

        broker.stop(2)
        identity = await broker.connect("identity", 1)
        bucket = Bucket(identity, subjects.NODES_BUCKET)
        async with asyncio.timeout(60):
            while True:
                try:
                    await bucket.write(KEY, b"x")
                    break
                except (nats.errors.Error, TimeoutError):
                    await asyncio.sleep(0.1)
        assert await bucket.keys("*.pod.*") == {KEY}
        await identity.close()
