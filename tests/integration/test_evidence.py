"""Packets of a finding from a node to who may read them: the broker with its accounts, analytics' part of it, and a real API server that decides.

The sensor's capture is not in it: its file is made up, its connection and rights are real.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import nats.errors
import pytest
from nats.aio.msg import Msg
from scapy.utils import rdpcap

from daemoneye import streams, subjects
from daemoneye.broker.admin import ensure_streams
from daemoneye.ending import end
from daemoneye.events.addresses import packed
from daemoneye.evidence import ARMED, FAILED, KEPT, Arm, Kept
from daemoneye_analytics.vault.arming import Wanted
from daemoneye_analytics.vault.reviews import Reviews
from daemoneye_sensor.dissector import Dissector
from daemoneye_sensor.evidence import upload as sending
from daemoneye_sensor.evidence.keeper import Keeper
from daemoneye_sensor.evidence.service import Service
from tests.chart.chart import NAMESPACE
from tests.support.apiserver import ApiServer
from tests.support.broker import heard, until
from tests.support.keeping import FILE, POLICY, SHOP, Evidence, finding, install, opened, parts
from tests.support.ports import free_port
from tests.support.sensors import NODE, OTHER, Place, Pods, place_in
from tests.support.shown import SECOND, Program, shown, tcp
from tests.unit.cli.conftest import installed, kubectl
from tests.unit.cli.fakekubectl import finding as kubectl_finding

pytestmark = pytest.mark.integration
__all__ = ["installed", "kubectl"]  # fixtures
OFFSET = 1_767_225_600 * SECOND


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, api: ApiServer, sensor_pods: Pods) -> Iterator[Place]:
    install(api)
    with place_in(tmp_path_factory.mktemp("evidence"), api, sensor_pods) as place:
        yield place


@pytest.fixture
async def evidence(shared: Place, api: ApiServer, tmp_path: Path) -> AsyncIterator[Evidence]:
    operator = await shared.broker.connect("operator")
    await ensure_streams(operator.jetstream(timeout=20), [streams.evidence(max_bytes=16 << 20)])
    await operator.close()
    (tmp_path / "token").write_text(api.token(NAMESPACE, "daemoneye-analytics"))
    async with opened(shared, Reviews(api.url, api.pki / "ca.crt", tmp_path / "token")) as made:
        yield made


@pytest.fixture
def audit(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, logger="daemoneye.audit")
    return lambda: [json.loads(r.getMessage()) for r in caplog.records if r.name == "daemoneye.audit"]


# ── from a finding to a file ────────────────────────────────────────────────────────────────────────────────────────


async def test_who_may_gets_the_packets_and_everybody_who_asks_is_written_down(evidence, api, audit):
    found = await evidence.find()
    async with asyncio.timeout(60):
        arm = Arm.decode((await evidence.armed.get()).data)
    assert (arm.finding, arm.node, arm.seconds, arm.max_bytes, arm.pod_uid) == (found.id, NODE, 30, 1 << 20, "u-1")
    assert [(c.src_ip, c.src_port, c.dst_ip, c.dst_port, c.proto) for c in arm.conversations] == [
        ("10.0.0.1", 4711, "10.0.0.2", 443, "tcp")
    ]
    reader, other = api.token(SHOP, "reader"), api.token(SHOP, "other")
    status, body = await evidence.ask(found.id, reader)
    assert status == 409, "nothing came yet"
    assert NODE in json.loads(body)["error"]
    await evidence.keep(found)
    assert await evidence.ask(found.id, reader) == (200, FILE)
    status, body = await evidence.ask(found.id, other)
    assert status == 403
    assert "may not get findings/evidence of daemoneye.io in namespace shop" in json.loads(body)["error"]
    assert (await evidence.ask(found.id, ""))[0] == 401
    assert (await evidence.ask(found.id, "nobody's"))[0] == 401
    assert (await evidence.ask("0" * 32, reader))[0] == 404
    lines = audit()
    told = [(line["user"], line["status"], line["allowed"], line["bytes"]) for line in lines]
    account = f"system:serviceaccount:{SHOP}"
    assert told == [
        (f"{account}:reader", 409, True, 0), (f"{account}:reader", 200, True, len(FILE)), (f"{account}:other", 403, False, 0),
        ("", 401, False, 0), ("", 401, False, 0), (f"{account}:reader", 404, False, 0),
    ]  # fmt: skip
    assert {line["finding"] for line in lines[:5]} == {found.id}
    assert lines[1]["namespace"] == SHOP
    assert dt.datetime.fromisoformat(lines[1]["time"]).tzinfo
    assert not any(token in json.dumps(lines) for token in (reader, other))


async def test_any_client_of_object_stores_can_read_it(evidence):
    found = await evidence.find("object")
    await evidence.keep(found)
    onlooker = await evidence.place.broker.onlooker()
    store = await onlooker.jetstream().object_store(subjects.EVIDENCE_BUCKET)
    assert (await store.get(found.id)).data == FILE
    await onlooker.close()


async def test_findings_that_repeat_share_packets(evidence, api):
    first = await evidence.find("again")
    second = await evidence.find("again")
    elsewhere = await evidence.find("again", workload="shop/Deployment/other/app")
    assert (evidence.arming.asked, evidence.arming.shared) == (2, 1)
    await evidence.keep(first)
    token = api.token(SHOP, "reader")
    assert await evidence.ask(second.id, token) == (200, FILE)
    assert (await evidence.ask(elsewhere.id, token))[0] == 409


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"ago": 600.0}, id="long ago"),
        pytest.param({"src_ip": "", "pod": "", "pod_uid": ""}, id="nothing that has packets"),
    ],
)
async def test_what_no_packets_can_be_had_of_is_skipped(evidence, changes):
    found = await evidence.find("skipped", **changes)
    assert (evidence.arming.asked, evidence.arming.skipped) == (0, 1)
    assert await evidence.bucket.entry(found.id) is None


async def test_a_policy_that_does_not_ask_has_nothing_kept(evidence):
    found = finding("quiet")
    evidence.arming.offer([replace(found, policies=("others",))], POLICY)
    await evidence.find("then")
    assert await evidence.bucket.entry(found.id) is None


async def test_a_finding_about_no_pod_is_read_by_the_rights_in_the_releases_namespace(evidence, api):
    found = await evidence.find("host", pod="", pod_uid="", namespace="")
    await evidence.keep(found)
    status, body = await evidence.ask(found.id, api.token(SHOP, "reader"))
    assert (status, f"namespace {NAMESPACE}" in json.loads(body)["error"]) == (403, True)


async def test_a_node_that_kept_nothing_says_why(evidence, api):
    found = await evidence.find("none")
    await sending.tell(evidence.sensor, Kept(found.id, NODE, problem="no interface is captured"))
    assert (await evidence.bucket.entry(found.id)).state == FAILED
    status, body = await evidence.ask(found.id, api.token(SHOP, "reader"))
    assert (status, "no interface is captured" in json.loads(body)["error"]) == (410, True)


# ── who lies, and what is damaged ───────────────────────────────────────────────────────────────────────────────────


async def test_a_sensor_writes_under_its_own_name_only(evidence):
    errors: list[Exception] = []
    sensor = await evidence.place.sensor(errors=errors)
    entry = subjects.evidence_entry("0" * 32)
    for subject in (subjects.evidence_chunks(OTHER, "ab" * 8), entry, subjects.evidence_kept(OTHER)):
        with pytest.raises((nats.errors.Error, TimeoutError)):
            await sensor.request(subject, b"{}", timeout=0.5)
    await until("three refusals", lambda: len(errors) >= 3)
    assert all("permissions violation" in str(error).lower() for error in errors)
    # Nor does it see what others are asked for.
    for what in ("arm", "answer"):
        await sensor.subscribe(f"{subjects.PREFIX}.evidence.{what}.*")
    await until("two more", lambda: len(errors) >= 5)
    await sensor.close()


async def test_the_cli_s_password_reads_no_packets(evidence):
    found = await evidence.find("cli")
    await evidence.keep(found)
    errors: list[Exception] = []
    cli = await evidence.place.broker.connect("cli", errors=errors)
    stream = f"OBJ_{subjects.EVIDENCE_BUCKET}"
    for subject in (
        f"$JS.API.DIRECT.GET.{stream}.{subjects.evidence_entry(found.id)}", f"$JS.API.DIRECT.GET.{stream}",
        f"$JS.API.CONSUMER.CREATE.{stream}", f"$JS.API.CONSUMER.CREATE.{stream}.mine.$O.>", f"$JS.API.CONSUMER.MSG.NEXT.{stream}.mine",
    ):  # fmt: skip
        with pytest.raises((nats.errors.Error, TimeoutError)):
            await cli.request(subject, b'{"seq": 1}', timeout=0.5)
    await until("five refusals", lambda: len(errors) >= 5)
    await cli.close()


async def test_nobody_completes_what_another_node_was_asked_for(evidence):
    found = await evidence.find("other", node=OTHER)
    sent = await sending.upload(evidence.sensor, NODE, parts(FILE))
    kept = Kept(found.id, NODE, sent.upload, sent.size, sent.chunks, sent.sha256)
    with pytest.raises(sending.NotTaken, match="nobody asked this node"):
        await sending.tell(evidence.sensor, kept)
    answers: asyncio.Queue[Msg] = asyncio.Queue()
    await evidence.sensor.subscribe(subjects.evidence_answer(NODE), cb=answers.put)
    await evidence.sensor.publish(subjects.evidence_kept(NODE), replace(kept, node=OTHER).encode())
    async with asyncio.timeout(60):
        said = json.loads((await answers.get()).data)
    assert said == {"finding": found.id, "ok": False, "problem": "it speaks for another node"}
    assert (await evidence.bucket.entry(found.id)).state == ARMED
    onlooker = await evidence.place.broker.onlooker()
    chunks = subjects.evidence_chunks(NODE, sent.upload)
    state = (await onlooker.jetstream().stream_info(f"OBJ_{subjects.EVIDENCE_BUCKET}", subjects_filter=chunks)).state
    assert not state.subjects, "nothing is left of what was refused"
    await onlooker.close()


async def test_what_came_once_is_not_replaced_and_telling_again_is_no_error(evidence, api):
    found = await evidence.find("once")
    kept = await evidence.keep(found)
    await sending.tell(evidence.sensor, kept)
    with pytest.raises(sending.NotTaken, match="came before"):
        await evidence.keep(found, b"something else")
    assert await evidence.ask(found.id, api.token(SHOP, "reader")) == (200, FILE)
    assert (await evidence.bucket.entry(found.id)).state == KEPT


@pytest.mark.parametrize("changes", [{"sha256": "0" * 64}, {"size": len(FILE) - 1}])
async def test_a_file_that_is_not_what_was_said_is_not_given_out(evidence, api, changes):
    found = await evidence.find(f"damaged {changes}")
    await evidence.keep(found, **changes)
    status, body = await evidence.ask(found.id, api.token(SHOP, "reader"))
    assert status == 410
    assert FILE[:100] not in body


async def test_old_files_make_room_and_say_so(evidence, api):
    first = await evidence.find("room")
    await evidence.keep(first)
    for number in range(40):
        await sending.upload(evidence.sensor, NODE, parts(bytes([number]) * (1 << 19)))
    assert (await evidence.ask(first.id, api.token(SHOP, "reader")))[0] in (404, 410)


@pytest.mark.parametrize("path", ["x", "0" * 31, "../" + "0" * 32, "0" * 32 + "/x"])
async def test_other_paths_and_methods_are_not_there(evidence, path):
    assert (await evidence.ask(path, "t"))[0] == 404
    assert (await evidence.ask("0" * 32, "t", method="POST"))[0] == 405


async def test_without_the_api_server_nobody_gets_anything(evidence, tmp_path, api):
    (tmp_path / "mine").write_text("x")
    async with opened(evidence.place, Reviews("https://127.0.0.1:1", api.pki / "ca.crt", tmp_path / "mine")) as cut_off:
        found = await cut_off.find("cut off")
        assert (await cut_off.ask(found.id, api.token(SHOP, "reader")))[0] == 503


# ── the sensor's half ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def serving(evidence: Evidence) -> AsyncIterator[tuple[Service, Keeper]]:
    """The node's service behind its own connection; what it captures, a test says."""
    kept, scapy = Keeper(), Dissector()
    kept.enable(on=True)
    kept.follow(Program())
    service = Service(NODE, kept, scapy, clock_offset_ns=lambda: OFFSET, hosts=lambda _: (packed("10.0.0.9"),))
    running = asyncio.create_task(service.run(evidence.sensor))
    await asyncio.sleep(0)  # it subscribes
    await heard(evidence.sensor)
    yield service, kept
    await end([running])
    await scapy.close()


async def test_a_connection_that_ends_while_it_is_told_is_not_asked_again_and_again(evidence, monkeypatch):
    monkeypatch.setattr(sending, "_ACK_S", 0.2)
    monkeypatch.setattr(sending, "_RETRY_S", 0.2)
    publish, attempts = evidence.sensor.publish, []

    async def counted(*arguments):
        attempts.append(arguments)
        await publish(*arguments)

    monkeypatch.setattr(evidence.sensor, "publish", counted)
    # Nobody answers it: the broker does not take it of this node.
    telling = asyncio.create_task(sending.tell(evidence.sensor, Kept("f" * 32, OTHER, problem="none"), patience=2))
    await until("it is told", lambda: attempts)
    await evidence.sensor.close()
    with pytest.raises(sending.NotTaken, match="does not answer"):
        await telling
    assert len(attempts) <= 11


async def test_from_a_finding_to_packets_of_before_and_after_it(evidence, serving, api, tmp_path):
    service, kept = serving
    kept.look(
        [shown([tcp("10.0.0.1", 4711, "10.0.0.2", 443, b"before"), tcp("10.0.0.7", 1, "10.0.0.2", 443)])], {2: "eth0"}
    )
    evidence.arming.offer([found := finding("whole")], {"packets": Wanted(5, 1 << 20)})
    await until("it is armed", lambda: kept._requests)
    kept.look([shown([tcp("10.0.0.9", 9, "10.0.0.2", 80, b"the pod's")], at=5)], {2: "eth0"}, {2: 4})
    await until("it is sent", lambda: service.sent)
    status, data = await evidence.ask(found.id, api.token(SHOP, "reader"))
    (tmp_path / "out.pcapng").write_bytes(data)
    packets = rdpcap(str(tmp_path / "out.pcapng"))
    assert (status, [packet.load for packet in packets]) == (200, [b"before", b"the pod's"])
    assert found.id.encode() in data
    assert b"4 frames were lost" in data
    said = (await evidence.bucket.entry(found.id)).kept
    assert (said["frames"], said["dropped"], said["complete"]) == (2, 4, True)
    assert (said["first"], said["last"]) == (OFFSET, OFFSET + 5 * SECOND)


async def test_why_a_node_keeps_nothing_reaches_who_asks(evidence, serving, api):
    _, kept = serving
    kept.follow(None)
    found = await evidence.find("no capture")
    await until("it is refused", lambda: kept.refused)
    token = api.token(SHOP, "reader")

    async def told() -> str:
        status, body = await evidence.ask(found.id, token)
        return json.loads(body)["error"] if status == 410 else ""

    async with asyncio.timeout(60):
        while not (words := await told()):
            await asyncio.sleep(0.05)
    assert "no packets are captured on this node" in words


# ── the command line ────────────────────────────────────────────────────────────────────────────────────────────────


async def command(*arguments: str) -> tuple[int, str]:
    """Exit status of `kubectl daemoneye evidence`, and what it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "daemoneye_cli", "-k", "evidence", *arguments, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_the_command_writes_the_file_of_who_may_and_says_why_not_to_others(evidence, api, installed, tmp_path):
    found = await evidence.find("command")
    await evidence.keep(found)
    begun = f"Forwarding from 127.0.0.1:{evidence.port} -> 8081\n"
    where = "port-forward --namespace security --address 127.0.0.1 deployment/eye-daemoneye-analytics :8081"
    installed.gives(where, stdout=begun, stays=True)
    shown = kubectl_finding("tls-1")
    shown["status"]["lastFindingID"] = found.id
    installed.lists("get findings.daemoneye.io*", shown)
    installed.gives("config view", {"users": [{"user": {"token": api.token(SHOP, "reader")}}]})
    path = tmp_path / "out.pcapng"
    status, said = await command("shop/tls-1", "-o", str(path))
    assert (status, path.read_bytes()) == (0, FILE), said
    assert f"{len(FILE)} bytes written to {path}" in said
    assert path.stat().st_mode & 0o777 == 0o600
    installed.gives("create token other --namespace shop", stdout=api.token(SHOP, "other"))
    status, said = await command(found.id, "-o", str(tmp_path / "no"), "--service-account", "shop/other")
    assert (status, "system:serviceaccount:shop:other may not get findings/evidence" in said) == (3, True), said
    status, said = await command("0" * 32, "-o", str(tmp_path / "no"))
    assert (status, "evidence.enabled" in said) == (3, True), said
    assert not list(tmp_path.glob("*no*"))
    assert not installed.running("port-forward")


async def test_without_evidence_in_the_release_the_command_says_so(installed, tmp_path):
    port = free_port()  # where nobody listens
    installed.gives("port-forward*analytics", stdout=f"Forwarding from 127.0.0.1:{port} -> 8081\n", stays=True)
    installed.gives("config view", {"users": [{"user": {"token": "t"}}]})
    status, said = await command("0" * 32, "-o", str(tmp_path / "no"))
    assert (status, "evidence is kept where the release has evidence.enabled" in said) == (3, True), said
